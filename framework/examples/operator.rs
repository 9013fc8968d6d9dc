//! A whole operator: a custom kind, and a child that follows each of its objects. `tests/tests/operator.rs` tries it
//! on a cluster in memory.

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{CustomResource, CustomResourceExt, api::Patch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use windlass::{
    Action, BoxError, Controller, Error, Manager, ManagerBuilder, Reconcile, Request, controller_ref,
};

/// What is wanted of a sail.
#[derive(CustomResource, Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[kube(group = "harbour.dev", version = "v1", kind = "Sail", namespaced, status = "SailStatus")]
pub(crate) struct SailSpec {
    /// In square metres.
    pub(crate) area: u32,
}

/// What became of a sail.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SailStatus {
    /// The area that is set, in square metres.
    pub(crate) set: u32,
}

/// Keeps a ConfigMap with the area beside every sail.
pub(crate) struct Rigger;

impl Reconcile<Sail> for Rigger {
    async fn reconcile(&self, Request { key, object, client, .. }: Request<Sail>) -> Result<Action, Error> {
        let Some(sail) = object else { return Ok(Action::Done) };
        let ObjectMeta { name, namespace, .. } = sail.metadata.clone();
        let owner_references = Some(vec![controller_ref(&*sail)]);
        let data = [("area".to_owned(), sail.spec.area.to_string())];
        let metadata = ObjectMeta { name, namespace, owner_references, ..ObjectMeta::default() };
        client.apply(&ConfigMap { metadata, data: Some(data.into()), ..ConfigMap::default() }).await?;
        let status = serde_json::json!({ "status": SailStatus { set: sail.spec.area } });
        client.patch_status::<Sail>(&key, &Patch::Merge(status)).await?;
        Ok(Action::Done)
    }
}

/// Adds the operator to a manager.
pub(crate) fn add(manager: &mut ManagerBuilder) {
    manager.add(Controller::<Sail>::new("rigger").owns::<ConfigMap>().build(Rigger));
}

/// Run with `crd` to print the definition, and without to run the operator until Ctrl-C.
#[tokio::main]
async fn main() -> Result<(), BoxError> {
    if std::env::args().nth(1).as_deref() == Some("crd") {
        println!("{}", serde_json::to_string_pretty(&Sail::crd())?);
        return Ok(());
    }
    let mut manager = Manager::builder(kube::Client::try_default().await?);
    add(&mut manager);
    let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    manager.build().run(stop).await
}
