//! The file system side of volumes: folders, memory file systems, ownership, safe sub-paths, removal.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use super::VolumeError;

const SETGID: u32 = 0o2000;

/// A folder with exactly this mode, made when missing.
pub(super) fn folder(dir: &Path, mode: u32) -> Result<(), VolumeError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(VolumeError::io(dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(VolumeError::io(dir))
}

/// Something is mounted at this path.
fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let wanted = dir.display().to_string();
    table.lines().any(|l| l.split(' ').nth(4) == Some(wanted.as_str()))
}

/// A memory file system at this folder, limited when asked.
#[cfg(feature = "cri")]
pub(super) fn memory(dir: &Path, limit: Option<i64>) -> Result<(), VolumeError> {
    use rustix::mount::{MountFlags, mount};
    if is_mounted(dir) {
        return Ok(());
    }
    let options = match limit {
        Some(bytes) => format!("mode=0777,size={bytes}"),
        None => "mode=0777".to_owned(),
    };
    let options = std::ffi::CString::new(options).unwrap_or_default();
    mount("tmpfs", dir, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
        .map_err(io::Error::from)
        .map_err(VolumeError::io(dir))
}

/// Without the real runtime nothing runs that could tell a memory file system from a folder.
#[cfg(not(feature = "cri"))]
pub(super) fn memory(_dir: &Path, _limit: Option<i64>) -> Result<(), VolumeError> {
    Ok(())
}

#[cfg(feature = "cri")]
fn unmount(dir: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH)?)
}

#[cfg(not(feature = "cri"))]
fn unmount(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// Gives a tree to a group as `fsGroup` asks: group may read (and write, unless read-only), folders pass it on.
pub(super) fn own(
    dir: &Path,
    user: Option<u32>,
    group: Option<u32>,
    readonly: bool,
) -> Result<(), VolumeError> {
    let meta = fs::symlink_metadata(dir).map_err(VolumeError::io(dir))?;
    std::os::unix::fs::lchown(dir, user, group).map_err(VolumeError::io(dir))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mut add = if readonly { 0o440 } else { 0o660 };
    if meta.is_dir() {
        add |= 0o110 | SETGID;
    }
    let mode = meta.permissions().mode() | add;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(VolumeError::io(dir))?;
    if meta.is_dir() {
        for entry in fs::read_dir(dir).map_err(VolumeError::io(dir))? {
            own(&entry.map_err(VolumeError::io(dir))?.path(), user, group, readonly)?;
        }
    }
    Ok(())
}

/// A path inside a volume, made as a folder when missing; links may not lead out of the volume.
pub(super) fn sub_path(volume: &Path, sub: &str) -> Result<PathBuf, VolumeError> {
    let refused = || VolumeError::SubPath(sub.to_owned());
    let relative = Path::new(sub);
    if relative.is_absolute() || relative.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(refused());
    }
    let base = volume.canonicalize().map_err(VolumeError::io(volume))?;
    let mut at = base.clone();
    for part in relative.components() {
        let Component::Normal(part) = part else { continue };
        let next = at.join(part);
        if next.symlink_metadata().is_err() {
            let mode = fs::metadata(&at).map_or(0o750, |m| m.permissions().mode());
            fs::create_dir(&next).map_err(VolumeError::io(&next))?;
            fs::set_permissions(&next, fs::Permissions::from_mode(mode)).map_err(VolumeError::io(&next))?;
        }
        at = next.canonicalize().map_err(VolumeError::io(&next))?;
        if !at.starts_with(&base) {
            return Err(refused());
        }
    }
    Ok(at)
}

/// Unmounts and removes a tree; already gone is done.
pub(super) async fn remove(dir: &Path) -> Result<(), VolumeError> {
    let dir = dir.to_path_buf();
    let work = dir.clone();
    let done = tokio::task::spawn_blocking(move || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut mounts: Vec<_> = table
            .lines()
            .filter_map(|l| l.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|m| m.starts_with(&work))
            .collect();
        mounts.sort();
        for mount in mounts.iter().rev() {
            unmount(mount)?;
        }
        match fs::remove_dir_all(&work) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    });
    match done.await {
        Ok(result) => result.map_err(VolumeError::io(&dir)),
        Err(_) => Ok(()),
    }
}
