//! API aggregation: a server of one's own behind an APIService, over real TLS on loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Service},
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use minicluster::TestCluster;
use parking_lot::Mutex;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(10);
const NAME: &str = "v1alpha1.wardle.example.com";

/// An extension server: it believes the front proxy alone, and remembers what it was asked.
#[derive(Default)]
struct Extension {
    sick: AtomicBool,
    asked: Mutex<Vec<(String, Vec<(String, String)>)>>,
}

type Answer = Response<BoxBody<Bytes, std::convert::Infallible>>;

fn full(value: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

impl Extension {
    /// Serves; the address and the CA bundle that vouches for it.
    async fn serve(self: &Arc<Self>, proxy_ca: &str) -> (SocketAddr, String) {
        let made = rcgen::generate_simple_self_signed(vec!["wardle.default.svc".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(proxy_ca.as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let this = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, this) = (acceptor.clone(), Arc::clone(&this));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let this = Arc::clone(&this);
                        async move { Ok::<_, std::convert::Infallible>(this.answer(request)) }
                    });
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        (address, STANDARD.encode(made.cert.pem()))
    }

    fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let headers = request.headers().iter().filter(|(name, _)| name.as_str().starts_with("x-remote-"));
        let headers = headers.map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_owned())).collect();
        self.asked.lock().push((path.clone(), headers));
        if self.sick.load(Ordering::SeqCst) {
            let mut response = full(&Value::Null);
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return response;
        }
        let flunder = |name: &str| json!({"kind": "Flunder", "apiVersion": "wardle.example.com/v1alpha1", "metadata": {"name": name}});
        match path.as_str() {
            "/apis/wardle.example.com/v1alpha1" => full(&json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1", "resources": [
                    {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list", "watch"], "shortNames": ["fl"]},
                    {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]}]})),
            "/openapi/v3" => full(
                &json!({"paths": {"apis/wardle.example.com/v1alpha1": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=ABC"}}}),
            ),
            "/openapi/v3/apis/wardle.example.com/v1alpha1" => {
                full(&json!({"openapi": "3.0.0", "info": {"title": "wardle"}}))
            }
            "/openapi/v2" => full(
                &json!({"paths": {"/apis/wardle.example.com/v1alpha1/flunders": {}}, "definitions": {"com.example.Flunder": {}}}),
            ),
            path if path.ends_with("/flunders")
                && request.uri().query().is_some_and(|q| q.contains("watch=")) =>
            {
                // The second event comes later, and nothing ends: only a stream that is handed on as it comes shows it.
                let events = futures::stream::unfold(0, move |n| async move {
                    match n {
                        0 => {}
                        1 => sleep(Duration::from_millis(50)).await,
                        _ => std::future::pending().await,
                    }
                    let event = json!({"type": "ADDED", "object": {"metadata": {"name": format!("f{n}")}}});
                    Some((Ok(hyper::body::Frame::data(Bytes::from(format!("{event}\n")))), n + 1))
                });
                Response::new(BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(Box::pin(events))))))
            }
            path if path.ends_with("/flunders") => full(
                &json!({"kind": "FlunderList", "apiVersion": "wardle.example.com/v1alpha1", "metadata": {}, "items": [flunder("a")]}),
            ),
            _ => {
                let mut response = full(&Value::Null);
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        }
    }
}

type Frames = dyn futures::Stream<Item = Result<hyper::body::Frame<Bytes>, std::convert::Infallible>> + Send;

/// A stream that may be looked at from several threads, as boxed bodies want it.
struct SyncStream(Mutex<std::pin::Pin<Box<Frames>>>);

impl futures::Stream for SyncStream {
    type Item = Result<hyper::body::Frame<Bytes>, std::convert::Infallible>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.lock().as_mut().poll_next(cx)
    }
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

async fn get(client: &Client, uri: &str) -> (u16, Value) {
    let request = Request::get(uri).body(kube::client::Body::empty()).unwrap();
    let (parts, body) = client.send(request).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (parts.status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Waits until the condition says so.
async fn condition(services: &Api<APIService>, name: &str, reason: &str) -> String {
    let said = async {
        loop {
            let status = services.get(name).await.unwrap().status.unwrap_or_default();
            let found = status.conditions.unwrap_or_default().into_iter().find(|c| c.type_ == "Available");
            if let Some(found) = found.filter(|c| c.reason.as_deref() == Some(reason)) {
                return format!("{} {}", found.status, found.message.unwrap_or_default());
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("never {reason}"))
}

async fn proxy_ca(client: &Client) -> String {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let data = maps.get("extension-apiserver-authentication").await.unwrap().data.unwrap();
    assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(data["requestheader-username-headers"], "[\"X-Remote-User\"]");
    data["requestheader-client-ca-file"].clone()
}

#[tokio::test]
async fn another_server_answers_for_its_group() {
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    let extension = Arc::new(Extension::default());
    let (address, bundle) = extension.serve(&proxy_ca(&client).await).await;
    // No endpoint may be on loopback, where the extension server is.
    let mut connections = cluster.serve("default", "wardle", 7443);
    tokio::spawn(async move {
        while let Some(mut from) = connections.recv().await {
            let mut to = tokio::net::TcpStream::connect(address).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    });
    let create = PostParams::default();
    let api_services: Api<APIService> = Api::all(client.clone());
    let service = json!({"metadata": {"name": NAME}, "spec": {"group": "wardle.example.com", "version": "v1alpha1",
        "groupPriorityMinimum": 2000, "versionPriority": 200, "caBundle": bundle,
        "service": {"namespace": "default", "name": "wardle", "port": 7443}}});
    api_services.create(&create, &object(service)).await.unwrap();
    let told = condition(&api_services, NAME, "ServiceNotFound").await;
    assert_eq!(told, "False service/wardle in \"default\" is not present");
    assert_eq!(
        get(&client, "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders").await,
        (503, json!("service unavailable\n"))
    );
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let backend = json!({"metadata": {"name": "wardle"}, "spec": {"ports": [{"name": "api", "port": 7443, "targetPort": address.port()}]}});
    services.create(&create, &object(backend)).await.unwrap();
    condition(&api_services, NAME, "EndpointsNotFound").await;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let slice = json!({"metadata": {"name": "wardle-1", "labels": {"kubernetes.io/service-name": "wardle"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "api", "port": address.port(), "protocol": "TCP"}]});
    slices.create(&create, &object(slice)).await.unwrap();
    assert_eq!(condition(&api_services, NAME, "Passed").await, "True all checks passed");

    let jane = cluster.client_as("jane", &["dev", "system:masters"]);
    extension.asked.lock().clear();
    let request = Request::get("/apis/wardle.example.com/v1alpha1/namespaces/default/flunders");
    let request = request.header("x-remote-user", "root").header("x-remote-group", "evil");
    let (parts, _) =
        jane.send(request.body(kube::client::Body::empty()).unwrap()).await.unwrap().into_parts();
    assert_eq!(parts.status, 200);
    let asked = extension.asked.lock().clone();
    let of = |name: &str| -> Vec<&str> {
        asked[0].1.iter().filter(|(k, _)| k == name).map(|(_, v)| v.as_str()).collect()
    };
    assert_eq!(
        (of("x-remote-user"), of("x-remote-group")),
        (vec!["jane"], vec!["dev", "system:masters", "system:authenticated"])
    );
    let nobody = cluster.client_as("nobody", &[]);
    assert_eq!(get(&nobody, "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders").await.0, 403);

    let (_, groups) = get(&client, "/apis").await;
    let names: Vec<&str> =
        groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!(names.last(), Some(&"wardle.example.com"));
    assert_eq!(get(&client, "/apis/wardle.example.com").await.1["preferredVersion"]["version"], "v1alpha1");
    let request = Request::get("/apis")
        .header("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let answer = client.send(request.body(kube::client::Body::empty()).unwrap()).await.unwrap();
    let all: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    let wardle = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["metadata"]["name"] == "wardle.example.com")
        .unwrap();
    let flunders = &wardle["versions"][0]["resources"][0];
    assert_eq!(
        (&flunders["resource"], &flunders["shortNames"], &flunders["subresources"][0]["subresource"]),
        (&json!("flunders"), &json!(["fl"]), &json!("status"))
    );
    assert_eq!(
        get(&client, "/openapi/v3").await.1["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"],
        "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=ABC"
    );
    assert_eq!(
        get(&client, "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=ABC").await.1["info"]["title"],
        "wardle"
    );
    let v2 = get(&client, "/openapi/v2").await.1;
    assert!(
        v2["paths"]["/apis/wardle.example.com/v1alpha1/flunders"].is_object()
            && v2["definitions"]["com.example.Flunder"].is_object()
    );

    let request = Request::get("/apis/wardle.example.com/v1alpha1/flunders?watch=true");
    let watch = client.send(request.body(kube::client::Body::empty()).unwrap()).await.unwrap();
    let mut frames = watch.into_body().into_data_stream();
    for name in ["f0", "f1"] {
        let frame = timeout(PATIENCE, frames.next()).await.unwrap().unwrap().unwrap();
        assert!(String::from_utf8_lossy(&frame).contains(name));
    }
    drop(frames);

    extension.sick.store(true, Ordering::SeqCst);
    // A change of the Service makes it look again.
    services
        .patch("wardle", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}})))
        .await
        .unwrap();
    let told = condition(&api_services, NAME, "FailedDiscoveryCheck").await;
    assert!(
        told.contains(
            "bad status from https://wardle.default.svc:7443/apis/wardle.example.com/v1alpha1: 500"
        ),
        "{told}"
    );
    assert_eq!(get(&client, "/apis/wardle.example.com/v1alpha1/flunders").await.0, 503);
    api_services.delete(NAME, &DeleteParams::default()).await.unwrap();
    assert_eq!(get(&client, "/apis/wardle.example.com/v1alpha1/flunders").await.0, 404);
}

#[tokio::test]
async fn every_group_has_an_api_service_of_its_own() {
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    let services: Api<APIService> = Api::all(client.clone());
    let names = |list: kube::core::ObjectList<APIService>| -> Vec<String> {
        list.items.into_iter().filter_map(|s| s.metadata.name).collect()
    };
    let all = services.list(&ListParams::default()).await.unwrap();
    assert!(all.items.iter().all(|s| {
        s.status.as_ref().unwrap().conditions.as_ref().unwrap()[0].reason.as_deref() == Some("Local")
    }));
    let all = names(all);
    assert!(
        ["v1.", "v1.apps", "v2.autoscaling", "v1.apiregistration.k8s.io"]
            .iter()
            .filter(|n| all.contains(&(**n).to_owned()))
            .count()
            == 3,
        "{all:?}"
    );
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = json!({"metadata": {"name": "gates.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "gates", "kind": "Gate"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    definitions.create(&PostParams::default(), &object(definition)).await.unwrap();
    assert_eq!(
        condition(&services_when_there(&services, "v1.example.com").await, "v1.example.com", "Local").await,
        "True Local APIServices are always available"
    );
    services.delete("v1.example.com", &DeleteParams::default()).await.unwrap();
    services_when_there(&services, "v1.example.com").await;
    definitions.delete("gates.example.com", &DeleteParams::default()).await.unwrap();
    let gone = async {
        while services.get_opt("v1.example.com").await.unwrap().is_some() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the APIService stays");
    let bad: APIService = object(
        json!({"metadata": ObjectMeta { name: Some("x".to_owned()), ..Default::default() },
        "spec": {"group": "g.example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}}),
    );
    let refused = services.create(&PostParams::default(), &bad).await.unwrap_err().to_string();
    assert!(
        refused.contains("must be `spec.version+\\\".\\\"+spec.group`")
            || refused.contains("must be `spec.version+"),
        "{refused}"
    );
}

async fn services_when_there(services: &Api<APIService>, name: &str) -> Api<APIService> {
    let there = async {
        while services.get_opt(name).await.unwrap().is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, there).await.unwrap_or_else(|_| panic!("no {name}"));
    services.clone()
}
