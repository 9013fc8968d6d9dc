//! The rules as a ValidatingAdmissionPolicy: nobody gives an object another value than its namespace has. What an object
//! has already may stay: the operator puts it right.

use kube::{ResourceExt, api::ApiResource};
use windlass::controller_ref;

use crate::{EXEMPT, Standard, rules::covers};

windlass::apply_configurations! {
    pub(crate) admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding}
}

/// The name of a standard's policy, and of its binding.
pub(crate) fn policy_name(standard: &Standard) -> String {
    format!("{}.labels.dev", standard.name_any())
}

/// The policy about the kinds that are served, in an order of their own, and its binding.
pub(crate) fn policy(
    standard: &Standard,
    kinds: &[ApiResource],
) -> (
    ValidatingAdmissionPolicyApply,
    ValidatingAdmissionPolicyBindingApply,
) {
    let label = &standard.spec.label;
    let carries =
        |object: &str| format!("has({object}.metadata.labels) && '{label}' in {object}.metadata.labels");
    let same = |other: &str| {
        let value = format!("metadata.labels['{label}']");
        format!("({} && {other}.{value} == object.{value})", carries(other))
    };
    let expression = format!(
        "!({}) || {} || (oldObject != null && {})",
        carries("object"),
        same("namespaceObject"),
        same("oldObject")
    );
    let validation = ValidationApply {
        expression: Some(expression),
        message: Some(format!("{label} is what the namespace says")),
        ..ValidationApply::default()
    };
    let mut policy = ValidatingAdmissionPolicyApply::new(&policy_name(standard));
    policy.metadata.owner_references = Some(vec![controller_ref(standard)]);
    policy.spec = Some(ValidatingAdmissionPolicySpecApply {
        // An operator that is gone must not stop everybody else.
        failure_policy: Some("Ignore".to_owned()),
        match_constraints: Some(MatchResourcesApply {
            resource_rules: Some(
                kinds
                    .iter()
                    .filter(|kind| covers(standard, kind))
                    .map(rule)
                    .collect(),
            ),
            ..MatchResourcesApply::default()
        }),
        match_conditions: Some(conditions(standard)),
        validations: Some(vec![validation]),
        ..ValidatingAdmissionPolicySpecApply::default()
    });
    let mut binding = ValidatingAdmissionPolicyBindingApply::new(&policy_name(standard));
    binding.metadata.owner_references = Some(vec![controller_ref(standard)]);
    binding.spec = Some(ValidatingAdmissionPolicyBindingSpecApply {
        policy_name: Some(policy_name(standard)),
        validation_actions: Some(vec!["Deny".to_owned()]),
        ..ValidatingAdmissionPolicyBindingSpecApply::default()
    });
    (policy, binding)
}

fn rule(kind: &ApiResource) -> NamedRuleWithOperationsApply {
    NamedRuleWithOperationsApply {
        api_groups: Some(vec![kind.group.clone()]),
        api_versions: Some(vec!["*".to_owned()]),
        resources: Some(vec![kind.plural.clone()]),
        operations: Some(vec!["CREATE".to_owned(), "UPDATE".to_owned()]),
        scope: Some("Namespaced".to_owned()),
        ..NamedRuleWithOperationsApply::default()
    }
}

/// What is exempt here is exempt there.
fn conditions(standard: &Standard) -> Vec<MatchConditionApply> {
    let condition = |name: String, expression: String| MatchConditionApply {
        name: Some(name),
        expression: Some(expression),
    };
    let exempt = format!(
        "!(has(object.metadata.annotations) && '{EXEMPT}' in object.metadata.annotations && \
         object.metadata.annotations['{EXEMPT}'].trim() != '')"
    );
    let mut all = vec![condition("not-exempt".to_owned(), exempt)];
    for (at, pattern) in standard.spec.exempt_namespaces.iter().enumerate() {
        // Names of namespaces have no character that means anything in an expression but these two.
        let pattern = pattern.replace('.', "[.]").replace('*', ".*").replace('\'', "");
        all.push(condition(
            format!("namespace-{at}"),
            format!("!request.namespace.matches('^{pattern}$')"),
        ));
    }
    all
}
