//! What the files of a volume contain: pure, from the pod and what it refers to.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume};

use super::VolumeError;
use crate::pod::env::{NodeFacts, Objects, field, resource};

/// Mode of files of which nobody said anything.
const DEFAULT_MODE: i32 = 0o644;

/// A file to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, when not root.
    pub owner: Option<u32>,
}

/// Files by path relative to the volume.
pub type Payload = BTreeMap<String, File>;

/// The payload of a volume; `None` for kinds that are not files from the API. Service account tokens are not in it.
pub fn of(
    pod: &Pod,
    volume: &Volume,
    facts: &NodeFacts,
    objects: &dyn Objects,
) -> Result<Option<Payload>, VolumeError> {
    let mut payload = Payload::new();
    if let Some(s) = &volume.config_map {
        let mode = mode(s.default_mode, DEFAULT_MODE);
        config_map(pod, &s.name, s.items.as_deref(), s.optional, mode, objects, &mut payload)?;
    } else if let Some(s) = &volume.secret {
        let mode = mode(s.default_mode, DEFAULT_MODE);
        let name = s.secret_name.as_deref().unwrap_or_default();
        secret(pod, name, s.items.as_deref(), s.optional, mode, objects, &mut payload)?;
    } else if let Some(s) = &volume.downward_api {
        downward(pod, s.items.as_deref(), mode(s.default_mode, DEFAULT_MODE), facts, &mut payload)?;
    } else if let Some(s) = &volume.projected {
        let mode = mode(s.default_mode, DEFAULT_MODE);
        for source in s.sources.iter().flatten() {
            if let Some(c) = &source.config_map {
                config_map(pod, &c.name, c.items.as_deref(), c.optional, mode, objects, &mut payload)?;
            }
            if let Some(c) = &source.secret {
                secret(pod, &c.name, c.items.as_deref(), c.optional, mode, objects, &mut payload)?;
            }
            if let Some(d) = &source.downward_api {
                downward(pod, d.items.as_deref(), mode, facts, &mut payload)?;
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(payload))
}

pub(super) fn mode(asked: Option<i32>, default: i32) -> u32 {
    u32::try_from(asked.unwrap_or(default)).unwrap_or(0o644) & 0o777
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

fn config_map(
    pod: &Pod,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
    objects: &dyn Objects,
    out: &mut Payload,
) -> Result<(), VolumeError> {
    let optional = optional.unwrap_or_default();
    let Some(map) = objects.config_map(namespace(pod), name) else {
        if optional {
            return Ok(());
        }
        return Err(VolumeError::Source(format!("configmap \"{name}\" not found")));
    };
    let mut data: BTreeMap<&str, &[u8]> =
        map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes())).collect();
    data.extend(map.binary_data.iter().flatten().map(|(k, ByteString(v))| (k.as_str(), v.as_slice())));
    pick(&data, items, optional, mode, "configmap references non-existent config key", out)
}

fn secret(
    pod: &Pod,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
    objects: &dyn Objects,
    out: &mut Payload,
) -> Result<(), VolumeError> {
    let optional = optional.unwrap_or_default();
    let Some(secret) = objects.secret(namespace(pod), name) else {
        if optional {
            return Ok(());
        }
        return Err(VolumeError::Source(format!("secret \"{name}\" not found")));
    };
    let data = secret.data.iter().flatten().map(|(k, ByteString(v))| (k.as_str(), v.as_slice())).collect();
    pick(&data, items, optional, mode, "references non-existent secret key", out)
}

/// All keys, or the listed ones at their paths.
fn pick(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    missing: &str,
    out: &mut Payload,
) -> Result<(), VolumeError> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        let all = data.iter().map(|(k, v)| ((*k).to_owned(), File { data: v.to_vec(), mode, owner: None }));
        out.extend(all);
        return Ok(());
    };
    for item in items {
        let Some(value) = data.get(item.key.as_str()) else {
            if optional {
                continue;
            }
            return Err(VolumeError::Source(format!("{missing}: {}", item.key)));
        };
        let mode = item.mode.map_or(mode, |m| self::mode(Some(m), DEFAULT_MODE));
        out.insert(item.path.clone(), File { data: value.to_vec(), mode, owner: None });
    }
    Ok(())
}

fn downward(
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: u32,
    facts: &NodeFacts,
    out: &mut Payload,
) -> Result<(), VolumeError> {
    for item in items.into_iter().flatten() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(f), _) => field(pod, f, facts)?,
            (None, Some(r)) => resource(pod, None, r, facts)?,
            (None, None) => continue,
        };
        let mode = item.mode.map_or(mode, |m| self::mode(Some(m), DEFAULT_MODE));
        out.insert(item.path.clone(), File { data: text.into_bytes(), mode, owner: None });
    }
    Ok(())
}
