//! Operators: what they say they need is what they may do.

use std::{sync::Arc, time::Duration};

use expect_test::expect;
use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::api::{Api, ListParams, ObjectMeta};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;
use windlass::{
    Action, Controller, Error, EventType, Finalized, Key, Lease, Metrics, Operator, Request, Rules, Runnable,
    Scope, Verbs, random::Source,
};

use crate::{
    controllers::{Each, run},
    fake::Fake,
};

type Said = Arc<Mutex<Vec<String>>>;

/// Copies a ConfigMap into a Secret, looks at pods, and writes down what it was refused.
fn copier(
    said: &Said,
) -> Each<impl Fn(Request<ConfigMap>) -> futures::future::BoxFuture<'static, Result<Action, Error>> + use<>> {
    let said = said.clone();
    Each(move |request: Request<ConfigMap>| {
        let said = said.clone();
        let tried: futures::future::BoxFuture<'static, Result<Action, Error>> = Box::pin(async move {
            let Some(object) = request.object else { return Ok(Action::Done) };
            let metadata = ObjectMeta {
                name: object.metadata.name.clone(),
                namespace: object.metadata.namespace.clone(),
                ..ObjectMeta::default()
            };
            request.recorder.event(&*object, EventType::Normal, "Copied", "");
            let copy = request.client.create(&Secret { metadata, ..Secret::default() }).await.err();
            let pods: Api<Pod> = Api::default_namespaced(request.client.raw().clone());
            let listed = pods.list(&ListParams::default()).await.err().map(Error::from);
            said.lock().extend([copy, listed].into_iter().flatten().map(sentence));
            Ok(Action::Done)
        });
        tried
    })
}

/// What the server, or who stands for it, said.
fn sentence(error: Error) -> String {
    match error {
        Error::Kube(kube::Error::Api(status)) => status.message,
        other => other.to_string(),
    }
}

async fn play(fake: &Fake, controller: impl Runnable + Clone) -> Metrics {
    let operator = Operator::new("copier").with(move |manager| {
        manager.add(controller.clone());
    });
    let manager = operator.manager(fake.client(), Source::seeded(1)).build();
    let metrics = manager.metrics().clone();
    let _running = run(manager);
    fake.put("/api/v1/namespaces/default/configmaps/a", json!({}));
    tokio::time::sleep(Duration::from_secs(5)).await;
    metrics
}

/// A controller that can be handed out more than once.
#[derive(Clone)]
struct Shared(Arc<dyn Runnable>);

impl Runnable for Shared {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn needs(&self, rules: &mut Rules) {
        self.0.needs(rules);
    }

    fn run(&self, cx: windlass::RunCx) -> futures::future::BoxFuture<'_, Result<(), windlass::BoxError>> {
        self.0.run(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_registered_is_refused_before_it_is_sent() {
    let (fake, said) = (Fake::new(), Said::default());
    play(&fake, Shared(Arc::new(Controller::<ConfigMap>::new("copier").build(copier(&said))))).await;
    let said = said.lock().join("\n");
    expect![[r#"
        nothing registered that this operator may create secrets in namespace "default": add `.may::<Secret>(Verbs::CREATE)` to its controller
        nothing registered that this operator may list pods in namespace "default": add `.may::<KIND>(Verbs::LIST)` to its controller"#]].assert_eq(&said);
    let sent: Vec<String> =
        fake.log().into_iter().filter(|l| l.contains("secrets") || l.contains("pods")).collect();
    assert!(sent.is_empty(), "{sent:?}");
    assert!(!fake.all("/api/v1/events").is_empty(), "events are always allowed");
}

#[tokio::test(start_paused = true)]
async fn what_was_registered_is_done() {
    let (fake, said) = (Fake::new(), Said::default());
    let controller =
        Controller::<ConfigMap>::new("copier").may::<Secret>(Verbs::CREATE).may::<Pod>(Verbs::LIST);
    let metrics = play(&fake, Shared(Arc::new(controller.build(copier(&said))))).await.render();
    assert_eq!(*said.lock(), Vec::<String>::new());
    let counted = |line: &str| metrics.lines().any(|l| l.starts_with(line));
    assert!(counted("rest_client_requests_total{code=\"200\",method=\"POST\"}"), "{metrics}");
    assert!(counted("rest_client_request_duration_seconds_count{verb=\"GET\"}"), "{metrics}");
    assert!(fake.get("/api/v1/namespaces/default/secrets/a").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_scope_of_namespaces_is_all_there_is() {
    let (fake, said) = (Fake::new(), Said::default());
    let controller = Controller::<ConfigMap>::new("copier")
        .scope(Scope::namespace("default"))
        .may::<Secret>(Verbs::CREATE)
        .needs(|_, rules| rules.allow::<Pod>(&Scope::namespace("elsewhere"), Verbs::LIST));
    play(&fake, Shared(Arc::new(controller.build(copier(&said))))).await;
    expect![[r#"nothing registered that this operator may list pods in namespace "default": add `.may::<KIND>(Verbs::LIST)` to its controller"#]].assert_eq(&said.lock().join("\n"));
}

#[tokio::test(start_paused = true)]
async fn a_description_is_what_was_registered() {
    let nothing = || Each(|_: Request<ConfigMap>| async { Ok(Action::Done) });
    let operator = Operator::new("copier").with(move |manager| {
        let reconcile = Finalized { name: "copier/last", reconcile: nothing(), cleanup: nothing() };
        let controller = Controller::<ConfigMap>::new("copier")
            .owns::<Secret>()
            .watches::<Namespace, _>(Scope::all(), |_, _| [])
            .may_sub::<Pod>("eviction", Verbs::CREATE);
        manager.add(controller.build(reconcile));
        let _ = manager.informers().get::<Pod>(Scope::namespace("kube-system"));
    });
    let description = operator.description();
    let lines: Vec<String> = description
        .rbac("tools")
        .iter()
        .map(|object| {
            let types = object.types.as_ref().unwrap();
            let place = object.metadata.namespace.as_deref().unwrap_or("-");
            let rules = object.data["rules"].as_array().cloned().unwrap_or_default();
            let rule = |rule: &serde_json::Value| format!("\n    {rule}");
            format!("{} {place}{}\n", types.kind, rules.iter().map(rule).collect::<String>())
        })
        .collect();
    expect![[r#"
        ServiceAccount tools
        ClusterRole -
            {"apiGroups":[""],"resources":["configmaps"],"verbs":["get","list","watch","patch"]}
            {"apiGroups":[""],"resources":["configmaps/finalizers"],"verbs":["update"]}
            {"apiGroups":[""],"resources":["events"],"verbs":["create","patch"]}
            {"apiGroups":[""],"resources":["namespaces"],"verbs":["get","list","watch"]}
            {"apiGroups":[""],"resources":["pods/eviction"],"verbs":["create"]}
            {"apiGroups":[""],"resources":["secrets"],"verbs":["get","list","watch","create","update","patch","delete"]}
        ClusterRoleBinding -
        Role kube-system
            {"apiGroups":[""],"resources":["pods"],"verbs":["get","list","watch"]}
        RoleBinding kube-system
        Role tools
            {"apiGroups":["coordination.k8s.io"],"resources":["leases"],"verbs":["create"]}
            {"apiGroups":["coordination.k8s.io"],"resourceNames":["copier"],"resources":["leases"],"verbs":["get","update"]}
        RoleBinding tools
    "#]].assert_eq(&lines.concat());
    let text = serde_json::to_string(&description).unwrap();
    assert_eq!(serde_json::from_str::<windlass::Description>(&text).unwrap(), description);
}

#[tokio::test(start_paused = true)]
async fn reading_is_held_to_rules_even_where_the_server_would_allow_it() {
    let fake = Fake::new();
    let operator = Operator::new("idle");
    let manager = operator.manager(fake.client(), Source::seeded(1)).build();
    let late = manager.informers().get::<ConfigMap>(Scope::all());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!late.is_synced());
    assert!(fake.log().iter().all(|line| !line.starts_with(Method::GET.as_str())), "{:?}", fake.log());
}

#[tokio::test(start_paused = true)]
async fn requests_are_held_to_a_rate_and_watches_and_leases_go_on() {
    let fake = Fake::new();
    let map = |name: &str| format!("/api/v1/namespaces/default/configmaps/{name}");
    fake.put(&map("a"), json!({}));
    let operator = Operator::new("slow").qps(10.0, 5).with(|manager| {
        let mut rules = Rules::default();
        rules.allow::<ConfigMap>(&Scope::all(), Verbs::GET);
        manager.needs(&rules);
    });
    let lease = Lease::new("default", "slow", "me");
    let manager = operator.manager(fake.client(), Source::seeded(1)).leader_election(lease);
    let informer = manager.informers().get::<ConfigMap>(Scope::all());
    let manager = manager.build();
    let (client, metrics) = (manager.client().clone(), manager.metrics().clone());
    informer.synced().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let key = Key::new(Some("default"), "a");
    let begun = Instant::now();
    let burst = futures::future::join_all((0..25).map(|_| client.live::<ConfigMap>(&key)));
    let _running = run(manager);
    assert!(burst.await.into_iter().all(|found| found.unwrap().is_some()));
    assert_eq!(begun.elapsed().as_millis(), 2000, "five at once, and twenty at ten a second");
    let text = metrics.render();
    let waited = |line: &str| text.lines().any(|l| l == line);
    // The watch of the cache counted once, when it began.
    assert!(waited("rest_client_rate_limiter_duration_seconds_count{verb=\"GET\"} 26"), "{text}");
    assert!(
        waited("leader_election_master_status{name=\"slow\"} 1"),
        "the lease was taken meanwhile: {text}"
    );

    // What a watch brings is no request: a thousand changes take no time, while nobody has a token left.
    let spent = tokio::spawn(async move {
        futures::future::join_all((0..50).map(|_| client.live::<ConfigMap>(&key))).await;
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    (0..1000).for_each(|n| drop(fake.put(&map(&format!("b-{n}")), json!({}))));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(informer.lister().len(), 1001);
    assert!(!spent.is_finished());
}
