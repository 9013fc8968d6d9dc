//! Servers that a kubeconfig file names: where they listen, how they prove themselves, how this server does.
//!
//! Source: `k8s.io/client-go/tools/clientcmd`, as far as webhooks use it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, header};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;

use super::{Backend, Target};
use crate::{files, object, yaml};

impl Backend {
    /// The server of a kubeconfig's current context, or of its only one.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub(crate) fn of_kubeconfig(path: &Path, timeout: Duration) -> Result<Self, String> {
        let text = files::read(path)?;
        let named = |why: String| format!("{}: {why}", path.display());
        let (config, _) = yaml::parse(&text).map_err(|e| named(e.to_string()))?;
        Self::of_config(&config, path.parent().unwrap_or(Path::new("/")), timeout).map_err(named)
    }

    /// A server at a URL, believed by the CAs of a PEM text, or without one by those of the host.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub(crate) fn of_url(url: &str, ca: Option<&str>, timeout: Duration) -> Result<Self, String> {
        let roots = match ca {
            Some(pem) => roots(pem.as_bytes())?,
            None => host_roots(),
        };
        let tls = builder()?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self {
            target: Target::Url(url.to_owned()),
            tls: Ok(Arc::new(tls)),
            timeout,
            headers: Vec::new(),
            name: None,
        })
    }

    fn of_config(config: &Value, folder: &Path, timeout: Duration) -> Result<Self, String> {
        let contexts = object::list(config, &["contexts"]);
        let current = object::text(config, &["current-context"]);
        let context = match current {
            "" => contexts.first(),
            name => contexts.iter().find(|context| object::text(context, &["name"]) == name),
        };
        let entry = |list: &str, field: &str| {
            let all = object::list(config, &[list]);
            match context.map(|context| object::text(context, &["context", field])) {
                Some(name) => all.iter().find(|entry| object::text(entry, &["name"]) == name).cloned(),
                None => all.first().cloned(),
            }
        };
        let cluster = entry("clusters", "cluster").ok_or("invalid configuration: no cluster is named")?;
        let cluster = cluster.get("cluster").cloned().unwrap_or_default();
        let user = entry("users", "user").and_then(|user| user.get("user").cloned()).unwrap_or_default();
        let server = object::text(&cluster, &["server"]);
        if !server.starts_with("https://") {
            return Err(format!("clusters.cluster.server: \"{server}\" has to begin with https://"));
        }
        Ok(Self {
            target: Target::Url(server.to_owned()),
            tls: Ok(Arc::new(tls(&cluster, &user, folder)?)),
            timeout,
            headers: headers(&user, folder)?,
            name: Some(object::text(&cluster, &["tls-server-name"]).to_owned())
                .filter(|name| !name.is_empty()),
        })
    }
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())
}

/// The CAs in a PEM text; there has to be one.
pub(crate) fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| format!("not PEM: {e:?}"))?;
        roots.add(certificate).map_err(|e| format!("not a CA certificate: {e}"))?;
    }
    if roots.is_empty() {
        return Err("data does not contain any valid RSA or ECDSA certificates".to_owned());
    }
    Ok(roots)
}

/// The CAs that the host trusts.
pub(super) fn host_roots() -> RootCertStore {
    let pem = std::fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    roots
}

/// What stands in the file itself (`x-data`), or in the file it names (`x`).
fn data(part: &Value, field: &str, folder: &Path) -> Result<Option<Vec<u8>>, String> {
    let inline = object::text(part, &[&format!("{field}-data")]).to_owned();
    if !inline.is_empty() {
        return STANDARD.decode(&inline).map(Some).map_err(|e| format!("{field}-data: {e}"));
    }
    match object::text(part, &[field]) {
        "" => Ok(None),
        name => files::read(&beside(folder, name)).map(|text| Some(text.into_bytes())),
    }
}

fn beside(folder: &Path, name: &str) -> PathBuf {
    folder.join(name)
}

fn tls(cluster: &Value, user: &Value, folder: &Path) -> Result<ClientConfig, String> {
    if cluster.get("insecure-skip-tls-verify").and_then(Value::as_bool) == Some(true) {
        return Err(
            "clusters.cluster.insecure-skip-tls-verify: a server that cannot be verified is not asked"
                .to_owned(),
        );
    }
    let roots = match data(cluster, "certificate-authority", folder)? {
        Some(pem) => roots(&pem).map_err(|why| format!("certificate-authority: {why}"))?,
        None => host_roots(),
    };
    let builder = builder()?.with_root_certificates(roots);
    let (certificate, key) = (data(user, "client-certificate", folder)?, data(user, "client-key", folder)?);
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| format!("client-certificate: {e:?}"))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| format!("client-key: {e:?}"))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| format!("client-certificate: {e}"))
}

fn headers(user: &Value, folder: &Path) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let text = |field: &str| object::text(user, &[field]);
    let token = match (text("token"), text("tokenFile")) {
        ("", "") => String::new(),
        ("", file) => files::read(&beside(folder, file))?.trim().to_owned(),
        (token, _) => token.to_owned(),
    };
    let value = match (token.as_str(), text("username")) {
        ("", "") => return Ok(Vec::new()),
        ("", name) => format!("Basic {}", STANDARD.encode(format!("{name}:{}", text("password")))),
        (token, _) => format!("Bearer {token}"),
    };
    let mut value = HeaderValue::from_str(&value).map_err(|_| "users.user.token: not a token".to_owned())?;
    value.set_sensitive(true);
    Ok(vec![(header::AUTHORIZATION, value)])
}
