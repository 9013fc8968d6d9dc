//! Stopping a container: its `preStop` hook, then the signal, then the kill, all before its deadline. Runs aside, so
//! that the pod's other containers are not held up; the end comes back as a runtime event.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use windlass::clock;

use super::{Cell, Shared};
use crate::events::Kind;
use crate::pod::{Role, container};

/// Every container gets at least this long between the signal and the kill.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// Pause before a stop that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl Shared {
    pub(super) fn stop_aside(
        self: &Arc<Self>,
        cell: &Arc<Cell>,
        id: String,
        name: String,
        deadline: Timestamp,
        message: String,
    ) {
        let again = cell.with_memory(|m| m.stopping.insert(id.clone(), deadline)).is_some();
        let pod = cell.pod();
        let found = container(&pod, &name).map(|(role, spec)| (role, spec.into_owned()));
        if !again {
            let role = found.as_ref().map_or(Role::App, |(role, _)| *role);
            self.events.container(&pod, role, &name, Kind::Normal, "Killing", message);
        }
        let (shared, cell) = (self.clone(), cell.clone());
        self.tasks.spawn(async move {
            // When the time left becomes shorter, the hook is already under way and is not run twice.
            if let Some((role, spec)) = found.filter(|_| !again) {
                shared.pre_stop(&cell, role, &spec, &id, deadline).await;
            }
            let grace = clock::until(deadline).max(LEAST_GRACE);
            if let Err(error) = shared.runtime.stop_container(&id, grace).await {
                tracing::warn!(container = name, %error, "a container could not be stopped");
                tokio::time::sleep(RETRY).await;
                cell.with_memory(|m| m.stopping.remove(&id));
            }
            shared.poke(&cell);
        });
    }

    async fn pre_stop(
        self: &Arc<Self>,
        cell: &Arc<Cell>,
        role: Role,
        spec: &Container,
        id: &str,
        deadline: Timestamp,
    ) {
        let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return };
        let left = clock::until(deadline);
        if left.is_zero() {
            return;
        }
        let work = self.hook(cell, spec, id, hook);
        let failed = match tokio::time::timeout(left, work).await {
            Ok(Err(error)) => Some(error),
            Ok(Ok(())) | Err(_) => None,
        };
        if let Some(error) = failed {
            tracing::debug!(container = spec.name, error, "a preStop hook failed");
            let message = "PreStopHook failed".to_owned();
            self.events.container(&cell.pod(), role, &spec.name, Kind::Warning, "FailedPreStopHook", message);
        }
    }

    /// Runs a lifecycle hook to its end.
    pub(super) async fn hook(
        self: &Arc<Self>,
        cell: &Arc<Cell>,
        spec: &Container,
        id: &str,
        hook: &LifecycleHandler,
    ) -> Result<(), String> {
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            // The hook may take as long as the pod's grace period; the caller bounds it.
            let output =
                self.runtime.exec_sync(id, &command, Duration::ZERO).await.map_err(|e| e.to_string())?;
            return match output.exit_code {
                0 => Ok(()),
                code => Err(format!(
                    "command '{}' exited with {code}: {}",
                    command.join(" "),
                    String::from_utf8_lossy(&output.stderr)
                )),
            };
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        self.network_hook(cell, spec, hook).await
    }

    #[cfg(feature = "cri")]
    async fn network_hook(
        &self,
        cell: &Cell,
        spec: &Container,
        hook: &LifecycleHandler,
    ) -> Result<(), String> {
        let Some(action) = &hook.http_get else { return Err("invalid handler".into()) };
        let ip = cell.pod_ips().first().cloned().unwrap_or_default();
        let mut action = action.clone();
        // An HTTPS hook against a plain server falls back to HTTP, as upstream's does.
        match crate::probe::dial::http_get(spec, &ip, &action).await {
            Err(_) if action.scheme.as_deref() == Some("HTTPS") => {
                action.scheme = Some("HTTP".into());
                crate::probe::dial::http_get(spec, &ip, &action).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    #[cfg(not(feature = "cri"))]
    async fn network_hook(&self, _: &Cell, _: &Container, _: &LifecycleHandler) -> Result<(), String> {
        Ok(())
    }
}
