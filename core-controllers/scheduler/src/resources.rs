//! Amounts of resources as whole numbers: milli-CPU, bytes, counts.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};

/// What a container without requests is counted as when nodes are scored (upstream's non-zero defaults).
const SCORED_MILLI_CPU: i64 = 100;
const SCORED_MEMORY_BYTES: i64 = 200 << 20;

/// Amounts by resource. The four that every node has are columns of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Number of pods.
    pub pods: i64,
    /// Extended resources and huge pages.
    pub others: BTreeMap<String, i64>,
}

impl Amounts {
    /// Reads a resource list; amounts that do not parse count as nothing.
    pub fn of(list: &BTreeMap<String, Quantity>) -> Self {
        let mut amounts = Self::default();
        for (name, quantity) in list {
            let Ok(quantity) = quantity.0.parse::<windlass_crd::quantity::Quantity>() else { continue };
            match name.as_str() {
                "cpu" => amounts.milli_cpu = quantity.milli_value(),
                "memory" => amounts.memory = quantity.value(),
                "ephemeral-storage" => amounts.ephemeral_storage = quantity.value(),
                "pods" => amounts.pods = quantity.value(),
                other => {
                    amounts.others.insert(other.to_owned(), quantity.value());
                }
            }
        }
        amounts
    }

    fn each(&mut self, other: &Self, f: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = f(self.milli_cpu, other.milli_cpu);
        self.memory = f(self.memory, other.memory);
        self.ephemeral_storage = f(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.others {
            let own = self.others.entry(name.clone()).or_default();
            *own = f(*own, *amount);
        }
    }

    /// Adds.
    pub fn add(&mut self, other: &Self) {
        self.each(other, i64::saturating_add);
    }

    /// Takes away.
    pub fn sub(&mut self, other: &Self) {
        self.each(other, i64::saturating_sub);
    }

    fn max(&mut self, other: &Self) {
        self.each(other, i64::max);
    }
}

/// What a pod needs: the larger of its containers together and of any moment of its initialisation, and its overhead.
///
/// Source: KEP-753 (sidecars) and `k8s.io/component-helpers/resource`.
pub(crate) fn requests(spec: &PodSpec) -> Amounts {
    total(spec, |c| {
        c.resources.as_ref().and_then(|r| r.requests.as_ref()).map(Amounts::of).unwrap_or_default()
    })
}

/// As [`requests`], with upstream's defaults for containers that request nothing.
pub(crate) fn scored_requests(spec: &PodSpec) -> Amounts {
    total(spec, |c| {
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let mut amounts = requests.map(Amounts::of).unwrap_or_default();
        if requests.is_none_or(|r| !r.contains_key("cpu")) {
            amounts.milli_cpu = SCORED_MILLI_CPU;
        }
        if requests.is_none_or(|r| !r.contains_key("memory")) {
            amounts.memory = SCORED_MEMORY_BYTES;
        }
        amounts
    })
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut running = Amounts::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Amounts::default();
    let mut peak = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&moment);
            running.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        peak.max(&moment);
    }
    running.max(&peak);
    if let Some(overhead) = &spec.overhead {
        running.add(&Amounts::of(overhead));
    }
    running
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn init_containers_peak_and_sidecars_stay() {
        let cpu = |name: &str, cpu: &str, always: bool| {
            let mut c = json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
            if always {
                c["restartPolicy"] = "Always".into();
            }
            c
        };
        let spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [cpu("a", "1", false), cpu("s", "200m", true), cpu("b", "1500m", false)],
            "containers": [cpu("m", "500m", false), cpu("n", "250m", false)],
            "overhead": {"cpu": "50m"},
        }))
        .unwrap();
        assert_eq!(requests(&spec).milli_cpu, 1750);
        assert_eq!(scored_requests(&spec).memory, 4 * SCORED_MEMORY_BYTES - SCORED_MEMORY_BYTES);
    }
}
