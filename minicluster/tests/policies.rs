//! Admission policies that change objects, and what their expressions can say.

use std::time::Duration;

use k8s_openapi::api::{
    admissionregistration::v1::{
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding,
    },
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use minicluster::TestCluster;
use serde_json::{Value, json};
use tokio::time::Instant;

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn rules(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["v1"],
        "resources": [resource]}]})
}

/// A mutating policy with a binding of the same name; `more` replaces fields of the policy's spec.
async fn mutating(client: &Client, name: &str, matches: Value, mutations: Value, more: Value) {
    let mut spec =
        json!({"matchConstraints": matches, "mutations": mutations, "reinvocationPolicy": "Never"});
    let mut binding = json!({"policyName": name});
    for (field, value) in more.as_object().into_iter().flatten() {
        match field.as_str() {
            "paramRef" => binding["paramRef"] = value.clone(),
            _ => spec[field] = value.clone(),
        }
    }
    let create = PostParams::default();
    let policies: Api<MutatingAdmissionPolicy> = Api::all(client.clone());
    policies.create(&create, &object(json!({"metadata": {"name": name}, "spec": spec}))).await.unwrap();
    let bindings: Api<MutatingAdmissionPolicyBinding> = Api::all(client.clone());
    bindings.create(&create, &object(json!({"metadata": {"name": name}, "spec": binding}))).await.unwrap();
}

fn applies(expression: &str) -> Value {
    json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}])
}

fn patches(expression: &str) -> Value {
    json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}])
}

fn map(name: &str, data: Value) -> ConfigMap {
    object(json!({"metadata": {"name": name}, "data": data}))
}

fn data(map: ConfigMap) -> Value {
    serde_json::to_value(map.data).unwrap()
}

fn deployment(name: &str) -> Deployment {
    object(
        json!({"metadata": {"name": name}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
    )
}

#[tokio::test]
async fn objects_are_merged_and_patched() {
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    let create = PostParams::default();
    mutating(
        &client,
        "replicas",
        rules("apps", "deployments"),
        applies("Object{spec: Object.spec{replicas: object.spec.replicas + 1336}}"),
        json!({"matchConditions": [{"name": "named", "expression": "object.metadata.name == 'web'"}]}),
    )
    .await;
    mutating(
        &client,
        "sidecar",
        rules("apps", "deployments"),
        applies(
            "Object{metadata: Object.metadata{annotations: {'mutated-by': 'policy'}}, spec: Object.spec{template: \
             Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: \
             'mesh', image: 'mesh:1', ?command: optional.none()}]}}}}",
        ),
        json!({}),
    )
    .await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let made = deployments.create(&create, &deployment("web")).await.unwrap();
    assert_eq!(made.metadata.annotations.unwrap()["mutated-by"], "policy");
    let spec = made.spec.unwrap();
    assert_eq!(spec.replicas, Some(1337));
    let containers = spec.template.spec.unwrap().containers;
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["c", "mesh"], "a list with keys is merged by them");
    assert_eq!(containers[1].image_pull_policy.as_deref(), Some("IfNotPresent"), "defaults are filled in");
    let other = deployments.create(&create, &deployment("db")).await.unwrap();
    assert_eq!(other.spec.unwrap().replicas, Some(1));

    mutating(
        &client,
        "labels",
        rules("", "configmaps"),
        patches(
            "[JSONPatch{op: 'test', path: '/data/kind', value: 'x'}, \
             JSONPatch{op: 'add', path: '/metadata/labels', value: has(object.metadata.labels) ? object.metadata.labels : {}}, \
             JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('x.dev/a~b'), value: 'yes'}]",
        ),
        json!({}),
    )
    .await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let made = maps.create(&create, &map("a", json!({"kind": "x"}))).await;
    assert!(made.unwrap_err().to_string().contains("metadata.labels"), "the label that it made is none");
    let made = maps.create(&create, &map("b", json!({"kind": "y"}))).await.unwrap();
    assert_eq!(made.metadata.labels, None, "a test that fails leaves the object as it is");
}

#[tokio::test]
async fn policies_see_parameters_variables_and_each_other() {
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    let create = PostParams::default();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    maps.create(&create, &map("settings", json!({"team": "core"}))).await.unwrap();
    let not_settings = json!([{"name": "other", "expression": "object.metadata.name != 'settings'"}]);
    // Asked first, it sees what the later one left only when it is asked again.
    mutating(
        &client,
        "a-count",
        rules("", "configmaps"),
        applies("Object{data: {'size': string(size(object.data))}}"),
        json!({"reinvocationPolicy": "IfNeeded", "matchConditions": not_settings}),
    )
    .await;
    mutating(
        &client,
        "b-team",
        rules("", "configmaps"),
        applies("Object{data: {'team': variables.team, 'user': request.userInfo.username}}"),
        json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "matchConditions": not_settings,
            "paramRef": {"name": "settings", "namespace": "default", "parameterNotFoundAction": "Deny"},
            "variables": [{"name": "unused", "expression": "object.absent.field"},
                {"name": "team", "expression": "params.data.team + '-' + namespaceObject.metadata.name"}]}),
    )
    .await;
    let made = maps.create(&create, &map("m", json!({"x": "1"}))).await.unwrap();
    let seen = data(made);
    assert_eq!((&seen["team"], &seen["size"]), (&json!("core-default"), &json!("4")), "{seen}");

    mutating(
        &client,
        "c-broken",
        rules("", "configmaps"),
        applies("Object{data: {'x': object.data.absent}}"),
        json!({"matchConditions": [{"name": "n", "expression": "object.metadata.name == 'broken'"}]}),
    )
    .await;
    let refused = maps.create(&create, &map("broken", json!({"y": "1"}))).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert_eq!(
        status.message,
        "policy 'c-broken' with binding 'c-broken' denied request: no such key: absent"
    );
    let ignore = Patch::Merge(json!({"spec": {"failurePolicy": "Ignore"}}));
    let policies: Api<MutatingAdmissionPolicy> = Api::all(client.clone());
    policies.patch("c-broken", &PatchParams::default(), &ignore).await.unwrap();
    maps.create(&create, &map("broken", json!({"y": "1"}))).await.unwrap();
}

#[tokio::test]
async fn what_is_one_value_is_not_merged_into() {
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    let create = PostParams::default();
    mutating(
        &client,
        "atomic",
        rules("", "pods"),
        applies(
            "Object{spec: Object.spec{tolerations: [Object.spec.tolerations{key: 'a', operator: 'Exists'}]}}",
        ),
        json!({}),
    )
    .await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i"}]}});
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), "default");
    accounts.create(&create, &object(json!({"metadata": {"name": "default"}}))).await.unwrap();
    let refused = pods.create(&create, &object(pod)).await.unwrap_err().to_string();
    assert!(
        refused.contains(
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: \
             .spec.tolerations"
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn expressions_ask_what_users_may_do_and_do_not_run_for_ever() {
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    let create = PostParams::default();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let policy = |name: &str, expression: &str| {
        object::<ValidatingAdmissionPolicy>(json!({"metadata": {"name": name}, "spec": {
            "matchConstraints": rules("", "configmaps"),
            "matchConditions": [{"name": "n", "expression": format!("object.metadata.name == '{name}'")}],
            "validations": [{"expression": expression}]}}))
    };
    let cases = [
        ("may", "authorizer.group('').resource('pods').namespace('default').check('delete').allowed()", ""),
        (
            "may-not",
            "authorizer.serviceAccount('default', 'default').path('/metrics').check('get').allowed()",
            "failed expression: authorizer.service",
        ),
        ("itself", "authorizer.requestResource.check('create').allowed()", ""),
        (
            "bomb",
            "[1,2,3,4,5,6,7,8,9,0].all(a, [1,2,3,4,5,6,7,8,9,0].all(b, [1,2,3,4,5,6,7,8,9,0].all(c, \
             [1,2,3,4,5,6,7,8,9,0].all(d, [1,2,3,4,5,6,7,8,9,0].all(e, [1,2,3,4,5,6,7,8,9,0].all(f, true))))))",
            "operation cancelled: actual cost limit exceeded",
        ),
    ];
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    for (name, expression, refusal) in cases {
        policies.create(&create, &policy(name, expression)).await.unwrap();
        let binding =
            json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}});
        bindings.create(&create, &object(binding)).await.unwrap();
        let begun = Instant::now();
        match maps.create(&create, &map(name, json!({}))).await {
            Ok(_) => assert_eq!(refusal, "", "{name}"),
            Err(error) => {
                assert!(!refusal.is_empty() && error.to_string().contains(refusal), "{name}: {error}");
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{name} took {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn expressions_are_held_to_types_when_they_are_written() {
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    let create = PostParams::default();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let policy = |name: &str, expression: &str| {
        object::<ValidatingAdmissionPolicy>(json!({"metadata": {"name": name}, "spec": {
            "matchConstraints": rules("apps", "deployments"), "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": [{"expression": expression, "messageExpression": "'wants ' + variables.n"}]}}))
    };
    // What is known of a kind is told in the status: the policy may be about several.
    let made = policies.create(&create, &policy("typed", "variables.n > '1'")).await.unwrap();
    let status = made.status.unwrap();
    assert_eq!(status.observed_generation, Some(1));
    let warnings = status.type_checking.unwrap().expression_warnings.unwrap();
    let told: Vec<String> =
        warnings.iter().map(|w| format!("{}: {}", w.field_ref, w.warning.trim())).collect();
    assert_eq!(
        told,
        [
            "spec.validations[0].expression: apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:13: found no \
             matching overload for '_>_' applied to '(int, string)'\n | variables.n > '1'\n | ............^",
            "spec.validations[0].messageExpression: apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:10: found \
             no matching overload for '_+_' applied to '(string, int)'\n | 'wants ' + variables.n\n | .........^",
        ]
    );
    let fine = Patch::Merge(json!({"spec": {"validations": [{"expression": "variables.n > 1"}]}}));
    let made = policies.patch("typed", &PatchParams::default(), &fine).await.unwrap();
    assert_eq!(made.status.unwrap().type_checking.unwrap().expression_warnings, None);
    // What no kind could make right is refused.
    let refused = policies.create(&create, &policy("bad", "nothing > 1")).await.unwrap_err().to_string();
    assert!(refused.contains("undeclared reference to 'nothing' (in container '')"), "{refused}");
}
