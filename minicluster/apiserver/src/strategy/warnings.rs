//! What a pod spec is warned of: what no longer works, what hides something, what matches nothing.
//!
//! Never refuses anything. Source: `pkg/api/pod/warnings.go`, `pkg/api/node/util.go`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use windlass_crd::{field::quote, quantity::Quantity};

use super::Part;
use crate::object;

/// Keys of node labels that have successors.
const NODE_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

/// Volumes whose drivers are gone.
const VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Where most kinds have the template of their pods.
const TEMPLATE: &[&str] = &["spec", "template"];
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The warnings for a pod, or for a template at `prefix` (`spec.template.`).
pub(super) fn pod(pod: &Value, prefix: &str) -> Vec<String> {
    let none = Value::Null;
    let spec = pod.get("spec").unwrap_or(&none);
    let mut out = Vec::new();
    node_labels(spec, prefix, &mut out);
    spreading(spec, prefix, &mut out);
    annotated(pod, &ANNOTATIONS, prefix, &mut out);
    for (i, volume) in object::list(spec, &["volumes"]).iter().enumerate() {
        for (field, why) in VOLUMES.iter().filter(|(field, _)| object::at(volume, &[field]).is_some()) {
            let shown = if *field == "storageos" { "storageOS" } else { field };
            out.push(format!("{prefix}spec.volumes[{i}].{shown}: {why}"));
        }
    }
    twice(spec, prefix, &mut out);
    whole_bytes(spec, &["overhead"], &format!("{prefix}spec.overhead"), &mut out);
    if object::at(spec, &["securityContext", "seccompProfile"]).is_none() {
        annotated(pod, &[("seccomp.security.alpha.kubernetes.io/pod", SECCOMP)], prefix, &mut out);
    }
    for (path, container) in containers(spec, prefix) {
        if object::at(container, &["securityContext", "seccompProfile"]).is_none() {
            let key = format!(
                "container.seccomp.security.alpha.kubernetes.io/{}",
                object::text(container, &["name"])
            );
            annotated(pod, &[(key.as_str(), SECCOMP)], prefix, &mut out);
        }
        for list in ["limits", "requests"] {
            whole_bytes(container, &["resources", list], &format!("{path}.resources.{list}"), &mut out);
        }
        hidden_variables(container, &path, &mut out);
    }
    ports(spec, prefix, &mut out);
    if object::number(spec, &["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        out.push(format!(
            "{prefix}spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    affinity(spec, prefix, &mut out);
    out
}

/// The warnings for the template at a place in an object.
pub(super) fn template(obj: &Value, way: &[&str]) -> Vec<String> {
    let prefix = format!("{}.", way.join("."));
    object::at(obj, way).map(|template| pod(template, &prefix)).unwrap_or_default()
}

/// The same for an update, which warns only of what somebody asks for anew.
pub(super) fn changed_template(obj: &Value, old: &Value, way: &[&str]) -> Vec<String> {
    if is_same(obj, old) { Vec::new() } else { template(obj, way) }
}

/// The warnings for a kind whose pods are named after it and made from `spec.template`.
pub(super) fn workload(obj: &Value) -> Vec<String> {
    name(obj, PODS).into_iter().chain(template(obj, TEMPLATE)).collect()
}

/// The same for an update of such a kind, or of another with a template there.
pub(super) fn changed_workload(part: Part, obj: &Value, old: &Value) -> Vec<String> {
    if part == Part::Main { changed_template(obj, old, TEMPLATE) } else { Vec::new() }
}

/// Whether an update asks for nothing new.
pub(super) fn is_same(obj: &Value, old: &Value) -> bool {
    let generation = |obj: &Value| object::number(obj, &["metadata", "generation"]);
    generation(obj) == generation(old)
}

/// Of a name that pods or their hosts are called by.
pub(super) fn name(obj: &Value, what: &str) -> Option<String> {
    let faults = windlass_crd::name::dns1123_label_faults(object::name(obj));
    if faults.is_empty() {
        return None;
    }
    let faults = faults.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(" ");
    Some(format!(
        "metadata.name: this is used in {what}, which can result in surprising behavior; a DNS label is recommended: \
         [{faults}]"
    ))
}

/// What names of workloads become.
pub(super) const PODS: &str = "Pod names and hostnames";

fn containers<'v>(spec: &'v Value, prefix: &str) -> Vec<(String, &'v Value)> {
    let lists = CONTAINERS.into_iter().flat_map(|list| {
        let items = object::list(spec, &[list]).iter().enumerate();
        items.map(move |(i, item)| (format!("{prefix}spec.{list}[{i}]"), item))
    });
    lists.collect()
}

fn superseded(key: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, why)| *why)
}

fn annotated(pod: &Value, annotations: &[(&str, &str)], prefix: &str, out: &mut Vec<String>) {
    for (key, why) in annotations {
        if object::at(pod, &["metadata", "annotations", key]).is_some() {
            out.push(format!("{prefix}metadata.annotations[{key}]: {why}"));
        }
    }
}

fn node_labels(spec: &Value, prefix: &str, out: &mut Vec<String>) {
    let selector = object::at(spec, &["nodeSelector"]).and_then(Value::as_object);
    for key in selector.into_iter().flat_map(serde_json::Map::keys) {
        out.extend(superseded(key).map(|why| format!("{prefix}spec.nodeSelector[{key}]: {why}")));
    }
    let affinity = ["affinity", "nodeAffinity"];
    let at = format!("{prefix}spec.affinity.nodeAffinity");
    let required =
        [&affinity[..], &["requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"]].concat();
    for (i, term) in object::list(spec, &required).iter().enumerate() {
        let path = format!("{at}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[{i}]");
        term_labels(term, &path, out);
    }
    let preferred = [&affinity[..], &["preferredDuringSchedulingIgnoredDuringExecution"]].concat();
    for (i, term) in object::list(spec, &preferred).iter().enumerate() {
        let path = format!("{at}.preferredDuringSchedulingIgnoredDuringExecution[{i}].preference");
        term_labels(term.get("preference").unwrap_or(&Value::Null), &path, out);
    }
}

fn term_labels(term: &Value, path: &str, out: &mut Vec<String>) {
    for (i, expression) in object::list(term, &["matchExpressions"]).iter().enumerate() {
        let key = object::text(expression, &["key"]);
        out.extend(superseded(key).map(|why| format!("{path}.matchExpressions[{i}].key: {key} is {why}")));
    }
}

fn spreading(spec: &Value, prefix: &str, out: &mut Vec<String>) {
    for (i, constraint) in object::list(spec, &["topologySpreadConstraints"]).iter().enumerate() {
        let path = format!("{prefix}spec.topologySpreadConstraints[{i}]");
        let key = object::text(constraint, &["topologyKey"]);
        out.extend(superseded(key).map(|why| format!("{path}.topologyKey: {key} is {why}")));
        selects_nothing(constraint, &path, out);
    }
}

fn selects_nothing(holder: &Value, path: &str, out: &mut Vec<String>) {
    if object::at(holder, &["labelSelector"]).is_none() {
        out.push(format!("{path}.labelSelector: a null labelSelector results in matching no pod"));
    }
}

fn affinity(spec: &Value, prefix: &str, out: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = format!("{prefix}spec.affinity.{kind}");
        let terms = |when| object::list(spec, &["affinity", kind, when]).iter().enumerate();
        for (i, term) in terms("requiredDuringSchedulingIgnoredDuringExecution") {
            selects_nothing(term, &format!("{at}.requiredDuringSchedulingIgnoredDuringExecution[{i}]"), out);
        }
        for (i, term) in terms("preferredDuringSchedulingIgnoredDuringExecution") {
            let path = format!("{at}.preferredDuringSchedulingIgnoredDuringExecution[{i}].podAffinityTerm");
            selects_nothing(term.get("podAffinityTerm").unwrap_or(&Value::Null), &path, out);
        }
    }
}

fn twice(spec: &Value, prefix: &str, out: &mut Vec<String>) {
    let secrets = object::list(spec, &["imagePullSecrets"]);
    for (list, field) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let mut seen = BTreeSet::new();
        for (i, item) in object::list(spec, &[list]).iter().enumerate() {
            let value = object::text(item, &[field]);
            if !seen.insert(value) {
                out.push(format!("{prefix}spec.{list}[{i}].{field}: duplicate {field} {}", quote(value)));
            }
        }
    }
    for (i, _) in secrets.iter().enumerate().filter(|(_, item)| object::text(item, &["name"]).is_empty()) {
        out.push(format!("{prefix}spec.imagePullSecrets[{i}].name: invalid empty name \"\""));
    }
}

fn whole_bytes(holder: &Value, way: &[&str], path: &str, out: &mut Vec<String>) {
    for resource in ["memory", "ephemeral-storage"] {
        let given = object::at(holder, &[way, &[resource]].concat()).cloned();
        let Some(amount) = given.and_then(|given| Quantity::from_json(&given).ok()) else { continue };
        if amount.milli_value() % 1000 != 0 {
            let shown = quote(&amount.to_string());
            out.push(format!(
                "{path}[{resource}]: fractional byte value {shown} is invalid, must be an integer"
            ));
        }
    }
}

fn hidden_variables(container: &Value, path: &str, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, variable) in object::list(container, &["env"]).iter().enumerate() {
        let name = object::text(variable, &["name"]);
        if seen.insert(name) {
            continue;
        }
        let (value, itself) = (object::text(variable, &["value"]), format!("$({name})"));
        let extends = value.contains(&itself) && value != itself;
        if object::at(variable, &["valueFrom"]).is_some() || !extends {
            let name = quote(name);
            out.push(format!(
                "{path}.env[{i}]: hides previous definition of {name}, which may be dropped when using apply"
            ));
        }
    }
}

fn ports(spec: &Value, prefix: &str, out: &mut Vec<String>) {
    let all: Vec<(String, &Value)> = containers(spec, prefix)
        .into_iter()
        .flat_map(|(path, container)| {
            let ports = object::list(container, &["ports"]).iter().enumerate();
            ports.map(move |(i, port)| (format!("{path}.ports[{i}]"), port))
        })
        .collect();
    let number = |port: &Value, field| object::number(port, &[field]).unwrap_or(0);
    let mut known: BTreeMap<(i64, &str), Vec<(&str, &Value)>> = BTreeMap::new();
    for (path, port) in &all {
        let (ip, host) = (object::text(port, &["hostIP"]), number(port, "hostPort"));
        let (inside, protocol) = (number(port, "containerPort"), object::text(port, &["protocol"]));
        if !ip.is_empty() && host == 0 {
            let name = object::text(port, &["name"]);
            out.push(format!(
                "{path}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{inside} Protocol:{protocol} \
                 HostIP:{ip}}}"
            ));
        }
        let others = known.entry((inside, protocol)).or_default();
        for (other, there) in others.iter() {
            let (other_ip, other_host) = (object::text(there, &["hostIP"]), number(there, "hostPort"));
            let how = if ip == other_ip && host == other_host {
                "duplicate"
            } else if host == 0 || other_host == 0 {
                "overlapping"
            } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{path}: {how} port definition with {other}"));
        }
        others.push((path, port));
    }
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    for (path, port) in &all {
        let name = object::text(port, &["name"]);
        match names.get(name) {
            _ if name.is_empty() => {}
            Some(first) => out.push(format!(
                "{path}: duplicate port name {} with {first}, services and probes that select ports by name will use {first}",
                quote(name)
            )),
            None => {
                names.insert(name, path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Cases of upstream's `TestWarnings`.
    #[test]
    fn pods_are_warned_of() {
        let cases = [
            (
                json!({"volumes": [{"name": "v", "rbd": {}}]}),
                "spec.volumes[0].rbd: deprecated in v1.28, non-functional in v1.31+",
            ),
            (
                json!({"hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}]}),
                "spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\"",
            ),
            (
                json!({"imagePullSecrets": [{"name": ""}]}),
                "spec.imagePullSecrets[0].name: invalid empty name \"\"",
            ),
            (
                json!({"containers": [{"name": "a", "env": [{"name": "A", "value": "x"}, {"name": "A", "value": "$(A)y"},
                    {"name": "A", "value": "z"}]}]}),
                "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
            ),
            (
                json!({"containers": [{"name": "a", "resources": {"limits": {"memory": "100m"}}}]}),
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
                    {"name": "b", "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]}]}),
                "spec.containers[1].ports[0]: overlapping port definition with spec.containers[0].ports[0]",
            ),
            (
                json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            ),
        ];
        for (spec, text) in cases {
            assert_eq!(pod(&json!({ "spec": spec }), ""), [text]);
        }
        let spread = json!({"spec": {"topologySpreadConstraints": [{"topologyKey": "a"}]}});
        assert_eq!(
            pod(&spread, "template."),
            [
                "template.spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod"
            ]
        );
    }
}
