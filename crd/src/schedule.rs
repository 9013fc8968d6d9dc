//! When a schedule comes round: five fields or a name for them, as the standard parser of robfig/cron v3 reads them,
//! which is what upstream's API server and CronJob controller use. What is wrong is told in its words.
//!
//! A field is a list of values, ranges and steps; months and weekdays have names. When both days are given, either will
//! do. What a clock skips in spring is skipped, and what it repeats in autumn is repeated.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, ToSpan, civil::DateTime, tz::TimeZone};

/// How far ahead a schedule is looked at.
const YEARS_MAX: i16 = 5;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A schedule that was understood.
///
/// ```
/// use jiff::{Timestamp, tz::TimeZone};
/// use windlass_crd::schedule::Schedule;
///
/// let schedule = Schedule::parse("30 6 * * mon-fri", &TimeZone::UTC)?;
/// let friday: Timestamp = "2026-01-30T12:00:00Z".parse().unwrap();
/// assert_eq!(schedule.next(friday), Some("2026-02-02T06:30:00Z".parse().unwrap()));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone)]
pub struct Schedule(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Fields(Box<Fields>),
    /// Every so often.
    Every(SignedDuration),
}

/// What each field allows, a bit for each value, and whether it allows everything.
#[derive(Debug, Clone)]
struct Fields {
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
    zone: TimeZone,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Field {
    bits: u64,
    /// Written as `*` or `?`.
    any: bool,
}

/// The values that a field can have, and their names.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

impl Schedule {
    /// Reads a schedule of a time zone; one that names a zone itself has that one.
    ///
    /// # Errors
    /// What cannot be understood of it, in upstream's words.
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Self, String> {
        let (zone, text) = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            None => (zone.clone(), text),
            Some(rest) => {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let zone = zone_named(name)
                    .ok_or(format!("provided bad location {name}: unknown time zone {name}"))?;
                (zone, rest.trim())
            }
        };
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        if let Some(text) = text.strip_prefix("@every ") {
            let every =
                duration(text).map_err(|why| format!("failed to parse duration @every {text}: {why}"))?;
            return Ok(Self(Kind::Every(every.max(SignedDuration::from_secs(1)))));
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return Err(format!("unrecognized descriptor: {other}")),
            other => other,
        };
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
        };
        let field = |text: &str, min, max, names| Field::parse(text, &Bounds { min, max, names });
        Ok(Self(Kind::Fields(Box::new(Fields {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: field(weekdays, 0, 6, &DAYS)?,
            zone,
        }))))
    }

    /// The first moment after this one; `None` when there is none within five years.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        match &self.0 {
            Kind::Every(every) => whole.checked_add(*every).ok(),
            Kind::Fields(fields) => fields.next(whole),
        }
    }
}

impl Fields {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let local = self.zone.to_datetime(after);
        let last = local.year().saturating_add(YEARS_MAX);
        let mut at = after.checked_add(i64::from(60 - local.second()).seconds()).ok()?;
        loop {
            let local = self.zone.to_datetime(at);
            if local.year() > last {
                return None;
            }
            at = if !self.months.has(local.month()) {
                self.begin(local.date().last_of_month().tomorrow().ok()?.at(0, 0, 0, 0))?
            } else if !self.is_day(&local) {
                self.begin(local.date().tomorrow().ok()?.at(0, 0, 0, 0))?
            } else if !self.hours.has(local.hour()) {
                at.checked_add(i64::from(60 - local.minute()).minutes()).ok()?
            } else if !self.minutes.has(local.minute()) {
                at.checked_add(1.minute()).ok()?
            } else {
                return Some(at);
            };
        }
    }

    /// The first moment of a local day.
    fn begin(&self, day: DateTime) -> Option<Timestamp> {
        Some(day.to_zoned(self.zone.clone()).ok()?.start_of_day().ok()?.timestamp())
    }

    fn is_day(&self, local: &DateTime) -> bool {
        let day = self.days.has(local.day());
        let weekday = self.weekdays.has(local.weekday().to_sunday_zero_offset());
        if self.days.any || self.weekdays.any { day && weekday } else { day || weekday }
    }
}

impl Field {
    fn parse(text: &str, bounds: &Bounds) -> Result<Self, String> {
        let mut field = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let more = Self::part(part, bounds)?;
            field = Self { bits: field.bits | more.bits, any: field.any || more.any };
        }
        Ok(field)
    }

    fn part(text: &str, bounds: &Bounds) -> Result<Self, String> {
        let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
        if step.is_some_and(|step| step.contains('/')) {
            return Err(format!("too many slashes: {text}"));
        }
        let ends: Vec<&str> = range.split('-').collect();
        let mut any = matches!(ends[0], "*" | "?");
        let (first, mut last) = match ends[..] {
            _ if any => (bounds.min, bounds.max),
            [only] => (bounds.value(only)?, bounds.value(only)?),
            [first, last] => (bounds.value(first)?, bounds.value(last)?),
            _ => return Err(format!("too many hyphens: {text}")),
        };
        let step = step.map(number).transpose()?;
        if step.is_some() && ends.len() == 1 {
            last = bounds.max;
        }
        let step = step.unwrap_or(1);
        any &= step <= 1;
        let (min, max) = (bounds.min, bounds.max);
        if first < min {
            return Err(format!("beginning of range ({first}) below minimum ({min}): {text}"));
        }
        if last > max {
            return Err(format!("end of range ({last}) above maximum ({max}): {text}"));
        }
        if first > last {
            return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        let bits = (first..=last).step_by(step as usize).fold(0, |bits, value| bits | 1 << value);
        Ok(Self { bits, any })
    }

    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits >> value & 1 == 1)
    }
}

impl Bounds {
    fn value(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        match named.and_then(|place| u32::try_from(place).ok()) {
            Some(place) => Ok(place + self.min),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })
}

/// A time zone by its name in the IANA database, as Go looks it up: no name is UTC, and so is `Local`, since what runs
/// has no place.
#[must_use]
pub fn zone_named(name: &str) -> Option<TimeZone> {
    if matches!(name, "" | "UTC" | "Local") { Some(TimeZone::UTC) } else { TimeZone::get(name).ok() }
}

/// A duration as Go writes it, such as `1h30m` or `1.5s`, in whole seconds.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let mut total = Duration::ZERO;
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let of_number = |c: char| c.is_ascii_digit() || c == '.';
        let digits = rest.find(|c| !of_number(c)).unwrap_or(rest.len());
        let unit = rest[digits..].find(of_number).map_or(rest.len(), |n| n + digits);
        let value: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        let seconds = match &rest[digits..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
        };
        let more = Duration::try_from_secs_f64(value * seconds).map_err(|_| invalid())?;
        total = total.checked_add(more).ok_or_else(invalid)?;
        rest = &rest[unit..];
    }
    i64::try_from(total.as_secs()).map(SignedDuration::from_secs).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next moments after one, in the zone.
    fn next(text: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let zone = zone_named(zone).unwrap();
        let schedule = Schedule::parse(text, &zone).unwrap();
        let mut at: Timestamp = after.parse().unwrap();
        let mut shown = Vec::new();
        for _ in 0..count {
            let Some(then) = schedule.next(at) else { break };
            at = then;
            shown.push(at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string());
        }
        shown
    }

    #[test]
    fn fields_say_when() {
        let from = "2026-01-30T10:07:30.5Z";
        for (text, first, second) in [
            ("* * * * *", "2026-01-30 10:08:00", "2026-01-30 10:09:00"),
            ("*/15 * * * *", "2026-01-30 10:15:00", "2026-01-30 10:30:00"),
            ("7 * * * *", "2026-01-30 11:07:00", "2026-01-30 12:07:00"),
            ("5/20 10 * * *", "2026-01-30 10:25:00", "2026-01-30 10:45:00"),
            ("0 0 31 * *", "2026-01-31 00:00:00", "2026-03-31 00:00:00"),
            ("0 12 * feb-mar MON", "2026-02-02 12:00:00", "2026-02-09 12:00:00"),
            ("30 6-16/4 * * 1-5", "2026-01-30 10:30:00", "2026-01-30 14:30:00"),
            // Both days given: either will do. `*/2` is no `*`.
            ("0 0 1 * 6", "2026-01-31 00:00:00", "2026-02-01 00:00:00"),
            ("0 0 */2 * 1", "2026-01-31 00:00:00", "2026-02-01 00:00:00"),
            ("0 0 ? * 2", "2026-02-03 00:00:00", "2026-02-10 00:00:00"),
            ("0 0 29 2 *", "2028-02-29 00:00:00", "2032-02-29 00:00:00"),
            ("@hourly", "2026-01-30 11:00:00", "2026-01-30 12:00:00"),
            ("@daily", "2026-01-31 00:00:00", "2026-02-01 00:00:00"),
            ("@weekly", "2026-02-01 00:00:00", "2026-02-08 00:00:00"),
            ("@monthly", "2026-02-01 00:00:00", "2026-03-01 00:00:00"),
            ("@yearly", "2027-01-01 00:00:00", "2028-01-01 00:00:00"),
            ("@every 1h30m", "2026-01-30 11:37:30", "2026-01-30 13:07:30"),
            ("@every 0.1s", "2026-01-30 10:07:31", "2026-01-30 10:07:32"),
            ("TZ=Asia/Tokyo 0 9 * * *", "2026-01-31 00:00:00", "2026-02-01 00:00:00"),
        ] {
            assert_eq!(next(text, "UTC", from, 2), [first, second], "{text}");
        }
        assert!(next("59 23 31 2 *", "UTC", from, 1).is_empty());
    }

    #[test]
    fn clocks_that_change_skip_and_repeat() {
        let spring = "2026-03-27T12:00:00Z";
        assert_eq!(
            next("30 2 * * *", "Europe/Berlin", spring, 3),
            ["2026-03-28 02:30:00", "2026-03-30 02:30:00", "2026-03-31 02:30:00"]
        );
        let autumn = "2026-10-24T12:00:00Z";
        assert_eq!(
            next("30 2 * * *", "Europe/Berlin", autumn, 3),
            ["2026-10-25 02:30:00", "2026-10-25 02:30:00", "2026-10-26 02:30:00"]
        );
        assert_eq!(next("0 0 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", 1), ["2026-01-02 00:00:00"]);
        // A zone whose midnight is skipped.
        assert_eq!(
            next("0 12 * * *", "America/Asuncion", "2023-09-30T20:00:00Z", 1),
            ["2023-10-01 12:00:00"]
        );
    }

    #[test]
    fn what_is_wrong_is_told_as_upstream_tells_it() {
        for (text, error) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
            ("TZ=Nowhere * * * * *", "provided bad location Nowhere: unknown time zone Nowhere"),
            ("@every soon", "failed to parse duration @every soon: time: invalid duration \"soon\""),
            ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
            ("@every 5d", "failed to parse duration @every 5d: time: unknown unit \"d\" in duration \"5d\""),
        ] {
            assert_eq!(Schedule::parse(text, &TimeZone::UTC).unwrap_err(), error, "{text}");
        }
    }
}
