//! RuntimeClass and AlwaysPullImages: what a pod's containers run in, and where their images come from.
//!
//! Source: `plugin/pkg/admission/{runtimeclass,alwayspullimages}`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::field::{self, Error};

use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
    strategy::pod_defaults::items,
};

const RUNTIME_CLASSES: &str = "/registry/runtimeclasses/";
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Adds what the pod's runtime class costs and where it runs. Source: `plugin/pkg/admission/runtimeclass`.
pub(super) fn runtime_class(cx: &Context, pod: &mut Value) -> ApiResult<()> {
    let name = object::text(pod, &["spec", "runtimeClassName"]).to_owned();
    let refuse = |pod: &Value, why: String| Err(ApiError::forbidden(&cx.resource, object::name(pod), why));
    let given =
        object::at(pod, &["spec", "overhead"]).filter(|o| o.as_object().is_some_and(|o| !o.is_empty()));
    if name.is_empty() {
        return match given {
            None => Ok(()),
            Some(_) => refuse(
                pod,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into(),
            ),
        };
    }
    let entry = cx.api.store.get(&format!("{RUNTIME_CLASSES}{name}"));
    let Some(class) = entry.and_then(|e| serde_json::from_slice::<Value>(&e.value).ok()) else {
        return refuse(pod, format!("pod rejected: RuntimeClass \"{name}\" not found"));
    };
    let overhead = object::at(&class, &["overhead", "podFixed"]);
    if given.is_some() && given != overhead {
        return refuse(
            pod,
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into(),
        );
    }
    if let Some(overhead) = overhead {
        object::set(pod, &["spec", "overhead"], overhead.clone());
    }
    for (key, value) in
        object::at(&class, &["scheduling", "nodeSelector"]).and_then(Value::as_object).into_iter().flatten()
    {
        let own = object::text(pod, &["spec", "nodeSelector", key]);
        if !own.is_empty() && own != value {
            return refuse(
                pod,
                format!(
                    "pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {own}",
                    value.as_str().unwrap_or_default()
                ),
            );
        }
        object::set(pod, &["spec", "nodeSelector", key], value.clone());
    }
    let mut tolerations = object::list(pod, &["spec", "tolerations"]).to_vec();
    let more = object::list(&class, &["scheduling", "tolerations"]);
    if !more.is_empty() {
        tolerations.extend(more.iter().filter(|t| !tolerations.contains(t)).cloned().collect::<Vec<_>>());
        object::set(pod, &["spec", "tolerations"], tolerations);
    }
    Ok(())
}

/// Whether a pod brings in an image that it did not have.
pub(super) fn has_new_image(pod: &Value, old: Option<&Value>) -> bool {
    let images = |pod: &Value| -> BTreeSet<String> {
        let all = CONTAINERS.iter().flat_map(|list| object::list(pod, &["spec", list]));
        all.map(|container| object::text(container, &["image"]).to_owned()).collect()
    };
    old.is_none_or(|old| !images(pod).is_subset(&images(old)))
}

/// Has every image pulled anew, so that only who may pull it runs it.
pub(super) fn always_pull(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    for list in CONTAINERS {
        items(spec, list).for_each(|container| object::set(container, &["imagePullPolicy"], "Always"));
    }
    for volume in items(spec, "volumes") {
        if object::at(volume, &["image"]).is_some() {
            object::set(volume, &["image", "pullPolicy"], "Always");
        }
    }
}

/// Refuses a pod that a later plugin gave another policy.
///
/// # Errors
/// 403.
pub(super) fn check_pull(cx: &Context, pod: &Value) -> ApiResult<()> {
    let spec = field::root("spec");
    let of_containers = CONTAINERS.iter().flat_map(|list| {
        let path = spec.child(*list);
        let all = object::list(pod, &["spec", list]).iter().enumerate();
        all.map(move |(i, c)| (path.index(i).child("imagePullPolicy"), object::text(c, &["imagePullPolicy"])))
    });
    let volumes = object::list(pod, &["spec", "volumes"]).iter().enumerate();
    let of_volumes = volumes.filter_map(|(i, volume)| {
        let image = object::at(volume, &["image"])?;
        Some((
            spec.child("volumes").index(i).child("image").child("pullPolicy"),
            object::text(image, &["pullPolicy"]),
        ))
    });
    let wrong = of_containers.chain(of_volumes).find(|(_, policy)| *policy != "Always");
    match wrong {
        None => Ok(()),
        Some((path, policy)) => {
            let error = Error::not_supported(path, policy, &["Always"]);
            Err(ApiError::forbidden(&cx.resource, object::name(pod), error))
        }
    }
}
