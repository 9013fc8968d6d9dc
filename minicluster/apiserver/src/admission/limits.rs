//! LimitRanger: what a namespace's LimitRanges give to containers that ask for nothing, and refuse to those that ask
//! for too much or too little. Source: `plugin/pkg/admission/limitranger`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use windlass_crd::quantity::Quantity;

use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
    view,
};

const RANGES: &str = "/registry/limitranges/";
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

fn ranges(cx: &Context) -> Vec<Value> {
    let snapshot = cx.api.store.snapshot();
    let prefix = format!("{RANGES}{}/", cx.info.namespace);
    view::objects(&snapshot, &prefix).map(|(_, range)| range).collect()
}

fn amounts(value: Option<&Value>) -> Amounts {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount).ok()?))).collect()
}

/// Gives a new pod the defaults of its namespace.
pub(super) fn default(cx: &Context, pod: &mut Value) {
    ranges(cx).iter().for_each(|range| give(range, pod));
}

fn give(range: &Value, pod: &mut Value) {
    let mut told = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        let containers =
            pod.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = object::text(container, &["name"]).to_owned();
            for (source, target, kind) in
                [("defaultRequest", "requests", "request"), ("default", "limits", "limit")]
            {
                let mut given = BTreeSet::new();
                for limit in of_type(range, "Container") {
                    for (resource, amount) in
                        limit.get(source).and_then(Value::as_object).into_iter().flatten()
                    {
                        let path = ["resources", target, resource.as_str()];
                        if object::at(container, &path).is_none() {
                            object::set(container, &path, amount.clone());
                            given.insert(resource.as_str());
                        }
                    }
                }
                if !given.is_empty() {
                    let given: Vec<&str> = given.into_iter().collect();
                    told.push(format!("{} {kind} for {what} {name}", given.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        object::set(pod, &["metadata", "annotations", ANNOTATION], text);
    }
}

fn of_type<'v>(range: &'v Value, kind: &str) -> impl Iterator<Item = &'v Value> {
    object::list(range, &["spec", "limits"])
        .iter()
        .filter(move |limit| object::text(limit, &["type"]) == kind)
}

/// Holds a pod or a claim to the limits of its namespace.
///
/// # Errors
/// 403 with everything that is wrong.
pub(super) fn check(cx: &Context, obj: &Value) -> ApiResult<()> {
    // The first range that is broken speaks for all.
    let errors =
        ranges(cx).iter().map(|range| faults(range, &cx.resource.plural, obj)).find(|f| !f.is_empty());
    let why = match errors.unwrap_or_default().as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Err(ApiError::forbidden(&cx.resource, object::name(obj), why))
}

fn faults(range: &Value, plural: &str, obj: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    if plural == "persistentvolumeclaims" {
        let requests = amounts(object::at(obj, &["spec", "resources", "requests"]));
        for limit in of_type(range, "PersistentVolumeClaim") {
            Asked { kind: "PersistentVolumeClaim", requests: &requests, limits: None }
                .compare(limit, &mut faults);
        }
        return faults;
    }
    for limit in of_type(range, "Container") {
        for list in ["containers", "initContainers"] {
            for container in object::list(obj, &["spec", list]) {
                let requests = amounts(object::at(container, &["resources", "requests"]));
                let limits = amounts(object::at(container, &["resources", "limits"]));
                let asked = Asked { kind: "Container", requests: &requests, limits: Some(&limits) };
                asked.compare(limit, &mut faults);
            }
        }
    }
    for limit in of_type(range, "Pod") {
        let (requests, limits) = (pod_sum(obj, "requests"), pod_sum(obj, "limits"));
        Asked { kind: "Pod", requests: &requests, limits: Some(&limits) }.compare(limit, &mut faults);
    }
    faults
}

/// What a pod needs as a whole: its containers and sidecars together, or the most that its start needs.
fn pod_sum(pod: &Value, kind: &str) -> Amounts {
    let add = |sum: &mut Amounts, more: &Amounts| {
        for (name, amount) in more {
            *sum.entry(name.clone()).or_default() += amount;
        }
    };
    let of = |container: &Value| amounts(object::at(container, &["resources", kind]));
    let mut sum = Amounts::new();
    for container in object::list(pod, &["spec", "containers"]) {
        add(&mut sum, &of(container));
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in object::list(pod, &["spec", "initContainers"]) {
        let mut needs = of(container);
        if object::text(container, &["restartPolicy"]) == "Always" {
            add(&mut sum, &needs);
            add(&mut sidecars, &needs);
            needs.clone_from(&sidecars);
        } else {
            add(&mut needs, &sidecars);
        }
        raise(&mut most, needs);
    }
    raise(&mut sum, most);
    sum.extend(amounts(object::at(pod, &["spec", "resources", kind])));
    sum
}

fn raise(most: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        let known = most.entry(name).or_default();
        if *known < amount {
            *known = amount;
        }
    }
}

/// What is asked for; claims have no limits.
struct Asked<'a> {
    kind: &'static str,
    requests: &'a Amounts,
    limits: Option<&'a Amounts>,
}

impl Asked<'_> {
    fn compare(&self, limit: &Value, faults: &mut Vec<String>) {
        let kind = self.kind;
        let limited = |name: &str| self.limits.and_then(|limits| limits.get(name));
        for (name, least) in amounts(limit.get("min")) {
            let head = format!("minimum {name} usage per {kind} is {least}");
            match (self.requests.get(&name), limited(&name)) {
                (None, _) => faults.push(format!("{head}.  No request is specified")),
                (Some(request), _) if *request < least => {
                    faults.push(format!("{head}, but request is {request}"));
                }
                (_, Some(limit)) if *limit < least => faults.push(format!("{head}, but limit is {limit}")),
                _ => {}
            }
        }
        for (name, most) in amounts(limit.get("max")) {
            let head = format!("maximum {name} usage per {kind} is {most}");
            match (self.requests.get(&name), limited(&name)) {
                (None, _) if self.limits.is_none() => {
                    faults.push(format!("{head}.  No request is specified"));
                }
                (_, None) if self.limits.is_some() => faults.push(format!("{head}.  No limit is specified")),
                (_, Some(limit)) if *limit > most => faults.push(format!("{head}, but limit is {limit}")),
                (Some(request), _) if *request > most => {
                    faults.push(format!("{head}, but request is {request}"));
                }
                _ => {}
            }
        }
        for (name, most) in amounts(limit.get("maxLimitRequestRatio")) {
            let head = format!("{name} max limit to request ratio per {kind} is {most}");
            let value =
                |amount: Option<&Quantity>| amount.map(Quantity::approximate).filter(|value| *value != 0.0);
            match (value(self.requests.get(&name)), value(limited(&name))) {
                (None, _) => faults.push(format!("{head}, but no request is specified or request is 0")),
                (_, None) => faults.push(format!("{head}, but no limit is specified or limit is 0")),
                (Some(request), Some(limit)) if limit / request > most.approximate() => {
                    faults.push(format!("{head}, but provided ratio is {:.6}", limit / request));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_get_what_they_did_not_ask_for() {
        let range = json!({"spec": {"limits": [{"type": "Container",
            "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}]}});
        let mut pod = json!({"spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}}],
            "initContainers": [{"name": "i"}]}});
        give(&range, &mut pod);
        let all = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(pod["spec"]["containers"][0]["resources"], all);
        assert_eq!(
            pod["spec"]["containers"][1]["resources"],
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2", "memory": "1Gi"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a; memory limit for \
             container b; cpu request for init container i; cpu, memory limit for init container i"
        );
    }

    #[test]
    fn limits_are_told_in_upstreams_words() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        let range = |kind: &str, limit: Value| {
            let mut limit = limit;
            limit["type"] = kind.into();
            json!({"spec": {"limits": [limit]}})
        };
        let asked =
            |request: &str, limit: &str| pod(json!({"requests": {"cpu": request}, "limits": {"cpu": limit}}));
        let cases = [
            (
                range("Container", json!({"min": {"cpu": "50m"}})),
                asked("10m", "1"),
                "minimum cpu usage per Container is 50m, but request is 10m",
            ),
            (
                range("Container", json!({"max": {"cpu": "500m"}})),
                asked("10m", "1"),
                "maximum cpu usage per Container is 500m, but limit is 1",
            ),
            (
                range("Container", json!({"max": {"memory": "1Gi"}})),
                asked("10m", "1"),
                "maximum memory usage per Container is 1Gi.  No limit is specified",
            ),
            (
                range("Container", json!({"maxLimitRequestRatio": {"cpu": "2"}})),
                asked("100m", "1"),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 10.000000",
            ),
            (
                range("Pod", json!({"max": {"cpu": "500m"}})),
                asked("100m", "1"),
                "maximum cpu usage per Pod is 500m, but limit is 1",
            ),
        ];
        for (range, pod, why) in cases {
            assert_eq!(faults(&range, "pods", &pod), [why]);
        }
        let range = range("PersistentVolumeClaim", json!({"max": {"storage": "1Gi"}}));
        let claim = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        let why = "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi";
        assert_eq!(faults(&range, "persistentvolumeclaims", &claim), [why]);
    }
}
