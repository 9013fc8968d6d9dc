//! The messages of `k8s.io/kms/apis/v2` and of values at rest, and the calls of a plugin over its socket.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::random;

/// How long a plugin that is not there may keep a caller waiting before the call's own bound does.
const CONNECT: Duration = Duration::from_secs(3);

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusResponse {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(string, tag = "2")]
    pub(super) healthz: String,
    #[prost(string, tag = "3")]
    pub(super) key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
}

/// A value at rest: what it was sealed with, itself sealed by the plugin, and the value.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) encrypted_dek_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
    #[prost(enumeration = "Source", tag = "5")]
    pub(super) encrypted_dek_source_type: i32,
}

/// What the plugin sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Source {
    /// A key, as older servers did.
    Key = 0,
    /// The seed of keys.
    Seed = 1,
}

/// The plugin at a socket; it is connected to when it is first asked, and again when it was gone.
pub(super) struct Client(Channel);

impl Client {
    /// `unix:///path`, or `unix:@name` for a socket without a file.
    pub(super) fn new(endpoint: &str) -> Self {
        let path =
            endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
        let path = PathBuf::from(path);
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is never used; the connector goes to the socket.
        let endpoint = Endpoint::from_static("http://kms.invalid").connect_timeout(CONNECT);
        Self(endpoint.connect_with_connector_lazy(connector))
    }

    pub(super) async fn status(&self) -> Result<StatusResponse, String> {
        self.call("Status", StatusRequest {}).await
    }

    pub(super) async fn encrypt(&self, plaintext: Vec<u8>) -> Result<EncryptResponse, String> {
        self.call("Encrypt", EncryptRequest { plaintext, uid: uid()? }).await
    }

    pub(super) async fn decrypt(&self, source: EncryptedObject) -> Result<Vec<u8>, String> {
        let request = DecryptRequest {
            ciphertext: source.encrypted_dek_source,
            uid: uid()?,
            key_id: source.key_id,
            annotations: source.annotations,
        };
        let answer: DecryptResponse = self.call("Decrypt", request).await?;
        Ok(answer.plaintext)
    }

    async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, String>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|e| format!("rpc error: code = Unavailable desc = {e}"))?;
        let path: PathAndQuery =
            format!("/v2.KeyManagementService/{method}").parse().expect("a path of letters");
        let answer = grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await;
        answer.map(tonic::Response::into_inner).map_err(|status| describe(&status))
    }
}

fn describe(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

/// Names a call in the plugin's log.
fn uid() -> Result<String, String> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
