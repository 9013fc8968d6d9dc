//! What a server of a process proves itself with, and what its clients believe it by: webhooks, and metrics.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{sync::Notify, time::timeout};

use crate::{BoxError, Place, Rules, RunCx, Scope, Subscription, Verbs, clock};

const AUTHORITY_DAYS: u16 = 365;
const SERVER_DAYS: u16 = 90;
/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The wait before a certificate that failed, or what follows from it, is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// When an authority ends, on the Secret that holds it.
const EXPIRES: &str = "windlass.dev/expires";

/// How many days certificates are good for. In the last third another takes over; both authorities are believed then.
#[derive(Clone, Copy, Debug)]
struct Lifetimes {
    authority: u16,
    server: u16,
}

impl Lifetimes {
    fn authority_overlap(self) -> Duration {
        days(self.authority) / 3
    }

    fn server_renewed_after(self) -> Duration {
        days(self.server) * 2 / 3
    }
}

/// Where certificates come from.
#[derive(Clone, Debug)]
pub struct Certificates(Origin);

#[derive(Clone, Debug)]
enum Origin {
    /// An authority in a Secret, shared by all replicas.
    Secret(Lifetimes),
    /// `tls.crt`, `tls.key` and perhaps `ca.crt` in a folder.
    Folder {
        dir: PathBuf,
        /// cert-manager fills in the bundle of this Certificate, `namespace/name`.
        injected: Option<String>,
    },
}

impl Certificates {
    /// An authority of its own: made by whichever replica comes first, kept in the Secret `SERVICE-ca`, and followed by
    /// another before it ends. Each replica makes its certificate from it.
    #[must_use]
    pub fn self_signed() -> Self {
        Self::self_signed_for(AUTHORITY_DAYS, SERVER_DAYS)
    }

    /// The same; authority and certificates are good for so many days, and followed by others when a third of that is
    /// left.
    #[must_use]
    pub fn self_signed_for(authority_days: u16, server_days: u16) -> Self {
        Self(Origin::Secret(Lifetimes { authority: authority_days.max(3), server: server_days.max(3) }))
    }

    /// Files that somebody else renews: `tls.crt`, `tls.key`, and `ca.crt` for API servers to believe. They are read
    /// again when they change.
    #[must_use]
    pub fn folder(dir: impl Into<PathBuf>) -> Self {
        Self(Origin::Folder { dir: dir.into(), injected: None })
    }

    /// Files from a Secret that cert-manager renews; it fills in the bundle of this Certificate, too.
    #[must_use]
    pub fn cert_manager(dir: impl Into<PathBuf>, namespace: &str, certificate: &str) -> Self {
        Self(Origin::Folder { dir: dir.into(), injected: Some(format!("{namespace}/{certificate}")) })
    }

    /// The folder that they come from, if they do.
    pub(crate) fn dir(&self) -> Option<&Path> {
        match &self.0 {
            Origin::Folder { dir, .. } => Some(dir),
            Origin::Secret(_) => None,
        }
    }

    /// Who fills in what API servers believe these by, if somebody does: cert-manager, and for which Certificate.
    pub(crate) fn injected(&self) -> Option<&str> {
        match &self.0 {
            Origin::Folder { injected, .. } => injected.as_deref(),
            Origin::Secret(_) => None,
        }
    }

    /// The Secret whose `ca.crt` these are believed by, if there is one.
    pub(crate) fn secret(&self, service: &str) -> Option<String> {
        matches!(self.0, Origin::Secret(_)).then(|| secret_name(service))
    }

    /// Wakes `changed` whenever the Secret with the authority changes.
    fn watch(
        &self,
        service: &str,
        cx: &RunCx,
        namespace: &str,
        changed: &Arc<Notify>,
    ) -> Option<Subscription> {
        let name = self.secret(service)?;
        let scope = Scope::namespace(namespace).fields(format!("metadata.name={name}"));
        let informer = cx.informers.get::<Secret>(scope);
        let changed = Arc::clone(changed);
        Some(informer.subscribe(move |_| changed.notify_one()))
    }

    pub(crate) fn needs(&self, service: &str, rules: &mut Rules) {
        if matches!(self.0, Origin::Secret(_)) {
            let write = Verbs::GET | Verbs::LIST | Verbs::WATCH | Verbs::UPDATE;
            rules.allow_named(Place::Own, "", "secrets", &secret_name(service), write);
            rules.allow_resource(Place::Own, "", "secrets", Verbs::CREATE);
        }
    }
}

/// Keeps what a server presents fresh, for ever. `then` is told what it is believed by, and is part of it: what fails is
/// tried again.
pub(crate) async fn keep<'f>(
    certificates: &Certificates,
    service: &str,
    cx: &RunCx,
    current: &Current,
    then: impl Fn(Option<String>) -> BoxFuture<'f, Result<(), BoxError>>,
) {
    let client = cx.informers.client();
    let namespace = client.default_namespace().to_owned();
    let changed = Arc::new(Notify::new());
    let _watching = certificates.watch(service, cx, &namespace, &changed);
    loop {
        let kept = async {
            let served = match &certificates.0 {
                Origin::Secret(lifetimes) => from_secret(client, service, &namespace, *lifetimes).await?,
                Origin::Folder { dir, .. } => from_folder(dir)?,
            };
            let (bundle, renew) = (served.bundle.clone(), served.renew);
            current.present(served);
            then(bundle).await?;
            Ok::<_, BoxError>(renew)
        };
        let wait = match kept.await {
            Ok(renew) => renew.unwrap_or(LOOK_EVERY),
            Err(error) => {
                tracing::error!(service, %error, "certificates, or what follows from them, are not in order");
                RETRY
            }
        };
        // Another replica may have made a new authority.
        let _ = timeout(wait, changed.notified()).await;
    }
}

/// The Secret that holds the authority of a service.
fn secret_name(service: &str) -> String {
    format!("{service}-ca")
}

/// What the server presents at present.
#[derive(Debug, Default)]
pub(crate) struct Current(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl Current {
    /// Presents this from now on.
    fn present(&self, served: Served) {
        self.0.store(Some(Arc::new(served.key)));
    }
}

/// A certificate with its key, and what it is believed by.
struct Served {
    key: CertifiedKey,
    /// The authorities, in PEM; `None` where somebody else says so.
    bundle: Option<String>,
    /// When another has to be made; `None` when files say so.
    renew: Option<Duration>,
}

/// An authority in its Secret.
struct Authority {
    /// The newest first.
    bundle: String,
    key: KeyPair,
    expires: Timestamp,
}

/// A certificate from the authority in the Secret, which is made when it is not there, and followed by another when its
/// time is near.
async fn from_secret(
    client: &Client,
    service: &str,
    namespace: &str,
    lifetimes: Lifetimes,
) -> Result<Served, BoxError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let name = secret_name(service);
    // A second look finds what another replica has written meanwhile.
    for _ in 0..5 {
        let found = secrets.get_opt(&name).await?;
        let authority = found.as_ref().and_then(Authority::read);
        let overlap = lifetimes.authority_overlap();
        if let Some(authority) = authority.as_ref().filter(|a| clock::until(a.expires) > overlap) {
            return authority.issue(service, namespace, lifetimes);
        }
        let fresh = Authority::new(service, lifetimes, authority.as_ref())?;
        let wanted = fresh.secret(&name, found.as_ref());
        let kept = match found {
            Some(_) => secrets.replace(&name, &PostParams::default(), &wanted).await,
            None => secrets.create(&PostParams::default(), &wanted).await,
        };
        match kept {
            Ok(_) => return fresh.issue(service, namespace, lifetimes),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(format!("the Secret {namespace}/{name} changes all the time").into())
}

/// What lies in a folder.
fn from_folder(dir: &Path) -> Result<Served, BoxError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read("tls.crt")?).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&read("tls.key")?)?;
    let key = CertifiedKey::from_der(chain, key, &default_provider())?;
    let bundle = read("ca.crt").ok().and_then(|pem| String::from_utf8(pem).ok());
    Ok(Served { key, bundle, renew: None })
}

fn days(days: u16) -> Duration {
    Duration::from_secs(u64::from(days) * 24 * 3600)
}

/// Certificates are good for whole days.
fn valid(params: &mut CertificateParams, for_days: u16) -> Timestamp {
    let day = |offset: Duration, back: bool| {
        let now = clock::now();
        let at = if back { now.checked_sub(offset) } else { now.checked_add(offset) };
        at.unwrap_or(now).to_zoned(TimeZone::UTC).date()
    };
    let (from, until) = (day(days(1), true), day(days(for_days), false));
    let ymd = |date: jiff::civil::Date| {
        let part = |n: i8| u8::try_from(n).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    (params.not_before, params.not_after) = (ymd(from), ymd(until));
    until.to_zoned(TimeZone::UTC).map_or(Timestamp::UNIX_EPOCH, |at| at.timestamp())
}

fn authority_params(service: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{service}-ca"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Authority {
    fn new(service: &str, lifetimes: Lifetimes, before: Option<&Self>) -> Result<Self, BoxError> {
        let key = KeyPair::generate()?;
        let mut params = authority_params(service);
        let expires = valid(&mut params, lifetimes.authority);
        let mut bundle = params.self_signed(&key)?.pem();
        // Replicas present what the one before has signed for a while yet.
        let last =
            before.and_then(|before| before.bundle.split_inclusive("-----END CERTIFICATE-----").next());
        if let Some(last) = last {
            bundle = format!("{}\n{}\n", bundle.trim_end(), last.trim());
        }
        Ok(Self { bundle, key, expires })
    }

    /// `None` for a Secret that is not what it should be: it is written anew.
    fn read(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let text = |name: &str| std::str::from_utf8(&data.get(name)?.0).ok().map(str::to_owned);
        let expires = secret.metadata.annotations.as_ref()?.get(EXPIRES)?.parse().ok()?;
        Some(Self { bundle: text("ca.crt")?, key: KeyPair::from_pem(&text("ca.key")?).ok()?, expires })
    }

    fn secret(&self, name: &str, before: Option<&Secret>) -> Secret {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some([(EXPIRES.to_owned(), self.expires.to_string())].into()),
            resource_version: before.and_then(|secret| secret.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        };
        let data = [("ca.crt", self.bundle.clone()), ("ca.key", self.key.serialize_pem())];
        let data = data.map(|(name, pem)| (name.to_owned(), ByteString(pem.into_bytes())));
        Secret { metadata, data: Some(data.into()), ..Secret::default() }
    }

    fn issue(&self, service: &str, namespace: &str, lifetimes: Lifetimes) -> Result<Served, BoxError> {
        let names =
            ["", &format!(".{namespace}"), &format!(".{namespace}.svc")].map(|end| format!("{service}{end}"));
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, service);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        valid(&mut params, lifetimes.server);
        let key = KeyPair::generate()?;
        let authority = authority_params(service);
        let issuer = Issuer::from_params(&authority, &self.key);
        let certificate = params.signed_by(&key, &issuer)?;
        let der = PrivateKeyDer::try_from(key.serialize_der())?;
        let key = CertifiedKey::from_der(vec![certificate.der().clone()], der, &default_provider())?;
        let next_authority = clock::until(self.expires).saturating_sub(lifetimes.authority_overlap());
        let renew = lifetimes.server_renewed_after().min(next_authority);
        Ok(Served { key, bundle: Some(self.bundle.clone()), renew: Some(renew) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_authority_survives_its_secret_and_is_followed_by_another() {
        let lifetimes = Lifetimes { authority: AUTHORITY_DAYS, server: SERVER_DAYS };
        let first = Authority::new("hooks", lifetimes, None).unwrap();
        let secret = first.secret("hooks-ca", None);
        let read = Authority::read(&secret).unwrap();
        assert_eq!(read.expires, first.expires);
        let served = read.issue("hooks", "default", lifetimes).unwrap();
        assert_eq!(served.renew, Some(days(60)));

        tokio::time::advance(days(300)).await;
        let second = Authority::new("hooks", lifetimes, Some(&read)).unwrap();
        assert_eq!(
            second.bundle.matches("BEGIN CERTIFICATE").count(),
            2,
            "the old one is believed for a while"
        );
        assert!(second.bundle.contains(first.bundle.trim()));
        tokio::time::advance(days(200)).await;
        let third = Authority::new("hooks", lifetimes, Some(&second)).unwrap();
        assert_eq!(third.bundle.matches("BEGIN CERTIFICATE").count(), 2, "and then forgotten");
        assert!(Authority::read(&Secret::default()).is_none());
    }

    #[test]
    fn a_folder_without_files_says_which() {
        let error = from_folder(Path::new("/nowhere")).err().unwrap().to_string();
        assert!(error.starts_with("/nowhere/tls.crt: "), "{error}");
    }
}
