//! A Helm chart: definitions in `crds/`, which Helm installs and never deletes; the rest as templates over a short
//! `values.yaml`. Objects are written with marks in them, and the marks are replaced by what Helm fills in.

use serde_json::{Value, json};

use super::{Files, Shipment};
use crate::output;

/// Marks, and what of the chart stands in their places.
const MARKS: [(&str, &str); 4] = [
    ("windlass-mark-namespace", "{{ .Release.Namespace }}"),
    (
        "windlass-mark-image",
        r#""{{ .Values.image.repository }}{{ .Values.image.separator }}{{ .Values.image.tag }}""#,
    ),
    ("windlass-mark-replicas", "{{ .Values.replicas }}"),
    ("windlass-mark-resources", "{{- toYaml .Values.resources | nindent 12 }}"),
];

/// What Helm makes `{{` of.
const BRACES: &str = r#"{{ "{{" }}"#;

pub(super) fn files(shipment: &Shipment) -> anyhow::Result<Files> {
    let [namespace, image, replicas, resources] = MARKS.map(|(mark, _)| mark.to_owned());
    let marked = Shipment {
        description: shipment.description.clone(),
        image,
        namespace,
        replicas: shipment.replicas,
        version: shipment.version.clone(),
        extras: shipment.extras.clone(),
    };
    let mut deployment = marked.deployment();
    let limits = deployment.pointer("/spec/template/spec/containers/0/resources").cloned();
    deployment["spec"]["replicas"] = replicas.into();
    deployment["spec"]["template"]["spec"]["containers"][0]["resources"] = resources.into();

    let (repository, separator, tag) = split(&shipment.image);
    let chart = json!({
        "apiVersion": "v2",
        "name": shipment.description.name,
        "description": format!("The operator {}", shipment.description.name),
        "type": "application",
        "version": shipment.version,
        "appVersion": shipment.version,
    });
    let values = json!({
        "image": { "repository": repository, "separator": separator, "tag": tag },
        "replicas": shipment.replicas,
        "resources": limits,
    });
    let mut files = Files::from([
        ("Chart.yaml".to_owned(), output::yaml(&chart)?),
        ("values.yaml".to_owned(), output::yaml(&values)?),
        ("templates/rbac.yaml".to_owned(), template(&marked.rights()?)?),
        ("templates/deployment.yaml".to_owned(), template(&[deployment])?),
    ]);
    let around = [marked.services(), marked.asking()].concat();
    if !around.is_empty() {
        files.insert("templates/webhooks.yaml".to_owned(), template(&around)?);
    }
    let monitoring = marked.monitoring();
    if !monitoring.is_empty() {
        files.insert("templates/monitoring.yaml".to_owned(), template(&monitoring)?);
    }
    // Helm fills in nothing there: where versions are converted, the operator says itself.
    for definition in shipment.definitions_of_no_place()? {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        files.insert(format!("crds/{name}.yaml"), output::yaml(&definition)?);
    }
    Ok(files)
}

fn template(objects: &[Value]) -> anyhow::Result<String> {
    // Legends and alerts have braces of their own, which Helm is to leave alone.
    let text = output::documents(objects)?.replace("{{", BRACES);
    Ok(MARKS.iter().fold(text, |text, (mark, filled)| {
        let quoted = text.replace(&format!("\"{mark}\""), mark).replace(&format!("'{mark}'"), mark);
        quoted.replace(mark, filled)
    }))
}

/// `registry:5000/name:tag` and `name@sha256:…` in their parts.
fn split(image: &str) -> (&str, &str, &str) {
    if let Some((repository, digest)) = image.split_once('@') {
        return (repository, "@", digest);
    }
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, ":", tag),
        _ => (image, ":", "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_taken_apart() {
        assert_eq!(split("a/b:1"), ("a/b", ":", "1"));
        assert_eq!(split("host:5000/b"), ("host:5000/b", ":", "latest"));
        assert_eq!(split("host:5000/b:2"), ("host:5000/b", ":", "2"));
        assert_eq!(split("b@sha256:ab"), ("b", "@", "sha256:ab"));
    }
}
