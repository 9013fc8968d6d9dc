//! Carrying a plan out: pods are made, corrected and deleted, their claims are made and given owners, and the set is told
//! of it in upstream's words.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod},
};
use windlass::{Error, EventType, Key, Request};

use super::{
    StatefulSets, claims, identity, name_of,
    plan::{Plan, Step},
};
use crate::batch;

impl StatefulSets {
    /// Carries a plan out, up to the first step that fails.
    pub(super) async fn carry_out(
        &self,
        plan: &Plan,
        set: &StatefulSet,
        request: &Request<StatefulSet>,
    ) -> Result<(), Error> {
        for stage in &plan.stages {
            if plan.parallel {
                let done = batch::slow_start(stage.len(), 1, |i| self.take(&stage[i], set, request)).await;
                done.1.map_or(Ok(()), Err)?;
                continue;
            }
            for step in stage {
                self.take(step, set, request).await?;
            }
        }
        Ok(())
    }

    async fn take(
        &self,
        step: &Step,
        set: &StatefulSet,
        request: &Request<StatefulSet>,
    ) -> Result<(), Error> {
        match step {
            Step::Create(pod) => self.create(pod, set, request).await,
            Step::Supply(pod) => {
                self.make_claims(pod, set, request).await?;
                self.own_claims(pod, set, request).await
            }
            Step::Own(pod) => {
                self.own_claims(pod, set, request).await?;
                let stays = identity::ordinal(pod).is_some_and(|o| identity::ordinals(set).contains(&o));
                if stays { tell(request, set, "update", pod, Ok(())) } else { Ok(()) }
            }
            Step::Correct(pod) => {
                if !identity::has_storage(set, pod) {
                    self.make_claims(pod, set, request).await?;
                }
                let corrected = request.client.update(&identity::corrected(set, pod)).await.map(drop);
                tell(request, set, "update", pod, corrected)
            }
            Step::Delete(pod) => {
                let deleted = request.client.delete(&**pod).await;
                tell(request, set, "delete", pod, deleted)
            }
        }
    }

    async fn create(
        &self,
        pod: &Pod,
        set: &StatefulSet,
        request: &Request<StatefulSet>,
    ) -> Result<(), Error> {
        if let Err(error) = self.make_claims(pod, set, request).await {
            return tell(request, set, "create", pod, Err(error));
        }
        match request.client.create(pod).await {
            Ok(created) => {
                self.own_claims(&created, set, request).await?;
                tell(request, set, "create", pod, Ok(()))
            }
            Err(error) if error.is_already_exists() => Err(error),
            Err(error) => tell(request, set, "create", pod, Err(error)),
        }
    }

    /// Makes the claims of a pod that are missing.
    async fn make_claims(
        &self,
        pod: &Pod,
        set: &StatefulSet,
        request: &Request<StatefulSet>,
    ) -> Result<(), Error> {
        let Some(ordinal) = identity::ordinal(pod) else { return Ok(()) };
        for claim in identity::new_claims(set, ordinal) {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            if let Some(claim) = self.volume_claims.get(&Key::of(&claim)) {
                if claim.metadata.deletion_timestamp.is_some() {
                    return Err(Error::Other(format!("pvc {name} is being deleted").into()));
                }
                continue;
            }
            let (in_set, pod) = (name_of(&set.metadata), name_of(&pod.metadata));
            let (type_, reason, note, result) = match request.client.create(&claim).await {
                Err(error) if error.is_already_exists() => continue,
                Ok(_) => {
                    let note = format!("create Claim {name} Pod {pod} in StatefulSet {in_set} success");
                    (EventType::Normal, "SuccessfulCreate", note, Ok(()))
                }
                Err(error) => {
                    let note = format!(
                        "create Claim {name} for Pod {pod} in StatefulSet {in_set} failed error: {error}"
                    );
                    let error = Error::Other(format!("failed to create PVC {name}: {error}").into());
                    (EventType::Warning, "FailedCreate", note, Err(error))
                }
            };
            request.recorder.event(set, type_, reason, note);
            result?;
        }
        Ok(())
    }

    /// Gives the claims of a pod the owners that the policy says.
    async fn own_claims(
        &self,
        pod: &Pod,
        set: &StatefulSet,
        request: &Request<StatefulSet>,
    ) -> Result<(), Error> {
        let Some(ordinal) = identity::ordinal(pod) else { return Ok(()) };
        for (_, name) in identity::claims(set, ordinal) {
            let key = Key::new(set.metadata.namespace.as_deref(), &name);
            let cached = self.volume_claims.get(&key);
            let claim = match cached {
                Some(claim) => claim,
                // It may have been made just now.
                None => match request.client.live::<PersistentVolumeClaim>(&key).await? {
                    Some(claim) => Arc::new(claim),
                    None => continue,
                },
            };
            let Some(owners) = claims::due_owners(set, &claim, pod) else { continue };
            if claims::has_foreign_controller(set, &claim, pod) {
                let note = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, \
                     the retention policy is ignored for this claim"
                );
                request.recorder.event(set, EventType::Warning, "ConflictingController", note);
            }
            let mut owned = PersistentVolumeClaim::clone(&claim);
            owned.metadata.owner_references = Some(owners);
            if let Err(error) = request.client.update(&owned).await {
                let text = format!("could not update claim {name} for delete policy ownerRefs: {error}");
                return tell(request, set, "update", pod, Err(Error::Other(text.into())));
            }
        }
        Ok(())
    }
}

/// Tells how something that was done to a pod went, and passes that on.
fn tell(
    request: &Request<StatefulSet>,
    set: &StatefulSet,
    verb: &str,
    pod: &Pod,
    result: Result<(), Error>,
) -> Result<(), Error> {
    let what = format!("{verb} Pod {} in StatefulSet {}", name_of(&pod.metadata), name_of(&set.metadata));
    let reason = match (verb, result.is_ok()) {
        ("create", true) => "SuccessfulCreate",
        ("create", false) => "FailedCreate",
        ("update", true) => "SuccessfulUpdate",
        ("update", false) => "FailedUpdate",
        (_, true) => "SuccessfulDelete",
        (_, false) => "FailedDelete",
    };
    match &result {
        Ok(()) => request.recorder.event(set, EventType::Normal, reason, format!("{what} successful")),
        Err(error) => {
            request.recorder.event(set, EventType::Warning, reason, format!("{what} failed error: {error}"));
        }
    }
    result
}
