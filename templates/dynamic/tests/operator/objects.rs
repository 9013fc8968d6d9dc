//! What objects carry, and who wrote it.

use std::time::Duration;

use futures::{StreamExt, stream};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use minicluster::{TestCluster, test_cluster::Faults};
use serde_json::json;
use template_name::TemplateName;

use crate::{labels, world};

/// A policy about ConfigMaps of the shop.
fn shop(wanted: &str) -> serde_json::Value {
    json!({
        "kinds": ["configmaps"],
        "selector": { "matchLabels": { "app": "shop" } },
        "labels": labels(wanted),
    })
}

#[tokio::test(start_paused = true)]
async fn selected_objects_carry_it_and_others_do_not() {
    let world = world(TestCluster::builder()).await;
    world.map("cart", json!({ "app": "shop" })).await;
    world.map("other", json!({ "app": "bank" })).await;
    world.ask("main", shop("team=harbour")).await;
    assert!(world.cluster.settle().await);
    assert_eq!(world.labels("cart").await, labels("app=shop,team=harbour"));
    assert_eq!(world.labels("other").await, labels("app=bank"));
    assert_eq!(
        world.ready("main").await,
        "True AllCarry: 1 of 1 objects carry what is asked for"
    );

    // Whoever takes it away, or comes later, is put right.
    let nothing = Patch::Merge(json!({ "metadata": { "labels": { "team": null } } }));
    world
        .maps
        .patch("cart", &PatchParams::default(), &nothing)
        .await
        .unwrap();
    world.map("late", json!({ "app": "shop" })).await;
    assert!(world.cluster.settle().await);
    assert_eq!(world.labels("cart").await, labels("app=shop,team=harbour"));
    assert_eq!(world.labels("late").await, labels("app=shop,team=harbour"));

    // Its own is all that it owns.
    let cart = world.maps.get("cart").await.unwrap();
    let own = cart
        .managed_fields()
        .iter()
        .find(|m| m.manager.as_deref() == Some("template-name/main"))
        .unwrap();
    assert_eq!(
        json!(own.fields_v1.as_ref().unwrap().0),
        json!({ "f:metadata": {
            "f:annotations": { "f:templatename.example.com/main": {} },
            "f:labels": { "f:team": {} },
        } })
    );
    assert_eq!(cart.data.unwrap(), labels("kept=yes"));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_asked_for_any_more_is_taken_back() {
    let world = world(TestCluster::builder()).await;
    for name in ["one", "two"] {
        world.map(name, json!({ "app": "shop" })).await;
    }
    world.ask("main", shop("team=harbour,tier=front")).await;
    assert!(world.cluster.settle().await);
    assert_eq!(
        world.labels("one").await,
        labels("app=shop,team=harbour,tier=front")
    );

    world.change("main", json!({ "labels": { "tier": null } })).await;
    let bank = Patch::Merge(json!({ "metadata": { "labels": { "app": "bank" } } }));
    world
        .maps
        .patch("two", &PatchParams::default(), &bank)
        .await
        .unwrap();
    assert!(world.cluster.settle().await);
    assert_eq!(world.labels("one").await, labels("app=shop,team=harbour"));
    assert_eq!(
        world.labels("two").await,
        labels("app=bank"),
        "selected no longer"
    );

    world
        .policies
        .delete("main", &DeleteParams::default())
        .await
        .unwrap();
    world.cluster.advance(Duration::from_secs(5)).await;
    assert!(world.policies.get_opt("main").await.unwrap().is_none());
    let one = world.maps.get("one").await.unwrap();
    assert_eq!((one.labels(), one.annotations().len()), (&labels("app=shop"), 0));
}

#[tokio::test(start_paused = true)]
async fn the_older_policy_has_its_way() {
    let world = world(TestCluster::builder()).await;
    world.map("cart", json!({ "app": "shop" })).await;
    world.ask("z-first", shop("team=harbour")).await;
    world.cluster.advance(Duration::from_secs(2)).await;
    world.ask("a-second", shop("team=bank,tier=front")).await;
    assert!(world.cluster.settle().await);
    assert_eq!(
        world.labels("cart").await,
        labels("app=shop,team=harbour,tier=front")
    );
    assert_eq!(
        world.ready("a-second").await,
        "False Yields: 1 of 1 objects carry what is asked for, but an older one decides about team"
    );

    world
        .policies
        .delete("z-first", &DeleteParams::default())
        .await
        .unwrap();
    world.cluster.advance(Duration::from_secs(5)).await;
    assert_eq!(
        world.labels("cart").await,
        labels("app=shop,team=bank,tier=front")
    );
    assert_eq!(
        world.ready("a-second").await,
        "True AllCarry: 1 of 1 objects carry what is asked for"
    );
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_told() {
    let world = world(TestCluster::builder()).await;
    let nothing = TemplateName::new("main", serde_json::from_value(json!({ "kinds": ["*"] })).unwrap());
    let refused = world
        .policies
        .create(&PostParams::default(), &nothing)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("asks for nothing"), "{refused}");

    world.map("cart", json!({ "app": "shop" })).await;
    world.ask("main", shop("team=no label")).await;
    assert!(world.cluster.settle().await);
    let ready = world.ready("main").await;
    assert!(
        ready.starts_with("False Refused: 0 of 1 objects carry what is asked for: "),
        "{ready}"
    );
    world
        .change("main", json!({ "labels": { "team": "harbour" } }))
        .await;
    assert!(world.cluster.settle().await);
    assert_eq!(
        world.ready("main").await,
        "True AllCarry: 1 of 1 objects carry what is asked for"
    );
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_objects_are_written_once_each() {
    const OBJECTS: usize = 10_000;
    let world = world(TestCluster::builder()).await;
    let made = (0..OBJECTS).map(|n| {
        let world = &world;
        async move { world.map(&format!("cart-{n}"), json!({ "app": "shop" })).await }
    });
    stream::iter(made).buffer_unordered(100).collect::<()>().await;
    world.ask("main", shop("team=harbour")).await;
    world.cluster.advance(Duration::from_secs(60)).await;
    assert_eq!(
        world.ready("main").await,
        "True AllCarry: 10000 of 10000 objects carry what is asked for"
    );
    let selected = world
        .maps
        .list_metadata(&ListParams::default().labels("team=harbour"))
        .await
        .unwrap();
    assert_eq!(selected.items.len(), OBJECTS);
    let writes = world.cluster.transcript();
    let given = writes
        .iter()
        .filter(|w| w.verb != "create" && w.key.contains("/configmaps/default/cart-"));
    assert_eq!(given.count(), OBJECTS, "one write for each");
}

#[tokio::test(start_paused = true)]
async fn a_bad_line_delays_and_does_no_harm() {
    for seed in 0..10 {
        let world = world(TestCluster::builder().seed(seed).faults(Faults::drawn(seed))).await;
        for n in 0..20 {
            world.map(&format!("cart-{n}"), json!({ "app": "shop" })).await;
        }
        world.ask("main", shop("team=harbour,tier=front")).await;
        world.cluster.advance(Duration::from_secs(60)).await;
        for n in 0..5 {
            world
                .maps
                .delete(&format!("cart-{n}"), &DeleteParams::default())
                .await
                .unwrap();
        }
        world.change("main", json!({ "labels": { "tier": null } })).await;
        world.cluster.advance(Duration::from_secs(120)).await;
        let carts = world
            .maps
            .list(&ListParams::default().labels("app=shop"))
            .await
            .unwrap()
            .items;
        assert_eq!(
            carts.len(),
            15,
            "seed {seed}: nothing comes back that was deleted"
        );
        for cart in carts {
            assert_eq!(cart.labels(), &labels("app=shop,team=harbour"), "seed {seed}");
        }
        let told = "True AllCarry: 15 of 15 objects carry what is asked for";
        assert_eq!(world.ready("main").await, told, "seed {seed}");

        world
            .policies
            .delete("main", &DeleteParams::default())
            .await
            .unwrap();
        world.cluster.advance(Duration::from_secs(120)).await;
        assert!(
            world.policies.get_opt("main").await.unwrap().is_none(),
            "seed {seed}"
        );
        let carts = world.maps.list(&ListParams::default()).await.unwrap();
        let left = carts.iter().filter(|cart| cart.labels().contains_key("team"));
        assert_eq!(left.count(), 0, "seed {seed}");
    }
}
