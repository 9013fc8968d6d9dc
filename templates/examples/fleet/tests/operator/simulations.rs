//! One story under many seeds: applications come, change and go while members are cut off for a while, and requests are
//! slow, refused, or done without an answer. In the end every member has what is asked for, and nothing else. A clean-up
//! with a bug, which lives only here, is found, and a line that plays it again is told.

use std::{ops::RangeInclusive, time::Duration};

use ::fleet::{FleetApp, Removal};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Explorer, Fault, Faults},
};
use serde_json::json;
use windlass::{Action, Error, Key, Reconcile, Request, clusters::Clusters, random::Source};

use crate::{Members, USER, edge_app};

const SEEDS: RangeInclusive<u64> = 1..=100;

/// Cleans up where it can, and forgets who cannot be reached.
struct Careless(Clusters);

impl Reconcile<FleetApp> for Careless {
    async fn reconcile(&self, request: Request<FleetApp>) -> Result<Action, Error> {
        let reached = self.0.members().into_iter().filter(|member| member.ready().is_ok());
        let removals = reached.map(|member| {
            let key = request.key.clone();
            async move {
                if let Some(deployment) = member.client.live::<Deployment>(&key).await? {
                    member.client.delete(&deployment).await?;
                }
                Ok::<_, Error>(())
            }
        });
        join_all(removals).await.into_iter().collect::<Result<Vec<()>, Error>>()?;
        Ok(Action::Done)
    }
}

/// Tells a story in a hub whose members have the faults of its seed, too.
async fn story<C: Reconcile<FleetApp>>(hub: &TestCluster, cleanup: fn(Clusters) -> C) {
    let random = Source::seeded(hub.seed()).fork("story");
    let mut members = Members::none();
    for name in ["east", "west"] {
        let cluster = TestCluster::builder().seed(hub.seed()).faults(Faults::drawn(hub.seed()));
        members.join(name, "edge", cluster).await;
    }
    let _operator = hub.run_operator(&members.operator(cleanup)).await;
    let apps: Api<FleetApp> = Api::default_namespaced(hub.client());
    for n in 0..3 {
        apps.create(&PostParams::default(), &edge_app(&format!("app-{n}"))).await.unwrap();
    }
    let mut wanted = vec![("app-0", "web:1"), ("app-1", "web:1"), ("app-2", "web:1")];
    hub.advance(Duration::from_secs(60)).await;

    let name = ["east", "west"][usize::try_from(random.below(2)).unwrap()];
    let cut = members.clusters[name].inject(Fault::cut().of(USER));
    members.clusters[name].drop_watches("*");
    hub.advance(Duration::from_secs(random.below(90))).await;
    apps.delete("app-2", &DeleteParams::default()).await.unwrap();
    wanted.pop();
    let patch = Patch::Merge(json!({ "spec": { "image": "web:2" } }));
    apps.patch("app-1", &PatchParams::default(), &patch).await.unwrap();
    wanted[1].1 = "web:2";
    hub.advance(Duration::from_secs(random.below(90))).await;
    cut.lift();
    hub.advance(Duration::from_secs(900)).await;

    assert!(apps.get_opt("app-2").await.unwrap().is_none(), "app-2 is never gone");
    for (name, cluster) in &members.clusters {
        let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
        let there = deployments.list(&ListParams::default()).await.unwrap();
        let names: Vec<String> = there.iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, wanted.iter().map(|(app, _)| *app).collect::<Vec<_>>(), "in {name}");
        for (app, image) in &wanted {
            assert_eq!(
                members.image(name, app).await.as_deref(),
                Some(*image),
                "{} in {name}",
                Key::new(None, app)
            );
        }
    }
}

#[test]
fn every_seed_ends_well() {
    Explorer::new(SEEDS).run(TestCluster::builder, async |hub| story(hub, Removal).await);
}

#[test]
fn a_careless_clean_up_is_found_and_told_how_to_play_again() {
    let explorer = Explorer::new(SEEDS);
    let careless = || explorer.run(TestCluster::builder, async |hub| story(hub, Careless).await);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(careless)).unwrap_err();
    let report = panicked.downcast_ref::<String>().unwrap();
    let line = report.lines().find(|line| line.contains("WINDLASS_SEED=")).unwrap_or_default().trim();
    assert!(
        line.ends_with("cargo test simulations::a_careless_clean_up_is_found_and_told_how_to_play_again"),
        "{report}"
    );

    // That line finds it again, and the clean operator does well there.
    let seed: u64 = line["WINDLASS_SEED=".len()..].split(' ').next().unwrap().parse().unwrap();
    let again =
        || Explorer::new(seed..=seed).run(TestCluster::builder, async |hub| story(hub, Careless).await);
    assert!(std::panic::catch_unwind(again).is_err());
    Explorer::new(seed..=seed).run(TestCluster::builder, async |hub| story(hub, Removal).await);
}
