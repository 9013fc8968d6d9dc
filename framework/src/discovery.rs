//! What a server serves: every resource, in the version that its group prefers.
//!
//! A group whose discovery fails, such as an aggregated API that is down, is reported and does not hide the others.
//! Asks once; [`crate::Kinds`] asks again whenever definitions change.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResource};
use kube::{Client, api::ApiResource};

/// A resource as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    /// Empty for the core group.
    pub group: String,
    /// The version that the group prefers of those that have it.
    pub version: String,
    /// Such as `Deployment`.
    pub kind: String,
    /// Such as `deployments`.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: BTreeSet<String>,
}

impl Served {
    /// Whether all of these verbs can be done.
    ///
    /// ```
    /// # use windlass::discovery::Served;
    /// let pods = Served {
    ///     group: String::new(),
    ///     version: "v1".into(),
    ///     kind: "Pod".into(),
    ///     plural: "pods".into(),
    ///     namespaced: true,
    ///     verbs: ["get", "list", "watch"].map(String::from).into(),
    /// };
    /// assert!(pods.can(&["list", "watch"]) && !pods.can(&["list", "delete"]));
    /// assert_eq!((pods.name().as_str(), pods.api_resource().api_version.as_str()), ("pods.", "v1"));
    /// ```
    #[must_use]
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.contains(*verb))
    }

    /// The resource, for [`Informers::dynamic`](crate::Informers::dynamic) and kube's dynamic API.
    #[must_use]
    pub fn api_resource(&self) -> ApiResource {
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

    /// `pods.`, `deployments.apps`: as messages of controllers name it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

/// What was found, and what could not be asked.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The resources, without subresources.
    pub resources: BTreeSet<Served>,
    /// A line for each group and version that did not answer.
    pub failures: Vec<String>,
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
pub async fn discover(client: &Client) -> kube::Result<Found> {
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
