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
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// The most evictions of a budget that are granted and not through.
const DISRUPTED_MAX: usize = 2000;
/// How often an eviction is tried again when its pod changes meanwhile.
const CONFLICT_RETRIES: usize = 5;

pub(super) async fn handle(cx: &Context, body: Bytes) -> ApiResult<Response<Body>> {
    let (eviction, _) = decode::parse(&cx.headers, &body)?;
    if object::name(&eviction) != cx.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let pods = about(cx, "", "v1", "pods", &cx.info.name);
    let options = options(cx, &pods, &eviction)?;
    admission::ask(cx, &eviction).await?;
    let mut tries = CONFLICT_RETRIES;
    while !evict(cx, &pods, &options, tries > 1).await? {
        tries -= 1;
    }
    Ok(body::json(
        StatusCode::CREATED,
        read::line(&json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        })),
    ))
}

/// How the pod is to be deleted. Either the request or what is in it may say that nothing is to be stored.
fn options(cx: &Context, pods: &Context, eviction: &Value) -> ApiResult<delete::Options> {
    let mut given =
        eviction.get("deleteOptions").filter(|o| o.is_object()).cloned().unwrap_or_else(|| json!({}));
    if object::list(&given, &["dryRun"]).is_empty() && cx.dry_run() {
        object::set(&mut given, &["dryRun"], json!(["All"]));
    }
    let options = delete::Options::read(pods, &serde_json::to_vec(&given).expect("JSON into memory"))?;
    let _ = cx.dry_run.set(options.dry_run);
    Ok(options)
}

/// One try; false if the pod has changed and another one may be made (`again`).
async fn evict(cx: &Context, pods: &Context, options: &delete::Options, again: bool) -> ApiResult<bool> {
    let pod = parent(cx).await?;
    let mut options = options.clone();
    let insists = options.resource_version.is_some();
    // A pod that is spared its budget must not become one that is not, meanwhile.
    let revision = object::text(&pod, &["metadata", "resourceVersion"]);
    let stay_as_it_is = |options: &mut delete::Options| {
        options.resource_version = Some(revision.to_owned());
    };
    if ignores_budgets(&pod) {
        if !is_ending(&pod) && !insists {
            stay_as_it_is(&mut options);
        }
        return match end(pods, options).await {
            Err(error) if error.reason == "Conflict" && !insists && again => Ok(false),
            ended => ended.map(|()| true),
        };
    }
    let budgets = budgets_of(cx, &pod);
    let budget = match budgets.as_slice() {
        [] => return end(pods, options).await.map(|()| true),
        [budget] => budget,
        _ => {
            return Err(ApiError::unknown(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    if charge(cx, budget, &pod).await? {
        return end(pods, options).await.map(|()| true);
    }
    if !insists {
        stay_as_it_is(&mut options);
    }
    match end(pods, options).await {
        Err(error) if error.reason == "Conflict" && !insists => Err(in_process(object::name(budget))),
        ended => ended.map(|()| true),
    }
}

fn is_ending(pod: &Value) -> bool {
    matches!(object::text(pod, &["status", "phase"]), "Succeeded" | "Failed") || object::is_deleting(pod)
}

/// Pods that have ended, not begun, or are going already.
fn ignores_budgets(pod: &Value) -> bool {
    matches!(object::text(pod, &["status", "phase"]), "Pending" | "") || is_ending(pod)
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

/// Takes one disruption from the budget, or refuses with 429; false if the pod serves nobody and costs none.
async fn charge(cx: &Context, budget: &Value, pod: &Value) -> ApiResult<bool> {
    let ready = object::list(pod, &["status", "conditions"])
        .iter()
        .any(|c| object::text(c, &["type"]) == "Ready" && object::text(c, &["status"]) == "True");
    let always = object::text(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
    let count = |field: &str| object::number(budget, &["status", field]).unwrap_or(0);
    let desired = count("desiredHealthy");
    if !ready && (always || (desired > 0 && count("currentHealthy") >= desired)) {
        return Ok(false);
    }
    let mut budgets = about(cx, "policy", "v1", "poddisruptionbudgets", object::name(budget));
    budgets.info.subresource = "status".to_owned();
    let _ = budgets.dry_run.set(cx.dry_run());
    let change = |old: &Value| granted(old, object::name(pod)).map(Change::of);
    write::modify(&budgets, Part::Server, change).await?;
    Ok(true)
}

/// The budget with one disruption less, and the pod noted.
fn granted(budget: &Value, pod: &str) -> ApiResult<Value> {
    let name = object::name(budget);
    let count = |field: &str| object::number(budget, &["status", field]).unwrap_or(0);
    if count("observedGeneration") < object::number(budget, &["metadata", "generation"]).unwrap_or(0) {
        return Err(in_process(name));
    }
    let disrupted = object::at(budget, &["status", "disruptedPods"]).and_then(Value::as_object);
    if disrupted.is_some_and(|disrupted| disrupted.len() > DISRUPTED_MAX) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden_of("poddisruptionbudget.policy", name, why));
    }
    let allowed = count("disruptionsAllowed");
    if allowed <= 0 {
        return Err(refused(0, why_not(budget)));
    }
    let mut obj = budget.clone();
    object::set(&mut obj, &["status", "disruptionsAllowed"], allowed - 1);
    object::set(&mut obj, &["status", "disruptedPods", pod], object::now());
    if allowed == 1 {
        let none_left = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": count("observedGeneration"), "lastTransitionTime": object::now(),
        });
        set_condition(&mut obj, none_left);
    }
    Ok(obj)
}

/// Why a budget allows nothing.
fn why_not(budget: &Value) -> String {
    let name = object::name(budget);
    let count = |field: &str| object::number(budget, &["status", field]).unwrap_or(0);
    let (desired, current) = (count("desiredHealthy"), count("currentHealthy"));
    let conditions = object::list(budget, &["status", "conditions"]);
    let told = conditions.iter().find(|c| object::text(c, &["type"]) == "DisruptionAllowed");
    let told =
        told.filter(|c| object::text(c, &["status"]) == "False" && !object::text(c, &["message"]).is_empty());
    let words = told.map(|c| (object::text(c, &["reason"]), object::text(c, &["message"])));
    match words {
        // Its counts are not to be trusted then.
        Some(("SyncFailed", message)) => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        ),
        _ if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        Some((reason, message)) => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"
            )
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

fn in_process(budget: &str) -> ApiError {
    refused(10, format!("The disruption budget {budget} is still being processed by the server."))
}

fn refused(retry_after: u32, why: String) -> ApiError {
    let cause = Cause { reason: "DisruptionBudget".to_owned(), message: why, field: String::new() };
    ApiError::too_many_requests(REFUSED, retry_after).with_causes(vec![cause])
}

/// Tells whoever looks at the pod that it was evicted, and deletes it.
async fn end(pods: &Context, mut options: delete::Options) -> ApiResult<()> {
    if !options.dry_run {
        let wanted = options.clone();
        let change = move |old: &Value| {
            delete::check_preconditions(pods, &pods.info.name, &wanted, old)?;
            let mut pod = old.clone();
            let target = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting", "lastTransitionTime": object::now(),
            });
            set_condition(&mut pod, target);
            // Nobody owns the condition of an eviction.
            Ok(Change { obj: pod, tracks: false })
        };
        let marked = write::modify(pods, Part::Server, change).await?.value(pods).await?;
        if let Some(revision) = &mut options.resource_version {
            object::text(&marked, &["metadata", "resourceVersion"]).clone_into(revision);
        }
    }
    delete::with(pods, &options).await
}

/// Puts a condition in the place of the one of its type; it holds since then if that said the same.
fn set_condition(obj: &mut Value, mut condition: Value) {
    let mut conditions = object::list(obj, &["status", "conditions"]).to_vec();
    match conditions.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(there) => {
            if there["status"] == condition["status"] && there["lastTransitionTime"].is_string() {
                condition["lastTransitionTime"] = there["lastTransitionTime"].clone();
            }
            *there = condition;
        }
        None => conditions.push(condition),
    }
    object::set(obj, &["status", "conditions"], conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_says_why_it_allows_nothing() {
        let told = |mut status: Value, condition: Option<(&str, &str)>| {
            if let Some((reason, message)) = condition {
                status["conditions"] = json!([{
                    "type": "DisruptionAllowed", "status": "False", "reason": reason, "message": message,
                }]);
            }
            let error = granted(&json!({"metadata": {"name": "b"}, "status": status}), "p").unwrap_err();
            let body: Value = serde_json::from_slice(&error.to_json()).unwrap();
            body["details"]["causes"][0]["message"].as_str().unwrap_or_default().to_owned()
        };
        let few = || json!({"desiredHealthy": 3, "currentHealthy": 3});
        let many = || json!({"desiredHealthy": 3, "currentHealthy": 4});
        assert_eq!(told(few(), None), "The disruption budget b needs 3 healthy pods and has 3 currently");
        assert_eq!(
            told(few(), Some(("SyncFailed", "no scale"))),
            "The disruption budget b does not allow evicting pods currently because it failed sync: no scale"
        );
        assert_eq!(told(many(), None), "The disruption budget b does not allow evicting pods currently");
        assert_eq!(
            told(many(), Some(("Other", "so"))),
            "The disruption budget b does not allow evicting pods currently (Other): so"
        );
    }

    #[test]
    fn the_last_disruption_ends_the_condition() {
        let allowed = json!({"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods"});
        let budget = |left: i64| json!({"metadata": {"name": "b"}, "status": {"disruptionsAllowed": left, "conditions": [allowed]}});
        let after = |left: i64| granted(&budget(left), "p").unwrap()["status"].clone();
        assert_eq!(after(2)["conditions"][0]["reason"], "SufficientPods");
        assert_eq!(after(1)["conditions"][0]["reason"], "InsufficientPods");
        assert_eq!(after(1)["disruptionsAllowed"], 0);
        assert!(after(1)["disruptedPods"]["p"].is_string());
        let noted: serde_json::Map<String, Value> =
            (0..=DISRUPTED_MAX).map(|i| (format!("p{i}"), json!("2026-01-01T00:00:00Z"))).collect();
        let mut full = budget(1);
        full["status"]["disruptedPods"] = Value::Object(noted);
        let error = granted(&full, "p").unwrap_err();
        let body: Value = serde_json::from_slice(&error.to_json()).unwrap();
        assert_eq!(
            (body["code"].as_i64(), body["message"].as_str()),
            (
                Some(403),
                Some(
                    "poddisruptionbudget.policy \"b\" is forbidden: DisruptedPods map too big - too many evictions not \
                     confirmed by PDB controller"
                )
            )
        );
    }
}
