//! Levels, their versions, and how a namespace's labels choose them. Source: `k8s.io/pod-security-admission/api`.

use std::fmt;

use serde_json::Value;
use windlass_crd::field::{self, Error};

use super::PREFIX;

/// How much is allowed, the most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    #[default]
    Privileged,
    /// Nothing that is known to lead out of a container.
    Baseline,
    /// What is good practice.
    Restricted,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }

    /// The level of this name.
    ///
    /// # Errors
    /// Upstream's words for a name that no level has.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        let all = [Self::Privileged, Self::Baseline, Self::Restricted];
        let found = all.into_iter().find(|level| level.name() == name);
        found.ok_or("must be one of privileged, baseline, restricted")
    }
}

/// A level as a version of Kubernetes understood it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// The level.
    pub level: Level,
    /// The minor version; `None` for the latest.
    pub version: Option<u32>,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            None => write!(f, "{}:latest", self.level.name()),
            Some(minor) => write!(f, "{}:v1.{minor}", self.level.name()),
        }
    }
}

impl Mode {
    fn is_equivalent(self, other: Self) -> bool {
        let both_privileged = self.level == Level::Privileged && other.level == Level::Privileged;
        both_privileged || self == other
    }
}

/// Reads `latest` or `v1.x`.
///
/// # Errors
/// Upstream's words.
pub fn parse_version(text: &str) -> Result<Option<u32>, &'static str> {
    const FAULT: &str = "must be \"latest\" or \"v1.x\"";
    if text == "latest" {
        return Ok(None);
    }
    let minor = text.strip_prefix("v1.").ok_or(FAULT)?;
    let plain = minor == "0" || !minor.starts_with('0');
    if !plain || minor.is_empty() || !minor.bytes().all(|b| b.is_ascii_digit()) {
        return Err(FAULT);
    }
    minor.parse().map(Some).map_err(|_| FAULT)
}

/// What holds in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What pods are refused for.
    pub enforce: Mode,
    /// What is noted in the audit log.
    pub audit: Mode,
    /// What clients are warned of.
    pub warn: Mode,
}

impl Policy {
    /// Whether anything goes.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }

    pub(super) fn is_equivalent(&self, other: &Self) -> bool {
        self.enforce.is_equivalent(other.enforce)
            && self.audit.is_equivalent(other.audit)
            && self.warn.is_equivalent(other.warn)
    }

    /// What a namespace's labels ask for, and what is wrong with them. A level that is none is enforced as the strictest
    /// one, and neither warned nor noted.
    #[must_use]
    pub fn of_labels(labels: Option<&Value>, defaults: &Self) -> (Self, Vec<Error>) {
        let mut policy = defaults.clone();
        let mut errors = Vec::new();
        let Some(labels) = labels.and_then(Value::as_object).filter(|labels| !labels.is_empty()) else {
            return (policy, errors);
        };
        let label = |name: &str| labels.get(&format!("{PREFIX}{name}")).and_then(Value::as_str);
        let mut fault = |name: &str, value: &str, why: &str| {
            let path = field::root("metadata").child("labels").key(format!("{PREFIX}{name}"));
            errors.push(Error::invalid(path, value, why));
        };
        let mut enforce_is_set = false;
        let modes = [
            ("enforce", &mut policy.enforce, Level::Restricted),
            ("audit", &mut policy.audit, Level::Privileged),
            ("warn", &mut policy.warn, Level::Privileged),
        ];
        for (name, mode, failing) in modes {
            if let Some(value) = label(name) {
                mode.level = Level::parse(value).unwrap_or_else(|why| {
                    fault(name, value, why);
                    failing
                });
                enforce_is_set |= name == "enforce" && Level::parse(value).is_ok();
            }
            let name = format!("{name}-version");
            if let Some(value) = label(&name) {
                mode.version = parse_version(value).unwrap_or_else(|why| {
                    fault(&name, value, why);
                    None
                });
            }
        }
        // Who enforces wants to be warned of it, too.
        if enforce_is_set && label("warn").is_none() && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}
