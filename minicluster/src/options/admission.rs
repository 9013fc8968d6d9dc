//! The flags of admission, under the names that kube-apiserver gives them.

use std::path::PathBuf;

use clap::Args;
use minicluster_apiserver::admission::Settings;

/// Which plugins run, and what they are told.
#[derive(Args, Clone, Debug)]
pub struct AdmissionOptions {
    /// Admission plugins to turn on beside those that are on by default, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins to turn off although they are on by default, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub disable_admission_plugins: Vec<String>,
    /// A file with an AdmissionConfiguration
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// Seconds that a pod stays on a node that is not ready, unless it says otherwise
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub default_not_ready_toleration_seconds: i64,
    /// Seconds that a pod stays on a node that cannot be reached, unless it says otherwise
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub default_unreachable_toleration_seconds: i64,
}

impl AdmissionOptions {
    /// What the API server is told.
    ///
    /// # Errors
    /// Plugins that there are none of, and a file that cannot be read or makes no sense.
    pub fn settings(&self) -> Result<Settings, String> {
        let mut settings = Settings::default();
        settings.not_ready_seconds = self.default_not_ready_toleration_seconds;
        settings.unreachable_seconds = self.default_unreachable_toleration_seconds;
        settings.choose(&self.enable_admission_plugins, &self.disable_admission_plugins)?;
        if let Some(file) = &self.admission_control_config_file {
            settings.read(file)?;
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(file: &str) -> AdmissionOptions {
        AdmissionOptions {
            enable_admission_plugins: Vec::new(),
            disable_admission_plugins: Vec::new(),
            admission_control_config_file: Some(file.into()),
            default_not_ready_toleration_seconds: 300,
            default_unreachable_toleration_seconds: 300,
        }
    }

    #[test]
    fn a_file_configures_plugins() {
        let file = std::env::temp_dir().join(format!("admission-{}.yaml", std::process::id()));
        let path = file.to_str().unwrap();
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: PodSecurity\n  \
                    configuration:\n    exemptions:\n      namespaces: [kube-system]\n";
        std::fs::write(&file, text).unwrap();
        assert_eq!(options(path).settings().unwrap().security.exempt_namespaces, ["kube-system"]);
        std::fs::write(&file, format!("{text}- name: Odd\n  configuration: {{}}\n")).unwrap();
        let error = options(path).settings().unwrap_err();
        assert!(error.ends_with("Odd: no such plugin"), "{error}");
        std::fs::remove_file(&file).unwrap();
        let error = options(path).settings().unwrap_err();
        assert!(error.starts_with("unable to read admission control configuration"), "{error}");
    }
}
