//! Usage, scopes and refusals as tables.

use jiff::Timestamp;
use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn used(kind: (&str, &str), obj: &Value) -> String {
    let measured = Measure::of(kind.0, kind.1).measure(obj, NOW);
    let texts: Vec<String> =
        measured.usage().iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    texts.join(" ")
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": spec})
}

fn asks(requests: Value, limits: Value) -> Value {
    pod(json!({"containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]}))
}

#[test]
fn each_kind_counts_what_upstream_counts() {
    let pods = ("", "pods");
    let cases = [
        (pods, asks(json!({}), json!({})), "count/pods=1 pods=1"),
        (
            pods,
            asks(json!({"cpu": "100m", "example.com/gpu": "2"}), json!({"cpu": "1"})),
            "count/pods=1 cpu=100m limits.cpu=1 pods=1 requests.cpu=100m requests.example.com/gpu=2",
        ),
        (
            pods,
            asks(json!({"hugepages-2Mi": "4Mi"}), json!({})),
            "count/pods=1 hugepages-2Mi=4Mi pods=1 requests.hugepages-2Mi=4Mi",
        ),
        (
            pods,
            pod(
                json!({"overhead": {"cpu": "10m"}, "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
                "initContainers": [
                    {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
                    {"name": "i", "resources": {"requests": {"cpu": "3"}}}]}),
            ),
            "count/pods=1 cpu=4010m pods=1 requests.cpu=4010m",
        ),
        (
            pods,
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": "2"}},
                    "allocatedResources": {"cpu": "3"}}]}}),
            "count/pods=1 cpu=3 pods=1 requests.cpu=3",
        ),
        (
            pods,
            json!({"spec": {"resources": {"requests": {"cpu": "5"}}, "containers": [{"name": "c",
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}}),
            "count/pods=1 cpu=5 memory=1Gi pods=1 requests.cpu=5 requests.memory=1Gi",
        ),
        (pods, json!({"status": {"phase": "Failed"}}), "count/pods=1"),
        (
            pods,
            json!({"metadata": {"deletionTimestamp": "1969-12-31T23:59:00Z", "deletionGracePeriodSeconds": 30}}),
            "count/pods=1",
        ),
        (
            ("", "services"),
            json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}}),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2",
        ),
        (
            ("", "services"),
            json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "ports": [{"nodePort": 30000}, {}]}}),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=1",
        ),
        (
            ("", "persistentvolumeclaims"),
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1500m"}}}}),
            "count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
             gold.storageclass.storage.k8s.io/requests.storage=2 persistentvolumeclaims=1 requests.storage=2",
        ),
        (
            ("resource.k8s.io", "resourceclaims"),
            json!({"spec": {"devices": {"requests": [
                {"exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
                {"firstAvailable": [
                    {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1},
                    {"deviceClassName": "gpu", "allocationMode": "All"}]}]}}}),
            "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=34",
        ),
        (("", "secrets"), json!({}), "count/secrets=1 secrets=1"),
        (("example.com", "gates"), json!({}), "count/gates.example.com=1"),
    ];
    for (kind, obj, expected) in cases {
        assert_eq!(used(kind, &obj), expected, "{obj}");
    }
}

#[test]
fn limits_name_the_kinds_that_use_them() {
    let cases = [
        ("pods", "pods."),
        ("requests.example.com/gpu", "pods."),
        ("requests.storage", "persistentvolumeclaims."),
        ("gold.storageclass.storage.k8s.io/requests.storage", "persistentvolumeclaims."),
        ("gpu.deviceclass.resource.k8s.io/devices", "resourceclaims.resource.k8s.io"),
        ("count/deployments.apps", "deployments.apps"),
        ("count/pods", "pods."),
        ("secrets", "secrets."),
        ("nonsense", ""),
    ];
    for (limit, expected) in cases {
        let kinds: Vec<String> =
            Measure::of_limit(limit).iter().map(|m| format!("{}.{}", m.kind().1, m.kind().0)).collect();
        assert_eq!(kinds.join(" "), expected, "{limit}");
    }
}

fn scope(text: &str) -> Requirement {
    let mut words = text.split(' ').map(str::to_owned);
    Requirement {
        scope: words.next().unwrap(),
        operator: words.next().unwrap_or_else(|| "Exists".to_owned()),
        values: words.collect(),
    }
}

#[test]
fn scopes_choose_objects() {
    let plain = asks(json!({}), json!({}));
    let busy = pod(json!({"priorityClassName": "high", "activeDeadlineSeconds": 0,
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {"namespaceSelector": {}}}]}}}));
    let claim = json!({"spec": {"volumeAttributesClassName": "fast"}, "status": {"currentVolumeAttributesClassName": "slow"}});
    let (pods, claims) = (Measure::Pods, Measure::Claims);
    let cases = [
        (&pods, &plain, "Terminating", false),
        (&pods, &plain, "NotTerminating", true),
        (&pods, &plain, "BestEffort", true),
        (&pods, &plain, "PriorityClass", false),
        (&pods, &plain, "PriorityClass NotIn high", true),
        (&pods, &plain, "PriorityClass DoesNotExist", true),
        (&pods, &plain, "CrossNamespacePodAffinity", false),
        (&pods, &busy, "Terminating", true),
        (&pods, &busy, "NotBestEffort", true),
        (&pods, &busy, "PriorityClass", true),
        (&pods, &busy, "PriorityClass In high low", true),
        (&pods, &busy, "PriorityClass NotIn high", false),
        (&pods, &busy, "CrossNamespacePodAffinity", true),
        (&pods, &busy, "VolumeAttributesClass", false),
        (&claims, &claim, "VolumeAttributesClass In slow", true),
        (&claims, &claim, "VolumeAttributesClass In other", false),
        (&claims, &claim, "Terminating", false),
        (&Measure::Services, &claim, "NotTerminating", false),
    ];
    for (measure, obj, text, expected) in cases {
        assert_eq!(measure.measure(obj, NOW).is_in(&scope(text)), Ok(expected), "{text} {obj}");
    }
    assert!(pods.measure(&plain, NOW).is_in(&scope("PriorityClass Like high")).is_err());
}

fn quota(scopes: &[&str], hard: Value, used: Value) -> Quota {
    Quota {
        name: "q".to_owned(),
        scopes: scopes.iter().map(|text| scope(text)).collect(),
        hard: amounts(Some(&hard)),
        used: amounts(Some(&used)),
    }
}

fn decided(quota: &Quota, new: &Value, old: Option<&Value>, limited: &[Limited]) -> String {
    let new = Measure::Pods.measure(new, NOW);
    let old = old.map(|old| Measure::Pods.measure(old, NOW));
    let incoming = Incoming { measure: &Measure::Pods, new: &new, old: old.as_ref(), records_only: false };
    match charge(std::slice::from_ref(quota), &incoming, limited) {
        Ok(charged) => charged.iter().map(|(_, used)| shown(used).to_string()).collect(),
        Err(why) => why,
    }
}

#[test]
fn charges_and_refusals_are_upstreams() {
    let pods = |used: i64| {
        quota(&[], json!({"pods": "2", "requests.cpu": "1"}), json!({"pods": used, "requests.cpu": "500m"}))
    };
    let (small, big) = (asks(json!({"cpu": "400m"}), json!({})), asks(json!({"cpu": "600m"}), json!({})));
    let bare = pod(json!({"containers": [{"name": "b"}, {"name": "a"}]}));
    let none = Limited::default();
    let demanded = Limited { resource: "pods".to_owned(), contains: vec!["cpu".to_owned()], ..none.clone() };
    let scoped =
        Limited { resource: "pods".to_owned(), scopes: vec![scope("PriorityClass In high")], ..none };
    let high = pod(json!({"priorityClassName": "high", "containers": []}));
    let cases = [
        (pods(0), &small, None, &[][..], r#"{"pods":"1","requests.cpu":"900m"}"#),
        (pods(2), &small, None, &[], "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
        (
            pods(2),
            &big,
            None,
            &[],
            "exceeded quota: q, requested: pods=1,requests.cpu=600m, used: pods=2,requests.cpu=500m, limited: \
             pods=2,requests.cpu=1",
        ),
        (pods(0), &bare, None, &[], "failed quota: q: must specify requests.cpu for: a,b"),
        (
            quota(&[], json!({"pods": "1", "cpu": "1"}), json!({"pods": "0"})),
            &small,
            None,
            &[],
            "status unknown for quota: q, resources: cpu,pods",
        ),
        (pods(2), &big, Some(&small), &[], r#"{"pods":"2","requests.cpu":"700m"}"#),
        (pods(2), &small, Some(&big), &[], ""),
        (quota(&["Terminating"], json!({"pods": "0"}), json!({"pods": "0"})), &small, None, &[], ""),
        (
            quota(&[], json!({"secrets": "1"}), json!({})),
            &small,
            None,
            std::slice::from_ref(&demanded),
            "insufficient quota to consume: cpu,requests.cpu",
        ),
        (pods(0), &small, None, std::slice::from_ref(&demanded), "insufficient quota to consume: cpu"),
        (
            pods(0),
            &pod(
                json!({"priorityClassName": "high", "containers": [], "resources": {"requests": {"cpu": "1m"}}}),
            ),
            None,
            std::slice::from_ref(&scoped),
            "insufficient quota to match these scopes: [{PriorityClass In [high]}]",
        ),
        (
            quota(&["PriorityClass In high"], json!({"pods": "1"}), json!({"pods": "0"})),
            &high,
            None,
            std::slice::from_ref(&scoped),
            r#"{"pods":"1"}"#,
        ),
    ];
    for (quota, new, old, limited, expected) in cases {
        assert_eq!(decided(&quota, new, old, limited), expected, "{new}");
    }
}
