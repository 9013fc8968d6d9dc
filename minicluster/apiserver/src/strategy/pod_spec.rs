//! Validation of pod specs, for Pods and for every template of one.
//!
//! Texts and paths are upstream's. Source: `pkg/apis/core/validation/validation.go`, `ValidatePodSpec`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name, selector,
};

use super::{container, volumes};
use crate::object;

/// What is wrong with a pod spec at `path`.
pub(crate) fn validate(spec: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let volume_names = volumes::validate(spec, path, &mut errors);
    container::validate_all(spec, &volume_names, path, &mut errors);
    enumerations(spec, path, &mut errors);
    numbers(spec, path, &mut errors);
    names(spec, path, &mut errors);
    security_context(spec, path, &mut errors);
    host_ports(spec, path, &mut errors);
    tolerations(spec, path, &mut errors);
    affinity(spec, path, &mut errors);
    spread_constraints(spec, path, &mut errors);
    small_lists(spec, path, &mut errors);
    errors
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
    if !given.is_empty() && !allowed.contains(&given) {
        errors.push(Error::not_supported(path.child(field), given, allowed));
    }
}

/// A number that is there must not be negative.
pub(crate) fn not_negative(obj: &Value, field: &'static str, path: &Path, errors: &mut ErrorList) {
    if let Some(number) = object::number(obj, &[field]).filter(|n| *n < 0) {
        errors.push(Error::invalid(path.child(field), number, "must be greater than or equal to 0"));
    }
}

fn enumerations(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let restart = object::text(spec, &["restartPolicy"]);
    if restart.is_empty() {
        errors.push(Error::required(path.child("restartPolicy"), ""));
    }
    one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    one_of(spec, "dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], path, errors);
    one_of(spec, "preemptionPolicy", &["Never", "PreemptLowerPriority"], path, errors);
    let nameservers = object::list(spec, &["dnsConfig", "nameservers"]);
    if object::text(spec, &["dnsPolicy"]) == "None" && nameservers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(Error::required(path.child("dnsConfig").child("nameservers"), detail));
    }
    for (i, server) in nameservers.iter().enumerate() {
        let text = server.as_str().unwrap_or_default();
        if let Err(why) = name::ip(text) {
            errors.push(Error::invalid(path.child("dnsConfig").child("nameservers").index(i), text, why));
        }
    }
}

fn numbers(spec: &Value, path: &Path, errors: &mut ErrorList) {
    not_negative(spec, "terminationGracePeriodSeconds", path, errors);
    if let Some(seconds) = object::number(spec, &["activeDeadlineSeconds"])
        && !(1..=2_147_483_647).contains(&seconds)
    {
        let detail = name::range_error(1, 2_147_483_647);
        errors.push(Error::invalid(path.child("activeDeadlineSeconds"), seconds, detail));
    }
}

fn names(spec: &Value, path: &Path, errors: &mut ErrorList) {
    type Check = fn(&str) -> Result<(), String>;
    let checks: [(&'static str, Check); 6] = [
        ("serviceAccountName", name::dns1123_subdomain),
        ("nodeName", name::dns1123_subdomain),
        ("hostname", name::dns1123_label),
        ("subdomain", name::dns1123_label),
        ("priorityClassName", name::dns1123_subdomain),
        ("runtimeClassName", name::dns1123_subdomain),
    ];
    for (field, check) in checks {
        let given = object::text(spec, &[field]);
        if !given.is_empty()
            && let Err(why) = check(given)
        {
            errors.push(Error::invalid(path.child(field), given, why));
        }
    }
    for (key, value) in object::at(spec, &["nodeSelector"]).and_then(Value::as_object).into_iter().flatten() {
        let at = path.child("nodeSelector");
        errors.extend(
            name::qualified_name_faults(key).into_iter().map(|why| Error::invalid(&at, key.as_str(), why)),
        );
        let value = value.as_str().unwrap_or_default();
        errors.extend(name::label_value_faults(value).into_iter().map(|why| Error::invalid(&at, value, why)));
    }
}

const SYSCTL: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn is_sysctl(name: &str) -> bool {
    let part = |text: &str| {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if word(*a) && word(*z))
            && bytes.iter().all(|b| word(*b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

fn security_context(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(context) = object::at(spec, &["securityContext"]) else { return };
    let path = path.child("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = object::number(context, &[field])
            && !(0..=4_294_967_295).contains(&id)
        {
            errors.push(Error::invalid(path.child(field), id, name::range_error(0, 4_294_967_295)));
        }
    }
    one_of(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], &path, errors);
    one_of(context, "supplementalGroupsPolicy", &["Merge", "Strict"], &path, errors);
    let mut seen = BTreeSet::new();
    for (i, sysctl) in object::list(context, &["sysctls"]).iter().enumerate() {
        let at = path.child("sysctls").index(i).child("name");
        let given = object::text(sysctl, &["name"]);
        if given.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if !is_sysctl(given) {
            let detail = format!("must have at most 253 characters and match regex {SYSCTL}");
            errors.push(Error::invalid(&at, given, detail));
        } else if !seen.insert(given.replace('/', ".")) {
            errors.push(Error::duplicate(&at, given));
        }
    }
}

/// Two containers cannot have one port of the host.
fn host_ports(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let host_network = object::at(spec, &["hostNetwork"]) == Some(&Value::Bool(true));
    let mut taken = BTreeSet::new();
    for (i, container) in object::list(spec, &["containers"]).iter().enumerate() {
        for (j, port) in object::list(container, &["ports"]).iter().enumerate() {
            let number = object::number(port, &["hostPort"]).unwrap_or(0);
            let at = path.child("containers").index(i).child("ports").index(j);
            if host_network && number != 0 && object::number(port, &["containerPort"]) != Some(number) {
                let detail = "must match `hostPort` when `hostNetwork` is true";
                let given = object::number(port, &["containerPort"]).unwrap_or(0);
                errors.push(Error::invalid(at.child("containerPort"), given, detail));
            }
            let key = (
                object::text(port, &["protocol"]).to_owned(),
                object::text(port, &["hostIP"]).to_owned(),
                number,
            );
            if number != 0 && !taken.insert(key.clone()) {
                let shown = format!("{}/{}/{}", key.0, key.1, key.2);
                errors.push(Error::duplicate(at.child("hostPort"), shown));
            }
        }
    }
}

fn tolerations(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, toleration) in object::list(spec, &["tolerations"]).iter().enumerate() {
        let at = path.child("tolerations").index(i);
        let text = |field: &str| object::text(toleration, &[field]);
        let (key, operator, value, effect) = (text("key"), text("operator"), text("value"), text("effect"));
        if !key.is_empty() {
            errors.extend(
                name::qualified_name_faults(key).into_iter().map(|w| Error::invalid(at.child("key"), key, w)),
            );
        } else if operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(at.child("operator"), operator, detail));
        }
        if object::number(toleration, &["tolerationSeconds"]).is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(Error::invalid(at.child("effect"), effect, detail));
        }
        match operator {
            "Equal" | "" => {
                let faults = name::label_value_faults(value).into_iter();
                errors.extend(faults.map(|why| Error::invalid(at.child("operator"), value, why)));
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(Error::invalid(at.child("operator"), value, detail));
            }
            "Exists" | "Gt" | "Lt" => {}
            other => errors.push(Error::not_supported(at.child("operator"), other, &["Equal", "Exists"])),
        }
        one_of(toleration, "effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"], &at, errors);
    }
}

fn affinity(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(affinity) = object::at(spec, &["affinity"]) else { return };
    let path = path.child("affinity");
    node_affinity(affinity, &path.child("nodeAffinity"), errors);
    for field in ["podAffinity", "podAntiAffinity"] {
        let at = path.child(field);
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in object::list(affinity, &[field, required]).iter().enumerate() {
            pod_term(term, &at.child(required).index(i), errors);
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, weighted) in object::list(affinity, &[field, preferred]).iter().enumerate() {
            let at = at.child(preferred).index(i);
            weight(weighted, &at, errors);
            pod_term(
                weighted.get("podAffinityTerm").unwrap_or(&Value::Null),
                &at.child("podAffinityTerm"),
                errors,
            );
        }
    }
}

fn weight(term: &Value, path: &Path, errors: &mut ErrorList) {
    let given = object::number(term, &["weight"]).unwrap_or(0);
    if !(1..=100).contains(&given) {
        errors.push(Error::invalid(path.child("weight"), given, "must be in the range 1-100"));
    }
}

fn pod_term(term: &Value, path: &Path, errors: &mut ErrorList) {
    let key = object::text(term, &["topologyKey"]);
    if key.is_empty() {
        errors.push(Error::required(path.child("topologyKey"), "can not be empty"));
    }
    errors.extend(
        name::qualified_name_faults(key)
            .into_iter()
            .map(|why| Error::invalid(path.child("topologyKey"), key, why)),
    );
    for field in ["labelSelector", "namespaceSelector"] {
        if let Some(value) = object::at(term, &[field]) {
            errors.extend(selector::validate_label_selector(value, &path.child(field)));
        }
    }
}

fn node_affinity(affinity: &Value, path: &Path, errors: &mut ErrorList) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    if let Some(selector) = object::at(affinity, &["nodeAffinity", required]) {
        node_selector(selector, &path.child(required), errors);
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (i, term) in object::list(affinity, &["nodeAffinity", preferred]).iter().enumerate() {
        let at = path.child(preferred).index(i);
        weight(term, &at, errors);
        node_term(term.get("preference").unwrap_or(&Value::Null), &at.child("preference"), errors);
    }
}

/// A `NodeSelector`, of pods and of volumes.
pub(crate) fn node_selector(selector: &Value, path: &Path, errors: &mut ErrorList) {
    let terms = object::list(selector, &["nodeSelectorTerms"]);
    let path = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(Error::required(&path, "must have at least one node selector term"));
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(term, &path.index(i), errors);
    }
}

fn node_term(term: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, rule) in object::list(term, &["matchExpressions"]).iter().enumerate() {
        let at = path.child("matchExpressions").index(i);
        let (key, operator) = (object::text(rule, &["key"]), object::text(rule, &["operator"]));
        let count = object::list(rule, &["values"]).len();
        match operator {
            "In" | "NotIn" if count == 0 => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(Error::required(at.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(Error::forbidden(at.child("values"), detail));
            }
            "Gt" | "Lt" if count != 1 => {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(Error::required(at.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => {
                errors.push(Error::invalid(at.child("operator"), other, "not a valid selector operator"));
            }
        }
        errors.extend(
            name::qualified_name_faults(key).into_iter().map(|why| Error::invalid(at.child("key"), key, why)),
        );
    }
    for (i, rule) in object::list(term, &["matchFields"]).iter().enumerate() {
        let at = path.child("matchFields").index(i);
        let key = object::text(rule, &["key"]);
        if key != "metadata.name" {
            errors.push(Error::invalid(at.child("key"), key, "not a valid field selector key"));
        }
        if !matches!(object::text(rule, &["operator"]), "In" | "NotIn") {
            let given = object::text(rule, &["operator"]);
            errors.push(Error::invalid(at.child("operator"), given, "not a valid selector operator"));
        } else if object::list(rule, &["values"]).len() != 1 {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(Error::required(at.child("values"), detail));
        }
    }
}

fn spread_constraints(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, one) in object::list(spec, &["topologySpreadConstraints"]).iter().enumerate() {
        let at = path.child("topologySpreadConstraints").index(i);
        let skew = object::number(one, &["maxSkew"]).unwrap_or(0);
        if skew <= 0 {
            errors.push(Error::invalid(at.child("maxSkew"), skew, "must be greater than zero"));
        }
        let key = object::text(one, &["topologyKey"]);
        if key.is_empty() {
            errors.push(Error::required(at.child("topologyKey"), "can not be empty"));
        }
        let action = object::text(one, &["whenUnsatisfiable"]);
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            let allowed = ["DoNotSchedule", "ScheduleAnyway"];
            errors.push(Error::not_supported(at.child("whenUnsatisfiable"), action, &allowed));
        }
        if !seen.insert((key, action)) {
            errors.push(Error::duplicate(
                at.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{key}, {action}}}"),
            ));
        }
        if let Some(domains) = object::number(one, &["minDomains"]) {
            if domains <= 0 {
                errors.push(Error::invalid(at.child("minDomains"), domains, "must be greater than zero"));
            }
            if action != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(Error::invalid(at.child("minDomains"), domains, detail));
            }
        }
        one_of(one, "nodeAffinityPolicy", &["Honor", "Ignore"], &at, errors);
        one_of(one, "nodeTaintsPolicy", &["Honor", "Ignore"], &at, errors);
        if let Some(value) = object::at(one, &["labelSelector"]) {
            errors.extend(selector::validate_label_selector(value, &at.child("labelSelector")));
        }
    }
}

fn small_lists(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, secret) in object::list(spec, &["imagePullSecrets"]).iter().enumerate() {
        if object::text(secret, &["name"]).is_empty() {
            errors.push(Error::required(path.child("imagePullSecrets").index(i).child("name"), ""));
        }
    }
    for (i, gate) in object::list(spec, &["readinessGates"]).iter().enumerate() {
        let given = object::text(gate, &["conditionType"]);
        let at = path.child("readinessGates").index(i).child("conditionType");
        errors.extend(
            name::qualified_name_faults(given).into_iter().map(|why| Error::invalid(&at, given, why)),
        );
    }
    let mut gates = BTreeSet::new();
    for (i, gate) in object::list(spec, &["schedulingGates"]).iter().enumerate() {
        let given = object::text(gate, &["name"]);
        let at = path.child("schedulingGates").index(i);
        errors.extend(
            name::qualified_name_faults(given).into_iter().map(|why| Error::invalid(&at, given, why)),
        );
        if !gates.insert(given) {
            errors.push(Error::duplicate(&at, given));
        }
    }
    for (i, alias) in object::list(spec, &["hostAliases"]).iter().enumerate() {
        let at = path.child("hostAliases").index(i);
        let ip = object::text(alias, &["ip"]);
        if let Err(why) = name::ip(ip) {
            errors.push(Error::invalid(at.child("ip"), ip, why));
        }
        for (j, host) in object::list(alias, &["hostnames"]).iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            if let Err(why) = name::dns1123_subdomain(host) {
                errors.push(Error::invalid(at.child("hostnames").index(j), host, why));
            }
        }
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

    #[test]
    fn a_good_pod_has_no_faults() {
        let good = json!({
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "nodeSelector": {"a/b": "c"},
            "containers": [{"name": "a", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}],
                "env": [{"name": "X", "value": "1"}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1,
                                  "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]});
        assert_eq!(faults(&good), "");
    }

    #[test]
    fn faults_are_upstreams() {
        expect![[r#"
            spec.containers: Required value
            spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"
            spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0
            spec.securityContext.sysctls[0].name: Invalid value: "foo-": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$
            spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys"
            spec.tolerations[0].effect: Unsupported value: "No": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero
            spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty
        "#]]
        .assert_eq(&faults(&json!({
            "restartPolicy": "Sometimes", "terminationGracePeriodSeconds": -1,
            "securityContext": {"sysctls": [{"name": "foo-", "value": "1"}]},
            "tolerations": [{"effect": "No"}],
            "topologySpreadConstraints": [{"whenUnsatisfiable": "DoNotSchedule"}]})));
    }
}
