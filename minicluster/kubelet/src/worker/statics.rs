//! Static pods among the others: they come from the node's folder, and their status goes to their mirror.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use windlass::clock;

use super::{Cell, Shared, uid};
use crate::mirror;

/// Pause before a mirror that could not be made is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl Shared {
    /// A static pod appeared. Its mirror may already be there, from before a restart.
    #[cfg(feature = "cri")]
    pub(crate) fn add_static(self: &Arc<Self>, pod: Arc<Pod>) {
        let cell = Cell::new(pod.clone(), false);
        cell.state.lock().is_static = true;
        // What the runtime held without anybody asking is asked for now.
        self.cells.lock().insert(uid(&pod).to_owned(), cell.clone());
        self.make_mirror(&cell);
        self.poke(&cell);
    }

    /// A static pod's file is gone.
    #[cfg(feature = "cri")]
    pub(crate) fn remove_static(self: &Arc<Self>, uid: &str) {
        let Some(cell) = self.cells.lock().get(uid).cloned() else { return };
        let mut state = cell.state.lock();
        let mut pod = (*state.pod).clone();
        pod.metadata.deletion_timestamp = Some(clock::time());
        state.pod = Arc::new(pod);
        state.in_api = false;
        state.hurry.cancel();
        let mirrored = state.mirror.take();
        drop(state);
        if let Some(mirrored) = mirrored {
            let shared = self.clone();
            self.tasks.spawn(async move { mirror::delete(&shared, &mirrored).await });
        }
        self.poke(&cell);
    }

    /// Makes the mirror of a static pod, until it is there.
    fn make_mirror(self: &Arc<Self>, cell: &Arc<Cell>) {
        let (shared, cell) = (self.clone(), cell.clone());
        tokio::spawn(async move {
            loop {
                {
                    let state = cell.state.lock();
                    let leaving = state.pod.metadata.deletion_timestamp.is_some();
                    if state.mirror.is_some() || leaving || shared.stop.is_cancelled() {
                        return;
                    }
                }
                match mirror::create(&shared, &cell.pod()).await {
                    Ok(()) => return,
                    Err(error) => tracing::debug!(%error, "a mirror pod could not be made yet"),
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    /// The API shows a mirror pod.
    pub(super) fn mirror_seen(self: &Arc<Self>, hash: &str, pod: Arc<Pod>) {
        let cell = self.cells.lock().get(hash).cloned();
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let wanted = cell.filter(|c| {
            let state = c.state.lock();
            state.is_static && state.pod.metadata.deletion_timestamp.is_none()
        });
        match wanted {
            Some(cell) if !leaving => {
                let mut state = cell.state.lock();
                state.mirror = Some(pod);
                state.in_api = true;
                drop(state);
                self.poke(&cell);
            }
            _ => {
                // Its static pod is gone or another; or somebody deletes the mirror, which the node does not heed.
                let shared = self.clone();
                self.tasks.spawn(async move { mirror::delete(&shared, &pod).await });
            }
        }
    }

    /// The API has a mirror pod no more: it is made anew while its static pod is there.
    pub(super) fn mirror_gone(self: &Arc<Self>, mirror_uid: &str) {
        let cells: Vec<_> = self.cells.lock().values().cloned().collect();
        for cell in cells {
            let mut state = cell.state.lock();
            if state.mirror.as_ref().is_some_and(|m| uid(m) == mirror_uid) {
                state.mirror = None;
                state.in_api = false;
                drop(state);
                self.make_mirror(&cell);
                return;
            }
        }
    }
}
