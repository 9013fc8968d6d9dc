//! The namespace controller: a namespace that is deleted goes when, and only when, nothing is left in it.
//!
//! Everything the server serves, custom resources included, is found by discovery and deleted, pods before the rest so
//! that nothing they use goes from under them. What is still there, and why, is told in the namespace's conditions.
//! When all is gone the finalizer `kubernetes` is removed. Behaves as upstream's `namespace-controller`.

mod content;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use windlass::{Action, Controller, Error, ManagerBuilder, Reconcile, Request, clock};

use crate::Options;
use content::{Content, Remains};

const FINALIZER: &str = "kubernetes";
/// The wait before looking again for what has gone, when nothing says how long that takes.
const AGAIN: Duration = Duration::from_secs(5);

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let controller = Controller::<Namespace>::new("namespace")
        .workers(options.workers.max(10))
        .filter(|delta| delta.object().metadata.deletion_timestamp.is_some());
    manager.add(controller.build(Namespaces));
}

/// Whether things may be created in the namespace.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

struct Namespaces;

impl Reconcile<Namespace> for Namespaces {
    async fn reconcile(&self, request: Request<Namespace>) -> Result<Action, Error> {
        let Some(namespace) = request.object.clone() else { return Ok(Action::Done) };
        if namespace.metadata.deletion_timestamp.is_none() || !is_held(&namespace) {
            return Ok(Action::Done);
        }
        let mut namespace = (*namespace).clone();
        if namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating") {
            namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
            namespace = (*request.client.update_status(&namespace).await?).clone();
        }
        let remains = empty(&request, &namespace).await?;
        namespace = report(&request, namespace, &remains).await?;
        if let Some(failure) = remains.failure() {
            return Err(Error::Other(failure.into()));
        }
        if remains.is_empty() {
            return finalize(&request, namespace).await;
        }
        Ok(Action::RequeueAfter(remains.wait().unwrap_or(AGAIN)))
    }
}

fn is_held(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default();
    finalizers.iter().any(|f| f == FINALIZER)
}

/// Deletes what there is and says what is left.
async fn empty(request: &Request<Namespace>, namespace: &Namespace) -> Result<Remains, Error> {
    let client = request.client.raw();
    let found = windlass::discovery::discover(client).await?;
    let mut remains = Remains::new(found.failures);
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let (pods, rest): (Vec<_>, Vec<_>) = found
        .resources
        .into_iter()
        .filter(|r| r.namespaced && r.can(&["list", "delete"]))
        .partition(|r| r.group.is_empty() && r.plural == "pods");
    for resources in [pods, rest] {
        for resource in resources {
            remains.add(&resource, Content::delete(client, &resource, name).await);
        }
        if remains.has_pods() {
            break;
        }
    }
    Ok(remains)
}

/// Writes the conditions if they changed.
async fn report(
    request: &Request<Namespace>,
    mut namespace: Namespace,
    remains: &Remains,
) -> Result<Namespace, Error> {
    let status = namespace.status.get_or_insert_default();
    if !note(status, remains) {
        return Ok(namespace);
    }
    Ok((*request.client.update_status(&namespace).await?).clone())
}

fn note(status: &mut NamespaceStatus, remains: &Remains) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let mut changed = false;
    for told in remains.conditions() {
        let current = conditions.iter().position(|c| c.type_ == told.type_);
        let status = if told.bad { "True" } else { "False" };
        let mut next = NamespaceCondition {
            type_: told.type_.to_owned(),
            status: status.to_owned(),
            reason: Some(told.reason.to_owned()),
            message: Some(told.message),
            last_transition_time: Some(clock::time()),
        };
        let Some(current) = current.map(|i| &mut conditions[i]) else {
            conditions.push(next);
            changed = true;
            continue;
        };
        if current.status == next.status {
            next.last_transition_time = current.last_transition_time.clone();
        }
        changed |= *current != next;
        *current = next;
    }
    changed
}

/// Lets the namespace go.
async fn finalize(request: &Request<Namespace>, mut namespace: Namespace) -> Result<Action, Error> {
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
        finalizers.retain(|f| f != FINALIZER);
    }
    match request.client.update_subresource("finalize", &namespace).await {
        Ok(_) => Ok(Action::Done),
        Err(error) if error.is_not_found() => Ok(Action::Done),
        Err(error) => Err(error),
    }
}
