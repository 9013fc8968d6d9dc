//! Waits for a file to change.

use std::{io, path::Path, time::Duration};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::{net::unix::pipe, time::timeout};

/// A file is often written in several steps.
const GATHER: Duration = Duration::from_millis(50);

/// Changes of the folder that a file is in: a new version of a file often takes its place by being renamed.
pub(crate) struct Changes {
    descriptor: io::Result<pipe::Receiver>,
}

impl Changes {
    /// Watches from now on; read the file after this, so that nothing falls between.
    pub(crate) fn of(file: &Path) -> Self {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let descriptor = watched(folder);
        if let Err(error) = &descriptor {
            tracing::debug!(folder = %folder.display(), %error, "the folder cannot be watched");
        }
        Self { descriptor }
    }

    /// Waits until something happened in the file's folder, or for as long as said.
    pub(crate) async fn wait(&self, at_most: Duration) {
        let Ok(descriptor) = &self.descriptor else { return tokio::time::sleep(at_most).await };
        if let Ok(Ok(())) = timeout(at_most, descriptor.readable()).await {
            tokio::time::sleep(GATHER).await;
            let mut buffer = [0_u8; 4096];
            while descriptor.try_read(&mut buffer).is_ok_and(|n| n > 0) {}
        }
    }
}

fn watched(folder: &Path) -> io::Result<pipe::Receiver> {
    let descriptor = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let what = WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
    inotify::add_watch(&descriptor, folder, what)?;
    // Not a pipe, but like one it becomes readable; this is tokio's door for such descriptors.
    pipe::Receiver::from_owned_fd_unchecked(descriptor)
}
