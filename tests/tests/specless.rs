//! Kinds without a spec: declared as the object itself, held to what they say by the server and in the process alike,
//! applied, reconciled and converted like others.

use kube::{
    Api, CustomResourceExt, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use minicluster::TestCluster;
use serde::{Deserialize, Serialize};
use serde_json::json;
use windlass::{
    Action, Apply, Controller, CustomResource, Error, Operator, Reconcile, Request, Schema,
    custom::{self, CustomResource as _, Kind},
};

mod v1 {
    use super::*;

    /// Which colours a ship has.
    #[derive(CustomResource, Clone, Debug, PartialEq, Deserialize)]
    #[kube(group = "harbour.dev", version = "v1", kind = "Palette", namespaced, status = "PaletteStatus")]
    #[kube(printcolumns(("Main", "string", ".main"), ("Coat", "string", ".baseCoat", priority = 1)))]
    #[kube(validation(
        "!has(self.status) || self.status.painted <= 100",
        message = "more than all is painted"
    ))]
    #[serde(rename_all = "camelCase")]
    #[windlass(apply, validation("self.main != self.baseCoat", message = "nobody would see the difference"))]
    pub(crate) struct Palette {
        pub(crate) metadata: kube::api::ObjectMeta,
        /// Above the water.
        #[garde(length(min = 1, max = 20))]
        pub(crate) main: String,
        #[serde(default = "grey")]
        pub(crate) base_coat: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[windlass(list = "map", key = "name")]
        pub(crate) lines: Vec<Line>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub(crate) status: Option<PaletteStatus>,
    }

    pub(crate) fn grey() -> String {
        "grey".to_owned()
    }

    #[derive(Schema, Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Line {
        name: String,
        #[serde(default)]
        colour: String,
    }

    #[derive(Schema, Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(crate) struct PaletteStatus {
        pub(crate) painted: u32,
    }
}

/// Once it had a spec.
mod v1beta1 {
    use super::*;

    #[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[kube(group = "harbour.dev", version = "v1beta1", kind = "Palette", namespaced, storage = false)]
    #[kube(status = "PaletteStatus")]
    #[serde(rename_all = "camelCase")]
    #[windlass(
        hub = v1::Palette,
        moved("/spec/main" => "/main"),
        moved("/spec/undercoat" => "/baseCoat"),
        added("/lines")
    )]
    pub(crate) struct PaletteSpec {
        #[garde(length(min = 1, max = 20))]
        pub(crate) main: String,
        #[serde(default = "v1::grey")]
        pub(crate) undercoat: String,
    }
}

/// And before that it had none, either, under another name.
mod v1alpha1 {
    use super::*;

    #[derive(CustomResource, Clone, Debug, PartialEq, Deserialize)]
    #[kube(group = "harbour.dev", version = "v1alpha1", kind = "Palette", namespaced, storage = false)]
    #[kube(status = "PaletteStatus")]
    #[windlass(
        hub = v1::Palette,
        moved("/colour" => "/main"),
        moved("/undercoat" => "/baseCoat"),
        added("/lines")
    )]
    pub(crate) struct Palette {
        pub(crate) metadata: kube::api::ObjectMeta,
        #[garde(length(min = 1, max = 20))]
        pub(crate) colour: String,
        #[serde(default = "v1::grey")]
        pub(crate) undercoat: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub(crate) status: Option<PaletteStatus>,
    }
}

use v1::{Palette, PaletteApply, PaletteStatus};

fn palette(main: &str) -> Palette {
    let metadata = kube::api::ObjectMeta { name: Some("main".to_owned()), ..Default::default() };
    Palette { metadata, main: main.to_owned(), base_coat: "grey".to_owned(), lines: vec![], status: None }
}

#[test]
fn an_object_says_its_kind_and_has_its_fields_at_the_top() {
    let json = serde_json::to_value(palette("red")).unwrap();
    let wanted = json!({
        "apiVersion": "harbour.dev/v1", "kind": "Palette",
        "metadata": { "name": "main" }, "main": "red", "baseCoat": "grey",
    });
    assert_eq!(json, wanted);
    assert_eq!(serde_json::from_value::<Palette>(json).unwrap(), palette("red"));

    let crd = serde_json::to_value(Palette::crd()).unwrap();
    let version = &crd["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let fields: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["baseCoat", "lines", "main", "status"]);
    assert_eq!(schema["required"], json!(["main"]));
    assert_eq!(schema["description"], "Which colours a ship has.");
    let rules = schema["x-kubernetes-validations"].as_array().unwrap();
    assert_eq!(rules.len(), 2, "the object's and its declaration's: {rules:?}");
    assert_eq!(schema["properties"]["lines"]["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(version["subresources"], json!({ "status": {} }));
    let columns = &version["additionalPrinterColumns"];
    assert_eq!(columns[0], json!({ "name": "Main", "type": "string", "jsonPath": ".main" }));
    assert_eq!(columns[1]["priority"], 1);
    let drawn: Palette = custom::draw(3);
    assert!(drawn.check(None).is_ok() && drawn.main != drawn.base_coat);
}

#[test]
fn what_is_applied_is_what_was_set() {
    let mut twin = PaletteApply::new("main", "sea");
    twin.base_coat = Some("black".to_owned());
    let wanted = json!({
        "apiVersion": "harbour.dev/v1", "kind": "Palette",
        "metadata": { "name": "main", "namespace": "sea" }, "baseCoat": "black",
    });
    assert_eq!(serde_json::to_value(&twin).unwrap(), wanted);
    assert_eq!(Apply::key(&twin).to_string(), "sea/main");
}

#[test]
fn versions_with_and_without_a_spec_become_each_other() {
    let kind = Kind::of::<Palette>().version::<v1beta1::Palette>().version::<v1alpha1::Palette>();
    let spec = v1beta1::PaletteSpec { main: "red".to_owned(), undercoat: "black".to_owned() };
    let old = serde_json::to_value(v1beta1::Palette::new("main", spec)).unwrap();
    let new = kind.versions().convert(old.clone(), "harbour.dev/v1").unwrap();
    assert_eq!((&new["main"], &new["baseCoat"]), (&json!("red"), &json!("black")));
    assert_eq!(new.get("spec"), None);
    let oldest = kind.versions().convert(old.clone(), "harbour.dev/v1alpha1").unwrap();
    assert_eq!((&oldest["colour"], &oldest["undercoat"]), (&json!("red"), &json!("black")));
    assert_eq!(kind.versions().convert(oldest, "harbour.dev/v1beta1").unwrap()["spec"], old["spec"]);
}

/// Paints everything.
struct Painter;

impl Reconcile<Palette> for Painter {
    async fn reconcile(&self, request: Request<Palette>) -> Result<Action, Error> {
        let Some(_) = request.object else { return Ok(Action::Done) };
        let status = json!({ "status": PaletteStatus { painted: 100 } });
        request.client.patch_status::<Palette>(&request.key, &Patch::Merge(status)).await?;
        Ok(Action::Done)
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_holds_it_to_what_the_process_does() {
    let cluster = TestCluster::start().await;
    let operator = Operator::new("painter").crd::<Palette>().with(|manager| {
        manager.add(Controller::<Palette>::new("painter").writes_status().build(Painter));
    });
    let _running = cluster.run_operator(&operator).await;
    let palettes: Api<Palette> = Api::default_namespaced(cluster.client());
    for wrong in [palette(""), palette("grey")] {
        let refused = palettes.create(&PostParams::default(), &wrong).await.unwrap_err().to_string();
        let said = wrong.check(None).unwrap_err().to_string();
        let why = said.rsplit(": ").next().unwrap();
        assert!(refused.contains(why), "{refused}; {said}");
    }
    let made = palettes.create(&PostParams::default(), &palette("red")).await.unwrap();
    assert_eq!((made.main.as_str(), made.name_any().as_str()), ("red", "main"));
    assert!(cluster.settle().await);
    assert_eq!(palettes.get("main").await.unwrap().status, Some(PaletteStatus { painted: 100 }));

    let mut twin = PaletteApply::new("main", "default");
    twin.base_coat = Some("black".to_owned());
    let applied =
        palettes.patch("main", &PatchParams::apply("dyer").force(), &Patch::Apply(&twin)).await.unwrap();
    assert_eq!((applied.main.as_str(), applied.base_coat.as_str()), ("red", "black"));
}
