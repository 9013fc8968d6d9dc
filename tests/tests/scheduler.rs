//! A scheduler with plugins of one's own in a whole cluster, under its own account: what its plugins hold, refuse and do on
//! a pod's way to its node, and what is told of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Pod},
    events::v1::Event,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Identity, RunningOperator},
};
use serde_json::json;
use tokio::task::JoinHandle;
use windlass::{Manager, Metrics, Operator, Rules, Scope, Verbs, random::Source};
use windlass_scheduler::{
    BindError, Binding, BoxFuture, Cycle, Index, Permit, Plugin, PodInfo, Preemption, Refusals, Reject,
    Scheduler, Waiting,
};

const SECOND: Duration = Duration::from_secs(1);

/// Lets the pods of a gang go once so many of them have a node.
struct Gang;

impl Gang {
    const NAME: &'static str = "Gang";
}

impl Plugin for Gang {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn permit(&self, pod: &PodInfo, _node: &str, waiting: &Waiting) -> Permit {
        let of = |pod: &PodInfo| pod.labels().get("gang").cloned();
        let Some(gang) = of(pod) else { return Permit::Allow };
        let others: Vec<_> =
            waiting.pods().into_iter().filter(|(p, _)| of(p).as_ref() == Some(&gang)).collect();
        if others.len() < 2 {
            return Permit::Wait(Duration::from_secs(60));
        }
        others.iter().for_each(|(other, _)| waiting.allow(other.uid(), Self::NAME));
        Permit::Allow
    }
}

/// Notes each pod in a ConfigMap before it is bound, which fails the first time, and lets in one pod at a time.
struct Notes {
    reserved: Arc<AtomicUsize>,
    tries: AtomicUsize,
}

impl Plugin for Notes {
    fn name(&self) -> &'static str {
        "Notes"
    }

    fn needs(&self, rules: &mut Rules) {
        rules.allow::<ConfigMap>(&Scope::all(), Verbs::CREATE);
    }

    fn pre_enqueue(&self, pod: &PodInfo) -> Result<(), Reject> {
        match pod.labels().get("one-at-a-time") {
            Some(_) if self.reserved.load(Ordering::Relaxed) > 0 => {
                Err(Reject::because("another is on its way"))
            }
            _ => Ok(()),
        }
    }

    fn reserve(&self, pod: &PodInfo, _node: &str) -> Result<(), Reject> {
        if pod.labels().contains_key("never") {
            return Err(Reject::because("node(s) that are kept for others"));
        }
        self.reserved.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn unreserve(&self, pod: &PodInfo, _node: &str) {
        if !pod.labels().contains_key("never") {
            self.reserved.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn pre_bind<'a>(&'a self, binding: &'a Binding) -> BoxFuture<'a, Result<(), BindError>> {
        Box::pin(async move {
            if self.tries.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err(BindError::Failed("the ink is dry".into()));
            }
            let data = BTreeMap::from([("node".to_owned(), binding.node.to_string())]);
            let mut map = ConfigMap { data: Some(data), ..ConfigMap::default() };
            map.metadata.name = Some(binding.pod.key.name().to_owned());
            Api::default_namespaced(binding.client.clone()).create(&PostParams::default(), &map).await?;
            Ok(())
        })
    }
}

/// Gives the only place of a node to whoever is dear, and lets the dear in first, whatever their priority.
struct Dear;

impl Dear {
    fn is(pod: &PodInfo) -> bool {
        pod.labels().get("sort").is_some_and(|sort| sort == "dear")
    }
}

impl Plugin for Dear {
    fn name(&self) -> &'static str {
        "Dear"
    }

    fn rank(&self, pod: &PodInfo) -> Option<i64> {
        Some(i64::from(!Self::is(pod)))
    }

    fn filter(&self, cycle: &Cycle<'_>, at: Index) -> Result<(), Reject> {
        match cycle.snapshot.pods[at].iter().any(|pod| pod.labels().contains_key("sort")) {
            true => Err(Reject::because("node(s) whose only place is taken")),
            false => Ok(()),
        }
    }

    fn post_filter(&self, cycle: &Cycle<'_>, refusals: &Refusals) -> Option<Preemption> {
        if !Self::is(cycle.pod) {
            return None;
        }
        let (at, _) = refusals
            .by_node
            .iter()
            .find(|(at, _)| cycle.snapshot.pods[*at].iter().all(|pod| !Self::is(pod)))?;
        let taken = cycle.snapshot.pods[*at].iter().filter(|pod| pod.labels().contains_key("sort"));
        Some(Preemption { node: *at, victims: taken.cloned().collect() })
    }
}

struct World {
    cluster: TestCluster,
    _scheduler: RunningOperator,
    pods: Api<Pod>,
}

async fn world(name: &'static str, scheduler: impl Fn() -> Scheduler + Send + Sync + 'static) -> World {
    let cluster = TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(2).start().await;
    let operator = Operator::new(name).with(move |manager| {
        manager.add(scheduler());
    });
    let scheduler = cluster.run_operator(&operator).await;
    let pods = Api::default_namespaced(cluster.client());
    World { cluster, _scheduler: scheduler, pods }
}

impl World {
    async fn create(&self, name: &str, scheduler: &str, label: (&str, &str)) {
        let pod = json!({
            "metadata": {"name": name, "labels": {label.0: label.1}},
            "spec": {"schedulerName": scheduler, "containers": [{"name": "main", "image": "main"}]},
        });
        self.pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    /// The pods that have a node.
    async fn bound(&self) -> String {
        let pods = self.pods.list(&ListParams::default()).await.unwrap();
        let bound = pods.items.into_iter().filter(|pod| pod.spec.as_ref().unwrap().node_name.is_some());
        bound.map(|pod| pod.metadata.name.unwrap()).collect::<Vec<_>>().join(" ")
    }

    /// What a pod is told about why it has no node.
    async fn told(&self, name: &str) -> String {
        let conditions = self.pods.get(name).await.unwrap().status.unwrap().conditions.unwrap_or_default();
        let told = conditions.into_iter().find(|c| c.type_ == "PodScheduled");
        told.map(|c| format!("{} {}", c.reason.unwrap_or_default(), c.message.unwrap_or_default()))
            .unwrap_or_default()
    }

    /// Events about a pod: who, why, what.
    async fn events(&self, name: &str, reason: &str) -> Vec<String> {
        let events = Api::<Event>::default_namespaced(self.cluster.client());
        let events = events.list(&ListParams::default()).await.unwrap();
        let about = |event: &Event| {
            event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name)
                && event.reason.as_deref() == Some(reason)
        };
        let text = |event: Event| {
            format!("{}: {}", event.reporting_controller.unwrap_or_default(), event.note.unwrap_or_default())
        };
        events.items.into_iter().filter(about).map(text).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_gang_goes_together_or_not_at_all() {
    let world = world("gangs", || Scheduler::builder().profile("gangs").plugin(Gang).build().unwrap()).await;
    world.create("a1", "gangs", ("gang", "a")).await;
    world.create("a2", "gangs", ("gang", "a")).await;
    world.create("b1", "gangs", ("gang", "b")).await;
    world.create("other", "default-scheduler", ("gang", "a")).await;
    world.create("nobody", "no-such-scheduler", ("gang", "a")).await;
    world.cluster.advance(10 * SECOND).await;
    assert_eq!(world.bound().await, "other", "the others wait for permission");
    world.create("a3", "gangs", ("gang", "a")).await;
    world.cluster.advance(5 * SECOND).await;
    assert_eq!(world.bound().await, "a1 a2 a3 other");
    assert!(
        world.events("a1", "Scheduled").await[0].starts_with("gangs: Successfully assigned default/a1 to ")
    );
    assert!(world.events("other", "Scheduled").await[0].starts_with("default-scheduler: "));

    world.cluster.advance(50 * SECOND).await;
    let why = "0/1 nodes are available: 1 rejected due to timeout after waiting 60s at plugin Gang.";
    assert_eq!(world.told("b1").await, format!("Unschedulable {why}"));
    assert_eq!(world.events("b1", "FailedScheduling").await, [format!("gangs: {why}")]);
    // Whom it waited for come, and it is tried again.
    world.create("b2", "gangs", ("gang", "b")).await;
    world.create("b3", "gangs", ("gang", "b")).await;
    world.cluster.advance(30 * SECOND).await;
    assert_eq!(world.bound().await, "a1 a2 a3 b1 b2 b3 other");
}

#[tokio::test(start_paused = true)]
async fn what_was_reserved_is_given_back_when_binding_fails() {
    let reserved = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&reserved);
    let scheduler = move || {
        let notes = Notes { reserved: Arc::clone(&shared), tries: AtomicUsize::new(0) };
        Scheduler::builder().profile("notes").plugin(notes).build().unwrap()
    };
    let world = world("notes", scheduler).await;
    world.create("first", "notes", ("one-at-a-time", "")).await;
    world.cluster.advance(Duration::from_millis(500)).await;
    let why = "running PreBind plugin \"Notes\": the ink is dry";
    assert_eq!(world.told("first").await, format!("SchedulerError {why}"));
    assert_eq!(world.events("first", "FailedScheduling").await, [format!("notes: {why}")]);
    assert_eq!(reserved.load(Ordering::Relaxed), 0);

    world.cluster.advance(5 * SECOND).await;
    assert_eq!(world.bound().await, "first");
    let maps = Api::<ConfigMap>::default_namespaced(world.cluster.client());
    let node = world.pods.get("first").await.unwrap().spec.unwrap().node_name;
    assert_eq!(maps.get("first").await.unwrap().data.unwrap().get("node").cloned(), node);

    // One is on its way, and so the next is not let in before it has gone.
    world.create("second", "notes", ("one-at-a-time", "")).await;
    world.cluster.advance(30 * SECOND).await;
    assert_eq!(world.bound().await, "first");
    assert_eq!(world.told("second").await, "", "as with upstream");
    reserved.store(0, Ordering::Relaxed);
    world.pods.delete("first", &DeleteParams::default().grace_period(0)).await.unwrap();
    world.cluster.advance(5 * SECOND).await;
    assert_eq!(world.bound().await, "second");

    world.create("kept-out", "notes", ("never", "")).await;
    world.cluster.advance(5 * SECOND).await;
    let why = "0/1 nodes are available: 1 node(s) that are kept for others.";
    assert_eq!(world.told("kept-out").await, format!("Unschedulable {why}"));
    assert_eq!(world.bound().await, "second");
}

/// A scheduler in place of the cluster's own, and what it counts.
fn instead(cluster: &TestCluster, scheduler: Scheduler) -> (Metrics, JoinHandle<()>) {
    let client = cluster.component("scheduler", Identity::new("system:kube-scheduler", &[]));
    let mut manager = Manager::seeded(client, Source::seeded(1));
    manager.add(scheduler);
    let manager = manager.build();
    let metrics = manager.metrics().clone();
    let task = tokio::spawn(async move { manager.run(std::future::pending()).await.unwrap() });
    (metrics, task)
}

#[tokio::test(start_paused = true)]
async fn room_is_made_and_the_queue_is_sorted_as_the_plugin_says() {
    let cluster = TestCluster::builder().controllers(&["*"]).hollow_nodes(1).start().await;
    let pods = Api::<Pod>::default_namespaced(cluster.client());
    let create = async |name: &str, sort: &str| {
        let pod = json!({
            "metadata": {"name": name, "labels": {"sort": sort}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "main"}]},
        });
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    };
    let node = async |name: &str| pods.get_opt(name).await.unwrap()?.spec?.node_name;
    // Whoever the queue begins with has the only place.
    create("cheap-1", "cheap").await;
    create("dear-1", "dear").await;
    let (metrics, task) = instead(&cluster, Scheduler::builder().plugin(Dear).build().unwrap());
    cluster.advance(10 * SECOND).await;
    assert_eq!((node("cheap-1").await, node("dear-1").await), (None, Some("hollow-0".to_owned())));

    let failures: Vec<_> = metrics.failures().into_iter().map(|f| (f.controller, f.key, f.error)).collect();
    let why = "Dear refuses 1 node(s): node(s) whose only place is taken";
    assert_eq!(failures, [("default-scheduler".to_owned(), "default/cheap-1".to_owned(), why.to_owned())]);

    pods.delete("dear-1", &DeleteParams::default().grace_period(0)).await.unwrap();
    cluster.advance(10 * SECOND).await;
    assert!(node("cheap-1").await.is_some());
    create("dear-2", "dear").await;
    cluster.advance(30 * SECOND).await;
    assert!(pods.get_opt("cheap-1").await.unwrap().is_none(), "it had to go");
    assert!(node("dear-2").await.is_some());

    assert_eq!(metrics.failures(), []);
    let text = metrics.render();
    for line in [
        "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 3",
        "scheduler_pending_pods{queue=\"unschedulable\"} 0",
        "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"PostFilter\",profile=\"default-scheduler\",status=\"Success\"} 1",
        "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Bind\",profile=\"default-scheduler\",status=\"Success\"} 3",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    task.abort();
}
