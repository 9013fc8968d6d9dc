//! Rules that need no server: ValidatingAdmissionPolicies.

use serde_json::{Value, json};

use super::Hook;
use crate::Object;

/// A ValidatingAdmissionPolicy of CEL rules about one kind, with the binding that puts it into effect.
///
/// ```
/// use k8s_openapi::api::apps::v1::Deployment;
/// use windlass::webhook::{Hook, Policy};
///
/// let objects = Policy::of::<Deployment>("small-deployments", Hook::default())
///     .rule("object.spec.replicas <= 5", "five replicas are enough")
///     .objects();
/// assert_eq!(objects[1]["spec"]["policyName"], "small-deployments");
/// ```
#[derive(Clone, Debug)]
pub struct Policy {
    name: String,
    hook: Hook,
    rule: Value,
    validations: Vec<Value>,
}

impl Policy {
    /// A policy of this name about the objects of a kind.
    #[must_use]
    pub fn of<K: Object>(name: &str, hook: Hook) -> Self
    where
        K::DynamicType: Default,
    {
        let kind = K::DynamicType::default();
        let rule = json!({
            "apiGroups": [K::group(&kind)], "apiVersions": [K::version(&kind)], "resources": [K::plural(&kind)],
            "operations": hook.operations(),
        });
        Self { name: name.to_owned(), hook, rule, validations: Vec::new() }
    }

    /// Refuses what this expression does not hold for. It sees `object`, `oldObject`, `request` and
    /// `namespaceObject`.
    #[must_use]
    pub fn rule(mut self, expression: &str, message: &str) -> Self {
        self.validations.push(json!({ "expression": expression, "message": message }));
        self
    }

    /// The policy and its binding.
    #[must_use]
    pub fn objects(&self) -> [Value; 2] {
        let mut constraints = json!({ "resourceRules": [self.rule] });
        self.hook.select(&mut constraints);
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": { "name": self.name },
            "spec": {
                "failurePolicy": self.hook.failure_policy(),
                "matchConstraints": constraints,
                "matchConditions": self.hook.match_conditions(),
                "validations": self.validations,
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": self.name },
            "spec": { "policyName": self.name, "validationActions": ["Deny"] },
        });
        [policy, binding]
    }
}
