//! The smaller core kinds: ConfigMap, Secret, ServiceAccount, Endpoints, EndpointSlice, Node, Event, Lease,
//! PriorityClass.
//!
//! Source: `pkg/registry/core/*/strategy.go`, `pkg/apis/core/validation/validation.go`.

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList},
    name,
};

use super::{Column, Part, Strategy, apps::immutable, columns, pod_spec::one_of};
use crate::{object, table};

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
/// Node.
pub(crate) struct Node;
/// Event, of both groups.
pub(crate) struct Event;
/// Lease.
pub(crate) struct Lease;
/// PriorityClass.
pub(crate) struct PriorityClass;

/// The most bytes of the data of a ConfigMap or Secret.
const DATA_MAX: usize = 1024 * 1024;

type Fields = &'static [(&'static str, fn(&Value) -> String)];

fn check_keys(obj: &Value, lists: &[&'static str], errors: &mut ErrorList) {
    let mut size = 0;
    for list in lists {
        for (key, value) in object::at(obj, &[list]).and_then(Value::as_object).into_iter().flatten() {
            if let Err(why) = name::config_map_key(key) {
                errors.push(Error::invalid(field::root(*list).key(key), key.as_str(), why));
            }
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
        check_keys(obj, &["data", "binaryData"], &mut errors);
        let text = object::at(obj, &["data"]);
        for (key, _) in object::at(obj, &["binaryData"]).and_then(Value::as_object).into_iter().flatten() {
            if text.is_some_and(|data| data.get(key).is_some()) {
                let at = field::root("data").child("binaryData").key(key);
                errors.push(Error::invalid(at, key.as_str(), "duplicate of key present in data"));
            }
        }
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
            object::at(obj, &[list]).and_then(Value::as_object).map_or(0, |m| m.len())
        };
        let data = Column::new("Data", move |obj| (count(obj, "data") + count(obj, "binaryData")).into())
            .typed("integer");
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
        check_keys(obj, &["data"], &mut errors);
        let has = |key: &str| object::at(obj, &["data", key]).is_some();
        let required: &[&'static str] = match object::text(obj, &["type"]) {
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            _ => &[],
        };
        for key in required.iter().filter(|key| !has(key)) {
            errors.push(Error::required(field::root("data").key(*key), ""));
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
        Some(vec![columns::text("Type", &["type"]), columns::count("Data", &["data"]), columns::age()])
    }

    fn fields(&self) -> Fields {
        &[("type", |o| object::text(o, &["type"]).to_owned())]
    }
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
        Some(vec![columns::count("Secrets", &["secrets"]), columns::age()])
    }
}

impl Strategy for Endpoints {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, subset) in object::list(obj, &["subsets"]).iter().enumerate() {
            let path = field::root("subsets").index(i);
            let (ready, not) =
                (object::list(subset, &["addresses"]), object::list(subset, &["notReadyAddresses"]));
            if ready.is_empty() && not.is_empty() {
                errors.push(Error::required(&path, "must specify `addresses` or `notReadyAddresses`"));
            }
            for (list, addresses) in [("addresses", ready), ("notReadyAddresses", not)] {
                for (j, address) in addresses.iter().enumerate() {
                    let ip = object::text(address, &["ip"]);
                    if let Err(why) = name::ip(ip) {
                        errors.push(Error::invalid(path.child(list).index(j).child("ip"), ip, why));
                    }
                }
            }
            for (j, port) in object::list(subset, &["ports"]).iter().enumerate() {
                let number = object::number(port, &["port"]).unwrap_or(0);
                if let Err(why) = name::port_number(number) {
                    errors.push(Error::invalid(path.child("ports").index(j).child("port"), number, why));
                }
            }
        }
        errors
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
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let kinds = ["FQDN", "IPv4", "IPv6"];
        let kind = object::text(obj, &["addressType"]);
        if kind.is_empty() {
            errors.push(Error::required(field::root("addressType"), ""));
        }
        one_of(obj, "addressType", &kinds, &field::EMPTY, &mut errors);
        let endpoints = object::list(obj, &["endpoints"]);
        if endpoints.len() > 1000 {
            errors.push(Error::too_many(field::root("endpoints"), endpoints.len(), 1000));
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            let path = field::root("endpoints").index(i).child("addresses");
            let addresses = object::list(endpoint, &["addresses"]);
            if addresses.is_empty() {
                errors.push(Error::required(&path, "must contain at least 1 address"));
            }
            for (j, address) in addresses.iter().enumerate() {
                let text = address.as_str().unwrap_or_default();
                let fits = match kind {
                    "IPv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
                    "IPv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
                    _ => name::dns1123_subdomain(text).is_ok(),
                };
                if !fits {
                    let detail = format!("must be a valid {kind} address");
                    errors.push(Error::invalid(path.index(j), text, detail));
                }
            }
        }
        errors
    }

    fn validate_update(&self, _: Part, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(obj);
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

impl Strategy for Node {
    fn default(&self, obj: &mut Value) {
        if object::at(obj, &["status", "allocatable"]).is_none()
            && let Some(capacity) = object::at(obj, &["status", "capacity"]).cloned()
        {
            object::set(obj, &["status", "allocatable"], capacity);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = field::root("metadata").child("taints");
        let mut seen = std::collections::BTreeSet::new();
        for (i, taint) in object::list(obj, &["spec", "taints"]).iter().enumerate() {
            let at = field::root("spec").child("taints").index(i);
            let (key, effect) = (object::text(taint, &["key"]), object::text(taint, &["effect"]));
            let faults = name::qualified_name_faults(key).into_iter();
            errors.extend(faults.map(|why| Error::invalid(at.child("key"), key, why)));
            let value = object::text(taint, &["value"]);
            let faults = name::label_value_faults(value).into_iter();
            errors.extend(faults.map(|why| Error::invalid(at.child("value"), value, why)));
            if effect.is_empty() {
                errors.push(Error::required(at.child("effect"), ""));
            }
            one_of(taint, "effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"], &at, &mut errors);
            if !seen.insert((key, effect)) {
                errors.push(Error::duplicate(path.index(i), taint.clone()));
            }
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        if part != Part::Main {
            return ErrorList::new();
        }
        let mut errors = self.validate(obj);
        let (new_id, old_id) =
            (object::text(obj, &["spec", "providerID"]), object::text(old, &["spec", "providerID"]));
        if !old_id.is_empty() && new_id != old_id {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.push(Error::forbidden(field::root("spec").child("providerID"), detail));
        }
        let cidrs = ["spec", "podCIDRs"];
        if object::at(old, &cidrs).is_some() && object::at(obj, &cidrs) != object::at(old, &cidrs) {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(Error::forbidden(field::root("spec").child("podCIDRs"), detail));
        }
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let address = |obj: &Value, kind: &str| {
            let all = object::list(obj, &["status", "addresses"]);
            let found = all.iter().find(|a| object::text(a, &["type"]) == kind);
            columns::or_none(found.map_or("", |a| object::text(a, &["address"])))
        };
        let unknown = |name: &str, path: &'static [&'static str]| {
            Column::new(name, move |obj| match object::text(obj, path) {
                "" => "<unknown>".into(),
                text => text.into(),
            })
        };
        Some(vec![
            columns::made("Status", node_status),
            columns::made("Roles", node_roles),
            columns::age(),
            columns::text("Version", &["status", "nodeInfo", "kubeletVersion"]),
            Column::new("Internal-IP", move |obj| address(obj, "InternalIP").into()).wide(),
            Column::new("External-IP", move |obj| address(obj, "ExternalIP").into()).wide(),
            unknown("OS-Image", &["status", "nodeInfo", "osImage"]).wide(),
            unknown("Kernel-Version", &["status", "nodeInfo", "kernelVersion"]).wide(),
            unknown("Container-Runtime", &["status", "nodeInfo", "containerRuntimeVersion"]).wide(),
        ])
    }

    fn fields(&self) -> Fields {
        &[("spec.unschedulable", |o| {
            (object::at(o, &["spec", "unschedulable"]) == Some(&Value::Bool(true))).to_string()
        })]
    }
}

fn node_status(obj: &Value) -> String {
    let ready =
        object::list(obj, &["status", "conditions"]).iter().find(|c| object::text(c, &["type"]) == "Ready");
    let mut out = match ready.map(|c| object::text(c, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object::at(obj, &["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        out.push_str(",SchedulingDisabled");
    }
    out
}

fn node_roles(obj: &Value) -> String {
    let labels = object::at(obj, &["metadata", "labels"]).and_then(Value::as_object);
    let roles = labels.into_iter().flatten().filter_map(|(key, value)| {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/") {
            return Some(role).filter(|role| !role.is_empty());
        }
        (key == "kubernetes.io/role").then(|| value.as_str()).flatten()
    });
    let all: std::collections::BTreeSet<&str> = roles.collect();
    columns::or_none(&all.into_iter().collect::<Vec<_>>().join(","))
}

/// A field of an event, by its core name or its `events.k8s.io` name.
fn event_text<'v>(obj: &'v Value, core: &[&str], new: &[&str]) -> &'v str {
    match object::text(obj, core) {
        "" => object::text(obj, new),
        text => text,
    }
}

fn event_count(obj: &Value) -> i64 {
    object::number(obj, &["series", "count"])
        .or_else(|| object::number(obj, &["count"]))
        .or_else(|| object::number(obj, &["deprecatedCount"]))
        .filter(|count| *count > 0)
        .unwrap_or(1)
}

fn event_times(obj: &Value) -> (String, String) {
    let own = object::text(obj, &["eventTime"]).to_owned();
    let first = match event_text(obj, &["firstTimestamp"], &["deprecatedFirstTimestamp"]) {
        "" => own.clone(),
        text => text.to_owned(),
    };
    let series = object::text(obj, &["series", "lastObservedTime"]);
    let last = match (series, event_text(obj, &["lastTimestamp"], &["deprecatedLastTimestamp"])) {
        ("", "") => first.clone(),
        ("", last) => last.to_owned(),
        (series, _) => series.to_owned(),
    };
    (first, last)
}

impl Strategy for Event {
    fn columns(&self) -> Option<Vec<Column>> {
        let target = |obj: &Value| {
            let kind = event_text(obj, &["involvedObject", "kind"], &["regarding", "kind"]).to_lowercase();
            let name = event_text(obj, &["involvedObject", "name"], &["regarding", "name"]);
            if name.is_empty() { kind } else { format!("{kind}/{name}") }
        };
        let source = |obj: &Value| {
            let component =
                match event_text(obj, &["source", "component"], &["deprecatedSource", "component"]) {
                    "" => event_text(obj, &["reportingComponent"], &["reportingController"]),
                    text => text,
                };
            let host = match event_text(obj, &["source", "host"], &["deprecatedSource", "host"]) {
                "" => object::text(obj, &["reportingInstance"]),
                text => text,
            };
            if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
        };
        Some(vec![
            columns::made("Last Seen", |o| table::since(&event_times(o).1)),
            columns::text("Type", &["type"]),
            columns::text("Reason", &["reason"]),
            columns::made("Object", target),
            columns::made("Subobject", |o| {
                event_text(o, &["involvedObject", "fieldPath"], &["regarding", "fieldPath"]).to_owned()
            })
            .wide(),
            columns::made("Source", source).wide(),
            columns::made("Message", |o| event_text(o, &["message"], &["note"]).trim().to_owned()),
            columns::made("First Seen", |o| table::since(&event_times(o).0)).wide(),
            Column::new("Count", |o| event_count(o).into()).typed("integer").wide(),
            Column { format: "name", ..columns::text("Name", &["metadata", "name"]).wide() },
        ])
    }

    fn fields(&self) -> Fields {
        &[
            ("involvedObject.kind", |o| {
                event_text(o, &["involvedObject", "kind"], &["regarding", "kind"]).to_owned()
            }),
            ("involvedObject.namespace", |o| {
                event_text(o, &["involvedObject", "namespace"], &["regarding", "namespace"]).to_owned()
            }),
            ("involvedObject.name", |o| {
                event_text(o, &["involvedObject", "name"], &["regarding", "name"]).to_owned()
            }),
            ("involvedObject.uid", |o| {
                event_text(o, &["involvedObject", "uid"], &["regarding", "uid"]).to_owned()
            }),
            ("involvedObject.apiVersion", |o| {
                event_text(o, &["involvedObject", "apiVersion"], &["regarding", "apiVersion"]).to_owned()
            }),
            ("involvedObject.resourceVersion", |o| {
                event_text(o, &["involvedObject", "resourceVersion"], &["regarding", "resourceVersion"])
                    .to_owned()
            }),
            ("involvedObject.fieldPath", |o| {
                event_text(o, &["involvedObject", "fieldPath"], &["regarding", "fieldPath"]).to_owned()
            }),
            ("reason", |o| object::text(o, &["reason"]).to_owned()),
            ("reportingComponent", |o| {
                event_text(o, &["reportingComponent"], &["reportingController"]).to_owned()
            }),
            ("reportingController", |o| {
                event_text(o, &["reportingComponent"], &["reportingController"]).to_owned()
            }),
            ("source", |o| {
                match event_text(o, &["source", "component"], &["deprecatedSource", "component"]) {
                    "" => event_text(o, &["reportingComponent"], &["reportingController"]).to_owned(),
                    text => text.to_owned(),
                }
            }),
            ("type", |o| object::text(o, &["type"]).to_owned()),
        ]
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
        one_of(obj, "preemptionPolicy", &["Never", "PreemptLowerPriority"], &field::EMPTY, &mut errors);
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
    fn nodes_and_endpoints_print_as_upstream() {
        let node = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x"}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(node_status(&node), "Ready,SchedulingDisabled");
        assert_eq!(node_roles(&node), "control-plane,x");
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
