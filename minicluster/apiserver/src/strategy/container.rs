//! Validation of containers: names, images, ports, what starts and stops them.
//!
//! Texts, paths and their order are upstream's. Source: `validateContainers`, `validateInitContainers`,
//! `validateEphemeralContainers` of `pkg/apis/core/validation/validation.go`.

pub(super) mod env;
mod mounts;
mod probes;
pub(super) mod resources;

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
};

pub(crate) use self::probes::handler_port;
use super::{
    pod_spec::{one_of_required, security, told},
    volumes::Volumes,
};
use crate::object;

/// What all containers of a pod are checked against.
struct Pod<'v> {
    spec: &'v Value,
    volumes: &'v Volumes,
    claims: BTreeSet<&'v str>,
}

/// Calls a function for every container, with its path, in upstream's order.
pub(super) fn each<'v>(spec: &'v Value, path: &Path, mut visit: impl FnMut(&'v Value, &Path)) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in object::list(spec, &[list]).iter().enumerate() {
            visit(container, &path.child(list).index(i));
        }
    }
}

/// Checks every container of a pod spec.
pub(super) fn validate_all(spec: &Value, volumes: &Volumes, path: &Path, errors: &mut ErrorList) {
    let claims = object::list(spec, &["resourceClaims"]).iter().map(|claim| object::text(claim, &["name"]));
    let pod = Pod { spec, volumes, claims: claims.filter(|name| !name.is_empty()).collect() };
    regular(&pod, &path.child("containers"), errors);
    initial(&pod, &path.child("initContainers"), errors);
    ephemeral(&pod, &path.child("ephemeralContainers"), errors);
}

fn regular(pod: &Pod<'_>, path: &Path, errors: &mut ErrorList) {
    let containers = object::list(pod.spec, &["containers"]);
    if containers.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        common(pod, container, &at, errors);
        let given = object::text(container, &["name"]);
        if !names.insert(given) {
            errors.push(Error::duplicate(at.child("name"), given));
        }
        probes::lifecycle(pod.spec, container, &at, errors);
        probes::all(container, &at, errors);
        restart_rules(container, &at, errors);
    }
    host_ports(containers, path, errors);
}

fn initial(pod: &Pod<'_>, path: &Path, errors: &mut ErrorList) {
    let mut names: BTreeSet<&str> =
        object::list(pod.spec, &["containers"]).iter().map(|c| object::text(c, &["name"])).collect();
    for (i, container) in object::list(pod.spec, &["initContainers"]).iter().enumerate() {
        let at = path.index(i);
        common(pod, container, &at, errors);
        restart_rules(container, &at, errors);
        let given = object::text(container, &["name"]);
        if names.contains(given) {
            errors.push(Error::duplicate(at.child("name"), given));
        } else if !given.is_empty() {
            names.insert(given);
        }
        // The path that upstream gives is that of the first container, whichever it is.
        host_ports(std::slice::from_ref(container), path, errors);
        if object::text(container, &["restartPolicy"]) == "Always" {
            probes::lifecycle(pod.spec, container, &at, errors);
            probes::all(container, &at, errors);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if object::at(container, &[field]).is_some() {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.push(Error::forbidden(at.child(field), detail));
            }
        }
        for (j, policy) in object::list(container, &["resizePolicy"]).iter().enumerate() {
            if object::text(policy, &["restartPolicy"]) == "RestartContainer" {
                let at = at.child("resizePolicy").index(j).child("restartPolicy");
                let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                errors.push(Error::invalid(at, "RestartContainer", detail));
            }
        }
    }
}

fn ephemeral(pod: &Pod<'_>, path: &Path, errors: &mut ErrorList) {
    const BARRED: [&str; 9] = [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    const DETAIL: &str = "cannot be set for an Ephemeral Container";
    let others: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| object::list(pod.spec, &[list]))
        .map(|container| object::text(container, &["name"]))
        .collect();
    let mut names = others.clone();
    for (i, container) in object::list(pod.spec, &["ephemeralContainers"]).iter().enumerate() {
        let at = path.index(i);
        common(pod, container, &at, errors);
        image_is_trimmed(container, &at, errors);
        let given = object::text(container, &["name"]);
        if !names.insert(given) {
            errors.push(Error::duplicate(at.child("name"), given));
        }
        let target = object::text(container, &["targetContainerName"]);
        if !target.is_empty() && !others.contains(target) {
            errors.push(Error::not_found(at.child("targetContainerName"), target));
        }
        for field in BARRED {
            let set = match object::at(container, &[field]) {
                Some(Value::Object(map)) if field == "resources" => !map.is_empty(),
                other => other.is_some(),
            };
            if set {
                errors.push(Error::forbidden(at.child(field), DETAIL));
            }
        }
        for (j, mount) in object::list(container, &["volumeMounts"]).iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !object::text(mount, &[field]).is_empty() {
                    errors.push(Error::forbidden(at.child("volumeMounts").index(j).child(field), DETAIL));
                }
            }
        }
    }
}

/// What a Pod says and a template need not: the images of its containers have no spaces around them.
pub(super) fn images_are_trimmed(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for list in ["containers", "initContainers"] {
        for (i, container) in object::list(spec, &[list]).iter().enumerate() {
            image_is_trimmed(container, &path.child(list).index(i), errors);
        }
    }
}

fn image_is_trimmed(container: &Value, path: &Path, errors: &mut ErrorList) {
    let image = object::text(container, &["image"]);
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(Error::invalid(path.child("image"), image, detail));
    }
}

/// What is checked of containers of every sort.
fn common(pod: &Pod<'_>, container: &Value, path: &Path, errors: &mut ErrorList) {
    let given = object::text(container, &["name"]);
    if given.is_empty() {
        errors.push(Error::required(path.child("name"), ""));
    } else {
        told(name::dns1123_label_faults(given), &path.child("name"), given, errors);
    }
    if object::text(container, &["image"]).is_empty() {
        errors.push(Error::required(path.child("image"), ""));
    }
    one_of_required(container, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], path, errors);
    ports(container, &path.child("ports"), errors);
    env::validate(container, path, errors);
    mounts::validate(container, pod.volumes, path, errors);
    one_of_required(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
    if let Some(given) = object::at(container, &["resources"]) {
        resources::of_container(given, &pod.claims, &path.child("resources"), errors);
    }
    let never = object::text(pod.spec, &["restartPolicy"]) == "Never";
    resources::resize_policy(container, never, &path.child("resizePolicy"), errors);
    security::of_container(pod.spec, container, path, errors);
}

fn in_range(number: i64, path: &Path, errors: &mut ErrorList) {
    if let Err(why) = name::port_number(number) {
        errors.push(Error::invalid(path, number, why));
    }
}

fn ports(container: &Value, path: &Path, errors: &mut ErrorList) {
    const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
    let mut names = BTreeSet::new();
    for (i, port) in object::list(container, &["ports"]).iter().enumerate() {
        let at = path.index(i);
        let given = object::text(port, &["name"]);
        if !given.is_empty() {
            let faults = name::port_name_faults(given);
            if faults.is_empty() && !names.insert(given) {
                errors.push(Error::duplicate(at.child("name"), given));
            }
            told(faults, &at.child("name"), given, errors);
        }
        let number = |field: &str| object::number(port, &[field]).unwrap_or(0);
        match number("containerPort") {
            0 => errors.push(Error::required(at.child("containerPort"), "")),
            number => in_range(number, &at.child("containerPort"), errors),
        }
        if number("hostPort") != 0 {
            in_range(number("hostPort"), &at.child("hostPort"), errors);
        }
        one_of_required(port, "protocol", &PROTOCOLS, &at, errors);
    }
}

/// Two containers cannot have one port of the host.
fn host_ports(containers: &[Value], path: &Path, errors: &mut ErrorList) {
    let mut taken = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in object::list(container, &["ports"]).iter().enumerate() {
            let number = object::number(port, &["hostPort"]).unwrap_or(0);
            let text = |field: &str| object::text(port, &[field]);
            let shown = format!("{}/{}/{number}", text("protocol"), text("hostIP"));
            if number != 0 && !taken.insert(shown.clone()) {
                let at = path.index(i).child("ports").index(j).child("hostPort");
                errors.push(Error::duplicate(at, shown));
            }
        }
    }
}

const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

/// When a container is restarted by rules of its own.
fn restart_rules(container: &Value, path: &Path, errors: &mut ErrorList) {
    const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
    const ACTIONS: [&str; 2] = ["Restart", "RestartAllContainers"];
    const OPERATORS: [&str; 2] = ["In", "NotIn"];
    let rules = object::list(container, &["restartPolicyRules"]);
    let at = path.child("restartPolicy");
    match object::at(container, &["restartPolicy"]).and_then(Value::as_str) {
        None if rules.is_empty() => return,
        None => errors.push(Error::required(at, "must specify restartPolicy when restart rules are used")),
        Some(given) if !POLICIES.contains(&given) => {
            errors.push(Error::not_supported(at, given, &POLICIES));
        }
        Some(_) => {}
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > RESTART_RULES_MAX {
        errors.push(Error::too_many(&path, rules.len(), RESTART_RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = path.index(i);
        let action = object::text(rule, &["action"]);
        if !ACTIONS.contains(&action) {
            errors.push(Error::not_supported(at.child("action"), action, &ACTIONS));
        }
        let at = at.child("exitCodes");
        let Some(codes) = object::at(rule, &["exitCodes"]) else {
            errors.push(Error::required(at, "must be specified"));
            continue;
        };
        let operator = object::text(codes, &["operator"]);
        if !OPERATORS.contains(&operator) {
            errors.push(Error::not_supported(at.child("operator"), operator, &OPERATORS));
        }
        let count = object::list(codes, &["values"]).len();
        if count > EXIT_CODES_MAX {
            errors.push(Error::too_many(at.child("values"), count, EXIT_CODES_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use windlass_crd::field;

    fn container(more: &Value) -> Value {
        let mut container = json!({"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"});
        for (key, value) in more.as_object().unwrap() {
            container[key] = value.clone();
        }
        container
    }

    fn faults(spec: &Value) -> String {
        let mut errors = ErrorList::new();
        let volumes = Volumes::from([("v".to_owned(), true), ("d".to_owned(), false)]);
        validate_all(spec, &volumes, &field::root("spec"), &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    /// One container with these fields, and what is said about it. Cases of upstream's `TestValidateContainers`.
    #[test]
    fn one_fault_at_a_time() {
        let at = "spec.containers[0]";
        let cases = [
            (json!({}), String::new()),
            (json!({"name": ""}), format!("{at}.name: Required value")),
            (json!({"image": ""}), format!("{at}.image: Required value")),
            (
                json!({"imagePullPolicy": "X"}),
                format!(
                    "{at}.imagePullPolicy: Unsupported value: \"X\": supported values: \"Always\", \"IfNotPresent\", \"Never\""
                ),
            ),
            (
                json!({"terminationMessagePolicy": "X"}),
                format!(
                    "{at}.terminationMessagePolicy: Unsupported value: \"X\": supported values: \"File\", \"FallbackToLogsOnError\""
                ),
            ),
            (json!({"ports": [{"protocol": "TCP"}]}), format!("{at}.ports[0].containerPort: Required value")),
            (
                json!({"ports": [{"containerPort": 65536, "protocol": "TCP"}]}),
                format!(
                    "{at}.ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive"
                ),
            ),
            (
                json!({"ports": [{"containerPort": 1, "protocol": "tcp"}]}),
                format!(
                    "{at}.ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\""
                ),
            ),
            (
                json!({"ports": [{"containerPort": 1, "hostPort": 2, "protocol": "TCP"}, {"containerPort": 2, "hostPort": 2, "protocol": "TCP"}]}),
                format!("{at}.ports[1].hostPort: Duplicate value: \"TCP//2\""),
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {}}]}),
                format!(
                    "{at}.env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
                ),
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}}}]}),
                format!(
                    "{at}.env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\""
                ),
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "3m"}}}]}),
                format!(
                    "{at}.env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource"
                ),
            ),
            (
                json!({"envFrom": [{}]}),
                format!(
                    "{at}.envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"
                ),
            ),
            (
                json!({"volumeMounts": [{"name": "w", "mountPath": "/w"}]}),
                format!("{at}.volumeMounts[0].name: Not found: \"w\""),
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]}),
                format!(
                    "{at}.volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers"
                ),
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "recursiveReadOnly": "Enabled"}]}),
                format!(
                    "{at}.volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true"
                ),
            ),
            (
                json!({"volumeDevices": [{"name": "d", "devicePath": "/d"}]}),
                format!(
                    "{at}.volumeDevices[0].name: Invalid value: \"d\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
                ),
            ),
            (
                json!({"resources": {"requests": {"example.com/a": "1"}}}),
                format!(
                    "{at}.resources.limits: Required value: Limit must be set for non overcommitable resources"
                ),
            ),
            (
                json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}),
                format!("{at}.resources: Forbidden: HugePages require cpu or memory"),
            ),
            (
                json!({"resources": {"claims": [{"name": "x"}]}}),
                format!(
                    "{at}.resources.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is empty"
                ),
            ),
            (
                json!({"resizePolicy": [{"resourceName": "x", "restartPolicy": "NotRequired"}]}),
                format!("{at}.resizePolicy: Unsupported value: \"x\": supported values: \"cpu\", \"memory\""),
            ),
            (
                json!({"lifecycle": {"preStop": {}}}),
                format!("{at}.lifecycle.preStop: Required value: must specify a handler type"),
            ),
            (
                json!({"lifecycle": {"preStop": {"sleep": {"seconds": 60}}}}),
                format!(
                    "{at}.lifecycle.preStop.sleep: Invalid value: 60: must be non-negative and less than terminationGracePeriodSeconds (30)"
                ),
            ),
            (
                json!({"livenessProbe": {"tcpSocket": {"port": 0}, "successThreshold": 2}}),
                format!(
                    "{at}.livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive\n{at}.livenessProbe.successThreshold: Invalid value: 2: must be 1"
                ),
            ),
            (
                json!({"restartPolicyRules": [{"action": "Restart"}]}),
                format!(
                    "{at}.restartPolicy: Required value: must specify restartPolicy when restart rules are used\n{at}.restartPolicyRules[0].exitCodes: Required value: must be specified"
                ),
            ),
        ];
        for (more, expected) in cases {
            let spec = json!({"terminationGracePeriodSeconds": 30, "containers": [container(&more)]});
            assert_eq!(faults(&spec), expected, "{more}");
        }
    }

    #[test]
    fn names_are_unique_across_sorts() {
        let spec = json!({"containers": [container(&json!({})), container(&json!({}))],
            "initContainers": [container(&json!({"lifecycle": {}}))],
            "ephemeralContainers": [container(&json!({"name": "e", "targetContainerName": "none", "ports": [{"containerPort": 1, "protocol": "TCP"}]}))]});
        assert_eq!(
            faults(&spec),
            "spec.containers[1].name: Duplicate value: \"c\"\n\
             spec.initContainers[0].name: Duplicate value: \"c\"\n\
             spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always\n\
             spec.ephemeralContainers[0].targetContainerName: Not found: \"none\"\n\
             spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container"
        );
    }
}
