//! A scheduler beside the cluster's own: it decides as that does, and keeps racks within their power.

mod rack_power;

pub use rack_power::{RackPower, RackPowerArgs, WATTS};

use windlass::Operator;
use windlass_scheduler::{ConfigError, Configuration, Scheduler};

/// What the scheduler runs with: profiles, plugins, weights and arguments.
pub const CONFIG: &str = include_str!("../config/scheduler.yaml");

/// The operator: what runs. What it may do in a cluster follows from this.
pub fn operator() -> Operator {
    Operator::new("template-name").with(|manager| {
        manager.add(scheduler(CONFIG).expect("a test reads it"));
    })
}

/// A scheduler with this configuration.
///
/// # Errors
/// When it makes no sense, in a sentence.
pub fn scheduler(config: &str) -> Result<Scheduler, ConfigError> {
    let config = Configuration::from_yaml(config)?;
    Scheduler::builder()
        .register(RackPower::NAME, RackPower::new)
        .configuration(&config)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_makes_sense() {
        let scheduler = scheduler(CONFIG).unwrap();
        assert!(scheduler.profile("template-name").is_some());
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let table = [
            (
                "wattsPerRack: 8000",
                "wattsPerRack: 0",
                "wattsPerRack is 0, and no pod would run",
            ),
            ("wattsPerRack: 8000", "watts: 8000", "unknown field `watts`"),
            (
                "- name: RackPower\n        weight",
                "- name: RackPowr\n        weight",
                "the plugin \"RackPowr\", which there is not",
            ),
        ];
        for (old, new, why) in table {
            assert!(CONFIG.contains(old), "{old}");
            let error = scheduler(&CONFIG.replace(old, new)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
