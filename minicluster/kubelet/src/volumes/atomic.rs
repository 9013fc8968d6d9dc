//! Writes the files of a volume so that a reader sees all of the old ones or all of the new ones.
//!
//! The layout is upstream's: the files live in a folder `..<stamp>`, `..data` is a link to it, and each visible name
//! is a link through `..data`. An update writes a new folder and renames the link over the old one.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path};

use windlass::clock;

use super::payload::Payload;

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Brings the folder to this payload; false when it was there already.
///
/// # Errors
/// What the file system refused, or a path that leaves the volume.
pub fn write(dir: &Path, payload: &Payload) -> io::Result<bool> {
    if let Some(path) = payload.keys().find(|p| !inside(p)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path \"{path}\"")));
    }
    let data = dir.join(DATA);
    let old = fs::read_link(&data).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload)?
        && names(payload).iter().all(|n| dir.join(n).symlink_metadata().is_ok())
    {
        return Ok(false);
    }
    let stamp = stamp(dir);
    let target = dir.join(&stamp);
    fs::create_dir(&target)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        put(&target, path, &file.data, file.mode, file.owner)?;
    }
    let next = dir.join(NEXT);
    let _ = fs::remove_file(&next);
    symlink(&stamp, &next)?;
    fs::rename(&next, &data)?;
    link_names(dir, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old)).or_else(gone)?;
    }
    Ok(true)
}

fn gone(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

/// Relative, without `..`.
fn inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
        && !path.starts_with("..")
}

/// First parts of all paths: what is visible in the volume.
fn names(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|p| p.split('/').next()).collect()
}

/// A folder name not used yet.
fn stamp(dir: &Path) -> String {
    let base = clock::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    (0_u32..).map(|n| format!("{base}.{n:09}")).find(|s| !dir.join(s).exists()).unwrap_or(base)
}

fn put(target: &Path, path: &str, data: &[u8], mode: u32, owner: Option<u32>) -> io::Result<()> {
    let full = target.join(path);
    if let Some(parent) = full.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&full)?;
    file.write_all(data)?;
    // The umask must not take bits away that were asked for.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    if owner.is_some() {
        std::os::unix::fs::chown(&full, owner, None)?;
    }
    Ok(())
}

fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted = names(payload);
    for name in &wanted {
        let link = dir.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let ours = entry.file_type()?.is_symlink() && !name.starts_with("..");
        if ours && !wanted.contains(name.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The folder holds exactly this payload.
fn same(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = 0;
    let mut open = vec![dir.to_path_buf()];
    while let Some(at) = open.pop() {
        let entries = match fs::read_dir(&at) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
                continue;
            }
            let path = entry.path();
            let relative = path.strip_prefix(dir).ok().and_then(Path::to_str);
            let Some(file) = relative.and_then(|r| payload.get(r)) else { return Ok(false) };
            let meta = entry.metadata()?;
            if meta.size() != file.data.len() as u64 || fs::read(&path)? != file.data {
                return Ok(false);
            }
            found += 1;
        }
    }
    Ok(found == payload.len())
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o640, owner: None }))
            .collect()
    }

    fn visible(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| !n.starts_with(".."))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_change_and_vanish_together() {
        let dir = std::env::temp_dir().join(format!("windlass-atomic-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();

        assert!(write(&dir, &payload(&[("a", "1"), ("deep/b", "2")])).unwrap());
        assert_eq!(fs::read_to_string(dir.join("deep/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!write(&dir, &payload(&[("a", "1"), ("deep/b", "2")])).unwrap(), "nothing changed");

        let open = fs::read_link(dir.join(DATA)).unwrap();
        assert!(write(&dir, &payload(&[("a", "3"), ("c", "4")])).unwrap());
        assert_ne!(fs::read_link(dir.join(DATA)).unwrap(), open);
        assert!(!dir.join(open).exists(), "the old folder is gone");
        assert_eq!(visible(&dir), ["a", "c"]);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");

        assert!(write(&dir, &payload(&[("../out", "x")])).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
