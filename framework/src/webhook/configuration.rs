//! The objects that make an API server ask.

use base64::{Engine, engine::general_purpose::STANDARD};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Map, Value, json};

use super::{
    Webhooks,
    answer::{Handler, Role},
};
use crate::{BoxError, custom::Kind};

/// Where the server is found, and what it is believed by.
pub(super) struct Way<'a> {
    pub(super) namespace: &'a str,
    pub(super) bundle: Option<&'a str>,
}

impl Webhooks {
    /// The configuration objects and definitions as they are written to an API server, for a process in this namespace.
    #[must_use]
    pub fn configurations(&self, namespace: &str) -> Vec<Value> {
        self.objects(&Way { namespace, bundle: None })
    }

    fn objects(&self, way: &Way<'_>) -> Vec<Value> {
        let of = |role: Role, kind: &str| {
            let hooks: Vec<Value> =
                self.handlers.iter().filter(|h| h.role == role).map(|h| self.hook(h, way)).collect();
            (!hooks.is_empty()).then(|| {
                json!({
                    "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                    "metadata": self.metadata(&self.service), "webhooks": hooks,
                })
            })
        };
        let validating = of(Role::Validating, "ValidatingWebhookConfiguration");
        let mutating = of(Role::Mutating, "MutatingWebhookConfiguration");
        let definitions = self.kinds.iter().map(|kind| self.definition(kind, way));
        validating.into_iter().chain(mutating).chain(definitions).collect()
    }

    fn metadata(&self, name: &str) -> Value {
        let mut metadata = json!({ "name": name });
        if let Some(certificate) = self.certificates.injected() {
            metadata["annotations"] = json!({ "cert-manager.io/inject-ca-from": certificate });
        }
        metadata
    }

    fn client_config(&self, path: &str, way: &Way<'_>) -> Value {
        let mut config = json!({
            "service": { "name": self.service, "namespace": way.namespace, "path": path, "port": self.port },
        });
        if let Some(bundle) = way.bundle {
            config["caBundle"] = STANDARD.encode(bundle).into();
        }
        config
    }

    fn hook(&self, handler: &Handler, way: &Way<'_>) -> Value {
        let Handler { hook, group, version, plural, .. } = handler;
        let role = handler.verb();
        let domain = if group.is_empty() { "core" } else { group };
        let mut object = json!({
            "name": format!("{role}.{plural}.{domain}"),
            "clientConfig": self.client_config(&handler.path(), way),
            "rules": [{
                "apiGroups": [group], "apiVersions": [version], "resources": [plural], "operations": hook.operations(),
                "scope": if handler.namespaced { "Namespaced" } else { "Cluster" },
            }],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": hook.failure_policy(),
            "timeoutSeconds": hook.timeout.as_secs(),
        });
        hook.select(&mut object);
        let conditions = hook.match_conditions();
        if !conditions.is_empty() {
            object["matchConditions"] = conditions.into();
        }
        object
    }

    fn definition(&self, kind: &Kind, way: &Way<'_>) -> Value {
        let mut definition = serde_json::to_value(kind.definition()).unwrap_or_default();
        let name = kind.name();
        definition["spec"]["conversion"] = json!({
            "strategy": "Webhook",
            "webhook": {
                "conversionReviewVersions": ["v1"],
                "clientConfig": self.client_config(&convert_path(name), way),
            },
        });
        if let Value::Object(annotations) = &self.metadata(name)["annotations"] {
            let all =
                definition["metadata"].as_object_mut().map(|m| m.entry("annotations").or_insert(json!({})));
            if let Some(Value::Object(all)) = all {
                all.extend(annotations.clone());
            }
        }
        definition
    }

    /// Writes all of them; what is as it should be is not changed by that.
    pub(super) async fn configure(&self, client: &Client, way: &Way<'_>) -> Result<(), BoxError> {
        for object in self.objects(way) {
            let text = |name: &str| object[name].as_str().unwrap_or_default();
            let (group, version) = text("apiVersion").split_once('/').unwrap_or_default();
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("kind")));
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let apply = PatchParams::apply(&self.service).force();
            api.patch(name, &apply, &Patch::Apply(pruned(object.clone()))).await?;
        }
        Ok(())
    }
}

/// Where a definition's objects are converted.
pub(super) fn convert_path(definition: &str) -> String {
    format!("/convert/{definition}")
}

/// What is not there is not applied.
fn pruned(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, member)| !member.is_null());
            Value::Object(kept.map(|(name, member)| (name, pruned(member))).collect::<Map<_, _>>())
        }
        Value::Array(list) => list.into_iter().map(pruned).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;
    use crate::webhook::{Certificates, Denied, Hook, Mutate, Review, Validate};

    struct Nothing;

    impl Validate<ConfigMap> for Nothing {
        async fn validate(&self, _: &Review<ConfigMap>) -> Result<(), Denied> {
            Ok(())
        }
    }

    impl Mutate<ConfigMap> for Nothing {
        async fn mutate(&self, _: &mut ConfigMap, _: &Review<ConfigMap>) -> Result<(), Denied> {
            Ok(())
        }
    }

    #[test]
    fn each_hook_has_a_name_and_a_path_of_its_own() {
        let hooks = Webhooks::new("hooks", Certificates::self_signed())
            .validate(Nothing, Hook::default())
            .mutate(Nothing, Hook::default())
            .validate(Nothing, Hook::default());
        let all = hooks.configurations("here");
        let all: Vec<&Value> = all.iter().flat_map(|object| object["webhooks"].as_array().unwrap()).collect();
        let shown: Vec<(&str, &str)> = all
            .iter()
            .map(|hook| {
                let path = &hook["clientConfig"]["service"]["path"];
                (hook["name"].as_str().unwrap(), path.as_str().unwrap())
            })
            .collect();
        let expected = [
            ("validate.configmaps.core", "/validate--v1-configmap"),
            ("validate-2.configmaps.core", "/validate-2--v1-configmap"),
            ("mutate.configmaps.core", "/mutate--v1-configmap"),
        ];
        assert_eq!(shown, expected);
    }
}
