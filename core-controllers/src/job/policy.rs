//! What a Job says about failures and success: `podFailurePolicy` (KEP-3329) and `successPolicy` (KEP-3998). Pure.

use k8s_openapi::api::{
    batch::v1::{
        Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
        SuccessPolicyRule,
    },
    core::v1::{ContainerStatus, Pod, PodCondition},
};

use super::{indexes::Indexes, spec};

/// What a failed pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No rule speaks of it: it counts.
    Plain,
    /// A rule says that it counts.
    Count,
    /// It does not count.
    Ignore,
    /// Its index is not tried again.
    FailIndex,
    /// The whole Job fails, with this message.
    FailJob(String),
}

impl Failure {
    /// Whether it counts towards the limits of retries.
    pub(super) fn counts(&self) -> bool {
        *self != Self::Ignore
    }

    /// The action that a rule took, as metrics name it.
    pub(super) fn action(&self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Count => Some("Count"),
            Self::Ignore => Some("Ignore"),
            Self::FailIndex => Some("FailIndex"),
            Self::FailJob(_) => Some("FailJob"),
        }
    }
}

/// What the Job's policy says about a failed pod: the first rule that fits.
pub(super) fn failure(job: &Job, pod: &Pod) -> Failure {
    let rules = spec(job).and_then(|spec| spec.pod_failure_policy.as_ref()).map(|policy| &policy.rules[..]);
    for (i, rule) in rules.unwrap_or_default().iter().enumerate() {
        let action = rule.action.as_str();
        let (namespace, name) = (
            pod.metadata.namespace.as_deref().unwrap_or_default(),
            pod.metadata.name.as_deref().unwrap_or_default(),
        );
        let message = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => exited(pod, codes).map(|(container, code)| {
                format!(
                    "Container {container} for pod {namespace}/{name} failed with exit code {code} matching {action} rule at index {i}"
                )
            }),
            (None, Some(patterns)) => with_condition(pod, patterns).map(|condition| {
                format!(
                    "Pod {namespace}/{name} has condition {} matching {action} rule at index {i}",
                    condition.type_
                )
            }),
            (None, None) => None,
        };
        match (message, action) {
            (Some(_), "Ignore") => return Failure::Ignore,
            (Some(_), "Count") => return Failure::Count,
            (Some(_), "FailIndex") => return Failure::FailIndex,
            (Some(message), "FailJob") => return Failure::FailJob(message),
            _ => {}
        }
    }
    Failure::Plain
}

/// The first container that ended with a code that fits, init containers last.
fn exited<'a>(pod: &'a Pod, codes: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses];
    let fits = |container: &'a ContainerStatus| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let named = codes.container_name.as_ref().is_none_or(|name| *name == container.name);
        let listed = match codes.operator.as_str() {
            "In" => codes.values.contains(&code),
            "NotIn" => !codes.values.contains(&code),
            _ => false,
        };
        (named && code != 0 && listed).then_some((container.name.as_str(), code))
    };
    all.into_iter().flatten().flatten().find_map(fits)
}

fn with_condition<'a>(
    pod: &'a Pod,
    patterns: &[PodFailurePolicyOnPodConditionsPattern],
) -> Option<&'a PodCondition> {
    let fits = |condition: &&PodCondition| {
        patterns.iter().any(|pattern| {
            pattern.type_ == condition.type_
                && pattern.status.as_deref().unwrap_or("True") == condition.status
        })
    };
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(fits)
}

/// Whether enough indexes have succeeded for the Job to be a success, and which rule says so.
pub(super) fn success(job: &Job, completions: i32, succeeded: &Indexes) -> Option<String> {
    let rules = &spec(job)?.success_policy.as_ref()?.rules;
    let meets = |rule: &SuccessPolicyRule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Indexes::parse(text, completions);
            let shared = wanted.shared(succeeded);
            let all = shared == wanted.total();
            !wanted.is_empty() && (all || rule.succeeded_count.is_some_and(|count| shared >= count))
        }
        None => rule.succeeded_count.is_some_and(|count| succeeded.total() >= count),
    };
    let met = rules.iter().position(|rule| !succeeded.is_empty() && meets(rule))?;
    Some(format!("Matched rules at index {met}"))
}
