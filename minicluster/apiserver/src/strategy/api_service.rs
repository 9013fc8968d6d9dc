//! APIService: a group and version, and who answers for it.
//!
//! Source: `k8s.io/kube-aggregator/pkg/apis/apiregistration`, `…/pkg/registry/apiservice`.

use serde_json::{Value, json};
use windlass_crd::{
    field::{self, Error, ErrorList},
    name,
};

use super::{Column, Part, Strategy, listed};
use crate::object;

/// APIService.
pub(crate) struct ApiService;

impl Strategy for ApiService {
    fn default(&self, obj: &mut Value) {
        if object::at(obj, &["spec", "service"])
            .is_some_and(|service| object::at(service, &["port"]).is_none())
        {
            object::set(obj, &["spec", "service", "port"], 443);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        if object::at(obj, &["spec", "service"]).is_none() {
            object::set(
                obj,
                &["status", "conditions"],
                json!([{
                    "type": "Available", "status": "True", "reason": "Local", "lastTransitionTime": object::now(),
                    "message": "Local APIServices are always available",
                }]),
            );
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let path = field::root("spec");
        let spec = obj.get("spec").unwrap_or(&Value::Null);
        let (group, version) = (object::text(spec, &["group"]), object::text(spec, &["version"]));
        let mut errors = ErrorList::new();
        let required = format!("{version}.{group}");
        if object::name(obj) != required {
            let why = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
            errors.push(Error::invalid(field::root("metadata").child("name"), object::name(obj), why));
        }
        if group.is_empty() && version != "v1" {
            let why = "only v1 may have an empty group and it better be legacy kube";
            errors.push(Error::required(path.child("group"), why));
        }
        if !group.is_empty() {
            let faults = name::dns1123_subdomain_faults(group).into_iter();
            errors.extend(faults.map(|why| Error::invalid(path.child("group"), group, why)));
        }
        let faults = name::dns1035_label_faults(version).into_iter();
        errors.extend(faults.map(|why| Error::invalid(path.child("version"), version, why)));
        for (key, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let given = object::number(spec, &[key]).unwrap_or(0);
            if given <= 0 || given > max {
                let why = format!("must be positive and less than {max}");
                errors.push(Error::invalid(path.child(key), given, why));
            }
        }
        let bundle = object::text(spec, &["caBundle"]);
        let insecure = spec.get("insecureSkipTLSVerify") == Some(&Value::Bool(true));
        let Some(service) = object::at(spec, &["service"]) else {
            if !bundle.is_empty() {
                let size = format!("{} bytes", bundle.len() / 4 * 3);
                errors.push(Error::invalid(
                    path.child("caBundle"),
                    size,
                    "local APIServices may not have a caBundle",
                ));
            }
            if insecure {
                let why = "local APIServices may not have insecureSkipTLSVerify";
                errors.push(Error::invalid(path.child("insecureSkipTLSVerify"), true, why));
            }
            return errors;
        };
        let at = path.child("service");
        for key in ["namespace", "name"] {
            if object::text(service, &[key]).is_empty() {
                errors.push(Error::required(at.child(key), ""));
            }
        }
        let port = object::number(service, &["port"]).unwrap_or(0);
        if let Err(why) = name::port_number(port) {
            errors.push(Error::invalid(at.child("port"), port, format!("port is not valid: {why}")));
        }
        if insecure && !bundle.is_empty() {
            let why = "may not be true if caBundle is present";
            errors.push(Error::invalid(path.child("insecureSkipTLSVerify"), true, why));
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, _: &Value) -> ErrorList {
        if part == Part::Main {
            return self.validate(obj);
        }
        let path = field::root("status").child("conditions");
        let conditions = object::list(obj, &["status", "conditions"]).iter().enumerate();
        let known = ["True", "False", "Unknown"];
        conditions
            .filter(|(_, condition)| !known.contains(&object::text(condition, &["status"])))
            .map(|(i, condition)| {
                Error::not_supported(
                    path.index(i).child("status"),
                    object::text(condition, &["status"]),
                    &known,
                )
            })
            .collect()
    }

    fn check_name(&self, text: &str) -> Result<(), String> {
        // `v1.` is the name of the core group's.
        name::path_segment_faults(text).into_iter().next().map_or(Ok(()), Err)
    }

    fn columns(&self) -> Option<Vec<Column>> {
        listed::API_SERVICE.columns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_local_one_is_available_from_the_start() {
        let mut obj = json!({"spec": {"version": "v1"}});
        ApiService.prepare_create(&mut obj);
        assert_eq!(obj["status"]["conditions"][0]["reason"], "Local");
        let mut obj = json!({"spec": {"version": "v1", "service": {}}});
        ApiService.default(&mut obj);
        ApiService.prepare_create(&mut obj);
        assert!(obj.get("status").is_none() && obj["spec"]["service"]["port"] == 443);
    }

    #[test]
    fn faults_are_upstreams() {
        let cases = [
            json!({"metadata": {"name": "v1."}, "spec": {"version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}}),
            json!({"metadata": {"name": "x"}, "spec": {"version": "v2", "groupPriorityMinimum": 30_000, "versionPriority": 0,
                "caBundle": "AAAA", "insecureSkipTLSVerify": true}}),
            json!({"metadata": {"name": "V1.a_b"}, "spec": {"group": "a_b", "version": "V1", "groupPriorityMinimum": 1, "versionPriority": 1,
                "service": {"port": 0}, "caBundle": "AAAA", "insecureSkipTLSVerify": true}}),
        ];
        let texts: String = cases
            .iter()
            .flat_map(|obj| {
                ApiService.validate(obj).into_iter().map(|e| format!("{e}\n")).chain(["--\n".to_owned()])
            })
            .collect();
        expect![[r#"
            --
            metadata.name: Invalid value: "x": must be `spec.version+"."+spec.group`: "v2."
            spec.group: Required value: only v1 may have an empty group and it better be legacy kube
            spec.groupPriorityMinimum: Invalid value: 30000: must be positive and less than 20000
            spec.versionPriority: Invalid value: 0: must be positive and less than 1000
            spec.caBundle: Invalid value: "3 bytes": local APIServices may not have a caBundle
            spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify
            --
            spec.group: Invalid value: "a_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.version: Invalid value: "V1": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
            spec.service.namespace: Required value
            spec.service.name: Required value
            spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive
            spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present
            --
        "#]].assert_eq(&texts);
    }
}
