//! PodSecurity: which privileges the pods of a namespace may have, as the namespace's labels say.
//!
//! `enforce` refuses pods, `warn` warns of pods and of what makes pods, `audit` notes both. A namespace whose level is
//! raised is told which of its pods would no longer be let in. A namespace without labels costs a look at six labels that
//! it does not have. Source: `k8s.io/pod-security-admission`, KEP-2579.

mod checks;
mod level;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio::time::Instant;
use windlass_crd::field;

use super::{Operation, namespace};
use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
    view,
};
use checks::Finding;
pub use level::{Level, Mode, Policy, parse_version};

/// The most pods that a change of level is checked against, and for how long.
const PODS_MAX: usize = 3000;
const PODS_SECONDS: f64 = 1.0;
const PODS: &str = "/registry/pods/";
const PREFIX: &str = "pod-security.kubernetes.io/";

/// What the plugin is told: `PodSecurityConfiguration`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What holds where a namespace has no labels.
    pub defaults: Policy,
    /// Users whose pods are not looked at.
    pub exempt_users: Vec<String>,
    /// Namespaces whose pods are not looked at.
    pub exempt_namespaces: Vec<String>,
    /// Runtime classes whose pods are not looked at.
    pub exempt_runtime_classes: Vec<String>,
}

impl Settings {
    fn exempts_class(&self, spec: &Value) -> bool {
        let class = object::text(spec, &["runtimeClassName"]);
        !class.is_empty() && self.exempt_runtime_classes.iter().any(|exempt| exempt == class)
    }
}

/// Judges pods, what makes pods, and namespaces.
///
/// # Errors
/// 403 for a pod that violates the enforced level, 422 for labels that say nothing.
pub(super) fn validate(
    cx: &Context,
    op: Operation,
    obj: Option<&Value>,
    old: Option<&Value>,
) -> ApiResult<()> {
    let Some(obj) = obj.filter(|_| matches!(op, Operation::Create | Operation::Update)) else {
        return Ok(());
    };
    match (cx.resource.group.as_ref(), cx.resource.plural.as_ref()) {
        ("", "namespaces") if cx.info.subresource.is_empty() => namespace(cx, obj, old),
        ("", "pods") => pod(cx, obj, old),
        (group, plural) if cx.info.subresource.is_empty() => {
            let Some(template) = template_path(group, plural) else { return Ok(()) };
            template_of(cx, obj, template);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Where a kind keeps the pods that it makes.
fn template_path(group: &str, plural: &str) -> Option<&'static str> {
    match (group, plural) {
        ("", "podtemplates") => Some("/template"),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some("/spec/template"),
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn is_exempt(cx: &Context, namespace: &str) -> bool {
    let settings = &cx.api.config.admission.security;
    let exempt = |kind: &str| {
        cx.annotate(format!("{PREFIX}exempt"), kind);
        true
    };
    if settings.exempt_namespaces.iter().any(|exempt| exempt == namespace) {
        return exempt("namespace");
    }
    settings.exempt_users.contains(&cx.user.name) && exempt("user")
}

fn policy_of(cx: &Context) -> (Policy, Vec<field::Error>) {
    let facts = namespace::facts(cx, &cx.info.namespace);
    let labels = facts.as_ref().and_then(|facts| facts.labels());
    Policy::of_labels(labels, &cx.api.config.admission.security.defaults)
}

fn pod(cx: &Context, pod: &Value, old: Option<&Value>) -> ApiResult<()> {
    const IGNORED: [&str; 8] =
        ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
    if IGNORED.contains(&cx.info.subresource.as_str()) || is_exempt(cx, &cx.info.namespace) {
        return Ok(());
    }
    let (policy, errors) = policy_of(cx);
    if errors.is_empty() && policy.is_privileged() {
        cx.annotate(format!("{PREFIX}enforce-policy"), "privileged:latest");
        return Ok(());
    }
    if old.is_some_and(|old| !is_significant(pod, old)) {
        return Ok(());
    }
    judge(cx, &policy, &errors, pod, true)
}

fn template_of(cx: &Context, obj: &Value, path: &str) {
    if is_exempt(cx, &cx.info.namespace) {
        return;
    }
    let (policy, errors) = policy_of(cx);
    let looks = policy.warn.level != Level::Privileged || policy.audit.level != Level::Privileged;
    if !looks && errors.is_empty() {
        return;
    }
    if let Some(template) = obj.pointer(path).filter(|template| template.is_object()) {
        // Nothing is enforced, so nothing is refused.
        let _ = judge(cx, &policy, &errors, template, false);
    }
}

/// Whether an update of a pod brings in another image; nothing else that matters here can change.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let images = |pod: &Value, list: &str| -> Vec<String> {
        object::list(pod, &["spec", list]).iter().map(|c| object::text(c, &["image"]).to_owned()).collect()
    };
    if ["containers", "initContainers"].iter().any(|list| images(pod, list) != images(old, list)) {
        return true;
    }
    let before = object::list(old, &["spec", "ephemeralContainers"]);
    object::list(pod, &["spec", "ephemeralContainers"]).iter().any(|container| {
        let known = before.iter().find(|c| object::text(c, &["name"]) == object::text(container, &["name"]));
        known.is_none_or(|known| object::text(known, &["image"]) != object::text(container, &["image"]))
    })
}

/// `pod` is a pod or a template of one.
fn judge(
    cx: &Context,
    policy: &Policy,
    errors: &[field::Error],
    pod: &Value,
    enforce: bool,
) -> ApiResult<()> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    if cx.api.config.admission.security.exempts_class(spec) {
        cx.annotate(format!("{PREFIX}exempt"), "runtimeClass");
        return Ok(());
    }
    if !errors.is_empty() {
        let why = format!("Failed to parse policy: {}", field::aggregate(errors));
        cx.annotate(format!("{PREFIX}error"), why);
    }
    let found = |mode: &Mode| details(&checks::run(mode, pod));
    if policy.audit.level != Level::Privileged
        && let Some(details) = found(&policy.audit)
    {
        let note = format!("would violate PodSecurity \"{}\": {details}", policy.audit);
        cx.annotate(format!("{PREFIX}audit-violations"), note);
    }
    if enforce {
        cx.annotate(format!("{PREFIX}enforce-policy"), policy.enforce.to_string());
        if let Some(details) = found(&policy.enforce) {
            let why = format!("violates PodSecurity \"{}\": {details}", policy.enforce);
            return Err(ApiError::forbidden(&cx.resource, object::name(pod), why));
        }
    }
    if let Some(details) = found(&policy.warn) {
        cx.warn(format!("would violate PodSecurity \"{}\": {details}", policy.warn));
    }
    Ok(())
}

/// What is wrong, with who does it.
fn details(findings: &[Finding]) -> Option<String> {
    let told = findings.iter().map(|finding| match finding.detail.as_str() {
        "" => finding.reason.clone(),
        detail => format!("{} ({detail})", finding.reason),
    });
    (!findings.is_empty()).then(|| told.collect::<Vec<_>>().join(", "))
}

fn namespace(cx: &Context, obj: &Value, old: Option<&Value>) -> ApiResult<()> {
    let settings = &cx.api.config.admission.security;
    let labels = |obj: &Value| object::at(obj, &["metadata", "labels"]).cloned();
    let read = |obj: &Value| Policy::of_labels(labels(obj).as_ref(), &settings.defaults);
    let name = object::name(obj);
    let (new, errors) = read(obj);
    let (before, errors_before) = match old {
        None => (new.clone(), Vec::new()),
        Some(old) => read(old),
    };
    let texts = |errors: &[field::Error]| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    if !errors.is_empty() && texts(&errors) != texts(&errors_before) {
        return Err(ApiError::invalid(&cx.resource, name, &errors));
    }
    let exempt = settings.exempt_namespaces.iter().any(|exempt| exempt == name);
    let raises = old.is_some()
        && new.enforce != before.enforce
        && new.enforce.level != Level::Privileged
        && (new.enforce.version != before.enforce.version || new.enforce.level > before.enforce.level);
    if exempt && (old.is_none() || raises) {
        if let Some(warning) = ignored(name, &new, &settings.defaults, labels(obj).as_ref()) {
            cx.warn(warning);
        }
        return Ok(());
    }
    if raises {
        warn_of_pods(cx, name, &new.enforce);
    }
    Ok(())
}

/// A policy that has no effect since its namespace is exempt.
fn ignored(name: &str, policy: &Policy, defaults: &Policy, labels: Option<&Value>) -> Option<String> {
    if policy.is_privileged() || policy.is_equivalent(defaults) {
        return None;
    }
    let has = |mode: &str| {
        let label = |suffix: &str| labels.is_some_and(|l| l.get(format!("{PREFIX}{mode}{suffix}")).is_some());
        label("") || label("-version")
    };
    let modes = [("enforce", &policy.enforce), ("audit", &policy.audit), ("warn", &policy.warn)];
    let told = modes.iter().filter(|(mode, at)| at.level != Level::Privileged && has(mode));
    let told: Vec<String> = told.map(|(mode, at)| format!("{mode}={at}")).collect();
    let told = told.join(", ");
    Some(format!("namespace \"{name}\" is exempt from Pod Security, and the policy ({told}) will be ignored"))
}

/// Warns of the pods that are there and would not be let in any more.
fn warn_of_pods(cx: &Context, namespace: &str, enforce: &Mode) {
    let settings = &cx.api.config.admission.security;
    let snapshot = cx.api.store.snapshot();
    let prefix = format!("{PODS}{namespace}/");
    // One of each controller's pods first: the others are as it is.
    let (mut first, mut others, mut owners) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (_, pod) in view::objects(&snapshot, &prefix) {
        if pod.get("spec").is_some_and(|spec| settings.exempts_class(spec)) {
            continue;
        }
        let owner = object::list(&pod, &["metadata", "ownerReferences"])
            .iter()
            .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
            .map(|owner| object::text(owner, &["uid"]).to_owned());
        match owner {
            Some(owner) if !owners.insert(owner.clone()) => others.push(pod),
            _ => first.push(pod),
        }
    }
    first.append(&mut others);
    let all = first.len();
    let begun = Instant::now();
    let mut checked = 0;
    let mut faults: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in first.iter().take(PODS_MAX) {
        checked += 1;
        let reasons: Vec<String> = checks::run(enforce, pod).into_iter().map(|f| f.reason).collect();
        if !reasons.is_empty() {
            let name = object::name(pod);
            let known = faults.entry(reasons.join(", ")).or_insert_with(|| (name.to_owned(), 0));
            known.1 += 1;
            if name < known.0.as_str() {
                name.clone_into(&mut known.0);
            }
        }
        if begun.elapsed().as_secs_f64() > PODS_SECONDS {
            break;
        }
    }
    if checked < all {
        cx.warn(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {all} existing pods"
        ));
    }
    if !faults.is_empty() {
        cx.warn(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{enforce}\""
        ));
    }
    let mut told: Vec<String> = faults
        .iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            more => format!("{name} (and {} other pods): {reasons}", more - 1),
        })
        .collect();
    told.sort();
    told.into_iter().for_each(|warning| cx.warn(warning));
}
