//! Defaults of pod specs that depend on other fields. Static ones come with the schema.
//!
//! Source: `pkg/apis/core/v1/defaults.go`.

use serde_json::{Value, json};

use crate::object;

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Completes a pod spec wherever it stands.
pub(crate) fn spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for list in CONTAINER_LISTS {
        for container in items(spec, list) {
            container_defaults(container);
        }
    }
    for volume in items(spec, "volumes") {
        let bare =
            volume.as_object().is_some_and(|map| map.iter().all(|(key, v)| key == "name" || v.is_null()));
        if bare {
            object::set(volume, &["emptyDir"], json!({}));
        }
    }
    mirror(spec, "serviceAccountName", "serviceAccount");
    if object::at(spec, &["securityContext"]).is_none() {
        object::set(spec, &["securityContext"], json!({}));
    }
}

/// What only a Pod itself gets, not a template of one.
pub(crate) fn pod(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    if object::at(spec, &["enableServiceLinks"]).is_none() {
        object::set(spec, &["enableServiceLinks"], true);
    }
    let host_network = object::at(spec, &["hostNetwork"]) == Some(&Value::Bool(true));
    for list in ["initContainers", "containers"] {
        for container in items(spec, list) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
}

/// The mutable items of a list, if it is one.
pub(crate) fn items<'v>(obj: &'v mut Value, list: &str) -> impl Iterator<Item = &'v mut Value> {
    obj.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
}

fn container_defaults(container: &mut Value) {
    if object::text(container, &["imagePullPolicy"]).is_empty() {
        let image = object::text(container, &["image"]);
        let policy = if !image.is_empty() && is_latest(image) { "Always" } else { "IfNotPresent" };
        object::set(container, &["imagePullPolicy"], policy);
    }
}

/// Whether an image is named without tag and digest, or by the tag `latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return image.split('@').next().and_then(tag) == Some("latest");
    }
    tag(image).is_none_or(|tag| tag == "latest")
}

fn tag(image: &str) -> Option<&str> {
    image.rsplit('/').next()?.split_once(':').map(|(_, tag)| tag)
}

/// The old and the new name of one field carry the same value.
fn mirror(spec: &mut Value, name: &str, old_name: &str) {
    let (new, old) = (object::text(spec, &[name]).to_owned(), object::text(spec, &[old_name]).to_owned());
    if !new.is_empty() {
        object::set(spec, &[old_name], new);
    } else if !old.is_empty() {
        object::set(spec, &[name], old);
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(Value::Object(limits)) = object::at(container, &["resources", "limits"]).cloned() else {
        return;
    };
    for (resource, quantity) in limits {
        if object::at(container, &["resources", "requests", &resource]).is_none() {
            object::set(container, &["resources", "requests", &resource], quantity);
        }
    }
}

fn host_ports(container: &mut Value) {
    for port in items(container, "ports") {
        if object::number(port, &["hostPort"]).unwrap_or(0) == 0
            && let Some(number) = object::number(port, &["containerPort"])
        {
            object::set(port, &["hostPort"], number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.25", false),
            ("localhost:5000/nginx", true),
            ("localhost:5000/nginx:1", false),
            ("nginx@sha256:abc", false),
            ("nginx:latest@sha256:abc", true),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn pods_get_more_than_templates() {
        let given = json!({"hostNetwork": true, "serviceAccountName": "s", "volumes": [{"name": "v"}],
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                            "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1Gi"}}}]});
        let mut template = given.clone();
        spec(&mut template);
        assert_eq!(template["volumes"], json!([{"name": "v", "emptyDir": {}}]));
        assert_eq!(template["serviceAccount"], "s");
        assert_eq!(template["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(template["containers"][0]["ports"], given["containers"][0]["ports"]);
        pod(&mut template);
        assert_eq!(template["enableServiceLinks"], true);
        assert_eq!(template["containers"][0]["ports"][0]["hostPort"], 80);
        assert_eq!(template["containers"][0]["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
    }
}
