//! From facts to a report. Pure: no client, and the time is given.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Serialize;
use serde_json::Value;
use windlass::{Diagnostics, Failure};

use super::{operator, pods};

/// Events that are shown.
const EVENTS: usize = 10;

/// What was fetched.
#[derive(Default)]
pub(super) struct Facts {
    /// The object.
    pub(super) subject: Value,
    /// What belongs to it, and to that, in whatever order.
    pub(super) family: Vec<Value>,
    /// Who it belongs to, from the nearest on: what it is called, and whether it is there.
    pub(super) owners: Vec<(String, bool)>,
    /// Events about the object and its family.
    pub(super) events: Vec<Value>,
    /// Quotas of its namespace.
    pub(super) quotas: Vec<Value>,
    /// Nodes and pods of the cluster, where a pod waits for a node.
    pub(super) nodes: Vec<Node>,
    pub(super) pods: Vec<Pod>,
    /// What an operator fails at.
    pub(super) failures: Vec<Failure>,
    /// What an operator does at this moment.
    pub(super) doing: Diagnostics,
}

/// What an object waits for.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    waits: Waits,
    owners: Vec<String>,
    failures: Vec<String>,
    events: Vec<String>,
}

/// What one object waits for, and what of its family does.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Waits {
    object: String,
    reasons: Vec<String>,
    family: Vec<Self>,
}

impl Report {
    pub(super) fn new(facts: &Facts, now: Timestamp) -> Self {
        let owner = |(name, there): &(String, bool)| match there {
            true => name.clone(),
            false => format!("{name}, which is gone: the garbage collector deletes what is left"),
        };
        let mut events: Vec<&Value> = facts.events.iter().collect();
        events.sort_by_key(|event| std::cmp::Reverse(when(event)));
        Self {
            waits: waits(facts, &facts.subject, now).unwrap_or_else(|| Waits {
                object: called(&facts.subject),
                reasons: Vec::new(),
                family: Vec::new(),
            }),
            owners: facts.owners.iter().map(owner).collect(),
            failures: [failures(facts, now), operator::doing(facts, now)].concat(),
            events: events.iter().take(EVENTS).map(|event| said(event, now)).collect(),
        }
    }
}

/// What an object is called: `Deployment default/web`.
pub(super) fn called(object: &Value) -> String {
    let kind = text(object, "/kind");
    match (text(object, "/metadata/namespace"), text(object, "/metadata/name")) {
        ("", name) => format!("{kind} {name}"),
        (namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}

pub(super) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, path: &str) -> Option<i64> {
    value.pointer(path).and_then(Value::as_i64)
}

/// `None` when neither it nor its family waits.
fn waits(facts: &Facts, object: &Value, now: Timestamp) -> Option<Waits> {
    let uid = text(object, "/metadata/uid");
    let belongs = |child: &&Value| {
        let owners = child["metadata"]["ownerReferences"].as_array();
        owners.into_iter().flatten().any(|owner| !uid.is_empty() && text(owner, "/uid") == uid)
    };
    let mut family: Vec<Waits> =
        facts.family.iter().filter(belongs).filter_map(|child| waits(facts, child, now)).collect();
    family.sort_by(|a, b| a.object.cmp(&b.object));
    let reasons = reasons(facts, object, now);
    (!reasons.is_empty() || !family.is_empty()).then(|| Waits { object: called(object), reasons, family })
}

fn reasons(facts: &Facts, object: &Value, now: Timestamp) -> Vec<String> {
    let mut reasons = Vec::new();
    reasons.extend(deletion(object, now));
    if let (Some(is), Some(seen)) =
        (number(object, "/metadata/generation"), number(object, "/status/observedGeneration"))
        && seen < is
    {
        reasons.push(format!("its controller has not seen generation {is} yet, and last saw {seen}"));
    }
    let is_pod = text(object, "/kind") == "Pod" && text(object, "/apiVersion") == "v1";
    if is_pod {
        reasons.extend(pods::reasons(facts, object));
    }
    reasons.extend(counts(object));
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let wrong = conditions.filter(|condition| is_wrong(condition) && !(is_pod && pods::tells(condition)));
    reasons.extend(wrong.map(|condition| condition_says(condition, now)));
    reasons.extend(phase(object));
    reasons.extend(selects_nobody(facts, object));
    if reasons.iter().any(|reason| reason.contains("exceeded quota")) {
        reasons.extend(facts.quotas.iter().flat_map(quota));
    }
    reasons
}

/// Why an object that is being deleted is still there.
fn deletion(object: &Value, now: Timestamp) -> Vec<String> {
    let since = text(object, "/metadata/deletionTimestamp");
    if since.is_empty() {
        return Vec::new();
    }
    let strings = |path: &str| {
        let all = object.pointer(path).and_then(Value::as_array).into_iter().flatten();
        all.filter_map(Value::as_str).collect::<Vec<_>>()
    };
    let finalizers = [strings("/metadata/finalizers"), strings("/spec/finalizers")].concat();
    let mut reasons = vec![match finalizers.is_empty() {
        true => format!("it is being deleted, {}", ago(since, now)),
        false => format!("it is being deleted, {}, and held by {}", ago(since, now), finalizers.join(", ")),
    }];
    for finalizer in finalizers {
        match finalizer {
            "foregroundDeletion" => {
                reasons.push("foregroundDeletion: what belongs to it has to go first".to_owned());
            }
            "kubernetes.io/pvc-protection" | "kubernetes.io/pv-protection" => {
                reasons.push(format!("{finalizer}: somebody still uses it"));
            }
            "kubernetes" => {
                reasons.push("kubernetes: everything in the namespace has to go first".to_owned());
            }
            _ => {}
        }
    }
    reasons
}

/// Kinds that want a number of something: what they are called there, what is wanted, and what there is.
const COUNTS: [(&str, &str, &str, &str); 5] = [
    ("Deployment", "replicas are ready", "/spec/replicas", "/status/readyReplicas"),
    ("ReplicaSet", "replicas are ready", "/spec/replicas", "/status/readyReplicas"),
    ("StatefulSet", "replicas are ready", "/spec/replicas", "/status/readyReplicas"),
    ("DaemonSet", "nodes have it ready", "/status/desiredNumberScheduled", "/status/numberReady"),
    ("Job", "completions are there", "/spec/completions", "/status/succeeded"),
];

fn counts(object: &Value) -> Option<String> {
    let kind = text(object, "/kind");
    let (_, what, wanted, have) = COUNTS.iter().find(|(of, ..)| *of == kind)?;
    let (wanted, have) = (number(object, wanted)?, number(object, have).unwrap_or(0));
    (have < wanted).then(|| format!("{have} of {wanted} {what}"))
}

/// Conditions that are good when they are false.
fn is_negative(kind: &str) -> bool {
    let ends = ["Pressure", "Failure", "Failed", "Unavailable", "Stalled", "Degraded", "Conflict"];
    let others = [
        "Suspended",
        "Terminating",
        "DisruptionTarget",
        "FailureTarget",
        "NamespaceContentRemaining",
        "NamespaceFinalizersRemaining",
        "NonStructuralSchema",
        "DeletionFailure",
    ];
    ends.iter().any(|end| kind.ends_with(end)) || kind.contains("Failure") || others.contains(&kind)
}

fn is_wrong(condition: &Value) -> bool {
    let (kind, status) = (text(condition, "/type"), text(condition, "/status"));
    if is_negative(kind) { status == "True" } else { status != "True" }
}

fn condition_says(condition: &Value, now: Timestamp) -> String {
    let (kind, status) = (text(condition, "/type"), text(condition, "/status"));
    let since = text(condition, "/lastTransitionTime");
    let since = if since.is_empty() { String::new() } else { format!(", {}", ago(since, now)) };
    let why = [text(condition, "/reason"), text(condition, "/message")];
    let why = why.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    format!("{kind} is {status}{since}{why}")
}

fn phase(object: &Value) -> Option<String> {
    let phase = text(object, "/status/phase");
    let claim = text(object, "/kind") == "PersistentVolumeClaim" && phase != "Bound" && !phase.is_empty();
    claim.then(|| {
        let class = text(object, "/spec/storageClassName");
        let class = if class.is_empty() {
            "without a storage class".to_owned()
        } else {
            format!("of storage class {class}")
        };
        format!("it is {phase}: no volume {class} is bound to it")
    })
}

/// A Service that sends traffic nowhere.
fn selects_nobody(facts: &Facts, object: &Value) -> Option<String> {
    let selects = text(object, "/kind") == "Service" && object["spec"]["selector"].is_object();
    let uid = text(object, "/metadata/uid");
    let slices = facts.family.iter().filter(|child| {
        text(child, "/kind") == "EndpointSlice" && text(child, "/metadata/ownerReferences/0/uid") == uid
    });
    let mut endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.any(|endpoint| endpoint["conditions"]["ready"] != false);
    (selects && !ready)
        .then(|| format!("no pod that is ready has the labels it selects: {}", object["spec"]["selector"]))
}

/// What of a quota is used up.
fn quota(quota: &Value) -> Vec<String> {
    let hard = quota["status"]["hard"].as_object();
    let line = |(resource, hard): (&String, &Value)| {
        let used = &quota["status"]["used"][resource];
        let (hard, used) = (hard.as_str()?, used.as_str()?);
        Some(format!("quota {}: {used} of {hard} {resource} are used", text(quota, "/metadata/name")))
    };
    hard.into_iter().flatten().filter_map(line).collect()
}

fn failures(facts: &Facts, now: Timestamp) -> Vec<String> {
    let keys = keys(facts);
    let of_it = facts.failures.iter().filter(|failure| keys.contains(&failure.key));
    let line = |f: &Failure| {
        let last = ago(&f.last.to_string(), now);
        format!("{} failed {} times at {}, last {last}: {}", f.controller, f.failures, f.key, f.error)
    };
    of_it.map(line).collect()
}

/// The object and its family, as an operator names them.
pub(super) fn keys(facts: &Facts) -> Vec<String> {
    std::iter::once(&facts.subject).chain(&facts.family).map(key).collect()
}

fn key(object: &Value) -> String {
    match (text(object, "/metadata/namespace"), text(object, "/metadata/name")) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

/// When an event was seen last.
fn when(event: &Value) -> String {
    let paths = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/firstTimestamp",
        "/metadata/creationTimestamp",
    ];
    paths.iter().map(|path| text(event, path)).find(|time| !time.is_empty()).unwrap_or_default().to_owned()
}

fn said(event: &Value, now: Timestamp) -> String {
    let about = format!("{}/{}", text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
    let count = number(event, "/series/count").or_else(|| number(event, "/count")).unwrap_or(1);
    let times = if count > 1 { format!(" ({count} times)") } else { String::new() };
    let (kind, reason) = (text(event, "/type"), text(event, "/reason"));
    format!("{}: {kind} {reason} {about}{times}: {}", ago(&when(event), now), text(event, "/message"))
}

/// A moment as people say it.
fn ago(time: &str, now: Timestamp) -> String {
    let Ok(then) = time.parse::<Timestamp>() else { return time.to_owned() };
    let seconds = now.duration_since(then).as_secs();
    match seconds {
        ..0 => "to come".to_owned(),
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.waits.write(f, 0)?;
        if self.waits.reasons.is_empty() && self.waits.family.is_empty() {
            writeln!(f, "  waits for nothing")?;
        }
        let parts =
            [("Belongs to", &self.owners), ("Its operator", &self.failures), ("Events", &self.events)];
        for (title, lines) in parts.into_iter().filter(|(_, lines)| !lines.is_empty()) {
            writeln!(f, "{title}")?;
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        Ok(())
    }
}

impl Waits {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let indent = "  ".repeat(depth);
        writeln!(f, "{indent}{}", self.object)?;
        self.reasons.iter().try_for_each(|reason| writeln!(f, "{indent}  {reason}"))?;
        self.family.iter().try_for_each(|waits| waits.write(f, depth + 1))
    }
}

#[cfg(test)]
mod tests;
