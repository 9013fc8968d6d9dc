//! The flags of the API server, under the names that kube-apiserver gives them.

use std::{path::PathBuf, str::FromStr};

use clap::Args;

use super::{
    admission::AdmissionOptions, audit::AuditOptions, duration::GoDuration, identity::IdentityOptions,
};

/// What only the API server is told.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API server")]
pub struct ApiserverOptions {
    /// Node ports of Services come from here, both ends included
    #[arg(long, default_value = "30000-32767", value_name = "FIRST-LAST")]
    pub service_node_port_range: PortRange,
    /// What is sealed on disk, and with which keys (EncryptionConfiguration)
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Load that file anew when it changes
    #[arg(long, requires = "encryption_provider_config")]
    pub encryption_provider_config_automatic_reload: bool,
    /// Serve requests in the order of their priority levels, fairly
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub enable_priority_and_fairness: bool,
    /// Requests at once that change nothing; with priority levels, both bounds together are shared out
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: u32,
    /// Requests at once that change something
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: u32,
    /// How long a request may take that is neither a watch nor a connection
    #[arg(long, default_value = "1m")]
    pub request_timeout: GoDuration,
    /// Seconds after which a watch without a timeout of its own ends at the earliest
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u64,
    /// How long requests are still taken after /readyz has begun to fail
    #[arg(long, default_value = "0")]
    pub shutdown_delay_duration: GoDuration,
    /// The part of HTTP/2 requests after which a client is asked to connect anew, at most 0.02
    #[arg(long, default_value_t = 0.0)]
    pub goaway_chance: f64,
    /// What is told of requests
    #[command(flatten)]
    pub audit: AuditOptions,

    /// What admission is told
    #[command(flatten)]
    pub admission: AdmissionOptions,
    /// Who is who, and who may do what
    #[command(flatten)]
    pub identity: IdentityOptions,
}

impl ApiserverOptions {
    /// What is wrong with the flags, in one sentence.
    ///
    /// # Errors
    /// That sentence.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=0.02).contains(&self.goaway_chance) {
            return Err("--goaway-chance can not be less than 0 or greater than 0.02".to_owned());
        }
        if self.request_timeout.0.is_zero() {
            return Err("--request-timeout can not be negative value".to_owned());
        }
        Ok(())
    }
}

/// Ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange(pub u16, pub u16);

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) =
            text.split_once('-').ok_or("two ports with a dash between them, as 30000-32767")?;
        let port = |text: &str| text.trim().parse::<u16>().map_err(|e| format!("{text:?}: {e}"));
        match (port(first)?, port(last)?) {
            (0, _) => Err("port 0 is none".to_owned()),
            (first, last) if first > last => Err(format!("{first} comes after {last}")),
            (first, last) => Ok(Self(first, last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_ends_in_order() {
        assert_eq!("1000-2000".parse::<PortRange>(), Ok(PortRange(1000, 2000)));
        for (text, why) in
            [("1000", "two ports"), ("0-5", "port 0"), ("2000-1000", "comes after"), ("1-70000", "70000")]
        {
            let error = text.parse::<PortRange>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
