//! Keeps container logs bounded: a log past its size is moved aside, the runtime opens a new one, and only the newest
//! few are kept. Upstream: 10 MiB, five files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use windlass::clock;

use crate::runtime::{Container, ContainerState};
use crate::worker::Shared;

/// Time between two looks at the logs of the node.
const PERIOD: Duration = Duration::from_secs(30);
/// A log larger than this is moved aside.
const MAX_BYTES: u64 = 10 << 20;
/// Files kept per container instance, the current one among them.
const MAX_FILES: usize = 5;

/// Looks after the logs until the kubelet stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(PERIOD) => {}
            () = shared.stop.cancelled() => return,
        }
        let cells: Vec<_> = shared.cells.lock().values().cloned().collect();
        for cell in cells {
            for c in cell.view().containers.iter().filter(|c| c.state == ContainerState::Running) {
                if let Err(error) = rotate(&shared, c, MAX_BYTES).await {
                    tracing::warn!(container = c.name, %error, "a log could not be rotated");
                }
            }
        }
    }
}

async fn rotate(shared: &Shared, c: &Container, limit: u64) -> std::io::Result<()> {
    let path = Path::new(&c.log_path);
    let Ok(meta) = tokio::fs::metadata(path).await else { return Ok(()) };
    if meta.len() < limit {
        return Ok(());
    }
    let aside = PathBuf::from(format!("{}.{}", c.log_path, clock::now().strftime("%Y%m%d-%H%M%S")));
    tokio::fs::rename(path, &aside).await?;
    if let Err(error) = shared.runtime.reopen_log(&c.id).await {
        // The runtime goes on writing to the old file: it gets its name back.
        tokio::fs::rename(&aside, path).await?;
        return Err(std::io::Error::other(error.to_string()));
    }
    for old in surplus(path)? {
        tokio::fs::remove_file(old).await?;
    }
    Ok(())
}

/// The rotated files that are too many, oldest first.
fn surplus(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)?
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)))
        .map(|e| e.path())
        .collect();
    files.sort();
    files.truncate(files.len().saturating_sub(MAX_FILES - 1));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_are_too_many() {
        let dir = std::env::temp_dir().join(format!("windlass-rotate-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for n in 1..=6 {
            std::fs::write(dir.join(format!("0.log.20260101-00000{n}")), "").unwrap();
        }
        std::fs::write(dir.join("0.log"), "").unwrap();
        let names: Vec<_> = surplus(&dir.join("0.log"))
            .unwrap()
            .iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(names, ["0.log.20260101-000001", "0.log.20260101-000002"]);
    }
}
