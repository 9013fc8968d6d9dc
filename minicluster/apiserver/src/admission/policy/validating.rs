//! ValidatingAdmissionPolicy: what has to hold. Source: `k8s.io/apiserver/pkg/admission/plugin/policy/validating`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Bound, Policy, Seen, compile, concerned, parameters};
use crate::{
    admission::{Operation, matching::Event, webhook},
    cel::{Compiled, Scope},
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

/// The longest message that an expression may make, bytes.
const MESSAGE_MAX: usize = 5 << 10;
/// The longest value of an audit annotation, bytes; the rest is cut off.
const ANNOTATION_MAX: usize = 10 << 10;
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

#[derive(Debug)]
pub(super) struct Validation {
    text: String,
    holds: Compiled,
    message: String,
    message_expression: Option<Compiled>,
    reason: String,
}

impl Validation {
    pub(super) fn read(validation: &Value) -> Self {
        let text = |field: &str| object::text(validation, &[field]).trim().to_owned();
        Self {
            text: text("expression"),
            holds: compile(validation, "expression"),
            message: text("message"),
            message_expression: object::at(validation, &["messageExpression"])
                .map(|_| compile(validation, "messageExpression")),
            reason: text("reason"),
        }
    }

    fn told(&self, scope: &Scope<'_>) -> String {
        let made = self.message_expression.as_ref().and_then(|e| e.as_ref().ok()?.text(scope).ok().flatten());
        let made = made.map(|text| text.trim().to_owned());
        match made.filter(|text| !text.is_empty() && text.len() <= MESSAGE_MAX && !text.contains('\n')) {
            Some(text) => text,
            None if self.message.is_empty() => format!("failed expression: {}", self.text),
            None => self.message.clone(),
        }
    }
}

/// Why a policy refuses.
struct Refusal {
    /// Which of its expressions, for the audit log.
    index: usize,
    message: String,
    reason: String,
}

impl Refusal {
    fn failure(message: String) -> Self {
        Self { index: 0, message, reason: String::new() }
    }
}

/// What a policy notes for the audit log: for each key its values, each once.
type Notes = BTreeMap<String, Vec<String>>;

/// Lets the bound policies judge the final object.
///
/// # Errors
/// The first refusal, in the order of the policies' and bindings' names.
pub(in crate::admission) fn validate(
    cx: &Context,
    op: Operation,
    obj: Option<&Value>,
    old: Option<&Value>,
) -> ApiResult<()> {
    let all = cx.api.policies.validating.get();
    let event = Event { op, obj, old };
    let mut prepared = None;
    let mut denied = None;
    for bound in concerned(cx, &all, &event) {
        let (seen, request) =
            prepared.get_or_insert_with(|| (Seen::of(cx, &event), webhook::request(cx, &event)));
        let mut notes = Notes::new();
        for refusal in judge(cx, bound, seen, request, &mut notes) {
            if let Some(error) = act(cx, bound, &event, &refusal) {
                denied = denied.or(Some(error));
            }
        }
        for (key, values) in notes {
            cx.annotate(format!("{}/{key}", bound.policy.name), values.join(", "));
        }
    }
    denied.map_or(Ok(()), Err)
}

/// Does what the binding says about a refusal; returns the error that the client is to see.
fn act(
    cx: &Context,
    Bound { policy, binding }: &Bound,
    event: &Event<'_>,
    refusal: &Refusal,
) -> Option<ApiError> {
    let does = |action: &str| binding.actions.iter().any(|a| a == action);
    let (policy, bound) = (&policy.name, &binding.name);
    if does("Audit") {
        let failure = json!([{
            "message": refusal.message, "policy": policy, "binding": bound, "expressionIndex": refusal.index,
            "validationActions": binding.actions,
        }]);
        cx.annotate(FAILURE, failure.to_string());
    }
    if does("Warn") {
        cx.warn(format!(
            "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{bound}': {}",
            refusal.message
        ));
    }
    if !does("Deny") {
        return None;
    }
    let message = format!(
        "ValidatingAdmissionPolicy '{policy}' with binding '{bound}' denied request: {}",
        refusal.message
    );
    let (code, reason) = match refusal.reason.as_str() {
        "" | "Invalid" => (422, "Invalid"),
        "Unauthorized" => (401, "Unauthorized"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        other => (403, other),
    };
    let name = event.obj.or(event.old).map(object::name).filter(|n| !n.is_empty()).unwrap_or(&cx.info.name);
    let error = ApiError::forbidden(&cx.resource, name, &message);
    Some(error.because(code, reason.to_owned(), message))
}

/// All refusals of a policy, for each of its parameters.
fn judge(cx: &Context, bound: &Bound, seen: &Seen, request: &Value, notes: &mut Notes) -> Vec<Refusal> {
    let Bound { policy, binding } = bound;
    let failed = |message: String| match policy.ignores_failure {
        true => Vec::new(),
        false => vec![Refusal::failure(message)],
    };
    let all = match parameters::of(cx, policy, binding) {
        Ok(all) => all,
        Err(why) => return failed(format!("failed to configure binding: {why}")),
    };
    let scope = seen.scope(request);
    all.iter()
        .flat_map(|params| {
            judge_with(policy, &mut scope.child(&[("params", params)]), notes).unwrap_or_else(failed)
        })
        .collect()
}

fn judge_with(policy: &Policy, scope: &mut Scope<'_>, notes: &mut Notes) -> Result<Vec<Refusal>, String> {
    if !policy.wants(scope)? {
        return Ok(Vec::new());
    }
    scope.define("variables", &policy.variables);
    let mut refusals = Vec::new();
    for (index, validation) in policy.validations.iter().enumerate() {
        let held = validation.holds.as_ref().map_err(Clone::clone).and_then(|e| e.holds(scope));
        let (message, reason) = match held {
            Ok(true) => continue,
            Ok(false) => (validation.told(scope), validation.reason.clone()),
            Err(_) if policy.ignores_failure => continue,
            Err(why) => (format!("expression '{}' resulted in error: {why}", validation.text), String::new()),
        };
        refusals.push(Refusal { index, message, reason });
    }
    for (key, value) in &policy.annotations {
        match value.as_ref().map_err(Clone::clone).and_then(|value| value.text(scope)) {
            Ok(Some(text)) if !text.trim().is_empty() => {
                let mut text = text.trim().to_owned();
                text.truncate(text.floor_char_boundary(ANNOTATION_MAX));
                let values = notes.entry(key.clone()).or_default();
                if !values.contains(&text) {
                    values.push(text);
                }
            }
            Ok(_) => {}
            Err(_) if policy.ignores_failure => {}
            Err(why) => refusals.push(Refusal::failure(why)),
        }
    }
    Ok(refusals)
}
