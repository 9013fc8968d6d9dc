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
    let around = shipment.services().into_iter().chain(shipment.monitoring()).chain(shipment.readers()?);
    for object in around {
        let of = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let file = format!("manifests/{}.{}.yaml", of("/metadata/name"), of("/kind").to_lowercase());
        // The namespace is the one that it is installed in.
        let mut object = object.clone();
        object["metadata"].as_object_mut().map(|metadata| metadata.remove("namespace"));
        files.insert(file, output::yaml(&object)?);
    }
    for definition in shipment.definitions_of_no_place()? {
        let file = definition["metadata"]["name"].as_str().unwrap_or_default();
        files.insert(format!("manifests/{file}.yaml"), output::yaml(&definition)?);
    }
    files.insert(
        format!("manifests/{name}.clusterserviceversion.yaml"),
        output::yaml(&service_version(shipment))?,
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

fn service_version(shipment: &Shipment) -> Value {
    let (name, rules) = (&shipment.description.name, &shipment.description.rules);
    // OLM makes Roles of `permissions` in the operator's namespace and in each that it is to watch, and lifts them to
    // ClusterRoles where that is all of them. What is needed in others by their names is asked for everywhere.
    let rights = |wanted: &dyn Fn(&Place) -> bool| -> Vec<Value> {
        let rules: Vec<_> =
            rules.places().iter().filter(|p| wanted(p)).flat_map(|p| rules.policy(p)).collect();
        if rules.is_empty() { vec![] } else { vec![json!({ "serviceAccountName": name, "rules": rules })] }
    };
    let deployment = deployment(shipment);
    let here = |place: &Place| matches!(place, Place::Own | Place::Watched);
    json!({
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
            "installModes": modes(shipment),
            "customresourcedefinitions": { "owned": owned(shipment) },
            "install": {
                "strategy": "deployment",
                "spec": {
                    "clusterPermissions": rights(&|place| !here(place)),
                    "permissions": rights(&here),
                    "deployments": [{ "name": name, "label": shipment.labels(), "spec": deployment }],
                },
            },
        },
    })
}

/// OLM says which namespaces are to be watched. Where versions are converted, it takes operators of the whole cluster alone,
/// and so it is where the code names namespaces.
fn modes(shipment: &Shipment) -> Value {
    let about = &shipment.description;
    let converts = about.webhooks.iter().any(|endpoint| !endpoint.conversions.is_empty());
    let chosen = !converts && about.rules.places().contains(&Place::Watched);
    let mode = |(kind, supported): (&str, bool)| json!({ "type": kind, "supported": supported });
    let modes = [
        ("OwnNamespace", chosen),
        ("SingleNamespace", chosen),
        ("MultiNamespace", chosen),
        ("AllNamespaces", true),
    ];
    modes.into_iter().map(mode).collect()
}

/// The Deployment, told by OLM what to watch.
fn deployment(shipment: &Shipment) -> Value {
    let mut spec = shipment.deployment_spec();
    let targets = "metadata.annotations['olm.targetNamespaces']";
    spec["template"]["spec"]["containers"][0]["env"] =
        json!([{ "name": "WATCH_NAMESPACE", "valueFrom": { "fieldRef": { "fieldPath": targets } } }]);
    spec
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
