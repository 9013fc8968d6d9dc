//! Container logs in the CRI format: `2026-11-21T03:52:23.760191717Z stdout F text`. Pure parsing and the options of
//! a log request; reading and following files is the node server's.

use jiff::Timestamp;

/// One line of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, as written.
    pub stamp: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// The line ends here; false for a part of a longer line.
    pub full: bool,
    /// The text, without the line's end.
    pub text: &'a [u8],
}

/// Reads one line, without its `\n`.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let mut word = || std::str::from_utf8(parts.next()?).ok();
    let (stamp, stream, tag) = (word()?, word()?, word()?);
    let text = parts.next().unwrap_or_default();
    Some(Line { stamp, stream, full: tag.split(':').next() == Some("F"), text })
}

/// The text of a whole log file, without stamps.
pub fn plain(log: &[u8]) -> String {
    let mut out = Vec::with_capacity(log.len());
    for line in log.split(|b| *b == b'\n').filter_map(parse) {
        out.extend_from_slice(line.text);
        if line.full {
            out.push(b'\n');
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What a log request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Keep sending what is written.
    pub follow: bool,
    /// The instance before the newest one.
    pub previous: bool,
    /// Put the stamp before each line.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only what was written from then on.
    pub since: Option<Timestamp>,
    /// At most this many bytes.
    pub limit: Option<usize>,
    /// One stream only: `Stdout` or `Stderr`.
    pub stream: Option<String>,
}

impl Options {
    /// Reads the query of a log request.
    ///
    /// # Errors
    /// The sentence upstream answers a wrong query with.
    pub fn parse(query: &str, now: Timestamp) -> Result<Self, String> {
        let mut options = Self::default();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || value.parse::<i64>().map_err(|_| format!("invalid {key}: {value}"));
            match key {
                "follow" => options.follow = truth(value),
                "previous" => options.previous = truth(value),
                "timestamps" => options.timestamps = truth(value),
                "stream" if value != "All" => options.stream = Some(value.to_lowercase()),
                "tailLines" => options.tail = Some(usize::try_from(number()?).map_err(|e| e.to_string())?),
                "limitBytes" => options.limit = Some(usize::try_from(number()?).map_err(|e| e.to_string())?),
                "sinceSeconds" => options.since = Some(now - jiff::SignedDuration::from_secs(number()?)),
                "sinceTime" => {
                    let text = value.replace("%3A", ":").replace("%3a", ":").replace("%2B", "+");
                    options.since = Some(text.parse().map_err(|_| format!("invalid sinceTime: {text}"))?);
                }
                _ => {}
            }
        }
        Ok(options)
    }
}

fn truth(value: &str) -> bool {
    matches!(value, "" | "true" | "1" | "True" | "TRUE")
}

/// Chooses and shapes lines by the options; remembers how much of the limit is left.
#[derive(Debug, Clone)]
pub struct Shaper {
    options: Options,
    left: Option<usize>,
    /// The last part written had no line end, so the next one gets no stamp.
    inside: bool,
}

impl Shaper {
    /// Nothing written yet.
    pub fn new(options: Options) -> Self {
        Self { left: options.limit, inside: false, options }
    }

    /// The limit is reached.
    pub fn full(&self) -> bool {
        self.left == Some(0)
    }

    /// Appends what the client gets for this line.
    pub fn push(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(line) else { return };
        let early = self.options.since.is_some_and(|s| line.stamp.parse::<Timestamp>().is_ok_and(|t| t < s));
        if early || self.options.stream.as_ref().is_some_and(|s| s != line.stream) {
            return;
        }
        let start = out.len();
        if self.options.timestamps && !self.inside {
            out.extend_from_slice(line.stamp.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if line.full {
            out.push(b'\n');
        }
        self.inside = !line.full;
        if let Some(left) = &mut self.left {
            let fits = (out.len() - start).min(*left);
            out.truncate(start + fits);
            *left -= fits;
        }
    }
}

/// Where the last `lines` lines of a log begin. A line in parts counts once.
pub fn tail_offset(log: &[u8], lines: usize) -> usize {
    if lines == 0 {
        return log.len();
    }
    let mut starts: Vec<usize> = Vec::new();
    let mut begin = true;
    let mut at = 0;
    for piece in log.split_inclusive(|b| *b == b'\n') {
        if begin {
            starts.push(at);
        }
        begin = parse(piece.strip_suffix(b"\n").unwrap_or(piece)).is_none_or(|l| l.full);
        at += piece.len();
    }
    starts.get(starts.len().saturating_sub(lines)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:01Z stdout F one\n\
        2026-01-01T00:00:02Z stderr P tw\n\
        2026-01-01T00:00:02Z stderr F o\n\
        2026-01-01T00:00:03Z stdout F three\n";

    fn shown(query: &str) -> String {
        let now = "2026-01-01T00:00:04Z".parse().unwrap();
        let options = Options::parse(query, now).unwrap();
        let from = options.tail.map_or(0, |n| tail_offset(LOG, n));
        let mut shaper = Shaper::new(options);
        let mut out = Vec::new();
        for line in LOG[from..].split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            shaper.push(line, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn requests_choose_and_shape_lines() {
        let cases = [
            ("", "one\ntwo\nthree\n"),
            ("tailLines=2", "two\nthree\n"),
            ("tailLines=0", ""),
            ("limitBytes=6", "one\ntw"),
            ("sinceSeconds=1", "three\n"),
            ("sinceTime=2026-01-01T00%3A00%3A02Z", "two\nthree\n"),
            ("tailLines=2&timestamps=true", "2026-01-01T00:00:02Z two\n2026-01-01T00:00:03Z three\n"),
            ("stream=Stderr", "two\n"),
        ];
        for (query, expected) in cases {
            assert_eq!(shown(query), expected, "{query}");
        }
        assert!(Options::parse("tailLines=x", Timestamp::UNIX_EPOCH).is_err());
    }
}
