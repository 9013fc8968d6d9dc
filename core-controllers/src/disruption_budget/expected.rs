//! How many pods a budget stands for: what the workloads that own its pods are scaled to.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        autoscaling::v1::Scale,
        core::v1::{Pod, ReplicationController},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::{apis::meta::v1::OwnerReference, util::intstr::IntOrString as ApiIntOrString},
};
use kube::Client;
use windlass::{Error, Informer, Informers, Key, Object, Scope, controller_of};
use windlass_crd::int_or_string::{IntOrString, Round};

/// What a budget asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    /// How many pods there are to be.
    pub(super) pods: i32,
    /// How many of them have to be healthy.
    pub(super) healthy: i32,
}

/// Why that cannot be said.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unknown {
    #[error("found no controllers for pod {0:?}")]
    NoController(String),
    #[error("no matches for kind {kind:?} in version {version:?}")]
    NoKind { kind: String, version: String },
    #[error("{0} does not implement the scale subresource")]
    NoScale(String),
    #[error("{0}")]
    Share(String),
    #[error(transparent)]
    Api(#[from] Error),
}

/// Whether the workloads have to be asked: a plain number of healthy pods needs only the pods that there are.
pub(super) fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    let most = spec.and_then(|spec| spec.max_unavailable.as_ref());
    let least = spec.and_then(|spec| spec.min_available.as_ref());
    most.is_some() || matches!(least, Some(ApiIntOrString::String(_)))
}

/// What the budget asks for, of so many pods. Shares are rounded up. A budget that asks for nothing is of no pods, so that
/// none may go.
pub(super) fn expected(budget: &PodDisruptionBudget, pods: i32) -> Result<Expected, Unknown> {
    let share = |value: &ApiIntOrString| {
        let value = match value {
            ApiIntOrString::Int(number) => IntOrString::Int(*number),
            ApiIntOrString::String(text) => IntOrString::String(text.clone()),
        };
        let scaled =
            value.scaled(i64::from(pods), Round::Up).map_err(|error| Unknown::Share(error.to_string()))?;
        Ok::<_, Unknown>(i32::try_from(scaled).unwrap_or(i32::MAX))
    };
    let spec = budget.spec.as_ref();
    if let Some(most) = spec.and_then(|spec| spec.max_unavailable.as_ref()) {
        return Ok(Expected { pods, healthy: (pods - share(most)?).max(0) });
    }
    match spec.and_then(|spec| spec.min_available.as_ref()) {
        Some(least) => Ok(Expected { pods, healthy: share(least)? }),
        None => Ok(Expected { pods: 0, healthy: 0 }),
    }
}

/// The workloads that are asked.
pub(super) struct Workloads {
    controllers: Informer<ReplicationController>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
}

impl Workloads {
    pub(super) fn new(informers: &Informers) -> Self {
        Self {
            controllers: informers.get(Scope::all()),
            sets: informers.get(Scope::all()),
            deployments: informers.get(Scope::all()),
            stateful: informers.get(Scope::all()),
        }
    }

    /// The caches that have to be there first.
    pub(super) fn read_by<K: Object>(&self, controller: windlass::Controller<K>) -> windlass::Controller<K>
    where
        K::DynamicType: Default,
    {
        let controller = controller.reads(&self.controllers).reads(&self.sets);
        controller.reads(&self.deployments).reads(&self.stateful)
    }

    /// How many pods all workloads of these pods are scaled to together, and the names of pods that nobody owns.
    pub(super) async fn scale<'p>(
        &self,
        pods: impl Iterator<Item = &'p Pod>,
        client: &Client,
    ) -> Result<(i32, Vec<String>), Unknown> {
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        let mut unmanaged = Vec::new();
        for pod in pods {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let Some(owner) = controller_of(&pod.metadata) else {
                unmanaged.push(name);
                continue;
            };
            if owners.contains_key(&owner.uid) {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref();
            let Some((uid, scale)) = self.scale_of(owner, namespace, client).await? else {
                return Err(Unknown::NoController(name));
            };
            owners.insert(owner.uid.clone(), uid.clone());
            scales.insert(uid, scale);
        }
        Ok((scales.into_values().fold(0, i32::saturating_add), unmanaged))
    }

    /// The uid and the scale of the workload behind an owner: of a Deployment's ReplicaSet, the Deployment.
    async fn scale_of(
        &self,
        owner: &OwnerReference,
        namespace: Option<&str>,
        client: &Client,
    ) -> Result<Option<(String, i32)>, Unknown> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let is_apps = matches!(group, "apps" | "extensions");
        let key = Key::new(namespace, &owner.name);
        let scale = |replicas: Option<i32>| (owner.uid.clone(), replicas.unwrap_or(1));
        let known = match owner.kind.as_str() {
            "ReplicationController" if group.is_empty() => {
                let found = same(self.controllers.get(&key), &owner.uid);
                found.map(|found| scale(found.spec.as_ref().and_then(|spec| spec.replicas)))
            }
            "ReplicaSet" if is_apps => same(self.sets.get(&key), &owner.uid).and_then(|set| {
                let Some(above) = controller_of(&set.metadata).filter(|above| above.kind == "Deployment")
                else {
                    return Some(scale(set.spec.as_ref().and_then(|spec| spec.replicas)));
                };
                let deployment = same(self.deployments.get(&Key::new(namespace, &above.name)), &above.uid)?;
                let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
                Some((above.uid.clone(), replicas.unwrap_or(1)))
            }),
            "StatefulSet" if is_apps => {
                let found = same(self.stateful.get(&key), &owner.uid);
                found.map(|found| scale(found.spec.as_ref().and_then(|spec| spec.replicas)))
            }
            _ => None,
        };
        match known {
            Some(known) => Ok(Some(known)),
            None => asked(owner, namespace.unwrap_or_default(), client).await,
        }
    }
}

fn same<K: Object>(found: Option<std::sync::Arc<K>>, uid: &str) -> Option<std::sync::Arc<K>> {
    found.filter(|found| found.meta().uid.as_deref() == Some(uid))
}

/// The scale of any other workload, from its scale subresource.
async fn asked(
    owner: &OwnerReference,
    namespace: &str,
    client: &Client,
) -> Result<Option<(String, i32)>, Unknown> {
    let (group, path) = match owner.api_version.split_once('/') {
        Some((group, _)) => (group, format!("/apis/{}", owner.api_version)),
        None => ("", format!("/api/{}", owner.api_version)),
    };
    let served = match group {
        "" => client.list_core_api_resources(&owner.api_version).await,
        _ => client.list_api_group_resources(&owner.api_version).await,
    };
    let served = match served {
        Ok(served) => served.resources,
        Err(kube::Error::Api(status)) if status.is_not_found() => Vec::new(),
        Err(error) => return Err(Error::from(error).into()),
    };
    let of_kind = served.iter().find(|one| one.kind == owner.kind && !one.name.contains('/'));
    let Some(resource) = of_kind else {
        return Err(Unknown::NoKind { kind: owner.kind.clone(), version: owner.api_version.clone() });
    };
    let plural = &resource.name;
    if !served.iter().any(|one| one.name == format!("{plural}/scale")) {
        let name = if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") };
        return Err(Unknown::NoScale(name));
    }
    let uri = format!("{path}/namespaces/{namespace}/{plural}/{}/scale", owner.name);
    let request = http::Request::get(uri).body(Vec::new()).map_err(|error| Error::Other(error.into()))?;
    let scale: Scale = match client.request(request).await {
        Ok(scale) => scale,
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(None),
        Err(error) => return Err(Error::from(error).into()),
    };
    let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
    Ok(scale.metadata.uid.filter(|uid| *uid == owner.uid).map(|uid| (uid, replicas)))
}
