//! Replicas that share keys: each key has one owner, whoever comes, goes, or cannot be reached.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};
use windlass::{
    Action, Controller, Error, Lease, Manager, Metrics, Reconcile, Request, ShardBy, Shards, random::Source,
};

use crate::fake::Fake;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

/// Who reconciles what, and what was reconciled.
#[derive(Default)]
struct Journal {
    now: Mutex<BTreeMap<String, String>>,
    done: Mutex<Vec<(String, String, bool)>>,
}

/// A key that somebody works on.
struct Working<'a>(&'a Journal, String);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.now.lock().unwrap().remove(&self.1);
    }
}

impl Journal {
    fn begin(&self, who: &str, key: &str) -> Working<'_> {
        let other = self.now.lock().unwrap().insert(key.to_owned(), who.to_owned());
        assert_eq!(other, None, "{who} and another reconcile {key} at once");
        Working(self, key.to_owned())
    }

    /// Who reconciled a key last.
    fn owner(&self, key: &str) -> Option<String> {
        let done = self.done.lock().unwrap();
        done.iter().rev().find(|(_, done, _)| done == key).map(|(who, ..)| who.clone())
    }

    fn forget(&self) -> Vec<(String, String, bool)> {
        std::mem::take(&mut self.done.lock().unwrap())
    }
}

/// Takes a second for each object.
struct Slow {
    who: String,
    journal: Arc<Journal>,
}

impl Reconcile<ConfigMap> for Slow {
    async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
        let working = self.journal.begin(&self.who, request.key.as_str());
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(working);
        let done = (self.who.clone(), request.key.to_string(), request.object.is_some());
        self.journal.done.lock().unwrap().push(done);
        Ok(Action::Done)
    }
}

struct Replica {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    metrics: Metrics,
}

fn replica(fake: &Fake, who: &str, journal: &Arc<Journal>, by: ShardBy) -> Replica {
    let seed = who.bytes().map(u64::from).sum();
    let mut manager = Manager::seeded(fake.client(), Source::seeded(seed));
    let shards = Shards::new(Lease::new("default", "maps", who));
    let slow = Slow { who: who.to_owned(), journal: journal.clone() };
    manager.add(Controller::<ConfigMap>::new("maps").workers(50).sharded_by(&shards, by).build(slow));
    let metrics = manager.metrics().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let _ = manager.build().run(async { drop(stopped.await) }).await;
    });
    Replica { stop: Some(stop), task, metrics }
}

fn create(fake: &Fake, count: usize) {
    for n in 0..count {
        fake.put(&format!("{MAPS}/map-{n}"), json!({"data": {"n": n.to_string()}}));
    }
}

fn shares(journal: &Journal) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for (who, ..) in journal.forget() {
        *shares.entry(who).or_default() += 1;
    }
    shares
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn three_replicas_share_the_keys_and_each_is_reconciled_once() {
    let (fake, journal) = (Fake::new(), Arc::<Journal>::default());
    create(&fake, 90);
    let replicas = ["a", "b", "c"].map(|who| replica(&fake, who, &journal, ShardBy::Key));
    seconds(60).await;
    create(&fake, 90);
    journal.forget();
    create(&fake, 90);
    seconds(10).await;
    let shares = shares(&journal);
    assert_eq!(shares.len(), 3, "{shares:?}");
    assert!(shares.values().all(|count| *count >= 15), "{shares:?}");
    let text = replicas[0].metrics.render();
    assert!(text.contains("windlass_shard_members{group=\"maps\"} 3"), "{text}");
    let keys: i64 = replicas
        .iter()
        .map(|replica| {
            let text = replica.metrics.render();
            let line = text.lines().find(|line| line.starts_with("windlass_shard_keys{")).unwrap();
            line.rsplit(' ').next().unwrap().parse::<i64>().unwrap()
        })
        .sum();
    assert_eq!(keys, 90);
}

#[tokio::test(start_paused = true)]
async fn a_dead_replica_is_replaced_after_its_lease_and_a_leaving_one_at_once() {
    let (fake, journal) = (Fake::new(), Arc::<Journal>::default());
    create(&fake, 60);
    let mut replicas = ["a", "b", "c"].map(|who| replica(&fake, who, &journal, ShardBy::Key));
    seconds(60).await;

    replicas[0].task.abort();
    journal.forget();
    seconds(10).await;
    assert_eq!(journal.forget(), [], "nobody may be sure yet");
    seconds(15).await;
    let moved = shares(&journal);
    assert!(!moved.contains_key("a") && moved.values().sum::<usize>() >= 10, "{moved:?}");

    drop(replicas[1].stop.take());
    seconds(8).await;
    let moved = shares(&journal);
    assert_eq!(moved.keys().collect::<Vec<_>>(), ["c"]);
    create(&fake, 60);
    seconds(5).await;
    assert_eq!(shares(&journal), [("c".to_owned(), 60)].into());
    let left: Vec<Value> = fake.all(LEASES);
    assert_eq!(left.len(), 2, "the roster and one member");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_waits_for_what_is_under_way() {
    let (fake, journal) = (Fake::new(), Arc::<Journal>::default());
    create(&fake, 60);
    let _a = replica(&fake, "a", &journal, ShardBy::Key);
    seconds(30).await;
    journal.forget();
    // All fifty are under way when the roster changes.
    create(&fake, 50);
    let _b = replica(&fake, "b", &journal, ShardBy::Key);
    seconds(10).await;
    let done = journal.forget();
    let by_b = done.iter().filter(|(who, ..)| who == "b").count();
    assert!(by_b >= 10 && done.len() == 50 + by_b, "{by_b} of {}", done.len());
}

#[tokio::test(start_paused = true)]
async fn a_delete_between_two_owners_is_not_lost() {
    for moment in 0..40 {
        let (fake, journal) = (Fake::new(), Arc::<Journal>::default());
        create(&fake, 20);
        let _a = replica(&fake, "a", &journal, ShardBy::Key);
        seconds(30).await;
        let _b = replica(&fake, "b", &journal, ShardBy::Key);
        tokio::time::sleep(Duration::from_millis(50 * moment)).await;
        journal.forget();
        (0..20).for_each(|n| fake.remove(&format!("{MAPS}/map-{n}")));
        seconds(15).await;
        let done = journal.forget();
        for n in 0..20 {
            let key = format!("default/map-{n}");
            assert!(done.iter().any(|(_, done, there)| *done == key && !there), "{key} at moment {moment}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_stops_before_others_begin() {
    let (fake, journal) = (Fake::new(), Arc::<Journal>::default());
    create(&fake, 40);
    let _replicas = ["a", "b"].map(|who| replica(&fake, who, &journal, ShardBy::Key));
    seconds(60).await;
    // Nobody can renew for a while.
    fake.fail(Method::PUT, "leases/maps-", 500, 14);
    for _ in 0..60 {
        create(&fake, 40);
        seconds(1).await;
    }
    seconds(60).await;
    journal.forget();
    create(&fake, 40);
    seconds(5).await;
    let shares = shares(&journal);
    assert_eq!((shares.len(), shares.values().sum::<usize>()), (2, 40), "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn objects_of_a_namespace_stay_together_and_uids_move_on() {
    let (fake, journal) = (Fake::new(), Arc::<Journal>::default());
    let all = |fake: &Fake| {
        for (namespace, n) in (0..12).flat_map(|ns| (0..4).map(move |n| (ns, n))) {
            fake.put(&format!("/api/v1/namespaces/ns-{namespace}/configmaps/map-{n}"), json!({}));
        }
    };
    all(&fake);
    let _replicas = ["a", "b"].map(|who| replica(&fake, who, &journal, ShardBy::Namespace));
    seconds(60).await;
    let owner = |namespace, n| journal.owner(&format!("ns-{namespace}/map-{n}"));
    all(&fake);
    seconds(5).await;
    let owners: Vec<_> = (0..12).map(|ns| owner(ns, 0)).collect();
    assert!((0..12).all(|ns| (1..4).all(|n| owner(ns, n) == owners[ns])));
    assert!(owners.contains(&Some("a".into())) && owners.contains(&Some("b".into())), "{owners:?}");

    let (fake, journal) = (Fake::new(), Arc::<Journal>::default());
    create(&fake, 40);
    let _replicas = ["a", "b"].map(|who| replica(&fake, who, &journal, ShardBy::Uid));
    seconds(60).await;
    journal.forget();
    (0..40).for_each(|n| fake.remove(&format!("{MAPS}/map-{n}")));
    seconds(5).await;
    let done = journal.forget();
    assert_eq!(done.len(), 40, "each delete is one replica's");
    assert!(done.iter().all(|(_, _, there)| !there));
}

/// The requests about ConfigMaps that were made, by whether they ask for a shard.
fn asked(fake: &Fake) -> (usize, usize) {
    let log = fake.log();
    let maps = log.iter().filter(|line| line.starts_with("GET /api/v1/configmaps"));
    let (shards, whole): (Vec<&String>, Vec<_>) = maps.partition(|line| line.contains("shardSelector="));
    (shards.len(), whole.len())
}

/// Objects whose uids are as good as drawn.
fn create_drawn(fake: &Fake, count: u64) {
    for n in 0..count {
        let uid = format!("{:016x}", (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        fake.put(&format!("{MAPS}/map-{n}"), json!({"metadata": {"uid": uid}}));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_can_is_asked_for_a_shard_alone() {
    let (fake, journal) = (Fake::new().with_shards(), Arc::<Journal>::default());
    create_drawn(&fake, 90);
    let replicas = ["a", "b", "c"].map(|who| replica(&fake, who, &journal, ShardBy::Uid));
    seconds(60).await;
    let (shards, whole) = asked(&fake);
    assert!(shards >= 6 && whole == 0, "{shards} and {whole}");
    journal.forget();
    create_drawn(&fake, 90);
    seconds(10).await;
    let done = journal.forget();
    assert_eq!(done.len(), 90, "each by one replica, once");
    assert!(done.iter().all(|(_, _, there)| *there));

    replicas[0].task.abort();
    seconds(60).await;
    let moved = journal.forget();
    let there = moved.iter().filter(|(who, _, there)| who != "a" && *there).count();
    assert!(there >= 15 && there == moved.len(), "{moved:?}");
    create_drawn(&fake, 90);
    seconds(10).await;
    let shares = shares(&journal);
    assert_eq!((shares.len(), shares.values().sum::<usize>()), (2, 90), "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_is_asked_once_and_everything_is_sorted_out_here() {
    let (fake, journal) = (Fake::new(), Arc::<Journal>::default());
    create_drawn(&fake, 60);
    let _replicas = ["a", "b"].map(|who| replica(&fake, who, &journal, ShardBy::Uid));
    seconds(200).await;
    let lists = fake.log().iter().filter(|l| l.contains("/configmaps?limit=")).count();
    assert_eq!(lists, 2, "no list anew for each roster");
    journal.forget();
    create_drawn(&fake, 60);
    seconds(10).await;
    let shares = shares(&journal);
    assert_eq!((shares.len(), shares.values().sum::<usize>()), (2, 60), "{shares:?}");
}
