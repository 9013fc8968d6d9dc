//! An OLM bundle: a ClusterServiceVersion that holds the Deployment and the rights, the definitions, and the labels that
//! say where they are.

use serde_json::{Value, json};
use windlass::Place;

use super::{Files, Shipment};
use crate::output;

pub(super) fn files(shipment: &Shipment) -> anyhow::Result<Files> {
    let name = &shipment.description.name;
    let mut files = Files::new();
    // OLM takes no policies and no configurations of webhooks: the operator writes the latter itself, and says where versions
    // are converted.
    for service in shipment.services() {
        let file = service["metadata"]["name"].as_str().unwrap_or_default();
        files.insert(format!("manifests/{file}.service.yaml"), output::yaml(&service)?);
    }
    for definition in shipment.definitions_of_no_place()? {
        let file = definition["metadata"]["name"].as_str().unwrap_or_default();
        files.insert(format!("manifests/{file}.yaml"), output::yaml(&definition)?);
    }
    files.insert(
        format!("manifests/{name}.clusterserviceversion.yaml"),
        output::yaml(&service_version(shipment)?)?,
    );
    let labels = labels(name);
    let annotations: Value =
        labels.iter().map(|(label, value)| ((*label).to_owned(), json!(value))).collect();
    files.insert(
        "metadata/annotations.yaml".to_owned(),
        output::yaml(&json!({ "annotations": annotations }))?,
    );
    let lines: String = labels.iter().map(|(label, value)| format!("LABEL {label}={value}\n")).collect();
    let dockerfile = format!("FROM scratch\n{lines}COPY manifests /manifests/\nCOPY metadata /metadata/\n");
    files.insert("bundle.Dockerfile".to_owned(), dockerfile);
    Ok(files)
}

fn labels(name: &str) -> [(&'static str, &str); 6] {
    [
        ("operators.operatorframework.io.bundle.mediatype.v1", "registry+v1"),
        ("operators.operatorframework.io.bundle.manifests.v1", "manifests/"),
        ("operators.operatorframework.io.bundle.metadata.v1", "metadata/"),
        ("operators.operatorframework.io.bundle.package.v1", name),
        ("operators.operatorframework.io.bundle.channels.v1", "stable"),
        ("operators.operatorframework.io.bundle.channel.default.v1", "stable"),
    ]
}

fn service_version(shipment: &Shipment) -> anyhow::Result<Value> {
    let (name, rules) = (&shipment.description.name, &shipment.description.rules);
    let rights = |place: Place| -> anyhow::Result<Vec<Value>> {
        let rules = rules.policy(&place);
        Ok(if rules.is_empty() {
            vec![]
        } else {
            vec![json!({ "serviceAccountName": name, "rules": rules })]
        })
    };
    // OLM grants rights in the operator's own namespace or everywhere: what is needed in others is asked for everywhere.
    let mut everywhere = rules.policy(&Place::Everywhere);
    for place in rules.places() {
        if let Place::Namespace(_) = place {
            everywhere.extend(rules.policy(&place));
        }
    }
    let everywhere = if everywhere.is_empty() {
        vec![]
    } else {
        vec![json!({ "serviceAccountName": name, "rules": everywhere })]
    };
    Ok(json!({
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": {
            "name": format!("{name}.v{}", shipment.version),
            "annotations": { "capabilities": "Basic Install", "containerImage": shipment.image },
        },
        "spec": {
            "displayName": name,
            "description": format!("The operator {name}."),
            "version": shipment.version,
            "maturity": "alpha",
            "provider": { "name": name },
            "installModes": modes(),
            "customresourcedefinitions": { "owned": owned(shipment) },
            "install": {
                "strategy": "deployment",
                "spec": {
                    "clusterPermissions": everywhere,
                    "permissions": rights(Place::Own)?,
                    "deployments": [{ "name": name, "label": shipment.labels(), "spec": shipment.deployment_spec() }],
                },
            },
        },
    }))
}

/// It watches what it was told to, wherever it is installed.
fn modes() -> Value {
    let mode = |(kind, supported): (&str, bool)| json!({ "type": kind, "supported": supported });
    [("OwnNamespace", false), ("SingleNamespace", false), ("MultiNamespace", false), ("AllNamespaces", true)]
        .into_iter()
        .map(mode)
        .collect()
}

fn owned(shipment: &Shipment) -> Vec<Value> {
    let mut owned = Vec::new();
    for definition in &shipment.description.crds {
        let names = &definition.spec.names;
        for version in definition.spec.versions.iter().filter(|version| version.served) {
            let about =
                version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()?.description.clone());
            owned.push(json!({
                "name": definition.metadata.name,
                "kind": names.kind,
                "version": version.name,
                "displayName": names.kind,
                "description": about.unwrap_or_else(|| names.kind.clone()),
            }));
        }
    }
    owned
}
