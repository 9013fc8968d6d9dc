//! RBAC objects from rules: what a service account is given so that the operator may do what it registered, and no more.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use kube::{
    Resource,
    api::{DynamicObject, ObjectMeta, TypeMeta},
};
use serde::Serialize;

use crate::{Description, Place};

const GROUP: &str = "rbac.authorization.k8s.io";

impl Description {
    /// The service account that the operator runs as in a namespace, and the roles that it needs, bound to it; all named
    /// as the operator is. What is needed in some namespaces only is a Role there. Where metrics are protected, there are
    /// ClusterRoles for those who read them, too, bound to nobody.
    #[must_use]
    pub fn rbac(&self, namespace: &str) -> Vec<DynamicObject> {
        let rules = self.rules.at_home(namespace).within(&self.watch_namespaces);
        let mut objects = vec![object(&ServiceAccount {
            metadata: self.meta(Some(namespace)),
            ..ServiceAccount::default()
        })];
        for place in rules.places() {
            let policy = Some(rules.policy(&place)).filter(|rules| !rules.is_empty());
            if policy.is_none() {
                continue;
            }
            match place {
                Place::Namespace(home) => {
                    let metadata = self.meta(Some(&home));
                    objects.push(object(&Role { metadata: metadata.clone(), rules: policy }));
                    let (role_ref, subjects) = self.bound("Role", namespace);
                    objects.push(object(&RoleBinding { metadata, role_ref, subjects }));
                }
                _ => {
                    let metadata = self.meta(None);
                    let role =
                        ClusterRole { metadata: metadata.clone(), rules: policy, aggregation_rule: None };
                    objects.push(object(&role));
                    let (role_ref, subjects) = self.bound("ClusterRole", namespace);
                    objects.push(object(&ClusterRoleBinding { metadata, role_ref, subjects }));
                }
            }
        }
        objects.extend(self.readers());
        objects
    }

    /// What lets somebody read protected metrics, as kubebuilder's `metrics-reader` does, and the other pages.
    fn readers(&self) -> Vec<DynamicObject> {
        if self.metrics.is_none() {
            return Vec::new();
        }
        let reader = |who: &str, paths: Vec<String>| {
            let mut metadata = self.meta(None);
            metadata.name = Some(format!("{}-{who}-reader", self.name));
            let rule = PolicyRule {
                non_resource_urls: Some(paths),
                verbs: vec!["get".to_owned()],
                ..PolicyRule::default()
            };
            object(&ClusterRole { metadata, rules: Some(vec![rule]), aggregation_rule: None })
        };
        let diagnostics = crate::admin::diagnostic_paths().map(str::to_owned).collect();
        vec![reader("metrics", vec!["/metrics".to_owned()]), reader("diagnostics", diagnostics)]
    }

    /// The user that the operator is to the API server, when it runs in a namespace with what [`Description::rbac`] made.
    #[must_use]
    pub fn user(&self, namespace: &str) -> String {
        format!("system:serviceaccount:{namespace}:{}", self.name)
    }

    fn meta(&self, namespace: Option<&str>) -> ObjectMeta {
        let labels = [("app.kubernetes.io/name".to_owned(), self.name.clone())];
        ObjectMeta {
            name: Some(self.name.clone()),
            namespace: namespace.map(str::to_owned),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        }
    }

    fn bound(&self, kind: &str, namespace: &str) -> (RoleRef, Option<Vec<Subject>>) {
        let role =
            RoleRef { api_group: GROUP.to_owned().into(), kind: kind.to_owned(), name: self.name.clone() };
        let subject = Subject {
            kind: "ServiceAccount".to_owned(),
            name: self.name.clone(),
            namespace: Some(namespace.to_owned()),
            api_group: None,
        };
        (role, Some(vec![subject]))
    }
}

/// A typed object as one that says what it is.
fn object<K: Resource<DynamicType = ()> + Serialize>(typed: &K) -> DynamicObject {
    let types = TypeMeta { api_version: K::api_version(&()).into_owned(), kind: K::kind(&()).into_owned() };
    let mut data = serde_json::to_value(typed).unwrap_or_default();
    if let Some(fields) = data.as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
    }
    DynamicObject { types: Some(types), metadata: typed.meta().clone(), data }
}
