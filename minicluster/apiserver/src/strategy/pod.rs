//! Pods: defaults, quality of service, what an update may change, how long a deletion waits.
//!
//! Source: `pkg/registry/core/pod/strategy.go` and `ValidatePodUpdate`.

mod status;
mod update;

use serde_json::{Value, json};
use windlass_crd::{
    field::{self, Error, ErrorList},
    quantity::Quantity,
};

use super::{
    Column, Part, Strategy, columns, container, pod_columns, pod_defaults, pod_spec, template, warnings,
};
use crate::object;

/// Pod.
pub(crate) struct Pod;

/// PodTemplate.
pub(crate) struct PodTemplate;

impl Strategy for Pod {
    fn warnings(&self, obj: &Value) -> Vec<String> {
        warnings::name(obj, "the Pod's hostname").into_iter().chain(warnings::pod(obj, "")).collect()
    }

    fn update_warnings(&self, _: Part, _: &Value, _: &Value) -> Vec<String> {
        Vec::new()
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = obj.get_mut("spec") {
            pod_defaults::spec(spec);
            pod_defaults::pod(spec);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        let mut status = json!({"phase": "Pending", "qosClass": quality_of_service(obj)});
        if !object::list(obj, &["spec", "schedulingGates"]).is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": null,
            }]);
        }
        object::set(obj, &["status"], status);
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value) {
        let taken: fn(&mut Value, &Value) = match part {
            Part::EphemeralContainers => |spec, asked| match asked.get("ephemeralContainers") {
                Some(list) => spec["ephemeralContainers"] = list.clone(),
                None => {
                    object::remove(spec, &["ephemeralContainers"]);
                }
            },
            Part::Resize => take_resources,
            Part::Main | Part::Status | Part::Server => return,
        };
        let asked = obj.get("spec").cloned().unwrap_or_default();
        let mut spec = old.get("spec").cloned().unwrap_or_default();
        taken(&mut spec, &asked);
        obj["spec"] = spec;
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let path = field::root("spec");
        let mut errors = validate_pod(obj);
        if !object::list(obj, &["spec", "ephemeralContainers"]).is_empty() {
            errors.push(Error::forbidden(path.child("ephemeralContainers"), "cannot be set on create"));
        }
        let gates = object::list(obj, &["spec", "schedulingGates"]);
        if !object::text(obj, &["spec", "nodeName"]).is_empty() && !gates.is_empty() {
            let detail = "cannot be set until all schedulingGates have been cleared";
            errors.push(Error::forbidden(path.child("nodeName"), detail));
        }
        template::security_annotations(obj, &path, &mut errors);
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        match part {
            Part::Main => update::main(obj, old),
            Part::EphemeralContainers => update::ephemeral(obj, old),
            Part::Resize => update::resize(obj, old),
            Part::Status => status::validate(obj, old),
            Part::Server => ErrorList::new(),
        }
    }

    fn columns(&self) -> Option<Vec<Column>> {
        Some(pod_columns::all())
    }

    fn fields(&self) -> &'static [(&'static str, fn(&Value) -> String)] {
        &[
            ("spec.nodeName", |o| object::text(o, &["spec", "nodeName"]).to_owned()),
            ("spec.restartPolicy", |o| object::text(o, &["spec", "restartPolicy"]).to_owned()),
            ("spec.schedulerName", |o| object::text(o, &["spec", "schedulerName"]).to_owned()),
            ("spec.serviceAccountName", |o| object::text(o, &["spec", "serviceAccountName"]).to_owned()),
            ("spec.hostNetwork", |o| {
                (object::at(o, &["spec", "hostNetwork"]) == Some(&Value::Bool(true))).to_string()
            }),
            ("status.phase", |o| object::text(o, &["status", "phase"]).to_owned()),
            ("status.podIP", |o| object::text(o, &["status", "podIP"]).to_owned()),
            ("status.nominatedNodeName", |o| object::text(o, &["status", "nominatedNodeName"]).to_owned()),
        ]
    }

    fn grace_period(&self, obj: &Value, asked: Option<i64>) -> Option<i64> {
        let own = || object::number(obj, &["spec", "terminationGracePeriodSeconds"]).unwrap_or(0);
        let unbound = object::text(obj, &["spec", "nodeName"]).is_empty();
        let ended = matches!(object::text(obj, &["status", "phase"]), "Succeeded" | "Failed");
        if unbound || ended {
            return Some(0);
        }
        let seconds = asked.unwrap_or_else(own);
        Some(if seconds < 0 { 1 } else { seconds })
    }
}

impl Strategy for PodTemplate {
    fn warnings(&self, obj: &Value) -> Vec<String> {
        warnings::template(obj, &["template"])
    }

    fn update_warnings(&self, part: Part, obj: &Value, old: &Value) -> Vec<String> {
        if part == Part::Main { warnings::changed_template(obj, old, &["template"]) } else { Vec::new() }
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = obj.pointer_mut("/template/spec") {
            pod_defaults::spec(spec);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        template::validate(obj, "template", &field::EMPTY, &mut errors);
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let joined = |field: &'static str| {
            move |obj: &Value| {
                let containers = object::list(obj, &["template", "spec", "containers"]);
                let texts: Vec<&str> = containers.iter().map(|c| object::text(c, &[field])).collect();
                Value::from(texts.join(","))
            }
        };
        Some(vec![
            Column::new("Containers", joined("name")),
            Column::new("Images", joined("image")),
            columns::made("Pod Labels", |o| {
                columns::selector(object::at(o, &["template", "metadata", "labels"]))
            }),
        ])
    }
}

/// A resize brings new resources for the containers that there are, and nothing else.
fn take_resources(spec: &mut Value, asked: &Value) {
    for list in ["containers", "initContainers"] {
        for container in pod_defaults::items(spec, list) {
            let name = object::text(container, &["name"]).to_owned();
            let wanted = object::list(asked, &[list]).iter().find(|one| object::text(one, &["name"]) == name);
            for field in ["resources", "resizePolicy"] {
                if let Some(value) = wanted.and_then(|one| object::at(one, &[field])) {
                    object::set(container, &[field], value.clone());
                }
            }
        }
    }
}

/// What is wrong with a pod, whoever writes it.
fn validate_pod(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    template::annotations(obj, &field::root("metadata").child("annotations"), &mut errors);
    errors.extend(pod_spec::validate_of(spec, obj.get("metadata"), &path));
    if object::text(spec, &["serviceAccountName"]).is_empty() {
        for (i, volume) in object::list(spec, &["volumes"]).iter().enumerate() {
            for (j, source) in object::list(volume, &["projected", "sources"]).iter().enumerate() {
                if object::at(source, &["serviceAccountToken"]).is_some() {
                    let at = path.child("volumes").index(i).child("projected").child("sources").index(j);
                    let detail = "must not be specified when serviceAccountName is not set";
                    errors.push(Error::forbidden(at.child("serviceAccountToken"), detail));
                }
            }
        }
    }
    container::images_are_trimmed(spec, &path, &mut errors);
    errors
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits of all containers.
pub(crate) fn quality_of_service(pod: &Value) -> &'static str {
    const COMPUTE: [&str; 2] = ["cpu", "memory"];
    let containers: Vec<&Value> =
        ["containers", "initContainers"].iter().flat_map(|list| object::list(pod, &["spec", list])).collect();
    let quantity = |container: &Value, list: &str, resource: &str| {
        let value = object::at(container, &["resources", list, resource])?;
        Quantity::from_json(value).ok().filter(|quantity| quantity.signum() > 0)
    };
    let asks = |c: &&Value| {
        COMPUTE.iter().any(|r| quantity(c, "requests", r).is_some() || quantity(c, "limits", r).is_some())
    };
    if !containers.iter().any(asks) {
        return "BestEffort";
    }
    let guaranteed = |c: &&Value| {
        COMPUTE.iter().all(|r| {
            let limit = quantity(c, "limits", r);
            let request = quantity(c, "requests", r).or_else(|| limit.clone());
            limit.is_some() && request == limit
        })
    };
    if containers.iter().all(guaranteed) { "Guaranteed" } else { "Burstable" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service_is_upstreams() {
        let pod = |resources: Value| {
            json!({"spec": {"containers": resources.as_array().unwrap().iter()
            .map(|r| json!({"resources": r})).collect::<Vec<_>>()}})
        };
        let cases = [
            (json!([{}]), "BestEffort"),
            (json!([{"requests": {"cpu": "1"}}]), "Burstable"),
            (json!([{"limits": {"cpu": "1", "memory": "1Gi"}}]), "Guaranteed"),
            (
                json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}]),
                "Guaranteed",
            ),
            (
                json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}]),
                "Burstable",
            ),
            (json!([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}]), "Burstable"),
            (json!([{"requests": {"nvidia.com/gpu": "1"}}]), "BestEffort"),
        ];
        for (resources, class) in cases {
            assert_eq!(quality_of_service(&pod(resources.clone())), class, "{resources}");
        }
    }

    fn running() -> Value {
        json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"restartPolicy": "Always", "nodeName": "n",
            "terminationGracePeriodSeconds": 30, "dnsPolicy": "Default",
            "containers": [{"name": "c", "image": "i:1", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}],
            "tolerations": [{"key": "a", "operator": "Exists"}]}})
    }

    fn change(f: impl Fn(&mut Value)) -> Vec<String> {
        let mut new = running();
        f(&mut new);
        Pod.validate_update(Part::Main, &new, &running()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn few_fields_may_change() {
        assert_eq!(change(|_| {}), Vec::<String>::new());
        assert_eq!(change(|p| p["spec"]["containers"][0]["image"] = json!("i:2")), Vec::<String>::new());
        assert_eq!(
            change(|p| p["spec"]["tolerations"]
                .as_array_mut()
                .unwrap()
                .push(json!({"key": "b", "operator": "Exists"}))),
            Vec::<String>::new()
        );
        assert_eq!(change(|p| p["spec"]["activeDeadlineSeconds"] = json!(5)), Vec::<String>::new());
        let refused = change(|p| p["spec"]["nodeName"] = json!("other"));
        assert_eq!(refused.len(), 1);
        assert!(refused[0].starts_with(
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
        ));
        assert!(
            refused[0].contains("\n- \"NodeName\": \"n\",\n+ \"NodeName\": \"other\",\n"),
            "{}",
            refused[0]
        );
        assert_eq!(
            change(|p| p["spec"]["tolerations"] = json!([])),
            [
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
            ]
        );
        let more = change(|p| {
            let mut more = p["spec"]["containers"][0].clone();
            more["name"] = json!("d");
            p["spec"]["containers"].as_array_mut().unwrap().push(more);
        });
        assert_eq!(more, ["spec.containers: Forbidden: pod updates may not add or remove containers"]);
    }

    #[test]
    fn a_resize_changes_cpu_and_memory_alone() {
        let mut old = running();
        old["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
        let resized = |f: &dyn Fn(&mut Value)| {
            let mut new = old.clone();
            f(&mut new);
            Pod.prepare_update(Part::Resize, &mut new, &old);
            let errors = Pod.validate_update(Part::Resize, &new, &old);
            (new, errors.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let (pod, errors) = resized(&|p| {
            p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2");
            p["spec"]["containers"][0]["image"] = json!("other");
        });
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "2");
        assert_eq!(pod["spec"]["containers"][0]["image"], "i:1");
        let (_, errors) = resized(&|p| {
            p["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"] = json!("1Gi");
        });
        assert_eq!(errors, ["spec: Forbidden: only cpu and memory resources are mutable"]);
        let (_, errors) = resized(&|p| {
            p["spec"]["containers"][0]["resources"] =
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
        });
        assert_eq!(
            errors,
            ["spec: Invalid value: \"\": Pod QOS Class may not change as a result of resizing"]
        );
    }

    #[test]
    fn deletion_waits_for_bound_pods_only() {
        let pod = running();
        assert_eq!(Pod.grace_period(&pod, None), Some(30));
        assert_eq!(Pod.grace_period(&pod, Some(5)), Some(5));
        let mut unbound = pod.clone();
        unbound["spec"]["nodeName"] = json!("");
        assert_eq!(Pod.grace_period(&unbound, None), Some(0));
        let mut ended = pod;
        ended["status"] = json!({"phase": "Succeeded"});
        assert_eq!(Pod.grace_period(&ended, Some(30)), Some(0));
    }
}
