//! Classification by the bootstrap set, and levels under load.

use http::Method;

use super::*;

fn compiled() -> Compiled {
    let (levels, schemas) = bootstrap::objects();
    let mut schemas: Vec<Schema> = schemas.iter().map(Schema::read).collect();
    schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    let levels = levels.iter().map(|obj| (object::name(obj).to_owned(), LevelSpec::read(obj))).collect();
    Compiled { schemas, levels }
}

fn info(method: &Method, url: &str) -> RequestInfo {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    RequestInfo::new(method, path, &Query::parse(query))
}

#[test]
fn requests_are_classified_as_by_upstreams_bootstrap_set() {
    let compiled = compiled();
    let root = Identity::new("root", &["system:masters"]);
    let node = Identity::new("system:node:a", &["system:nodes"]);
    let manager = Identity::new("system:kube-controller-manager", &[]);
    let own = Identity::new("system:serviceaccount:kube-system:gc", &["system:serviceaccounts"]);
    let other = Identity::new("system:serviceaccount:kube-system2:x", &["system:serviceaccounts"]);
    let jane = Identity::new("jane", &[]);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/a";
    for (user, method, url, schema, flow) in [
        (&root, Method::GET, "/api/v1/pods", "exempt", "exempt,"),
        (&jane, Method::GET, "/readyz", "probes", "probes,"),
        (&jane, Method::GET, "/readyz/ping", "probes", "probes,"),
        (
            &manager,
            Method::PUT,
            lease,
            "system-leader-election",
            "system-leader-election,system:kube-controller-manager",
        ),
        (&manager, Method::DELETE, lease, "kube-controller-manager", "kube-controller-manager,kube-system"),
        (&node, Method::PUT, "/api/v1/nodes/a/status", "system-node-high", "system-node-high,system:node:a"),
        (&node, Method::PUT, lease, "system-node-high", "system-node-high,system:node:a"),
        (&node, Method::GET, "/api/v1/namespaces/d/secrets/a", "system-nodes", "system-nodes,system:node:a"),
        (&own, Method::GET, "/api/v1/pods", "kube-system-service-accounts", "kube-system-service-accounts,"),
        (
            &other,
            Method::GET,
            "/api/v1/pods",
            "service-accounts",
            "service-accounts,system:serviceaccount:kube-system2:x",
        ),
        (&jane, Method::GET, "/api/v1/pods", "global-default", "global-default,jane"),
        (
            &Identity::anonymous(),
            Method::GET,
            "/version",
            "global-default",
            "global-default,system:anonymous",
        ),
    ] {
        let info = info(&method, url);
        let found = compiled.schemas.iter().find(|schema| schema.fits(user, &info)).unwrap();
        assert_eq!(
            (found.name.as_str(), found.flow(user, &info).as_str()),
            (schema, flow),
            "{} {url}",
            user.name
        );
    }
}

#[tokio::test]
async fn a_full_level_refuses_or_queues_and_the_exempt_pass() {
    let store = Store::memory();
    let settings =
        Settings { max_requests_in_flight: 2, max_mutating_requests_in_flight: 1, ..Settings::default() };
    let flow = FlowControl::new(&store, &settings, &Meters::default());
    for (prefix, objects) in [(LEVELS, bootstrap::objects().0), (SCHEMAS, bootstrap::objects().1)] {
        for mut obj in objects {
            let uid = format!("uid of {}", object::name(&obj));
            object::set(&mut obj, &["metadata", "uid"], uid);
            let bytes = serde_json::to_vec(&obj).unwrap();
            let txn = minicluster_store::Txn::put(
                format!("{prefix}{}", object::name(&obj)),
                minicluster_store::Payload::plain(bytes),
                0,
            );
            store.txn(txn).await.unwrap();
        }
    }
    let (jane, root) = (Identity::new("jane", &[]), Identity::new("root", &["system:masters"]));
    let info = info(&Method::GET, "/api/v1/pods");
    let enter = |user: &Identity, millis: u64| {
        let (user, info, flow) = (user.clone(), info.clone(), &flow);
        async move { flow.enter(&user, &info, &Query::default(), Duration::from_millis(millis)).await }
    };
    let first = enter(&jane, 1000).await.unwrap_or_else(|e| panic!("{e}"));
    let mut response = Response::new(crate::body::empty());
    first.mark(&mut response);
    assert_eq!(response.headers()[SCHEMA_UID], "uid of global-default");
    let refused = enter(&jane, 40).await.err().unwrap();
    assert_eq!((refused.code, refused.message.as_str()), (429, "Too many requests, please try again later."));
    let exempt: Vec<Permit> = futures::future::try_join_all((0..20).map(|_| enter(&root, 40))).await.unwrap();
    assert_eq!(exempt.len(), 20);
    let (second, ()) = tokio::join!(enter(&jane, 4000), async {
        sleep(Duration::from_millis(20)).await;
        drop(first);
    });
    assert!(second.is_ok(), "the seat is handed on");
}

#[tokio::test]
async fn without_levels_two_bounds_hold() {
    let settings = Settings { enabled: false, max_requests_in_flight: 2, max_mutating_requests_in_flight: 1 };
    let flow = FlowControl::new(&Store::memory(), &settings, &Meters::default());
    let jane = Identity::new("jane", &[]);
    let (read, written) = (info(&Method::GET, "/api/v1/pods"), info(&Method::POST, "/api/v1/namespaces"));
    let query = Query::default();
    let wait = Duration::from_secs(1);
    let held = [
        flow.enter(&jane, &read, &query, wait).await.ok().unwrap(),
        flow.enter(&jane, &read, &query, wait).await.ok().unwrap(),
        flow.enter(&jane, &written, &query, wait).await.ok().unwrap(),
    ];
    for info in [&read, &written] {
        assert_eq!(flow.enter(&jane, info, &query, wait).await.err().unwrap().code, 429);
    }
    let root = Identity::new("root", &["system:masters"]);
    assert!(flow.enter(&root, &written, &query, wait).await.is_ok());
    drop(held);
    assert!(flow.enter(&jane, &read, &query, wait).await.is_ok());
}

/// Not a promise but a sight: what a request costs that nobody is in the way of. Run with `--nocapture`.
#[tokio::test]
async fn the_way_through_is_short() {
    const ROUNDS: u32 = 20_000;
    let store = Store::memory();
    let flow = FlowControl::new(&store, &Settings::default(), &Meters::default());
    for (prefix, objects) in [(LEVELS, bootstrap::objects().0), (SCHEMAS, bootstrap::objects().1)] {
        for obj in objects {
            let payload = minicluster_store::Payload::plain(serde_json::to_vec(&obj).unwrap());
            let txn = minicluster_store::Txn::put(format!("{prefix}{}", object::name(&obj)), payload, 0);
            store.txn(txn).await.unwrap();
        }
    }
    let jane = Identity::new("jane", &[]);
    let (info, query) = (info(&Method::GET, "/api/v1/namespaces/d/pods/a"), Query::default());
    let began = Instant::now();
    for _ in 0..ROUNDS {
        drop(flow.enter(&jane, &info, &query, Duration::from_secs(60)).await);
    }
    let each = began.elapsed() / ROUNDS;
    println!("{each:?} a request");
    assert!(each < Duration::from_micros(100), "{each:?}");
}
