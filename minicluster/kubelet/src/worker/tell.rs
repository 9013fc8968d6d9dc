//! Tells the API what a pod's status is, and lets a finished pod go.
//!
//! One writer per pod at most; it sends the difference between what is wanted and what the API is known to have, as a
//! strategic merge patch bound to the pod's uid, and tries again until it succeeds or the pod is gone. Only what the
//! kubelet owns is sent, so that conditions of others stay.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Map, Value, json};
use windlass_crd::{schema, typed};

use super::{Cell, Shared, State};

/// First pause after a failed write; doubles to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_millis(200);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// The parts of a status that are the kubelet's.
const OWNED: [&str; 15] = [
    "phase",
    "conditions",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "qosClass",
    "observedGeneration",
    "resize",
];
/// Conditions that are the kubelet's.
const CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Makes sure the wanted status reaches the API.
pub(super) fn tell(shared: &Arc<Shared>, cell: &Arc<Cell>) {
    let mut state = cell.state.lock();
    if state.telling || !state.in_api || shared.stop.is_cancelled() {
        return;
    }
    if untold(shared, &state).is_none() && !state.done {
        return;
    }
    state.telling = true;
    drop(state);
    let (shared, cell) = (shared.clone(), cell.clone());
    let tasks = shared.tasks.clone();
    tasks.spawn(async move { write(&shared, &cell).await });
}

async fn write(shared: &Arc<Shared>, cell: &Arc<Cell>) {
    let mut pause = RETRY;
    loop {
        let (pod, patch, done) = {
            let mut state = cell.state.lock();
            let patch = if state.in_api { untold(shared, &state) } else { None };
            let done = state.done && state.in_api && !state.is_static;
            if patch.is_none() && !done {
                state.telling = false;
                return;
            }
            (state.shown().clone(), patch, done)
        };
        let result = match patch {
            Some(patch) => send(shared, cell, &pod, patch).await,
            None if done => delete(shared, cell, &pod).await,
            None => Ok(()),
        };
        match result {
            Ok(()) => pause = RETRY,
            Err(error) => {
                tracing::debug!(pod = cell.uid, %error, "a status could not be told yet");
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(pause) => {}
                    () = shared.stop.cancelled() => return,
                }
                pause = (pause * 2).min(MAX_RETRY);
            }
        }
    }
}

fn api(shared: &Shared, pod: &Pod) -> (Api<Pod>, String) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    (Api::namespaced(shared.client.clone(), namespace), pod.metadata.name.clone().unwrap_or_default())
}

/// The object is gone, or another one has its name.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409 && status.message.contains("uid"))
}

async fn send(shared: &Arc<Shared>, cell: &Cell, pod: &Pod, patch: Value) -> Result<(), kube::Error> {
    let (api, name) = api(shared, pod);
    match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(stored) => {
            let mut state = cell.state.lock();
            if windlass::revision_of(&stored) < windlass::revision_of(&**state.shown()) {
                return Ok(());
            }
            match state.is_static {
                true => state.mirror = Some(Arc::new(stored)),
                false => state.pod = Arc::new(stored),
            }
            Ok(())
        }
        Err(error) if is_gone(&error) => {
            cell.state.lock().in_api = false;
            shared.gone(pod.metadata.uid.as_deref().unwrap_or_default());
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn delete(shared: &Arc<Shared>, cell: &Cell, pod: &Pod) -> Result<(), kube::Error> {
    let (api, name) = api(shared, pod);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(&name, &params).await {
        Err(error) if !is_gone(&error) => Err(error),
        _ => {
            cell.state.lock().in_api = false;
            shared.gone(&cell.uid);
            Ok(())
        }
    }
}

/// The patch from what the API has to what is to be said.
fn untold(shared: &Shared, state: &State) -> Option<Value> {
    let pod = state.shown();
    let said = state.wanted.as_ref().map(|wanted| shared.config.lies.pod(pod, wanted));
    difference(pod, said.as_deref())
}

/// The patch from what the API has to what is wanted; `None` when they agree.
fn difference(pod: &Pod, wanted: Option<&PodStatus>) -> Option<Value> {
    let mut wanted = serde_json::to_value(wanted?).ok()?;
    let mut have = serde_json::to_value(pod.status.as_ref()).ok()?;
    // A server shows what its typed form always has; that is no difference.
    if let Some(schema) = schema::definition("core.v1.PodStatus") {
        typed::complete(&mut wanted, &schema);
        typed::complete(&mut have, &schema);
    }
    let mut changes = Map::new();
    for key in OWNED {
        let (old, new) = (have.get(key), wanted.get(key));
        if key == "conditions" {
            let changed = conditions(old, new);
            if !changed.is_empty() {
                changes.insert(key.to_owned(), Value::Array(changed));
            }
            continue;
        }
        if old == new || is_empty(old) && is_empty(new) {
            continue;
        }
        changes.insert(key.to_owned(), replacement(key, new));
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": pod.metadata.uid}, "status": changes}))
}

fn is_empty(value: Option<&Value>) -> bool {
    value.is_none_or(|v| v.is_null() || v.as_array().is_some_and(Vec::is_empty) || *v == json!(""))
}

/// A new value; lists that merge by key are told to replace.
fn replacement(key: &str, new: Option<&Value>) -> Value {
    match (key, new) {
        ("podIPs" | "hostIPs", Some(Value::Array(list))) => {
            let mut out = vec![json!({"$patch": "replace"})];
            out.extend(list.iter().cloned());
            Value::Array(out)
        }
        (_, new) => new.cloned().unwrap_or(Value::Null),
    }
}

/// Own conditions that differ; they merge by type, so the others stay.
fn conditions(old: Option<&Value>, new: Option<&Value>) -> Vec<Value> {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let old = list(old);
    let mut changed = Vec::new();
    for condition in list(new) {
        let kind = condition["type"].as_str().unwrap_or_default().to_owned();
        if !CONDITIONS.contains(&kind.as_str()) {
            continue;
        }
        let before = old.iter().find(|c| c["type"] == condition["type"]);
        let mut patch = condition.clone();
        if let (Some(Value::Object(before)), Value::Object(patch)) = (before, &mut patch) {
            for key in before.keys().filter(|k| condition.get(*k).is_none()) {
                patch.insert(key.clone(), Value::Null);
            }
        }
        // A null the API already holds is no change.
        let same = before.is_some_and(|b| {
            let keys = b.as_object().into_iter().flatten().chain(condition.as_object().into_iter().flatten());
            keys.map(|(k, _)| k)
                .all(|k| b.get(k).unwrap_or(&Value::Null) == condition.get(k).unwrap_or(&Value::Null))
        });
        if !same {
            changed.push(patch);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn only_what_changed_and_is_owned_is_sent() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u"},
            "status": {"phase": "Pending", "reason": "Old", "nominatedNodeName": "n", "podIPs": [{"ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
                               {"type": "DisruptionTarget", "status": "True"}]}
        }))
        .unwrap();
        let wanted: PodStatus = serde_json::from_value(json!({
            "phase": "Running", "podIPs": [{"ip": "10.0.0.2"}], "containerStatuses": [],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "DisruptionTarget", "status": "False"}]
        }))
        .unwrap();
        let patch = difference(&pod, Some(&wanted)).unwrap();
        expect![[r#"
            {
              "metadata": {
                "uid": "u"
              },
              "status": {
                "conditions": [
                  {
                    "reason": null,
                    "status": "True",
                    "type": "Ready"
                  }
                ],
                "phase": "Running",
                "podIPs": [
                  {
                    "$patch": "replace"
                  },
                  {
                    "ip": "10.0.0.2"
                  }
                ],
                "reason": null
              }
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&patch).unwrap());
        assert_eq!(difference(&pod, pod.status.as_ref()), None);
    }
}
