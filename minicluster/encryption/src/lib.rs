//! Encryption at rest, in the formats of kube-apiserver (`--encryption-provider-config`).
//!
//! An [`Encryption`] is the [`Vault`] of a durable store: what the store's engine writes is sealed by the first provider
//! of its resource, what it reads is opened by whichever fits. The server itself sees plain bytes in memory, so reads
//! and lists cost nothing; in return every value is opened once when the server starts, and a key that is missing then
//! is a reason not to start. Data that an older key sealed is sealed anew by its next write.
//!
//! What it never does: keep a key anywhere but in memory, or write anything itself.
//! Source: `k8s.io/apiserver/pkg/server/options/encryptionconfig`.

mod changes;
mod config;
mod keys;
mod kms;
mod rules;
mod seals;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use minicluster_store::{Opened, Seal, Sealed, Vault};
use ring::digest;
use tokio::task::JoinSet;

use crate::{changes::Changes, rules::Rules, seals::Seals};

/// How often the file is looked at besides when the kernel says that it changed.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);

/// The largest configuration file.
const FILE_BYTES_MAX: u64 = 3 << 20;

/// Says of a key of the store which resource and group it belongs to: `secrets` and "".
pub type ResourceOf = Box<dyn Fn(&str) -> (String, String) + Send + Sync>;

/// A configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The file cannot be read.
    #[error("error reading encryption provider configuration file {path:?}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file makes no sense.
    #[error("encryption provider configuration file {path:?}: {why}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What seals and opens the values of one store.
pub struct Encryption {
    path: PathBuf,
    reloads: bool,
    resource_of: ResourceOf,
    seals: Arc<Seals>,
    rules: ArcSwap<Rules>,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Encryption {
    /// Reads a configuration, and asks its KMS plugins for their keys. A plugin that does not answer is no error yet:
    /// its resources cannot be written until it does.
    ///
    /// # Errors
    /// [`EncryptionError`].
    pub async fn open(
        path: &Path,
        reloads: bool,
        resource_of: ResourceOf,
    ) -> Result<Arc<Self>, EncryptionError> {
        let seals = Arc::new(Seals::default());
        let (rules, _) = load(path, reloads, &seals)?;
        for plugin in &rules.plugins {
            plugin.probe().await;
        }
        let rules = ArcSwap::from_pointee(rules);
        Ok(Arc::new(Self { path: path.to_owned(), reloads, resource_of, seals, rules }))
    }

    /// Keeps the keys of KMS plugins up to date and, where that was asked for, the configuration, for ever.
    pub async fn follow(&self) {
        let mut hash = self.hash();
        loop {
            let rules = self.rules.load_full();
            let mut plugins = JoinSet::new();
            for plugin in rules.plugins.clone() {
                plugins.spawn(async move { plugin.follow().await });
            }
            hash = self.changed(hash).await;
        }
    }

    /// Waits until another configuration is in force.
    async fn changed(&self, mut hash: Vec<u8>) -> Vec<u8> {
        if !self.reloads {
            std::future::pending::<()>().await;
        }
        let changes = Changes::of(&self.path);
        let mut first = true;
        loop {
            if !std::mem::take(&mut first) {
                changes.wait(RELOAD_INTERVAL).await;
            }
            let now = self.hash();
            if now == hash || now.is_empty() {
                continue;
            }
            hash = now;
            match load(&self.path, self.reloads, &self.seals) {
                Ok((rules, loaded)) => {
                    for plugin in &rules.plugins {
                        plugin.probe().await;
                    }
                    self.rules.store(Arc::new(rules));
                    tracing::info!(path = %self.path.display(), "the encryption configuration was loaded anew");
                    return loaded;
                }
                Err(error) => {
                    tracing::error!(%error, "the changed encryption configuration cannot be used; the last one stays");
                }
            }
        }
    }

    fn hash(&self) -> Vec<u8> {
        std::fs::read(&self.path).map(|bytes| hash(&bytes)).unwrap_or_default()
    }

    /// How the KMS plugins are, as the health check `kms-providers` says it.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn health(&self) -> Result<(), String> {
        let rules = self.rules.load();
        let errors: Vec<String> = rules
            .plugins
            .iter()
            .enumerate()
            .filter_map(|(i, plugin)| plugin.health().err().map(|why| format!("kms-provider-{i}: {why}")))
            .collect();
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

fn hash(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

fn load(path: &Path, reloads: bool, seals: &Arc<Seals>) -> Result<(Rules, Vec<u8>), EncryptionError> {
    let failed = |source| EncryptionError::File { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(failed(io::Error::other("the file is too large")));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let invalid = |why| EncryptionError::Invalid { path: path.to_owned(), why };
    if text.is_empty() {
        return Err(invalid("the file is empty".to_owned()));
    }
    let config = config::parse(&text, reloads).map_err(invalid)?;
    let rules = Rules::new(&config, seals)
        .map_err(|why| invalid(format!("error while building transformers: {why}")))?;
    Ok((rules, hash(text.as_bytes())))
}

impl Vault for Encryption {
    fn check(&self, key: &str) -> Result<(), String> {
        let (resource, group) = (self.resource_of)(key);
        self.rules.load().check(&resource, &group)
    }

    fn seal(&self, key: &str, plain: &[u8]) -> Result<Sealed, String> {
        let (resource, group) = (self.resource_of)(key);
        self.rules.load().seal(&resource, &group, key, plain)
    }

    fn open(&self, key: &str, stored: &[u8]) -> Result<Opened, String> {
        let (resource, group) = (self.resource_of)(key);
        let opened = self.rules.load().open(&resource, &group, key, stored);
        opened.map_err(|why| format!("{why}: no key of {} opens it", self.path.display()))
    }

    fn is_current(&self, key: &str, seal: Seal) -> bool {
        let (resource, group) = (self.resource_of)(key);
        self.rules.load().current(&resource, &group) == seal
    }
}
