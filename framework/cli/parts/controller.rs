//! Brings a PartKind to what it asks for. Decisions are pure functions; `reconcile` only reads and writes.

use kube::api::Patch;
use serde_json::json;
use windlass::{Action, ConditionsExt, Controller, Error, ManagerBuilder, Reconcile, Request, condition};

use crate::{PartKind, PartKindStatus};

/// Adds the controller. What it is told here, to own and to watch, is also what it may read and write.
pub(crate) fn add(manager: &mut ManagerBuilder) {
    let controller = Controller::<PartKind>::new("part-kind").writes_status();
    manager.add(controller.build(Reconciler));
}

struct Reconciler;

impl Reconcile<PartKind> for Reconciler {
    async fn reconcile(&self, request: Request<PartKind>) -> Result<Action, Error> {
        // What is gone, or going, needs nothing.
        let Some(object) = request.object else { return Ok(Action::Done) };
        if object.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        // Here `request.client.apply(...)` makes what the object asks for.
        let status = status(&object);
        if object.status.as_ref() == Some(&status) {
            return Ok(Action::Done);
        }
        let patch = Patch::Merge(json!({ "status": status }));
        request.client.patch_status::<PartKind>(&request.key, &patch).await?;
        Ok(Action::Done)
    }
}

/// What there is to say about an object.
fn status(object: &PartKind) -> PartKindStatus {
    let mut status = object.status.clone().unwrap_or_default();
    status.observed_generation = object.metadata.generation;
    status.conditions.set_condition(condition("Ready", true, "AsWanted", "it is as it should be"));
    status
}
