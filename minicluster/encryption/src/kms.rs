//! KMS v2: values are sealed with keys derived from a seed, and the seed is sealed by a plugin outside of this process.
//!
//! The plugin is asked once for each seed, not once for each value. [`Kms::probe`] asks it how it is and which of its
//! keys is current; when that changes, a new seed is made. While the plugin is away, writes go on for three minutes with
//! the last seed; what is in memory is read for ever. Sources: `k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2`
//! and `…/server/options/encryptionconfig`.

mod wire;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use minicluster_store::Seal;
use parking_lot::Mutex;
use prost::Message;
use ring::{digest, hkdf};
use tokio::time::{Instant, sleep, timeout};
use windlass_crd::name;

use crate::{
    keys::{Gcm, random},
    seals::Seals,
};
use wire::{Client, EncryptedObject, Source};

/// How long a seed may be written with after the plugin was last well.
const SEED_LIFE: Duration = Duration::from_secs(3 * 60);
/// How often a plugin that is well is asked, and one that is not.
const INTERVAL_WELL: Duration = Duration::from_secs(60);
const INTERVAL_ILL: Duration = Duration::from_secs(10);

const KEY_ID_MAX: usize = 1024;
const SOURCE_MAX: usize = 1024;
const ANNOTATIONS_MAX: usize = 32 * 1024;
/// What a key is derived from besides the seed stands before the value.
const INFO: usize = 32;
const SEED: usize = 32;

/// One plugin.
pub(crate) struct Kms {
    name: String,
    /// `k8s:enc:kms:v2:NAME:`.
    pub(crate) prefix: String,
    client: Client,
    timeout: Duration,
    runtime: tokio::runtime::Handle,
    seals: Arc<Seals>,
    state: ArcSwapOption<State>,
    /// Seeds that were opened, by all that was said of them.
    opened: Mutex<BTreeMap<Vec<u8>, Arc<Opener>>>,
    version: Mutex<String>,
    health: Mutex<Result<(), String>>,
}

/// What is sealed with at present.
struct State {
    seed: hkdf::Prk,
    source: EncryptedObject,
    seal: Seal,
    expires: Instant,
}

enum Opener {
    /// A key of each value's own comes from this seed.
    Seed(hkdf::Prk),
    /// One key for all.
    Key(Gcm),
}

impl Kms {
    pub(crate) fn new(config: &crate::config::Kms, seals: &Arc<Seals>) -> Arc<Self> {
        Arc::new(Self {
            name: config.name.clone(),
            prefix: format!("k8s:enc:kms:v2:{}:", config.name),
            client: Client::new(&config.endpoint),
            timeout: config.timeout(),
            runtime: tokio::runtime::Handle::current(),
            seals: Arc::clone(seals),
            state: ArcSwapOption::empty(),
            opened: Mutex::default(),
            version: Mutex::default(),
            health: Mutex::new(Err("not asked yet".to_owned())),
        })
    }

    /// Keeps the seed up to date, for ever.
    pub(crate) async fn follow(&self) {
        loop {
            let well = self.health.lock().is_ok();
            sleep(if well { INTERVAL_WELL } else { INTERVAL_ILL }).await;
            self.probe().await;
        }
    }

    /// Asks the plugin how it is.
    pub(crate) async fn probe(&self) {
        let found = self.try_probe().await;
        if let Err(error) = &found {
            tracing::warn!(name = self.name, error, "kms plugin failed health check probe");
        }
        *self.health.lock() = found;
    }

    /// What the last [`Kms::probe`] found.
    pub(crate) fn health(&self) -> Result<(), String> {
        self.health.lock().clone()
    }

    async fn try_probe(&self) -> Result<(), String> {
        let name = &self.name;
        let status = self.within(self.client.status()).await.map_err(|error| {
            format!("failed to perform status section of the healthz check for KMS Provider {name}, error: {error}")
        })?;
        let mut errors = Vec::new();
        if status.healthz != "ok" {
            errors.push(format!("got unexpected healthz status: {}", status.healthz));
        }
        errors.extend(self.version_fault(&status.version));
        match key_id_fault(&status.key_id) {
            Some(why) => {
                errors.push(format!("got invalid KMSv2 KeyID hash {:?}: {why}", hash(&status.key_id)));
            }
            None => errors.extend(self.rotate(&status.key_id).await.err()),
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(format!("kmsv2 Provider {name} is not healthy, error: {one}")),
            many => Err(format!("kmsv2 Provider {name} is not healthy, error: [{}]", many.join(", "))),
        }
    }

    fn version_fault(&self, version: &str) -> Option<String> {
        if !matches!(version, "v2" | "v2beta1") {
            return Some(format!("expected KMSv2 API version v2, got {version}"));
        }
        let mut first = self.version.lock();
        if first.is_empty() {
            version.clone_into(&mut first);
        }
        (*first != version).then(|| {
            format!("KMSv2 API version should not change after the initial status response version {first}, got {version}")
        })
    }

    /// Makes a new seed when the plugin has another key; else the one at hand may be used for longer.
    async fn rotate(&self, key_id: &str) -> Result<(), String> {
        // Counted from before the call, so that it is the upper bound that it is meant to be.
        let expires = Instant::now() + SEED_LIFE;
        if let Some(state) = self.state.load_full().filter(|state| state.source.key_id == key_id) {
            let state =
                State { seed: state.seed.clone(), source: state.source.clone(), seal: state.seal, expires };
            self.state.store(Some(Arc::new(state)));
            return Ok(());
        }
        let mut seed = [0; SEED];
        random(&mut seed)?;
        let answer = self
            .within(self.client.encrypt(seed.to_vec()))
            .await
            .map_err(|error| format!("failed to rotate DEK: failed to encrypt DEK, error: {error}"))?;
        let source = EncryptedObject {
            encrypted_data: vec![0],
            key_id: answer.key_id,
            encrypted_dek_source: answer.ciphertext,
            annotations: answer.annotations,
            encrypted_dek_source_type: Source::Seed.into(),
        };
        check(&source).map_err(|error| format!("failed to rotate DEK: {error}"))?;
        if source.key_id != key_id {
            return Err(format!(
                "failed to rotate DEK: statusKeyIDHash={:?}, encryptKeyIDHash={:?}",
                hash(key_id),
                hash(&source.key_id)
            ));
        }
        let seed = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &seed);
        self.opened.lock().insert(cache_key(&source), Arc::new(Opener::Seed(seed.clone())));
        let seal = self.seals.number(&self.seal_name(&source));
        self.state.store(Some(Arc::new(State { seed, source, seal, expires })));
        Ok(())
    }

    fn seal_name(&self, source: &EncryptedObject) -> String {
        format!("{}{}:{}", self.prefix, source.encrypted_dek_source_type, source.key_id)
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        timeout(self.timeout, call).await.unwrap_or_else(|_| {
            Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned())
        })
    }

    /// What a value would be sealed with now; 0 while there is no seed.
    pub(crate) fn current(&self) -> Seal {
        self.state.load().as_ref().map_or(0, |state| state.seal)
    }

    /// Refuses writes while there is no seed, or none that may still be used.
    pub(crate) fn check(&self) -> Result<(), String> {
        let state = self.state.load();
        let Some(state) = state.as_ref() else { return Err("got unexpected nil transformer".to_owned()) };
        if Instant::now() > state.expires {
            return Err(format!(
                "encryptedDEKSource with keyID hash {:?} expired",
                hash(&state.source.key_id)
            ));
        }
        Ok(())
    }

    pub(crate) fn seal(&self, plain: &[u8], context: &[u8]) -> Result<(Vec<u8>, Seal), String> {
        let state = self.state.load_full().ok_or("got unexpected nil transformer")?;
        let mut info = [0; INFO];
        random(&mut info)?;
        let sealed = derived(&state.seed, &info)?.seal(plain, context)?;
        let object =
            EncryptedObject { encrypted_data: [&info[..], &sealed].concat(), ..state.source.clone() };
        Ok((object.encode_to_vec(), state.seal))
    }

    /// Opens a value; asks the plugin for a seed that is not known yet, and blocks until it has answered.
    pub(crate) fn open(&self, sealed: &[u8], context: &[u8]) -> Result<(Vec<u8>, Seal), String> {
        let object = EncryptedObject::decode(sealed).map_err(|e| e.to_string())?;
        check(&object)?;
        let seal = self.seals.number(&self.seal_name(&object));
        let data = &object.encrypted_data;
        let plain = match &*self.opener(&object)? {
            Opener::Key(gcm) => gcm.open(data, context),
            Opener::Seed(seed) => {
                let too_short = "the stored data was shorter than the required size";
                let (info, rest) = data.split_at_checked(INFO).ok_or(too_short)?;
                derived(seed, info)?.open(rest, context)
            }
        }?;
        Ok((plain, seal))
    }

    fn opener(&self, object: &EncryptedObject) -> Result<Arc<Opener>, String> {
        let key = cache_key(object);
        if let Some(opener) = self.opened.lock().get(&key) {
            return Ok(Arc::clone(opener));
        }
        let source = object.clone();
        let asked = self.within(self.client.decrypt(source));
        let plain =
            self.runtime.block_on(asked).map_err(|error| format!("failed to decrypt DEK, error: {error}"))?;
        let opener = Arc::new(match object.encrypted_dek_source_type() {
            Source::Seed if plain.len() < SEED => {
                return Err(format!("invalid seed length {} used for key generation", plain.len()));
            }
            Source::Seed => Opener::Seed(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &plain)),
            Source::Key => Opener::Key(
                Gcm::new(&plain).ok_or_else(|| format!("crypto/aes: invalid key size {}", plain.len()))?,
            ),
        });
        self.opened.lock().insert(key, Arc::clone(&opener));
        Ok(opener)
    }
}

/// The key that one value is sealed with.
fn derived(seed: &hkdf::Prk, info: &[u8]) -> Result<Gcm, String> {
    let mut key = [0; 32];
    let failed = |_| "failed to KDF expand seed with info";
    seed.expand(&[info], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut key)).map_err(failed)?;
    Gcm::new(&key).ok_or_else(|| "failed to build transformer with KDF derived key".to_owned())
}

/// All that is known of a seed, so that nobody is given one for another.
fn cache_key(object: &EncryptedObject) -> Vec<u8> {
    EncryptedObject { encrypted_data: Vec::new(), ..object.clone() }.encode_to_vec()
}

fn check(object: &EncryptedObject) -> Result<(), String> {
    if Source::try_from(object.encrypted_dek_source_type).is_err() {
        return Err(format!("unknown encryptedDEKSourceType: {}", object.encrypted_dek_source_type));
    }
    if object.encrypted_data.is_empty() {
        return Err("encrypted data is empty".to_owned());
    }
    let source = object.encrypted_dek_source.len();
    if source == 0 {
        return Err("failed to validate encrypted DEK source: encrypted DEK source is empty".to_owned());
    }
    if source > SOURCE_MAX {
        return Err(format!(
            "failed to validate encrypted DEK source: encrypted DEK source is {source} bytes, which exceeds the max size \
             of {SOURCE_MAX}"
        ));
    }
    if let Some(why) = key_id_fault(&object.key_id) {
        return Err(format!("failed to validate key id: {why}"));
    }
    if let Some(key) =
        object.annotations.keys().find(|key| !key.contains('.') || name::dns1123_subdomain(key).is_err())
    {
        return Err(format!(
            "failed to validate annotations: annotations: Invalid value: {key:?}: should be a domain with at least two \
             segments separated by dots"
        ));
    }
    let total: usize = object.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > ANNOTATIONS_MAX {
        return Err(format!(
            "failed to validate annotations: total size of annotations is {total}, which exceeds the max size of \
             {ANNOTATIONS_MAX}"
        ));
    }
    Ok(())
}

fn key_id_fault(key_id: &str) -> Option<String> {
    match key_id.len() {
        0 => Some("keyID is empty".to_owned()),
        n if n > KEY_ID_MAX => {
            Some(format!("keyID is {n} bytes, which exceeds the max size of {KEY_ID_MAX}"))
        }
        _ => None,
    }
}

/// A key's name as logs may show it.
fn hash(key_id: &str) -> String {
    if key_id.is_empty() {
        return String::new();
    }
    let sum = digest::digest(&digest::SHA256, key_id.as_bytes());
    let hex: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests;
