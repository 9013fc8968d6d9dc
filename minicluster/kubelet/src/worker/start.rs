//! Starting a container: image, environment, mounts, configuration, creation, start, `postStart`. Each step fails with
//! upstream's reason, which becomes the container's waiting state.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use windlass::clock;

use super::{Cell, Shared};
use crate::events::Kind;
use crate::images::{self, Decision};
use crate::pod::env::{environment, expand};
use crate::pod::restart::Backoff;
use crate::pod::sync::spec_hash;
use crate::pod::{Role, Waiting, full_name, hosts, identity, qos, resources, sandbox, security, uid};
use crate::runtime::{ContainerConfig, Image, Mount, PodView, RuntimeError, SandboxConfig, labels};

/// Pause before a start that failed for a reason of configuration is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Why a container did not start: the reason and message of its waiting state.
struct Failure {
    reason: &'static str,
    message: String,
    /// Not to be tried again before this moment.
    not_before: Option<Timestamp>,
}

impl Failure {
    fn new(reason: &'static str, message: impl std::fmt::Display) -> Self {
        Self { reason, message: message.to_string(), not_before: Some(clock::now() + RETRY) }
    }
}

impl Shared {
    pub(super) async fn start(
        self: &Arc<Self>,
        cell: &Arc<Cell>,
        name: &str,
        role: Role,
        attempt: u32,
        after: Option<Timestamp>,
    ) {
        let pod = cell.pod();
        let Some((_, spec)) = crate::pod::container(&pod, name) else { return };
        if let Some(ended) = after {
            cell.with_memory(|m| {
                let memory = m.container(name);
                memory.crash = Some(Backoff::next(memory.crash, ended, clock::now()));
            });
        }
        let hurry = cell.state.lock().hurry.clone();
        let started = tokio::select! {
            biased;
            result = self.try_start(cell, &pod, role, &spec, attempt) => result,
            () = hurry.cancelled() => return,
        };
        let mut told = None;
        cell.with_memory(|m| {
            let memory = m.container(name);
            match started {
                Ok(()) => {
                    memory.waiting = None;
                    memory.not_before = None;
                }
                Err(failure) => {
                    memory.not_before = failure.not_before;
                    let waiting = Waiting { reason: failure.reason.to_owned(), message: failure.message };
                    if memory.waiting.as_ref() != Some(&waiting) {
                        told = Some(failure.reason);
                    }
                    memory.waiting = Some(waiting);
                }
            }
        });
        if let Some(reason) = told {
            self.events.container(&pod, role, name, Kind::Warning, "Failed", format!("Error: {reason}"));
        }
    }

    async fn try_start(
        self: &Arc<Self>,
        cell: &Arc<Cell>,
        pod: &Pod,
        role: Role,
        spec: &Container,
        attempt: u32,
    ) -> Result<(), Failure> {
        let view = cell.view();
        let Some(live) = view.sandboxes.first().filter(|s| s.ready) else { return Ok(()) };
        let sandbox = self.sandbox_config(cell, live.attempt);
        let image = self.ensure_image(cell, pod, role, spec, &sandbox).await?;
        let config = self.container_config(cell, pod, role, spec, attempt, &image, &view).await?;
        let permit = self.starts.acquire().await;
        let created = self.runtime.create_container(&live.id, &config, &sandbox).await;
        let id = created.map_err(|e| self.failed(pod, role, spec, "CreateContainerError", &e))?;
        self.events.container(pod, role, &spec.name, Kind::Normal, "Created", "Container created".into());
        self.runtime
            .start_container(&id)
            .await
            .map_err(|e| self.failed(pod, role, spec, "RunContainerError", &e))?;
        drop(permit);
        self.events.container(pod, role, &spec.name, Kind::Normal, "Started", "Container started".into());
        self.post_start(cell, pod, role, spec, &id).await
    }

    fn failed(
        &self,
        pod: &Pod,
        role: Role,
        spec: &Container,
        reason: &'static str,
        error: &RuntimeError,
    ) -> Failure {
        self.events.container(pod, role, &spec.name, Kind::Warning, "Failed", format!("Error: {error}"));
        Failure::new(reason, error)
    }

    async fn post_start(
        self: &Arc<Self>,
        cell: &Arc<Cell>,
        pod: &Pod,
        role: Role,
        spec: &Container,
        id: &str,
    ) -> Result<(), Failure> {
        let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
        let Err(error) = self.hook(cell, spec, id, hook).await else { return Ok(()) };
        let message = "PostStartHook failed".to_owned();
        self.events.container(pod, role, &spec.name, Kind::Warning, "FailedPostStartHook", message);
        let message = format!("FailedPostStartHook: container {} will be killed", spec.name);
        let deadline = clock::now() + crate::pod::sync::grace(pod);
        self.stop_aside(cell, id.to_owned(), spec.name.clone(), deadline, message);
        Err(Failure { reason: "PostStartHookError", message: error, not_before: None })
    }

    /// The image on the node, pulled when the policy asks for it.
    async fn ensure_image(
        self: &Arc<Self>,
        cell: &Arc<Cell>,
        pod: &Pod,
        role: Role,
        spec: &Container,
        sandbox: &SandboxConfig,
    ) -> Result<Image, Failure> {
        let name = spec.image.as_deref().unwrap_or_default();
        let tell =
            |kind, reason, message| self.events.container(pod, role, &spec.name, kind, reason, message);
        if images::reference(name).is_none() {
            let message = format!(
                "Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": invalid reference format"
            );
            tell(Kind::Warning, "InspectFailed", message.clone());
            return Err(Failure::new("InvalidImageName", message));
        }
        let present = self.runtime.image(name).await.map_err(|e| {
            let message = format!("Failed to inspect image \"{name}\": {e}");
            tell(Kind::Warning, "InspectFailed", message.clone());
            Failure::new("ImageInspectError", message)
        })?;
        let backoff = cell.with_memory(|m| m.container(&spec.name).pull);
        match images::decide(spec, present.is_some(), backoff, clock::now()) {
            Decision::Use => {
                let message = format!(
                    "Container image \"{name}\" already present on machine and can be accessed by the pod"
                );
                tell(Kind::Normal, "Pulled", message);
                return Ok(present.unwrap_or_default());
            }
            Decision::Wait(waiting, until) => {
                let (reason, kind) = match waiting.reason.as_str() {
                    "ErrImageNeverPull" => ("ErrImageNeverPull", Kind::Warning),
                    _ => ("ImagePullBackOff", Kind::Normal),
                };
                let event = if reason == "ImagePullBackOff" { "BackOff" } else { reason };
                tell(kind, event, waiting.message.clone());
                let failure = Failure { not_before: until, ..Failure::new(reason, waiting.message) };
                return Err(failure);
            }
            Decision::Pull => {}
        }
        self.pull(cell, pod, role, spec, sandbox).await
    }

    async fn pull(
        self: &Arc<Self>,
        cell: &Arc<Cell>,
        pod: &Pod,
        role: Role,
        spec: &Container,
        sandbox: &SandboxConfig,
    ) -> Result<Image, Failure> {
        let name = spec.image.as_deref().unwrap_or_default();
        let tell =
            |kind, reason, message| self.events.container(pod, role, &spec.name, kind, reason, message);
        tell(Kind::Normal, "Pulling", format!("Pulling image \"{name}\""));
        let asked = clock::now();
        let permit = self.pulls.acquire().await;
        let begun = clock::now();
        let credentials = images::credentials(pod, name, &*self.objects);
        let mut result = self.runtime.pull_image(name, credentials.first(), sandbox).await;
        for auth in credentials.iter().skip(1) {
            if result.is_ok() {
                break;
            }
            result = self.runtime.pull_image(name, Some(auth), sandbox).await;
        }
        drop(permit);
        let found = match &result {
            Ok(_) => self.runtime.image(name).await,
            Err(e) => Err(e.clone()),
        };
        match found {
            Ok(image) => {
                let image = image.unwrap_or_default();
                cell.with_memory(|m| m.container(&spec.name).pull = None);
                let took = |since| format!("{:.3}s", clock::since(since).as_secs_f64());
                let message = format!(
                    "Successfully pulled image \"{name}\" in {} ({} including waiting). Image size: {} bytes.",
                    took(begun),
                    took(asked),
                    image.size
                );
                tell(Kind::Normal, "Pulled", message);
                Ok(image)
            }
            Err(error) => {
                let now = clock::now();
                let not_before = cell.with_memory(|m| {
                    let memory = m.container(&spec.name);
                    memory.pull = Some(Backoff::next(memory.pull, now, now));
                    // Soon the reason turns from the failure into the back-off.
                    now + Duration::from_secs(2)
                });
                tell(Kind::Warning, "Failed", format!("Failed to pull image \"{name}\": {error}"));
                Err(Failure { not_before: Some(not_before), ..Failure::new("ErrImagePull", error) })
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of them are parts of one container's making")]
    async fn container_config(
        self: &Arc<Self>,
        cell: &Arc<Cell>,
        pod: &Pod,
        role: Role,
        spec: &Container,
        attempt: u32,
        image: &Image,
        view: &PodView,
    ) -> Result<ContainerConfig, Failure> {
        let config_error = |e: &dyn std::fmt::Display| Failure::new("CreateContainerConfigError", e);
        self.objects.prepare(pod).await;
        let facts = self.facts(cell);
        let env = environment(pod, spec, &facts, &*self.objects).map_err(|e| config_error(&e))?;
        let security = security::of_container(pod, role, spec, image, view).map_err(|e| config_error(&e))?;
        let mut mounts = Vec::new();
        if let Some(volumes) = &self.volumes {
            mounts = volumes.mounts(pod, spec, &env).map_err(|e| config_error(&e))?;
            self.own_files(cell, pod, spec, &facts.pod_ips, &volumes.pod_dir(pod), &mut mounts)
                .map_err(|e| config_error(&e))?;
        }
        let lookup = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        let expanded =
            |list: &Option<Vec<String>>| list.iter().flatten().map(|t| expand(t, lookup)).collect();
        let mut limits = resources::limits(pod, spec);
        limits.oom_score_adj = qos::oom_score_adj(pod, spec, self.config.machine.memory);
        Ok(ContainerConfig {
            name: spec.name.clone(),
            attempt,
            image: image.id.clone(),
            user_image: spec.image.clone().unwrap_or_default(),
            command: expanded(&spec.command),
            args: expanded(&spec.args),
            working_dir: spec.working_dir.clone().unwrap_or_default(),
            mounts,
            labels: container_labels(pod, spec),
            annotations: annotations(pod, spec, attempt),
            log_path: format!("{}/{attempt}.log", spec.name),
            stdin: spec.stdin.unwrap_or_default(),
            stdin_once: spec.stdin_once.unwrap_or_default(),
            tty: spec.tty.unwrap_or_default(),
            resources: limits,
            security,
            env,
        })
    }

    /// The files a kubelet adds to every container: hosts and the place for a termination message.
    fn own_files(
        &self,
        cell: &Cell,
        pod: &Pod,
        spec: &Container,
        ips: &[String],
        dir: &Path,
        mounts: &mut Vec<Mount>,
    ) -> std::io::Result<()> {
        std::fs::create_dir_all(self.log_dir(pod).join(&spec.name))?;
        if !mounts.iter().any(|m| m.container_path.trim_end_matches('/') == "/etc/hosts") {
            let node_file = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            let text = hosts::hosts_file(pod, ips, &self.config.dns.domain, &node_file);
            let path = dir.join("etc-hosts");
            std::fs::create_dir_all(dir)?;
            std::fs::write(&path, text)?;
            mounts.push(mount("/etc/hosts", &path));
        }
        let target = termination_path(spec);
        if !mounts.iter().any(|m| m.container_path == target) {
            let folder = dir.join("containers").join(&spec.name);
            std::fs::create_dir_all(&folder)?;
            let path = folder.join(format!("{:x}", clock::now().as_nanosecond()));
            std::fs::write(&path, b"")?;
            // Whoever the container runs as must be able to leave a message.
            let everyone = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
            std::fs::set_permissions(&path, everyone)?;
            mounts.push(mount(target, &path));
        }
        tracing::trace!(pod = cell.uid, container = spec.name, "files in place");
        Ok(())
    }

    fn log_dir(&self, pod: &Pod) -> std::path::PathBuf {
        sandbox::log_directory(&self.config.log_root, pod).into()
    }
}

fn mount(container_path: &str, host: &Path) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: host.display().to_string(),
        ..Mount::default()
    }
}

fn termination_path(spec: &Container) -> &str {
    spec.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log")
}

fn container_labels(pod: &Pod, spec: &Container) -> std::collections::BTreeMap<String, String> {
    let mut all = labels::of_pod(&identity(pod));
    all.insert(labels::CONTAINER_NAME.to_owned(), spec.name.clone());
    all
}

fn annotations(pod: &Pod, spec: &Container, attempt: u32) -> std::collections::BTreeMap<String, String> {
    let policy = spec.termination_message_policy.clone().unwrap_or_else(|| "File".into());
    let mut all: std::collections::BTreeMap<_, _> = [
        (labels::CONTAINER_HASH, spec_hash(spec)),
        (labels::RESTART_COUNT, attempt.to_string()),
        (labels::TERMINATION_PATH, termination_path(spec).to_owned()),
        (labels::TERMINATION_POLICY, policy),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into();
    if let Some(seconds) = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds) {
        all.insert(labels::TERMINATION_GRACE.to_owned(), seconds.to_string());
    }
    if let Some(ports) = spec.ports.as_ref().filter(|p| !p.is_empty()) {
        all.insert(labels::PORTS.to_owned(), serde_json::to_string(ports).unwrap_or_default());
    }
    tracing::trace!(pod = full_name(pod), uid = uid(pod), container = spec.name, "annotated");
    all
}
