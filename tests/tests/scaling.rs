//! Replicas that share keys, on a whole cluster in memory: each key has one owner at a time, whoever is killed, added or
//! cut off, and no change is lost.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Explorer, Fault, Faults, Identity, explore},
};
use serde_json::json;
use tokio::task::JoinHandle;
use windlass::{
    Action, Controller, Error, Metrics, Operator, Reconcile, Request, Shards, Verbs, random::Source,
};

const OBJECTS: usize = 24;

/// Who works on what, what was done last to each, and what should never happen.
#[derive(Default)]
struct Journal {
    now: Mutex<BTreeMap<String, String>>,
    done: Mutex<BTreeMap<String, (String, String)>>,
    wrong: Mutex<Vec<String>>,
}

/// A key that somebody works on.
struct Working<'a>(&'a Journal, String, String);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut now = self.0.now.lock().unwrap();
        if now.get(&self.1) == Some(&self.2) {
            now.remove(&self.1);
        }
    }
}

impl Journal {
    fn begin(&self, who: &str, key: &str) -> Working<'_> {
        if let Some(other) = self.now.lock().unwrap().insert(key.to_owned(), who.to_owned()) {
            self.wrong.lock().unwrap().push(format!("{who} and {other} work on {key} at once"));
        }
        Working(self, key.to_owned(), who.to_owned())
    }

    fn owners(&self) -> Vec<String> {
        let mut owners: Vec<String> =
            self.done.lock().unwrap().values().map(|(who, _)| who.clone()).collect();
        owners.sort();
        owners.dedup();
        owners
    }
}

/// Writes what it found into an annotation, in two seconds.
struct Scribe {
    who: String,
    journal: Arc<Journal>,
}

impl Reconcile<ConfigMap> for Scribe {
    async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
        let Some(map) = request.object.filter(|_| request.key.namespace() == Some("default")) else {
            return Ok(Action::Done);
        };
        let Some(text) = map.data.as_ref().and_then(|data| data.get("text")).cloned() else {
            return Ok(Action::Done);
        };
        let working = self.journal.begin(&self.who, request.key.as_str());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { "seen": text } } }));
        let written = request.client.patch::<ConfigMap>(&request.key, &patch).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(working);
        written?;
        self.journal.done.lock().unwrap().insert(request.key.to_string(), (self.who.clone(), text));
        Ok(Action::Done)
    }
}

fn operator(who: &str, journal: &Arc<Journal>) -> Operator {
    let (who, journal) = (who.to_owned(), journal.clone());
    Operator::new("scribes").with(move |manager| {
        let shards = Shards::of(manager, "scribes");
        let scribe = Scribe { who: who.clone(), journal: journal.clone() };
        let controller = Controller::<ConfigMap>::new("scribes").workers(20).may::<ConfigMap>(Verbs::PATCH);
        manager.add(controller.sharded(&shards).build(scribe));
    })
}

struct Replica {
    task: JoinHandle<()>,
    metrics: Metrics,
}

/// Starts a replica with the derived rights, or as a user of its own that may be cut off.
fn start(cluster: &TestCluster, who: &str, identity: Identity, journal: &Arc<Journal>) -> Replica {
    let random = Source::seeded(cluster.seed()).fork(who);
    let manager = operator(who, journal).manager_at(cluster.component(who, identity), random, "default", who);
    let metrics = manager.metrics().clone();
    let task = tokio::spawn(async move {
        let _ = manager.build().run(std::future::pending()).await;
    });
    Replica { task, metrics }
}

async fn replica(cluster: &TestCluster, who: &str, journal: &Arc<Journal>) -> Replica {
    let description = operator(who, journal).description();
    description.install(&cluster.client(), "default").await.unwrap();
    let account = Identity::new(description.user("default"), &["system:serviceaccounts"]);
    start(cluster, who, account, journal)
}

fn free(cluster: &TestCluster, who: &str, journal: &Arc<Journal>) -> Replica {
    start(cluster, who, Identity::new(who, &["system:masters"]), journal)
}

async fn write(cluster: &TestCluster, text: &str) {
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    for n in 0..OBJECTS {
        let (name, params) = (format!("page-{n}"), PatchParams::apply("author").force());
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "text": text },
        });
        maps.patch(&name, &params, &Patch::Apply(map)).await.unwrap();
    }
}

/// Every page is done, by somebody, as it was written last; and nothing was ever done by two at once.
async fn check(cluster: &TestCluster, journal: &Journal, text: &str) {
    let wrong = journal.wrong.lock().unwrap().clone();
    assert!(wrong.is_empty(), "{wrong:?}");
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    for map in maps.list(&ListParams::default()).await.unwrap() {
        if !map.data.as_ref().is_some_and(|data| data.contains_key("text")) {
            continue;
        }
        let name = map.metadata.name.unwrap();
        let seen = map.metadata.annotations.and_then(|notes| notes.get("seen").cloned());
        assert_eq!(seen.as_deref(), Some(text), "{name} was lost");
    }
    let done = journal.done.lock().unwrap();
    assert_eq!(done.values().filter(|(_, done)| done == text).count(), OBJECTS);
}

#[tokio::test(start_paused = true)]
async fn one_is_killed_one_is_added_and_one_is_cut_off_for_an_hour() {
    let (cluster, journal) = (TestCluster::start().await, Arc::<Journal>::default());
    let replicas = ["a", "b", "c"].map(|who| free(&cluster, who, &journal));
    write(&cluster, "first").await;
    cluster.advance(Duration::from_secs(40)).await;
    check(&cluster, &journal, "first").await;
    assert!(replicas[2].metrics.render().contains("windlass_shard_members{group=\"scribes\"} 3"));

    replicas[0].task.abort();
    write(&cluster, "second").await;
    cluster.advance(Duration::from_secs(40)).await;
    check(&cluster, &journal, "second").await;
    assert_eq!(journal.owners(), ["b", "c"]);

    let _d = free(&cluster, "d", &journal);
    cluster.advance(Duration::from_secs(20)).await;
    write(&cluster, "third").await;
    cluster.advance(Duration::from_secs(20)).await;
    check(&cluster, &journal, "third").await;
    assert_eq!(journal.owners(), ["b", "c", "d"]);

    let cut = cluster.inject(Fault::cut().of("b"));
    cluster.drop_watches("*");
    write(&cluster, "fourth").await;
    cluster.advance(Duration::from_secs(3600)).await;
    check(&cluster, &journal, "fourth").await;
    assert_eq!(journal.owners(), ["c", "d"]);
    assert!(replicas[1].metrics.render().contains("windlass_shard_members{group=\"scribes\"} 0"));

    cut.lift();
    cluster.advance(Duration::from_secs(120)).await;
    write(&cluster, "fifth").await;
    cluster.advance(Duration::from_secs(30)).await;
    check(&cluster, &journal, "fifth").await;
    assert_eq!(journal.owners(), ["b", "c", "d"]);
}

#[test]
fn derived_rights_are_enough_and_no_key_has_two_owners_under_any_seed() {
    explore(1..=12, TestCluster::builder, async |cluster| {
        let journal = Arc::<Journal>::default();
        let random = Source::seeded(cluster.seed()).fork("story");
        let some = |most: u64| Duration::from_millis(random.below(most));
        let a = replica(cluster, "a", &journal).await;
        let _b = replica(cluster, "b", &journal).await;
        write(cluster, "first").await;
        cluster.advance(some(40_000)).await;
        let c = replica(cluster, "c", &journal).await;
        write(cluster, "second").await;
        cluster.advance(some(20_000)).await;
        a.task.abort();
        cluster.advance(some(5_000)).await;
        write(cluster, "third").await;
        let _d = replica(cluster, "d", &journal).await;
        cluster.advance(some(20_000)).await;
        c.task.abort();
        write(cluster, "fourth").await;
        cluster.advance(Duration::from_secs(300)).await;
        check(cluster, &journal, "fourth").await;
        assert_eq!(journal.owners(), ["b", "d"]);
    });
}

#[test]
fn a_line_that_comes_and_goes_makes_nobody_work_twice() {
    let only_delay = |seed| Faults { delay: Faults::drawn(seed).delay, ..Faults::default() };
    Explorer::new(1..=10).faults(only_delay).run(TestCluster::builder, async |cluster| {
        let journal = Arc::<Journal>::default();
        let random = Source::seeded(cluster.seed()).fork("story");
        let _replicas = ["a", "b", "c"].map(|who| free(cluster, who, &journal));
        for round in 0..6 {
            write(cluster, &format!("round {round}")).await;
            let victim = ["a", "b", "c"][usize::try_from(random.below(3)).unwrap()];
            let cut = cluster.inject(Fault::cut().of(victim));
            if random.below(2) == 0 {
                cluster.drop_watches("*");
            }
            cluster.advance(Duration::from_millis(random.below(40_000))).await;
            cut.lift();
            cluster.advance(Duration::from_millis(random.below(10_000))).await;
        }
        write(cluster, "last").await;
        cluster.advance(Duration::from_secs(300)).await;
        check(cluster, &journal, "last").await;
    });
}
