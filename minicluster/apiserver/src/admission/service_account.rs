//! ServiceAccount: every pod runs as one, gets its token mounted, and uses the secrets that it may use.
//!
//! Source: `plugin/pkg/admission/serviceaccount`, KEP-1205.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_SECONDS: i64 = 3607;
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// How long a new namespace's `default` account is waited for.
const DEFAULT_WAIT: Duration = Duration::from_millis(1500);

/// Assigns the service account, its pull secrets and its token.
///
/// # Errors
/// 403 for an account that there is none of, and for secrets that it may not use.
pub(super) async fn assign(cx: &Context, pod: &mut Value) -> ApiResult<()> {
    if is_mirror(pod) {
        return check(cx, pod);
    }
    if object::text(pod, &["spec", "serviceAccountName"]).is_empty() {
        object::set(pod, &["spec", "serviceAccountName"], "default");
    }
    let name = object::text(pod, &["spec", "serviceAccountName"]).to_owned();
    object::set(pod, &["spec", "serviceAccount"], name.as_str());
    if name == "default" && find(cx, &name).is_none() {
        // Its controller may not have come to a new namespace yet.
        let _ = timeout(DEFAULT_WAIT, appears(cx, &name)).await;
    }
    let account = account_of(cx, pod)?;
    let wish = |obj: &Value, path: &[&str]| object::at(obj, path).and_then(Value::as_bool);
    let automount = wish(pod, &["spec", "automountServiceAccountToken"])
        .or_else(|| wish(&account, &["automountServiceAccountToken"]))
        .unwrap_or(true);
    if automount {
        mount_token(cx, pod);
    }
    if object::list(pod, &["spec", "imagePullSecrets"]).is_empty()
        && let Some(secrets) = account.get("imagePullSecrets")
    {
        object::set(pod, &["spec", "imagePullSecrets"], secrets.clone());
    }
    Ok(())
}

fn is_mirror(pod: &Value) -> bool {
    object::at(pod, &["metadata", "annotations"]).is_some_and(|a| a.get(MIRROR_ANNOTATION).is_some())
}

fn key(cx: &Context, name: &str) -> String {
    cx.api.registry.builtin("", "v1", "serviceaccounts").key(&cx.info.namespace, name)
}

fn find(cx: &Context, name: &str) -> Option<Value> {
    let entry = cx.api.store.get(&key(cx, name))?;
    serde_json::from_slice(&entry.value).ok()
}

/// Waits until an account is there.
async fn appears(cx: &Context, name: &str) {
    let key = key(cx, name);
    let Ok(mut watcher) = cx.api.store.watch(&key, cx.api.store.revision()) else { return };
    while find(cx, name).is_none() {
        if watcher.next().await.is_err() {
            return;
        }
    }
}

fn account_of(cx: &Context, pod: &Value) -> ApiResult<Value> {
    let name = object::text(pod, &["spec", "serviceAccountName"]);
    let namespace = &cx.info.namespace;
    let refuse = |why: String| Err(ApiError::forbidden(&cx.resource, object::name(pod), why));
    if name.is_empty() {
        return refuse(format!("no service account specified for pod {namespace}/{}", object::name(pod)));
    }
    find(cx, name).map_or_else(
        || {
            refuse(format!(
                "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
            ))
        },
        Ok,
    )
}

/// Holds a new pod, or its new ephemeral containers, to what its account may use.
///
/// # Errors
/// 403.
pub(super) fn check(cx: &Context, pod: &Value) -> ApiResult<()> {
    let refuse = |why: &str| Err(ApiError::forbidden(&cx.resource, object::name(pod), why));
    let ephemeral = cx.info.subresource == "ephemeralcontainers";
    if is_mirror(pod) && !ephemeral {
        // A mirror pod is a picture of what a kubelet runs from a file: it may ask for nothing of the cluster's.
        if !object::text(pod, &["spec", "serviceAccountName"]).is_empty() {
            return refuse("a mirror pod may not reference service accounts");
        }
        if names_secrets(pod) {
            return refuse("a mirror pod may not reference secrets");
        }
        if projects_token(pod) {
            return refuse("a mirror pod may not use ServiceAccountToken volume projections");
        }
        return Ok(());
    }
    let account = account_of(cx, pod)?;
    let flag = object::text(&account, &["metadata", "annotations", MOUNTABLE]);
    // As Go's ParseBool.
    if !matches!(flag, "1" | "t" | "T" | "true" | "TRUE" | "True") {
        return Ok(());
    }
    match unmountable(&account, pod, ephemeral) {
        Some(why) => refuse(&why),
        None => Ok(()),
    }
}

fn projects_token(pod: &Value) -> bool {
    object::list(pod, &["spec", "volumes"]).iter().any(|volume| {
        let sources = object::list(volume, &["projected", "sources"]);
        sources.iter().any(|source| object::at(source, &["serviceAccountToken"]).is_some())
    })
}

/// Whether any field of the spec names a secret.
fn names_secrets(pod: &Value) -> bool {
    fn any(value: &Value) -> bool {
        const FIELDS: [&str; 6] = [
            "secretKeyRef",
            "secretRef",
            "imagePullSecrets",
            "nodePublishSecretRef",
            "secretName",
            "secretFile",
        ];
        match value {
            Value::Array(items) => items.iter().any(any),
            Value::Object(fields) => fields.iter().any(|(name, value)| {
                let named = match value {
                    Value::Array(items) => !items.is_empty(),
                    Value::String(text) => !text.is_empty(),
                    other => !other.is_null(),
                };
                (FIELDS.contains(&name.as_str()) && named)
                    || (name == "secret" && value.get("name").is_some())
                    || any(value)
            }),
            _ => false,
        }
    }
    pod.get("spec").is_some_and(any)
}

/// The first secret of the pod that its account does not name.
fn unmountable(account: &Value, pod: &Value, ephemeral: bool) -> Option<String> {
    let names = |list: &str| -> BTreeSet<&str> {
        object::list(account, &[list]).iter().map(|secret| object::text(secret, &["name"])).collect()
    };
    let (secrets, account_name) = (names("secrets"), object::name(account));
    let tail = format!("is not allowed because service account {account_name} does not reference that");
    if !ephemeral {
        for volume in object::list(pod, &["spec", "volumes"]) {
            let Some(secret) = object::at(volume, &["secret"]) else { continue };
            let name = object::text(secret, &["secretName"]);
            if !secrets.contains(name) {
                return Some(format!("volume with secret.secretName=\"{name}\" {tail} secret"));
            }
        }
    }
    let lists: &[(&str, &str)] = match ephemeral {
        true => &[("ephemeralContainers", "ephemeral container")],
        false => &[("initContainers", "init container"), ("containers", "container")],
    };
    for (list, what) in lists {
        for container in object::list(pod, &["spec", list]) {
            let who = format!("{what} {}", object::text(container, &["name"]));
            for env in object::list(container, &["env"]) {
                let Some(reference) = object::at(env, &["valueFrom", "secretKeyRef"]) else { continue };
                let (name, variable) = (object::text(reference, &["name"]), object::text(env, &["name"]));
                if !secrets.contains(name) {
                    return Some(format!(
                        "{who} with envVar {variable} referencing secret.secretName=\"{name}\" {tail} secret"
                    ));
                }
            }
            for source in object::list(container, &["envFrom"]) {
                let Some(reference) = object::at(source, &["secretRef"]) else { continue };
                let name = object::text(reference, &["name"]);
                if !secrets.contains(name) {
                    return Some(format!(
                        "{who} with envFrom referencing secret.secretName=\"{name}\" {tail} secret"
                    ));
                }
            }
        }
    }
    let pulls = names("imagePullSecrets");
    let given = object::list(pod, &["spec", "imagePullSecrets"]).iter().enumerate();
    let mut wrong =
        given.map(|(i, s)| (i, object::text(s, &["name"]))).filter(|(_, name)| !pulls.contains(name));
    let (i, name) = wrong.next().filter(|_| !ephemeral)?;
    Some(format!("imagePullSecrets[{i}].name=\"{name}\" {tail} imagePullSecret"))
}

fn mount_token(cx: &Context, pod: &mut Value) {
    let volumes = object::list(pod, &["spec", "volumes"]);
    let existing =
        volumes.iter().map(object_name).find(|n| n.starts_with("kube-api-access-")).map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", cx.api.random_suffix()));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in containers {
            let mounts = object::list(container, &["volumeMounts"]);
            if mounts.iter().any(|m| object::text(m, &["mountPath"]) == MOUNT_PATH) {
                continue;
            }
            needed = true;
            let mut mounts = mounts.to_vec();
            mounts.push(json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH }));
            object::set(container, &["volumeMounts"], mounts);
        }
    }
    if !needed || existing.is_some() {
        return;
    }
    let mut volumes = object::list(pod, &["spec", "volumes"]).to_vec();
    volumes.push(json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{
                    "path": "namespace",
                    "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ],
        },
    }));
    object::set(pod, &["spec", "volumes"], volumes);
}

fn object_name(volume: &Value) -> &str {
    object::text(volume, &["name"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_says_so_holds_its_pods_to_its_secrets() {
        let account = json!({"metadata": {"name": "sa"}, "secrets": [{"name": "own"}], "imagePullSecrets": [{"name": "reg"}]});
        let tail = "is not allowed because service account sa does not reference that";
        let with = |container: Value| json!({"spec": {"containers": [container]}});
        let cases = [
            (json!({"spec": {"volumes": [{"secret": {"secretName": "own"}}]}}), false, None),
            (
                json!({"spec": {"volumes": [{"secret": {"secretName": "x"}}]}}),
                false,
                Some(format!("volume with secret.secretName=\"x\" {tail} secret")),
            ),
            (
                with(
                    json!({"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}),
                ),
                false,
                Some(format!("container c with envVar E referencing secret.secretName=\"x\" {tail} secret")),
            ),
            (
                json!({"spec": {"ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "x"}}]}]}}),
                true,
                Some(format!(
                    "ephemeral container e with envFrom referencing secret.secretName=\"x\" {tail} secret"
                )),
            ),
            (
                json!({"spec": {"imagePullSecrets": [{"name": "reg"}, {"name": "x"}]}}),
                false,
                Some(format!("imagePullSecrets[1].name=\"x\" {tail} imagePullSecret")),
            ),
        ];
        for (pod, ephemeral, expected) in cases {
            assert_eq!(unmountable(&account, &pod, ephemeral), expected, "{pod}");
        }
    }

    #[test]
    fn secrets_are_found_wherever_a_pod_names_them() {
        for (pod, expected) in [
            (json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}), false),
            (json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}), true),
            (json!({"spec": {"volumes": [{"projected": {"sources": [{"secret": {"name": "s"}}]}}]}}), true),
            (json!({"spec": {"containers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]}}), true),
            (json!({"spec": {"imagePullSecrets": []}}), false),
        ] {
            assert_eq!(names_secrets(&pod), expected, "{pod}");
        }
    }
}
