//! The store behind the API server: in memory, or on disk and there perhaps sealed.

use std::{path::Path, sync::Arc};

use minicluster_apiserver::health::Probe;
use minicluster_store::{EngineError, Store, Vault};
use tokio::task::JoinSet;
use windlass::CancellationToken;

use crate::{
    cluster::ClusterError,
    options::{StoreKind, UpOptions},
};

/// Health checks that come with a store.
type Checks = Vec<(&'static str, Probe)>;

/// What every sealed value begins with.
const SEALED: &[u8] = b"k8s:enc:";

/// The store that the flags ask for. What is in memory is sealed by nobody: it is gone with the process.
///
/// # Errors
/// [`ClusterError::Store`], [`ClusterError::Encryption`].
pub(crate) async fn open(
    options: &UpOptions,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(Store, Checks), ClusterError> {
    if options.store == StoreKind::Memory {
        return Ok((Store::memory(), Vec::new()));
    }
    let dir = options.data_dir.join("store");
    let Some(file) = &options.apiserver.encryption_provider_config else {
        return Ok((plain(&dir)?, Vec::new()));
    };
    let reloads = options.apiserver.encryption_provider_config_automatic_reload;
    let (vault, checks) = vault(file, reloads, stop, tasks).await?;
    // Opening asks KMS plugins, and waits for them.
    let opened = tokio::task::spawn_blocking(move || Store::open_sealed(&dir, vault)).await;
    let store = opened.unwrap_or_else(|error| Err(EngineError::Other(error.to_string())))?;
    Ok((store, checks))
}

/// A store that nobody seals, and nobody ever sealed.
fn plain(dir: &Path) -> Result<Store, ClusterError> {
    let store = Store::open(dir)?;
    if let Some(sealed) = store.snapshot().range("/").find(|entry| entry.value.starts_with(SEALED)) {
        let key = &sealed.key;
        let why =
            format!("{key} is encrypted: say with --encryption-provider-config what it was encrypted by");
        return Err(ClusterError::Options(why));
    }
    Ok(store)
}

#[cfg(feature = "node")]
async fn vault(
    file: &Path,
    reloads: bool,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(Arc<dyn Vault>, Checks), ClusterError> {
    let resource_of = Box::new(minicluster_apiserver::kinds::table().resource_of_keys());
    let encryption = minicluster_encryption::Encryption::open(file, reloads, resource_of).await?;
    let (following, stopping) = (Arc::clone(&encryption), stop.clone());
    tasks.spawn(async move {
        tokio::select! { biased; () = stopping.cancelled() => {}, () = following.follow() => {} }
    });
    let probed = Arc::clone(&encryption);
    let probe: Probe = Arc::new(move || probed.health());
    Ok((encryption, vec![("kms-providers", probe)]))
}

#[cfg(not(feature = "node"))]
async fn vault(
    file: &Path,
    _: bool,
    _: &CancellationToken,
    _: &mut JoinSet<()>,
) -> Result<(Arc<dyn Vault>, Checks), ClusterError> {
    Err(ClusterError::Options(format!("{}: encryption was left out of this build", file.display())))
}
