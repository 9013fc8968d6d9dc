//! HorizontalPodAutoscalers in `autoscaling/v1`, where only a CPU target can be said, and `v2`, which is stored.
//!
//! What `v1` cannot say travels in upstream's annotations, so that nothing is lost on the way.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{object, registry::Convert};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Converts between the two versions.
pub(crate) fn convert() -> Convert {
    Arc::new(|obj, wanted| {
        if wanted == "autoscaling/v1" {
            to_v1(obj);
        } else {
            to_v2(obj);
        }
        object::set(obj, &["apiVersion"], wanted);
    })
}

fn is_cpu(metric: &Value) -> bool {
    object::text(metric, &["type"]) == "Resource" && object::text(metric, &["resource", "name"]) == "cpu"
}

fn to_v1(obj: &mut Value) {
    let mut keep = |path: &[&str], annotation: &str| {
        if let Some(value) = object::remove(obj, path).filter(|v| v.as_array().is_none_or(|a| !a.is_empty()))
        {
            object::set(obj, &["metadata", "annotations", annotation], value.to_string());
        }
    };
    keep(&["spec", "behavior"], BEHAVIOR);
    keep(&["status", "conditions"], CONDITIONS);
    let metrics = object::remove(obj, &["spec", "metrics"]).unwrap_or_default();
    let (cpu, rest): (Vec<Value>, Vec<Value>) =
        metrics.as_array().cloned().unwrap_or_default().into_iter().partition(|m| {
            is_cpu(m) && object::number(m, &["resource", "target", "averageUtilization"]).is_some()
        });
    if let Some(percent) =
        cpu.first().and_then(|m| object::number(m, &["resource", "target", "averageUtilization"]))
    {
        object::set(obj, &["spec", "targetCPUUtilizationPercentage"], percent);
    }
    if !rest.is_empty() {
        object::set(obj, &["metadata", "annotations", METRICS], Value::from(rest).to_string());
    }
    let current = object::remove(obj, &["status", "currentMetrics"]).unwrap_or_default();
    let current = current.as_array().cloned().unwrap_or_default();
    if let Some(percent) = current
        .iter()
        .find(|m| is_cpu(m))
        .and_then(|m| object::number(m, &["resource", "current", "averageUtilization"]))
    {
        object::set(obj, &["status", "currentCPUUtilizationPercentage"], percent);
    }
    let rest: Vec<Value> = current.into_iter().filter(|m| !is_cpu(m)).collect();
    if !rest.is_empty() {
        object::set(obj, &["metadata", "annotations", CURRENT], Value::from(rest).to_string());
    }
}

pub(crate) fn to_v2(obj: &mut Value) {
    let mut take = |annotation: &str| {
        let text = object::remove(obj, &["metadata", "annotations", annotation])?;
        serde_json::from_str::<Value>(text.as_str()?).ok()
    };
    let behavior = take(BEHAVIOR);
    let conditions = take(CONDITIONS);
    let metrics = take(METRICS);
    let current = take(CURRENT);
    if object::at(obj, &["metadata", "annotations"])
        .and_then(Value::as_object)
        .is_some_and(serde_json::Map::is_empty)
    {
        object::remove(obj, &["metadata", "annotations"]);
    }
    let mut all = metrics.and_then(|m| m.as_array().cloned()).unwrap_or_default();
    if let Some(percent) = object::remove(obj, &["spec", "targetCPUUtilizationPercentage"]) {
        all.push(json!({
            "type": "Resource",
            "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": percent } },
        }));
    }
    if !all.is_empty() {
        object::set(obj, &["spec", "metrics"], all);
    }
    let mut all = current.and_then(|m| m.as_array().cloned()).unwrap_or_default();
    if let Some(percent) = object::remove(obj, &["status", "currentCPUUtilizationPercentage"]) {
        all.push(json!({
            "type": "Resource",
            "resource": { "name": "cpu", "current": { "averageUtilization": percent } },
        }));
    }
    if !all.is_empty() {
        object::set(obj, &["status", "currentMetrics"], all);
    }
    for (value, path) in [(behavior, ["spec", "behavior"]), (conditions, ["status", "conditions"])] {
        if let Some(value) = value {
            object::set(obj, &path, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_round_trip_through_v1_loses_nothing() {
        let v2 = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "x"},
            "spec": {
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
                "metrics": [
                    {"type": "Pods", "pods": {"metric": {"name": "rps"}}},
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                ],
            },
        });
        let mut obj = v2.clone();
        super::convert()(&mut obj, "autoscaling/v1");
        assert_eq!(obj["spec"], json!({"targetCPUUtilizationPercentage": 80}));
        super::convert()(&mut obj, "autoscaling/v2");
        assert_eq!(obj, v2);
    }
}
