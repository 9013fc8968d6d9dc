//! Members whose kubeconfigs are files of a folder, such as a mounted Secret.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::BoxFuture;

use super::{Connect, Provider, ProviderCx, connect, secrets};
use crate::BoxError;

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// A member for each kubeconfig in a folder, named as the file without its extension. The folder is looked at every 10 s;
/// a file that changes connects anew. Files that begin with a dot are left out.
pub struct Files {
    folder: PathBuf,
    connect: Connect,
}

impl Files {
    /// The kubeconfigs of this folder.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), connect: connect() }
    }

    /// Connects in another way.
    #[must_use]
    pub fn connecting(mut self, connect: Connect) -> Self {
        self.connect = connect;
        self
    }
}

/// The names of the members, and the texts of their files.
async fn read(folder: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut entries = tokio::fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        let path = entry.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // Links lead to the files of a mounted Secret.
        if name.starts_with('.') || !tokio::fs::metadata(&path).await?.is_file() {
            continue;
        }
        found.insert(name, tokio::fs::read(&path).await?);
    }
    Ok(found)
}

impl Provider for Files {
    fn name(&self) -> &'static str {
        "cluster-files"
    }

    fn run(&self, cx: ProviderCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            let mut known: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            loop {
                let found = read(&self.folder)
                    .await
                    .map_err(|error| format!("{} cannot be read: {error}", self.folder.display()))?;
                for (name, text) in &found {
                    if known.get(name) == Some(text) {
                        continue;
                    }
                    match secrets::client(text, &self.connect).await {
                        Ok(client) => cx.joined(name, client, BTreeMap::new()),
                        Err(error) => {
                            let why = crate::sentence(&*error);
                            tracing::warn!(file = name, why, "no cluster can be reached by this file");
                        }
                    }
                }
                cx.listed(&found.keys().cloned().collect());
                known = found;
                tokio::time::sleep(LOOK).await;
            }
        })
    }
}
