//! Validation of pod specs, for Pods and for every template of one.
//!
//! Texts, paths and their order are upstream's. Source: `pkg/apis/core/validation/validation.go`, `ValidatePodSpec`.

pub(crate) mod placement;
pub(super) mod security;

use serde_json::Value;
use windlass_crd::{
    address,
    field::{Error, ErrorList, Path},
    name,
};

use super::{
    container::{self, resources},
    volumes,
};
use crate::object;

/// What is wrong with the spec of a template.
pub(crate) fn validate(spec: &Value, path: &Path) -> ErrorList {
    validate_of(spec, None, path)
}

/// What is wrong with a pod spec at `path`; templates have no metadata of a Pod's.
pub(crate) fn validate_of(spec: &Value, metadata: Option<&Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if object::at(spec, &["terminationGracePeriodSeconds"]).is_none() {
        errors.push(Error::required(path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volumes::validate(spec, metadata, path, &mut errors);
    resource_claims(spec, metadata, &path.child("resourceClaims"), &mut errors);
    container::validate_all(spec, &volumes, path, &mut errors);
    resources::of_pod(spec, path, &mut errors);
    host_network(spec, metadata.is_some(), path, &mut errors);
    one_of_required(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, &mut errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of_required(spec, "dnsPolicy", &policies, path, &mut errors);
    labels(object::at(spec, &["nodeSelector"]), &path.child("nodeSelector"), &mut errors);
    security::of_pod(spec, path, &mut errors);
    placement::affinity(spec, &path.child("affinity"), &mut errors);
    dns(spec, &path.child("dnsConfig"), &mut errors);
    for (i, gate) in object::list(spec, &["readinessGates"]).iter().enumerate() {
        let given = object::text(gate, &["conditionType"]);
        let at = path.child("readinessGates").index(i).child("conditionType");
        told(name::qualified_name_faults(given), &at, given, &mut errors);
    }
    placement::gates(spec, &path.child("schedulingGates"), &mut errors);
    placement::spread(spec, &path.child("topologySpreadConstraints"), &mut errors);
    security::host_processes(spec, path, &mut errors);
    security::host_users(spec, path, &mut errors);
    host_name(spec, path, &mut errors);
    names(spec, path, &mut errors);
    security::system(spec, path, &mut errors);
    if let Some(group) = object::at(spec, &["schedulingGroup"]) {
        let at = path.child("schedulingGroup").child("podGroupName");
        match object::at(group, &["podGroupName"]).and_then(Value::as_str) {
            None => errors.push(Error::invalid(at, Value::Null, "must specify one of: `podGroupName`")),
            Some(given) => told(name::dns1123_subdomain_faults(given), &at, given, &mut errors),
        }
    }
    container::env::files(spec, path, &mut errors);
    errors
}

/// An error for each thing wrong with a text.
pub(crate) fn told(faults: Vec<String>, path: &Path, given: &str, errors: &mut ErrorList) {
    errors.extend(faults.into_iter().map(|why| Error::invalid(path, given, why)));
}

/// A value that is there must be one of these.
pub(crate) fn one_of(
    obj: &Value,
    field: &'static str,
    allowed: &[&str],
    path: &Path,
    errors: &mut ErrorList,
) {
    let given = object::text(obj, &[field]);
    if object::at(obj, &[field]).is_some() && !allowed.contains(&given) {
        errors.push(Error::not_supported(path.child(field), given, allowed));
    }
}

/// A value must be there, and one of these.
pub(crate) fn one_of_required(
    obj: &Value,
    field: &'static str,
    allowed: &[&str],
    path: &Path,
    errors: &mut ErrorList,
) {
    match object::text(obj, &[field]) {
        "" => errors.push(Error::required(path.child(field), "")),
        given if !allowed.contains(&given) => {
            errors.push(Error::not_supported(path.child(field), given, allowed));
        }
        _ => {}
    }
}

/// A number that is there must not be negative.
pub(crate) fn not_negative(obj: &Value, field: &'static str, path: &Path, errors: &mut ErrorList) {
    if let Some(number) = object::number(obj, &[field]).filter(|n| *n < 0) {
        errors.push(Error::invalid(path.child(field), number, "must be greater than or equal to 0"));
    }
}

/// Keys and values of a map that are those of labels.
pub(crate) fn labels(map: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    for (key, value) in map.and_then(Value::as_object).into_iter().flatten() {
        told(name::qualified_name_faults(key), path, key, errors);
        let value = value.as_str().unwrap_or_default();
        told(name::label_value_faults(value), path, value, errors);
    }
}

fn is_true(obj: &Value, way: &[&str]) -> bool {
    object::at(obj, way) == Some(&Value::Bool(true))
}

fn resource_claims(spec: &Value, metadata: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let mut seen = std::collections::BTreeSet::new();
    let is_static = metadata.is_some_and(|meta| object::at(meta, &["annotations", MIRROR]).is_some());
    for (i, claim) in object::list(spec, &["resourceClaims"]).iter().enumerate() {
        if is_static {
            errors.push(Error::forbidden(Path::root(""), "static pods do not support resource claims"));
            continue;
        }
        let at = path.index(i);
        let given = object::text(claim, &["name"]);
        if given.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        } else if !seen.insert(given) {
            errors.push(Error::duplicate(at.child("name"), given));
        } else {
            told(name::dns1123_label_faults(given), &at.child("name"), given, errors);
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        let found = sources.iter().filter(|field| object::at(claim, &[field]).is_some()).count();
        let detail = match found {
            2 => Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            0 => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => None,
        };
        if let Some(detail) = detail {
            errors.push(super::internal::invalid(&at, "PodResourceClaim", claim, detail));
        }
        for field in sources {
            if let Some(given) = object::at(claim, &[field]).and_then(Value::as_str) {
                told(name::dns1123_subdomain_faults(given), &at.child(field), given, errors);
            }
        }
    }
}

/// On the host's network a container's port is the host's.
fn host_network(spec: &Value, is_pod: bool, path: &Path, errors: &mut ErrorList) {
    if !is_true(spec, &["hostNetwork"]) {
        return;
    }
    for (i, container) in object::list(spec, &["containers"]).iter().enumerate() {
        for (j, port) in object::list(container, &["ports"]).iter().enumerate() {
            let number = |field: &str| object::number(port, &[field]).unwrap_or(0);
            let (host, own) = (number("hostPort"), number("containerPort"));
            if (is_pod || host != 0) && host != own {
                let at = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(Error::invalid(at, host, detail));
            }
        }
    }
}

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;

fn dns(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let config = object::at(spec, &["dnsConfig"]);
    let empty = Value::Null;
    let servers = object::list(config.unwrap_or(&empty), &["nameservers"]);
    if object::text(spec, &["dnsPolicy"]) == "None" {
        if config.is_none() {
            errors.push(Error::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(Error::required(path.child("nameservers"), detail));
            return;
        }
    }
    let Some(config) = config else { return };
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(Error::invalid(path.child("nameservers"), servers.to_vec(), detail));
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        told(address::ip_faults(server), &path.child("nameservers").index(i), server, errors);
    }
    let searches = object::list(config, &["searches"]);
    let at = path.child("searches");
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(Error::invalid(&at, searches.to_vec(), detail));
    }
    let texts: Vec<&str> = searches.iter().filter_map(Value::as_str).collect();
    if texts.join(" ").len() > SEARCH_BYTES_MAX {
        let detail = format!(
            "must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the search list"
        );
        errors.push(Error::invalid(&at, searches.to_vec(), detail));
    }
    for (i, search) in texts.into_iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        told(name::dns_name_with_underscores_faults(search), &at.index(i), search, errors);
    }
    for (i, option) in object::list(config, &["options"]).iter().enumerate() {
        if object::text(option, &["name"]).is_empty() {
            errors.push(Error::required(path.child("options").index(i), "must not be empty"));
        }
    }
}

const HOST_NAME_MAX: usize = 64;

fn host_name(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(given) = object::at(spec, &["hostnameOverride"]).and_then(Value::as_str) else { return };
    let at = path.child("hostnameOverride");
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if is_true(spec, &[field]) {
            errors.push(Error::forbidden(&at, format!("may not be specified when {field} is true")));
        }
    }
    if given.len() > HOST_NAME_MAX {
        errors.push(Error::too_long(&at, HOST_NAME_MAX));
    }
    told(name::dns1123_subdomain_faults(given), &at, given, errors);
}

/// The small fields that stand alone, in upstream's order.
fn names(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let named = |field: &'static str, faults: fn(&str) -> Vec<String>, errors: &mut ErrorList| {
        let given = object::text(spec, &[field]);
        if !given.is_empty() {
            told(faults(given), &path.child(field), given, errors);
        }
    };
    named("serviceAccountName", name::dns1123_subdomain_faults, errors);
    named("nodeName", name::dns1123_subdomain_faults, errors);
    if let Some(seconds) = object::number(spec, &["activeDeadlineSeconds"])
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = name::range_error(1, i32::MAX.into());
        errors.push(Error::invalid(path.child("activeDeadlineSeconds"), seconds, detail));
    }
    named("hostname", name::dns1123_label_faults, errors);
    named("subdomain", name::dns1123_label_faults, errors);
    placement::tolerations(object::list(spec, &["tolerations"]), &path.child("tolerations"), errors);
    for (i, alias) in object::list(spec, &["hostAliases"]).iter().enumerate() {
        let at = path.child("hostAliases").index(i);
        let ip = object::text(alias, &["ip"]);
        told(address::ip_faults(ip), &at.child("ip"), ip, errors);
        for (j, host) in object::list(alias, &["hostnames"]).iter().filter_map(Value::as_str).enumerate() {
            told(name::dns1123_subdomain_faults(host), &at.child("hostnames").index(j), host, errors);
        }
    }
    named("priorityClassName", name::dns1123_subdomain_faults, errors);
    if let Some(class) = object::at(spec, &["runtimeClassName"]).and_then(Value::as_str) {
        told(name::dns1123_subdomain_faults(class), &path.child("runtimeClassName"), class, errors);
    }
    if object::at(spec, &["preemptionPolicy"]).is_some() {
        one_of_required(spec, "preemptionPolicy", &["PreemptLowerPriority", "Never"], path, errors);
    }
    if let Some(overhead) = object::at(spec, &["overhead"]) {
        let limits = serde_json::json!({"limits": overhead});
        resources::of_container(&limits, &Default::default(), &path.child("overhead"), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;
    use windlass_crd::field;

    fn faults(spec: &Value) -> String {
        validate(spec, &field::root("spec")).iter().map(|e| format!("{e}\n")).collect()
    }

    fn good() -> Value {
        json!({
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "nodeSelector": {"a/b": "c"},
            "terminationGracePeriodSeconds": 30, "securityContext": {},
            "containers": [{"name": "a", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}],
                "env": [{"name": "X", "value": "1"}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1,
                                  "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]})
    }

    #[test]
    fn a_good_pod_has_no_faults() {
        assert_eq!(faults(&good()), "");
    }

    #[test]
    fn faults_are_upstreams_in_its_order() {
        expect![[r#"
            spec.terminationGracePeriodSeconds: Required value
            spec.containers: Required value
            spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"
            spec.dnsPolicy: Required value
            spec.securityContext.sysctls[0].name: Invalid value: "foo-": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$
            spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero
            spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty
            spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys"
            spec.tolerations[0].effect: Unsupported value: "No": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
        "#]]
        .assert_eq(&faults(&json!({
            "restartPolicy": "Sometimes",
            "securityContext": {"sysctls": [{"name": "foo-", "value": "1"}]},
            "tolerations": [{"effect": "No"}],
            "topologySpreadConstraints": [{"whenUnsatisfiable": "DoNotSchedule"}]})));
    }

    /// A good pod with these fields, and the one line that is said about it. Cases of upstream's `TestValidatePodSpec`.
    #[test]
    fn one_fault_at_a_time() {
        let cases = [
            (
                json!({"hostNetwork": true}),
                "spec.containers[0].ports[0].hostPort: Invalid value: 8080: must match `containerPort` when `hostNetwork` is true",
            ),
            (
                json!({"dnsPolicy": "None"}),
                "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {}}),
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
            ),
            (
                json!({"dnsConfig": {"options": [{"value": "1"}]}}),
                "spec.dnsConfig.options[0]: Required value: must not be empty",
            ),
            (
                json!({"hostname": "^"}),
                "spec.hostname: Invalid value: \"^\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ),
            (
                json!({"preemptionPolicy": "X"}),
                "spec.preemptionPolicy: Unsupported value: \"X\": supported values: \"PreemptLowerPriority\", \"Never\"",
            ),
            (
                json!({"hostnameOverride": "a", "setHostnameAsFQDN": true}),
                "spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true",
            ),
            (
                json!({"resourceClaims": [{"name": "c"}]}),
                "spec.resourceClaims[0]: Invalid value: {\"Name\":\"c\",\"ResourceClaimName\":null,\"ResourceClaimTemplateName\":null}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            (
                json!({"hostUsers": false, "hostPID": true}),
                "spec.HostPID: Forbidden: when `hostUsers` is false",
            ),
            (
                json!({"os": {"name": "windows"}, "hostIPC": true}),
                "spec.hostIPC: Forbidden: cannot be set for a windows pod",
            ),
            (
                json!({"schedulingGates": [{"name": "a"}, {"name": "a"}]}),
                "spec.schedulingGates[1]: Duplicate value: \"a\"",
            ),
            (
                json!({"overhead": {"foo": "1"}}),
                "spec.overhead.limits[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified\nspec.overhead.limits[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            ),
            (
                json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}}}),
                "spec.resources.requests[cpu]: Invalid value: \"100m\": must be greater than or equal to aggregate container requests of 500m",
            ),
        ];
        for (more, expected) in cases {
            let mut spec = good();
            spec["containers"][0]["ports"][0] =
                json!({"containerPort": 80, "hostPort": 8080, "protocol": "TCP"});
            for (key, value) in more.as_object().unwrap() {
                spec[key] = value.clone();
            }
            assert_eq!(faults(&spec).trim_end(), expected, "{more}");
        }
    }
}
