//! What a pod asks for as a whole. Source: `k8s.io/component-helpers/resource`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Amounts, add, amounts};

/// What a pod requests: its containers and sidecars together, or the most that its start needs, or what it says as a
/// whole, and its overhead. What a kubelet has given already counts while it is more.
#[must_use]
pub fn requests(pod: &Value) -> Amounts {
    let mut sum = aggregate(pod, "requests", true);
    for (name, amount) in amounts(pod.pointer("/spec/resources/requests")) {
        if is_pod_level(&name) {
            sum.insert(name, amount);
        }
    }
    add(&mut sum, &amounts(pod.pointer("/spec/overhead")));
    sum
}

/// What a pod is limited to; overhead is added where there is a limit.
#[must_use]
pub fn limits(pod: &Value) -> Amounts {
    let mut sum = aggregate(pod, "limits", false);
    for (name, amount) in amounts(pod.pointer("/spec/resources/limits")) {
        if is_pod_level(&name) {
            sum.insert(name, amount);
        }
    }
    for (name, overhead) in amounts(pod.pointer("/spec/overhead")) {
        if let Some(limit) = sum.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit += &overhead;
        }
    }
    sum
}

/// Whether the pod says what it needs as a whole.
pub(super) fn has_pod_level(pod: &Value) -> bool {
    ["requests", "limits"].iter().any(|list| {
        amounts(pod.pointer(&format!("/spec/resources/{list}"))).keys().any(|name| is_pod_level(name))
    })
}

fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn list<'v>(pod: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn aggregate(pod: &Value, kind: &str, allocated: bool) -> Amounts {
    let statuses = Statuses::of(pod);
    let mut sum = Amounts::new();
    for container in list(pod, "/spec/containers") {
        add(&mut sum, &statuses.effective(container, kind, allocated));
    }
    let (mut sidecars, mut start) = (Amounts::new(), Amounts::new());
    for container in list(pod, "/spec/initContainers") {
        let is_sidecar = container.get("restartPolicy").and_then(Value::as_str) == Some("Always");
        let needs = if is_sidecar {
            let own = statuses.effective(container, kind, allocated);
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            sidecars.clone()
        } else {
            let mut needs = amounts(container.pointer(&format!("/resources/{kind}")));
            add(&mut needs, &sidecars);
            needs
        };
        raise(&mut start, needs);
    }
    raise(&mut sum, start);
    sum
}

/// Brings each amount up to the other, if that is more.
fn raise(most: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        match most.get_mut(&name) {
            Some(known) if *known >= amount => {}
            Some(known) => *known = amount,
            None => drop(most.insert(name, amount)),
        }
    }
}

/// What the kubelet says it has given to each container.
struct Statuses<'v> {
    by_name: BTreeMap<&'v str, &'v Value>,
    infeasible: bool,
}

impl<'v> Statuses<'v> {
    fn of(pod: &'v Value) -> Self {
        let all = ["/status/containerStatuses", "/status/initContainerStatuses"].into_iter();
        let named = all.flat_map(|at| list(pod, at)).filter_map(|s| Some((s.get("name")?.as_str()?, s)));
        let pending = list(pod, "/status/conditions")
            .find(|c| c.get("type").and_then(Value::as_str) == Some("PodResizePending"));
        let reason = pending.and_then(|c| c.get("reason")).and_then(Value::as_str);
        Self { by_name: named.collect(), infeasible: reason == Some("Infeasible") }
    }

    /// The most of what is asked for and what is given: while a container is resized both may count.
    fn effective(&self, container: &Value, kind: &str, allocated: bool) -> Amounts {
        let asked = amounts(container.pointer(&format!("/resources/{kind}")));
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        let Some(status) =
            self.by_name.get(name).filter(|s| s.get("resources").is_some_and(|r| !r.is_null()))
        else {
            return asked;
        };
        let mut most = if self.infeasible { Amounts::new() } else { asked };
        raise(&mut most, amounts(status.pointer(&format!("/resources/{kind}"))));
        if allocated {
            raise(&mut most, amounts(status.get("allocatedResources")));
        }
        most
    }
}
