//! Which plugins run, and what they are told: one table with upstream's names, order and defaults, and
//! `AdmissionConfiguration` files. Source: `pkg/kubeapiserver/options/plugins.go`, `k8s.io/apiserver/pkg/admission/config.go`.

use std::path::Path;

use serde_json::Value;
use windlass_crd::{
    field, name,
    quota::{Limited, Requirement},
};

use super::{event_rate, security};
use crate::{object, yaml};

macro_rules! plugins {
    ($($name:ident $on:literal,)*) => {
        /// A plugin, in the order in which they run.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Plugin { $(
            #[doc = concat!("Upstream's `", stringify!($name), "`.")]
            $name,
        )* }

        /// All plugins: name, and whether it runs unless it is turned off.
        pub const ALL: &[(Plugin, &str, bool)] = &[$((Plugin::$name, stringify!($name), $on),)*];
    };
}

plugins! {
    NamespaceLifecycle true,
    NamespaceExists false,
    LimitRanger true,
    ServiceAccount true,
    NodeRestriction true,
    TaintNodesByCondition true,
    AlwaysPullImages false,
    PodSecurity true,
    Priority true,
    DefaultTolerationSeconds true,
    PodTolerationRestriction false,
    EventRateLimit false,
    ExtendedResourceToleration false,
    DefaultStorageClass true,
    StorageObjectInUseProtection true,
    OwnerReferencesPermissionEnforcement false,
    PersistentVolumeClaimResize true,
    RuntimeClass true,
    CertificateApproval true,
    CertificateSigning true,
    CertificateSubjectRestriction true,
    DefaultIngressClass true,
    MutatingAdmissionPolicy true,
    MutatingAdmissionWebhook true,
    ValidatingAdmissionPolicy true,
    ValidatingAdmissionWebhook true,
    ResourceQuota true,
}

/// What admission is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A bit for each plugin that runs.
    running: u64,
    /// `PodSecurity`.
    pub security: security::Settings,
    /// `ResourceQuota`: what may be consumed only where a quota covers it.
    pub limited: Vec<Limited>,
    /// `EventRateLimit`.
    pub event_rates: Vec<event_rate::Limit>,
    /// `PodTolerationRestriction`: tolerations that pods get, and those that they may have, where a namespace says
    /// nothing.
    pub tolerations: (Vec<Value>, Vec<Value>),
    /// `DefaultTolerationSeconds`: how long a pod stays on a node that is not ready.
    pub not_ready_seconds: i64,
    /// The same for one that cannot be reached.
    pub unreachable_seconds: i64,
}

impl Default for Settings {
    fn default() -> Self {
        let on = ALL.iter().filter(|(.., on)| *on);
        Self {
            running: on.fold(0, |bits, (plugin, ..)| bits | bit(*plugin)),
            security: security::Settings::default(),
            limited: Vec::new(),
            event_rates: Vec::new(),
            tolerations: (Vec::new(), Vec::new()),
            not_ready_seconds: 300,
            unreachable_seconds: 300,
        }
    }
}

fn bit(plugin: Plugin) -> u64 {
    1 << plugin as u64
}

impl Settings {
    /// Whether a plugin runs.
    #[must_use]
    pub fn runs(&self, plugin: Plugin) -> bool {
        self.running & bit(plugin) != 0
    }

    /// Turns plugins on and off, by name.
    ///
    /// # Errors
    /// For a name that no plugin has, or that stands in both lists.
    pub fn choose(&mut self, enable: &[String], disable: &[String]) -> Result<(), String> {
        let find = |flag: &str, name: &String| {
            let found = ALL.iter().find(|(_, known, _)| known == name).map(|(plugin, ..)| *plugin);
            found.ok_or_else(|| format!("{flag} plugin \"{name}\" is unknown"))
        };
        let both: Vec<&str> =
            enable.iter().filter(|name| disable.contains(name)).map(String::as_str).collect();
        if !both.is_empty() {
            let both = both.join(" ");
            return Err(format!(
                "[{both}] in enable-admission-plugins and disable-admission-plugins overlapped"
            ));
        }
        for name in enable {
            self.running |= bit(find("enable-admission-plugins", name)?);
        }
        for name in disable {
            self.running &= !bit(find("disable-admission-plugins", name)?);
        }
        Ok(())
    }

    /// Reads an `AdmissionConfiguration` file.
    ///
    /// # Errors
    /// What cannot be read, or is wrong in it, with the path.
    pub fn read(&mut self, path: &Path) -> Result<(), String> {
        let read = |path: &Path| -> Result<Value, String> {
            let text = std::fs::read_to_string(path).map_err(|e| {
                format!("unable to read admission control configuration from \"{}\" [{e}]", path.display())
            })?;
            yaml::parse(&text).map(|(value, _)| value).map_err(|e| format!("{}: {e}", path.display()))
        };
        let file = read(path)?;
        let version = object::text(&file, &["apiVersion"]);
        let kind = object::text(&file, &["kind"]);
        let known = matches!(version, "apiserver.config.k8s.io/v1" | "apiserver.k8s.io/v1alpha1");
        if !known || kind != "AdmissionConfiguration" {
            return Err(format!(
                "{}: no kind \"{kind}\" is registered for version \"{version}\"",
                path.display()
            ));
        }
        for plugin in object::list(&file, &["plugins"]) {
            let name = object::text(plugin, &["name"]);
            let configuration = match object::at(plugin, &["configuration"]) {
                Some(configuration) => configuration.clone(),
                None => match object::text(plugin, &["path"]) {
                    "" => continue,
                    relative => read(&path.parent().unwrap_or(path).join(relative))?,
                },
            };
            self.configure(name, &configuration)
                .map_err(|why| format!("{}: {name}: {why}", path.display()))?;
        }
        Ok(())
    }

    /// Takes over the configuration of one plugin.
    fn configure(&mut self, name: &str, configuration: &Value) -> Result<(), String> {
        match name {
            "PodSecurity" => self.security = pod_security(configuration)?,
            "ResourceQuota" => {
                let limited = object::list(configuration, &["limitedResources"]).iter().map(limited);
                self.limited = limited.collect();
            }
            "EventRateLimit" => {
                let limits = object::list(configuration, &["limits"]).iter().map(event_rate::Limit::read);
                self.event_rates = limits.collect::<Result<_, _>>()?;
            }
            "PodTolerationRestriction" => {
                let list = |field: &str| object::list(configuration, &[field]).to_vec();
                self.tolerations = (list("default"), list("whitelist"));
            }
            "MutatingAdmissionWebhook" | "ValidatingAdmissionWebhook"
                if object::at(configuration, &["kubeConfigFile"]).is_some() =>
            {
                return Err("kubeConfigFile is not supported".to_owned());
            }
            known if ALL.iter().any(|(_, name, _)| *name == known) => {}
            _ => return Err("no such plugin".to_owned()),
        }
        Ok(())
    }
}

fn texts(value: &Value, path: &[&str]) -> Vec<String> {
    object::list(value, path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn limited(value: &Value) -> Limited {
    Limited {
        group: object::text(value, &["apiGroup"]).to_owned(),
        resource: object::text(value, &["resource"]).to_owned(),
        contains: texts(value, &["matchContains"]),
        scopes: object::list(value, &["matchScopes"]).iter().map(Requirement::read).collect(),
    }
}

fn pod_security(value: &Value) -> Result<security::Settings, String> {
    let mut errors = Vec::new();
    let mode = |mode: &'static str, errors: &mut Vec<field::Error>| {
        let path = field::root("defaults");
        let version = format!("{mode}-version");
        let text = |field: &str, default: &'static str| match object::text(value, &["defaults", field]) {
            "" => default.to_owned(),
            text => text.to_owned(),
        };
        let (level, at) = (text(mode, "privileged"), text(&version, "latest"));
        security::Mode {
            level: security::Level::parse(&level).unwrap_or_else(|why| {
                errors.push(field::Error::invalid(path.child(mode), level.as_str(), why));
                security::Level::default()
            }),
            version: security::parse_version(&at).unwrap_or_else(|why| {
                errors.push(field::Error::invalid(path.child(version.clone()), at.as_str(), why));
                None
            }),
        }
    };
    let defaults = security::Policy {
        enforce: mode("enforce", &mut errors),
        warn: mode("warn", &mut errors),
        audit: mode("audit", &mut errors),
    };
    let mut exempt = |list: &'static str, check: fn(&str) -> Result<(), String>| {
        let all = texts(value, &["exemptions", list]);
        for (i, one) in all.iter().enumerate() {
            let path = field::root("exemptions").child(list).index(i);
            if let Err(why) = check(one) {
                errors.push(field::Error::invalid(path, one.as_str(), why));
            } else if all[..i].contains(one) {
                errors.push(field::Error::duplicate(path, one.as_str()));
            }
        }
        all
    };
    let not_empty = |name: &str| match name {
        "" => Err("username must not be empty".to_owned()),
        _ => Ok(()),
    };
    let settings = security::Settings {
        defaults,
        exempt_namespaces: exempt("namespaces", name::dns1123_label),
        exempt_runtime_classes: exempt("runtimeClasses", name::dns1123_subdomain),
        exempt_users: exempt("usernames", not_empty),
    };
    if errors.is_empty() { Ok(settings) } else { Err(field::aggregate(&errors)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chosen(enable: &[&str], disable: &[&str]) -> Result<Settings, String> {
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let mut settings = Settings::default();
        settings.choose(&own(enable), &own(disable)).map(|()| settings)
    }

    #[test]
    fn plugins_are_turned_on_and_off_by_name() {
        let settings = chosen(&["AlwaysPullImages"], &["PodSecurity"]).unwrap();
        assert!(settings.runs(Plugin::AlwaysPullImages) && !settings.runs(Plugin::PodSecurity));
        assert!(settings.runs(Plugin::ResourceQuota) && !settings.runs(Plugin::EventRateLimit));
        let cases = [
            (vec!["Odd"], vec![], "enable-admission-plugins plugin \"Odd\" is unknown"),
            (vec![], vec!["Odd"], "disable-admission-plugins plugin \"Odd\" is unknown"),
            (
                vec!["Priority"],
                vec!["Priority"],
                "[Priority] in enable-admission-plugins and disable-admission-plugins overlapped",
            ),
        ];
        for (enable, disable, why) in cases {
            assert_eq!(chosen(&enable, &disable).unwrap_err(), why);
        }
    }

    #[test]
    fn pod_security_is_told_its_defaults_and_exemptions() {
        let settings = pod_security(&json!({"defaults": {"enforce": "baseline", "enforce-version": "v1.30"},
            "exemptions": {"namespaces": ["kube-system"], "usernames": ["admin"]}}))
        .unwrap();
        assert_eq!(settings.defaults.enforce.to_string(), "baseline:v1.30");
        assert_eq!(settings.exempt_namespaces, ["kube-system"]);
        let error =
            pod_security(&json!({"defaults": {"warn": "odd"}, "exemptions": {"usernames": ["", "a", "a"]}}));
        assert_eq!(
            error.unwrap_err(),
            "[defaults.warn: Invalid value: \"odd\": must be one of privileged, baseline, restricted, \
             exemptions.usernames[0]: Invalid value: \"\": username must not be empty, exemptions.usernames[2]: Duplicate \
             value: \"a\"]"
        );
    }
}
