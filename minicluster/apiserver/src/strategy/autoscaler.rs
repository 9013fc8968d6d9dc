//! HorizontalPodAutoscaler, v1 and v2: one default metric, and how targets are shown.
//!
//! Source: `pkg/apis/autoscaling/v2/defaults.go`, `printHorizontalPodAutoscaler`.

mod checks;

use serde_json::{Value, json};

use super::{columns, listed::Listed};
use crate::object;

/// HorizontalPodAutoscaler, v1 and v2.
pub(crate) const AUTOSCALER: Listed = Listed::new(|| {
    let reference = |obj: &Value| {
        let text = |field: &str| object::text(obj, &["spec", "scaleTargetRef", field]);
        format!("{}/{}", text("kind"), text("name"))
    };
    let minimum = |obj: &Value| {
        object::number(obj, &["spec", "minReplicas"]).map_or("<unset>".into(), |n| n.to_string())
    };
    vec![
        columns::made("Reference", reference),
        columns::made("Targets", metric_targets),
        columns::made("MinPods", minimum),
        columns::number("MaxPods", &["spec", "maxReplicas"]).typed("string"),
        columns::number("Replicas", &["status", "currentReplicas"]).typed("string"),
        columns::age(),
    ]
})
.defaults(|obj| {
    const CPU: [&str; 2] = ["spec", "targetCPUUtilizationPercentage"];
    if object::at(obj, &["spec"]).is_none() {
        return;
    }
    let is_v2 = object::text(obj, &["apiVersion"]) == "autoscaling/v2";
    let metrics_aside =
        object::at(obj, &["metadata", "annotations", "autoscaling.alpha.kubernetes.io/metrics"]);
    if is_v2 && object::list(obj, &["spec", "metrics"]).is_empty() {
        let cpu = json!([{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        object::set(obj, &["spec", "metrics"], cpu);
    } else if !is_v2 && object::at(obj, &CPU).is_none() && metrics_aside.is_none() {
        object::set(obj, &CPU, 80);
    }
})
.checks(|obj| checks::validate(&as_v2(obj), None))
.changes(|obj, old| checks::validate(&as_v2(obj), Some(&as_v2(old))))
.status(checks::status);

/// Both versions are checked in the form of the newer one.
fn as_v2(obj: &Value) -> Value {
    let mut obj = obj.clone();
    crate::autoscaling::to_v2(&mut obj);
    obj
}

fn metric_targets(obj: &Value) -> String {
    let metrics = object::list(obj, &["spec", "metrics"]);
    if let Some(target) = object::number(obj, &["spec", "targetCPUUtilizationPercentage"]) {
        let current = object::number(obj, &["status", "currentCPUUtilizationPercentage"]);
        return format!("cpu: {}/{target}%", current.map_or("<unknown>".to_owned(), |n| format!("{n}%")));
    }
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let current = object::list(obj, &["status", "currentMetrics"]);
    let shown: Vec<String> =
        metrics.iter().take(2).enumerate().map(|(i, metric)| one_target(metric, current.get(i))).collect();
    let more = metrics.len().saturating_sub(shown.len());
    let suffix = if more > 0 { format!(" + {more} more...") } else { String::new() };
    format!("{}{suffix}", shown.join(", "))
}

fn one_target(metric: &Value, current: Option<&Value>) -> String {
    let source = match object::text(metric, &["type"]) {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let target = object::at(metric, &[source, "target"]).unwrap_or(&Value::Null);
    let now = current.and_then(|current| object::at(current, &[source, "current"])).unwrap_or(&Value::Null);
    let show = |value: &Value| {
        object::number(value, &["averageUtilization"])
            .map(|n| format!("{n}%"))
            .or_else(|| object::at(value, &["averageValue"]).and_then(Value::as_str).map(str::to_owned))
            .or_else(|| object::at(value, &["value"]).and_then(Value::as_str).map(str::to_owned))
    };
    let name = object::text(metric, &[source, "name"]);
    let prefix = if name.is_empty() { String::new() } else { format!("{name}: ") };
    format!(
        "{prefix}{}/{}",
        show(now).unwrap_or_else(|| "<unknown>".into()),
        show(target).unwrap_or_else(|| "<auto>".into())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Strategy;

    #[test]
    fn cells_are_upstreams() {
        let scaler = json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": 1, "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}});
        let columns = AUTOSCALER.columns().unwrap().into_iter().filter(|c| c.name != "Age");
        let cells: Vec<Value> = columns.map(|c| (c.cell)(&scaler)).collect();
        assert_eq!(
            cells,
            [json!("Deployment/web"), json!("cpu: <unknown>/80%"), json!("1"), json!(3), json!(0)]
        );
    }
}
