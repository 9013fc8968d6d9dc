//! The cluster's own certificates: one authority, a server certificate, client certificates and the token key.
//!
//! On disk they live under `DATA_DIR/pki`, keys readable by their owner alone. Only the authority and the token key
//! are kept; everything else is issued anew at each start, for the names and addresses of that start.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use minicluster_apiserver::aggregation;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

const AUTHORITY_NAME: &str = "minicluster-ca";
const PROXY_AUTHORITY_NAME: &str = "minicluster-front-proxy-ca";

/// Why certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is no certificate or key.
    #[error("{path} is damaged ({detail}): delete the pki directory to have a new one made", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A certificate could not be issued.
    #[error("a certificate could not be issued: {0}")]
    Issue(#[from] rcgen::Error),
    /// TLS does not take what was issued.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// The authority of one cluster.
pub struct Pki {
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    token_key: KeyPair,
    proxy: Authority,
    /// What [`Pki::aggregation`] gives: one certificate serves every server of this process.
    aggregation: OnceLock<aggregation::Settings>,
}

/// The authority of the front proxy: who holds a certificate of it speaks for users, so it is nobody else's.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub struct Identity {
    /// The certificate.
    pub cert_pem: String,
    /// The key, PKCS#8.
    pub key_pem: String,
    cert_der: CertificateDer<'static>,
    key_der: PrivateKeyDer<'static>,
}

impl Identity {
    /// What a TLS server or client presents.
    pub fn chain(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.cert_der.clone()], self.key_der.clone_key())
    }
}

impl Pki {
    /// An authority that lives as long as the process.
    ///
    /// # Errors
    /// [`PkiError::Issue`].
    pub fn in_memory() -> Result<Self, PkiError> {
        let (ca_key, token_key) = (KeyPair::generate()?, KeyPair::generate()?);
        let cert = authority(AUTHORITY_NAME).self_signed(&ca_key)?;
        Ok(Self {
            ca_pem: cert.pem(),
            ca_der: cert.der().clone(),
            issuer: Issuer::new(authority(AUTHORITY_NAME), ca_key),
            token_key,
            proxy: Authority::new()?,
            aggregation: OnceLock::new(),
        })
    }

    /// The authority kept in a directory, made when it is not there.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let (ca_crt, ca_key, sa_key) = (dir.join("ca.crt"), dir.join("ca.key"), dir.join("sa.key"));
        if !ca_crt.exists() {
            let fresh = Self::in_memory()?;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| file(dir, e))?;
            fresh.proxy.keep(dir)?;
            write_private(&sa_key, &fresh.token_key.serialize_pem())?;
            write_private(&ca_key, &fresh.issuer.key().serialize_pem())?;
            // The certificate comes last: its presence says that the others are whole.
            write_private(&ca_crt, &fresh.ca_pem)?;
            return Ok(fresh);
        }
        let ca_pem = read(&ca_crt)?;
        let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| damaged(&ca_crt, &e))?;
        let key = |path: &Path| KeyPair::from_pem(&read(path)?).map_err(|e| damaged(path, &e));
        let issuer = Issuer::new(authority(AUTHORITY_NAME), key(&ca_key)?);
        let proxy = Authority::open(dir)?;
        Ok(Self { ca_pem, ca_der, issuer, token_key: key(&sa_key)?, proxy, aggregation: OnceLock::new() })
    }

    /// The authority's certificate, for clients.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The key that signs service account tokens, PKCS#8.
    pub fn token_key(&self) -> Vec<u8> {
        self.token_key.serialize_der()
    }

    /// The roots that say who belongs to the cluster.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca_der.clone()).expect("our own authority is a valid one");
        roots
    }

    /// A certificate for a server with these names and addresses.
    ///
    /// # Errors
    /// [`PkiError::Issue`].
    pub fn server(&self, name: &str, dns: &[String], addresses: &[IpAddr]) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::new(dns.to_vec())?;
        params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        issue(&self.issuer, params, name, &[])
    }

    /// A certificate that makes its holder `name` in `groups`.
    ///
    /// # Errors
    /// [`PkiError::Issue`].
    pub fn client(&self, name: &str, groups: &[&str]) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue(&self.issuer, params, name, groups)
    }

    /// The certificate with which the server speaks for users to other servers, and the authority to believe it by.
    ///
    /// # Errors
    /// [`PkiError::Issue`].
    pub fn front_proxy(&self) -> Result<(Identity, String), PkiError> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let identity = issue(&self.proxy.issuer, params, "front-proxy-client", &[])?;
        Ok((identity, self.proxy.pem.clone()))
    }

    /// How the API server speaks to servers that answer for groups of their own.
    ///
    /// # Errors
    /// [`PkiError::Issue`].
    pub fn aggregation(&self) -> Result<aggregation::Settings, PkiError> {
        if let Some(settings) = self.aggregation.get() {
            return Ok(settings.clone());
        }
        let (identity, ca) = self.front_proxy()?;
        let client = Some(Arc::new(identity.chain()));
        let settings = aggregation::Settings { client, requestheader_ca_pem: Some(ca) };
        Ok(self.aggregation.get_or_init(|| settings).clone())
    }

    /// TLS for a client of this cluster with a certificate of its own.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn client_tls(&self, identity: &Identity) -> Result<Arc<ClientConfig>, PkiError> {
        let (chain, key) = identity.chain();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, key)?;
        Ok(Arc::new(config))
    }
}

fn issue(
    issuer: &Issuer<'static, KeyPair>,
    mut params: CertificateParams,
    name: &str,
    groups: &[&str],
) -> Result<Identity, PkiError> {
    params.distinguished_name.remove(DnType::CommonName);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, issuer)?;
    let key_der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok(Identity { cert_pem: cert.pem(), key_pem: key.serialize_pem(), cert_der: cert.der().clone(), key_der })
}

impl Authority {
    fn new() -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let params = authority(PROXY_AUTHORITY_NAME);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(authority(PROXY_AUTHORITY_NAME), key) })
    }

    fn files(dir: &Path) -> (PathBuf, PathBuf) {
        (dir.join("front-proxy-ca.crt"), dir.join("front-proxy-ca.key"))
    }

    fn keep(&self, dir: &Path) -> Result<(), PkiError> {
        let (certificate, key) = Self::files(dir);
        write_private(&key, &self.issuer.key().serialize_pem())?;
        write_private(&certificate, &self.pem)
    }

    /// The one kept in a directory; older directories have none.
    fn open(dir: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = Self::files(dir);
        if !certificate.exists() {
            let fresh = Self::new()?;
            fresh.keep(dir)?;
            return Ok(fresh);
        }
        let pair = KeyPair::from_pem(&read(&key)?).map_err(|e| damaged(&key, &e))?;
        Ok(Self { pem: read(&certificate)?, issuer: Issuer::new(authority(PROXY_AUTHORITY_NAME), pair) })
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Writes a file that only its owner can read, whole or not at all.
///
/// # Errors
/// [`PkiError::File`].
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        io::Write::write_all(&mut out, text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| file(path, e))
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|e| file(path, e))
}

fn file(path: &Path, source: io::Error) -> PkiError {
    PkiError::File { path: path.to_owned(), source }
}

fn damaged(path: &Path, detail: &dyn std::fmt::Display) -> PkiError {
    PkiError::Damaged { path: path.to_owned(), detail: detail.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_comes_back_and_its_old_certificates_stay_good() {
        let dir = std::env::temp_dir().join(format!("minicluster-pki-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let first = Pki::open(&dir).unwrap();
        let issued = first.client("alice", &["dev"]).unwrap();
        let second = Pki::open(&dir).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        assert_eq!(first.token_key(), second.token_key());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(second.roots()),
            Arc::new(rustls::crypto::ring::default_provider()),
        )
        .build()
        .unwrap();
        let now =
            rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
        verifier.verify_client_cert(&issued.cert_der, &[], now).unwrap();
        fs::write(dir.join("ca.key"), "nonsense").unwrap();
        let error = Pki::open(&dir).err().unwrap().to_string();
        assert!(error.contains("ca.key is damaged"), "{error}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
