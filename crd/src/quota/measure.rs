//! What each kind counts towards, and what one object of it uses.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Amounts, Requirement, amounts, one, pod};
use crate::quantity::{Format, Quantity};

/// The names that a pod's containers have to speak of where a quota limits them.
const DEMANDED: [&str; 6] =
    ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
const POD_NAMES: [&str; 11] = [
    "count/pods",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "pods",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SERVICE_NAMES: [&str; 4] =
    ["count/services", "services", "services.loadbalancers", "services.nodeports"];
const CLAIM_NAMES: [&str; 3] = ["count/persistentvolumeclaims", "persistentvolumeclaims", "requests.storage"];
/// What else a quota may limit without a group in its name.
const OTHER_NAMES: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
const BY_DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
const IMPLICIT_DEVICES: &str = "deviceclass.resource.kubernetes.io/";
/// Devices that a request for all of them may get at most.
const DEVICES_MAX: i64 = 32;

/// Kinds that are stored nowhere, or come by the thousand: no quota counts them.
#[must_use]
pub fn is_ignored(group: &str, resource: &str) -> bool {
    matches!(
        (group, resource),
        ("", "bindings" | "componentstatuses" | "events")
            | ("events.k8s.io", "events")
            | ("authentication.k8s.io" | "authorization.k8s.io", _)
    )
}

/// Whether a name without a group is one that quotas know.
#[must_use]
pub fn is_standard(name: &str) -> bool {
    let known = POD_NAMES.iter().chain(&SERVICE_NAMES).chain(&CLAIM_NAMES).chain(&OTHER_NAMES);
    (known.into_iter().any(|known| *known == name) && !name.starts_with("count/")) || is_huge_pages(name)
}

fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// Whether a quota with this scope may limit this name.
#[must_use]
pub fn scope_fits(scope: &str, name: &str) -> bool {
    match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => name == "pods" || DEMANDED.contains(&name),
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

/// What objects of a kind count towards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Pods: what they ask for.
    Pods,
    /// Services: load balancers and node ports.
    Services,
    /// PersistentVolumeClaims: storage, by class.
    Claims,
    /// ResourceClaims: devices, by class.
    Devices,
    /// Anything else is counted.
    Count {
        /// The group of the kind.
        group: String,
        /// Its plural.
        resource: String,
    },
}

impl Measure {
    /// What a kind counts towards.
    #[must_use]
    pub fn of(group: &str, resource: &str) -> Self {
        match (group, resource) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("resource.k8s.io", "resourceclaims") => Self::Devices,
            _ => Self::Count { group: group.to_owned(), resource: resource.to_owned() },
        }
    }

    /// The kinds that a limit of this name counts; for `count/x.y` of a kind known by its name alone.
    #[must_use]
    pub fn of_limit(name: &str) -> Vec<Self> {
        let mut found: Vec<Self> = [Self::Pods, Self::Services, Self::Claims, Self::Devices]
            .into_iter()
            .filter(|measure| measure.tracks(name))
            .collect();
        let counted = name.strip_prefix("count/").or_else(|| OTHER_NAMES.contains(&name).then_some(name));
        if let Some(kind) = counted.filter(|_| found.is_empty()) {
            let (resource, group) = kind.split_once('.').unwrap_or((kind, ""));
            found.push(Self::of(group, resource));
        }
        found
    }

    /// Group and plural of the kind.
    #[must_use]
    pub fn kind(&self) -> (&str, &str) {
        match self {
            Self::Pods => ("", "pods"),
            Self::Services => ("", "services"),
            Self::Claims => ("", "persistentvolumeclaims"),
            Self::Devices => ("resource.k8s.io", "resourceclaims"),
            Self::Count { group, resource } => (group, resource),
        }
    }

    pub(super) fn is_of(&self, group: &str, resource: &str) -> bool {
        self.kind() == (group, resource)
    }

    /// Whether a limit of this name is used up by objects of the kind.
    #[must_use]
    pub fn tracks(&self, name: &str) -> bool {
        match self {
            Self::Pods => POD_NAMES.contains(&name) || is_huge_pages(name) || is_extended(name),
            Self::Services => SERVICE_NAMES.contains(&name),
            Self::Claims => {
                let of_class = name.split_once(BY_CLASS).map(|(_, what)| what);
                CLAIM_NAMES.contains(&name)
                    || matches!(of_class, Some("persistentvolumeclaims" | "requests.storage"))
            }
            Self::Devices => {
                name == "count/resourceclaims.resource.k8s.io" || name.ends_with(BY_DEVICE_CLASS)
            }
            Self::Count { group, resource } => {
                let is_alias = group.is_empty() && OTHER_NAMES.contains(&name) && name == resource;
                is_alias || name.strip_prefix("count/").is_some_and(|kind| is_named(kind, group, resource))
            }
        }
    }

    /// What an object uses at `now`.
    #[must_use]
    pub fn measure(&self, obj: &Value, now: Timestamp) -> Measured {
        match self {
            Self::Pods => measure_pod(obj, now),
            Self::Services => Measured { usage: service(obj), ..Measured::default() },
            Self::Claims => measure_claim(obj),
            Self::Devices => Measured { usage: devices(obj), ..Measured::default() },
            Self::Count { group, resource } => {
                let name = match group.as_str() {
                    "" => format!("count/{resource}"),
                    group => format!("count/{resource}.{group}"),
                };
                let mut usage = Amounts::from([(name, one())]);
                if group.is_empty() && OTHER_NAMES.contains(&resource.as_str()) {
                    usage.insert(resource.clone(), one());
                }
                Measured { usage, ..Measured::default() }
            }
        }
    }
}

fn is_named(kind: &str, group: &str, resource: &str) -> bool {
    match kind.split_once('.') {
        None => group.is_empty() && kind == resource,
        Some((plural, of)) => plural == resource && of == group,
    }
}

/// `requests.` and a name with a domain of its own.
fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    let Some(rest) = name.strip_prefix("requests.") else { return false };
    !native || rest.starts_with(IMPLICIT_DEVICES)
}

/// What one object uses, and what quotas choose it by.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    usage: Amounts,
    /// The names that some container leaves out, with these containers; pods only.
    unsaid: BTreeMap<&'static str, BTreeSet<String>>,
    pod: Option<PodScopes>,
    /// VolumeAttributesClasses of a claim; `None` for other kinds.
    attribute_classes: Option<BTreeSet<String>>,
}

#[derive(Clone, Debug)]
struct PodScopes {
    terminating: bool,
    best_effort: bool,
    priority_class: String,
    cross_namespace: bool,
}

impl Measured {
    /// What it uses.
    #[must_use]
    pub fn usage(&self) -> &Amounts {
        &self.usage
    }

    /// Whether a scope holds for it.
    ///
    /// # Errors
    /// When the scope's operator is none.
    pub fn is_in(&self, scope: &Requirement) -> Result<bool, String> {
        let name = scope.scope.as_str();
        if let Some(pod) = &self.pod {
            let class = Some(pod.priority_class.as_str()).filter(|class| !class.is_empty());
            return match name {
                "Terminating" => Ok(pod.terminating),
                "NotTerminating" => Ok(!pod.terminating),
                "BestEffort" => Ok(pod.best_effort),
                "NotBestEffort" => Ok(!pod.best_effort),
                "PriorityClass" => compare(scope, class),
                "CrossNamespacePodAffinity" => Ok(pod.cross_namespace),
                _ => Ok(false),
            };
        }
        match &self.attribute_classes {
            Some(classes) if name == "VolumeAttributesClass" => {
                if classes.is_empty() {
                    return compare(scope, None);
                }
                for class in classes {
                    if compare(scope, Some(class))? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// What it has to say under a quota that limits `tracked`, and does not.
    pub(super) fn missing(&self, tracked: &[&str]) -> Option<String> {
        let told: Vec<String> = self
            .unsaid
            .iter()
            .filter(|(name, _)| tracked.contains(*name))
            .map(|(name, containers)| {
                let containers: Vec<&str> = containers.iter().map(String::as_str).collect();
                format!("{name} for: {}", containers.join(","))
            })
            .collect();
        (!told.is_empty()).then(|| format!("must specify {}", told.join("; ")))
    }
}

fn compare(scope: &Requirement, value: Option<&str>) -> Result<bool, String> {
    let listed = |value: &str| scope.values.iter().any(|v| v == value);
    match scope.operator.as_str() {
        "In" => Ok(value.is_some_and(listed)),
        "NotIn" => Ok(!value.is_some_and(listed)),
        "Exists" => Ok(value.is_some()),
        "DoesNotExist" => Ok(value.is_none()),
        other => Err(format!("\"{other}\" is not a valid scope selector operator")),
    }
}

fn text<'v>(obj: &'v Value, pointer: &str) -> &'v str {
    obj.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(obj: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    obj.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn measure_pod(obj: &Value, now: Timestamp) -> Measured {
    let mut usage = Amounts::from([("count/pods".to_owned(), one())]);
    if counts(obj, now) {
        usage.extend(compute(&pod::requests(obj), &pod::limits(obj)));
    }
    let priority_class = text(obj, "/spec/priorityClassName").to_owned();
    let deadline = obj.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64);
    let scopes = PodScopes {
        terminating: deadline.is_some_and(|seconds| seconds >= 0),
        best_effort: is_best_effort(obj),
        priority_class,
        cross_namespace: reaches_across(obj),
    };
    Measured { usage, unsaid: unsaid(obj), pod: Some(scopes), attribute_classes: None }
}

/// A pod that has ended uses nothing, and neither does one that should be gone by now: its node may be lost.
fn counts(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") {
        return false;
    }
    let ends = text(pod, "/metadata/deletionTimestamp").parse::<Timestamp>().ok();
    let grace = pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    match ends.zip(grace) {
        Some((ends, grace)) => ends.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now <= end),
        None => true,
    }
}

/// Amounts under all names that they go by in a quota.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::from([("pods".to_owned(), one())]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            usage.insert(name.to_owned(), request.clone());
            usage.insert(format!("requests.{name}"), request.clone());
        }
        if let Some(limit) = limits.get(name) {
            usage.insert(format!("limits.{name}"), limit.clone());
        }
    }
    for (name, request) in requests {
        if name.starts_with("hugepages-") {
            usage.insert(name.clone(), request.clone());
            usage.insert(format!("requests.{name}"), request.clone());
        } else if is_extended(&format!("requests.{name}")) {
            usage.insert(format!("requests.{name}"), request.clone());
        }
    }
    usage
}

/// For each name that pods have to speak of, the containers that do not.
fn unsaid(pod: &Value) -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut unsaid: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
    if pod::has_pod_level(pod) {
        return unsaid;
    }
    for container in list(pod, "/spec/containers").chain(list(pod, "/spec/initContainers")) {
        let said = compute(
            &amounts(container.pointer("/resources/requests")),
            &amounts(container.pointer("/resources/limits")),
        );
        for name in DEMANDED.into_iter().filter(|name| !said.contains_key(*name)) {
            unsaid.entry(name).or_default().insert(text(container, "/name").to_owned());
        }
    }
    unsaid
}

fn is_best_effort(pod: &Value) -> bool {
    match text(pod, "/status/qosClass") {
        "" => {}
        class => return class == "BestEffort",
    }
    let asks = |holder: &Value| {
        ["requests", "limits"].iter().any(|kind| {
            let all = amounts(holder.pointer(&format!("/resources/{kind}")));
            ["cpu", "memory"].iter().any(|name| all.get(*name).is_some_and(|amount| amount.signum() > 0))
        })
    };
    match pod.get("spec").filter(|spec| spec.get("resources").is_some_and(|r| !r.is_null())) {
        Some(spec) => !asks(spec),
        None => !list(pod, "/spec/containers").chain(list(pod, "/spec/initContainers")).any(asks),
    }
}

/// Whether the pod's (anti-)affinity looks into other namespaces.
fn reaches_across(pod: &Value) -> bool {
    let across = |term: &Value| {
        list(term, "/namespaces").next().is_some()
            || term.get("namespaceSelector").is_some_and(|selector| !selector.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let at = |list: &str| format!("/spec/affinity/{kind}/{list}DuringSchedulingIgnoredDuringExecution");
        let weighted = list(pod, &at("preferred")).filter_map(|term| term.get("podAffinityTerm"));
        list(pod, &at("required")).chain(weighted).any(across)
    })
}

fn service(obj: &Value) -> Amounts {
    let ports = list(obj, "/spec/ports");
    let count = |n: usize| Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi);
    let (node_ports, balancers) = match text(obj, "/spec/type") {
        "NodePort" => (ports.count(), 0),
        "LoadBalancer" => {
            let chosen = |port: &&Value| port.get("nodePort").and_then(Value::as_i64).is_some_and(|p| p != 0);
            let allocates = obj.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
            (if allocates { ports.count() } else { ports.filter(chosen).count() }, 1)
        }
        _ => (0, 0),
    };
    Amounts::from([
        ("count/services".to_owned(), one()),
        ("services".to_owned(), one()),
        ("services.nodeports".to_owned(), count(node_ports)),
        ("services.loadbalancers".to_owned(), count(balancers)),
    ])
}

/// The class of a claim: the old annotation before the field.
#[must_use]
pub fn storage_class(claim: &Value) -> &str {
    let annotation = claim.pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    annotation.and_then(Value::as_str).unwrap_or_else(|| text(claim, "/spec/storageClassName"))
}

fn measure_claim(obj: &Value) -> Measured {
    let mut usage = Amounts::from([
        ("count/persistentvolumeclaims".to_owned(), one()),
        ("persistentvolumeclaims".to_owned(), one()),
    ]);
    let class = storage_class(obj);
    if !class.is_empty() {
        usage.insert(format!("{class}{BY_CLASS}persistentvolumeclaims"), one());
    }
    let whole = |at: &str| {
        let amount = obj.pointer(at).and_then(|value| Quantity::from_json(value).ok())?;
        Some(if amount.is_integer() { amount } else { Quantity::new(amount.value(), amount.format()) })
    };
    if let Some(mut storage) = whole("/spec/resources/requests/storage") {
        if let Some(allocated) = whole("/status/allocatedResources/storage").filter(|a| *a > storage) {
            storage = allocated;
        }
        if !class.is_empty() {
            usage.insert(format!("{class}{BY_CLASS}requests.storage"), storage.clone());
        }
        usage.insert("requests.storage".to_owned(), storage);
    }
    Measured { usage, attribute_classes: Some(attribute_classes(obj)), ..Measured::default() }
}

/// All VolumeAttributesClasses that a claim has, had until now, or is about to have.
fn attribute_classes(claim: &Value) -> BTreeSet<String> {
    let places = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ];
    places.iter().map(|at| text(claim, at)).filter(|class| !class.is_empty()).map(str::to_owned).collect()
}

fn devices(claim: &Value) -> Amounts {
    let mut usage = Amounts::from([("count/resourceclaims.resource.k8s.io".to_owned(), one())]);
    let wanted = |request: &Value| match text(request, "/allocationMode") {
        "ExactCount" => request.get("count").and_then(Value::as_i64).unwrap_or(0),
        "All" => DEVICES_MAX,
        _ => 0,
    };
    for request in list(claim, "/spec/devices/requests") {
        // Of alternatives the most that any could take counts, for each class.
        let mut most: BTreeMap<&str, i64> = BTreeMap::new();
        let alternatives = list(request, "/firstAvailable");
        for one in alternatives.chain(request.get("exactly").filter(|exact| !exact.is_null())) {
            let known = most.entry(text(one, "/deviceClassName")).or_default();
            *known = wanted(one).max(*known);
        }
        for (class, count) in most {
            let count = Quantity::new(count, Format::DecimalSi);
            *usage.entry(format!("{class}{BY_DEVICE_CLASS}")).or_default() += &count;
        }
    }
    usage
}

/// Whether a change of an object may give back what it used, so that quotas have to be counted again.
#[must_use]
pub fn requires_recount(measure: &Measure, old: &Value, new: &Value, now: Timestamp) -> bool {
    match measure {
        Measure::Pods => {
            let given = |pod: &Value| -> Vec<Value> {
                let all = ["/status/containerStatuses", "/status/initContainerStatuses"].into_iter();
                all.flat_map(|at| list(pod, at))
                    .map(|s| s.get("resources").cloned().unwrap_or_default())
                    .collect()
            };
            let has_deadline =
                |pod: &Value| pod.pointer("/spec/activeDeadlineSeconds").is_some_and(Value::is_i64);
            given(old) != given(new)
                || has_deadline(old) != has_deadline(new)
                || (counts(old, now) && !counts(new, now))
        }
        Measure::Services => text(old, "/spec/type") != text(new, "/spec/type"),
        Measure::Claims => {
            old.pointer("/status/allocatedResources/storage")
                != new.pointer("/status/allocatedResources/storage")
                || attribute_classes(old) != attribute_classes(new)
        }
        Measure::Devices | Measure::Count { .. } => false,
    }
}
