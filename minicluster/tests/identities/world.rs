//! The server that the rows speak to: its objects and its identities.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use minicluster::TestCluster;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

/// Identity, `METHOD path [body]`, status, a part of the message (or of the whole answer of a success).
pub(crate) type Row = (&'static str, &'static str, u16, &'static str);

/// Somebody: through which door, with which headers.
struct Somebody {
    client: Client,
    headers: Vec<(String, String)>,
}

pub(crate) struct World {
    cluster: TestCluster,
    people: BTreeMap<&'static str, Somebody>,
    /// What stands for `$name` in rows.
    words: BTreeMap<&'static str, String>,
}

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1";

impl World {
    pub(crate) async fn start() -> Self {
        let cluster =
            TestCluster::builder().controllers(&["clusterrole-aggregation-controller"]).start().await;
        let mut world = Self { cluster, people: BTreeMap::new(), words: BTreeMap::new() };
        world.vouched("root", "root", &["system:masters"]);
        world.objects().await;
        world.roles().await;
        world.limited().await;
        world.users();
        world.tokens().await;
        assert!(world.cluster.settle().await, "the aggregation of roles comes to an end");
        world
    }

    fn vouched(&mut self, name: &'static str, user: &str, groups: &[&str]) {
        let client = self.cluster.client_as(user, groups);
        self.people.insert(name, Somebody { client, headers: Vec::new() });
    }

    /// The same somebody with more headers.
    fn with(&mut self, name: &'static str, base: &'static str, headers: &[(&str, &str)]) {
        let client = self.people[base].client.clone();
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.people.insert(name, Somebody { client, headers });
    }

    fn bearer(&mut self, name: &'static str, token: &str) {
        let headers = vec![("authorization".to_owned(), format!("Bearer {token}"))];
        self.people.insert(name, Somebody { client: self.cluster.client_of_stranger(), headers });
    }

    async fn send(&self, who: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
        let somebody = self.people.get(who).unwrap_or_else(|| panic!("there is no {who}"));
        let method: Method = method.parse().unwrap();
        // Only who applies has to say by which name.
        let kind = match method {
            Method::PATCH if path.contains("fieldManager=") => "application/apply-patch+yaml",
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let mut request = Request::builder().method(method).uri(path).header("content-type", kind);
        for (key, value) in &somebody.headers {
            request = request.header(key, value);
        }
        let answer =
            somebody.client.send(request.body(Body::from(body.as_bytes().to_vec())).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        // A watch has no end: its status is all there is to see.
        if path.contains("watch=") && status == 200 {
            return (status, Value::Null);
        }
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let text = || Value::from(String::from_utf8_lossy(&bytes).into_owned());
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
    }

    fn fill(&self, text: &str) -> String {
        self.words
            .iter()
            .fold(text.to_owned(), |text, (word, value)| text.replace(&format!("${word}"), value))
    }

    /// Why a row does not hold.
    pub(crate) async fn check(&self, row: &Row) -> Result<(), String> {
        let (who, request, status, part) = *row;
        let request = self.fill(request);
        let mut words = request.splitn(3, ' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let (found, answer) = self.send(who, method, path, words.next().unwrap_or("")).await;
        let told = if found < 300 {
            answer.to_string()
        } else {
            // Where nobody answers for a path, that is all that is said.
            answer["message"].as_str().or(answer.as_str()).unwrap_or("").to_owned()
        };
        let part = self.fill(part);
        if found == status && told.contains(&part) {
            return Ok(());
        }
        let told: String = told.chars().take(600).collect();
        Err(format!("{who}: {method} {path}\n  wanted {status} {part:?}\n  got    {found} {told:?}"))
    }

    async fn make(&self, path: &str, obj: Value) -> Value {
        let (status, answer) = self.send("root", "POST", path, &obj.to_string()).await;
        assert!(status == 201, "{path}: {answer}");
        answer
    }

    async fn objects(&mut self) {
        for name in ["dev", "ops"] {
            self.make("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
            for account in ["default", "robot"] {
                self.make(
                    &format!("/api/v1/namespaces/{name}/serviceaccounts"),
                    json!({"metadata": {"name": account}}),
                )
                .await;
            }
        }
        for name in ["n1", "n2"] {
            let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
            let node = self.make("/api/v1/nodes", node).await;
            self.words.insert(if name == "n1" { "n1-uid" } else { "n2-uid" }, uid(&node));
            let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
            self.make("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease).await;
            let csi = json!({"metadata": {"name": name}, "spec": {"drivers": []}});
            self.make("/apis/storage.k8s.io/v1/csinodes", csi).await;
        }
        for name in ["s1", "s2", "one", "two"] {
            for namespace in ["dev", "ops"] {
                let secret = json!({"metadata": {"name": name}, "stringData": {"a": "b"}});
                self.make(&format!("/api/v1/namespaces/{namespace}/secrets"), secret).await;
            }
        }
        self.make("/api/v1/namespaces/kube-system/secrets", json!({"metadata": {"name": "mount"}})).await;
        for name in ["c1", "c2"] {
            self.make("/api/v1/namespaces/dev/configmaps", json!({"metadata": {"name": name}})).await;
        }
        self.pods().await;
        self.volumes().await;
        self.requests().await;
    }

    /// Certificate requests: their texts for rows, and three that are there.
    async fn requests(&mut self) {
        for (word, name, group) in [
            ("csr-plain", "jane", None),
            ("csr-masters", "jane", Some("system:masters")),
            ("csr-n1", "system:node:n1", Some("system:nodes")),
        ] {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            if let Some(group) = group {
                params.distinguished_name.push(DnType::OrganizationName, group);
            }
            let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
            self.words.insert(word, STANDARD.encode(request.pem().unwrap()));
        }
        for (name, signer) in
            [("of-one", "example.com/one"), ("of-two", "example.com/two"), ("of-other", "other.org/x")]
        {
            let request = json!({"metadata": {"name": name}, "spec": {
                "request": self.words["csr-plain"], "signerName": signer, "usages": ["client auth"]}});
            self.make("/apis/certificates.k8s.io/v1/certificatesigningrequests", request).await;
        }
    }

    async fn pods(&mut self) {
        let pod = |name: &str, node: &str, more: Value| {
            let mut spec = json!({"nodeName": node, "serviceAccountName": "robot",
                "containers": [{"name": "c", "image": "i"}]});
            for (key, value) in more.as_object().into_iter().flatten() {
                spec[key] = value.clone();
            }
            json!({"metadata": {"name": name}, "spec": spec})
        };
        let needs = json!({
            "volumes": [
                {"name": "s", "secret": {"secretName": "s1"}}, {"name": "m", "configMap": {"name": "c1"}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "t", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "t", "audience": "vault"}}]}},
            ],
        });
        let other = json!({"serviceAccountName": "default", "volumes": [
            {"name": "s", "secret": {"secretName": "s2"}}, {"name": "m", "configMap": {"name": "c2"}}]});
        for (name, node, more, word) in [
            ("p1", "n1", needs, "p1-uid"),
            ("p2", "n2", other, "p2-uid"),
            ("gone", "n1", json!({}), "gone-uid"),
            ("free", "", json!({}), "free-uid"),
        ] {
            let made = self.make("/api/v1/namespaces/dev/pods", pod(name, node, more)).await;
            self.words.insert(word, uid(&made));
        }
    }

    async fn volumes(&mut self) {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "", "volumeName": "pv1"});
        for name in ["data", "other"] {
            let claim = json!({"metadata": {"name": name}, "spec": spec});
            self.make("/api/v1/namespaces/dev/persistentvolumeclaims", claim).await;
        }
        let volume = |name: &str, claim: &str| {
            json!({"metadata": {"name": name}, "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
                "claimRef": {"namespace": "dev", "name": claim, "apiVersion": "v1", "kind": "PersistentVolumeClaim"},
                "csi": {"driver": "d", "volumeHandle": "h", "nodePublishSecretRef": {"namespace": "kube-system", "name": "mount"}}}})
        };
        let driver = json!({"metadata": {"name": "d"}, "spec": {"tokenRequests": [{"audience": "csi"}]}});
        self.make("/apis/storage.k8s.io/v1/csidrivers", driver).await;
        self.make("/api/v1/persistentvolumes", volume("pv1", "data")).await;
        self.make("/api/v1/persistentvolumes", volume("pv2", "other")).await;
        for (name, node) in [("va1", "n1"), ("va2", "n2")] {
            let attachment = json!({"metadata": {"name": name}, "spec": {
                "attacher": "d", "nodeName": node, "source": {"persistentVolumeName": "pv1"}}});
            self.make("/apis/storage.k8s.io/v1/volumeattachments", attachment).await;
            let slice = json!({"metadata": {"name": format!("sl-{node}")}, "spec": {
                "driver": "d", "nodeName": node, "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}});
            self.make("/apis/resource.k8s.io/v1/resourceslices", slice).await;
        }
    }

    /// Namespaces that limit what may be in them, and who works there.
    async fn limited(&self) {
        for name in ["strict", "full", "busy"] {
            self.make("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
            let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
            self.make(&accounts, json!({"metadata": {"name": "robot"}})).await;
            for (who, role, subject) in
                [("sam", "edit", "u:sam"), ("bob", "view", "u:bob"), ("robot", "edit", "s:dev:robot")]
            {
                self.bind(name, who, "ClusterRole", role, subject).await;
            }
        }
        let patch = json!([{"verbs": ["get", "patch"], "apiGroups": [""], "resources": ["configmaps"]}]);
        self.role("full", "patcher", json!({}), patch).await;
        self.bind("full", "patcher", "Role", "patcher", "u:patcher").await;
        self.make("/api/v1/namespaces/full/configmaps", json!({"metadata": {"name": "one"}})).await;
        let pods = "/api/v1/namespaces/strict/pods";
        let container = json!({"name": "c", "image": "i"});
        let spec = json!({"serviceAccountName": "robot", "containers": [container]});
        self.make(pods, json!({"metadata": {"name": "bad"}, "spec": spec})).await;
        let mut spec = spec;
        spec["securityContext"] = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
        spec["containers"][0]["securityContext"] =
            json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        self.make(pods, json!({"metadata": {"name": "fine"}, "spec": spec})).await;
        let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        let (status, answer) =
            self.send("root", "PATCH", "/api/v1/namespaces/strict", &label.to_string()).await;
        assert!(status == 200, "{answer}");
        let counts = json!({"pods": "1", "count/configmaps": "1"});
        self.quota("full", "q", &counts, &counts).await;
        self.quota("busy", "cpu", &json!({"requests.cpu": "1"}), &json!({"requests.cpu": "500m"})).await;
    }

    /// A quota with what is used of it, as its controller would say.
    async fn quota(&self, namespace: &str, name: &str, hard: &Value, used: &Value) {
        let path = format!("/api/v1/namespaces/{namespace}/resourcequotas");
        let mut quota = self.make(&path, json!({"metadata": {"name": name}, "spec": {"hard": hard}})).await;
        quota["status"] = json!({"hard": hard, "used": used});
        let (status, answer) =
            self.send("root", "PUT", &format!("{path}/{name}/status"), &quota.to_string()).await;
        assert!(status == 200, "{answer}");
    }

    async fn role(&self, namespace: &str, name: &str, labels: Value, rules: Value) {
        let role = json!({"metadata": {"name": name, "labels": labels}, "rules": rules});
        let path = match namespace {
            "" => format!("{ROLE}/clusterroles"),
            namespace => format!("{ROLE}/namespaces/{namespace}/roles"),
        };
        self.make(&path, role).await;
    }

    /// Binds `Role` or `ClusterRole` names to subjects `u:NAME`, `g:NAME`, `s:NAMESPACE:NAME`.
    async fn bind(&self, namespace: &str, name: &str, kind: &str, role: &str, subject: &str) {
        let group = "rbac.authorization.k8s.io";
        let subject = match subject.split_once(':').unwrap() {
            ("s", account) => {
                let (namespace, name) = account.split_once(':').unwrap();
                json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
            }
            ("g", name) => json!({"kind": "Group", "apiGroup": group, "name": name}),
            (_, name) => json!({"kind": "User", "apiGroup": group, "name": name}),
        };
        let binding = json!({"metadata": {"name": name}, "subjects": [subject],
            "roleRef": {"apiGroup": group, "kind": kind, "name": role}});
        let path = match namespace {
            "" => format!("{ROLE}/clusterrolebindings"),
            namespace => format!("{ROLE}/namespaces/{namespace}/rolebindings"),
        };
        self.make(&path, binding).await;
    }

    async fn roles(&self) {
        let none = || json!({});
        let rule = |verbs: &[&str], groups: &[&str], resources: &[&str]| json!([{"verbs": verbs, "apiGroups": groups, "resources": resources}]);
        self.bind("dev", "alice", "ClusterRole", "edit", "u:alice").await;
        self.bind("dev", "bob", "ClusterRole", "view", "u:bob").await;
        let some = json!([
            {"verbs": ["get", "update"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"]},
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
            {"verbs": ["create"], "apiGroups": [""], "resources": ["pods/exec"]},
            {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*/scale"]},
        ]);
        self.role("ops", "some", none(), some).await;
        self.bind("ops", "bob", "Role", "some", "u:bob").await;
        self.bind("ops", "lost", "Role", "nowhere", "u:bob").await;
        let reader = json!([
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["nodes", "namespaces"]},
            {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/logs/*"]},
        ]);
        self.role("", "reader", none(), reader).await;
        self.bind("", "carol", "ClusterRole", "reader", "u:carol").await;
        self.bind("dev", "ruth", "ClusterRole", "admin", "u:ruth").await;
        self.role(
            "",
            "granter",
            none(),
            rule(&["create", "update", "patch", "get"], &["rbac.authorization.k8s.io"], &["*"]),
        )
        .await;
        self.bind("", "greta", "ClusterRole", "granter", "u:greta").await;
        self.bind("", "eve", "ClusterRole", "granter", "u:eve").await;
        let free = rule(&["escalate", "bind"], &["rbac.authorization.k8s.io"], &["roles", "clusterroles"]);
        self.role("", "free", none(), free).await;
        self.bind("", "eve-free", "ClusterRole", "free", "u:eve").await;
        let named = json!([{"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["view"]}]);
        self.role("", "bind-view", none(), named).await;
        self.bind("", "greta-view", "ClusterRole", "bind-view", "u:greta").await;
        self.bind("dev", "robot", "ClusterRole", "view", "s:dev:robot").await;
        self.bind("ops", "ops", "ClusterRole", "edit", "g:ops").await;
        let gadgets = rule(&["get", "list", "create"], &["example.com"], &["gadgets"]);
        let to_view = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
        self.role("", "gadgets", to_view, gadgets.clone()).await;
        let own = json!({"metadata": {"name": "gatherer"}, "rules": [],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"gather": "yes"}}]}});
        self.make(&format!("{ROLE}/clusterroles"), own).await;
        self.role(
            "",
            "gathered",
            json!({"gather": "yes"}),
            rule(&["list"], &["", "apps"], &["configmaps", "deployments"]),
        )
        .await;
        self.bind("dev", "gus", "ClusterRole", "gatherer", "u:gus").await;
        self.impersonators().await;
        let approve = json!([
            {"verbs": ["get", "update", "patch"], "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"]},
            {"verbs": ["approve"], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/*"]},
            {"verbs": ["sign"], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/one"]},
        ]);
        self.role("", "approver", none(), approve).await;
        self.bind("", "ada", "ClusterRole", "approver", "u:ada").await;
        let reviews = rule(&["create"], &["authorization.k8s.io", "authentication.k8s.io"], &["*"]);
        self.role("", "reviewer", none(), reviews).await;
        self.bind("", "rita", "ClusterRole", "reviewer", "u:rita").await;
        self.role(
            "",
            "requester",
            none(),
            rule(&["create"], &["certificates.k8s.io"], &["certificatesigningrequests"]),
        )
        .await;
        self.bind("", "requesters", "ClusterRole", "requester", "g:system:authenticated").await;
    }

    async fn impersonators(&self) {
        let legacy = json!([
            {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["alice", "nobody", "system:anonymous"]},
            {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["groups"], "resourceNames": ["ops", "system:unauthenticated"]},
            {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "resourceNames": ["7"]},
            {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "resourceNames": ["read"]},
        ]);
        self.role("", "imp", json!({}), legacy).await;
        self.bind("", "ivan", "ClusterRole", "imp", "u:ivan").await;
        let accounts =
            json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["serviceaccounts"]}]);
        self.role("dev", "imp-robots", json!({}), accounts).await;
        self.bind("dev", "ivan", "Role", "imp-robots", "u:ivan").await;
        let narrow = json!([
            {"verbs": ["impersonate:user-info"], "apiGroups": ["authentication.k8s.io"], "resources": ["users", "groups"], "resourceNames": ["alice", "root-like", "a", "b"]},
            {"verbs": ["impersonate-on:user-info:list"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["impersonate:arbitrary-node"], "apiGroups": ["authentication.k8s.io"], "resources": ["nodes"], "resourceNames": ["n1"]},
            {"verbs": ["impersonate-on:arbitrary-node:get"], "apiGroups": [""], "resources": ["secrets"]},
        ]);
        self.role("", "narrow", json!({}), narrow).await;
        self.bind("", "nora", "ClusterRole", "narrow", "u:nora").await;
        let associated = json!([
            {"verbs": ["impersonate:associated-node"], "apiGroups": ["authentication.k8s.io"], "resources": ["nodes"]},
            {"verbs": ["impersonate-on:associated-node:get"], "apiGroups": [""], "resources": ["secrets"]},
        ]);
        self.role("", "associated", json!({}), associated).await;
        self.bind("", "robot-as-node", "ClusterRole", "associated", "s:dev:robot").await;
    }

    fn users(&mut self) {
        for name in [
            "alice", "bob", "carol", "ruth", "greta", "eve", "gus", "ivan", "nora", "ada", "rita", "jane",
            "sam", "patcher",
        ] {
            self.vouched(name, name, &[]);
        }
        self.vouched("olga", "olga", &["ops"]);
        self.vouched("scheduler", "system:kube-scheduler", &[]);
        self.vouched("manager", "system:kube-controller-manager", &[]);
        self.vouched("proxy", "system:kube-proxy", &[]);
        self.vouched("monitor", "prometheus", &["system:monitoring"]);
        self.vouched("n1", "system:node:n1", &["system:nodes"]);
        self.vouched("n2", "system:node:n2", &["system:nodes"]);
        self.vouched("new", "system:node:n3", &["system:nodes"]);
        self.vouched("nameless", "system:node:", &["system:nodes"]);
        self.vouched("no-node", "system:node:n1", &[]);
        self.people
            .insert("anonymous", Somebody { client: self.cluster.client_of_stranger(), headers: Vec::new() });
        self.with("basic", "anonymous", &[("authorization", "Basic YWxpY2U6YQ==")]);
        self.with("ivan-alice", "ivan", &[("impersonate-user", "alice")]);
        self.with("ivan-bob", "ivan", &[("impersonate-user", "bob")]);
        self.with("ivan-nobody", "ivan", &[("impersonate-user", "nobody")]);
        self.with("ivan-anonymous", "ivan", &[("impersonate-user", "system:anonymous")]);
        self.with("ivan-ops", "ivan", &[("impersonate-user", "nobody"), ("impersonate-group", "ops")]);
        self.with(
            "ivan-unauthenticated",
            "ivan",
            &[("impersonate-user", "nobody"), ("impersonate-group", "system:unauthenticated")],
        );
        self.with(
            "ivan-masters",
            "ivan",
            &[("impersonate-user", "alice"), ("impersonate-group", "system:masters")],
        );
        self.with("ivan-group-only", "ivan", &[("impersonate-group", "ops")]);
        self.with("ivan-uid", "ivan", &[("impersonate-user", "alice"), ("impersonate-uid", "7")]);
        self.with("ivan-uid-8", "ivan", &[("impersonate-user", "alice"), ("impersonate-uid", "8")]);
        self.with(
            "ivan-read",
            "ivan",
            &[("impersonate-user", "alice"), ("impersonate-extra-scopes", "read")],
        );
        self.with(
            "ivan-write",
            "ivan",
            &[("impersonate-user", "alice"), ("impersonate-extra-scopes", "write")],
        );
        self.with("ivan-robot", "ivan", &[("impersonate-user", "system:serviceaccount:dev:robot")]);
        self.with("ivan-ops-robot", "ivan", &[("impersonate-user", "system:serviceaccount:ops:robot")]);
        self.with("jane-alice", "jane", &[("impersonate-user", "alice")]);
        self.with("root-alice", "root", &[("impersonate-user", "alice")]);
        self.with(
            "root-node",
            "root",
            &[("impersonate-user", "system:node:n1"), ("impersonate-group", "system:nodes")],
        );
        self.with("anonymous-alice", "anonymous", &[("impersonate-user", "alice")]);
        self.with("nora-alice", "nora", &[("impersonate-user", "alice")]);
        self.with("nora-bob", "nora", &[("impersonate-user", "bob")]);
        self.with(
            "nora-groups",
            "nora",
            &[("impersonate-user", "alice"), ("impersonate-group", "a"), ("impersonate-group", "b")],
        );
        self.with(
            "nora-masters",
            "nora",
            &[("impersonate-user", "alice"), ("impersonate-group", "system:masters")],
        );
        self.with("nora-n1", "nora", &[("impersonate-user", "system:node:n1")]);
        self.with("nora-n2", "nora", &[("impersonate-user", "system:node:n2")]);
    }

    async fn token(&self, account: &str, spec: Value) -> String {
        let path = format!("/api/v1/namespaces/dev/serviceaccounts/{account}/token");
        let made = self.make(&path, json!({"spec": spec})).await;
        made["status"]["token"].as_str().unwrap().to_owned()
    }

    async fn tokens(&mut self) {
        let bound = |kind: &str, name: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}});
        let plain = self.token("robot", json!({})).await;
        self.bearer("robot", &plain);
        self.bearer("default", &self.token("default", json!({})).await);
        self.bearer("robot-p1", &self.token("robot", bound("Pod", "p1")).await);
        self.bearer("robot-gone", &self.token("robot", bound("Pod", "gone")).await);
        self.bearer("robot-s1", &self.token("robot", bound("Secret", "one")).await);
        self.bearer("robot-vault", &self.token("robot", json!({"audiences": ["vault"]})).await);
        self.words.insert("vault-token", self.token("robot", json!({"audiences": ["vault"]})).await);
        self.words.insert("token", plain.clone());
        let (signed, signature) = plain.rsplit_once('.').unwrap();
        self.bearer("forged", &format!("{signed}x.{signature}"));
        self.bearer("unsigned", &format!("{signed}."));
        self.bearer("garbage", "garbage");
        // The second pod of that name is another.
        self.make("/api/v1/namespaces/dev/secrets", json!({"metadata": {"name": "fleeting"}})).await;
        self.bearer("robot-fleeting", &self.token("robot", bound("Secret", "fleeting")).await);
        self.remove("/api/v1/namespaces/dev/secrets/fleeting").await;
        self.make("/api/v1/namespaces/dev/secrets", json!({"metadata": {"name": "fleeting"}})).await;
        self.make("/api/v1/nodes", json!({"metadata": {"name": "passing"}})).await;
        self.bearer("robot-n1", &self.token("robot", bound("Node", "n1")).await);
        self.bearer("robot-passing", &self.token("robot", bound("Node", "passing")).await);
        self.remove("/api/v1/nodes/passing").await;
        self.remove("/api/v1/namespaces/dev/pods/gone?gracePeriodSeconds=0").await;
        self.make("/api/v1/namespaces/dev/serviceaccounts", json!({"metadata": {"name": "leaver"}})).await;
        self.bearer("leaver", &self.token("leaver", json!({})).await);
        self.remove("/api/v1/namespaces/dev/serviceaccounts/leaver").await;
        let brief = self.token("robot", json!({"expirationSeconds": 600})).await;
        self.bearer("brief", &brief);
        self.legacy().await;
        for (name, base, node) in
            [("p1-as-n1", "robot-p1", "system:node:n1"), ("p1-as-n2", "robot-p1", "system:node:n2")]
        {
            let mut headers = self.people[base].headers.clone();
            headers.push(("impersonate-user".to_owned(), node.to_owned()));
            self.people.insert(name, Somebody { client: self.cluster.client_of_stranger(), headers });
        }
        self.cluster.advance(Duration::from_secs(1200)).await;
    }

    /// A token that lives in a Secret, filled by the server.
    async fn legacy(&mut self) {
        let secret = |name: &str, account: &str| {
            json!({"metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}},
                "type": "kubernetes.io/service-account-token"})
        };
        let path = "/api/v1/namespaces/dev/secrets";
        for name in ["old", "older"] {
            self.make(path, secret(name, "robot")).await;
        }
        assert!(self.cluster.settle().await);
        for (name, who) in [("old", "legacy"), ("older", "legacy-lost")] {
            let (_, held) = self.send("root", "GET", &format!("{path}/{name}"), "").await;
            let token =
                STANDARD.decode(held["data"]["token"].as_str().expect("the server fills it")).unwrap();
            self.bearer(who, &String::from_utf8(token).unwrap());
        }
        self.remove(&format!("{path}/older")).await;
    }

    async fn remove(&self, path: &str) {
        let (status, answer) = self.send("root", "DELETE", path, "").await;
        assert!(status == 200, "{path}: {answer}");
    }
}

fn uid(obj: &Value) -> String {
    obj["metadata"]["uid"].as_str().unwrap().to_owned()
}
