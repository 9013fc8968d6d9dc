//! Custom resources from their declaration: what the definition says, and that this process and a real API server agree
//! about objects.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, CustomResourceExt, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use minicluster::TestCluster;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass::{
    Condition, ConditionType, CustomResource, Schema,
    custom::{CustomResource as _, Kind, Version, check_round_trips},
};

mod v1 {
    use super::*;

    #[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[kube(
        group = "harbour.dev",
        version = "v1",
        kind = "Ferry",
        namespaced,
        status = "FerryStatus",
        shortname = "fy",
        category = "all",
        printcolumn(name = "Seats", type_ = "integer", json_path = ".spec.seats", priority = 1),
        scale(spec_replicas_path = ".spec.seats", status_replicas_path = ".status.taken"),
        selectable = ".spec.line",
        label("harbour.dev/made", "yes"),
        validation("!has(self.status) || self.status.taken <= self.spec.seats", message = "is overloaded")
    )]
    #[windlass(validation(
        "self.crew.size() <= self.seats",
        message = "more crew than seats",
        field_path = ".crew"
    ))]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct FerrySpec {
        /// For passengers.
        #[garde(range(min = 1, max = 900))]
        pub(crate) seats: u32,
        #[windlass(validation(
            "self == oldSelf",
            message = "never changes",
            reason = "FieldValueForbidden"
        ))]
        #[garde(length(min = 2))]
        pub(crate) line: String,
        #[serde(default = "night")]
        pub(crate) night_tariff: bool,
        #[serde(default)]
        #[windlass(list = "map", key = "name")]
        #[schemars(length(max = 50))]
        pub(crate) crew: Vec<Sailor>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub(crate) engine: Option<Engine>,
        #[serde(default)]
        #[windlass(map = "atomic")]
        pub(crate) marks: BTreeMap<String, String>,
    }

    pub(crate) fn night() -> bool {
        true
    }

    #[derive(Schema, Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[windlass(validation("self.name != self.role", message = "has two names"))]
    pub(crate) struct Sailor {
        #[garde(length(min = 1, max = 20))]
        pub(crate) name: String,
        #[serde(default)]
        pub(crate) role: String,
    }

    #[derive(Schema, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
    pub(crate) enum Engine {
        Steam,
        Diesel,
    }

    #[derive(Schema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    pub(crate) struct FerryStatus {
        pub(crate) taken: u32,
    }
}

mod v1alpha1 {
    use super::{v1::FerryStatus, *};

    #[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[kube(group = "harbour.dev", version = "v1alpha1", kind = "Ferry", namespaced, status = "FerryStatus")]
    #[kube(
        shortname = "fy",
        category = "all",
        storage = false,
        deprecated = "use harbour.dev/v1",
        label("harbour.dev/made", "yes")
    )]
    #[windlass(
        hub = v1::Ferry,
        moved("/spec/places" => "/spec/seats"),
        moved("/spec/tariff/night" => "/spec/nightTariff"),
        added("/spec/crew"),
        added("/spec/engine"),
        added("/spec/marks"),
        removed("/spec/tariff"),
        removed("/spec/flag")
    )]
    pub(crate) struct FerrySpec {
        #[garde(range(min = 1, max = 900))]
        pub(crate) places: u32,
        #[garde(length(min = 2))]
        pub(crate) line: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub(crate) flag: Option<String>,
        #[serde(default)]
        pub(crate) tariff: Tariff,
    }

    #[derive(Schema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Tariff {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub(crate) night: Option<bool>,
    }
}

/// A version whose author forgot where a field went.
mod lossy {
    use super::*;

    #[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[kube(group = "harbour.dev", version = "v0alpha1", kind = "Ferry", namespaced)]
    pub(crate) struct FerrySpec {
        pub(crate) seats: u32,
        pub(crate) gone: String,
    }

    impl Version for Ferry {
        type Hub = v1::Ferry;

        const SPOKE: windlass::conversion::Spoke = windlass::conversion::Spoke {
            api_version: "harbour.dev/v0alpha1",
            hub: "harbour.dev/v1",
            steps: &[windlass::conversion::Step::Added { hub: "/spec/crew" }],
            has_spec: true,
            hub_has_spec: true,
        };
    }
}

#[derive(Condition, Clone, Copy, Debug, PartialEq)]
enum FerryCondition {
    Ready,
    Docked,
}

fn ferry() -> v1::Ferry {
    let sailor = v1::Sailor { name: "ann".into(), role: "mate".into() };
    let spec = v1::FerrySpec {
        seats: 40,
        line: "north".into(),
        night_tariff: false,
        crew: vec![sailor],
        engine: Some(v1::Engine::Steam),
        marks: BTreeMap::new(),
    };
    v1::Ferry::new("main", spec)
}

#[test]
fn the_definition_says_what_was_declared() {
    let definition = serde_json::to_value(v1::Ferry::crd()).unwrap();
    assert_eq!(
        definition["metadata"],
        json!({ "name": "ferries.harbour.dev", "labels": { "harbour.dev/made": "yes" } })
    );
    let names = &definition["spec"]["names"];
    assert_eq!(names["shortNames"], json!(["fy"]));
    assert_eq!(names["categories"], json!(["all"]));
    let version = &definition["spec"]["versions"][0];
    assert_eq!(version["additionalPrinterColumns"][0]["priority"], 1);
    assert_eq!(version["selectableFields"], json!([{ "jsonPath": ".spec.line" }]));
    assert_eq!(version["subresources"]["scale"]["statusReplicasPath"], ".status.taken");
    let schema = &version["schema"]["openAPIV3Schema"];
    let rules =
        |at: &str| schema.pointer(at).and_then(|s| s.get("x-kubernetes-validations")).unwrap().clone();
    assert_eq!(rules("")[0]["message"], "is overloaded");
    assert_eq!(rules("/properties/spec")[0]["fieldPath"], ".crew");
    let spec = &schema["properties"]["spec"]["properties"];
    assert_eq!(spec["seats"]["minimum"], 1.0);
    assert_eq!(spec["line"]["minLength"], 2);
    assert_eq!(spec["line"]["x-kubernetes-validations"][0]["reason"], "FieldValueForbidden");
    assert_eq!(spec["nightTariff"]["default"], true);
    assert_eq!(spec["crew"]["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(spec["crew"]["items"]["x-kubernetes-validations"][0]["message"], "has two names");
    assert_eq!(spec["marks"]["x-kubernetes-map-type"], "atomic");
    assert_eq!(FerryCondition::ALL.len(), 2);
    assert_eq!(FerryCondition::Docked.is(true, "Night", "").type_, "Docked");
}

#[test]
fn objects_are_written_with_their_type_and_read_back() {
    let object = serde_json::to_value(ferry()).unwrap();
    assert_eq!((&object["apiVersion"], &object["kind"]), (&json!("harbour.dev/v1"), &json!("Ferry")));
    assert_eq!(object.get("status"), None);
    let read: v1::Ferry = serde_json::from_value(object).unwrap();
    assert_eq!(read.spec, ferry().spec);
    assert_eq!(read.labels()["harbour.dev/made"], "yes");
}

/// Changes to a good object, and what is said of each.
fn mistakes() -> Vec<(&'static str, Box<dyn Fn(&mut v1::Ferry)>, &'static str)> {
    let status = |taken| Some(v1::FerryStatus { taken });
    vec![
        (
            "too many",
            Box::new(|f| f.spec.seats = 901),
            "spec.seats in body should be less than or equal to 900",
        ),
        (
            "too short",
            Box::new(|f| f.spec.line = "n".into()),
            "spec.line in body should be at least 2 chars long",
        ),
        ("changed", Box::new(|f| f.spec.line = "south".into()), "never changes"),
        ("two names", Box::new(|f| f.spec.crew[0].role = "ann".into()), "has two names"),
        ("crowd", Box::new(|f| f.spec.seats = 0), "spec.seats in body should be greater than or equal to 1"),
        (
            "all crew",
            Box::new(|f| {
                f.spec.seats = 1;
                f.spec.crew.push(v1::Sailor { name: "bob".into(), role: String::new() });
            }),
            "more crew than seats",
        ),
        ("overloaded", Box::new(move |f| f.status = status(41)), "is overloaded"),
    ]
}

#[tokio::test(start_paused = true)]
async fn this_process_and_the_server_agree() {
    let cluster = TestCluster::start().await;
    let definitions = Api::all(cluster.client());
    definitions.create(&PostParams::default(), &v1::Ferry::crd()).await.unwrap();
    let ferries: Api<v1::Ferry> = Api::default_namespaced(cluster.client());
    ferry().check(None).unwrap();
    let kept = ferries.create(&PostParams::default(), &ferry()).await.unwrap();
    for (name, spoil, said) in mistakes() {
        let mut wrong = kept.clone();
        spoil(&mut wrong);
        let here = wrong.check(Some(&kept)).expect_err(name).to_string();
        assert!(here.contains(said), "{name}: {here}");
        let there = match wrong.status {
            // A status has a door of its own.
            Some(_) => ferries.replace_status("main", &PostParams::default(), &wrong).await.map(drop),
            None => ferries.replace("main", &PostParams::default(), &wrong).await.map(drop),
        };
        let there = there.expect_err(name).to_string();
        assert!(there.contains(said), "{name}: {there}");
    }
}

#[test]
fn versions_are_one_definition_and_a_way_between_them() {
    let kind = Kind::of::<v1::Ferry>().version::<v1alpha1::Ferry>();
    let definition = serde_json::to_value(kind.definition()).unwrap();
    let versions = definition["spec"]["versions"].as_array().unwrap();
    let shown: Vec<(&str, bool)> =
        versions.iter().map(|v| (v["name"].as_str().unwrap(), v["storage"].as_bool().unwrap())).collect();
    assert_eq!(shown, [("v1", true), ("v1alpha1", false)]);
    assert_eq!(versions[1]["deprecationWarning"], "use harbour.dev/v1");

    let old: Value =
        kind.versions().convert(serde_json::to_value(ferry()).unwrap(), "harbour.dev/v1alpha1").unwrap();
    let read: v1alpha1::Ferry = serde_json::from_value(old.clone()).unwrap();
    assert_eq!((read.spec.places, read.spec.tariff.night), (40, Some(false)));
    let back: v1::Ferry =
        serde_json::from_value(kind.versions().convert(old, "harbour.dev/v1").unwrap()).unwrap();
    assert_eq!(back.spec, ferry().spec);
}

#[test]
#[should_panic(expected = "harbour.dev/v1 has no place for some fields")]
fn a_field_that_was_forgotten_is_found() {
    check_round_trips::<lossy::Ferry>();
}

#[tokio::test(start_paused = true)]
async fn definitions_are_what_the_server_takes() {
    let cluster = TestCluster::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let merged = Kind::of::<v1::Ferry>().version::<v1alpha1::Ferry>().definition();
    let apply = PatchParams::apply("test");
    definitions.patch("ferries.harbour.dev", &apply, &Patch::Apply(&merged)).await.unwrap();
    let ferries: Api<v1::Ferry> = Api::default_namespaced(cluster.client());
    let mut object = serde_json::to_value(ferry()).unwrap();
    object["spec"].as_object_mut().unwrap().remove("nightTariff");
    let kept = ferries.patch("main", &apply, &Patch::Apply(&object)).await.unwrap();
    assert!(kept.spec.night_tariff, "the default of serde is the server's");
}
