//! Changes in a folder, pushed by the kernel.

use std::io;
use std::path::Path;

use rustix::fs::inotify;
use tokio::net::unix::pipe;

/// Changes in one folder.
pub(crate) struct Changes {
    /// Not a pipe, but like one it becomes readable and is read; this is tokio's door for such descriptors.
    descriptor: pipe::Receiver,
}

impl Changes {
    /// Watches a folder.
    pub(crate) fn of(folder: &Path) -> io::Result<Self> {
        let descriptor = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let what = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE;
        inotify::add_watch(&descriptor, folder, what)?;
        Ok(Self { descriptor: pipe::Receiver::from_owned_fd_unchecked(descriptor)? })
    }

    /// Waits for a change; several at once count as one.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        self.descriptor.readable().await?;
        let mut buffer = [0_u8; 4096];
        while self.descriptor.try_read(&mut buffer).is_ok_and(|n| n > 0) {}
        Ok(())
    }
}
