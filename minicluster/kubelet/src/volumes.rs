//! The volumes of a pod on its node: made before the first container, kept current while it runs, removed at its end.
//!
//! ConfigMaps, Secrets, projected sources and the downward API are written by [`atomic`], so that a running container
//! sees either the old files or the new ones. Paths are upstream's: `pods/<uid>/volumes/kubernetes.io~<kind>/<name>`.
//! Volumes of other kinds (persistent ones, CSI) are refused with a message; they are not this crate's yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use parking_lot::Mutex;

use crate::pod::env::{EnvError, NodeFacts, Objects, expand};
use crate::pod::{amount, containers, uid};
use crate::runtime::{Mount, Propagation};

pub mod atomic;
pub mod payload;
mod place;
pub mod token;

use payload::Payload;
use token::Tokens;

/// Why a volume is not in place. The text completes the `FailedMount` event.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A source cannot be resolved.
    #[error("{0}")]
    Source(String),
    /// A reference cannot be resolved.
    #[error(transparent)]
    Reference(#[from] EnvError),
    /// The node's file system refused.
    #[error("{path}: {error}")]
    Io {
        /// What was worked on.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A host path is not what it was said to be.
    #[error("hostPath type check failed: {path} is not a {kind}")]
    HostPath {
        /// The path.
        path: String,
        /// What it should be.
        kind: &'static str,
    },
    /// A sub-path leads out of its volume.
    #[error("subPath \"{0}\" must stay inside its volume")]
    SubPath(String),
    /// The kind of volume is not offered.
    #[error("volume \"{0}\" is of a kind this node does not offer")]
    Unsupported(String),
}

impl VolumeError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |error| Self::Io { path: path.display().to_string(), error }
    }
}

/// The volumes of all pods of a node.
pub struct Volumes {
    root: PathBuf,
    objects: Arc<dyn Objects>,
    tokens: Tokens,
    /// Serializes writers of one pod's files.
    writing: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Volumes {
    /// Volumes under `root`, reading what pods refer to from `objects`.
    pub fn new(root: PathBuf, objects: Arc<dyn Objects>, tokens: Tokens) -> Self {
        Self { root, objects, tokens, writing: Mutex::default() }
    }

    /// The folder of everything that belongs to a pod.
    pub fn pod_dir(&self, pod: &Pod) -> PathBuf {
        self.root.join("pods").join(uid(pod))
    }

    fn dir(&self, pod: &Pod, volume: &Volume) -> PathBuf {
        self.pod_dir(pod).join("volumes").join(plugin(volume)).join(&volume.name)
    }

    /// Puts all volumes of a pod in place, or brings them up to date; the moment when a token has to be renewed.
    ///
    /// # Errors
    /// The name of the first volume that cannot be, and why.
    pub async fn mount(
        &self,
        pod: &Pod,
        facts: &NodeFacts,
    ) -> Result<Option<Timestamp>, (String, VolumeError)> {
        let lock = self.writing.lock().entry(uid(pod).to_owned()).or_default().clone();
        let _guard = lock.lock().await;
        let mut renew: Option<Timestamp> = None;
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let due = self.mount_one(pod, volume, facts).await.map_err(|e| (volume.name.clone(), e))?;
            renew = [renew, due].into_iter().flatten().min();
        }
        Ok(renew)
    }

    async fn mount_one(
        &self,
        pod: &Pod,
        v: &Volume,
        facts: &NodeFacts,
    ) -> Result<Option<Timestamp>, VolumeError> {
        let dir = self.dir(pod, v);
        if let Some(source) = &v.empty_dir {
            empty_dir(pod, &dir, source)?;
            return Ok(None);
        }
        if let Some(source) = &v.host_path {
            host_path(source)?;
            return Ok(None);
        }
        let mut payload = payload::of(pod, v, facts, &*self.objects)?
            .ok_or_else(|| VolumeError::Unsupported(v.name.clone()))?;
        let renew = self.tokens.add(pod, v, &mut payload).await?;
        let memory = v.secret.is_some() || v.projected.is_some();
        write(pod, &dir, &payload, memory)?;
        Ok(renew)
    }

    /// The mounts of one container.
    ///
    /// # Errors
    /// A sub-path that leaves its volume, or a volume that is not in place.
    pub fn mounts(
        &self,
        pod: &Pod,
        spec: &Container,
        env: &[(String, String)],
    ) -> Result<Vec<Mount>, VolumeError> {
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        let mut mounts = Vec::new();
        for m in spec.volume_mounts.iter().flatten() {
            let Some(volume) = volumes.iter().find(|v| v.name == m.name) else { continue };
            let mut host = match &volume.host_path {
                Some(source) => PathBuf::from(&source.path),
                None => self.dir(pod, volume),
            };
            let lookup = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
            let sub = match (&m.sub_path_expr, &m.sub_path) {
                (Some(expr), _) if !expr.is_empty() => expand_all(expr, lookup)?,
                (_, sub) => sub.clone().unwrap_or_default(),
            };
            if !sub.is_empty() {
                host = place::sub_path(&host, &sub)?;
            }
            mounts.push(Mount {
                container_path: absolute(&m.mount_path),
                host_path: host.display().to_string(),
                readonly: m.read_only.unwrap_or_default(),
                propagation: match m.mount_propagation.as_deref() {
                    Some("HostToContainer") => Propagation::HostToContainer,
                    Some("Bidirectional") => Propagation::Bidirectional,
                    _ => Propagation::Private,
                },
            });
        }
        Ok(mounts)
    }

    /// Takes everything of a pod away from the node.
    ///
    /// # Errors
    /// What the file system refused; to be tried again.
    pub async fn remove(&self, pod_uid: &str) -> Result<(), VolumeError> {
        let dir = self.root.join("pods").join(pod_uid);
        place::remove(&dir).await?;
        self.writing.lock().remove(pod_uid);
        self.tokens.forget(pod_uid);
        Ok(())
    }

    /// Uids of the pods that have a folder here.
    pub fn present(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join("pods")).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Expands a sub-path expression; every name must be known.
fn expand_all<'a>(expr: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> Result<String, VolumeError> {
    let missing = std::cell::RefCell::new(None);
    let out = expand(expr, |name| {
        let found = lookup(name);
        if found.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        found
    });
    match missing.into_inner() {
        Some(_) => Err(VolumeError::Source(format!("missing value for \"{expr}\""))),
        None => Ok(out),
    }
}

/// The folder name of a volume's kind.
fn plugin(volume: &Volume) -> &'static str {
    if volume.empty_dir.is_some() {
        "kubernetes.io~empty-dir"
    } else if volume.config_map.is_some() {
        "kubernetes.io~configmap"
    } else if volume.secret.is_some() {
        "kubernetes.io~secret"
    } else if volume.downward_api.is_some() {
        "kubernetes.io~downward-api"
    } else {
        "kubernetes.io~projected"
    }
}

fn empty_dir(pod: &Pod, dir: &Path, source: &EmptyDirVolumeSource) -> Result<(), VolumeError> {
    let fresh = !dir.exists();
    place::folder(dir, 0o777)?;
    if source.medium.as_deref() == Some("Memory") {
        let limit = source.size_limit.as_ref().map(amount::value).filter(|n| *n > 0);
        place::memory(dir, limit)?;
    }
    if fresh && let Some(group) = fs_group(pod) {
        place::own(dir, None, Some(group), false)?;
    }
    Ok(())
}

fn host_path(source: &HostPathVolumeSource) -> Result<(), VolumeError> {
    let path = Path::new(&source.path);
    let wrong = |kind| VolumeError::HostPath { path: source.path.clone(), kind };
    use std::os::unix::fs::FileTypeExt as _;
    let found = std::fs::metadata(path).ok().map(|m| m.file_type());
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => {
            if found.is_none() {
                place::folder(path, 0o755)?;
            } else if !path.is_dir() {
                return Err(wrong("directory"));
            }
        }
        "FileOrCreate" => {
            if found.is_none() {
                std::fs::write(path, b"").map_err(VolumeError::io(path))?;
            } else if !path.is_file() {
                return Err(wrong("file"));
            }
        }
        "Directory" if !found.is_some_and(|f| f.is_dir()) => return Err(wrong("directory")),
        "File" if !found.is_some_and(|f| f.is_file()) => return Err(wrong("file")),
        "Socket" if !found.is_some_and(|f| f.is_socket()) => return Err(wrong("socket file")),
        "CharDevice" if !found.is_some_and(|f| f.is_char_device()) => return Err(wrong("character device")),
        "BlockDevice" if !found.is_some_and(|f| f.is_block_device()) => return Err(wrong("block device")),
        _ => {}
    }
    Ok(())
}

fn write(pod: &Pod, dir: &Path, payload: &Payload, memory: bool) -> Result<(), VolumeError> {
    place::folder(dir, 0o777)?;
    if memory {
        place::memory(dir, None)?;
    }
    if atomic::write(dir, payload).map_err(VolumeError::io(dir))?
        && let Some(group) = fs_group(pod)
    {
        place::own(dir, None, Some(group), true)?;
    }
    Ok(())
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    context.fs_group.and_then(|g| u32::try_from(g).ok())
}

/// The one user all containers of a pod run as, when they agree; owner of projected tokens.
fn common_user(pod: &Pod) -> Option<u32> {
    let of_pod = pod.spec.as_ref()?.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users: Vec<_> = containers(pod)
        .iter()
        .map(|(_, c)| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod))
        .collect();
    users.dedup();
    match users.as_slice() {
        [Some(one)] => u32::try_from(*one).ok(),
        _ => None,
    }
}

/// Names of the ConfigMaps and Secrets a pod refers to in any way: `(is_secret, name)`.
pub fn references(pod: &Pod) -> std::collections::BTreeSet<(bool, String)> {
    let mut names = std::collections::BTreeSet::new();
    let Some(spec) = &pod.spec else { return names };
    for v in spec.volumes.iter().flatten() {
        let projected = v.projected.as_ref().and_then(|p| p.sources.as_ref());
        for p in projected.into_iter().flatten() {
            names.extend(p.config_map.as_ref().map(|c| (false, c.name.clone())));
            names.extend(p.secret.as_ref().map(|s| (true, s.name.clone())));
        }
        names.extend(v.config_map.as_ref().map(|c| (false, c.name.clone())));
        names.extend(v.secret.as_ref().and_then(|s| s.secret_name.clone()).map(|n| (true, n)));
    }
    for (_, c) in containers(pod) {
        for from in c.env_from.iter().flatten() {
            names.extend(from.config_map_ref.as_ref().map(|r| (false, r.name.clone())));
            names.extend(from.secret_ref.as_ref().map(|r| (true, r.name.clone())));
        }
        for from in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            names.extend(from.config_map_key_ref.as_ref().map(|r| (false, r.name.clone())));
            names.extend(from.secret_key_ref.as_ref().map(|r| (true, r.name.clone())));
        }
    }
    names.extend(spec.image_pull_secrets.iter().flatten().map(|r| (true, r.name.clone())));
    names
}
