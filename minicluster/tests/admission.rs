//! What users of a cluster add to admission: webhooks over real TLS, and CEL rules of custom resources.

mod hook;

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
            ValidatingWebhookConfiguration,
        },
        core::v1::ConfigMap,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use minicluster::TestCluster;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A webhook server; its address and the CA bundle that vouches for it.
async fn serve(decide: fn(&str, &Value) -> Value) -> (SocketAddr, String) {
    let review = move |path: &str, review: Value| {
        let mut response = decide(path, &review["request"]);
        response["uid"] = review["request"]["uid"].clone();
        Ok(json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}))
    };
    hook::serve(Arc::new(review)).await
}

fn hook(name: &str, address: SocketAddr, bundle: &str, more: &Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://{address}/{name}"), "caBundle": bundle}, "timeoutSeconds": 5,
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        hook[field] = value.clone();
    }
    hook
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn decide(path: &str, request: &Value) -> Value {
    let patch = |operations: Value| {
        json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string()),
            "warnings": [format!("seen by {path}")]})
    };
    match path {
        "/first" => {
            patch(json!([{"op": "add", "path": "/data/first", "value": request["userInfo"]["username"]}]))
        }
        // Only changes what the first left, so that their order shows.
        "/second" if request["object"]["data"]["first"].is_string() => {
            patch(json!([{"op": "add", "path": "/data/second", "value": "yes"}]))
        }
        "/judge" if request["operation"] == "DELETE" && request["oldObject"]["data"]["keep"] == "yes" => {
            json!({"allowed": false, "status": {"code": 409, "reason": "Conflict", "message": "it is kept"}})
        }
        "/judge" if request["object"]["data"]["bad"] == "yes" => json!({"allowed": false}),
        _ => json!({"allowed": true}),
    }
}

#[tokio::test]
async fn webhooks_change_and_judge_what_they_are_asked_about() {
    let (address, bundle) = serve(decide).await;
    let cluster = TestCluster::start().await;
    let create = PostParams::default();
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    let conditions = json!({"matchConditions": [
        {"name": "named", "expression": "request.operation == 'DELETE' || !object.metadata.name.startsWith('skip')"}]});
    let hooks = [hook("first", address, &bundle, &conditions), hook("second", address, &bundle, &conditions)];
    mutating.create(&create, &object(json!({"metadata": {"name": "m"}, "webhooks": hooks}))).await.unwrap();
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    let judge = hook("judge", address, &bundle, &json!({}));
    validating
        .create(&create, &object(json!({"metadata": {"name": "v"}, "webhooks": [judge]})))
        .await
        .unwrap();

    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
    let map =
        |name: &str, data: Value| object::<ConfigMap>(json!({"metadata": {"name": name}, "data": data}));
    let made = maps.create(&create, &map("a", json!({"x": "1"}))).await.unwrap();
    let data = made.data.unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["first", "second", "x"]);
    let skipped = maps.create(&create, &map("skip-me", json!({"keep": "yes"}))).await.unwrap();
    assert_eq!(skipped.data.unwrap().len(), 1);
    let refused = maps.create(&create, &map("b", json!({"bad": "yes"}))).await.unwrap_err().to_string();
    assert!(
        refused.contains("admission webhook \"judge.example.com\" denied the request without explanation"),
        "{refused}"
    );
    assert!(maps.get_opt("b").await.unwrap().is_none());
    let refused = maps.delete("skip-me", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("denied the request: it is kept"), "{refused}");
    maps.delete("a", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_hook_that_does_not_answer_stops_writes_unless_it_may_be_missed() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let cluster = TestCluster::start().await;
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
    let map = |name: &str| object::<ConfigMap>(json!({"metadata": {"name": name}}));
    let create = PostParams::default();
    let mut config = json!({"metadata": {"name": "v"}, "webhooks": [hook("gone", closed, "", &json!({}))]});
    validating.create(&create, &object(config.clone())).await.unwrap();
    let refused = maps.create(&create, &map("a")).await.unwrap_err().to_string();
    let told =
        "Internal error occurred: failed calling webhook \"gone.example.com\": failed to call webhook: Post";
    assert!(refused.contains(told), "{refused}");
    config["webhooks"][0]["failurePolicy"] = "Ignore".into();
    validating.patch("v", &PatchParams::default(), &Patch::Merge(&config)).await.unwrap();
    maps.create(&create, &map("a")).await.unwrap();
    config["webhooks"][0]["matchConditions"] = json!([{"name": "bad", "expression": "object.("}]);
    let error = validating.patch("v", &PatchParams::default(), &Patch::Merge(&config)).await.unwrap_err();
    let told = "webhooks[0].matchConditions[0].expression: Invalid value: \"object.(\": compilation failed";
    assert!(error.to_string().contains(told), "{error}");
}

#[tokio::test]
async fn rules_of_a_definition_hold_its_objects() {
    let cluster = TestCluster::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let definition = |rule: &str| {
        json!({"metadata": {"name": "gates.example.com"}, "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "gates", "kind": "Gate"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object",
                    "x-kubernetes-validations": [
                        {"rule": rule, "messageExpression": "'min is ' + string(self.min)"},
                        {"rule": "self.kind == oldSelf.kind", "message": "kind is immutable"}],
                    "properties": {"min": {"type": "integer"}, "max": {"type": "integer"},
                        "kind": {"type": "string"}}}}}}}]}})
    };
    let create = PostParams::default();
    let bad = definitions.create(&create, &object(definition("self.min <="))).await.unwrap_err();
    assert!(bad.to_string().contains("compilation failed"), "{bad}");
    definitions.create(&create, &object(definition("self.min <= self.max"))).await.unwrap();

    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Gate"));
    let gates: Api<DynamicObject> = Api::namespaced_with(cluster.client(), "default", &kind);
    let gate = |name: &str, spec: Value| {
        object::<DynamicObject>(json!({"apiVersion": "example.com/v1", "kind": "Gate",
            "metadata": {"name": name}, "spec": spec}))
    };
    gates.create(&create, &gate("g", json!({"min": 1, "max": 2, "kind": "a"}))).await.unwrap();
    let refused =
        gates.create(&create, &gate("h", json!({"min": 3, "max": 2, "kind": "a"}))).await.unwrap_err();
    let told = "Gate.example.com \"h\" is invalid: spec: Invalid value: min is 3";
    assert!(refused.to_string().contains(told), "{refused}");
    let change = |spec: Value| Patch::Merge(json!({"spec": spec}));
    let params = PatchParams::default();
    gates.patch("g", &params, &change(json!({"max": 5}))).await.unwrap();
    let refused = gates.patch("g", &params, &change(json!({"kind": "b"}))).await.unwrap_err();
    assert!(refused.to_string().contains("spec: Invalid value: kind is immutable"), "{refused}");
}

#[tokio::test]
async fn policies_judge_where_they_are_bound() {
    let cluster = TestCluster::start().await;
    let create = PostParams::default();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(cluster.client());
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
    let map =
        |name: &str, data: Value| object::<ConfigMap>(json!({"metadata": {"name": name}, "data": data}));
    maps.create(&create, &map("limits", json!({"max": "2"}))).await.unwrap();
    let policy = json!({"metadata": {"name": "small"}, "spec": {
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": {"resourceRules": [
            {"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]},
        "matchConditions": [{"name": "not-limits", "expression": "object.metadata.name != 'limits'"}],
        "variables": [{"name": "size", "expression": "has(object.data) ? size(object.data) : 0"}],
        "validations": [
            {"expression": "variables.size <= int(params.data.max)", "reason": "Forbidden",
                "messageExpression": "'at most ' + params.data.max + ', not ' + string(variables.size)"},
            {"expression": "!('x' in object.data)"}]}});
    policies.create(&create, &object(policy)).await.unwrap();
    maps.create(&create, &map("unbound", json!({"a": "", "b": "", "c": ""}))).await.unwrap();
    let binding = json!({"metadata": {"name": "everywhere"}, "spec": {"policyName": "small",
        "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"},
        "validationActions": ["Deny"]}});
    bindings.create(&create, &object(binding)).await.unwrap();

    maps.create(&create, &map("good", json!({"a": ""}))).await.unwrap();
    let refused = maps.create(&create, &map("big", json!({"a": "", "b": "", "c": ""}))).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        status.message,
        "configmaps \"big\" is forbidden: ValidatingAdmissionPolicy 'small' with binding 'everywhere' denied request: \
         at most 2, not 3"
    );
    let refused = maps.create(&create, &map("x", json!({"x": ""}))).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert!(
        status.message.ends_with("denied request: failed expression: !('x' in object.data)"),
        "{status:?}"
    );
    maps.delete("limits", &DeleteParams::default()).await.unwrap();
    let refused = maps.create(&create, &map("y", json!({"a": ""}))).await.unwrap_err();
    assert!(refused.to_string().contains("no params found for policy binding"), "{refused}");
}
