//! Tables of counts.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use serde_json::{Value, json};

use super::{disrupted, expected, healthy, number, status, stopped};
use crate::testing::{at, pod};

fn budget(spec: Value, disrupted: Value) -> PodDisruptionBudget {
    let status = json!({"disruptedPods": disrupted, "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
    serde_json::from_value(
        json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status}),
    )
    .unwrap()
}

fn pods(texts: &[&str]) -> Vec<Arc<Pod>> {
    texts.iter().map(|text| Arc::new(pod(text))).collect()
}

#[test]
fn shares_are_rounded_up() {
    for (spec, scale, pods, healthy) in [
        (json!({"minAvailable": 2}), 5, 5, 2),
        (json!({"minAvailable": "50%"}), 5, 5, 3),
        (json!({"maxUnavailable": 1}), 5, 5, 4),
        (json!({"maxUnavailable": "30%"}), 5, 5, 3),
        (json!({"maxUnavailable": 7}), 5, 5, 0),
        (json!({}), 5, 0, 0),
    ] {
        let budget = budget(spec.clone(), json!({}));
        assert_eq!(
            expected::expected(&budget, scale).unwrap(),
            expected::Expected { pods, healthy },
            "{spec}"
        );
        let plain =
            spec.get("minAvailable").is_none_or(Value::is_number) && spec.get("maxUnavailable").is_none();
        assert_eq!(expected::needs_scale(&budget), !plain, "{spec}");
    }
}

#[test]
fn what_may_go_is_what_serves_beyond_the_need() {
    let allowed = |spec: Value, texts: &[&str]| {
        let budget = budget(spec, json!({"going": "1970-01-01T00:16:00Z", "late": "1970-01-01T00:10:00Z"}));
        let pods = pods(texts);
        let disrupted = disrupted(&budget, &pods, at(1000));
        let late: Vec<_> = disrupted.late.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        let again = disrupted.again.map(|again| again.as_secs());
        let expected = expected::expected(&budget, number(pods.len())).unwrap();
        let status = status(&budget, expected, healthy(&pods, &disrupted.pending), disrupted.pending);
        let noted: Vec<String> = status.disrupted_pods.unwrap_or_default().into_keys().collect();
        let reason = status.conditions.unwrap()[0].reason.clone();
        (
            status.current_healthy.unwrap(),
            status.disruptions_allowed.unwrap(),
            reason,
            noted.join(","),
            late,
            again,
        )
    };
    let none: Vec<String> = Vec::new();
    let (sufficient, insufficient) = ("SufficientPods".to_owned(), "InsufficientPods".to_owned());
    let least = || json!({"minAvailable": 2});
    assert_eq!(
        allowed(least(), &["a ready", "b ready", "c ready"]),
        (3, 1, sufficient, String::new(), none.clone(), None)
    );
    assert_eq!(
        allowed(least(), &["a ready", "b running", "c ready going"]),
        (1, 0, insufficient.clone(), String::new(), none.clone(), None)
    );
    // One on its way out counts no more, until it should have gone and has not.
    assert_eq!(
        allowed(least(), &["a ready", "b ready", "going ready"]),
        (2, 0, insufficient.clone(), "going".to_owned(), none.clone(), Some(80))
    );
    assert_eq!(
        allowed(least(), &["a ready", "late ready"]),
        (2, 0, insufficient.clone(), String::new(), vec!["late".to_owned()], None)
    );
    let nothing = || (0, 0, insufficient.clone(), String::new(), none.clone(), None);
    assert_eq!(allowed(json!({"minAvailable": 0}), &[]), nothing());
    assert_eq!(allowed(json!({}), &["a ready"]), (1, 0, insufficient.clone(), String::new(), none, None));
}

#[test]
fn nobody_may_go_while_nothing_is_known() {
    let budget = budget(json!({"maxUnavailable": 1}), json!({}));
    let status = stopped(&budget, &expected::Unknown::NoScale("jobs.batch".to_owned()));
    let condition = &status.conditions.unwrap()[0];
    assert_eq!((condition.reason.as_str(), condition.status.as_str()), ("SyncFailed", "False"));
    assert_eq!(condition.message, "jobs.batch does not implement the scale subresource");
    assert_eq!(healthy(&pods(&["a ready"]), &BTreeMap::new()), 1);
}
