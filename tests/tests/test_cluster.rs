//! `TestCluster` as its users see it: forks, faults one by one, programs in pods, waiting, exploring.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        coordination::v1::Lease,
        core::v1::{ConfigMap, Node, Pod},
    },
    apimachinery::pkg::api::resource::Quantity,
    jiff::SignedDuration,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Explorer, Fault, Faults, Identity, Process, explore},
};
use serde_json::json;
use windlass::{CancellationToken, Informers, Scope, clock, random::Source};

const MINUTE: Duration = Duration::from_secs(60);

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "value": value } })).unwrap()
}

fn maps(client: Client) -> Api<ConfigMap> {
    Api::default_namespaced(client)
}

async fn put(client: Client, name: &str, value: &str) {
    let apply = PatchParams::apply("test").force();
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "value": value },
    });
    maps(client).patch(name, &apply, &Patch::Apply(map)).await.unwrap();
}

async fn value(client: Client, name: &str) -> Option<String> {
    maps(client).get_opt(name).await.unwrap()?.data?.remove("value")
}

fn deployment(replicas: i32, pod: serde_json::Value) -> Deployment {
    let labels = json!({ "app": "db" });
    serde_json::from_value(json!({
        "metadata": { "name": "db" },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    }))
    .unwrap()
}

async fn with_database(program: impl AsyncFn(&TestCluster)) -> TestCluster {
    let cluster = TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(2).start().await;
    program(&cluster).await;
    let probe = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
    let containers = json!([{ "name": "db", "image": "db", "readinessProbe": probe }]);
    let wanted = deployment(2, json!({ "containers": containers, "terminationGracePeriodSeconds": 5 }));
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
    deployments.create(&PostParams::default(), &wanted).await.unwrap();
    cluster
}

async fn ready(cluster: &TestCluster) -> i32 {
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
    deployments.get("db").await.unwrap().status.and_then(|s| s.ready_replicas).unwrap_or(0)
}

async fn pods(cluster: &TestCluster) -> Vec<Pod> {
    Api::<Pod>::default_namespaced(cluster.client()).list(&ListParams::default()).await.unwrap().items
}

#[tokio::test(start_paused = true)]
async fn forks_share_a_past_and_no_future() {
    let cluster = TestCluster::start().await;
    put(cluster.client(), "a", "before").await;
    let fork = cluster.fork().await;
    put(fork.client(), "a", "of the fork").await;
    put(cluster.client(), "b", "of the first").await;

    assert_eq!(value(cluster.client(), "a").await.as_deref(), Some("before"));
    assert_eq!(value(fork.client(), "a").await.as_deref(), Some("of the fork"));
    assert_eq!(value(fork.client(), "b").await, None);
    let first = maps(cluster.client()).get("b").await.unwrap();
    let second = maps(fork.client()).create(&PostParams::default(), &config_map("c", "")).await.unwrap();
    assert_ne!(first.metadata.uid, second.metadata.uid, "a fork draws numbers of its own");
}

#[tokio::test(start_paused = true)]
async fn a_fork_goes_on_with_its_pods_and_controllers() {
    let cluster = with_database(async |_| {}).await;
    cluster.eventually("two pods", MINUTE, async || (ready(&cluster).await == 2).then_some(())).await;
    assert!(cluster.settle().await);
    let fork = cluster.fork().await;
    assert!(fork.settle().await);
    let restarts =
        |pod: &Pod| pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count;
    let before = pods(&fork).await;
    assert_eq!(before.iter().map(restarts).sum::<i32>(), 0, "containers were found running");

    let gone = before[0].metadata.name.clone().unwrap();
    Api::<Pod>::default_namespaced(fork.client()).delete(&gone, &DeleteParams::default()).await.unwrap();
    fork.eventually("a pod in its place", MINUTE, async || {
        let pods = pods(&fork).await;
        (ready(&fork).await == 2 && pods.iter().all(|p| p.metadata.name.as_ref() != Some(&gone)))
            .then_some(())
    })
    .await;
    assert!(pods(&cluster).await.iter().any(|p| p.metadata.name.as_ref() == Some(&gone)));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_has_many_futures_and_each_replays() {
    let cluster = with_database(async |_| {}).await;
    cluster.eventually("two pods", MINUTE, async || (ready(&cluster).await == 2).then_some(())).await;
    assert!(cluster.settle().await);
    let snapshot = cluster.snapshot();
    drop(cluster);
    // A future on a runtime of its own, as a test of its own would have it.
    let future = |seed: u64| {
        let snapshot = snapshot.clone().seed(seed);
        let run = move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_time().start_paused(true).build().unwrap().block_on(async {
                let cluster = snapshot.start().await;
                let first = pods(&cluster).await[0].metadata.name.clone().unwrap();
                let pods: Api<Pod> = Api::default_namespaced(cluster.client());
                pods.delete(&first, &DeleteParams::default()).await.unwrap();
                cluster.advance(MINUTE).await;
                cluster.transcript().iter().map(ToString::to_string).collect::<Vec<_>>()
            })
        };
        std::thread::spawn(run).join().unwrap()
    };
    assert_eq!(future(1), future(1));
    assert_ne!(future(1), future(2));
}

#[tokio::test(start_paused = true)]
async fn programs_log_become_ready_restart_and_stop() {
    let cluster = with_database(async |cluster| {
        cluster.pods("app=db").run(|process: Process| async move {
            process.set_ready(false);
            process.log(format!("start {}", process.restarts()));
            tokio::time::sleep(Duration::from_secs(20)).await;
            if process.restarts() == 0 {
                return 3;
            }
            process.set_ready(true);
            process.stopped().await;
            process.log("flushed");
            0
        });
    })
    .await;
    cluster.stays("no pod is ready", Duration::from_secs(25), async || ready(&cluster).await == 0).await;
    cluster.eventually("two pods", MINUTE, async || (ready(&cluster).await == 2).then_some(())).await;
    let pod = pods(&cluster).await.remove(0);
    let name = pod.metadata.name.unwrap();
    let status = pod.status.unwrap().container_statuses.unwrap().remove(0);
    assert_eq!(status.restart_count, 1);
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 3);
    assert_eq!(cluster.log("default", &name, "db").as_deref(), Some("start 1\n"));
    let api: Api<Pod> = Api::default_namespaced(cluster.client());
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("the pod is gone", MINUTE, async || {
            api.get_opt(&name).await.unwrap().is_none().then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_fork_do_what_the_fork_tells_them() {
    let first = TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(2).start().await;
    let sick = |process: Process| async move {
        process.set_ready(false);
        process.stopped().await;
        0
    };
    first.pods("app=cache").run(sick);
    assert!(first.settle().await);
    let fork = first.fork().await;
    fork.pods("app=db").run(sick);
    for cluster in [&fork, &first] {
        let api: Api<Deployment> = Api::default_namespaced(cluster.client());
        let probe = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
        let pod = json!({ "containers": [{ "name": "db", "image": "db", "readinessProbe": probe }] });
        api.create(&PostParams::default(), &deployment(2, pod)).await.unwrap();
    }
    first.eventually("two pods", MINUTE, async || (ready(&first).await == 2).then_some(())).await;
    fork.stays("no pod is ready", MINUTE, async || ready(&fork).await == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_backs_off_for_hours_in_no_time() {
    let starts = Arc::new(AtomicU32::new(0));
    let cluster = with_database(async |cluster| {
        let starts = Arc::clone(&starts);
        cluster.pods("app=db").container("db").run(move |_| {
            starts.fetch_add(1, Ordering::Relaxed);
            async { 1 }
        });
    })
    .await;
    cluster.advance(Duration::from_hours(2)).await;
    let per_pod = starts.load(Ordering::Relaxed) / 2;
    // 10 s, doubled up to 5 min: 6 starts in the first 5 minutes, then one every 5 minutes.
    assert!((25..=32).contains(&per_pod), "{per_pod} starts");
    let waiting = pods(&cluster).await.remove(0).status.unwrap().container_statuses.unwrap().remove(0);
    assert_eq!(waiting.state.unwrap().waiting.unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
}

#[tokio::test(start_paused = true)]
async fn nodes_come_go_and_return() {
    let mut cluster = TestCluster::builder().controllers(&["*"]).hollow_nodes(1).start().await;
    let nodes: Api<Node> = Api::all(cluster.client());
    let is_ready = async |name: &str| {
        let status = nodes.get_opt(name).await.unwrap()?.status?;
        let condition = status.conditions?.into_iter().find(|c| c.type_ == "Ready")?;
        Some(condition.status)
    };
    let second = cluster.add_node();
    assert_eq!(second, "hollow-1");
    cluster.eventually("it is ready", MINUTE, async || is_ready(&second).await.filter(|s| s == "True")).await;
    cluster.lose_node(&second);
    cluster
        .eventually("it is lost", MINUTE, async || is_ready(&second).await.filter(|s| s == "Unknown"))
        .await;
    cluster.return_node(&second, true);
    cluster.eventually("it is back", MINUTE, async || is_ready(&second).await.filter(|s| s == "True")).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_lies_about_its_pods_and_about_itself() {
    let cluster = with_database(async |cluster| {
        cluster.pods("app=db").run(|process: Process| async move {
            process.set_ready(false);
            process.stopped().await;
            0
        });
        for node in ["hollow-0", "hollow-1"] {
            cluster.lies(node).about_pods(|_, status| {
                let ready = status.conditions.iter_mut().flatten().filter(|c| c.type_ == "Ready");
                ready.for_each(|condition| condition.status = "True".to_owned());
            });
        }
        cluster.lies("hollow-1").about_node(|status| {
            let allocatable = status.allocatable.get_or_insert_default();
            allocatable.insert("cpu".to_owned(), Quantity("1000".to_owned()));
        });
    })
    .await;
    cluster
        .eventually("what only seems ready", MINUTE, async || (ready(&cluster).await == 2).then_some(()))
        .await;
    let container = pods(&cluster).await[0].clone().status.unwrap().container_statuses.unwrap().remove(0);
    assert!(!container.ready, "of containers it speaks the truth");
    let nodes: Api<Node> = Api::all(cluster.client());
    let cpu = async || Some(nodes.get("hollow-1").await.unwrap().status?.allocatable?.remove("cpu")?.0);
    cluster.eventually("a boast", MINUTE, async || cpu().await.filter(|cpu| cpu == "1k")).await;
    // One lie more would be one write more for ever if somebody fought it.
    assert!(cluster.settle().await);
    cluster.lies("hollow-1").end();
    cluster.eventually("the truth", MINUTE, async || cpu().await.filter(|cpu| cpu == "32")).await;
}

fn component(cluster: &TestCluster) -> Api<ConfigMap> {
    let mut identity = Identity::new("operator", &["system:masters"]);
    identity.uid = "1".to_owned();
    maps(cluster.component("operator", identity))
}

fn code(result: Result<ConfigMap, kube::Error>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(kube::Error::Api(status)) => format!("{} {}", status.code, status.reason),
        Err(_) => "no answer".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn faults_strike_where_and_as_often_as_they_are_told() {
    let cluster = TestCluster::start().await;
    put(cluster.client(), "a", "1").await;
    let maps = component(&cluster);
    let create = async |name: &str| code(maps.create(&PostParams::default(), &config_map(name, "")).await);

    let conflict = cluster.inject(Fault::conflict().verb("create").resource("configmaps").after(1).times(1));
    assert_eq!([create("b").await, create("c").await, create("c").await], ["done", "409 Conflict", "done"]);
    assert_eq!(conflict.hits(), 1);
    assert_eq!(code(maps.get("a").await), "done", "reads are not meant");

    let lost = cluster.inject(Fault::lost_answer().verb("create").times(1));
    assert_eq!([create("d").await, create("d").await], ["500 InternalError", "409 AlreadyExists"]);
    assert_eq!(lost.hits(), 1);

    for (fault, seen) in [
        (Fault::error(), "500 InternalError"),
        (Fault::expired(), "410 Expired"),
        (Fault::cut(), "no answer"),
        (Fault::silence(MINUTE), "no answer"),
    ] {
        let injected = cluster.inject(fault.named("a").of("operator"));
        assert_eq!(code(maps.get("a").await), seen);
        injected.lift();
        assert_eq!(code(maps.get("a").await), "done");
    }
    let start = tokio::time::Instant::now();
    let _slow = cluster.inject(Fault::delay(Duration::from_secs(3)).verb("get"));
    assert_eq!(code(maps.get("a").await), "done");
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    let journal: Vec<String> = cluster.journal().iter().map(ToString::to_string).collect();
    let asked =
        |line: &&String| line.ends_with("operator: create /api/v1/namespaces/default/configmaps? -> 201");
    assert_eq!(journal.iter().filter(asked).count(), 3, "{journal:#?}");
}

#[tokio::test(start_paused = true)]
async fn stale_reads_show_the_past() {
    let cluster = TestCluster::start().await;
    put(cluster.client(), "a", "old").await;
    let stale = cluster.inject(Fault::stale().resource("configmaps"));
    put(cluster.client(), "a", "new").await;
    let maps = component(&cluster);
    let seen = async || maps.get("a").await.unwrap().data.unwrap().remove("value").unwrap();
    assert_eq!(seen().await, "old");
    let all = maps.list(&ListParams::default()).await.unwrap().items;
    assert!(
        all.iter()
            .all(|map| map.data.as_ref().is_none_or(|data| data.get("value").is_none_or(|v| v == "old")))
    );
    stale.lift();
    assert_eq!(seen().await, "new");
}

#[tokio::test(start_paused = true)]
async fn informers_live_through_slow_and_dropped_watches_and_a_restart() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.component("operator", Identity::system());
    let informers = Informers::seeded(client, Source::seeded(1));
    let informer = informers.get::<ConfigMap>(Scope::default());
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    informer.synced().await;
    let lister = informer.lister();
    let sees = async |cluster: &TestCluster, wanted: &str, within: Duration| {
        let key = windlass::Key::new(Some("default"), "a");
        let seen = || lister.get(&key).and_then(|map| map.data.as_ref()?.get("value").cloned());
        cluster.eventually(wanted, within, async || (seen().as_deref() == Some(wanted)).then_some(())).await;
    };
    put(cluster.client(), "a", "1").await;
    sees(&cluster, "1", Duration::from_secs(1)).await;
    assert!(cluster.drop_watches("configmaps") >= 1);
    put(cluster.client(), "a", "2").await;
    sees(&cluster, "2", MINUTE).await;

    cluster.restart_api_server(Duration::from_secs(30)).await;
    put(cluster.client(), "a", "3").await;
    sees(&cluster, "3", MINUTE).await;

    let slow = cluster.inject(Fault::slow_watch(Duration::from_secs(20)).resource("configmaps"));
    cluster.drop_watches("*");
    cluster.advance(MINUTE).await;
    let written = tokio::time::Instant::now();
    put(cluster.client(), "a", "4").await;
    sees(&cluster, "4", MINUTE).await;
    assert!(written.elapsed() >= Duration::from_secs(20), "{:?}", written.elapsed());
    assert!(slow.hits() >= 1);
}

#[tokio::test(start_paused = true)]
async fn the_wall_clock_jumps_and_time_goes_on() {
    let cluster = TestCluster::start().await;
    let (before, passed) = (clock::now(), tokio::time::Instant::now());
    cluster.jump_clock(SignedDuration::from_hours(-1));
    assert_eq!(clock::now().duration_since(before), SignedDuration::from_hours(-1));
    assert_eq!(passed.elapsed(), Duration::ZERO);
    let made = maps(cluster.client()).create(&PostParams::default(), &config_map("a", "")).await.unwrap();
    assert!(made.metadata.creation_timestamp.unwrap().0 < before);
}

#[tokio::test(start_paused = true)]
async fn waiting_checks_after_every_write_and_says_what_happened() {
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    let writer = tokio::spawn(async move {
        for i in 0..5 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            put(client.clone(), "a", &i.to_string()).await;
        }
    });
    let mut looks = 0;
    cluster
        .eventually("the last value", MINUTE, async || {
            looks += 1;
            value(cluster.client(), "a").await.filter(|value| value == "4")
        })
        .await;
    writer.await.unwrap();
    assert!(looks <= 7, "{looks} looks: somebody polls");
    let never =
        cluster.never("a fifth", MINUTE, async || value(cluster.client(), "a").await.as_deref() == Some("5"));
    never.await;

    let waiting = cluster.eventually("a miracle", MINUTE, async || None::<()>);
    let panicked = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(waiting)).await.unwrap_err();
    let said = panicked.downcast_ref::<String>().unwrap();
    assert!(said.contains("a miracle: not within 60s"), "{said}");
    assert!(said.contains("/registry/configmaps/default/a"), "{said}");
}

#[tokio::test]
async fn programs_of_any_language_come_in_by_https() {
    let cluster = TestCluster::start().await;
    put(cluster.client(), "a", "1").await;
    let listening = cluster.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let file = kube::config::Kubeconfig::from_yaml(listening.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
    assert_eq!(value(Client::try_from(config).unwrap(), "a").await.as_deref(), Some("1"));
}

/// Two replicas of a counter, which add to a number in turn. The buggy one takes what it read for the newest.
async fn count(cluster: &mut TestCluster, careful: bool) {
    put(cluster.client(), "counter", "0").await;
    let add = async |name: &str| {
        let maps = maps(cluster.component(name, Identity::system()));
        loop {
            let Ok(mut map) = maps.get("counter").await else { continue };
            let data = map.data.get_or_insert_default();
            let old: u32 = data["value"].parse().unwrap();
            data.insert("value".to_owned(), (old + 1).to_string());
            if !careful {
                map.metadata.resource_version = None;
            }
            match maps.replace("counter", &PostParams::default(), &map).await {
                Ok(_) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    futures::join!(add("one"), add("two"));
    assert_eq!(value(cluster.client(), "counter").await.as_deref(), Some("2"));
}

fn slow_lines(seed: u64) -> Faults {
    let delay = Duration::from_millis(Source::seeded(seed).below(50));
    Faults { delay, conflicts: 0.1, ..Faults::default() }
}

#[test]
fn exploring_finds_a_planted_bug_and_none_in_the_clean_one() {
    let explorer = Explorer::new(1..=200).faults(slow_lines);
    explorer.clone().run(TestCluster::builder, async |cluster| count(cluster, true).await);
    let buggy = || explorer.clone().run(TestCluster::builder, async |cluster| count(cluster, false).await);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(buggy)).unwrap_err();
    let report = panicked.downcast_ref::<String>().unwrap();
    assert!(report.contains("WINDLASS_SEED="), "{report}");
    assert!(report.contains("exploring_finds_a_planted_bug"), "{report}");
    assert!(report.contains("conflicts: 0.0"), "conflicts are not needed for this bug: {report}");
}

#[test]
fn exploring_draws_faults_of_its_own() {
    explore(1..=20, TestCluster::builder, async |cluster| {
        assert!(cluster.settle().await);
        let leases: Api<Lease> = Api::all(cluster.component("reader", Identity::system()));
        leases.list(&ListParams::default()).await.unwrap();
    });
    let drawn: Vec<Faults> = (1..=20).map(Faults::drawn).collect();
    assert!(drawn.iter().any(|f| f.conflicts > 0.0) && drawn.iter().any(|f| f.conflicts == 0.0));
}
