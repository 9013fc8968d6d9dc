//! A whole operator: a custom kind, and a child that follows each of its objects. `tests/tests/operator.rs` tries it
//! on a cluster in memory.

use std::process::ExitCode;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{CustomResource, api::Patch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use windlass::{Action, Controller, Error, Operator, Reconcile, Request, controller_ref};

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

/// The operator: its kinds, and what runs.
pub(crate) fn operator() -> Operator {
    Operator::new("rigger").crd::<Sail>().with(|manager| {
        manager.add(Controller::<Sail>::new("rigger").owns::<ConfigMap>().writes_status().build(Rigger));
    })
}

/// `--help` says how it is run; `describe` prints what it brings and needs.
fn main() -> ExitCode {
    operator().main()
}
