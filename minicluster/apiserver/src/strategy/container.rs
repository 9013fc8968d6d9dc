//! Validation of containers: names, images, ports, environment, mounts, resources, probes, hooks.
//!
//! Source: `pkg/apis/core/validation/validation.go`, `validateContainers` and around.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
    quantity::Quantity,
};

use super::pod_spec::{not_negative, one_of};
use crate::object;

/// Checks every container of a pod spec.
pub(super) fn validate_all(spec: &Value, volumes: &BTreeSet<String>, path: &Path, errors: &mut ErrorList) {
    let containers = object::list(spec, &["containers"]);
    if containers.is_empty() {
        errors.push(Error::required(path.child("containers"), ""));
    }
    let mut names = BTreeSet::new();
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (i, container) in object::list(spec, &[list]).iter().enumerate() {
            let at = path.child(list).index(i);
            check_name(container, &mut names, &at, errors);
            validate(container, volumes, &at, errors);
            match list {
                "initContainers" => init_rules(container, &at, errors),
                "ephemeralContainers" => ephemeral_rules(container, &names, &at, errors),
                _ => probes(container, &at, errors),
            }
        }
    }
}

fn check_name(container: &Value, names: &mut BTreeSet<String>, path: &Path, errors: &mut ErrorList) {
    let given = object::text(container, &["name"]);
    let at = path.child("name");
    if given.is_empty() {
        errors.push(Error::required(&at, ""));
        return;
    }
    errors.extend(name::dns1123_label_faults(given).into_iter().map(|why| Error::invalid(&at, given, why)));
    if !names.insert(given.to_owned()) {
        errors.push(Error::duplicate(&at, given));
    }
}

fn validate(container: &Value, volumes: &BTreeSet<String>, path: &Path, errors: &mut ErrorList) {
    let image = object::text(container, &["image"]);
    if image.is_empty() {
        errors.push(Error::required(path.child("image"), ""));
    } else if image.trim() != image {
        errors.push(Error::invalid(
            path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    one_of(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
    one_of(container, "terminationMessagePolicy", &["FallbackToLogsOnError", "File"], path, errors);
    ports(container, path, errors);
    environment(container, path, errors);
    mounts(container, volumes, path, errors);
    if let Some(resources) = object::at(container, &["resources"]) {
        validate_resources(resources, &path.child("resources"), errors);
    }
    lifecycle(container, path, errors);
    if let Some(context) = object::at(container, &["securityContext"]) {
        security_context(context, &path.child("securityContext"), errors);
    }
}

fn init_rules(container: &Value, path: &Path, errors: &mut ErrorList) {
    if object::text(container, &["restartPolicy"]) == "Always" {
        probes(container, path, errors);
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if object::at(container, &[field]).is_some() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(Error::forbidden(path.child(field), detail));
        }
    }
}

fn ephemeral_rules(container: &Value, names: &BTreeSet<String>, path: &Path, errors: &mut ErrorList) {
    let target = object::text(container, &["targetContainerName"]);
    if !target.is_empty() && !names.contains(target) {
        errors.push(Error::not_found(path.child("targetContainerName"), target));
    }
    for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        if object::at(container, &[field]).is_some() {
            errors.push(Error::forbidden(path.child(field), "cannot be set for an Ephemeral Container"));
        }
    }
}

fn port_range(port: &Value, field: &'static str, path: &Path, errors: &mut ErrorList) {
    if let Some(number) = object::number(port, &[field]).filter(|n| *n != 0)
        && let Err(why) = name::port_number(number)
    {
        errors.push(Error::invalid(path.child(field), number, why));
    }
}

fn ports(container: &Value, path: &Path, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for (i, port) in object::list(container, &["ports"]).iter().enumerate() {
        let at = path.child("ports").index(i);
        let given = object::text(port, &["name"]);
        if !given.is_empty() {
            let faults = name::port_name_faults(given);
            if faults.is_empty() && !names.insert(given) {
                errors.push(Error::duplicate(at.child("name"), given));
            }
            errors.extend(faults.into_iter().map(|why| Error::invalid(at.child("name"), given, why)));
        }
        if object::number(port, &["containerPort"]).unwrap_or(0) == 0 {
            errors.push(Error::required(at.child("containerPort"), ""));
        }
        port_range(port, "containerPort", &at, errors);
        port_range(port, "hostPort", &at, errors);
        if object::text(port, &["protocol"]).is_empty() {
            errors.push(Error::required(at.child("protocol"), ""));
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
        let host_ip = object::text(port, &["hostIP"]);
        if !host_ip.is_empty()
            && let Err(why) = name::ip(host_ip)
        {
            errors.push(Error::invalid(at.child("hostIP"), host_ip, why));
        }
    }
}

fn environment(container: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, variable) in object::list(container, &["env"]).iter().enumerate() {
        let at = path.child("env").index(i);
        let given = object::text(variable, &["name"]);
        if given.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        } else if let Err(why) = name::env_name(given) {
            errors.push(Error::invalid(at.child("name"), given, why));
        }
        if let Some(source) = object::at(variable, &["valueFrom"]) {
            value_from(variable, source, &at.child("valueFrom"), errors);
        }
    }
    for (i, source) in object::list(container, &["envFrom"]).iter().enumerate() {
        let at = path.child("envFrom").index(i);
        let found =
            ["configMapRef", "secretRef"].into_iter().filter(|field| object::at(source, &[field]).is_some());
        let found: Vec<&str> = found.collect();
        match found.as_slice() {
            [] => errors.push(Error::invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`")),
            [one] => {
                if object::text(source, &[one, "name"]).is_empty() {
                    errors.push(Error::required(at.child((*one).to_owned()).child("name"), ""));
                }
            }
            _ => errors.push(Error::invalid(&at, "", "may not have more than one field specified at a time")),
        }
    }
}

const FIELD_PATHS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn value_from(variable: &Value, source: &Value, path: &Path, errors: &mut ErrorList) {
    let kinds = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let found: Vec<&str> = kinds.into_iter().filter(|kind| object::at(source, &[kind]).is_some()).collect();
    if found.is_empty() {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        errors.push(Error::invalid(path, "", detail));
    } else if !object::text(variable, &["value"]).is_empty() {
        errors.push(Error::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if found.len() > 1 {
        errors.push(Error::invalid(path, "", "may not have more than one field specified at a time"));
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(reference) = object::at(source, &[kind]) {
            let key = object::text(reference, &["key"]);
            if key.is_empty() {
                errors.push(Error::required(path.child(kind).child("key"), ""));
            } else if let Err(why) = name::config_map_key(key) {
                errors.push(Error::invalid(path.child(kind).child("key"), key, why));
            }
        }
    }
    if let Some(reference) = object::at(source, &["fieldRef"]) {
        let given = object::text(reference, &["fieldPath"]);
        let at = path.child("fieldRef").child("fieldPath");
        let subscript = given.starts_with("metadata.labels['") || given.starts_with("metadata.annotations['");
        if given.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if !FIELD_PATHS.contains(&given) && !subscript {
            let detail = format!("error converting fieldPath: field label not supported: {given}");
            errors.push(Error::invalid(&at, given, detail));
        }
    }
}

fn mounts(container: &Value, volumes: &BTreeSet<String>, path: &Path, errors: &mut ErrorList) {
    let mut paths = BTreeSet::new();
    for (i, mount) in object::list(container, &["volumeMounts"]).iter().enumerate() {
        let at = path.child("volumeMounts").index(i);
        let given = object::text(mount, &["name"]);
        if given.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        } else if !volumes.contains(given) {
            errors.push(Error::not_found(at.child("name"), given));
        }
        let place = object::text(mount, &["mountPath"]);
        if place.is_empty() {
            errors.push(Error::required(at.child("mountPath"), ""));
        } else if !paths.insert(place) {
            errors.push(Error::invalid(at.child("mountPath"), place, "must be unique"));
        }
        let sub = object::text(mount, &["subPath"]);
        let sub_expression = object::text(mount, &["subPathExpr"]);
        if !sub.is_empty() && !sub_expression.is_empty() {
            errors.push(Error::invalid(
                at.child("subPathExpr"),
                sub_expression,
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
        for (field, value) in [("subPath", sub), ("subPathExpr", sub_expression)] {
            relative_path(value, &at.child(field), errors);
        }
        one_of(mount, "mountPropagation", &["Bidirectional", "HostToContainer", "None"], &at, errors);
    }
}

/// A path that stays below where it starts.
pub(super) fn relative_path(value: &str, path: &Path, errors: &mut ErrorList) {
    if value.starts_with('/') {
        errors.push(Error::invalid(path, value, "must be a relative path"));
    }
    if value.split('/').any(|part| part == "..") {
        errors.push(Error::invalid(path, value, "must not contain '..'"));
    }
}

/// Requests and limits, of containers, pods and claims.
pub(crate) fn validate_resources(resources: &Value, path: &Path, errors: &mut ErrorList) {
    for list in ["limits", "requests"] {
        for (resource, value) in
            object::at(resources, &[list]).and_then(Value::as_object).into_iter().flatten()
        {
            let at = path.child(list).key(resource);
            resource_name(resource, &at, errors);
            match Quantity::from_json(value) {
                Ok(quantity) if quantity.signum() < 0 => {
                    errors.push(Error::invalid(
                        &at,
                        quantity.to_string(),
                        "must be greater than or equal to 0",
                    ));
                }
                Ok(quantity)
                    if !matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage")
                        && !is_whole(resource, &quantity) =>
                {
                    errors.push(Error::invalid(&at, quantity.to_string(), "must be an integer"));
                }
                Ok(_) => {}
                Err(why) => errors.push(Error::invalid(&at, value.clone(), why.to_string())),
            }
        }
    }
    let quantity = |list: &str, resource: &str| {
        object::at(resources, &[list, resource]).and_then(|value| Quantity::from_json(value).ok())
    };
    for resource in
        object::at(resources, &["requests"]).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k)
    {
        let (Some(request), limit) = (quantity("requests", resource), quantity("limits", resource)) else {
            continue;
        };
        let at = path.child("requests");
        match limit {
            Some(limit) if may_overcommit(resource) && request > limit => {
                let detail = format!("must be less than or equal to {resource} limit of {limit}");
                errors.push(Error::invalid(&at, request.to_string(), detail));
            }
            Some(limit) if !may_overcommit(resource) && request != limit => {
                let detail = format!("must be equal to {resource} limit of {limit}");
                errors.push(Error::invalid(&at, request.to_string(), detail));
            }
            None if !may_overcommit(resource) => {
                errors.push(Error::required(
                    path.child("limits"),
                    "Limit must be set for non overcommitable resources",
                ));
            }
            _ => {}
        }
    }
}

fn is_whole(resource: &str, quantity: &Quantity) -> bool {
    quantity.is_integer() || resource.starts_with("hugepages-") || resource == "storage"
}

/// Native resources may be limited above what is requested; extended ones and huge pages may not.
fn may_overcommit(resource: &str) -> bool {
    let native = !resource.contains('/') || resource.starts_with("kubernetes.io/");
    native && !resource.starts_with("hugepages-")
}

fn resource_name(resource: &str, path: &Path, errors: &mut ErrorList) {
    let faults = name::qualified_name_faults(resource);
    let known = resource.contains('/')
        || resource.starts_with("hugepages-")
        || matches!(resource, "cpu" | "memory" | "ephemeral-storage" | "storage");
    if faults.is_empty() && !known {
        errors.push(Error::invalid(path, resource, "must be a standard resource type or fully qualified"));
        errors.push(Error::invalid(path, resource, "must be a standard resource for containers"));
    }
    errors.extend(faults.into_iter().map(|why| Error::invalid(path, resource, why)));
}

fn probes(container: &Value, path: &Path, errors: &mut ErrorList) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = object::at(container, &[field]) else { continue };
        let at = path.child(field);
        handler(probe, &at, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
        for number in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            not_negative(probe, number, &at, errors);
        }
        let success = object::number(probe, &["successThreshold"]).unwrap_or(1);
        if field != "readinessProbe" && success != 1 {
            errors.push(Error::invalid(at.child("successThreshold"), success, "must be 1"));
        }
        if let Some(seconds) = object::number(probe, &["terminationGracePeriodSeconds"]) {
            if field == "readinessProbe" {
                errors.push(Error::invalid(
                    at.child("terminationGracePeriodSeconds"),
                    seconds,
                    "must not be set for readinessProbes",
                ));
            } else if seconds <= 0 {
                errors.push(Error::invalid(
                    at.child("terminationGracePeriodSeconds"),
                    seconds,
                    "must be greater than 0",
                ));
            }
        }
    }
}

fn lifecycle(container: &Value, path: &Path, errors: &mut ErrorList) {
    for hook in ["postStart", "preStop"] {
        if let Some(value) = object::at(container, &["lifecycle", hook]) {
            let at = path.child("lifecycle").child(hook);
            handler(value, &at, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
        }
    }
}

fn handler(value: &Value, path: &Path, kinds: &[&'static str], errors: &mut ErrorList) {
    let found: Vec<&'static str> =
        kinds.iter().copied().filter(|kind| object::at(value, &[kind]).is_some()).collect();
    if found.is_empty() {
        errors.push(Error::required(path, "must specify a handler type"));
    }
    for extra in found.iter().skip(1) {
        errors.push(Error::forbidden(path.child(*extra), "may not specify more than 1 handler type"));
    }
    let Some(kind) = found.first() else { return };
    let at = path.child(*kind);
    match *kind {
        "exec" if object::list(value, &["exec", "command"]).is_empty() => {
            errors.push(Error::required(at.child("command"), ""));
        }
        "httpGet" => {
            if object::text(value, &["httpGet", "path"]).is_empty() {
                errors.push(Error::required(at.child("path"), ""));
            }
            handler_port(value.pointer("/httpGet/port"), &at.child("port"), errors);
            one_of(&value["httpGet"], "scheme", &["HTTP", "HTTPS"], &at, errors);
        }
        "tcpSocket" => handler_port(value.pointer("/tcpSocket/port"), &at.child("port"), errors),
        "grpc" => handler_port(value.pointer("/grpc/port"), &at.child("port"), errors),
        _ => {}
    }
}

/// A port by number or by name.
pub(crate) fn handler_port(port: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    match port {
        Some(Value::String(text)) => {
            errors.extend(
                name::port_name_faults(text).into_iter().map(|why| Error::invalid(path, text.as_str(), why)),
            );
        }
        other => {
            let number = other.and_then(Value::as_i64).unwrap_or(0);
            if let Err(why) = name::port_number(number) {
                errors.push(Error::invalid(path, number, why));
            }
        }
    }
}

fn security_context(context: &Value, path: &Path, errors: &mut ErrorList) {
    for field in ["runAsUser", "runAsGroup"] {
        if let Some(id) = object::number(context, &[field])
            && !(0..=4_294_967_295).contains(&id)
        {
            errors.push(Error::invalid(path.child(field), id, name::range_error(0, 4_294_967_295)));
        }
    }
    one_of(context, "procMount", &["Default", "Unmasked"], path, errors);
    let escalates = object::at(context, &["allowPrivilegeEscalation"]) == Some(&Value::Bool(false));
    if escalates && object::at(context, &["privileged"]) == Some(&Value::Bool(true)) {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(Error::invalid(path, context.clone(), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;
    use windlass_crd::field;

    fn faults(containers: &Value) -> String {
        let mut errors = ErrorList::new();
        let volumes = BTreeSet::from(["v".to_owned()]);
        validate_all(&json!({"containers": containers}), &volumes, &field::root("spec"), &mut errors);
        errors.iter().map(|e| format!("{e}\n")).collect()
    }

    #[test]
    fn faults_are_upstreams() {
        expect![[r#"
            spec.containers[0].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.containers[0].image: Required value
            spec.containers[0].imagePullPolicy: Unsupported value: "Maybe": supported values: "Always", "IfNotPresent", "Never"
            spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive
            spec.containers[0].env[0].name: Required value
            spec.containers[0].volumeMounts[0].name: Not found: "w"
            spec.containers[0].volumeMounts[0].mountPath: Required value
            spec.containers[0].resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0
            spec.containers[0].livenessProbe: Required value: must specify a handler type
            spec.containers[1].name: Duplicate value: "A"
            spec.containers[1].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1
        "#]]
        .assert_eq(&faults(&json!([
            {"name": "A", "imagePullPolicy": "Maybe", "ports": [{"containerPort": 70000, "protocol": "TCP"}],
             "env": [{"value": "1"}], "volumeMounts": [{"name": "w"}], "resources": {"limits": {"cpu": "-1"}},
             "livenessProbe": {}},
            {"name": "A", "image": "i", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}]))
            .lines().filter(|l| !l.starts_with("spec.containers[1].name: Invalid")).map(|l| format!("{l}\n")).collect::<String>());
    }
}
