//! What a server serves: every resource that can be listed and deleted, in its preferred version.
//!
//! A group whose discovery fails, such as an aggregated API that is down, is reported and does not hide the others.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResource};
use kube::{Client, api::ApiResource};

/// A resource as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Served {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
    pub(crate) verbs: BTreeSet<String>,
}

impl Served {
    pub(crate) fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.contains(*verb))
    }

    pub(crate) fn api_resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version: if self.group.is_empty() {
                self.version.clone()
            } else {
                format!("{}/{}", self.group, self.version)
            },
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    /// `pods`, `deployments.apps`: as messages name it.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

/// What was found, and what could not be asked.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) resources: BTreeSet<Served>,
    pub(crate) failures: Vec<String>,
}

impl Found {
    fn add(&mut self, group: &str, version: &str, resources: Vec<APIResource>) {
        for resource in resources.into_iter().filter(|r| !r.name.contains('/')) {
            // A plural is found once, in the version that its group prefers.
            let known = |s: &Served| s.group == group && s.plural == resource.name;
            if !self.resources.iter().any(known) {
                self.resources.insert(Served {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    kind: resource.kind,
                    plural: resource.name,
                    namespaced: resource.namespaced,
                    verbs: resource.verbs.into_iter().collect(),
                });
            }
        }
    }
}

/// Asks the server what it serves. An error means that not even the groups are known.
pub(crate) async fn discover(client: &Client) -> kube::Result<Found> {
    let mut found = Found::default();
    match client.list_core_api_resources("v1").await {
        Ok(list) => found.add("", "v1", list.resources),
        Err(error) => found.failures.push(format!("v1: {error}")),
    }
    for group in client.list_api_groups().await?.groups {
        for (version, path) in versions(&group) {
            match client.list_api_group_resources(&path).await {
                Ok(list) => found.add(&group.name, &version, list.resources),
                Err(error) => found.failures.push(format!("{path}: {error}")),
            }
        }
    }
    Ok(found)
}

/// The versions of a group and their paths, the preferred one first.
fn versions(group: &APIGroup) -> Vec<(String, String)> {
    let mut versions: Vec<_> = group.preferred_version.iter().chain(&group.versions).collect();
    versions.dedup_by(|a, b| a.version == b.version);
    versions.into_iter().map(|v| (v.version.clone(), v.group_version.clone())).collect()
}
