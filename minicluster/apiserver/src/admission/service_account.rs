//! ServiceAccount: every pod runs as one, and gets its token mounted.
//!
//! Source: `plugin/pkg/admission/serviceaccount`, KEP-1205.

use serde_json::{Value, json};

use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_SECONDS: i64 = 3607;
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Assigns the service account, its pull secrets and its token.
pub(super) fn assign(cx: &Context, pod: &mut Value) -> ApiResult<()> {
    let is_mirror =
        object::at(pod, &["metadata", "annotations"]).is_some_and(|a| a.get(MIRROR_ANNOTATION).is_some());
    if is_mirror {
        return mirror(cx, pod);
    }
    if object::text(pod, &["spec", "serviceAccountName"]).is_empty() {
        object::set(pod, &["spec", "serviceAccountName"], "default");
    }
    let name = object::text(pod, &["spec", "serviceAccountName"]).to_owned();
    object::set(pod, &["spec", "serviceAccount"], name.as_str());
    let accounts = cx.api.registry.builtin("", "v1", "serviceaccounts");
    let namespace = &cx.info.namespace;
    let Some(entry) = cx.api.store.get(&accounts.key(namespace, &name)) else {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        );
        return Err(ApiError::forbidden(&cx.resource, object::name(pod), why));
    };
    let account: Value = serde_json::from_slice(&entry.value).unwrap_or_default();
    if object::list(pod, &["spec", "imagePullSecrets"]).is_empty()
        && let Some(secrets) = account.get("imagePullSecrets")
    {
        object::set(pod, &["spec", "imagePullSecrets"], secrets.clone());
    }
    let wish = |obj: &Value, path: &[&str]| object::at(obj, path).and_then(Value::as_bool);
    let automount = wish(pod, &["spec", "automountServiceAccountToken"])
        .or_else(|| wish(&account, &["automountServiceAccountToken"]))
        .unwrap_or(true);
    if automount {
        mount_token(cx, pod);
    }
    Ok(())
}

/// A mirror pod is a picture of what a kubelet runs from a file: it gets nothing, and may ask for nothing.
fn mirror(cx: &Context, pod: &Value) -> ApiResult<()> {
    if !object::text(pod, &["spec", "serviceAccountName"]).is_empty() {
        let why = "a mirror pod may not reference service accounts";
        return Err(ApiError::forbidden(&cx.resource, object::name(pod), why));
    }
    Ok(())
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
