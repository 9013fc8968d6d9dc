//! What a process says of itself in the middle of its work.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::ObjectMeta;
use serde_json::json;
use windlass::{
    Action, Controller, Error, Lease, Manager, Request, Scope, Shards, diagnostics::Doing, random::Source,
};

use crate::{
    controllers::{Each, run},
    fake::Fake,
};

fn cm(name: &str) -> String {
    format!("/api/v1/namespaces/default/configmaps/{name}")
}

async fn seconds(n: u64) {
    tokio::time::sleep(Duration::from_secs(n)).await;
}

/// Does with an object what its name says.
fn actor() -> Each<
    impl Fn(Request<ConfigMap>) -> futures::future::BoxFuture<'static, Result<Action, Error>> + Send + Sync,
> {
    Each(|request: Request<ConfigMap>| -> futures::future::BoxFuture<'static, _> {
        Box::pin(async move {
            match request.key.name() {
                "slow" => seconds(100).await,
                "bad" => return Err(Error::Other("no cloth".into())),
                "later" => return Ok(Action::RequeueAfter(Duration::from_secs(600))),
                _ => {}
            }
            Ok(Action::Done)
        })
    })
}

#[tokio::test(start_paused = true)]
async fn a_process_tells_what_it_does_at_this_moment() {
    let fake = Fake::new();
    for name in ["good", "bad", "later"] {
        fake.put(&cm(name), json!({}));
    }
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1))
        .leader_election(Lease::new("default", "rigger", "me"));
    let metrics = builder.metrics().clone();
    builder.add(Controller::<ConfigMap>::new("rigger").workers(2).build(actor()));
    builder.add(Controller::<Secret>::new("keeper").build(Each(|_| async { Ok(Action::Done) })));
    fake.fail(http::Method::GET, "/api/v1/secrets", 403, 1000);
    let _running = run(builder.build());
    seconds(10).await;
    fake.put(&cm("slow"), json!({}));
    seconds(30).await;

    let now = metrics.diagnostics();
    let lease = &now.leases[0];
    let told = (lease.lease.as_str(), lease.holder.as_str(), lease.leads);
    assert_eq!(told, ("default/rigger", "me", true));
    let [rigger, keeper] = &now.controllers[..] else { panic!("{:?}", now.controllers) };
    assert_eq!((rigger.started, keeper.started), (true, false), "one waits for a list that is refused");
    assert_eq!(rigger.in_flight.len(), 1);
    let working = &rigger.in_flight[0];
    assert_eq!((working.key.as_str(), working.held), ("default/slow", false));
    assert_eq!(now.at.duration_since(working.since).as_secs(), 30);
    let [bad] = &rigger.retrying[..] else { panic!("{:?}", rigger.retrying) };
    assert_eq!((bad.key.as_str(), bad.error.as_deref()), ("default/bad", Some("no cloth")));
    assert!(bad.failures > 10 && bad.until > now.at, "{bad:?}");
    assert_eq!(rigger.scheduled, 2, "what failed, and what asked to be called later");
    let totals = &rigger.totals;
    assert_eq!((totals.requeued, totals.failed), (1, u64::from(bad.failures)));
    assert_eq!(totals.succeeded, 1, "{totals:?}");

    let watch = |path: &str| now.watches.iter().find(|watch| watch.path == path).unwrap();
    let maps = watch("/api/v1/configmaps");
    assert_eq!((maps.state, maps.objects, maps.relists, maps.restarts), (Doing::Watching, 4, 0, 0));
    assert_eq!(now.at.duration_since(maps.last_event.unwrap()).as_secs(), 30);
    let secrets = watch("/api/v1/secrets");
    assert_eq!((secrets.state, secrets.objects, secrets.last_event), (Doing::Failing, 0, None));
    assert!(secrets.reason.as_ref().unwrap().contains("refused"), "{secrets:?}");

    let page = now.to_string();
    for line in [
        "leads by the lease default/rigger for ",
        "rigger: 1 of 2 workers busy, 0 keys held, 0 ready, 2 scheduled, 1 retrying\n",
        "  works on default/slow for 30s\n",
        "keeper: waits for its caches; 0 of 5 workers busy",
        "/api/v1/secrets",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }

    // Breaks and new lists are counted.
    fake.drop_watches();
    seconds(5).await;
    fake.compact();
    fake.drop_watches();
    seconds(60).await;
    let now = metrics.diagnostics();
    let maps = now.watches.iter().find(|watch| watch.path == "/api/v1/configmaps").unwrap();
    assert_eq!((maps.state, maps.relists), (Doing::Watching, 1));
    assert!(maps.restarts >= 2, "{maps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_waits_for_its_own_writes_is_named() {
    let fake = Fake::new();
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let metrics = builder.metrics().clone();
    let reconcile = Each(|request: Request<ConfigMap>| async move {
        let metadata =
            ObjectMeta { name: Some("s".into()), namespace: Some("default".into()), ..Default::default() };
        request.client.create(&Secret { metadata, ..Secret::default() }).await?;
        Ok(Action::Done)
    });
    builder.add(Controller::<ConfigMap>::new("rigger").owns::<Secret>().build(reconcile));
    let _running = run(builder.build());
    seconds(2).await;
    fake.stall("/api/v1/secrets", true);
    fake.put(&cm("writes"), json!({}));
    seconds(7).await;
    let now = metrics.diagnostics();
    let [held] = &now.controllers[0].in_flight[..] else { panic!("{now:?}") };
    assert_eq!((held.key.as_str(), held.held), ("default/writes", true));
    assert!(
        now.to_string().contains("  holds default/writes for 7s, until the caches have what it wrote\n"),
        "{now}"
    );
    fake.stall("/api/v1/secrets", false);
    seconds(1).await;
    assert_eq!(metrics.diagnostics().controllers[0].in_flight, []);
}

#[tokio::test(start_paused = true)]
async fn each_namespace_fails_by_itself() {
    let fake = Fake::new();
    fake.fail(http::Method::GET, "/api/v1/namespaces/b/configmaps", 403, 5);
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let metrics = builder.metrics().clone();
    let scope = Scope { namespaces: vec!["a".into(), "b".into()], ..Scope::default() };
    builder.add(Controller::<ConfigMap>::new("rigger").scope(scope).build(actor()));
    let _running = run(builder.build());
    fake.put("/api/v1/namespaces/a/configmaps/good", json!({}));
    seconds(3).await;
    // Changes in one namespace say nothing of the other.
    fake.put("/api/v1/namespaces/a/configmaps/good", json!({"data": {"x": "y"}}));
    seconds(1).await;
    let states = || {
        let watches = metrics.diagnostics().watches;
        watches.iter().map(|watch| (watch.state, watch.objects)).collect::<Vec<_>>()
    };
    assert_eq!(states(), [(Doing::Watching, 1), (Doing::Failing, 0)]);
    assert_eq!(metrics.failures().len(), 1);
    seconds(200).await;
    assert_eq!(states(), [(Doing::Watching, 1), (Doing::Watching, 0)]);
    assert_eq!(metrics.failures(), []);
}

#[tokio::test(start_paused = true)]
async fn shares_are_told() {
    let fake = Fake::new();
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1)).at("default", "me");
    let metrics = builder.metrics().clone();
    let shards = Shards::of(&builder, "riggers");
    builder.add(Controller::<ConfigMap>::new("rigger").sharded(&shards).build(actor()));
    let _running = run(builder.build());
    seconds(60).await;
    let now = metrics.diagnostics();
    let [share] = &now.shards[..] else { panic!("{:?}", now.shards) };
    assert_eq!((share.group.as_str(), share.identity.as_str(), share.settled), ("riggers", "me", true));
    assert_eq!((share.members.len(), share.owned, share.held, share.busy), (1, 256, 256, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_told_has_bounds() {
    let fake = Fake::new();
    for n in 0..300 {
        fake.put(&format!("/api/v1/namespaces/ns-{n}/configmaps/bad"), json!({}));
    }
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let (metrics, informers) = (builder.metrics().clone(), builder.informers().clone());
    builder.add(Controller::<ConfigMap>::new("rigger").build(actor()));
    let _running = run(builder.build());
    let many: Vec<_> =
        (0..1100).map(|n| informers.get::<Secret>(Scope::namespace(format!("ns-{n}")))).collect();
    seconds(30).await;
    let now = metrics.diagnostics();
    assert_eq!((now.controllers[0].retrying.len(), now.controllers[0].more_keys), (100, 200));
    assert_eq!((now.watches.len(), now.more_watches), (1000, 101));
    drop(many);
    assert_eq!(metrics.diagnostics().watches.len(), 1, "what nobody holds is no watch any more");
}
