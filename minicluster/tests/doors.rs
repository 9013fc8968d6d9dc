//! The front door with its socket: who a client certificate makes its holder, and whom a front proxy may name.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use clap::Parser;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use minicluster::{
    cluster,
    options::UpOptions,
    pki::{Identity, Pki},
};
use minicluster_apiserver::{
    bootstrap,
    server::{self, Listener, Tls},
};
use minicluster_store::Store;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    up: UpOptions,
}

/// A running server, and the authorities around it.
struct Door {
    address: SocketAddr,
    own: Pki,
    folder: PathBuf,
}

impl Door {
    async fn open(name: &str, others: &Pki, proxies: &Pki) -> Self {
        let folder = std::env::temp_dir().join(format!("minicluster-doors-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("others.crt"), others.ca_pem()).unwrap();
        std::fs::write(folder.join("proxies.crt"), proxies.ca_pem()).unwrap();
        let at = |file: &str| folder.join(file).display().to_string();
        let options = Line::parse_from([
            "up",
            &format!("--client-ca-file={}", at("others.crt")),
            &format!("--requestheader-client-ca-file={}", at("proxies.crt")),
            "--requestheader-allowed-names=front",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        ])
        .up;
        let own = Pki::in_memory().unwrap();
        let api = cluster::api(Store::memory(), &own, &options, 1, Vec::new()).unwrap();
        bootstrap::run(&api, None).await.unwrap();
        let (chain, key) = own.server("api", &[], &["127.0.0.1".parse().unwrap()]).unwrap().chain();
        let tls = Tls { chain, key, client_roots: own.roots() }.into_config().unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let maintained = Arc::clone(&api);
        tokio::spawn(async move { maintained.maintain().await });
        let forever = std::future::pending();
        tokio::spawn(server::serve(api, Listener::open(socket), tls, forever, Duration::from_secs(1)));
        Self { address, own, folder }
    }

    /// A connection that shows a certificate, or none.
    async fn knock(&self, shown: Option<&Identity>) -> SendRequest<Full<Bytes>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(self.own.roots());
        let config = match shown.map(Identity::chain) {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Who the server says one is: the user and the groups, or the status.
async fn who(sender: &mut SendRequest<Full<Bytes>>, headers: &[(&str, &str)]) -> String {
    let mut request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("host", "api")
        .header("content-type", "application/json");
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    let answer =
        sender.send_request(request.body(Full::new(Bytes::from_static(b"{}"))).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    if status != 201 {
        return format!("{status} {}", review["message"].as_str().unwrap_or(""));
    }
    let info = &review["status"]["userInfo"];
    let mut shown = format!("{} {}", info["username"].as_str().unwrap(), info["groups"]);
    if let Some(scopes) = info["extra"].get("scopes") {
        shown.push_str(&format!(" {scopes}"));
    }
    shown
}

#[tokio::test]
async fn certificates_and_front_proxies_name_users() {
    let [others, proxies, strangers, successors] = [(); 4].map(|()| Pki::in_memory().unwrap());
    let door = Door::open("names", &others, &proxies).await;
    let remote: &[(&str, &str)] =
        &[("x-remote-user", "root"), ("x-remote-group", "wheel"), ("x-remote-extra-scopes", "all")];
    let admin = door.own.client("admin", &["system:masters"]).unwrap();
    let ann = others.client("ann", &["dev"]).unwrap();
    let cases: [(&str, Option<&Identity>, &[(&str, &str)], &str); 9] = [
        ("the cluster's own CA", Some(&admin), &[], "admin [\"system:masters\",\"system:authenticated\"]"),
        ("a CA of the file", Some(&ann), &[], "ann [\"dev\",\"system:authenticated\"]"),
        ("a user who names another", Some(&ann), remote, "ann [\"dev\",\"system:authenticated\"]"),
        (
            "a stranger's CA",
            Some(&strangers.client("root", &["system:masters"]).unwrap()),
            &[],
            "401 Unauthorized",
        ),
        (
            "nobody who names another",
            None,
            remote,
            "403 selfsubjectreviews.authentication.k8s.io is forbidden: User \"system:anonymous\" cannot create resource \"selfsubjectreviews\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        (
            "the proxy",
            Some(&proxies.client("front", &[]).unwrap()),
            remote,
            "root [\"wheel\",\"system:authenticated\"] [\"all\"]",
        ),
        ("a proxy of another name", Some(&proxies.client("back", &[]).unwrap()), remote, "401 Unauthorized"),
        (
            "the proxy that names nobody",
            Some(&proxies.client("front", &[]).unwrap()),
            &[],
            "401 Unauthorized",
        ),
        ("a server's certificate", Some(&others.server("srv", &[], &[]).unwrap()), &[], "401 Unauthorized"),
    ];
    for (what, shown, headers, expected) in cases {
        let mut sender = door.knock(shown).await;
        assert_eq!(who(&mut sender, headers).await, expected, "{what}");
        assert_eq!(who(&mut sender, headers).await, expected, "{what}, again");
    }

    // CAs change while connections live.
    let mut living = door.knock(Some(&ann)).await;
    assert!(who(&mut living, &[]).await.starts_with("ann "));
    std::fs::write(door.folder.join("others.crt"), "nonsense").unwrap();
    after_a_look().await;
    assert!(who(&mut living, &[]).await.starts_with("ann "), "a file that is wrong changes nothing");
    std::fs::write(door.folder.join("others.crt"), successors.ca_pem()).unwrap();
    after_a_look().await;
    assert_eq!(who(&mut living, &[]).await, "401 Unauthorized");
    let bob = successors.client("bob", &[]).unwrap();
    assert!(who(&mut door.knock(Some(&bob)).await, &[]).await.starts_with("bob "));
    assert!(who(&mut door.knock(Some(&admin)).await, &[]).await.starts_with("admin "));
}

/// Lets the server look at its files.
async fn after_a_look() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[test]
fn files_that_are_wrong_stop_the_start_with_one_sentence() {
    let file = std::env::temp_dir().join(format!("minicluster-doors-wrong-{}", std::process::id()));
    std::fs::write(&file, "apiVersion: v1\nkind: Nothing\n").unwrap();
    let shown = file.display().to_string();
    let start = |flag: &str| {
        let options = Line::parse_from(["up", &format!("{flag}={shown}")]).up;
        let own = Pki::in_memory().unwrap();
        cluster::api(Store::memory(), &own, &options, 1, Vec::new())
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    };
    for (flag, why) in [
        ("--client-ca-file", "data does not contain any valid RSA or ECDSA certificates"),
        ("--token-auth-file", "must have at least 3 columns (token, user name, user uid), found 1"),
        ("--authentication-config", "no kind \"Nothing\" is registered for version \"v1\""),
        ("--authorization-config", "no kind \"Nothing\" is registered for version \"v1\""),
        ("--authentication-token-webhook-config-file", "invalid configuration: no cluster is named"),
        ("--requestheader-client-ca-file", "data does not contain any valid RSA or ECDSA certificates"),
    ] {
        let told = start(flag);
        assert!(told.contains(why) && told.contains(&shown) && !told.contains('\n'), "{flag}: {told}");
    }
    std::fs::remove_file(&file).unwrap();
    let told = start("--authorization-policy-file");
    assert!(told.contains("without mode ABAC"), "{told}");
}
