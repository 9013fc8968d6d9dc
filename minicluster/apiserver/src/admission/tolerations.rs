//! DefaultTolerationSeconds, ExtendedResourceToleration and PodTolerationRestriction: which taints a pod stands.
//!
//! Source: `plugin/pkg/admission/{defaulttolerationseconds,extendedresourcetoleration,podtolerationrestriction}`,
//! `pkg/util/tolerations`.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use windlass_crd::name;

use super::namespace;
use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
    strategy::pod::quality_of_service,
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";
const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const WHITELIST: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

fn tolerations(pod: &Value) -> &[Value] {
    object::list(pod, &["spec", "tolerations"])
}

/// Lets a pod stay a while on a node that is lost, unless it says otherwise.
pub(super) fn default_seconds(pod: &mut Value, not_ready: i64, unreachable: i64) {
    for (key, seconds) in [(NOT_READY, not_ready), (UNREACHABLE, unreachable)] {
        let tolerated = tolerations(pod).iter().any(|t| {
            let (k, effect) = (object::text(t, &["key"]), object::text(t, &["effect"]));
            (k == key || k.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if tolerated {
            continue;
        }
        let mut all = tolerations(pod).to_vec();
        all.push(json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
        }));
        object::set(pod, &["spec", "tolerations"], all);
    }
}

/// A pod that asks for a device stands the taint of nodes that are kept for such pods.
pub(super) fn of_extended_resources(pod: &mut Value) {
    let mut names = BTreeSet::new();
    for list in ["containers", "initContainers"] {
        for container in object::list(pod, &["spec", list]) {
            let requests = object::at(container, &["resources", "requests"]).and_then(Value::as_object);
            names.extend(requests.into_iter().flatten().map(|(name, _)| name.clone()));
        }
    }
    names.retain(|name| is_extended(name));
    if names.is_empty() {
        return;
    }
    let mut all = tolerations(pod).to_vec();
    for name in names {
        let wanted = json!({"key": name, "operator": "Exists", "effect": "NoSchedule"});
        let same = |t: &&mut Value| {
            object::text(t, &["key"]) == name
                && object::text(t, &["effect"]) == "NoSchedule"
                && object::text(t, &["operator"]) == "Exists"
        };
        match all.iter_mut().find(same) {
            Some(known) => *known = wanted,
            None => all.push(wanted),
        }
    }
    object::set(pod, &["spec", "tolerations"], all);
}

fn is_extended(resource: &str) -> bool {
    let native = !resource.contains('/') || resource.contains("kubernetes.io/");
    !native
        && !resource.starts_with("requests.")
        && name::qualified_name(&format!("requests.{resource}")).is_ok()
}

/// Adds the tolerations of the namespace, or of the cluster, and holds the pod to those that are allowed.
///
/// # Errors
/// 500, as upstream, for a toleration that is not allowed.
pub(super) fn restrict(cx: &Context, pod: &mut Value, creates: bool) -> ApiResult<()> {
    let (default, whitelist) = &cx.api.config.admission.tolerations;
    let facts = namespace::facts(cx, &cx.info.namespace);
    let of_namespace = |key: &str| -> ApiResult<Option<Vec<Value>>> {
        let annotation =
            facts.as_ref().and_then(|f| object::at(&f.object, &["metadata", "annotations", key]));
        match annotation.and_then(Value::as_str) {
            None => Ok(None),
            Some("") => Ok(Some(Vec::new())),
            Some(text) => serde_json::from_str(text)
                .map(Some)
                .map_err(|error| ApiError::by_webhook(500, String::new(), error.to_string())),
        }
    };
    let mut extra = match creates {
        true => of_namespace(DEFAULTS)?.unwrap_or_else(|| default.clone()),
        false => Vec::new(),
    };
    if quality_of_service(pod) != "BestEffort" {
        extra.push(json!({"key": MEMORY_PRESSURE, "operator": "Exists", "effect": "NoSchedule"}));
    }
    if !extra.is_empty() {
        let merged = merge(tolerations(pod), &extra);
        object::set(pod, &["spec", "tolerations"], merged);
    }
    let (allowed, whose) = match of_namespace(WHITELIST)? {
        Some(allowed) => (allowed, "namespace"),
        None => (whitelist.clone(), "cluster"),
    };
    let covered = |one: &Value| allowed.iter().any(|whole| covers(whole, one));
    if allowed.is_empty() || tolerations(pod).iter().all(covered) {
        return Ok(());
    }
    let why = format!(
        "pod tolerations (possibly merged with namespace default tolerations) conflict with its {whose} whitelist"
    );
    Err(ApiError::by_webhook(500, String::new(), why))
}

/// Both lists without what another entry covers.
fn merge(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let before = merged.iter().any(|known| covers(known, one));
        let later = all[i + 1..].iter().any(|other| other != one && covers(other, one));
        if !before && !later {
            merged.push((*one).clone());
        }
    }
    merged
}

/// Whether everything that `one` tolerates is tolerated by `whole`.
fn covers(whole: &Value, one: &Value) -> bool {
    if whole == one {
        return true;
    }
    let text = |t: &Value, field: &str| object::text(t, &[field]).to_owned();
    let (key, operator, effect) = (text(whole, "key"), text(whole, "operator"), text(whole, "effect"));
    if key != text(one, "key") && !(key.is_empty() && operator == "Exists") {
        return false;
    }
    if !effect.is_empty() && effect != text(one, "effect") {
        return false;
    }
    let seconds = |t: &Value| object::number(t, &["tolerationSeconds"]);
    if effect == "NoExecute"
        && let Some(most) = seconds(whole)
        && seconds(one).is_none_or(|seconds| seconds > most)
    {
        return false;
    }
    match operator.as_str() {
        "Equal" | "" => text(one, "operator") == "Equal" && text(whole, "value") == text(one, "value"),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(key: &str, operator: &str, effect: &str, seconds: Option<i64>) -> Value {
        let mut t = json!({"key": key, "operator": operator, "effect": effect});
        if let Some(seconds) = seconds {
            t["tolerationSeconds"] = seconds.into();
        }
        t
    }

    #[test]
    fn a_wider_toleration_covers_a_narrower_one() {
        let cases = [
            (t("", "Exists", "", None), t("a", "Exists", "NoSchedule", None), true),
            (t("a", "Exists", "", None), t("b", "Exists", "", None), false),
            (t("a", "Exists", "NoExecute", Some(5)), t("a", "Exists", "NoExecute", Some(9)), false),
            (t("a", "Exists", "NoExecute", Some(9)), t("a", "Exists", "NoExecute", Some(5)), true),
            (t("a", "Equal", "NoSchedule", None), t("a", "Exists", "NoSchedule", None), false),
            (t("a", "Exists", "NoSchedule", None), t("a", "Exists", "NoExecute", None), false),
        ];
        for (whole, one, expected) in cases {
            assert_eq!(covers(&whole, &one), expected, "{whole} {one}");
        }
        let all = merge(
            &[t("a", "Exists", "NoSchedule", None), t("b", "Exists", "", None)],
            &[t("a", "Exists", "", None), t("b", "Exists", "", None)],
        );
        assert_eq!(all, [t("b", "Exists", "", None), t("a", "Exists", "", None)]);
    }

    #[test]
    fn pods_tolerate_what_they_ask_for_and_stay_a_while() {
        let mut pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1", "example.com/gpu": "1"}}}]}});
        of_extended_resources(&mut pod);
        assert_eq!(pod["spec"]["tolerations"], json!([t("example.com/gpu", "Exists", "NoSchedule", None)]));
        let mut pod = json!({"spec": {"tolerations": [t(NOT_READY, "Exists", "NoExecute", Some(1))]}});
        default_seconds(&mut pod, 300, 200);
        let expected = json!([
            t(NOT_READY, "Exists", "NoExecute", Some(1)),
            t(UNREACHABLE, "Exists", "NoExecute", Some(200))
        ]);
        assert_eq!(pod["spec"]["tolerations"], expected);
    }
}
