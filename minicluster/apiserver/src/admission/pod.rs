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
