//! Rollouts, played against a cluster that does what it is told: each line is one turn.

use std::{collections::BTreeSet, sync::Arc};

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetStatus};
use kube::api::ObjectMeta;
use serde_json::json;

use super::*;
use crate::testing::at;

/// A cluster of ReplicaSets, whose pods become ready when the test says so.
struct Play {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    seconds: i64,
    out: String,
    /// Templates of this image never become ready.
    broken: &'static str,
}

impl Play {
    fn new(replicas: i32, strategy: &serde_json::Value) -> Self {
        let spec = json!({
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": strategy,
            "progressDeadlineSeconds": 600,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
        });
        let metadata = ObjectMeta {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("d".into()),
            generation: Some(1),
            ..ObjectMeta::default()
        };
        let spec = serde_json::from_value(spec).unwrap();
        let deployment = Deployment { metadata, spec: Some(spec), status: None };
        Self { deployment, sets: Vec::new(), seconds: 0, out: String::new(), broken: "none" }
    }

    fn rolling(replicas: i32, surge: &serde_json::Value, unavailable: &serde_json::Value) -> Self {
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        Self::new(replicas, &json!({"type": "RollingUpdate", "rollingUpdate": rolling}))
    }

    fn spec(&mut self, change: impl FnOnce(&mut k8s_openapi::api::apps::v1::DeploymentSpec)) {
        change(self.deployment.spec.as_mut().unwrap());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn image(&mut self, image: &str) {
        self.spec(|spec| spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into()));
    }

    fn image_of(set: &ReplicaSet) -> String {
        let template = set.spec.as_ref().unwrap().template.as_ref().unwrap();
        template.spec.as_ref().unwrap().containers[0].image.clone().unwrap()
    }

    /// One turn; then every pod that can becomes ready. Returns whether anything changed.
    fn turn(&mut self) -> bool {
        let running: BTreeSet<String> = self
            .sets
            .iter()
            .filter(|set| set.status.as_ref().is_some_and(|s| s.replicas > 0))
            .filter_map(|set| set.metadata.uid.clone())
            .collect();
        let view =
            View { deployment: &self.deployment, sets: &self.sets, running: &running, now: at(self.seconds) };
        let plan = plan::plan(&view);
        let changed = plan.create.is_some() || !plan.update.is_empty() || !plan.delete.is_empty();
        let changed = changed || plan.status != self.deployment.status;
        self.apply(plan);
        self.obey();
        self.seconds += 1;
        changed
    }

    fn apply(&mut self, plan: Plan) {
        if let Some(mut set) = plan.create {
            set.metadata.uid = set.metadata.name.clone();
            set.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(self.seconds)));
            self.sets.push(Arc::new(set));
        }
        for update in plan.update {
            let at = self.sets.iter().position(|set| set.metadata.uid == update.next.metadata.uid).unwrap();
            self.sets[at] = Arc::new(update.next);
        }
        self.sets.retain(|set| !plan.delete.iter().any(|gone| gone.metadata.uid == set.metadata.uid));
        if let Some(revision) = plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(revision::REVISION.into(), revision);
        }
        self.deployment.status = plan.status;
    }

    /// The ReplicaSet controller and the kubelet at once.
    fn obey(&mut self) {
        let mut line = Vec::new();
        for set in &mut self.sets {
            let image = Self::image_of(set);
            let replicas = plan::wanted(set);
            let ready = if image == self.broken { 0 } else { replicas };
            line.push(format!("{image}:{replicas}"));
            Arc::make_mut(set).status = Some(ReplicaSetStatus {
                replicas,
                ready_replicas: Some(ready),
                available_replicas: Some(ready),
                ..ReplicaSetStatus::default()
            });
        }
        self.out += &(line.join(" ") + "\n");
    }

    fn settle(&mut self) -> String {
        for _ in 0..100 {
            if !self.turn() {
                return std::mem::take(&mut self.out);
            }
        }
        panic!("it never settles:\n{}", self.out);
    }

    fn reason(&self) -> String {
        let status: &DeploymentStatus = self.deployment.status.as_ref().unwrap();
        let conditions = status.conditions.as_ref().unwrap();
        let find = |t: &str| conditions.iter().find(|c| c.type_ == t);
        let reason = find("Progressing").and_then(|c| c.reason.clone()).unwrap_or_default();
        format!("{reason}, available {}", find("Available").map_or("?", |c| &c.status))
    }

    fn revisions(&self) -> String {
        let of = |set: &Arc<ReplicaSet>| {
            let annotations = set.metadata.annotations.as_ref().unwrap();
            let history = annotations.get("deployment.kubernetes.io/revision-history");
            format!(
                "{}={}{}",
                Self::image_of(set),
                annotations[revision::REVISION],
                history.map(|h| format!(" (was {h})")).unwrap_or_default()
            )
        };
        self.sets.iter().map(of).collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn a_rollout_grows_first_and_never_goes_below_its_minimum() {
    let mut play = Play::rolling(4, &json!("25%"), &json!("25%"));
    expect_test::expect![[r"
        v1:4
        v1:4
        v1:4
    "]]
    .assert_eq(&play.settle());
    assert_eq!(play.reason(), "NewReplicaSetAvailable, available True");
    play.image("v2");
    expect_test::expect![[r"
        v1:3 v2:1
        v1:3 v2:2
        v1:1 v2:2
        v1:1 v2:4
        v1:0 v2:4
        v1:0 v2:4
        v1:0 v2:4
    "]]
    .assert_eq(&play.settle());
    assert_eq!(play.reason(), "NewReplicaSetAvailable, available True");
    assert_eq!(play.revisions(), "v1=1, v2=2");
    play.image("v1");
    play.settle();
    assert_eq!(play.revisions(), "v1=3 (was 1), v2=2", "a rollback is a new revision of an old set");
    assert_eq!(play.deployment.metadata.annotations.as_ref().unwrap()[revision::REVISION], "3");
}

#[test]
fn a_bad_template_stops_the_rollout_and_its_deadline_is_reported() {
    let mut play = Play::rolling(4, &json!(1), &json!(0));
    play.settle();
    play.broken = "bad";
    play.image("bad");
    expect_test::expect![[r"
        v1:4 bad:1
        v1:4 bad:1
        v1:4 bad:1
    "]]
    .assert_eq(&play.settle());
    assert_eq!(play.reason(), "ReplicaSetUpdated, available True");
    play.seconds += 700;
    play.settle();
    assert_eq!(play.reason(), "ProgressDeadlineExceeded, available True");
    // Scaled in the middle of it: both grow in proportion, the surplus included.
    play.spec(|spec| spec.replicas = Some(8));
    expect_test::expect![[r"
        v1:7 bad:2
        v1:7 bad:2
        v1:7 bad:2
    "]]
    .assert_eq(&play.settle());
    play.image("v3");
    play.settle();
    assert_eq!(play.reason(), "NewReplicaSetAvailable, available True");
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let mut play = Play::new(3, &json!({"type": "Recreate"}));
    play.settle();
    play.image("v2");
    expect_test::expect![[r"
        v1:0
        v1:0 v2:3
        v1:0 v2:3
        v1:0 v2:3
    "]]
    .assert_eq(&play.settle());
    assert_eq!(play.reason(), "NewReplicaSetAvailable, available True");
}

#[test]
fn a_pause_holds_the_rollout_but_not_the_scale() {
    let mut play = Play::rolling(2, &json!(1), &json!(0));
    play.settle();
    play.spec(|spec| spec.paused = Some(true));
    play.image("v2");
    play.spec(|spec| spec.replicas = Some(3));
    assert!(play.settle().lines().last().unwrap() == "v1:3");
    assert_eq!(play.reason(), "DeploymentPaused, available True");
    play.spec(|spec| spec.paused = None);
    assert_eq!(play.settle().lines().last().unwrap(), "v1:0 v2:3");
    assert_eq!(play.reason(), "NewReplicaSetAvailable, available True");
}

#[test]
fn history_is_kept_to_its_limit() {
    let mut play = Play::rolling(1, &json!(1), &json!(0));
    play.spec(|spec| spec.revision_history_limit = Some(2));
    for i in 1..=5 {
        play.image(&format!("v{i}"));
        play.settle();
    }
    assert_eq!(play.revisions(), "v3=3, v4=4, v5=5");
}

#[test]
fn availability_never_drops_below_the_minimum_whatever_the_bounds() {
    for replicas in [1, 2, 3, 7, 10] {
        for surge in [0, 1, 3, 50] {
            for unavailable in [0, 1, 2, 20] {
                let mut play = Play::rolling(replicas, &json!(surge), &json!(unavailable));
                play.settle();
                play.image("v2");
                let bounds = plan::bounds(&play.deployment);
                let fewest = bounds.fewest(&play.deployment);
                for _ in 0..100 {
                    let available: i32 =
                        play.sets.iter().filter_map(|s| s.status.as_ref()?.available_replicas).sum();
                    let total: i32 = play.sets.iter().map(|set| plan::wanted(set)).sum();
                    assert!(available >= fewest, "{available} of {replicas} with {surge}/{unavailable}");
                    assert!(
                        total <= replicas + bounds.surge,
                        "{total} of {replicas} with {surge}/{unavailable}"
                    );
                    if !play.turn() {
                        break;
                    }
                }
                assert_eq!(play.out.lines().last().unwrap(), format!("v1:0 v2:{replicas}"));
            }
        }
    }
}

#[test]
fn a_stuck_rollout_looks_at_its_deadline_when_that_passes() {
    let mut play = Play::rolling(1, &json!(1), &json!(0));
    play.broken = "v1";
    play.settle();
    let running = BTreeSet::new();
    let view =
        View { deployment: &play.deployment, sets: &play.sets, running: &running, now: at(play.seconds) };
    let again = plan::plan(&view).again.unwrap();
    let now = at(play.seconds) + SignedDuration::try_from(again).unwrap();
    let view = View { now, ..view };
    let status = plan::plan(&view).status.unwrap();
    let reasons: Vec<_> = status.conditions.unwrap().into_iter().filter_map(|c| c.reason).collect();
    assert!(reasons.contains(&"ProgressDeadlineExceeded".to_owned()), "{reasons:?}");
}
