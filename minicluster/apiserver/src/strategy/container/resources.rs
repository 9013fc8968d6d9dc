//! What containers and pods ask for and are limited to.
//!
//! Source: `validateResourceRequirements`, `validatePodResources`, `validateResizePolicy`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
    quantity::Quantity,
};

use super::super::pod_spec::told;
use crate::object;

const HUGE: &str = "hugepages-";

/// Who asks: the names that a pod as a whole may ask for are fewer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    Container,
    Pod,
}

/// Requests and limits of a container, or a claim's.
pub(crate) fn of_container(resources: &Value, claims: &BTreeSet<&str>, path: &Path, errors: &mut ErrorList) {
    requirements(resources, Asker::Container, claims, path, errors);
}

fn quantity(resources: &Value, list: &str, resource: &str) -> Option<Quantity> {
    object::at(resources, &[list, resource]).and_then(|value| Quantity::from_json(value).ok())
}

fn entries<'v>(resources: &'v Value, list: &str) -> impl Iterator<Item = (&'v str, &'v Value)> {
    let map = object::at(resources, &[list]).and_then(Value::as_object);
    map.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn requirements(
    resources: &Value,
    asker: Asker,
    claims: &BTreeSet<&str>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let (mut compute, mut huge) = (false, false);
    for list in ["limits", "requests"] {
        for (resource, value) in entries(resources, list) {
            let at = path.child(list).key(resource);
            match asker {
                Asker::Container => container_name(resource, &at, errors),
                Asker::Pod => pod_name(resource, &at, errors),
            }
            let given = match Quantity::from_json(value) {
                Ok(given) => given,
                Err(why) => {
                    errors.push(Error::invalid(&at, value.clone(), why.to_string()));
                    continue;
                }
            };
            amount(resource, &given, &at, errors);
            if list == "requests" {
                fits_limit(resources, resource, &given, path, errors);
            }
            if resource.starts_with(HUGE) {
                huge = true;
                if !is_whole_pages(resource, &given) {
                    let detail = format!("{given} is not positive integer multiple of {resource}");
                    errors.push(Error::invalid(&at, given.to_string(), detail));
                }
            }
            compute |= matches!(resource, "cpu" | "memory");
        }
    }
    if huge && !compute {
        errors.push(Error::forbidden(path, "HugePages require cpu or memory"));
    }
    claim_names(resources, claims, &path.child("claims"), errors);
}

/// An amount of a resource: not below zero, and whole where it counts things.
pub(crate) fn amount(resource: &str, given: &Quantity, path: &Path, errors: &mut ErrorList) {
    if given.signum() < 0 {
        errors.push(Error::invalid(path, given.to_string(), "must be greater than or equal to 0"));
    }
    if counts_things(resource) && !given.is_integer() {
        errors.push(Error::invalid(path, given.to_string(), "must be an integer"));
    }
}

/// Whether a resource comes in whole pieces: counts, and what has a domain of its own.
pub(crate) fn counts_things(resource: &str) -> bool {
    const COUNTED: [&str; 9] = [
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    ];
    COUNTED.contains(&resource) || is_extended(resource)
}

/// Kubernetes' own resources may be asked for below their limit; others may not.
fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}

/// Whether more may be given out of a resource than there is.
pub(crate) fn may_overcommit(resource: &str) -> bool {
    is_native(resource) && !resource.starts_with(HUGE)
}

fn is_extended(resource: &str) -> bool {
    !is_native(resource)
        && !resource.starts_with("requests.")
        && name::qualified_name_faults(&format!("requests.{resource}")).is_empty()
}

fn fits_limit(resources: &Value, resource: &str, given: &Quantity, path: &Path, errors: &mut ErrorList) {
    let may_differ = may_overcommit(resource);
    let at = path.child("requests");
    let told = |how: &str, limit: &Quantity| {
        Error::invalid(&at, given.to_string(), format!("must be {how} {resource} limit of {limit}"))
    };
    match quantity(resources, "limits", resource) {
        Some(limit) if *given != limit && !may_differ => errors.push(told("equal to", &limit)),
        Some(limit) if *given > limit => errors.push(told("less than or equal to", &limit)),
        None if !may_differ => {
            let detail = "Limit must be set for non overcommitable resources";
            errors.push(Error::required(path.child("limits"), detail));
        }
        _ => {}
    }
}

fn is_whole_pages(resource: &str, given: &Quantity) -> bool {
    let size = resource.strip_prefix(HUGE).and_then(|size| size.parse::<Quantity>().ok());
    let Some(size) = size.filter(|size| size.signum() > 0 && size.is_integer()) else { return false };
    given.value() % size.value() == 0
}

/// A resource that exists, or is somebody's own. True when its name is fine.
pub(crate) fn known_name(resource: &str, path: &Path, errors: &mut ErrorList) -> bool {
    const STANDARD: [&str; 20] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "storage",
        "requests.storage",
        "services.nodeports",
        "services.loadbalancers",
    ];
    let faults = name::qualified_name_faults(resource);
    if !faults.is_empty() {
        told(faults, path, resource, errors);
        return false;
    }
    let huge = resource.starts_with(HUGE) || resource.starts_with("requests.hugepages-");
    if !resource.contains('/') && !STANDARD.contains(&resource) && !huge {
        errors.push(Error::invalid(path, resource, "must be a standard resource type or fully qualified"));
        return false;
    }
    true
}

/// A resource that containers may ask for.
pub(crate) fn container_name(resource: &str, path: &Path, errors: &mut ErrorList) {
    known_name(resource, path, errors);
    let standard = matches!(resource, "cpu" | "memory" | "ephemeral-storage") || resource.starts_with(HUGE);
    if !resource.contains('/') {
        if !standard {
            errors.push(Error::invalid(path, resource, "must be a standard resource for containers"));
        }
    } else if !is_native(resource) && !is_extended(resource) {
        errors.push(Error::invalid(path, resource, "doesn't follow extended resource name standard"));
    }
}

fn pod_name(resource: &str, path: &Path, errors: &mut ErrorList) {
    const ALLOWED: [&str; 3] = ["cpu", "hugepages-", "memory"];
    if known_name(resource, path, errors)
        && !matches!(resource, "cpu" | "memory")
        && !resource.starts_with(HUGE)
    {
        errors.push(Error::not_supported(path, resource, &ALLOWED));
    }
}

fn claim_names(resources: &Value, known: &BTreeSet<&str>, path: &Path, errors: &mut ErrorList) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in object::list(resources, &["claims"]).iter().enumerate() {
        let at = path.index(i);
        let (given, request) = (object::text(claim, &["name"]), object::text(claim, &["request"]));
        if given.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        if seen.contains(given) {
            errors.push(Error::duplicate(&at, given));
        } else {
            let mut key = given.to_owned();
            if !request.is_empty() {
                told(name::dns1123_label_faults(request), &at.child("request"), request, errors);
                key = format!("{given}/{request}");
            }
            if seen.contains(&key) {
                errors.push(Error::duplicate(&at, key.as_str()));
            } else if request.is_empty() {
                let parts = seen.iter().filter(|one| one.split_once('/').is_some_and(|(a, _)| a == given));
                errors.extend(parts.map(|_| Error::duplicate(&at, given)));
            }
            seen.insert(key);
        }
        if !known.contains(given) {
            let names: Vec<&str> = known.iter().copied().collect();
            let rest = if names.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", names.join(", "))
            };
            let mut error = Error::not_found(&at, given);
            error.detail = format!("must be one of the names in pod.spec.resourceClaims{rest}");
            errors.push(error);
        }
    }
}

/// What a pod as a whole asks for, and whether its containers stay within it.
pub(in super::super) fn of_pod(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(resources) = object::at(spec, &["resources"]) else { return };
    let path = path.child("resources");
    if object::text(spec, &["os", "name"]) == "windows" {
        errors.push(Error::forbidden(path, "may not be set for a windows pod"));
        return;
    }
    if object::at(resources, &["claims"]).is_some() {
        let detail = "claims may not be set for Resources at pod-level";
        errors.push(Error::forbidden(path.child("claims"), detail));
    }
    requirements(resources, Asker::Pod, &BTreeSet::new(), &path, errors);
    let sum = |list: &str, resource: &str| {
        let of = |container: &Value| {
            let own = quantity(&container["resources"], list, resource);
            // What is limited is asked for, when nothing is said.
            own.or_else(|| quantity(&container["resources"], "limits", resource))
        };
        aggregate(spec, of)
    };
    for (resource, _) in entries(resources, "requests") {
        let (Some(most), given) = (quantity(resources, "requests", resource), sum("requests", resource))
        else {
            continue;
        };
        if let Some(given) = given.filter(|given| *given > most) {
            let detail = format!("must be greater than or equal to aggregate container requests of {given}");
            errors.push(Error::invalid(path.child("requests").key(resource), most.to_string(), detail));
        }
    }
    for (resource, _) in entries(resources, "limits").filter(|(resource, _)| resource.starts_with(HUGE)) {
        let (Some(most), given) = (quantity(resources, "limits", resource), sum("limits", resource)) else {
            continue;
        };
        if let Some(given) = given.filter(|given| *given > most) {
            let detail = format!("must be greater than or equal to aggregate container limits of {given}");
            errors.push(Error::invalid(path.child("limits").key(resource), most.to_string(), detail));
        }
    }
    for (i, container) in object::list(spec, &["containers"]).iter().enumerate() {
        for (resource, _) in entries(&container["resources"], "limits") {
            let own = quantity(&container["resources"], "limits", resource);
            let (Some(own), Some(most)) = (own, quantity(resources, "limits", resource)) else { continue };
            if own > most {
                let at = path.child("containers").index(i).key(resource).child("limits");
                let detail = format!("must be less than or equal to pod limits of {most}");
                errors.push(Error::invalid(at, own.to_string(), detail));
            }
        }
    }
}

/// What all containers of a pod need at once: those that run, or one that comes before them with what stays beside it.
fn aggregate(spec: &Value, of: impl Fn(&Value) -> Option<Quantity>) -> Option<Quantity> {
    let plus = |a: Option<Quantity>, b: Option<Quantity>| match (a, b) {
        (Some(a), Some(b)) => Some(&a + &b),
        (a, b) => a.or(b),
    };
    let running = object::list(spec, &["containers"]).iter().fold(None, |sum, one| plus(sum, of(one)));
    let (mut beside, mut before): (Option<Quantity>, Option<Quantity>) = (None, None);
    for container in object::list(spec, &["initContainers"]) {
        let own = of(container);
        let needed = plus(beside.clone(), own.clone());
        if object::text(container, &["restartPolicy"]) == "Always" {
            beside = needed.clone();
        }
        before = before.max(needed);
    }
    plus(running, beside).max(before)
}

pub(super) fn resize_policy(container: &Value, never: bool, path: &Path, errors: &mut ErrorList) {
    const RESOURCES: [&str; 2] = ["cpu", "memory"];
    const POLICIES: [&str; 2] = ["NotRequired", "RestartContainer"];
    let mut seen = BTreeSet::new();
    for (i, policy) in object::list(container, &["resizePolicy"]).iter().enumerate() {
        let (resource, restart) =
            (object::text(policy, &["resourceName"]), object::text(policy, &["restartPolicy"]));
        if !seen.insert(resource) {
            errors.push(Error::duplicate(path.index(i), resource));
        }
        for (given, allowed) in [(resource, RESOURCES), (restart, POLICIES)] {
            if given.is_empty() {
                errors.push(Error::required(path, ""));
            } else if !allowed.contains(&given) {
                errors.push(Error::not_supported(path, given, &allowed));
            }
        }
        if never && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(Error::invalid(path, restart, detail));
        }
    }
}
