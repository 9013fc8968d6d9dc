//! Brings a TemplateName to what it asks for. Decisions are pure functions; `reconcile` only reads and writes.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{Container, PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use kube::api::Patch;
use serde_json::json;
use windlass::{
    Action, ConditionsExt, Error, EventType, Reconcile, Request, condition, controller_ref,
};

use crate::{TemplateName, TemplateNameStatus};

/// The controller of TemplateNames.
pub(crate) struct TemplateNames;

impl Reconcile<TemplateName> for TemplateNames {
    async fn reconcile(&self, request: Request<TemplateName>) -> Result<Action, Error> {
        // What is gone, or going, needs nothing: its Deployment goes with it.
        let Some(object) = request.object else { return Ok(Action::Done) };
        if object.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        let deployment = request.client.apply(&deployment(&object)).await?;
        let status = status(&object, &deployment);
        if object.status.as_ref() == Some(&status) {
            return Ok(Action::Done);
        }
        let patch = Patch::Merge(json!({ "status": status }));
        request.client.patch_status::<TemplateName>(&request.key, &patch).await?;
        if is_ready(&status) && !object.status.as_ref().is_some_and(is_ready) {
            let note = format!("{} replicas are ready", status.ready_replicas);
            request.recorder.event(&*object, EventType::Normal, "Ready", note);
        }
        Ok(Action::Done)
    }
}

/// The Deployment that an object asks for.
pub fn deployment(object: &TemplateName) -> Deployment {
    let name = object.metadata.name.clone().unwrap_or_default();
    let labels = Some([("app.kubernetes.io/instance".to_owned(), name.clone())].into());
    let container =
        Container { name: "main".to_owned(), image: Some(object.spec.image.clone()), ..Container::default() };
    let rollout = &object.spec.rollout;
    let rolling = RollingUpdateDeployment {
        max_unavailable: Some(IntOrString::Int(rollout.max_unavailable)),
        ..RollingUpdateDeployment::default()
    };
    let spec = DeploymentSpec {
        paused: Some(rollout.paused),
        strategy: Some(DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(rolling),
        }),
        replicas: Some(object.spec.replicas),
        selector: LabelSelector { match_labels: labels.clone(), ..LabelSelector::default() },
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
            spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
        },
        ..DeploymentSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: object.metadata.namespace.clone(),
        owner_references: Some(vec![controller_ref(object)]),
        ..ObjectMeta::default()
    };
    Deployment { metadata, spec: Some(spec), status: None }
}

/// What there is to say about an object whose Deployment is this one.
pub fn status(object: &TemplateName, deployment: &Deployment) -> TemplateNameStatus {
    let seen = deployment.status.clone().unwrap_or_default();
    let wanted = object.spec.replicas;
    let ready_replicas = seen.ready_replicas.unwrap_or(0);
    let current = seen.observed_generation >= deployment.metadata.generation;
    let updated = seen.updated_replicas.unwrap_or(0) >= wanted && seen.replicas.unwrap_or(0) == wanted;
    let ready = current && updated && ready_replicas >= wanted;
    let reason = if ready { "AllReplicasReady" } else { "Progressing" };
    let message = format!("{ready_replicas} of {wanted} replicas are ready");
    let mut conditions = object.status.clone().unwrap_or_default().conditions;
    conditions.set_condition(condition("Ready", ready, reason, message));
    TemplateNameStatus { observed_generation: object.metadata.generation, ready_replicas, conditions }
}

fn is_ready(status: &TemplateNameStatus) -> bool {
    status.conditions.condition("Ready").is_some_and(|ready| ready.status == "True")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DeploymentStatus;

    use super::*;
    use crate::{Rollout, TemplateNameSpec};

    #[test]
    fn ready_means_that_every_replica_runs_what_is_asked_for() {
        // generation seen, replicas, updated, ready: is that ready?
        let table = [
            (2, 3, 3, 3, "True"),
            (1, 3, 3, 3, "False"), // an older spec
            (2, 3, 2, 3, "False"), // an old image still runs
            (2, 4, 3, 3, "False"), // one too many
            (2, 3, 3, 2, "False"),
            (2, 0, 0, 0, "False"),
        ];
        let spec = TemplateNameSpec { image: "web:1".to_owned(), replicas: 3, rollout: Rollout::default() };
        let object = TemplateName::new("main", spec);
        for (generation, replicas, updated, ready, expected) in table {
            let mut deployment = deployment(&object);
            deployment.metadata.generation = Some(2);
            deployment.status = Some(DeploymentStatus {
                observed_generation: Some(generation),
                replicas: Some(replicas),
                updated_replicas: Some(updated),
                ready_replicas: Some(ready),
                ..DeploymentStatus::default()
            });
            let status = status(&object, &deployment);
            assert_eq!(status.conditions[0].status, expected, "{generation} {replicas} {updated} {ready}");
            assert_eq!(status.ready_replicas, ready);
        }
    }
}
