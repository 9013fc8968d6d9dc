//! Admission plugins through the front door: PodSecurity with its warnings, storage, classes, accounts and owners.

use std::time::Duration;

use http::Request;
use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Event, Namespace, PersistentVolumeClaim, Pod, ServiceAccount},
        networking::v1::{Ingress, IngressClass},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
        scheduling::v1::PriorityClass,
        storage::v1::StorageClass,
    },
    serde::de::DeserializeOwned,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    client::Body,
};
use minicluster::TestCluster;
use minicluster_apiserver::admission::{Settings, event_rate};
use serde_json::{Value, json};

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Sends a request as it is and returns the status code, the body and the texts of its warnings.
async fn send(client: &Client, method: &str, path: &str, body: &Value) -> (u16, Value, Vec<String>) {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let answer = client.send(request.body(Body::from(body.to_string().into_bytes())).unwrap()).await.unwrap();
    let warnings = answer.headers().get_all("warning").iter();
    let warnings = warnings
        .map(|value| {
            let text = value.to_str().unwrap().strip_prefix("299 - \"").unwrap();
            text.strip_suffix('"').unwrap().replace("\\\"", "\"")
        })
        .collect();
    let code = answer.status().as_u16();
    let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap(), warnings)
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

async fn cluster(settings: Settings) -> TestCluster {
    let controllers = [
        "serviceaccount-controller",
        "persistentvolumeclaim-protection-controller",
        "persistentvolume-protection-controller",
    ];
    TestCluster::builder().controllers(&controllers).admission(settings).start().await
}

#[tokio::test(start_paused = true)]
async fn pod_security_refuses_warns_and_looks_at_what_is_there() {
    let mut settings = Settings::default();
    settings.security.exempt_users = vec!["trusted".to_owned()];
    let cluster = cluster(settings).await;
    let client = cluster.client();
    let namespace = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    let namespaces = "/api/v1/namespaces";
    let bad = namespace("bad", json!({"pod-security.kubernetes.io/enforce": "odd"}));
    let (code, status, _) = send(&client, "POST", namespaces, &bad).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "Namespace \"bad\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"odd\": must \
         be one of privileged, baseline, restricted"
    );
    assert_eq!(send(&client, "POST", namespaces, &namespace("ns", json!({}))).await.0, 201);
    let pods = "/api/v1/namespaces/ns/pods";
    let (code, _, warnings) = send(&client, "POST", pods, &pod("old", json!({"hostNetwork": true}))).await;
    assert_eq!((code, warnings.len()), (201, 0));

    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/warn-version": "v1.20"}}});
    let (code, _, warnings) = send(&client, "PATCH", "/api/v1/namespaces/ns", &labels).await;
    assert_eq!(code, 200);
    assert_eq!(
        warnings,
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "old: host namespaces"
        ]
    );
    let (code, status, warnings) = send(&client, "POST", pods, &pod("p", json!({"hostPID": true}))).await;
    assert_eq!((code, warnings.len()), (403, 0));
    assert_eq!(
        status["message"],
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"
    );
    let trusted = cluster.client_as("trusted", &["system:masters"]);
    assert_eq!(send(&trusted, "POST", pods, &pod("p", json!({"hostPID": true}))).await.0, 201);
    let (code, _, warnings) = send(&client, "POST", pods, &pod("q", json!({}))).await;
    assert_eq!(code, 201);
    let told = "would violate PodSecurity \"restricted:v1.20\": allowPrivilegeEscalation != false (container \"c\" must \
                set securityContext.allowPrivilegeEscalation=false), runAsNonRoot != true (pod or container \"c\" must set \
                securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
                securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
    assert_eq!(warnings, [told]);
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod("x", json!({}))["spec"]});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let (code, _, warnings) =
        send(&client, "POST", "/apis/apps/v1/namespaces/ns/deployments", &deployment).await;
    assert_eq!((code, warnings), (201, vec![told.to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn objects_get_the_classes_of_the_cluster_and_their_protection() {
    let cluster = cluster(Settings::default()).await;
    let client = cluster.client();
    let create = PostParams::default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), "default");
    let claim = |name: &str| {
        object::<PersistentVolumeClaim>(
            json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}),
        )
    };
    let made = claims.create(&create, &claim("before")).await.unwrap();
    assert_eq!(made.spec.unwrap().storage_class_name, None);
    assert_eq!(made.metadata.finalizers.unwrap(), ["kubernetes.io/pvc-protection"]);
    let classes: Api<StorageClass> = Api::all(client.clone());
    for (name, default) in [("a", "true"), ("b", "true"), ("c", "false")] {
        let class = json!({"metadata": {"name": name, "annotations": {
            "storageclass.kubernetes.io/is-default-class": default}}, "provisioner": "x.dev/p"});
        classes.create(&create, &object(class)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    // The newest of those that are marked.
    let made = claims.create(&create, &claim("after")).await.unwrap();
    assert_eq!(made.spec.unwrap().storage_class_name.as_deref(), Some("b"));
    let grow = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}));
    let bound = Patch::Merge(json!({"status": {"phase": "Bound"}}));
    claims.patch_status("after", &PatchParams::default(), &bound).await.unwrap();
    let refused = claims.patch("after", &PatchParams::default(), &grow).await.unwrap_err().to_string();
    assert!(refused.contains("only dynamically provisioned pvc can be resized"), "{refused}");

    let ingress_classes: Api<IngressClass> = Api::all(client.clone());
    let class = json!({"metadata": {"name": "front", "annotations": {
        "ingressclass.kubernetes.io/is-default-class": "true"}}, "spec": {"controller": "x.dev/i"}});
    ingress_classes.create(&create, &object(class)).await.unwrap();
    let ingresses: Api<Ingress> = Api::namespaced(client.clone(), "default");
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": backend}});
    let made = ingresses.create(&create, &object(ingress)).await.unwrap();
    assert_eq!(made.spec.unwrap().ingress_class_name.as_deref(), Some("front"));

    let priorities: Api<PriorityClass> = Api::all(client.clone());
    let priority = |name: &str| {
        object::<PriorityClass>(json!({"metadata": {"name": name}, "value": 7, "globalDefault": true}))
    };
    priorities.create(&create, &priority("seven")).await.unwrap();
    let refused = priorities.create(&create, &priority("other")).await.unwrap_err().to_string();
    assert!(
        refused.contains("PriorityClass seven is already marked as default. Only one default can exist"),
        "{refused}"
    );

    // A claim that a running pod uses stays until the pod is gone.
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let user = pod(
        "user",
        json!({"nodeName": "n", "volumes": [
        {"name": "v", "persistentVolumeClaim": {"claimName": "before"}}]}),
    );
    let made = pods.create(&create, &object(user)).await.unwrap();
    assert_eq!(made.spec.unwrap().priority, Some(7));
    claims.delete("before", &DeleteParams::default()).await.unwrap();
    claims.delete("after", &DeleteParams::default()).await.unwrap();
    cluster.settle().await;
    assert!(claims.get_opt("before").await.unwrap().is_some());
    assert!(claims.get_opt("after").await.unwrap().is_none());
    pods.delete("user", &DeleteParams::default().grace_period(0)).await.unwrap();
    cluster.settle().await;
    assert!(claims.get_opt("before").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn plugins_that_are_off_by_default_can_be_turned_on() {
    let mut settings = Settings::default();
    let on = [
        "AlwaysPullImages",
        "OwnerReferencesPermissionEnforcement",
        "EventRateLimit",
        "PodTolerationRestriction",
    ];
    settings.choose(&on.map(str::to_owned), &["ServiceAccount".to_owned()]).unwrap();
    settings.event_rates =
        vec![event_rate::Limit::read(&json!({"type": "Namespace", "qps": 1, "burst": 2})).unwrap()];
    let cluster = cluster(settings).await;
    let client = cluster.client();
    let create = PostParams::default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let made = pods.create(&create, &object(pod("p", json!({})))).await.unwrap();
    let spec = made.spec.unwrap();
    assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"));
    assert_eq!(spec.volumes, None, "no token is mounted without the ServiceAccount plugin");

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let allowed = json!({"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/tolerationsWhitelist":
        "[{\"operator\": \"Exists\", \"effect\": \"NoExecute\"}]"}}});
    namespaces.patch("default", &PatchParams::default(), &Patch::Merge(allowed)).await.unwrap();
    let tolerant =
        pod("q", json!({"tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]}));
    let refused = pods.create(&create, &object(tolerant)).await.unwrap_err().to_string();
    assert!(refused.contains("conflict with its namespace whitelist"), "{refused}");

    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let event = |name: &str| {
        object::<Event>(
            json!({"metadata": {"name": name, "namespace": "default"}, "type": "Normal", "reason": "R",
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}}),
        )
    };
    events.create(&create, &event("a")).await.unwrap();
    events.create(&create, &event("b")).await.unwrap();
    let refused = events.create(&create, &event("c")).await.unwrap_err().to_string();
    assert!(refused.contains("limit reached on type Namespace for key default"), "{refused}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    events.create(&create, &event("c")).await.unwrap();

    // Somebody who may write maps, and nothing else.
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let role = json!({"metadata": {"name": "maps"}, "rules": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "patch", "get"]}]});
    roles.create(&create, &object(role)).await.unwrap();
    let binding = json!({"metadata": {"name": "maps"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "maps"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    Api::<ClusterRoleBinding>::all(client.clone()).create(&create, &object(binding)).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client_as("jane", &[]), "default");
    let owned = |name: &str, blocks: bool| {
        object::<ConfigMap>(
            json!({"metadata": {"name": name, "ownerReferences": [{"apiVersion": "v1", "kind": "Pod",
            "name": "p", "uid": "u", "blockOwnerDeletion": blocks}]}}),
        )
    };
    maps.create(&create, &owned("free", false)).await.unwrap();
    let refused = maps.create(&create, &owned("held", true)).await.unwrap_err().to_string();
    assert!(
        refused.contains("cannot set blockOwnerDeletion if an ownerReference refers to a resource"),
        "{refused}"
    );
    let loose = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    let refused = maps.patch("free", &PatchParams::default(), &loose).await.unwrap_err().to_string();
    assert!(refused.contains("cannot set an ownerRef on a resource you can't delete"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_new_namespace_is_waited_for_and_accounts_keep_their_secrets() {
    let cluster = cluster(Settings::default()).await;
    let client = cluster.client();
    let create = PostParams::default();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&create, &object(json!({"metadata": {"name": "fresh"}}))).await.unwrap();
    // The account is not there yet when the pod comes.
    let pods: Api<Pod> = Api::namespaced(client.clone(), "fresh");
    let made = pods.create(&create, &object(pod("early", json!({})))).await.unwrap();
    assert_eq!(made.spec.unwrap().service_account_name.as_deref(), Some("default"));
    let missing =
        pods.create(&create, &object(pod("p", json!({"serviceAccountName": "none"})))).await.unwrap_err();
    let told = "pods \"p\" is forbidden: error looking up service account fresh/none: serviceaccount \"none\" not found";
    assert!(missing.to_string().contains(told), "{missing}");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "fresh");
    let account = json!({"metadata": {"name": "strict", "annotations": {
        "kubernetes.io/enforce-mountable-secrets": "true"}}, "secrets": [{"name": "own"}]});
    accounts.create(&create, &object(account)).await.unwrap();
    let with = |secret: &str| {
        pod(
            secret,
            json!({"serviceAccountName": "strict", "volumes": [
            {"name": "v", "secret": {"secretName": secret}}]}),
        )
    };
    pods.create(&create, &object(with("own"))).await.unwrap();
    let refused = pods.create(&create, &object(with("other"))).await.unwrap_err().to_string();
    assert!(
        refused.contains(
            "volume with secret.secretName=\"other\" is not allowed because service account strict"
        )
    );
}
