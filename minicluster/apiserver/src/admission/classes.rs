//! DefaultStorageClass, DefaultIngressClass, StorageObjectInUseProtection and PersistentVolumeClaimResize, and the
//! priority classes: what objects get from classes that the cluster has.
//!
//! Classes are read from the store's events, not for each request. Source:
//! `plugin/pkg/admission/{storage,network/defaultingressclass,priority}`.

use std::{cmp::Reverse, collections::BTreeMap};

use minicluster_store::{Snapshot, Store};
use serde_json::Value;
use windlass_crd::{quantity::Quantity, quota::storage_class};

use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
    view::{self, View},
};

const STORAGE: &str = "/registry/storageclasses/";
const INGRESS: &str = "/registry/ingressclasses/";
const PRIORITY: &str = "/registry/priorityclasses/";

/// The classes of the cluster, as of now.
pub struct Classes {
    storage: View<Option<String>>,
    ingress: View<Option<String>>,
    priority: View<Priorities>,
}

impl Classes {
    /// Reads them from the store.
    pub fn new(store: &Store) -> Self {
        Self {
            storage: View::new(store, &[STORAGE], default_of),
            ingress: View::new(store, &[INGRESS], default_of),
            priority: View::new(store, &[PRIORITY], Priorities::read),
        }
    }
}

/// The newest of the classes that are marked as default; of those of one moment the first by name.
fn default_of(snapshot: &Snapshot, prefixes: &'static [&'static str]) -> Option<String> {
    const MARKS: [&str; 3] = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
        "ingressclass.kubernetes.io/is-default-class",
    ];
    let marked = |class: &Value| {
        MARKS.iter().any(|mark| object::text(class, &["metadata", "annotations", mark]) == "true")
    };
    let all = prefixes.iter().flat_map(|prefix| view::objects(snapshot, prefix)).map(|(_, class)| class);
    let made = |class: &Value| object::text(class, &["metadata", "creationTimestamp"]).to_owned();
    all.filter(marked)
        .min_by_key(|class| (Reverse(made(class)), object::name(class).to_owned()))
        .map(|class| object::name(&class).to_owned())
}

/// All priority classes.
#[derive(Debug, Default)]
struct Priorities {
    by_name: BTreeMap<String, (i64, String)>,
    default: Option<String>,
}

impl Priorities {
    fn read(snapshot: &Snapshot, _: &'static [&'static str]) -> Self {
        let mut all = Self::default();
        let mut lowest = i64::MAX;
        for (_, class) in view::objects(snapshot, PRIORITY) {
            let (name, value) = (object::name(&class), object::number(&class, &["value"]).unwrap_or(0));
            let policy = object::text(&class, &["preemptionPolicy"]).to_owned();
            let is_default = class.get("globalDefault").and_then(Value::as_bool) == Some(true);
            if is_default && (all.default.is_none() || value < lowest) {
                lowest = value;
                all.default = Some(name.to_owned());
            }
            all.by_name.insert(name.to_owned(), (value, policy));
        }
        all
    }
}

/// Turns the pod's priority class, or the default one, into a number.
///
/// # Errors
/// 403 for a class that there is none of, and for a pod that gives another number itself.
pub(super) fn priority(cx: &Context, pod: &mut Value) -> ApiResult<()> {
    let classes = cx.api.classes.priority.get();
    let given = object::text(pod, &["spec", "priorityClassName"]).to_owned();
    let name = if given.is_empty() { classes.default.clone() } else { Some(given) };
    let refuse = |pod: &Value, why: String| Err(ApiError::forbidden(&cx.resource, object::name(pod), why));
    let (value, policy) = match &name {
        None => (0, ""),
        Some(name) => match classes.by_name.get(name) {
            Some((value, policy)) => (*value, policy.as_str()),
            None => return refuse(pod, format!("no PriorityClass with name {name} was found")),
        },
    };
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
    if let Some(given) = object::number(pod, &["spec", "priority"]).filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        );
        return refuse(pod, why);
    }
    let given = object::text(pod, &["spec", "preemptionPolicy"]);
    if !given.is_empty() && given != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        );
        return refuse(pod, why);
    }
    if let Some(name) = name {
        object::set(pod, &["spec", "priorityClassName"], name);
    }
    object::set(pod, &["spec", "priority"], value);
    object::set(pod, &["spec", "preemptionPolicy"], policy);
    Ok(())
}

/// A client that leaves out what the server computed does not take it away.
pub(super) fn keep_priority(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if object::at(pod, &["spec", field]).is_none()
            && let Some(known) = object::at(old, &["spec", field])
        {
            object::set(pod, &["spec", field], known.clone());
        }
    }
}

/// There is one default priority class at most.
///
/// # Errors
/// 403 for a second one.
pub(super) fn one_default(cx: &Context, class: &Value, creates: bool) -> ApiResult<()> {
    if class.get("globalDefault").and_then(Value::as_bool) != Some(true) {
        return Ok(());
    }
    let classes = cx.api.classes.priority.get();
    match &classes.default {
        Some(default) if creates || default != object::name(class) => {
            let why =
                format!("PriorityClass {default} is already marked as default. Only one default can exist");
            Err(ApiError::forbidden(&cx.resource, object::name(class), why))
        }
        _ => Ok(()),
    }
}

/// Gives a claim that names no class the default one. True when it did.
pub(super) fn default_storage(cx: &Context, claim: &mut Value) -> bool {
    const OLD: [&str; 3] = ["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"];
    let names =
        object::at(claim, &OLD).is_some() || object::at(claim, &["spec", "storageClassName"]).is_some();
    let default = if names { None } else { (*cx.api.classes.storage.get()).clone() };
    default.map(|class| object::set(claim, &["spec", "storageClassName"], class)).is_some()
}

/// Gives an ingress that names no class the default one. True when it did.
pub(super) fn default_ingress(cx: &Context, ingress: &mut Value) -> bool {
    const OLD: [&str; 3] = ["metadata", "annotations", "kubernetes.io/ingress.class"];
    let names =
        object::at(ingress, &OLD).is_some() || object::at(ingress, &["spec", "ingressClassName"]).is_some();
    let default = if names { None } else { (*cx.api.classes.ingress.get()).clone() };
    default.map(|class| object::set(ingress, &["spec", "ingressClassName"], class)).is_some()
}

/// The finalizer that keeps a storage object while somebody uses it.
pub(super) fn protection(group: &str, plural: &str) -> Option<&'static str> {
    match (group, plural) {
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        ("storage.k8s.io", "volumeattributesclasses") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

/// Adds a finalizer, once.
pub(super) fn protect(obj: &mut Value, finalizer: &str) {
    let mut all = object::finalizers(obj);
    if !all.iter().any(|known| known == finalizer) {
        all.push(finalizer.to_owned());
        object::set(obj, &["metadata", "finalizers"], all);
    }
}

/// A claim grows only when it is bound, and its class allows it.
///
/// # Errors
/// 403 otherwise.
pub(super) fn check_growth(cx: &Context, claim: &Value, old: &Value) -> ApiResult<()> {
    let size = |claim: &Value| {
        let value = object::at(claim, &["spec", "resources", "requests", "storage"]);
        value.and_then(|value| Quantity::from_json(value).ok()).unwrap_or_default()
    };
    if size(claim) <= size(old) {
        return Ok(());
    }
    let refuse = |why: &str| Err(ApiError::forbidden(&cx.resource, object::name(claim), why));
    if object::text(old, &["status", "phase"]) != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let (class, before) = (storage_class(claim), storage_class(old));
    let entry =
        cx.api.store.get(&format!("{STORAGE}{class}")).filter(|_| !class.is_empty() && class == before);
    let stored = entry.and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
    if stored.is_some_and(|class| class.get("allowVolumeExpansion").and_then(Value::as_bool) == Some(true)) {
        return Ok(());
    }
    refuse(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    )
}
