//! Configuration files: read once at the start, read again when they change.
//!
//! Whoever owns a file asks now and then whether its content is another; the server does so every [`LOOK_EVERY`], and
//! only when it was given such files at all. A file that is wrong at the start stops it with one sentence.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::de::DeserializeOwned;

use crate::yaml;

/// How long a change of a file may go unnoticed.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The largest configuration file.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// A file and what it held when it was last read.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    content: ArcSwap<String>,
}

impl Watched {
    /// Reads a file for the first time.
    ///
    /// # Errors
    /// The file and what the system said.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        Ok(Self { path: path.to_owned(), content: ArcSwap::from_pointee(read(path)?) })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it held when it was last read.
    pub(crate) fn content(&self) -> std::sync::Arc<String> {
        self.content.load_full()
    }

    /// Reads it again. True when it holds something else now.
    ///
    /// # Errors
    /// As [`Watched::open`].
    pub(crate) fn changed(&self) -> Result<bool, String> {
        let now = read(&self.path)?;
        if now == **self.content.load() {
            return Ok(false);
        }
        self.content.store(std::sync::Arc::new(now));
        Ok(true)
    }
}

/// The text of a file.
///
/// # Errors
/// The file and what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|e| format!("{shown}: {e}"))?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{shown}: larger than {FILE_BYTES_MAX} bytes"));
    }
    std::fs::read_to_string(path).map_err(|e| format!("{shown}: {e}"))
}

/// A configuration object in YAML or JSON: `apiVersion` must be one of `group`'s versions, fields that are not known are
/// refused.
///
/// # Errors
/// The file and the field.
pub(crate) fn document<T: DeserializeOwned>(
    path: &Path,
    text: &str,
    group: &str,
    versions: &[&str],
    kind: &str,
) -> Result<T, String> {
    let shown = path.display();
    let (mut value, duplicate) = yaml::parse(text).map_err(|e| format!("{shown}: {e}"))?;
    if let Some(field) = duplicate {
        return Err(format!("{shown}: strict decoding error: {field}"));
    }
    let Some(fields) = value.as_object_mut() else { return Err(format!("{shown}: not a {kind}")) };
    let take = |fields: &mut serde_json::Map<String, serde_json::Value>, key: &str| {
        fields.remove(key).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let (version, found) = (take(fields, "apiVersion"), take(fields, "kind"));
    let known = version.strip_prefix(group).and_then(|rest| rest.strip_prefix('/'));
    if found != kind || !known.is_some_and(|known| versions.contains(&known)) {
        let why = format!("no kind \"{found}\" is registered for version \"{version}\"");
        return Err(format!("{shown}: {why}: it has to be {kind} of {group}/{}", versions.join(" or ")));
    }
    serde_json::from_value(value).map_err(|e| format!("{shown}: strict decoding error: {e}"))
}

/// A time as Go writes it: `1h30m`, `2.5s`, `100ms`.
///
/// # Errors
/// Go's sentence.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("time: invalid duration \"{text}\"");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut seconds = 0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        seconds += number * unit;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// A time as Go shows it: `1h30m0s`, `2.5s`, `100ms`.
pub(crate) fn show(time: Duration) -> String {
    if time.is_zero() {
        return "0s".to_owned();
    }
    if time < Duration::from_secs(1) {
        return match time.as_secs_f64() * 1e3 {
            ms if ms >= 1.0 => format!("{ms}ms"),
            ms => format!("{}µs", ms * 1e3),
        };
    }
    let (minutes, seconds) = (time.as_secs() / 60, time.as_secs_f64() % 60.0);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// For `#[serde(deserialize_with)]`: a time as Go writes it.
pub(crate) fn as_duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = <String as serde::Deserialize>::deserialize(from)?;
    duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis, shown) in [
            ("3s", 3000, "3s"),
            ("1h30m", 5_400_000, "1h30m0s"),
            ("2.5s", 2500, "2.5s"),
            ("100ms", 100, "100ms"),
            ("0", 0, "0s"),
            ("1m0.5s", 60_500, "1m0.5s"),
        ] {
            let time = duration(text).unwrap();
            assert_eq!((time.as_millis(), show(time).as_str()), (millis, shown), "{text}");
        }
        for text in ["", "3", "s", "3x", "-1s", "1..2s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn documents_are_of_their_kind_and_have_no_unknown_fields() {
        #[derive(serde::Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        struct Doc {
            #[serde(rename = "a")]
            _a: i64,
        }
        let read = |text: &str| document::<Doc>(Path::new("f"), text, "g", &["v1", "v1beta1"], "K");
        read("apiVersion: g/v1beta1\nkind: K\na: 1").unwrap();
        for (text, why) in [
            ("apiVersion: g/v2\nkind: K\na: 1", "f: no kind \"K\" is registered for version \"g/v2\""),
            ("apiVersion: g/v1\nkind: L\na: 1", "f: no kind \"L\""),
            ("apiVersion: g/v1\nkind: K\na: 1\nb: 2", "f: strict decoding error: unknown field `b`"),
            ("apiVersion: g/v1\nkind: K\na: x", "f: strict decoding error: invalid type"),
            ("- 1", "f: not a K"),
            ("{", "f: "),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
