//! The disruption controller: how many pods of a PodDisruptionBudget may be evicted now.
//!
//! It counts the healthy pods, and those that evictions have been granted for and that have not gone yet; the API server
//! takes from what is left. When it cannot be said how many pods there are to be, none may go. It never evicts anything.
//!
//! Behaves as upstream's `disruption-controller`.

mod expected;
mod stale;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, Time},
};
use kube::core::{Selector, SelectorExt};
use windlass::{
    Action, ConditionsExt, Controller, Delta, Error, EventType, Informer, Informers, Key, ManagerBuilder,
    Reconcile, Request, Scope, clock, condition,
};

use crate::{Options, pods};
use expected::{Expected, Unknown, Workloads};

/// How long a granted eviction may take.
const PATIENCE: Duration = Duration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let workloads = Workloads::new(&informers);
    let controller = Controller::<PodDisruptionBudget>::new("disruption")
        .component("controllermanager")
        .workers(options.workers)
        .watches::<Pod, _>(Scope::all(), budgets_of);
    let controller = workloads.read_by(controller);
    manager.add(controller.build(Budgets { pods: informers.get(Scope::all()), workloads }));
    stale::register(manager, options);
}

/// A pod wakes the budgets that select it, or did.
fn budgets_of(delta: &Delta<Pod>, informers: &Informers) -> Vec<Key> {
    let namespace = delta.object().metadata.namespace.as_deref().unwrap_or_default();
    let mut budgets = informers.get::<PodDisruptionBudget>(Scope::all()).lister().in_namespace(namespace);
    budgets.retain(|budget| {
        let selector = selector(budget);
        let selects = |pod: &Arc<Pod>| selector.as_ref().is_some_and(|selector| selects(selector, pod));
        delta.old().is_some_and(selects) || delta.new().is_some_and(selects)
    });
    budgets.iter().map(|budget| Key::of(&**budget)).collect()
}

/// The selector of a budget; without one it has no pods.
fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    Selector::try_from(budget.spec.as_ref()?.selector.clone()?).ok()
}

/// A selector as Go prints the object, which is how events show it.
fn shown(selector: &LabelSelector) -> String {
    let labels: String =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let requirement = |r: &LabelSelectorRequirement| {
        let values = r.values.as_deref().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", r.key, r.operator)
    };
    let expressions: String = selector.match_expressions.iter().flatten().map(requirement).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

fn selects(selector: &Selector, pod: &Pod) -> bool {
    selector.matches(pod.metadata.labels.as_ref().unwrap_or(&BTreeMap::new()))
}

struct Budgets {
    pods: Informer<Pod>,
    workloads: Workloads,
}

impl Reconcile<PodDisruptionBudget> for Budgets {
    async fn reconcile(&self, request: Request<PodDisruptionBudget>) -> Result<Action, Error> {
        let Some(budget) = request.object.clone() else { return Ok(Action::Done) };
        let namespace = budget.metadata.namespace.as_deref();
        let pods = selector(&budget).map(|selector| self.pods.lister().list(namespace, &selector));
        let pods = pods.unwrap_or_default();
        if pods.is_empty() {
            request.recorder.event(&*budget, EventType::Normal, "NoPods", "No matching pods found");
        }
        let now = clock::now();
        let disrupted = disrupted(&budget, &pods, now);
        for pod in &disrupted.late {
            let name = budget.metadata.name.as_deref().unwrap_or_default();
            let note = format!(
                "Pod was expected by PDB {}/{name} to be deleted but it wasn't",
                namespace.unwrap_or_default()
            );
            request.recorder.event(&**pod, EventType::Warning, "NotDeleted", note);
        }
        match self.expected(&budget, &pods, &request).await {
            Ok(expected) => {
                let healthy = healthy(&pods, &disrupted.pending);
                report(&budget, status(&budget, expected, healthy, disrupted.pending), &request).await?;
                Ok(disrupted.again.map_or(Action::Done, Action::RequeueAfter))
            }
            Err(unknown) => {
                let note = format!("Failed to calculate the number of expected pods: {unknown}");
                request.recorder.event(&*budget, EventType::Warning, "CalculateExpectedPodCountFailed", note);
                report(&budget, stopped(&budget, &unknown), &request).await?;
                match unknown {
                    Unknown::Api(error) => Err(error),
                    // To ask again would tell no more: a pod or the budget has to change first.
                    _ => Ok(Action::Done),
                }
            }
        }
    }
}

impl Budgets {
    async fn expected(
        &self,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
        request: &Request<PodDisruptionBudget>,
    ) -> Result<Expected, Unknown> {
        if !expected::needs_scale(budget) {
            return expected::expected(budget, number(pods.len()));
        }
        let all = pods.iter().map(|pod| &**pod);
        let (scale, unmanaged) = self.workloads.scale(all, request.client.raw()).await?;
        if !unmanaged.is_empty() {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
            let note = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the \
                 status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account \
                 for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                shown(&selector)
            );
            request.recorder.event(budget, EventType::Warning, "UnmanagedPods", note);
        }
        expected::expected(budget, scale)
    }
}

/// The evictions that were granted and are not through.
#[derive(Debug, Default)]
struct Disrupted {
    pending: BTreeMap<String, Time>,
    /// Pods that should have gone by now: they count again.
    late: Vec<Arc<Pod>>,
    /// When the next one is late.
    again: Option<Duration>,
}

fn disrupted(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], now: Timestamp) -> Disrupted {
    let noted = budget.status.as_ref().and_then(|status| status.disrupted_pods.clone()).unwrap_or_default();
    let mut found = Disrupted::default();
    for pod in pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(time) = noted.get(&name) else { continue };
        let passed = Duration::try_from(now.duration_since(time.0)).unwrap_or(Duration::ZERO);
        let left = PATIENCE.saturating_sub(passed);
        if left.is_zero() {
            found.late.push(pod.clone());
            continue;
        }
        found.pending.insert(name, time.clone());
        found.again = Some(found.again.map_or(left, |other| other.min(left)));
    }
    found
}

/// How many pods serve and are to stay.
fn healthy(pods: &[Arc<Pod>], pending: &BTreeMap<String, Time>) -> i32 {
    let stays = |pod: &&Arc<Pod>| {
        let named = pod.metadata.name.as_ref().is_some_and(|name| pending.contains_key(name));
        !pods::is_terminating(pod) && !named && pods::is_ready(pod)
    };
    number(pods.iter().filter(stays).count())
}

fn status(
    budget: &PodDisruptionBudget,
    expected: Expected,
    healthy: i32,
    pending: BTreeMap<String, Time>,
) -> PodDisruptionBudgetStatus {
    let spare = if expected.pods > 0 { (healthy - expected.healthy).max(0) } else { 0 };
    let mut conditions =
        budget.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let reason = if spare > 0 { "SufficientPods" } else { "InsufficientPods" };
    let mut allowed = condition(ALLOWED, spare > 0, reason, "");
    allowed.observed_generation = budget.metadata.generation;
    conditions.set_condition(allowed);
    PodDisruptionBudgetStatus {
        observed_generation: budget.metadata.generation,
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.healthy),
        expected_pods: Some(expected.pods),
        disruptions_allowed: Some(spare),
        disrupted_pods: Some(pending).filter(|pending| !pending.is_empty()),
        conditions: Some(conditions),
    }
}

/// The status while nothing is known: nobody may go.
fn stopped(budget: &PodDisruptionBudget, unknown: &Unknown) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    let mut allowed = condition(ALLOWED, false, "SyncFailed", unknown.to_string());
    allowed.observed_generation = budget.status.as_ref().and_then(|status| status.observed_generation);
    status.conditions.get_or_insert_default().set_condition(allowed);
    status.disruptions_allowed = Some(0);
    status
}

/// Writes the status if it changed. The API server may have granted an eviction meanwhile: then it is counted anew.
async fn report(
    budget: &PodDisruptionBudget,
    status: PodDisruptionBudgetStatus,
    request: &Request<PodDisruptionBudget>,
) -> Result<(), Error> {
    if budget.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let next = PodDisruptionBudget { status: Some(status), ..budget.clone() };
    match request.client.update_status(&next).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
