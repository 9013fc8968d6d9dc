//! One step of a plan, carried out. Failures are told as events and remembered as "not before"; they never end the
//! worker.

use std::sync::Arc;
use std::time::Duration;

use windlass::clock;

use super::{Cell, Shared};
use crate::events::Kind;
use crate::pod::hosts::resolver;
use crate::pod::sandbox::{SandboxSite, config};
use crate::pod::sync::Action;
use crate::pod::{Waiting, container, full_name};
use crate::runtime::{RuntimeError, SandboxConfig};

/// Pause before a sandbox that failed is tried again.
const SANDBOX_RETRY: Duration = Duration::from_secs(10);
/// Pause before a removal that failed is tried again.
const REMOVE_RETRY: Duration = Duration::from_secs(2);

impl Shared {
    pub(super) async fn act(self: &Arc<Self>, cell: &Arc<Cell>, action: Action) {
        let result = match action {
            Action::MountVolumes => {
                let ready = self.mount(cell).await;
                cell.with_memory(|m| m.volumes_ready = ready);
                Ok(())
            }
            Action::CreateSandbox { attempt } => {
                self.create_sandbox(cell, attempt).await;
                Ok(())
            }
            Action::Start { name, role, attempt, after } => {
                self.start(cell, &name, role, attempt, after).await;
                Ok(())
            }
            Action::Hold { name, waiting } => {
                self.hold(cell, &name, waiting);
                Ok(())
            }
            Action::Stop { id, name, deadline, message } => {
                self.stop_aside(cell, id, name, deadline, message);
                Ok(())
            }
            Action::Resize { id, name, resources } => self.resize(cell, &id, &name, resources).await,
            Action::StopSandbox { id } => self.runtime.stop_sandbox(&id).await,
            Action::RemoveContainer { id } => self.runtime.remove_container(&id).await,
            Action::RemoveSandbox { id } => self.runtime.remove_sandbox(&id).await,
            Action::CleanUp => self.clean_up(cell).await,
            Action::Delete => {
                // Logs stay as long as somebody can ask for them.
                if self.volumes.is_some() {
                    let logs = crate::pod::sandbox::log_directory(&self.config.log_root, &cell.pod());
                    let _ = tokio::fs::remove_dir_all(logs).await;
                }
                cell.state.lock().done = true;
                Ok(())
            }
        };
        if let Err(error) = result {
            tracing::warn!(pod = full_name(&cell.pod()), %error, "a step failed and is tried again");
            tokio::time::sleep(REMOVE_RETRY).await;
        }
    }

    /// The sandbox a pod gets on this node.
    pub(super) fn sandbox_config(&self, cell: &Cell, attempt: u32) -> SandboxConfig {
        let pod = cell.pod();
        let site = SandboxSite {
            log_root: &self.config.log_root,
            dns: Some(resolver(&pod, &self.config.dns)),
            domain: &self.config.dns.domain,
            cgroup_root: &self.config.cgroup_root,
            handler: String::new(),
        };
        config(&pod, attempt, &site)
    }

    async fn create_sandbox(self: &Arc<Self>, cell: &Arc<Cell>, attempt: u32) {
        if !cell.with_memory(|m| m.volumes_ready) {
            return;
        }
        let config = self.sandbox_config(cell, attempt);
        if self.volumes.is_some() && !config.log_directory.is_empty() {
            let _ = std::fs::create_dir_all(&config.log_directory);
        }
        let permit = self.starts.acquire().await;
        let result = self.runtime.run_sandbox(&config).await;
        drop(permit);
        if let Err(error) = result {
            cell.with_memory(|m| m.sandbox_not_before = Some(clock::now() + SANDBOX_RETRY));
            let message = format!("Failed to create pod sandbox: {error}");
            self.events.pod(&cell.pod(), Kind::Warning, "FailedCreatePodSandBox", message);
        }
    }

    fn hold(&self, cell: &Cell, name: &str, waiting: Waiting) {
        let pod = cell.pod();
        let back_off = waiting.reason == "CrashLoopBackOff";
        cell.with_memory(|m| m.container(name).waiting = Some(waiting));
        let Some((role, _)) = container(&pod, name) else { return };
        if back_off {
            let message = format!("Back-off restarting failed container {name} in pod {}", full_name(&pod));
            self.events.container(&pod, role, name, Kind::Warning, "BackOff", message);
        }
    }

    async fn resize(
        self: &Arc<Self>,
        cell: &Cell,
        id: &str,
        name: &str,
        resources: crate::runtime::Resources,
    ) -> Result<(), RuntimeError> {
        let result = self.runtime.update_container(id, &resources).await;
        // A limit the kernel refuses is not tried again until it changes.
        cell.with_memory(|m| m.resized.insert(id.to_owned(), resources));
        if let Err(error) = result {
            tracing::warn!(container = name, %error, "a resize failed");
        }
        Ok(())
    }

    async fn clean_up(self: &Arc<Self>, cell: &Arc<Cell>) -> Result<(), RuntimeError> {
        if let Some(volumes) = &self.volumes {
            volumes.remove(&cell.uid).await.map_err(|e| RuntimeError::failed(e.to_string()))?;
        }
        cell.with_memory(|m| m.cleaned = true);
        Ok(())
    }
}
