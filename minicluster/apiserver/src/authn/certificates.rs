//! Client certificates: kept with their connection, held to the client CAs at each request.
//!
//! The handshake takes any certificate whose holder has its key; whether it is believed is decided here, so that CAs
//! may change while connections live, and a certificate of a stranger gets a 401 instead of a broken handshake. Source:
//! `k8s.io/apiserver/pkg/authentication/request/x509`.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{certificate::X509Certificate, x509::X509Name};

use super::Identity;
use crate::{files::Watched, outbound};

/// Where upstream looks for a uid in a subject.
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// The certificate that a client showed, with its issuers.
#[derive(Debug, Clone)]
pub struct PeerCertificate(Arc<Peer>);

#[derive(Debug)]
struct Peer {
    chain: Vec<CertificateDer<'static>>,
    /// What an authority found out, by its generation, and until when that holds.
    known: Mutex<Option<(u64, i64, Arc<Identity>)>>,
}

impl PeerCertificate {
    /// Keeps a chain, the client's own certificate first; `None` for an empty one.
    pub fn new(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        (!chain.is_empty()).then(|| Self(Arc::new(Peer { chain, known: Mutex::default() })))
    }

    /// The common name of the client's own certificate.
    pub(super) fn common_name(&self) -> String {
        let parsed = x509_parser::parse_x509_certificate(&self.0.chain[0]);
        parsed.map(|(_, certificate)| common_name(certificate.subject())).unwrap_or_default()
    }
}

fn common_name(name: &X509Name<'_>) -> String {
    name.iter_common_name().filter_map(|cn| cn.as_str().ok()).last().unwrap_or_default().to_owned()
}

/// Who may vouch for clients.
pub(super) struct Authority {
    /// The cluster's own CA, and after it what the file holds.
    own: String,
    file: Option<Watched>,
    trusted: ArcSwap<Trusted>,
}

/// CAs at one time.
pub(super) struct Trusted {
    generation: u64,
    pem: String,
    /// `None`: nobody is believed.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Trusted {
    /// Reads CAs.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn new(pem: String) -> Result<Self, String> {
        static GENERATIONS: AtomicU64 = AtomicU64::new(1);
        if pem.trim().is_empty() {
            return Ok(Self { generation: 0, pem, verifier: None });
        }
        let roots = outbound::roots(pem.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { generation: GENERATIONS.fetch_add(1, Ordering::Relaxed), pem, verifier: Some(verifier) })
    }

    /// The PEM text.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// Passes a certificate that one of the CAs issued for clients, and that is valid now.
    ///
    /// # Errors
    /// Why it is not believed.
    pub(super) fn verify(&self, peer: &PeerCertificate) -> Result<(), String> {
        let [own, issuers @ ..] = peer.0.chain.as_slice() else { return Err("no certificate".to_owned()) };
        let now = u64::try_from(windlass::clock::now().as_second()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let verified = match &self.verifier {
            Some(verifier) => {
                verifier.verify_client_cert(own, issuers, now).map(drop).map_err(|e| e.to_string())
            }
            None => Err("certificate signed by unknown authority".to_owned()),
        };
        verified.map_err(|why| format!("verifying certificate CN={} failed: x509: {why}", peer.common_name()))
    }
}

impl Authority {
    pub(super) fn new(own: &str, file: Option<&Path>) -> Result<Self, String> {
        let file = file.map(Watched::open).transpose()?;
        let trusted = trusted(own, file.as_ref())?;
        Ok(Self { own: own.to_owned(), file, trusted: ArcSwap::from_pointee(trusted) })
    }

    pub(super) fn pem(&self) -> String {
        self.trusted.load().pem.clone()
    }

    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    pub(super) fn reload(&self) {
        let Some(file) = &self.file else { return };
        let fresh = match file.changed() {
            Ok(false) => return,
            Ok(true) => trusted(&self.own, Some(file)),
            Err(error) => Err(error),
        };
        match fresh {
            Ok(fresh) => self.trusted.store(Arc::new(fresh)),
            Err(error) => tracing::error!(error, "the client CAs cannot be read; the old ones go on"),
        }
    }

    /// Whom a certificate names. `None`: nobody, as it has no common name.
    pub(super) fn ask(&self, peer: &PeerCertificate) -> Result<Option<Identity>, String> {
        let trusted = self.trusted.load();
        let now = windlass::clock::now().as_second();
        if let Some((generation, until, identity)) = &*peer.0.known.lock()
            && *generation == trusted.generation
            && now < *until
        {
            return Ok(Some((**identity).clone()));
        }
        trusted.verify(peer)?;
        let der = &peer.0.chain[0];
        let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|e| e.to_string())?;
        let Some(identity) = identity(&certificate, der) else { return Ok(None) };
        let until = certificate.validity().not_after.timestamp();
        *peer.0.known.lock() = Some((trusted.generation, until, Arc::new(identity.clone())));
        Ok(Some(identity))
    }
}

fn trusted(own: &str, file: Option<&Watched>) -> Result<Trusted, String> {
    let Some(file) = file else { return Trusted::new(own.to_owned()) };
    let content = file.content();
    // The file has to stand by itself: a broken one is not to hide behind the cluster's own CA.
    let named = |why: String| format!("{}: {why}", file.path().display());
    outbound::roots(content.as_bytes()).map_err(named)?;
    Trusted::new(format!("{}\n{}\n", own.trim_end(), content.trim_end()))
}

/// Subject: CN is the name, O the groups.
fn identity(certificate: &X509Certificate<'_>, der: &[u8]) -> Option<Identity> {
    let subject = certificate.subject();
    let name = common_name(subject);
    if name.is_empty() {
        return None;
    }
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    let mut identity = Identity::new(name, &groups);
    let uid = subject.iter_attributes().find(|attribute| attribute.attr_type().to_id_string() == UID_OID);
    identity.uid = uid.and_then(|uid| uid.as_str().ok()).unwrap_or_default().to_owned();
    let fingerprint = ring::digest::digest(&ring::digest::SHA256, der);
    let hex: String = fingerprint.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let credential = vec![format!("X509SHA256={hex}")];
    identity.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), credential);
    Some(identity)
}

/// The handshake's part: the client has the key of the certificate that it shows, whoever issued it.
#[derive(Debug)]
pub(crate) struct AnyHolder {
    provider: Arc<CryptoProvider>,
    hints: Vec<DistinguishedName>,
}

impl AnyHolder {
    /// Tells clients of these CAs, so that they know which of their certificates to show.
    pub(crate) fn new(provider: Arc<CryptoProvider>, hints: Vec<DistinguishedName>) -> Self {
        Self { provider, hints }
    }
}

impl ClientCertVerifier for AnyHolder {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
