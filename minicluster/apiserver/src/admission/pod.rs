//! Priority and DefaultTolerationSeconds: what every new pod gets.

use serde_json::{Value, json};

use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
    view,
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const TOLERATION_SECONDS: i64 = 300;
const CLASSES: &str = "/registry/priorityclasses/";
const RUNTIME_CLASSES: &str = "/registry/runtimeclasses/";

/// Turns the pod's priority class, or the default one, into a number.
pub(super) fn priority(cx: &Context, pod: &mut Value) -> ApiResult<()> {
    let name = object::text(pod, &["spec", "priorityClassName"]).to_owned();
    let class = if name.is_empty() {
        default_class(cx)
    } else {
        let entry = cx.api.store.get(&format!("{CLASSES}{name}"));
        let class = entry.and_then(|e| serde_json::from_slice::<Value>(&e.value).ok());
        Some(class.ok_or_else(|| {
            let why = format!("no PriorityClass with name {name} was found");
            ApiError::forbidden(&cx.resource, object::name(pod), why)
        })?)
    };
    let value = class.as_ref().and_then(|c| object::number(c, &["value"])).unwrap_or(0);
    let policy = class.as_ref().map_or("", |c| object::text(c, &["preemptionPolicy"]));
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy }.to_owned();
    if let Some(given) = object::number(pod, &["spec", "priority"])
        && given != value
    {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(&cx.resource, object::name(pod), why));
    }
    let given = object::text(pod, &["spec", "preemptionPolicy"]);
    if !given.is_empty() && given != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(&cx.resource, object::name(pod), why));
    }
    if let Some(class) = &class {
        object::set(pod, &["spec", "priorityClassName"], object::name(class));
    }
    object::set(pod, &["spec", "priority"], value);
    object::set(pod, &["spec", "preemptionPolicy"], policy);
    Ok(())
}

/// The global default with the lowest value.
fn default_class(cx: &Context) -> Option<Value> {
    let snapshot = cx.api.store.snapshot();
    view::objects(&snapshot, CLASSES)
        .map(|(_, class)| class)
        .filter(|c| c.get("globalDefault").and_then(Value::as_bool) == Some(true))
        .min_by_key(|c| object::number(c, &["value"]))
}

/// Adds what the pod's runtime class costs and where it runs. Source: `plugin/pkg/admission/runtimeclass`.
pub(super) fn runtime_class(cx: &Context, pod: &mut Value) -> ApiResult<()> {
    let name = object::text(pod, &["spec", "runtimeClassName"]).to_owned();
    let refuse = |pod: &Value, why: String| Err(ApiError::forbidden(&cx.resource, object::name(pod), why));
    let given =
        object::at(pod, &["spec", "overhead"]).filter(|o| o.as_object().is_some_and(|o| !o.is_empty()));
    if name.is_empty() {
        return match given {
            None => Ok(()),
            Some(_) => refuse(
                pod,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into(),
            ),
        };
    }
    let entry = cx.api.store.get(&format!("{RUNTIME_CLASSES}{name}"));
    let Some(class) = entry.and_then(|e| serde_json::from_slice::<Value>(&e.value).ok()) else {
        return refuse(pod, format!("pod rejected: RuntimeClass \"{name}\" not found"));
    };
    let overhead = object::at(&class, &["overhead", "podFixed"]);
    if given.is_some() && given != overhead {
        return refuse(
            pod,
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into(),
        );
    }
    if let Some(overhead) = overhead {
        object::set(pod, &["spec", "overhead"], overhead.clone());
    }
    for (key, value) in
        object::at(&class, &["scheduling", "nodeSelector"]).and_then(Value::as_object).into_iter().flatten()
    {
        let own = object::text(pod, &["spec", "nodeSelector", key]);
        if !own.is_empty() && own != value {
            return refuse(
                pod,
                format!(
                    "pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {own}",
                    value.as_str().unwrap_or_default()
                ),
            );
        }
        object::set(pod, &["spec", "nodeSelector", key], value.clone());
    }
    let mut tolerations = object::list(pod, &["spec", "tolerations"]).to_vec();
    let more = object::list(&class, &["scheduling", "tolerations"]);
    if !more.is_empty() {
        tolerations.extend(more.iter().filter(|t| !tolerations.contains(t)).cloned().collect::<Vec<_>>());
        object::set(pod, &["spec", "tolerations"], tolerations);
    }
    Ok(())
}

/// Lets a pod stay five minutes on a node that is lost, unless it says otherwise.
pub(super) fn default_tolerations(pod: &mut Value) {
    for key in [NOT_READY, UNREACHABLE] {
        let tolerated = object::list(pod, &["spec", "tolerations"]).iter().any(|t| {
            let (k, effect) = (object::text(t, &["key"]), object::text(t, &["effect"]));
            (k == key || k.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if tolerated {
            continue;
        }
        let mut tolerations = object::list(pod, &["spec", "tolerations"]).to_vec();
        tolerations.push(json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
        }));
        object::set(pod, &["spec", "tolerations"], tolerations);
    }
}
