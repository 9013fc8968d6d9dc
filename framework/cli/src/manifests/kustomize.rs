//! A kustomize base: objects by what they are for, and an image that overlays can set.

use serde_json::json;

use super::{Files, Shipment};
use crate::output;

pub(super) fn files(shipment: &Shipment) -> anyhow::Result<Files> {
    let mut files = Files::new();
    let mut put = |name: &str, objects: &[serde_json::Value]| -> anyhow::Result<()> {
        if !objects.is_empty() {
            files.insert(name.to_owned(), output::documents(objects)?);
        }
        Ok(())
    };
    put("namespace.yaml", &[shipment.namespace()])?;
    put("crds.yaml", &shipment.definitions()?)?;
    put("rbac.yaml", &shipment.rights()?)?;
    put("deployment.yaml", &[shipment.deployment()])?;
    put("services.yaml", &shipment.services())?;
    put("monitoring.yaml", &shipment.monitoring())?;
    put("webhooks.yaml", &shipment.asking())?;
    let order = [
        "namespace.yaml",
        "crds.yaml",
        "rbac.yaml",
        "deployment.yaml",
        "services.yaml",
        "monitoring.yaml",
        "webhooks.yaml",
    ];
    let resources: Vec<&str> = order.into_iter().filter(|name| files.contains_key(*name)).collect();
    let base = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    });
    files.insert("kustomization.yaml".to_owned(), output::yaml(&base)?);
    Ok(files)
}
