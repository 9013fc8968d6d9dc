//! Rules, answers and refusals of webhooks, without a server.

use serde_json::json;

use super::*;

fn concerns(rule: &Value, operation: &'static str, what: (&str, &str, &str), subresource: &str) -> bool {
    let registry = crate::registry::Registry::new(crate::kinds::table());
    let (group, version, plural) = what;
    let resource = registry.builtin(group, version, plural);
    Rule::read(rule).concerns(&Asked { operation, resource: &resource, subresource })
}

#[test]
fn rules_name_what_they_concern() {
    let rule = |resources: &[&str], scope: &str| {
        json!({"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": resources, "scope": scope})
    };
    let (pods, nodes) = (("", "v1", "pods"), ("", "v1", "nodes"));
    let cases: &[(&[&str], &str, &str, _, &str, bool)] = &[
        (&["pods"], "*", "CREATE", pods, "", true),
        (&["pods"], "*", "DELETE", pods, "", false),
        (&["pods"], "*", "UPDATE", pods, "status", false),
        (&["pods/status"], "*", "UPDATE", pods, "status", true),
        (&["pods/*"], "*", "UPDATE", pods, "status", true),
        (&["pods/*"], "*", "UPDATE", pods, "", true),
        (&["*"], "*", "UPDATE", pods, "status", false),
        (&["*/*"], "*", "UPDATE", pods, "status", true),
        (&["*/status"], "*", "UPDATE", nodes, "status", true),
        (&["*"], "Namespaced", "CREATE", nodes, "", false),
        (&["*"], "Cluster", "CREATE", nodes, "", true),
        (&["*"], "*", "CREATE", ("apps", "v1", "deployments"), "", false),
    ];
    for (resources, scope, operation, what, sub, expected) in cases {
        let rule = rule(resources, scope);
        assert_eq!(concerns(&rule, operation, *what, sub), *expected, "{rule} {operation} {what:?}/{sub}");
    }
    let all = json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]});
    assert!(concerns(&all, "CONNECT", pods, "attach"));
}

fn answer(response: &Value) -> Result<review::Answer, String> {
    let review =
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
    review::read(review.to_string().as_bytes(), "u")
}

#[test]
fn answers_that_say_nothing_sure_are_refused() {
    let cases = [
        (json!({"uid": "x", "allowed": true}), "expected response.uid=\"u\", got \"x\""),
        (
            json!({"uid": "u", "allowed": true, "patch": "W10="}),
            "webhook returned response.patch but not response.patchType",
        ),
        (
            json!({"uid": "u", "patchType": "JSONPatch"}),
            "webhook returned response.patchType but not response.patch",
        ),
        (
            json!({"uid": "u", "patchType": "Merge", "patch": "W10="}),
            "webhook returned invalid response.patchType of \"Merge\"",
        ),
        (Value::Null, "webhook response was absent"),
    ];
    for (response, why) in cases {
        assert_eq!(answer(&response).unwrap_err(), why);
    }
    assert!(review::read(b"{", "u").unwrap_err().starts_with("couldn't decode"));
    let kept =
        answer(&json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch"})).unwrap();
    assert_eq!(kept.patch, Some(json!([])));
}

#[test]
fn a_refusal_is_the_hooks_own() {
    let refused = |status: Value| {
        let answer = answer(&json!({"uid": "u", "allowed": false, "status": status})).unwrap();
        let error = answer.verdict("h.example.com").unwrap_err();
        format!("{} {}: {}", error.code, error.reason, error.message)
    };
    let denied = "admission webhook \"h.example.com\" denied the request";
    assert_eq!(refused(Value::Null), format!("400 : {denied} without explanation"));
    assert_eq!(refused(json!({"reason": "Full"})), format!("400 Full: {denied}: Full"));
    assert_eq!(
        refused(json!({"code": 403, "reason": "Forbidden", "message": "no more"})),
        format!("403 Forbidden: {denied}: no more")
    );
}
