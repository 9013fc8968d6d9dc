//! `pods/eviction`: a deletion that asks the pod's disruption budgets first.
//!
//! Source: `pkg/registry/core/pod/storage/eviction.go`.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use windlass_crd::selector::LabelSelector;

use super::{about, parent};
use crate::{
    admission,
    body::{self, Body},
    context::Context,
    decode, delete, object, read,
    status::{ApiError, ApiResult, Cause},
    strategy::Part,
    view,
    write::{self, Change},
};

const BUDGETS: &str = "/registry/poddisruptionbudgets/";

pub(super) async fn handle(cx: &Context, body: Bytes) -> ApiResult<Response<Body>> {
    let (eviction, _) = decode::parse(&cx.headers, &body)?;
    let given = object::name(&eviction);
    if !given.is_empty() && given != cx.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    admission::ask(cx, &eviction).await?;
    let options =
        eviction.get("deleteOptions").filter(|o| o.is_object()).cloned().unwrap_or_else(|| json!({}));
    let pod = parent(cx).await?;
    if !ignores_budgets(&pod) {
        let budgets = budgets_of(cx, &pod);
        if budgets.len() > 1 {
            return Err(ApiError::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        if let Some(budget) = budgets.first() {
            charge(cx, budget, &pod).await?;
        }
    }
    let pods = about(cx, "", "v1", "pods", &cx.info.name);
    mark_target(&pods).await?;
    let bytes = Bytes::from(serde_json::to_vec(&options).expect("JSON into memory"));
    delete::one(&pods, bytes).await?;
    Ok(body::json(
        StatusCode::CREATED,
        read::line(&json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        })),
    ))
}

/// Pods that have ended, not begun, or are going already.
fn ignores_budgets(pod: &Value) -> bool {
    matches!(object::text(pod, &["status", "phase"]), "Succeeded" | "Failed" | "Pending" | "")
        || object::is_deleting(pod)
}

fn budgets_of(cx: &Context, pod: &Value) -> Vec<Value> {
    let labels = object::at(pod, &["metadata", "labels"])
        .and_then(Value::as_object)
        .map(|m| m.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned())).collect())
        .unwrap_or_default();
    let snapshot = cx.api.store.snapshot();
    let prefix = format!("{BUDGETS}{}/", cx.info.namespace);
    view::objects(&snapshot, &prefix)
        .map(|(_, budget)| budget)
        .filter(|b| {
            object::at(b, &["spec", "selector"])
                .and_then(|s| LabelSelector::from_json(Some(s)).ok())
                .is_some_and(|s| s.matches(&labels))
        })
        .collect()
}

/// Takes one disruption from the budget, or refuses with 429.
async fn charge(cx: &Context, budget: &Value, pod: &Value) -> ApiResult<()> {
    let ready = object::list(pod, &["status", "conditions"])
        .iter()
        .any(|c| object::text(c, &["type"]) == "Ready" && object::text(c, &["status"]) == "True");
    let always = object::text(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
    let healthy_enough = object::number(budget, &["status", "currentHealthy"]).unwrap_or(0)
        >= object::number(budget, &["status", "desiredHealthy"]).unwrap_or(0);
    if !ready
        && (always
            || (healthy_enough && object::number(budget, &["status", "desiredHealthy"]).unwrap_or(0) > 0))
    {
        return Ok(());
    }
    let mut budgets = about(cx, "policy", "v1", "poddisruptionbudgets", object::name(budget));
    budgets.info.subresource = "status".to_owned();
    let change = |old: &Value| {
        let observed = object::number(old, &["status", "observedGeneration"]).unwrap_or(0);
        if observed < object::number(old, &["metadata", "generation"]).unwrap_or(0) {
            return Err(refused(
                10,
                &format!(
                    "The disruption budget {} is still being processed by the server.",
                    object::name(old)
                ),
            ));
        }
        let allowed = object::number(old, &["status", "disruptionsAllowed"]).unwrap_or(0);
        if allowed <= 0 {
            let why = format!(
                "The disruption budget {} needs {} healthy pods and has {} currently",
                object::name(old),
                object::number(old, &["status", "desiredHealthy"]).unwrap_or(0),
                object::number(old, &["status", "currentHealthy"]).unwrap_or(0)
            );
            return Err(refused(0, &why));
        }
        let mut obj = old.clone();
        object::set(&mut obj, &["status", "disruptionsAllowed"], allowed - 1);
        object::set(&mut obj, &["status", "disruptedPods", object::name(pod)], object::now());
        Ok(Change::of(obj))
    };
    write::modify(&budgets, Part::Server, change).await.map(drop)
}

fn refused(retry_after: u32, why: &str) -> ApiError {
    let error = ApiError::too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        retry_after,
    );
    error.with_causes(vec![Cause {
        reason: "DisruptionBudget".to_owned(),
        message: why.to_owned(),
        field: String::new(),
    }])
}

/// Tells whoever looks at the pod that it was evicted.
async fn mark_target(pods: &Context) -> ApiResult<()> {
    let change = |old: &Value| {
        let mut pod = old.clone();
        let mut conditions = object::list(old, &["status", "conditions"]).to_vec();
        conditions.retain(|c| object::text(c, &["type"]) != "DisruptionTarget");
        conditions.push(json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastTransitionTime": object::now(),
        }));
        object::set(&mut pod, &["status", "conditions"], conditions);
        // Nobody owns the condition of an eviction.
        Ok(Change { obj: pod, tracks: false })
    };
    write::modify(pods, Part::Server, change).await.map(drop)
}
