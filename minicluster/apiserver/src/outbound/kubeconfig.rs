//! Servers that a kubeconfig file names: where they listen, how they prove themselves, how this server does.
//!
//! Source: `k8s.io/client-go/tools/clientcmd`, as far as webhooks use it.

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, header};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;

use super::{Backend, Target};
use crate::{object, yaml};

impl Backend {
    /// The server of a kubeconfig's current context.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub(crate) fn of_kubeconfig(path: &Path, timeout: Duration) -> Result<Self, String> {
        let named = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| named(e.to_string()))?;
        let (config, _) = yaml::parse(&text).map_err(|e| named(e.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        of_config(&config, folder, timeout).map_err(named)
    }
}

fn of_config(config: &Value, folder: &Path, timeout: Duration) -> Result<Backend, String> {
    let find = |list: &str, name: &str| {
        let all = object::list(config, &[list]);
        all.iter()
            .find(|entry| object::text(entry, &["name"]) == name)
            .or(all.first())
            .cloned()
            .unwrap_or_default()
    };
    let context = find("contexts", object::text(config, &["current-context"]));
    let cluster = find("clusters", object::text(&context, &["context", "cluster"]))["cluster"].take();
    let user = find("users", object::text(&context, &["context", "user"]))["user"].take();
    let server = object::text(&cluster, &["server"]);
    if !server.starts_with("https://") {
        return Err(format!("clusters.cluster.server: \"{server}\" has to begin with https://"));
    }
    let mut headers = Vec::new();
    let token = object::text(&user, &["token"]);
    if !token.is_empty() {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| format!("token: {e}"))?;
        headers.push((header::AUTHORIZATION, value));
    }
    let tls = Ok(Arc::new(tls(&cluster, &user, folder)?));
    Ok(Backend { target: Target::Url(server.to_owned()), tls, timeout, headers })
}

/// What stands in the file itself (`x-data`), or in the file it names (`x`).
fn data(part: &Value, field: &str, folder: &Path) -> Result<Option<Vec<u8>>, String> {
    let inline = object::text(part, &[&format!("{field}-data")]);
    if !inline.is_empty() {
        return STANDARD.decode(inline).map(Some).map_err(|e| format!("{field}-data: {e}"));
    }
    match object::text(part, &[field]) {
        "" => Ok(None),
        name => std::fs::read(folder.join(name)).map(Some).map_err(|e| format!("{name}: {e}")),
    }
}

fn tls(cluster: &Value, user: &Value, folder: &Path) -> Result<ClientConfig, String> {
    let pem = match data(cluster, "certificate-authority", folder)? {
        Some(pem) => pem,
        None => std::fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default(),
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let (certificate, key) = (data(user, "client-certificate", folder)?, data(user, "client-key", folder)?);
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(builder.with_no_client_auth()) };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
    let chain = chain.map_err(|e| format!("client-certificate: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| format!("client-key: {e}"))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| format!("client-certificate: {e}"))
}
