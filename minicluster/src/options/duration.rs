//! Durations as Go writes them: `1m30s`, `500ms`.

use std::{str::FromStr, time::Duration};

/// A duration on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

const UNITS: [(&str, f64); 7] =
    [("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9)];

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no duration, as 1m30s is");
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut total = Duration::ZERO;
        let mut rest = text;
        while !rest.is_empty() {
            let digits =
                rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0).ok_or_else(bad)?;
            let end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
            let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
            let unit = UNITS.iter().find(|(unit, _)| *unit == &rest[digits..end]).ok_or_else(bad)?;
            total += Duration::try_from_secs_f64(number * unit.1).map_err(|_| bad())?;
            rest = &rest[end..];
        }
        if text.is_empty() { Err(bad()) } else { Ok(Self(total)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [("0", 0), ("30s", 30_000), ("1h0m1.5s", 3_601_500), ("250ms", 250)] {
            assert_eq!(text.parse(), Ok(GoDuration(Duration::from_millis(millis))), "{text}");
        }
        assert!(["", "3", "s", "-1s", "1x"].iter().all(|text| text.parse::<GoDuration>().is_err()));
    }
}
