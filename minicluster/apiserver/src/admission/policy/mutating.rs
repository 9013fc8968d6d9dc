//! MutatingAdmissionPolicy: what is changed, as a configuration that is merged in or as a JSON patch.
//!
//! Policies run one after another in the order of their names, before the webhooks; one that wants to (`IfNeeded`) is
//! asked once more when somebody changed the object after it. Ownership of fields is not recorded.
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy/mutating`, KEP-3962.

use serde_json::Value;
use windlass_crd::{apply, patch};

use super::{Bound, Seen, compile, concerned, parameters};
use crate::{
    admission::{Operation, matching::Event, webhook},
    cel::{Compiled, Scope},
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

/// One change.
#[derive(Debug)]
pub(super) struct Mutation {
    kind: Kind,
    expression: Compiled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Apply,
    Patch,
}

impl Mutation {
    pub(super) fn read(mutation: &Value) -> Self {
        let (kind, field) = match object::text(mutation, &["patchType"]) {
            "JSONPatch" => (Kind::Patch, "jsonPatch"),
            _ => (Kind::Apply, "applyConfiguration"),
        };
        let holder = mutation.get(field).unwrap_or(&Value::Null);
        Self { kind, expression: compile(holder, "expression") }
    }

    /// The object with the change.
    fn carry_out(&self, cx: &Context, obj: &Value, scope: &Scope<'_>) -> Result<Value, String> {
        let made = self.expression.as_ref().map_err(Clone::clone)?.json(scope)?;
        match self.kind {
            Kind::Apply => merged(cx, obj, made),
            Kind::Patch => patched(obj, &made),
        }
    }
}

fn merged(cx: &Context, obj: &Value, mut made: Value) -> Result<Value, String> {
    if !made.is_object() {
        return Err("must evaluate to Object".to_owned());
    }
    for field in ["apiVersion", "kind"] {
        object::set(&mut made, &[field], obj[field].clone());
    }
    apply::merge(obj, &made, &cx.resource.schema()).map_err(|why| format!("error applying patch: {why}"))
}

fn patched(obj: &Value, operations: &Value) -> Result<Value, String> {
    if !operations.is_array() {
        return Err("must evaluate to list(JSONPatch)".to_owned());
    }
    let mut changed = obj.clone();
    match patch::json(&mut changed, operations) {
        Ok(()) => Ok(changed),
        // A test that fails is a condition: the object stays as it is.
        Err(error) if is_failed_test(&error) => Ok(obj.clone()),
        Err(error) => Err(format!("JSON Patch: {error}")),
    }
}

fn is_failed_test(error: &patch::PatchError) -> bool {
    error.to_string().ends_with("test failed")
}

/// A policy that was asked, and the object that it left, if it wants to be asked again.
pub(in crate::admission) struct Invoked {
    index: usize,
    left: Option<Value>,
}

/// Lets the bound policies change an object. True when one did.
///
/// # Errors
/// What went wrong in a policy that must not fail.
pub(in crate::admission) fn mutate(
    cx: &Context,
    op: Operation,
    obj: &mut Value,
    old: Option<&Value>,
) -> ApiResult<(bool, Vec<Invoked>)> {
    let all = cx.api.policies.mutating.get();
    let mut changed = false;
    let mut invoked = Vec::new();
    for (index, bound) in all.iter().enumerate() {
        let event = Event { op, obj: Some(obj), old };
        if concerned(cx, std::slice::from_ref(bound), &event).next().is_none() {
            continue;
        }
        changed |= invoke(cx, bound, op, obj, old)?;
        invoked.push(Invoked { index, left: bound.policy.reinvoked.then(|| obj.clone()) });
    }
    let again = reinvoke(cx, op, obj, old, &mut invoked)?;
    Ok((changed | again, invoked))
}

/// Asks those policies once more that want to, if the object is another than they left. True when one changed it.
///
/// # Errors
/// As [`mutate`].
pub(in crate::admission) fn reinvoke(
    cx: &Context,
    op: Operation,
    obj: &mut Value,
    old: Option<&Value>,
    invoked: &mut [Invoked],
) -> ApiResult<bool> {
    let all = cx.api.policies.mutating.get();
    let mut changed = false;
    for Invoked { index, left } in invoked {
        let Some(bound) = all.get(*index).filter(|_| left.as_ref().is_some_and(|left| *left != *obj)) else {
            continue;
        };
        changed |= invoke(cx, bound, op, obj, old)?;
        *left = Some(obj.clone());
    }
    Ok(changed)
}

/// Carries out one policy. What fails in one that may fail is left out.
fn invoke(
    cx: &Context,
    bound: &Bound,
    op: Operation,
    obj: &mut Value,
    old: Option<&Value>,
) -> ApiResult<bool> {
    let Bound { policy, binding } = bound;
    let refuse = |why: String| {
        if policy.ignores_failure {
            tracing::debug!(policy = policy.name, error = why, "a mutating policy failed, failing open");
            return Ok(());
        }
        let message =
            format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name);
        let error = ApiError::forbidden(&cx.resource, object::name(obj), "");
        let mut error = error.because(422, "Invalid".to_owned(), message.clone());
        error.message = message;
        Err(error)
    };
    let all = match parameters::of(cx, policy, binding) {
        Ok(all) => all,
        Err(why) => return refuse(format!("failed to configure binding: {why}")).map(|()| false),
    };
    let mut changed = obj.clone();
    for params in &all {
        for mutation in &policy.mutations {
            // Each change sees what the one before it left.
            let event = Event { op, obj: Some(&changed), old };
            let request = webhook::request(cx, &event);
            let root = Seen::of(cx, &event).scope(&request);
            let mut scope = root.child(&[("params", params)]);
            match policy.wants(&scope) {
                Ok(true) => {}
                Ok(false) => break,
                Err(why) => {
                    refuse(why)?;
                    break;
                }
            }
            scope.define("variables", &policy.variables);
            let next = mutation.carry_out(cx, &changed, &scope).and_then(|mut next| {
                webhook::settle(&cx.resource, &mut next).map_err(|error| error.message)?;
                Ok(next)
            });
            match next {
                Ok(next) => changed = next,
                Err(why) => refuse(why)?,
            }
        }
    }
    let differs = changed != *obj;
    *obj = changed;
    Ok(differs)
}
