//! Fetching what a report is made of. What may not be read is left out of the report; the object itself has to be read.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, bail};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod, ResourceQuota};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
    core::{ObjectMeta, PartialObjectMeta},
    discovery::{Discovery, Scope, verbs},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use windlass::{Diagnostics, Failure};

use super::report::{self, Facts};

/// Members of a family that are looked at, and owners that are followed.
const FAMILY: usize = 200;
const OWNERS: usize = 10;
/// Objects of a kind that are looked through for members.
const LISTED: u32 = 5000;
/// Kinds that are listed at a time.
const AT_A_TIME: usize = 8;
/// How long an operator's admin server may take, and how much it may say.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
const ADMIN_MAX: u64 = 16 << 20;

/// Short names that people type, and what they mean.
const SHORT: [(&str, &str); 18] = [
    ("cj", "cronjobs"),
    ("cm", "configmaps"),
    ("crd", "customresourcedefinitions"),
    ("deploy", "deployments"),
    ("ds", "daemonsets"),
    ("ep", "endpoints"),
    ("hpa", "horizontalpodautoscalers"),
    ("ing", "ingresses"),
    ("no", "nodes"),
    ("ns", "namespaces"),
    ("pdb", "poddisruptionbudgets"),
    ("po", "pods"),
    ("pv", "persistentvolumes"),
    ("pvc", "persistentvolumeclaims"),
    ("quota", "resourcequotas"),
    ("rs", "replicasets"),
    ("sts", "statefulsets"),
    ("svc", "services"),
];

/// A kind that the server has.
#[derive(Clone)]
struct Known {
    resource: ApiResource,
    namespaced: bool,
    listable: bool,
}

/// Where a kind's objects are.
struct Reader<'a> {
    client: &'a Client,
    namespace: String,
}

impl Reader<'_> {
    fn api(&self, known: &Known) -> Api<DynamicObject> {
        match known.namespaced {
            true => Api::namespaced_with(self.client.clone(), &self.namespace, &known.resource),
            false => Api::all_with(self.client.clone(), &known.resource),
        }
    }

    /// The metadata of every object of a kind that the subject's family may be in.
    async fn metadata(&self, known: &Known, everywhere: bool) -> Vec<ObjectMeta> {
        let api: Api<PartialObjectMeta<DynamicObject>> = match known.namespaced && !everywhere {
            true => Api::namespaced_with(self.client.clone(), &self.namespace, &known.resource),
            false => Api::all_with(self.client.clone(), &known.resource),
        };
        let listed = api.list_metadata(&ListParams::default().limit(LISTED)).await;
        listed.map(|list| list.items.into_iter().map(|item| item.metadata).collect()).unwrap_or_default()
    }

    /// An object with its kind in it.
    async fn get(&self, known: &Known, name: &str) -> Option<Value> {
        let object = self.api(known).get_opt(name).await.ok().flatten()?;
        Some(whole(object, &known.resource))
    }
}

/// An object as a value that says its kind.
fn whole(object: DynamicObject, resource: &ApiResource) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    value["apiVersion"] = resource.api_version.clone().into();
    value["kind"] = resource.kind.clone().into();
    value
}

pub(super) async fn facts(
    client: &Client,
    kind: &str,
    name: &str,
    namespace: Option<&str>,
) -> anyhow::Result<Facts> {
    let kinds = kinds(client).await?;
    let Some(known) = find(&kinds, kind) else { bail!("the server has no kind {kind:?}") };
    let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
    let reader = Reader { client, namespace };
    let object = reader.api(known).get(name).await.map_err(|error| match error {
        kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
        other => other.into(),
    })?;
    let subject = whole(object, &known.resource);
    let family = family(&reader, &kinds, known, &subject).await;
    let mut facts = Facts {
        owners: owners(&reader, &kinds, &subject).await,
        events: events(&reader, known, &subject, &family).await,
        subject,
        family,
        ..Facts::default()
    };
    if known.namespaced {
        let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &reader.namespace);
        let listed = quotas.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        facts.quotas = listed.iter().filter_map(|quota| serde_json::to_value(quota).ok()).collect();
    }
    let waits = |object: &Value| object["kind"] == "Pod" && report::text(object, "/spec/nodeName").is_empty();
    if waits(&facts.subject) || facts.family.iter().any(waits) {
        let (nodes, pods): (Api<Node>, Api<Pod>) = (Api::all(client.clone()), Api::all(client.clone()));
        facts.nodes = nodes.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        facts.pods = pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    }
    Ok(facts)
}

/// Every kind of the server in its preferred version.
async fn kinds(client: &Client) -> anyhow::Result<Vec<Known>> {
    let discovery = Discovery::new(client.clone())
        .run_aggregated()
        .await
        .context("the server does not say what it has")?;
    let mut kinds = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            kinds.push(Known {
                namespaced: capabilities.scope == Scope::Namespaced,
                listable: capabilities.supports_operation(verbs::LIST),
                resource,
            });
        }
    }
    Ok(kinds)
}

/// The kind that somebody means: as a kind, its plural, a short name, or its plural with its group.
fn find<'a>(kinds: &'a [Known], named: &str) -> Option<&'a Known> {
    let named = named.to_lowercase();
    let named = SHORT.iter().find(|(short, _)| *short == named).map_or(named.as_str(), |(_, plural)| plural);
    let (name, group) = named.split_once('.').map_or((named, None), |(name, group)| (name, Some(group)));
    let means = |known: &&Known| {
        let resource = &known.resource;
        let called = resource.plural == name || resource.kind.to_lowercase() == name;
        called && group.is_none_or(|group| resource.group == group)
    };
    // Groups that Kubernetes itself has come before others of the same name.
    let built_in =
        |known: &&Known| !known.resource.group.contains('.') || known.resource.group.ends_with(".k8s.io");
    kinds.iter().filter(means).find(built_in).or_else(|| kinds.iter().find(means))
}

/// Everything that belongs to an object, and what belongs to that.
async fn family(reader: &Reader<'_>, kinds: &[Known], subject_kind: &Known, subject: &Value) -> Vec<Value> {
    // Members of a family live in its namespace; what has none may have members anywhere.
    let everywhere = !subject_kind.namespaced;
    let may_be =
        |known: &&Known| known.listable && known.resource.kind != "Event" && (known.namespaced || everywhere);
    let lists = stream::iter(kinds.iter().filter(may_be))
        .map(|known| async move { (known, reader.metadata(known, everywhere).await) })
        .buffered(AT_A_TIME)
        .collect::<Vec<_>>()
        .await;
    let mut uids = BTreeSet::from([report::text(subject, "/metadata/uid").to_owned()]);
    let mut members: Vec<(&Known, &ObjectMeta)> = Vec::new();
    loop {
        let before = members.len();
        for (known, metas) in &lists {
            for meta in metas {
                let uid = meta.uid.clone().unwrap_or_default();
                let belongs = meta.owner_references.iter().flatten().any(|owner| uids.contains(&owner.uid));
                if belongs && members.len() < FAMILY && uids.insert(uid) {
                    members.push((known, meta));
                }
            }
        }
        if members.len() == before {
            break;
        }
    }
    let mut family = Vec::with_capacity(members.len());
    for (known, meta) in members {
        let namespace = meta.namespace.clone().unwrap_or_else(|| reader.namespace.clone());
        let reader = Reader { client: reader.client, namespace };
        family.extend(reader.get(known, meta.name.as_deref().unwrap_or_default()).await);
    }
    family
}

/// Who an object belongs to, from the nearest on.
async fn owners(reader: &Reader<'_>, kinds: &[Known], subject: &Value) -> Vec<(String, bool)> {
    let (mut owners, mut current) = (Vec::new(), subject.clone());
    while owners.len() < OWNERS {
        let references = current["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let Some(owner) = references.iter().find(|o| o["controller"] == true).or(references.first()) else {
            break;
        };
        let (version, kind) = (report::text(owner, "/apiVersion"), report::text(owner, "/kind"));
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let known = kinds.iter().find(|known| known.resource.group == group && known.resource.kind == kind);
        let found = match known {
            Some(known) => reader.get(known, report::text(owner, "/name")).await,
            None => None,
        };
        let found = found.filter(|found| report::text(found, "/metadata/uid") == report::text(owner, "/uid"));
        owners.push((format!("{kind} {}", report::text(owner, "/name")), found.is_some()));
        let Some(found) = found else { break };
        current = found;
    }
    owners
}

/// Events about an object and its family.
async fn events(reader: &Reader<'_>, known: &Known, subject: &Value, family: &[Value]) -> Vec<Value> {
    let namespace = if known.namespaced { reader.namespace.as_str() } else { "default" };
    let api: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(reader.client.clone(), namespace);
    let listed = api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    let uids: BTreeSet<&str> =
        std::iter::once(subject).chain(family).map(|object| report::text(object, "/metadata/uid")).collect();
    let values = listed.iter().filter_map(|event| serde_json::to_value(event).ok());
    values.filter(|event| uids.contains(report::text(event, "/involvedObject/uid"))).collect()
}

/// What an operator fails at, as its admin server says.
pub(super) async fn failures(address: &str) -> anyhow::Result<Vec<Failure>> {
    ask(address, "/failing").await
}

/// What an operator does at this moment. One of an older release does not say it.
pub(super) async fn diagnostics(address: &str) -> Diagnostics {
    ask(address, "/diagnostics.json").await.unwrap_or_default()
}

/// Asks an admin server for a page.
async fn ask<T: DeserializeOwned>(address: &str, path: &str) -> anyhow::Result<T> {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(ADMIN_MAX).read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(ADMIN_TIMEOUT, ask).await.context("it does not answer")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("it does not speak HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("it answered {status}: {}", body.trim());
    }
    serde_json::from_str(body).context("it answered something else")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(group: &str, kind: &str, plural: &str) -> Known {
        let resource = ApiResource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            api_version: String::new(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        Known { resource, namespaced: true, listable: true }
    }

    #[test]
    fn kinds_go_by_many_names() {
        let kinds = [
            known("boats.dev", "Pod", "pods"),
            known("", "Pod", "pods"),
            known("apps", "Deployment", "deployments"),
        ];
        let found = |named| find(&kinds, named).map(|known| known.resource.group.as_str());
        for named in ["pod", "Pod", "pods", "po"] {
            assert_eq!(found(named), Some(""), "{named}");
        }
        assert_eq!(found("pods.boats.dev"), Some("boats.dev"));
        assert_eq!((found("deploy"), found("deployment.apps")), (Some("apps"), Some("apps")));
        assert_eq!((found("boat"), found("pods.apps")), (None, None));
    }
}
