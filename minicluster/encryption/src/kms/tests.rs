//! A plugin on a real socket, and what is sealed by it.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tonic::{Code, Request, Response, Status, server::Grpc};
use tonic_prost::ProstCodec;

use super::{
    wire::{DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse},
    *,
};

/// A plugin that turns bytes around, under a key that tests change.
struct Plugin {
    key_id: Mutex<String>,
    healthz: Mutex<String>,
    decrypted: AtomicUsize,
}

impl Plugin {
    fn status(&self) -> StatusResponse {
        let (key_id, healthz) = (self.key_id.lock().clone(), self.healthz.lock().clone());
        StatusResponse { version: "v2".to_owned(), healthz, key_id }
    }

    fn encrypt(&self, request: EncryptRequest) -> EncryptResponse {
        let ciphertext = request.plaintext.into_iter().rev().collect();
        let annotations = [("plugin.example.com".to_owned(), b"x".to_vec())].into();
        EncryptResponse { ciphertext, key_id: self.key_id.lock().clone(), annotations }
    }

    fn decrypt(&self, request: DecryptRequest) -> Result<DecryptResponse, Status> {
        self.decrypted.fetch_add(1, Ordering::SeqCst);
        if request.annotations.is_empty() || request.key_id == "lost" {
            return Err(Status::new(Code::NotFound, format!("no key {}", request.key_id)));
        }
        Ok(DecryptResponse { plaintext: request.ciphertext.into_iter().rev().collect() })
    }

    fn serve(self: &Arc<Self>, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let this = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = Arc::clone(&this);
                let service = service_fn(move |request| answer(Arc::clone(&this), request));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
    }
}

async fn answer(
    plugin: Arc<Plugin>,
    request: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, std::convert::Infallible> {
    let request = request.map(tonic::body::Body::new);
    Ok(match request.uri().path() {
        "/v2.KeyManagementService/Status" => {
            let call = move |_: Request<StatusRequest>| {
                let answer = plugin.status();
                async move { Ok::<_, Status>(Response::new(answer)) }
            };
            Grpc::new(ProstCodec::default()).unary(tower::service_fn(call), request).await
        }
        "/v2.KeyManagementService/Encrypt" => {
            let call = move |request: Request<EncryptRequest>| {
                let answer = plugin.encrypt(request.into_inner());
                async move { Ok::<_, Status>(Response::new(answer)) }
            };
            Grpc::new(ProstCodec::default()).unary(tower::service_fn(call), request).await
        }
        _ => {
            let call = move |request: Request<DecryptRequest>| {
                let answer = plugin.decrypt(request.into_inner());
                async move { answer.map(Response::new) }
            };
            Grpc::new(ProstCodec::default()).unary(tower::service_fn(call), request).await
        }
    })
}

fn configured(socket: &Path) -> crate::config::Kms {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{{resources: [secrets], \
         providers: [{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}', timeout: 1s}}}}]}}]",
        socket.display()
    );
    let mut config = crate::config::parse(&text, false).unwrap();
    config.resources.remove(0).providers.remove(0).kms.unwrap()
}

/// As a store does: where waiting is allowed.
async fn open(kms: &Arc<Kms>, sealed: &[u8]) -> Result<(Vec<u8>, Seal), String> {
    let (kms, sealed) = (Arc::clone(kms), sealed.to_vec());
    tokio::task::spawn_blocking(move || kms.open(&sealed, b"/k")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_seals_seeds_and_is_asked_once_for_each() {
    let socket = std::env::temp_dir().join(format!("windlass-kms-{}", std::process::id()));
    let _ = std::fs::remove_file(&socket);
    let seals = Arc::new(Seals::default());
    let plugin = Arc::new(Plugin {
        key_id: Mutex::new("1".to_owned()),
        healthz: Mutex::new("ok".to_owned()),
        decrypted: AtomicUsize::new(0),
    });
    let kms = Kms::new(&configured(&socket), &seals);
    kms.probe().await;
    assert!(kms.health().unwrap_err().contains("failed to perform status section of the healthz check"));
    assert_eq!(kms.check().unwrap_err(), "got unexpected nil transformer");
    plugin.serve(&socket);
    // The connection is tried again after a pause that grows.
    for _ in 0..50 {
        kms.probe().await;
        if kms.health().is_ok() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((kms.health(), kms.check()), (Ok(()), Ok(())));
    let (first, seal) = kms.seal(b"a secret", b"/k").unwrap();
    let (again, _) = kms.seal(b"a secret", b"/k").unwrap();
    assert_ne!(first, again);
    assert_eq!(open(&kms, &first).await.unwrap(), (b"a secret".to_vec(), seal));
    assert_eq!(kms.current(), seal);

    "2".clone_into(&mut plugin.key_id.lock());
    kms.probe().await;
    assert_ne!(kms.current(), seal, "what the old key sealed is due for a write");
    assert_eq!(open(&kms, &first).await.unwrap().1, seal);
    assert_eq!(plugin.decrypted.load(Ordering::SeqCst), 0, "seeds of one's own are known");

    let other = Kms::new(&configured(&socket), &seals);
    other.probe().await;
    for sealed in [&first, &again, &first] {
        assert_eq!(open(&other, sealed).await.unwrap(), (b"a secret".to_vec(), seal));
    }
    assert_eq!(plugin.decrypted.load(Ordering::SeqCst), 1, "one seed, one question");
    let mut object = EncryptedObject::decode(&first[..]).unwrap();
    "lost".clone_into(&mut object.key_id);
    let error = open(&other, &object.encode_to_vec()).await.unwrap_err();
    assert_eq!(error, "failed to decrypt DEK, error: rpc error: code = NotFound desc = no key lost");
    let mut object = EncryptedObject::decode(&first[..]).unwrap();
    *object.encrypted_data.last_mut().unwrap() ^= 1;
    assert_eq!(
        open(&kms, &object.encode_to_vec()).await.unwrap_err(),
        "cipher: message authentication failed"
    );

    "sick".clone_into(&mut plugin.healthz.lock());
    kms.probe().await;
    let told = "kmsv2 Provider vault is not healthy, error: got unexpected healthz status: sick";
    assert_eq!(kms.health().unwrap_err(), told);
    assert_eq!(kms.check(), Ok(()), "the last seed goes on for a while");
    std::fs::remove_file(&socket).unwrap();
}
