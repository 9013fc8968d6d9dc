//! The log file: one event a line; a file that is full is put aside under the time of day, and a new one begun.
//!
//! Nothing is lost between the two: the full file is renamed as it is, and a server that dies in between finds no file
//! and begins one. Old files are compressed and deleted beside the writing. Names are those of upstream's rotation,
//! `audit-2026-11-21T13-18-00.000.log.gz`. Source: `natefinch/lumberjack`, as upstream configures it.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};

use super::{LogSettings, event::Event};

const MEGABYTE: u64 = 1 << 20;
const STAMP: &str = "%Y-%m-%dT%H-%M-%S.%3f";

/// A log that rotates.
pub(super) struct Log {
    settings: LogSettings,
    /// `None` on the standard output, and after the file could not be opened.
    file: Option<File>,
    size: u64,
}

impl Log {
    /// Opens the file, to go on at its end.
    pub(super) fn open(settings: &LogSettings) -> Result<Self, String> {
        let mut log = Self { settings: settings.clone(), file: None, size: 0 };
        if !log.is_stdout() {
            if let Some(folder) = settings.path.parent() {
                fs::create_dir_all(folder)
                    .map_err(|e| format!("ensureLogFile: {}: {e}", folder.display()))?;
            }
            log.begin().map_err(|e| format!("ensureLogFile: open {}: {e}", settings.path.display()))?;
            log.tidy();
        }
        Ok(log)
    }

    fn is_stdout(&self) -> bool {
        self.settings.path == Path::new("-")
    }

    fn begin(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.settings.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes one event. False when it could not be.
    pub(super) fn write(&mut self, event: &Event) -> bool {
        let line = if self.settings.legacy { event.legacy() } else { event.json() };
        match self.put(&line) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(path = %self.settings.path.display(), %error, "the audit log cannot be written");
                self.file = None;
                false
            }
        }
    }

    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_stdout() {
            return io::stdout().lock().write_all(line);
        }
        let max = self.settings.max_megabytes.max(1) * MEGABYTE;
        if self.file.is_some() && self.size > 0 && self.size + line.len() as u64 > max {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.begin()?;
        }
        let file = self.file.as_mut().expect("just opened");
        // One call, so that a line is there as a whole or not at all.
        file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let now = windlass::clock::now();
        let mut aside = self.aside(now);
        let mut later = now;
        while aside.exists() {
            later += SignedDuration::from_millis(1);
            aside = self.aside(later);
        }
        fs::rename(&self.settings.path, aside)?;
        self.begin()?;
        self.tidy();
        Ok(())
    }

    fn aside(&self, time: Timestamp) -> PathBuf {
        let (stem, extension) = parts(&self.settings.path);
        let mut name = stem;
        name.push(format!("-{}", time.strftime(STAMP)));
        name.push(extension);
        self.settings.path.with_file_name(name)
    }

    /// Compresses and deletes old files, on a thread that may take its time.
    fn tidy(&self) {
        let settings = self.settings.clone();
        let work = move || {
            if let Err(error) = tidy(&settings, windlass::clock::now()) {
                tracing::warn!(path = %settings.path.display(), %error, "old audit logs cannot be tidied");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }
}

/// `audit` and `.log`.
fn parts(path: &Path) -> (OsString, OsString) {
    let extension = path.extension().map(|extension| {
        let mut dotted = OsString::from(".");
        dotted.push(extension);
        dotted
    });
    (path.file_stem().unwrap_or_default().to_owned(), extension.unwrap_or_default())
}

/// Old files beside the log, newest first, with the time in their names.
fn old(settings: &LogSettings) -> io::Result<Vec<(String, PathBuf)>> {
    let (stem, extension) = parts(&settings.path);
    let (prefix, suffix) = (format!("{}-", stem.to_string_lossy()), extension.to_string_lossy().into_owned());
    let folder = settings.path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let stamp = plain.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(&suffix));
        if let Some(stamp) = stamp.filter(|stamp| time_of(stamp).is_some()) {
            found.push((stamp.to_owned(), path));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

fn time_of(stamp: &str) -> Option<Timestamp> {
    jiff::civil::DateTime::strptime("%Y-%m-%dT%H-%M-%S.%f", stamp)
        .ok()?
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|z| z.timestamp())
}

fn tidy(settings: &LogSettings, now: Timestamp) -> io::Result<()> {
    let mut kept: Vec<String> = Vec::new();
    let oldest = now - SignedDuration::from_hours(24 * i64::from(settings.max_age_days));
    for (stamp, path) in old(settings)? {
        if !kept.contains(&stamp) {
            kept.push(stamp.clone());
        }
        let too_many = settings.max_backups > 0 && kept.len() > settings.max_backups;
        let too_old = settings.max_age_days > 0 && time_of(&stamp).is_some_and(|time| time < oldest);
        if too_many || too_old {
            fs::remove_file(&path)?;
        } else if settings.compress && path.extension().is_none_or(|extension| extension != "gz") {
            compress(&path)?;
        }
    }
    Ok(())
}

/// Under another name first: who dies here leaves the plain file, which is compressed again.
fn compress(path: &Path) -> io::Result<()> {
    let named = |more: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(more);
        PathBuf::from(name)
    };
    let (unfinished, finished) = (named(".gz.tmp"), named(".gz"));
    let target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let mut encoder = GzEncoder::new(target, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(unfinished, finished)?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_files_are_compressed_counted_and_aged() {
        let dir = std::env::temp_dir().join(format!("windlass-audit-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let settings = LogSettings {
            path: dir.join("audit.log"),
            max_age_days: 2,
            max_backups: 2,
            max_megabytes: 1,
            legacy: false,
            compress: true,
            mode: super::super::Mode::Blocking,
            batching: super::super::Batching {
                buffer: 1,
                max: 1,
                wait: std::time::Duration::ZERO,
                throttle: None,
            },
            truncation: None,
        };
        for name in [
            "audit-2026-01-09T10-00-00.000.log",
            "audit-2026-01-09T11-00-00.000.log",
            "audit-2026-01-09T12-00-00.000.log.gz",
            "audit-2026-01-01T10-00-00.000.log",
            "audit-not-a-time.log",
            "other-2026-01-09T11-00-00.000.log",
        ] {
            fs::write(dir.join(name), "x").unwrap();
        }
        tidy(&settings, "2026-01-10T00:00:00Z".parse().unwrap()).unwrap();
        let mut left: Vec<String> =
            fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(
            left,
            [
                "audit-2026-01-09T11-00-00.000.log.gz",
                "audit-2026-01-09T12-00-00.000.log.gz",
                "audit-not-a-time.log",
                "other-2026-01-09T11-00-00.000.log",
            ]
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
