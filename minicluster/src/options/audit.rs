//! The flags of audit, with kube-apiserver's names and defaults.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use minicluster_apiserver::audit::{Batching, LogSettings, Mode, Settings, Truncation, WebhookSettings};

use super::duration::GoDuration;

/// What is told of requests, and to whom.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Audit")]
pub struct AuditOptions {
    /// Which requests are told of, and how much of them (audit.k8s.io/v1 Policy)
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// The log file; - for the standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Days that an old log file is kept; 0: for ever
    #[arg(long, default_value_t = 366)]
    pub audit_log_maxage: u32,
    /// Old log files that are kept; 0: all
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxbackup: usize,
    /// Megabytes after which a new log file is begun
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// json, or legacy for one line of text
    #[arg(long, default_value = "json", value_parser = ["json", "legacy"])]
    pub audit_log_format: String,
    /// Compress old log files
    #[arg(long)]
    pub audit_log_compress: bool,
    /// When the log is written: batch, blocking or blocking-strict
    #[arg(long, default_value = "blocking")]
    pub audit_log_mode: Mode,
    /// Events that may wait for the log in batch mode
    #[arg(long, default_value_t = 10_000)]
    pub audit_log_batch_buffer_size: usize,
    /// Events written to the log at once in batch mode
    #[arg(long, default_value_t = 1)]
    pub audit_log_batch_max_size: usize,
    /// How long an event waits for others in batch mode
    #[arg(long, default_value = "0")]
    pub audit_log_batch_max_wait: GoDuration,
    /// Cut events short that are too large for the log
    #[arg(long)]
    pub audit_log_truncate_enabled: bool,
    /// Bytes of one batch of the log
    #[arg(long, default_value_t = 10 << 20)]
    pub audit_log_truncate_max_batch_size: usize,
    /// Bytes of one event of the log
    #[arg(long, default_value_t = 100 << 10)]
    pub audit_log_truncate_max_event_size: usize,
    /// A kubeconfig that says where events are sent
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// How long to wait before a batch is sent again that could not be
    #[arg(long, default_value = "10s")]
    pub audit_webhook_initial_backoff: GoDuration,
    /// When events are sent: batch, blocking or blocking-strict
    #[arg(long, default_value = "batch")]
    pub audit_webhook_mode: Mode,
    /// Events that may wait to be sent
    #[arg(long, default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: usize,
    /// Events sent at once
    #[arg(long, default_value_t = 400)]
    pub audit_webhook_batch_max_size: usize,
    /// How long an event waits for others
    #[arg(long, default_value = "30s")]
    pub audit_webhook_batch_max_wait: GoDuration,
    /// Send no more than so many batches
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Batches a second
    #[arg(long, default_value_t = 10.0)]
    pub audit_webhook_batch_throttle_qps: f64,
    /// Batches at once
    #[arg(long, default_value_t = 15)]
    pub audit_webhook_batch_throttle_burst: u32,
    /// Cut events short that are too large to be sent
    #[arg(long)]
    pub audit_webhook_truncate_enabled: bool,
    /// Bytes sent at once
    #[arg(long, default_value_t = 10 << 20)]
    pub audit_webhook_truncate_max_batch_size: usize,
    /// Bytes of one event that is sent
    #[arg(long, default_value_t = 100 << 10)]
    pub audit_webhook_truncate_max_event_size: usize,
}

impl AuditOptions {
    /// What the server is told.
    pub fn settings(&self) -> Settings {
        Settings { policy: self.audit_policy_file.clone(), log: self.log(), webhook: self.webhook() }
    }

    fn log(&self) -> Option<LogSettings> {
        Some(LogSettings {
            path: self.audit_log_path.clone()?,
            max_age_days: self.audit_log_maxage,
            max_backups: self.audit_log_maxbackup,
            max_megabytes: self.audit_log_maxsize,
            legacy: self.audit_log_format == "legacy",
            compress: self.audit_log_compress,
            mode: self.audit_log_mode,
            batching: Batching {
                buffer: self.audit_log_batch_buffer_size,
                max: self.audit_log_batch_max_size,
                wait: self.audit_log_batch_max_wait.0,
                throttle: None,
            },
            truncation: self.audit_log_truncate_enabled.then_some(Truncation {
                event_bytes: self.audit_log_truncate_max_event_size,
                batch_bytes: self.audit_log_truncate_max_batch_size,
            }),
        })
    }

    fn webhook(&self) -> Option<WebhookSettings> {
        let throttle = (self.audit_webhook_batch_throttle_qps, self.audit_webhook_batch_throttle_burst);
        Some(WebhookSettings {
            config: self.audit_webhook_config_file.clone()?,
            backoff: self.audit_webhook_initial_backoff.0,
            mode: self.audit_webhook_mode,
            batching: Batching {
                buffer: self.audit_webhook_batch_buffer_size,
                max: self.audit_webhook_batch_max_size,
                wait: self.audit_webhook_batch_max_wait.0,
                throttle: self.audit_webhook_batch_throttle_enable.then_some(throttle),
            },
            truncation: self.audit_webhook_truncate_enabled.then_some(Truncation {
                event_bytes: self.audit_webhook_truncate_max_event_size,
                batch_bytes: self.audit_webhook_truncate_max_batch_size,
            }),
        })
    }
}
