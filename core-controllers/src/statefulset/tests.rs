//! Tables of decisions: a set, its pods and claims, each a line of text, and what is done about them.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod, Volume},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use serde_json::json;

use super::{
    claims, identity,
    plan::{self, Revision, Step, View},
    status,
};
use crate::testing::{at, pod};

/// A set such as `3 parallel partition=1 max=2 start=5 claims deleted scaled ondelete minready=10`.
fn set(text: &str) -> StatefulSet {
    let mut words = text.split(' ');
    let replicas: i32 = words.next().unwrap().parse().unwrap();
    let mut set = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "uid-web", "generation": 1},
        "spec": {
            "replicas": replicas,
            "serviceName": "web",
            "selector": {"matchLabels": {"app": "web"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
        },
    });
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || json!(value.parse::<i32>().unwrap());
        let spec = &mut set["spec"];
        match key {
            "parallel" => spec["podManagementPolicy"] = json!("Parallel"),
            "partition" => spec["updateStrategy"]["rollingUpdate"]["partition"] = number(),
            "max" => {
                let value = value.parse::<i32>().map_or(json!(value), |number| json!(number));
                spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = value;
            }
            "start" => spec["ordinals"] = json!({"start": number()}),
            "minready" => spec["minReadySeconds"] = number(),
            "ondelete" => spec["updateStrategy"] = json!({"type": "OnDelete"}),
            "claims" => spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]),
            "deleted" => spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] = json!("Delete"),
            "scaled" => spec["persistentVolumeClaimRetentionPolicy"]["whenScaled"] = json!("Delete"),
            "going" => set["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            other => panic!("{other}"),
        }
    }
    serde_json::from_value(set).unwrap()
}

/// A pod of the set such as `2 ready v2`: its ordinal, its state, its revision (`v1` if it does not say).
fn member(text: &str) -> Arc<Pod> {
    let (ordinal, rest) = text.split_once(' ').unwrap();
    let mut member = pod(&format!("web-{ordinal} {rest}"));
    let labels = member.metadata.labels.get_or_insert_default();
    let revision = if labels.remove("v2").is_some() { "v2" } else { "v1" };
    labels.insert("controller-revision-hash".to_owned(), revision.to_owned());
    labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), format!("web-{ordinal}"));
    Arc::new(member)
}

/// A claim such as `data-web-0 web/uid-web`: its name and its owners, each as name and uid; one with `!` is a controller
/// of another kind.
fn volume_claim(text: &str) -> Arc<PersistentVolumeClaim> {
    let mut words = text.split(' ');
    let mut claim = PersistentVolumeClaim::default();
    claim.metadata.name = words.next().map(str::to_owned);
    let owner = |word: &str| {
        let (name, uid) = word.trim_end_matches('!').split_once('/').unwrap();
        let (kind, api_version) = match (word.ends_with('!'), name) {
            (true, _) => ("Other", "x.dev/v1"),
            (_, "web") => ("StatefulSet", "apps/v1"),
            _ => ("Pod", "v1"),
        };
        OwnerReference {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    };
    claim.metadata.owner_references = Some(words.map(owner).collect());
    Arc::new(claim)
}

fn versions(update: &str) -> (Revision, Revision) {
    let revision = |name: &str| Revision { name: name.to_owned(), ..Revision::default() };
    (revision("v1"), revision(update))
}

/// The steps of the plan, stages apart, for pods at v1 and an update to `update`.
fn planned(text: &str, update: &str, pods: &[&str], held: &[&str]) -> String {
    let set = set(text);
    let (current, update) = versions(update);
    let mut pods: Vec<Arc<Pod>> = pods.iter().map(|text| member(text)).collect();
    if text.contains("claims") {
        for pod in &mut pods {
            let mut mounted = identity::corrected(&set, pod);
            let volumes = mounted.spec.as_mut().unwrap().volumes.get_or_insert_default();
            volumes.push(Volume { name: "other".into(), ..Volume::default() });
            *pod = Arc::new(mounted);
        }
    }
    let held: BTreeMap<String, Arc<PersistentVolumeClaim>> =
        held.iter().map(|text| volume_claim(text)).map(|c| (c.metadata.name.clone().unwrap(), c)).collect();
    let claim = |name: &str| held.get(name).cloned();
    let view =
        View { set: &set, current: &current, update: &update, pods: &pods, claim: &claim, now: at(1000) };
    let shown = |step: &Step| {
        let (verb, pod) = match step {
            Step::Create(pod) => {
                return format!("create {} {}", pod.metadata.name.as_ref().unwrap(), identity::revision(pod));
            }
            Step::Supply(pod) => ("supply", pod),
            Step::Correct(pod) => ("correct", pod),
            Step::Own(pod) => ("own", pod),
            Step::Delete(pod) => ("delete", pod),
        };
        format!("{verb} {}", pod.metadata.name.as_ref().unwrap())
    };
    let stage = |steps: &Vec<Step>| steps.iter().map(shown).collect::<Vec<_>>().join(", ");
    plan::plan(&view).stages.iter().map(stage).collect::<Vec<_>>().join("; ")
}

#[test]
fn an_ordered_set_takes_one_step_at_a_time() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("3", &[], "create web-0 v1"),
        ("3", &["0 pending"], ""),
        ("3", &["0 running"], ""),
        ("3", &["0 ready"], "create web-1 v1"),
        ("3", &["0 ready", "2 ready"], "create web-1 v1"),
        ("3", &["0 ready", "1 ready", "2 ready"], ""),
        ("3", &["0 ready", "1 failed", "2 ready"], "delete web-1"),
        ("3", &["0 ready", "1 succeeded", "2 ready"], "delete web-1"),
        ("3", &["0 ready", "1 failed going", "2 ready"], ""),
        ("3", &["0 ready", "1 ready going", "2 ready"], ""),
        ("2 start=5", &["5 ready"], "create web-6 v1"),
        ("2 start=1", &["0 ready", "1 ready", "2 ready"], "delete web-0"),
        ("1", &["0 ready", "1 ready", "2 ready"], "delete web-2"),
        ("1", &["0 ready", "1 ready", "2 ready going"], ""),
        // The lowest pod that is ill goes before those above it only when it is the highest itself.
        ("1", &["0 ready", "1 ready", "2 running"], "delete web-2"),
        ("1", &["0 ready", "1 running", "2 running"], ""),
        ("1", &["0 ready", "1 running", "2 ready"], "delete web-2"),
        ("1", &["0 running", "1 ready"], ""),
        ("0", &["0 ready"], "delete web-0"),
        // What is ready and not available yet is waited for before it goes.
        ("1 minready=10", &["0 ready", "1 ready since=995"], ""),
        ("1 minready=10", &["0 ready", "1 ready since=990"], "delete web-1"),
        ("1 minready=10", &["0 ready", "1 running", "2 ready since=995"], ""),
        ("1 minready=10", &["0 ready", "1 ready since=995", "2 running"], "delete web-2"),
        ("2 minready=10", &["0 ready since=995"], ""),
        ("2 minready=10", &["0 ready since=990"], "create web-1 v1"),
        ("2 going", &["0 ready"], ""),
    ];
    for (set, pods, expected) in cases {
        assert_eq!(planned(set, "v1", pods, &[]), *expected, "{set} {pods:?}");
    }
}

#[test]
fn a_parallel_set_takes_all_steps_at_once() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("3", &[], "create web-0 v1, create web-1 v1, create web-2 v1"),
        ("3", &["1 failed"], "create web-0 v1, delete web-1, create web-2 v1"),
        ("1", &["0 running", "1 ready", "2 running", "3 ready going"], "delete web-2, delete web-1"),
        ("2", &["0 ready", "3 ready"], "create web-1 v1; delete web-3"),
    ];
    for (set, pods, expected) in cases {
        assert_eq!(planned(&format!("{set} parallel"), "v1", pods, &[]), *expected, "{set} {pods:?}");
    }
}

#[test]
fn an_update_goes_down_from_the_highest() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("3", &["0 ready", "1 ready", "2 ready"], "delete web-2"),
        ("3", &["0 ready", "1 ready", "2 ready v2"], "delete web-1"),
        ("3", &["0 ready", "1 ready", "2 running v2"], ""),
        ("3", &["0 ready", "1 ready"], "create web-2 v2"),
        ("3 partition=2", &["0 ready", "1 ready", "2 ready v2"], ""),
        ("3 partition=2", &["0 ready"], "create web-1 v1"),
        ("3 partition=1 start=4", &["4 ready", "5 ready", "6 ready v2"], "delete web-5"),
        ("3 partition=9", &["0 ready", "1 ready", "2 ready"], ""),
        ("3 ondelete", &["0 ready", "1 ready", "2 ready"], ""),
        ("3 ondelete", &["0 ready", "1 ready"], "create web-2 v2"),
        // A broken revision is left only by hand in an ordered set; a parallel one mends itself.
        ("2", &["0 ready", "1 running"], ""),
        ("2 parallel", &["0 ready", "1 running"], "delete web-1"),
        ("2 parallel", &["0 running", "1 running v2"], ""),
        // Scaling comes first.
        ("2", &["0 ready", "1 ready", "2 ready"], "delete web-2"),
    ];
    for (set, pods, expected) in cases {
        assert_eq!(planned(set, "v2", pods, &[]), *expected, "{set} {pods:?}");
    }
}

#[test]
fn as_many_are_updated_as_may_be_unavailable() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("4 max=2", &["0 ready", "1 ready", "2 ready", "3 ready"], "delete web-3, delete web-2"),
        ("4 max=50%", &["0 ready", "1 ready", "2 ready", "3 ready"], "delete web-3, delete web-2"),
        ("4 max=1%", &["0 ready", "1 ready", "2 ready", "3 ready"], "delete web-3"),
        ("4 parallel max=2", &["0 ready", "1 ready", "2 ready", "3 running v2"], "delete web-2"),
        ("4 parallel max=2", &["0 ready", "1 ready", "2 running v2", "3 running v2"], ""),
        (
            "4 parallel max=2",
            &["0 running", "1 running", "2 running", "3 ready"],
            "delete web-3, delete web-2, delete web-1, delete web-0",
        ),
        ("4 parallel max=2 partition=2", &["0 running", "1 ready", "2 ready", "3 ready"], "delete web-3"),
    ];
    for (set, pods, expected) in cases {
        assert_eq!(planned(set, "v2", pods, &[]), *expected, "{set} {pods:?}");
    }
}

#[test]
fn claims_are_made_kept_and_given_owners() {
    let cases: &[(&str, &[&str], &[&str], &str)] = &[
        ("1", &["0 pending"], &[], "supply web-0"),
        ("1", &["0 ready"], &[], ""),
        ("1", &["0 ready"], &["data-web-0"], ""),
        ("1 deleted", &["0 ready"], &["data-web-0"], "own web-0"),
        ("1 deleted", &["0 ready"], &["data-web-0 web/uid-web"], ""),
        ("1", &["0 ready"], &["data-web-0 web/uid-web"], "own web-0"),
        ("1 scaled", &["0 ready", "1 ready"], &["data-web-0", "data-web-1"], "own web-1; delete web-1"),
        ("1 scaled", &["0 ready", "1 ready"], &["data-web-0", "data-web-1 web-1/uid-web-1"], "delete web-1"),
        ("1 deleted scaled", &["0 ready"], &["data-web-0 web-0/uid-web-0"], "own web-0"),
        // A claim that goes with an earlier pod of the name cannot serve the new one.
        ("1 scaled", &[], &["data-web-0 web-0/earlier"], ""),
        ("1", &[], &["data-web-0 web-0/earlier"], "create web-0 v1"),
        ("1 deleted", &["0 ready"], &["data-web-0 web/earlier"], ""),
        ("1 deleted", &["0 ready"], &["data-web-0 x/1!"], ""),
        ("1 deleted", &["0 ready"], &["data-web-0 x/1! web/uid-web"], "own web-0"),
    ];
    for (set, pods, held, expected) in cases {
        assert_eq!(planned(&format!("{set} claims"), "v1", pods, held), *expected, "{set} {pods:?} {held:?}");
    }
}

#[test]
fn a_claim_that_another_controller_has_is_let_go() {
    let (set, pod) = (set("1 claims deleted"), member("0 ready"));
    let due = |text: &str| claims::due_owners(&set, &volume_claim(text), &pod).unwrap();
    assert_eq!(due("data-web-0 x/1! web/uid-web").len(), 1, "only the other one stays");
    assert_eq!(due("data-web-0")[0].controller, Some(true));
}

#[test]
fn pods_have_a_name_a_host_and_their_claims() {
    let set = set("3 claims");
    let pod = identity::new_pod(&set, &set.spec.as_ref().unwrap().template, "web-abc", 2);
    let text = json!(pod);
    assert_eq!(text["metadata"]["name"], "web-2");
    assert_eq!(
        text["metadata"]["labels"],
        json!({
            "app": "web",
            "apps.kubernetes.io/pod-index": "2",
            "controller-revision-hash": "web-abc",
            "statefulset.kubernetes.io/pod-name": "web-2",
        })
    );
    assert_eq!((&text["spec"]["hostname"], &text["spec"]["subdomain"]), (&json!("web-2"), &json!("web")));
    let volume = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-2"}}]);
    assert_eq!(text["spec"]["volumes"], volume);
    let claim = json!(identity::new_claims(&set, 2));
    assert_eq!(claim[0]["metadata"]["name"], "data-web-2");
    assert_eq!(claim[0]["metadata"]["labels"], json!({"app": "web"}));
    assert!(identity::makes_claim(&set, "data-web-2") && !identity::makes_claim(&set, "data-web-x"));
    assert!(!identity::makes_claim(&set, "data-other-2"));

    let named =
        |name: &str| identity::parent_and_ordinal(name).map(|(parent, ordinal)| (parent.to_owned(), ordinal));
    assert_eq!(named("a-b-10"), Some(("a-b".to_owned(), 10)));
    for other in ["web", "web-", "web-x", "web-+1", "web-99999999999"] {
        assert_eq!(named(other), None, "{other}");
    }
}

#[test]
fn the_status_counts_and_completes() {
    let report = |text: &str, update: &str, pods: &[&str]| {
        let set = set(text);
        let (current, update) = versions(update);
        let pods: Vec<Arc<Pod>> = pods.iter().map(|text| member(text)).collect();
        let claim = |_: &str| None;
        let view =
            View { set: &set, current: &current, update: &update, pods: &pods, claim: &claim, now: at(1000) };
        let s = status::status(&view, &plan::plan(&view), 0, true);
        let count = |count: Option<i32>| count.unwrap_or(0);
        let counts =
            [s.ready_replicas, s.available_replicas, s.current_replicas, s.updated_replicas].map(count);
        format!("{} {counts:?} {}", s.replicas, s.current_revision.unwrap())
    };
    assert_eq!(report("2 minready=10", "v1", &["0 ready since=995", "1 running"]), "2 [1, 0, 2, 2] v1");
    assert_eq!(report("2", "v2", &["0 ready", "1 ready going"]), "2 [2, 2, 1, 0] v1");
    assert_eq!(report("2", "v2", &["0 ready", "1 ready"]), "2 [2, 2, 1, 0] v1", "one is on its way out");
    assert_eq!(report("2", "v2", &["0 ready v2", "1 ready v2"]), "2 [2, 2, 2, 2] v2", "complete");
    assert_eq!(report("2", "v2", &["0 ready v2", "1 running v2"]), "2 [1, 1, 0, 2] v1");
    assert_eq!(report("2 ondelete", "v2", &["0 ready v2", "1 ready v2"]), "2 [2, 2, 0, 2] v1");
}
