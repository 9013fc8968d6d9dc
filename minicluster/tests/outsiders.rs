//! Other servers that know who is who and who may do what: issuers of tokens, webhooks, over real TLS on loopback.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::{Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::Body;
use minicluster::TestCluster;
use minicluster_apiserver::{authn, authz, token::Tokens};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A server of somebody else; how often it was asked, and the CA that vouches for it.
struct Outsider {
    address: SocketAddr,
    pem: String,
    asked: Arc<AtomicUsize>,
}

type Answer = dyn Fn(&str, &Value) -> (u16, Value) + Send + Sync;

impl Outsider {
    async fn start(answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, answer): (Arc<AtomicUsize>, Arc<Answer>) = (Arc::default(), Arc::new(answer));
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&asked), answer));
        Self { address, pem: made.cert.pem(), asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn kubeconfig(&self, path: &str) -> String {
        let ca = STANDARD.encode(&self.pem);
        format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: a, cluster: {{server: 'https://{}/{path}', certificate-authority-data: {ca}}}}}]\nusers: [{{name: b, user: {{token: secret}}}}]\ncontexts: [{{name: c, context: {{cluster: a, user: b}}}}]\ncurrent-context: c\n",
            self.address
        )
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, asked: Arc<AtomicUsize>, answer: Arc<Answer>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, asked, answer) = (acceptor.clone(), Arc::clone(&asked), Arc::clone(&answer));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
                async move {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let (status, answer) = answer(&path, &serde_json::from_slice(&body).unwrap_or_default());
                    let response = Response::builder().status(status);
                    Ok::<_, std::convert::Infallible>(
                        response.body(Full::new(Bytes::from(answer.to_string()))).unwrap(),
                    )
                }
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A folder of files that goes with the test.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("minicluster-outsiders-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn signer() -> Tokens {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    Tokens::new(pkcs8.as_ref(), "", &minicluster_apiserver::token::Settings::default()).unwrap()
}

/// Status and message of a request with a token, or what a success shows.
async fn ask(cluster: &TestCluster, token: &str, method: &str, path: &str) -> (u16, String) {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = if method == "POST" { "{}" } else { "" };
    let request = request.body(Body::from(body.as_bytes().to_vec())).unwrap();
    let answer = cluster.client_of_stranger().send(request).await.unwrap();
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let shown =
        if status < 300 { value.to_string() } else { value["message"].as_str().unwrap_or("").to_owned() };
    (status, shown)
}

const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Lets the server look at its files.
async fn after_a_look() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[tokio::test]
async fn issuers_of_a_file_are_believed_through_rotation_and_reload() {
    let keys = Arc::new(rotating::Keys::new(signer()));
    let published = Arc::clone(&keys);
    let issuer = Outsider::start(move |path, _| match path {
        "/a/.well-known/openid-configuration" => (200, published.discovery("a")),
        "/other/discovery" => (200, published.discovery("b")),
        "/keys" => (200, published.key_set()),
        _ => (404, Value::Null),
    })
    .await;
    keys.locate(issuer.address);
    let files = Files::new("jwt");
    let base = format!("https://{}", issuer.address);
    let ca: String = issuer.pem.lines().map(|line| format!("      {line}\n")).collect();
    let config = |rule: &str| {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n\
             anonymous: {{enabled: true, conditions: [{{path: /livez}}]}}\njwt:\n\
             - issuer:\n    url: {base}/a\n    audiences: [us]\n    certificateAuthority: |\n{ca}  \
             claimMappings: {{username: {{claim: sub, prefix: 'a:'}}, groups: {{claim: groups, prefix: 'a:'}}}}\n  \
             userValidationRules: [{{expression: \"{rule}\", message: not him}}]\n\
             - issuer:\n    url: {base}/b\n    discoveryURL: {base}/other/discovery\n    audiences: [us, them]\n    audienceMatchPolicy: MatchAny\n    certificateAuthority: |\n{ca}  \
             claimMappings: {{username: {{expression: \"claims.name + '@b'\"}}, uid: {{claim: sub}}}}\n  \
             claimValidationRules: [{{claim: hd, requiredValue: example.com}}]\n"
        )
    };
    let path = files.write("authn.yaml", &config("true"));
    let settings = authn::Settings { config_file: Some(path), ..authn::Settings::default() };
    let cluster = TestCluster::builder().authentication(settings).start().await;
    let now = || windlass::clock::now().as_second();
    let claims = |issuer: &str, more: Value| {
        let mut claims =
            json!({"iss": format!("{base}/{issuer}"), "aud": "us", "exp": now() + 600, "sub": "ann"});
        for (key, value) in more.as_object().into_iter().flatten() {
            claims[key] = value.clone();
        }
        claims
    };
    let token = keys.sign(&claims("a", json!({"groups": ["dev"]})));
    let (status, shown) = ask(&cluster, &token, "POST", WHO_AM_I).await;
    assert_eq!(status, 201, "{shown}");
    assert!(
        shown.contains("\"username\":\"a:ann\"") && shown.contains("[\"a:dev\",\"system:authenticated\"]"),
        "{shown}"
    );
    // Once for where the keys are, once for the keys; the second token costs nothing.
    assert_eq!(ask(&cluster, &token, "POST", WHO_AM_I).await.0, 201);
    assert_eq!(issuer.asked(), 2);

    let b = keys.sign(&claims("b", json!({"aud": ["x", "them"], "name": "bob", "hd": "example.com"})));
    let (status, shown) = ask(&cluster, &b, "POST", WHO_AM_I).await;
    assert_eq!(status, 201, "{shown}");
    assert!(shown.contains("\"username\":\"bob@b\"") && shown.contains("\"uid\":\"ann\""), "{shown}");
    for (what, wrong) in [
        ("another domain", claims("b", json!({"name": "bob", "hd": "evil.com"}))),
        ("no name", claims("b", json!({"hd": "example.com"}))),
        ("another audience", claims("a", json!({"aud": "x"}))),
        ("too late", claims("a", json!({"exp": now() - 1}))),
        ("too early", claims("a", json!({"nbf": now() + 400}))),
        ("another issuer", claims("c", json!({}))),
    ] {
        assert_eq!(ask(&cluster, &keys.sign(&wrong), "POST", WHO_AM_I).await.0, 401, "{what}");
    }
    assert_eq!(ask(&cluster, &signer().sign(&claims("a", json!({}))), "POST", WHO_AM_I).await.0, 401);

    // Nobody is anonymous but on the paths of the file.
    assert_eq!(ask(&cluster, "", "GET", "/livez").await.0, 200);
    assert_eq!(ask(&cluster, "", "GET", "/readyz").await, (401, "Unauthorized".to_owned()));

    // New keys: old tokens end, new ones are good at once, and nobody can make the server ask all the time.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3)).await;
    tokio::time::resume();
    keys.replace(signer());
    let rotated = keys.sign(&claims("a", json!({})));
    assert_eq!(ask(&cluster, &rotated, "POST", WHO_AM_I).await.0, 201);
    assert_eq!(ask(&cluster, &token, "POST", WHO_AM_I).await.0, 401);
    let before = issuer.asked();
    for _ in 0..20 {
        assert_eq!(ask(&cluster, &signer().sign(&claims("a", json!({}))), "POST", WHO_AM_I).await.0, 401);
    }
    assert!(issuer.asked() <= before + 2, "{} and {before}", issuer.asked());

    // A file that changes counts; one that is wrong does not.
    files.write("authn.yaml", "nonsense");
    after_a_look().await;
    assert_eq!(ask(&cluster, &rotated, "POST", WHO_AM_I).await.0, 201);
    files.write("authn.yaml", &config("!user.username.endsWith('ann')"));
    after_a_look().await;
    assert_eq!(ask(&cluster, &rotated, "POST", WHO_AM_I).await.0, 401);
}

/// Keys that may be replaced while they are published.
mod rotating {
    use std::{net::SocketAddr, sync::Mutex};

    use minicluster_apiserver::token::Tokens;
    use serde_json::{Value, json};

    pub(super) struct Keys(Mutex<(Tokens, String)>);

    impl Keys {
        pub(super) fn new(tokens: Tokens) -> Self {
            Self(Mutex::new((tokens, String::new())))
        }

        pub(super) fn locate(&self, address: SocketAddr) {
            self.0.lock().unwrap().1 = format!("https://{address}");
        }

        pub(super) fn replace(&self, tokens: Tokens) {
            self.0.lock().unwrap().0 = tokens;
        }

        pub(super) fn sign(&self, claims: &Value) -> String {
            self.0.lock().unwrap().0.sign(claims)
        }

        pub(super) fn key_set(&self) -> Value {
            self.0.lock().unwrap().0.key_set().clone()
        }

        pub(super) fn discovery(&self, issuer: &str) -> Value {
            let base = self.0.lock().unwrap().1.clone();
            json!({"issuer": format!("{base}/{issuer}"), "jwks_uri": format!("{base}/keys")})
        }
    }
}

/// What the authorization webhook thinks.
fn opinion(_: &str, review: &Value) -> (u16, Value) {
    let spec = &review["spec"];
    let resource = spec["resourceAttributes"]["resource"].as_str().unwrap_or("");
    let status = match (spec["user"].as_str().unwrap_or(""), resource) {
        ("ann", "pods") => json!({"allowed": true, "reason": "ann may"}),
        ("ann", "secrets") => json!({"allowed": false, "denied": true, "reason": "never secrets"}),
        ("busy", _) => return (400, Value::Null),
        _ => json!({"allowed": false, "reason": "not known here"}),
    };
    (200, json!({"apiVersion": review["apiVersion"], "kind": "SubjectAccessReview", "status": status}))
}

#[tokio::test]
async fn webhooks_of_a_file_decide_beside_roles() {
    let outsider = Outsider::start(opinion).await;
    let files = Files::new("authz");
    let kubeconfig = files.write("hook.kubeconfig", &outsider.kubeconfig("decide"));
    let config = |policy: &str, condition: &str| {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n\
             - {{type: Node, name: node}}\n- type: Webhook\n  name: hook\n  webhook:\n    \
             timeout: 3s\n    subjectAccessReviewVersion: v1\n    matchConditionSubjectAccessReviewVersion: v1\n    \
             failurePolicy: {policy}\n    unauthorizedTTL: 1s\n    connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {}}}\n    \
             matchConditions: [{{expression: \"{condition}\"}}]\n- {{type: RBAC, name: rbac}}\n",
            kubeconfig.display()
        )
    };
    let resources = "has(request.resourceAttributes)";
    let path = files.write("authz.yaml", &config("Deny", resources));
    let settings = authz::Settings { config_file: Some(path), ..authz::Settings::default() };
    let tokens = files.write("tokens.csv", "ann,ann,1\nbob,bob,2\nbusy,busy,3\nroot,root,4,system:masters\n");
    let known = authn::Settings { token_file: Some(tokens), ..authn::Settings::default() };
    let cluster = TestCluster::builder().authentication(known).authorization(settings).start().await;
    let get = async |token: &str, path: &str| ask(&cluster, token, "GET", path).await;
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(get("ann", pods).await.0, 200);
    assert_eq!(get("ann", pods).await.0, 200);
    assert_eq!(outsider.asked(), 1, "what was allowed is believed for a while");
    let (status, told) = get("ann", "/api/v1/namespaces/default/secrets").await;
    let head = "secrets is forbidden: User \"ann\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\"";
    assert_eq!((status, told), (403, format!("{head}: never secrets")));
    // Who has an opinion ends it; who has none leaves its reason.
    let (status, told) = get("bob", pods).await;
    assert_eq!(status, 403);
    assert!(told.ends_with("in the namespace \"default\": not known here"), "{told}");
    let before = outsider.asked();
    assert_eq!(get("bob", pods).await.0, 403);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    assert_eq!(get("bob", pods).await.0, 403);
    assert_eq!(outsider.asked(), before + 1, "what was not allowed is believed for a second");
    // Conditions keep paths away from it, masters never come to it.
    let before = outsider.asked();
    assert_eq!((get("bob", "/version").await.0, get("root", pods).await.0), (200, 200));
    assert_eq!(outsider.asked(), before);
    // One that fails denies, or has no opinion.
    assert_eq!(get("busy", pods).await.0, 500);
    files.write("authz.yaml", &config("NoOpinion", resources));
    after_a_look().await;
    let (status, told) = get("busy", pods).await;
    assert_eq!(status, 500, "{told}: nobody allowed it, and somebody failed");
    files.write("authz.yaml", &config("NoOpinion", "request.user != 'ann'"));
    after_a_look().await;
    assert_eq!(get("ann", pods).await.0, 403, "roles alone do not allow it");
}

#[tokio::test]
async fn a_webhook_knows_tokens() {
    let outsider = Outsider::start(|_, review| {
        let status = match review["spec"]["token"].as_str().unwrap_or("") {
            "good" => json!({"authenticated": true, "user": {"username": "ann", "uid": "7", "groups": ["dev"], "extra": {"k": ["v"]}}}),
            "vault" => json!({"authenticated": true, "audiences": ["vault"], "user": {"username": "ann"}}),
            _ => json!({"authenticated": false, "error": "never seen"}),
        };
        (200, json!({"apiVersion": review["apiVersion"], "kind": "TokenReview", "status": status}))
    })
    .await;
    let files = Files::new("tokens");
    let config_file = Some(files.write("hook.kubeconfig", &outsider.kubeconfig("who")));
    let webhook = authn::WebhookSettings { config_file, ..authn::WebhookSettings::default() };
    let settings = authn::Settings { webhook, ..authn::Settings::default() };
    let cluster = TestCluster::builder().authentication(settings).start().await;
    let (status, shown) = ask(&cluster, "good", "POST", WHO_AM_I).await;
    assert_eq!(status, 201, "{shown}");
    assert!(
        shown.contains("\"groups\":[\"dev\",\"system:authenticated\"]") && shown.contains("\"k\":[\"v\"]"),
        "{shown}"
    );
    ask(&cluster, "good", "POST", WHO_AM_I).await;
    assert_eq!(outsider.asked(), 1);
    assert_eq!(ask(&cluster, "bad", "POST", WHO_AM_I).await.0, 401);
    assert_eq!(ask(&cluster, "vault", "POST", WHO_AM_I).await.0, 401, "it is meant for somebody else");
}

#[tokio::test]
async fn policies_of_a_file_and_modes_that_know_one_answer() {
    let files = Files::new("modes");
    let tokens = files.write("tokens.csv", "ann,ann,1\nbob,bob,2,\"dev,ops\"\n");
    let policy = "{\"apiVersion\": \"abac.authorization.kubernetes.io/v1beta1\", \"kind\": \"Policy\", \"spec\": {\"group\": \"dev\", \"namespace\": \"*\", \"resource\": \"*\", \"apiGroup\": \"*\", \"readonly\": true}}";
    let policy_file = Some(files.write("policy.jsonl", policy));
    let start = async |modes: Vec<authz::Mode>, policy_file| {
        let authentication =
            authn::Settings { token_file: Some(tokens.clone()), ..authn::Settings::default() };
        let authorization = authz::Settings { modes, policy_file, ..authz::Settings::default() };
        TestCluster::builder().authentication(authentication).authorization(authorization).start().await
    };
    let pods = "/api/v1/namespaces/default/pods";
    let abac = start(vec![authz::Mode::Abac, authz::Mode::Rbac], policy_file).await;
    assert_eq!(ask(&abac, "bob", "GET", pods).await.0, 200);
    assert_eq!(ask(&abac, "bob", "POST", pods).await.0, 403);
    let (status, told) = ask(&abac, "ann", "GET", pods).await;
    assert_eq!(status, 403);
    assert!(told.ends_with("in the namespace \"default\": No policy matched."), "{told}");
    assert_eq!(ask(&abac, "ann", "GET", "/version").await.0, 200, "roles come after policies");
    let deny = start(vec![authz::Mode::AlwaysDeny], None).await;
    let (_, told) = ask(&deny, "ann", "GET", "/version").await;
    assert_eq!(told, "forbidden: User \"ann\" cannot get path \"/version\": Everything is forbidden.");
    let allow = start(vec![authz::Mode::AlwaysAllow], None).await;
    assert_eq!(ask(&allow, "ann", "GET", pods).await.0, 200);
    assert_eq!(
        ask(&allow, "", "GET", pods).await,
        (401, "Unauthorized".to_owned()),
        "nobody is anonymous there"
    );
}
