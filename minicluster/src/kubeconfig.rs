//! Kubeconfig files for people and for components in other processes.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::pki::{Identity, Pki};

/// A kubeconfig that reaches `server` as `identity`.
pub(crate) fn render(pki: &Pki, server: &str, user: &str, identity: &Identity) -> String {
    let encoded = |pem: &str| STANDARD.encode(pem);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "minicluster",
            "cluster": { "server": server, "certificate-authority-data": encoded(pki.ca_pem()) },
        }],
        "users": [{
            "name": user,
            "user": {
                "client-certificate-data": encoded(&identity.cert_pem),
                "client-key-data": encoded(&identity.key_pem),
            },
        }],
        "contexts": [{ "name": "minicluster", "context": { "cluster": "minicluster", "user": user } }],
        "current-context": "minicluster",
    });
    // JSON is YAML, but people read these files.
    serde_saphyr::to_string(&config).unwrap_or_else(|_| config.to_string())
}
