//! Protected metrics against a real API server in memory: its tokens, its RBAC, TLS by the operator's own authority, and no
//! sockets.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Secret, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleRef, Subject},
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Fault, Identity},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    time_provider::TimeProvider,
};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use windlass::{
    Operator,
    random::Source,
    webhook::{Certificates, Io},
};

const MINUTE: Duration = Duration::from_secs(60);

/// Certificates are judged by the clock of the cluster.
#[derive(Debug)]
struct VirtualTime;

impl TimeProvider for VirtualTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(windlass::clock::now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// An operator with protected metrics that runs with the rights it described and no more, and who knocks at its door.
struct World {
    cluster: TestCluster,
    door: mpsc::Sender<Box<dyn Io>>,
}

fn operator() -> Operator {
    Operator::new("rigger").secure_metrics(Certificates::self_signed_for(6, 3))
}

impl World {
    async fn start() -> Self {
        let cluster = TestCluster::start().await;
        let description = operator().description();
        description.install(&cluster.client(), "default").await.unwrap();
        let account = Identity::new(description.user("default"), &["system:serviceaccounts"]);
        let client = cluster.component("rigger", account);
        let (door, connections) = mpsc::channel(8);
        let manager = operator().manager(client, Source::seeded(cluster.seed()));
        let manager = manager.connections("rigger-metrics", connections).build();
        tokio::spawn(manager.run(std::future::pending()));
        let world = Self { cluster, door };
        let secrets: Api<Secret> = Api::default_namespaced(world.cluster.client());
        let made = async || secrets.get_opt("rigger-metrics-ca").await.unwrap();
        world.cluster.eventually("the authority", MINUTE, made).await;
        world
    }

    /// A token of a service account that is bound to these ClusterRoles.
    async fn token(&self, account: &str, roles: &[&str]) -> String {
        let (client, create) = (self.cluster.client(), PostParams::default());
        let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
        let metadata = ObjectMeta { name: Some(account.to_owned()), ..ObjectMeta::default() };
        accounts.create(&create, &ServiceAccount { metadata, ..ServiceAccount::default() }).await.unwrap();
        for role in roles {
            self.bind(account, role).await;
        }
        let spec = TokenRequestSpec::default();
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let made = accounts.create_token_request(account, &create, &request).await.unwrap();
        made.status.unwrap().token.unwrap()
    }

    async fn bind(&self, account: &str, role: &str) {
        let bindings: Api<ClusterRoleBinding> = Api::all(self.cluster.client());
        let binding = ClusterRoleBinding {
            metadata: ObjectMeta { name: Some(format!("{account}-{role}")), ..ObjectMeta::default() },
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned().into(),
                kind: "ClusterRole".to_owned(),
                name: role.to_owned(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: account.to_owned(),
                namespace: Some("default".to_owned()),
                api_group: None,
            }]),
        };
        bindings.create(&PostParams::default(), &binding).await.unwrap();
    }

    /// Asks as Prometheus does: the authority from the Secret, the Service by its name.
    async fn get(&self, path: &str, token: Option<&str>) -> (u16, String) {
        let secrets: Api<Secret> = Api::default_namespaced(self.cluster.client());
        let authority = secrets.get("rigger-metrics-ca").await.unwrap().data.unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&authority["ca.crt"].0) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_details(provider, Arc::new(VirtualTime));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let (here, there) = tokio::io::duplex(64 << 10);
        self.door.send(Box::new(there)).await.unwrap();
        let name = ServerName::try_from("rigger-metrics.default.svc").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, here).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::get(path).header("host", "rigger-metrics");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response =
            sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// How often the API server was asked who somebody is.
    fn reviews(&self) -> usize {
        self.cluster.journal().iter().filter(|line| line.to_string().contains("tokenreviews")).count()
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_read_metrics_reads_them_and_nobody_else() {
    let world = World::start().await;
    let denied = "Authorization denied for user system:serviceaccount:default:";
    let stranger = world.token("stranger", &[]).await;
    let prometheus = world.token("prometheus", &["rigger-metrics-reader"]).await;
    let person = world.token("person", &["rigger-diagnostics-reader"]).await;

    assert_eq!(world.get("/metrics", None).await, (401, "Unauthorized\n".to_owned()));
    assert_eq!(world.get("/metrics", Some("made-up")).await, (401, "Unauthorized\n".to_owned()));
    assert_eq!(world.get("/metrics", Some(&stranger)).await, (403, format!("{denied}stranger\n")));
    let (status, body) = world.get("/metrics", Some(&prometheus)).await;
    assert_eq!(status, 200);
    assert!(body.contains("rest_client_requests_total{code=\"201\",method=\"POST\"}"), "{body}");
    assert_eq!(world.get("/failing", Some(&prometheus)).await, (403, format!("{denied}prometheus\n")));
    assert_eq!(world.get("/failing", Some(&person)).await, (200, "[]".to_owned()));
    assert_eq!(world.get("/metrics", Some(&person)).await, (403, format!("{denied}person\n")));
    // How the process is, everybody may know.
    assert_eq!(world.get("/healthz", None).await, (200, "ok".to_owned()));
    assert_eq!(world.get("/elsewhere", None).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn verdicts_are_asked_for_once_a_minute() {
    let world = World::start().await;
    let prometheus = world.token("prometheus", &["rigger-metrics-reader"]).await;
    let before = world.reviews();
    for _ in 0..10 {
        assert_eq!(world.get("/metrics", Some(&prometheus)).await.0, 200);
    }
    assert_eq!(world.reviews() - before, 1);
    world.cluster.advance(MINUTE).await;
    assert_eq!(world.get("/metrics", Some(&prometheus)).await.0, 200);
    assert_eq!(world.reviews() - before, 2);

    // Rights that are given and taken are noticed.
    let late = world.token("late", &[]).await;
    assert_eq!(world.get("/metrics", Some(&late)).await.0, 403);
    world.bind("late", "rigger-metrics-reader").await;
    world.cluster.advance(Duration::from_secs(10)).await;
    assert_eq!(world.get("/metrics", Some(&late)).await.0, 200);
    let bindings: Api<ClusterRoleBinding> = Api::all(world.cluster.client());
    bindings.delete("late-rigger-metrics-reader", &Default::default()).await.unwrap();
    world.cluster.advance(MINUTE).await;
    assert_eq!(world.get("/metrics", Some(&late)).await.0, 403);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_let_in_while_nobody_can_be_asked() {
    let world = World::start().await;
    let prometheus = world.token("prometheus", &["rigger-metrics-reader"]).await;
    let away = world.cluster.inject(Fault::error().verb("create").resource("tokenreviews"));
    assert_eq!(world.get("/metrics", Some(&prometheus)).await, (500, "Authentication failed\n".to_owned()));
    away.lift();
    assert_eq!(world.get("/metrics", Some(&prometheus)).await.0, 200, "and a failure is not remembered");
    // A new authority takes over while the server runs.
    for _ in 0..3 {
        world.cluster.advance(3 * 24 * 60 * MINUTE).await;
        let token = world.token(&format!("p{}", world.reviews()), &["rigger-metrics-reader"]).await;
        assert_eq!(world.get("/metrics", Some(&token)).await.0, 200);
    }
}
