//! Brings a FleetApp to the members that it selects. Decisions are pure functions; the rest only reads and writes.

use futures::future::join_all;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        core::v1::{Container, PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{ResourceExt, api::Patch};
use serde_json::json;
use std::time::Duration;
use windlass::{
    Action, ConditionsExt, Error, EventType, Key, Reconcile, Request,
    clusters::{Clusters, Member},
    condition,
};

use crate::{ClusterStatus, FleetApp, FleetAppStatus};

/// Says in a member which application a Deployment belongs to: the uid of the FleetApp in the hub.
const OWNER: &str = "fleet.example.com/app";
/// How soon a member that holds up a deletion is looked at again, whatever is heard of it.
const AGAIN: Duration = Duration::from_secs(30);

/// The controller of FleetApps.
pub struct FleetApps(pub Clusters);

impl Reconcile<FleetApp> for FleetApps {
    async fn reconcile(&self, request: Request<FleetApp>) -> Result<Action, Error> {
        let Some(app) = request.object.clone() else { return Ok(Action::Done) };
        let visits = self.0.members().into_iter().map(|member| {
            let app = app.clone();
            async move {
                let seen = visit(&app, &member).await;
                (member, seen)
            }
        });
        let (mut states, mut failed) = (Vec::new(), None);
        for (member, seen) in join_all(visits).await {
            match seen {
                Ok(state) => states.extend(state),
                Err(error) => {
                    states.push(trouble(&member, windlass::sentence(&error)));
                    failed = Some(error);
                }
            }
        }
        let selected = self.0.members().iter().filter(|member| selects(&app, member)).count();
        let status = status(&app, selected, states);
        if app.status.as_ref() != Some(&status) {
            let patch = Patch::Merge(json!({ "status": status }));
            request.client.patch_status::<FleetApp>(&request.key, &patch).await?;
            if is_ready(Some(&status)) && !is_ready(app.status.as_ref()) {
                let note = format!("it runs on {selected} clusters");
                request.recorder.event(&*app, EventType::Normal, "Ready", note);
            }
        }
        failed.map_or(Ok(Action::Done), Err)
    }
}

/// Does in one member what is to be done there; `None` when there is nothing to be told of it.
async fn visit(app: &FleetApp, member: &Member) -> Result<Option<ClusterStatus>, Error> {
    let selected = selects(app, member);
    if let Err(why) = member.ready() {
        let was_there =
            app.status.iter().flat_map(|status| &status.clusters).any(|c| *c.name == *member.name);
        return Ok((selected || was_there).then(|| trouble(member, why)));
    }
    if !selected {
        remove(app, member).await?;
        return Ok(None);
    }
    let key = Key::of(app);
    if let Some(other) = member.client.live::<Deployment>(&key).await?
        && !is_of(app, &other)
    {
        return Ok(Some(trouble(member, format!("the Deployment {key} is somebody else's"))));
    }
    let deployment = member.client.apply(&deployment(app)).await?;
    Ok(Some(state(app, &member.name, &deployment)))
}

/// Takes an application out of a member.
async fn remove(app: &FleetApp, member: &Member) -> Result<(), Error> {
    // Asked for, and not looked up: what was made a moment ago is not in the cache yet.
    match member.client.live::<Deployment>(&Key::of(app)).await? {
        Some(deployment) if is_of(app, &deployment) => member.client.delete(&deployment).await,
        _ => Ok(()),
    }
}

/// Takes applications that are being deleted out of every member. One that cannot be reached holds up the deletion until
/// it answers, or leaves the fleet.
pub struct Removal(pub Clusters);

impl Reconcile<FleetApp> for Removal {
    async fn reconcile(&self, request: Request<FleetApp>) -> Result<Action, Error> {
        let Some(app) = request.object else { return Ok(Action::Done) };
        let members = self.0.members();
        let removals = members.iter().map(|member| async {
            member.ready().map_err(|why| Error::Other(format!("{}: {why}", member.name).into()))?;
            remove(&app, member).await
        });
        let failed = join_all(removals).await.into_iter().find_map(Result::err);
        let Some(error) = failed else { return Ok(Action::Done) };
        let note = format!("it may still run: {}", windlass::sentence(&error));
        request.recorder.event(&*app, EventType::Warning, "Held", note);
        Ok(Action::RequeueAfter(AGAIN))
    }
}

/// Whether an application is to run on a member.
fn selects(app: &FleetApp, member: &Member) -> bool {
    app.spec.clusters.iter().all(|(label, value)| member.labels.get(label) == Some(value))
}

fn is_of(app: &FleetApp, deployment: &Deployment) -> bool {
    deployment.labels().get(OWNER) == app.metadata.uid.as_ref()
}

fn trouble(member: &Member, message: String) -> ClusterStatus {
    ClusterStatus { name: member.name.to_string(), message, ..ClusterStatus::default() }
}

/// The Deployment of an application in a member.
pub fn deployment(app: &FleetApp) -> Deployment {
    let name = app.name_any();
    let pods = Some([("app.kubernetes.io/instance".to_owned(), name.clone())].into());
    let container =
        Container { name: "main".to_owned(), image: Some(app.spec.image.clone()), ..Container::default() };
    let spec = DeploymentSpec {
        replicas: Some(app.spec.replicas),
        selector: LabelSelector { match_labels: pods.clone(), ..LabelSelector::default() },
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: pods, ..ObjectMeta::default() }),
            spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
        },
        ..DeploymentSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: app.namespace(),
        labels: Some([(OWNER.to_owned(), app.uid().unwrap_or_default())].into()),
        ..ObjectMeta::default()
    };
    Deployment { metadata, spec: Some(spec), status: None }
}

/// How far an application is on a cluster whose Deployment is this one.
pub fn state(app: &FleetApp, cluster: &str, deployment: &Deployment) -> ClusterStatus {
    let seen = deployment.status.clone().unwrap_or_default();
    let (wanted, ready_replicas) = (app.spec.replicas, seen.ready_replicas.unwrap_or(0));
    let current = seen.observed_generation >= deployment.metadata.generation;
    let updated = seen.updated_replicas.unwrap_or(0) >= wanted && seen.replicas.unwrap_or(0) == wanted;
    let ready = current && updated && ready_replicas >= wanted;
    let message =
        if ready { String::new() } else { format!("{ready_replicas} of {wanted} replicas are ready") };
    ClusterStatus { name: cluster.to_owned(), ready, ready_replicas, message }
}

/// What there is to say about an application.
pub fn status(app: &FleetApp, selected: usize, mut clusters: Vec<ClusterStatus>) -> FleetAppStatus {
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    let ready = clusters.iter().filter(|cluster| cluster.ready).count();
    let all = selected > 0 && ready == selected && clusters.len() == selected;
    let reason = match selected {
        0 => "NoClusters",
        _ if all => "AllClustersReady",
        _ => "Progressing",
    };
    let message = format!("ready on {ready} of {selected} clusters");
    let mut conditions = app.status.clone().unwrap_or_default().conditions;
    conditions.set_condition(condition("Ready", all, reason, message));
    FleetAppStatus { observed_generation: app.metadata.generation, selected, clusters, conditions }
}

fn is_ready(status: Option<&FleetAppStatus>) -> bool {
    status.and_then(|status| status.conditions.condition("Ready")).is_some_and(|ready| ready.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FleetAppSpec;

    #[test]
    fn ready_means_on_every_selected_cluster_and_nowhere_else() {
        let spec = FleetAppSpec { image: "web:1".to_owned(), replicas: 1, clusters: Default::default() };
        let app = FleetApp::new("web", spec);
        let cluster =
            |name: &str, ready| ClusterStatus { name: name.to_owned(), ready, ..Default::default() };
        let table = [
            (2, vec![cluster("b", true), cluster("a", true)], "AllClustersReady: ready on 2 of 2 clusters"),
            (2, vec![cluster("a", true)], "Progressing: ready on 1 of 2 clusters"),
            (1, vec![cluster("a", true), cluster("old", false)], "Progressing: ready on 1 of 1 clusters"),
            (0, vec![], "NoClusters: ready on 0 of 0 clusters"),
        ];
        for (selected, clusters, expected) in table {
            let status = status(&app, selected, clusters);
            let ready = &status.conditions[0];
            assert_eq!(format!("{}: {}", ready.reason, ready.message), expected);
            assert!(status.clusters.is_sorted_by(|a, b| a.name <= b.name));
        }
    }
}
