//! The smaller core kinds: ConfigMap, Secret, ServiceAccount, Endpoints, EndpointSlice, Lease, PriorityClass.
//!
//! Source: `pkg/registry/core/*/strategy.go`, `pkg/apis/core/validation/validation.go`.

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList},
    name,
};

use super::{Column, Part, Strategy, apps::immutable, columns, endpoints, pod_spec::one_of};
use crate::object;

/// ConfigMap.
pub(crate) struct ConfigMap;
/// Secret.
pub(crate) struct Secret;
/// ServiceAccount.
pub(crate) struct ServiceAccount;
/// Endpoints.
pub(crate) struct Endpoints;
/// EndpointSlice.
pub(crate) struct EndpointSlice;
/// Lease.
pub(crate) struct Lease;
/// PriorityClass.
pub(crate) struct PriorityClass;

/// The most bytes of the data of a ConfigMap or Secret.
const DATA_MAX: usize = 1024 * 1024;

type Fields = &'static [(&'static str, fn(&Value) -> String)];

fn check_keys(
    obj: &Value,
    lists: &[&'static str],
    errors: &mut ErrorList,
    each: impl Fn(&str, &str, &mut ErrorList),
) {
    let mut size = 0;
    for list in lists {
        for (key, value) in object::at(obj, &[list]).and_then(Value::as_object).into_iter().flatten() {
            if let Err(why) = name::config_map_key(key) {
                errors.push(Error::invalid(field::root(*list).key(key), key.as_str(), why));
            }
            each(list, key, errors);
            size += value.as_str().map_or(0, |text| decoded_length(text, list));
        }
    }
    if size > DATA_MAX {
        errors.push(Error::too_long(
            if lists.len() > 1 { field::EMPTY } else { field::root(lists[0]) },
            DATA_MAX,
        ));
    }
}

/// The length in bytes: text as it stands, binary data without its base64 form.
fn decoded_length(text: &str, list: &str) -> usize {
    if list == "binaryData" || list == "data64" { text.len() / 4 * 3 } else { text.len() }
}

/// An object marked immutable keeps its data and its mark.
fn check_immutable(obj: &Value, old: &Value, data: &[&'static str], errors: &mut ErrorList) {
    let marked = |obj: &Value| object::at(obj, &["immutable"]) == Some(&Value::Bool(true));
    if !marked(old) {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if !marked(obj) {
        errors.push(Error::forbidden(field::root("immutable"), detail));
    }
    for list in data {
        if object::at(obj, &[list]) != object::at(old, &[list]) {
            errors.push(Error::forbidden(field::root(*list), detail));
        }
    }
}

impl Strategy for ConfigMap {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let binary = object::at(obj, &["binaryData"]);
        check_keys(obj, &["data", "binaryData"], &mut errors, |list, key, errors| {
            if list == "data" && binary.is_some_and(|binary| binary.get(key).is_some()) {
                let at = field::root("data").key(key);
                errors.push(Error::invalid(at, key, "duplicate of key present in binaryData"));
            }
        });
        errors
    }

    fn validate_update(&self, _: Part, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_immutable(obj, old, &["data", "binaryData"], &mut errors);
        errors.extend(self.validate(obj));
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let count = |obj: &Value, list: &str| {
            object::at(obj, &[list]).and_then(Value::as_object).map_or(0, serde_json::Map::len)
        };
        let data = Column::new("Data", move |obj| (count(obj, "data") + count(obj, "binaryData")).into())
            .typed("string");
        Some(vec![data, columns::age()])
    }
}

impl Strategy for Secret {
    fn default(&self, obj: &mut Value) {
        fold_string_data(obj);
        if object::text(obj, &["type"]).is_empty() {
            object::set(obj, &["type"], "Opaque");
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_keys(obj, &["data"], &mut errors, |_, _, _| {});
        let has = |key: &str| object::at(obj, &["data", key]).is_some();
        let required: &[&'static str] = match object::text(obj, &["type"]) {
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            _ => &[],
        };
        for key in required {
            let at = field::root("data").key(*key);
            if !has(key) {
                errors.push(Error::required(at, ""));
            } else if key.starts_with(".docker")
                && let Some(why) = json_fault(object::text(obj, &["data", key]))
            {
                errors.push(Error::invalid(at, "<secret contents redacted>", why));
            }
        }
        let account = "kubernetes.io/service-account.name";
        if object::text(obj, &["type"]) == "kubernetes.io/service-account-token"
            && object::text(obj, &["metadata", "annotations", account]).is_empty()
        {
            let at = field::root("metadata").child("annotations").key(account);
            errors.push(Error::required(at, ""));
        }
        if object::text(obj, &["type"]) == "kubernetes.io/basic-auth" && !has("username") && !has("password")
        {
            errors.push(Error::required(field::root("data").key("username"), ""));
            errors.push(Error::required(field::root("data").key("password"), ""));
        }
        errors
    }

    fn validate_update(&self, _: Part, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(obj, old, &["type"], &mut errors);
        check_immutable(obj, old, &["data"], &mut errors);
        errors.extend(self.validate(obj));
        errors
    }

    fn prepare_update(&self, _: Part, obj: &mut Value, old: &Value) {
        if object::text(obj, &["type"]).is_empty() {
            object::set(obj, &["type"], object::text(old, &["type"]).to_owned());
        }
    }

    fn columns(&self) -> Option<Vec<Column>> {
        Some(vec![
            columns::text("Type", &["type"]),
            columns::count("Data", &["data"]).typed("string"),
            columns::age(),
        ])
    }

    fn fields(&self) -> Fields {
        &[("type", |o| object::text(o, &["type"]).to_owned())]
    }
}

/// What Go's decoder says of data, in base 64, that should be a JSON object.
fn json_fault(encoded: &str) -> Option<String> {
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    let kind = match serde_json::from_slice(&data) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(Value::String(_)) => "string",
        Ok(Value::Number(_)) => "number",
        Ok(Value::Bool(_)) => "bool",
        Ok(Value::Array(_)) => "array",
        Err(error) if error.is_eof() => return Some("unexpected end of JSON input".to_owned()),
        Err(_) => {
            let text = String::from_utf8_lossy(&data);
            let first = text.trim_start().chars().next().unwrap_or_default();
            let place =
                if matches!(first, '{' | '[' | '"') { "in JSON" } else { "looking for beginning of value" };
            return Some(format!("invalid character '{first}' {place}"));
        }
    };
    Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
}

/// `stringData` is only a way to write `data`.
fn fold_string_data(obj: &mut Value) {
    use base64::Engine as _;
    let Some(Value::Object(texts)) = object::remove(obj, &["stringData"]) else { return };
    for (key, text) in texts {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
        object::set(obj, &["data", &key], encoded);
    }
}

impl Strategy for ServiceAccount {
    fn columns(&self) -> Option<Vec<Column>> {
        Some(vec![columns::age()])
    }
}

impl Strategy for Endpoints {
    fn validate(&self, obj: &Value) -> ErrorList {
        endpoints::endpoints(obj, None)
    }

    fn validate_update(&self, _: Part, obj: &Value, old: &Value) -> ErrorList {
        endpoints::endpoints(obj, Some(old))
    }

    fn columns(&self) -> Option<Vec<Column>> {
        Some(vec![columns::made("Endpoints", endpoint_cells), columns::age()])
    }
}

/// At most three addresses with their ports, and how many more there are.
fn endpoint_cells(obj: &Value) -> String {
    let mut all = Vec::new();
    for subset in object::list(obj, &["subsets"]) {
        let ports = object::list(subset, &["ports"]);
        for address in object::list(subset, &["addresses"]) {
            let ip = object::text(address, &["ip"]);
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            for port in ports {
                all.push(format!("{ip}:{}", object::number(port, &["port"]).unwrap_or(0)));
            }
        }
    }
    shortened(&all)
}

fn shortened(all: &[String]) -> String {
    match all {
        [] => "<none>".to_owned(),
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
        some => some.join(","),
    }
}

impl Strategy for EndpointSlice {
    fn prepare_update(&self, _: Part, obj: &mut Value, old: &Value) {
        let labels = |obj: &Value| object::at(obj, &["metadata", "labels"]).cloned();
        if labels(obj) != labels(old) {
            let generation = object::number(old, &["metadata", "generation"]).unwrap_or(0) + 1;
            object::set(obj, &["metadata", "generation"], generation);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        endpoints::slice(obj, None)
    }

    fn validate_update(&self, _: Part, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = endpoints::slice(obj, Some(old));
        immutable(obj, old, &["addressType"], &mut errors);
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let ports = |obj: &Value| {
            let ports = object::list(obj, &["ports"]).iter();
            let all: Vec<String> =
                ports.map(|p| object::number(p, &["port"]).map_or("*".into(), |n| n.to_string())).collect();
            if all.is_empty() { "<unset>".to_owned() } else { shortened(&all) }
        };
        let addresses = |obj: &Value| {
            let endpoints = object::list(obj, &["endpoints"]).iter();
            let all: Vec<String> = endpoints
                .flat_map(|e| object::list(e, &["addresses"]))
                .filter_map(|address| address.as_str().map(str::to_owned))
                .collect();
            if all.is_empty() { "<unset>".to_owned() } else { shortened(&all) }
        };
        Some(vec![
            columns::text("AddressType", &["addressType"]),
            columns::made("Ports", ports),
            columns::made("Endpoints", addresses),
            columns::age(),
        ])
    }
}

impl Strategy for Lease {
    fn validate(&self, obj: &Value) -> ErrorList {
        let path = field::root("spec");
        let mut errors = ErrorList::new();
        if let Some(seconds) = object::number(obj, &["spec", "leaseDurationSeconds"]).filter(|s| *s <= 0) {
            errors.push(Error::invalid(
                path.child("leaseDurationSeconds"),
                seconds,
                "must be greater than 0",
            ));
        }
        if let Some(count) = object::number(obj, &["spec", "leaseTransitions"]).filter(|count| *count < 0) {
            let detail = "must be greater than or equal to 0";
            errors.push(Error::invalid(path.child("leaseTransitions"), count, detail));
        }
        errors
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Option<Vec<Column>> {
        Some(vec![columns::text("Holder", &["spec", "holderIdentity"]), columns::age()])
    }
}

impl Strategy for PriorityClass {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let given = object::name(obj);
        let value = object::number(obj, &["value"]).unwrap_or(0);
        let system = matches!(given, "system-node-critical" | "system-cluster-critical");
        if given.starts_with("system-") && !system {
            let detail =
                "priority class names with 'system-' prefix are reserved for system use only. error: "
                    .to_owned()
                    + &format!("{given} is not a known system priority class");
            errors.push(Error::forbidden(field::root("metadata").child("name"), detail));
        }
        if !system && value > 1_000_000_000 {
            let detail = "maximum allowed value of a user defined priority is 1000000000";
            errors.push(Error::forbidden(field::root("value"), detail));
        }
        one_of(obj, "preemptionPolicy", &["PreemptLowerPriority", "Never"], &field::EMPTY, &mut errors);
        errors
    }

    fn validate_update(&self, _: Part, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(obj);
        if object::number(obj, &["value"]) != object::number(old, &["value"]) {
            errors.push(Error::forbidden(field::root("value"), "may not be changed in an update."));
        }
        immutable(obj, old, &["preemptionPolicy"], &mut errors);
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let default = |obj: &Value| object::at(obj, &["globalDefault"]) == Some(&Value::Bool(true));
        Some(vec![
            columns::number("Value", &["value"]),
            Column::new("Global-Default", move |obj| default(obj).into()).typed("boolean"),
            columns::age(),
            columns::text("PreemptionPolicy", &["preemptionPolicy"]),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &[Error]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn immutable_data_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let errors = ConfigMap.validate_update(Part::Main, &json!({"data": {"a": "2"}}), &old);
        assert_eq!(
            texts(&errors),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
        assert!(ConfigMap.validate_update(Part::Main, &old, &old).is_empty());
        assert_eq!(
            texts(&ConfigMap.validate(&json!({"data": {"": "x"}}))),
            [
                "data[]: Invalid value: \"\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' \
              (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
            ]
        );
    }

    #[test]
    fn secrets_fold_string_data_and_know_their_types() {
        let mut secret = json!({"stringData": {"a": "hi"}, "data": {"b": "eA=="}});
        Secret.default(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "aGk=", "b": "eA=="}}));
        assert_eq!(
            texts(&Secret.validate(&json!({"type": "kubernetes.io/tls"}))),
            ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
        );
    }

    #[test]
    fn endpoints_print_as_upstream() {
        let endpoints = json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}],
            "ports": [{"port": 80}, {"port": 81}]}]});
        assert_eq!(endpoint_cells(&endpoints), "1.1.1.1:80,1.1.1.1:81,1.1.1.2:80 + 1 more...");
    }

    #[test]
    fn priority_classes_keep_their_value() {
        let old = json!({"metadata": {"name": "p"}, "value": 5});
        let errors =
            PriorityClass.validate_update(Part::Main, &json!({"metadata": {"name": "p"}, "value": 6}), &old);
        assert_eq!(texts(&errors), ["value: Forbidden: may not be changed in an update."]);
    }
}
