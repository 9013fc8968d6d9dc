//! Termination messages: what a container left behind for whoever asks why it ended.
//!
//! Upstream: at most 4096 bytes of the file at `terminationMessagePath`; when it is empty, the policy is
//! `FallbackToLogsOnError` and the container failed, the end of its log (2048 bytes or 80 lines).

use std::sync::Arc;

use super::{Cell, Shared};
use crate::runtime::{Container, ContainerState, PodView, labels};

const FILE_BYTES: usize = 4096;
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;

impl Shared {
    /// Adds the messages of ended containers to the view; each is read once.
    pub(super) async fn with_messages(self: &Arc<Self>, cell: &Cell, mut view: PodView) -> PodView {
        if self.volumes.is_none() {
            return view;
        }
        let ended = |c: &&mut Container| c.state == ContainerState::Exited;
        for c in view.containers.iter_mut().filter(ended) {
            let known = cell.state.lock().messages.get(&c.id).cloned();
            let message = match known {
                Some(message) => message,
                None => {
                    let message = left_behind(c).await.unwrap_or_default();
                    cell.state.lock().messages.insert(c.id.clone(), message.clone());
                    message
                }
            };
            if !message.is_empty() {
                c.message = message;
            }
        }
        let mut state = cell.state.lock();
        state.messages.retain(|id, _| view.containers.iter().any(|c| c.id == *id));
        drop(state);
        view
    }
}

async fn left_behind(c: &Container) -> Option<String> {
    let path = c.annotations.get(labels::TERMINATION_PATH)?;
    let mount = c.mounts.iter().find(|m| m.container_path == *path)?;
    let data = tokio::fs::read(&mount.host_path).await.ok()?;
    if !data.is_empty() {
        return Some(String::from_utf8_lossy(&data[..data.len().min(FILE_BYTES)]).into_owned());
    }
    let fallback =
        c.annotations.get(labels::TERMINATION_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if !fallback || c.exit_code == 0 {
        return None;
    }
    let log = tokio::fs::read(&c.log_path).await.ok()?;
    Some(tail(&crate::logs::plain(&log)))
}

/// The last lines, within the bounds.
fn tail(text: &str) -> String {
    let mut from = text.len();
    let mut lines = 0;
    for (at, _) in text.rmatch_indices('\n').chain([(usize::MAX, "")]) {
        let start = if at == usize::MAX { 0 } else { at + 1 };
        if start == text.len() {
            continue;
        }
        if lines == LOG_LINES || text.len() - start > LOG_BYTES {
            break;
        }
        from = start;
        lines += 1;
    }
    // A single line longer than the bound is cut at its beginning.
    if from == text.len() {
        from = text.len().saturating_sub(LOG_BYTES);
        while !text.is_char_boundary(from) {
            from += 1;
        }
    }
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_whole_lines_within_its_bounds() {
        assert_eq!(tail("one\ntwo\n"), "one\ntwo\n");
        let many: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(tail(&many).lines().next(), Some("20"));
        let long = "x".repeat(5000);
        assert_eq!(tail(&long).len(), LOG_BYTES);
    }
}
