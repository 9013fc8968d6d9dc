//! What is wrong with conditions of a status (`metav1.Condition`).
//!
//! Source: `ValidateConditions` of `k8s.io/apimachinery/pkg/apis/meta/v1/validation`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
};

use super::pod_spec::told;
use crate::object;

const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;

/// Conditions of types of their own, each of which says since when and why.
pub(super) fn validate(conditions: &[Value], path: &Path, errors: &mut ErrorList) {
    let mut types = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        let text = |field: &str| object::text(condition, &[field]);
        if !types.insert(text("type")) {
            errors.push(Error::duplicate(at.child("type"), text("type")));
        }
        told(name::qualified_name_faults(text("type")), &at.child("type"), text("type"), errors);
        if !matches!(text("status"), "False" | "True" | "Unknown") {
            let known = ["False", "True", "Unknown"];
            errors.push(Error::not_supported(at.child("status"), text("status"), &known));
        }
        if let Some(number) = object::number(condition, &["observedGeneration"]).filter(|number| *number < 0)
        {
            let detail = "must be greater than or equal to zero";
            errors.push(Error::invalid(at.child("observedGeneration"), number, detail));
        }
        if text("lastTransitionTime").is_empty() {
            errors.push(Error::required(at.child("lastTransitionTime"), "must be set"));
        }
        reason(text("reason"), &at.child("reason"), errors);
        if text("message").len() > MESSAGE_MAX {
            errors.push(Error::too_long(at.child("message"), MESSAGE_MAX));
        }
    }
}

fn reason(given: &str, path: &Path, errors: &mut ErrorList) {
    const FORM: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";
    if given.is_empty() {
        errors.push(Error::required(path, "must be set"));
        return;
    }
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let good = given.starts_with(|c: char| c.is_ascii_alphabetic())
        && ends(given.chars().last())
        && given.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':'));
    if !good {
        let why = "a condition reason must start with alphabetic character, optionally followed by a string of \
                   alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
        let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
        errors.push(Error::invalid(path, given, name::regex_error(why, FORM, &examples)));
    }
    if given.len() > REASON_MAX {
        errors.push(Error::too_long(path, REASON_MAX));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use windlass_crd::field;

    use super::*;

    #[test]
    fn conditions_say_what_since_when_and_why() {
        let told = |conditions: Value| {
            let mut errors = ErrorList::new();
            validate(conditions.as_array().unwrap(), &field::root("c"), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let good = json!({
            "type": "Ready", "status": "True", "reason": "Fine", "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        assert_eq!(told(json!([good])), "");
        assert_eq!(told(json!([good, good])), "c[1].type: Duplicate value: \"Ready\"");
        assert_eq!(
            told(json!([{"type": "Ready", "status": "Yes", "observedGeneration": -1}])),
            "c[0].status: Unsupported value: \"Yes\": supported values: \"False\", \"True\", \"Unknown\"; \
             c[0].observedGeneration: Invalid value: -1: must be greater than or equal to zero; \
             c[0].lastTransitionTime: Required value: must be set; c[0].reason: Required value: must be set"
        );
        let mut odd = good.clone();
        odd["reason"] = json!("not so fine");
        assert!(
            told(json!([odd])).starts_with("c[0].reason: Invalid value: \"not so fine\": a condition reason")
        );
    }
}
