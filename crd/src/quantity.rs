//! Exact resource quantities: `100m`, `1.5Gi`, `1e3`.
//!
//! Never a floating point number: a quantity is a decimal mantissa and an exponent of ten, no finer than one
//! billionth, and it remembers the family of its suffix. Parsing, rounding (up, away from zero) and the canonical
//! text follow upstream's `resource.Quantity`, including when the given text is kept as it stands.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde_json::Value;

/// The family of suffixes that a quantity is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `n u m "" k M G T P E`.
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`.
    BinarySi,
    /// `e3`, `E6`.
    DecimalExponent,
}

/// Why a text is no quantity; the messages are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of the form number and suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// A number that cannot be held.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// No such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The finest exponent: nano.
const NANO: i32 = -9;
/// The most decimal digits of a mantissa; two such numbers can be brought to one exponent within `i128`.
const DIGITS_MAX: u32 = 37;

/// An exact decimal number with the family of its suffix.
#[derive(Clone, Debug)]
pub struct Quantity {
    mantissa: i128,
    /// Power of ten, never below [`NANO`].
    exponent: i32,
    format: Format,
    /// The text it came from, when upstream would keep it.
    text: Option<Box<str>>,
}

impl Default for Quantity {
    fn default() -> Self {
        Self::zero()
    }
}

impl Quantity {
    /// Zero, in decimal form.
    #[must_use]
    pub const fn zero() -> Self {
        Self { mantissa: 0, exponent: 0, format: Format::DecimalSi, text: None }
    }

    /// A whole number in the given family.
    #[must_use]
    pub const fn new(value: i64, format: Format) -> Self {
        Self { mantissa: value as i128, exponent: 0, format, text: None }
    }

    /// Thousandths in the given family.
    #[must_use]
    pub const fn milli(value: i64, format: Format) -> Self {
        Self { mantissa: value as i128, exponent: -3, format, text: None }
    }

    /// Reads a JSON value as upstream does: a string, or a number in its JSON text.
    ///
    /// # Errors
    /// When the text is no quantity, or the value is of another type.
    pub fn from_json(value: &Value) -> Result<Self, ParseError> {
        match value {
            Value::String(text) => text.trim().parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(ParseError::Format),
        }
    }

    /// The family of its suffix.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Whether it is zero.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    #[must_use]
    pub const fn signum(&self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// Whether it is a whole number.
    #[must_use]
    pub fn is_integer(&self) -> bool {
        self.scaled(0).1
    }

    /// The value in units, rounded away from zero, capped to 64 bits.
    #[must_use]
    pub fn value(&self) -> i64 {
        cap(self.scaled(0).0)
    }

    /// The value in thousandths, rounded away from zero, capped to 64 bits.
    #[must_use]
    pub fn milli_value(&self) -> i64 {
        cap(self.scaled(-3).0)
    }

    /// The nearest floating point number, for display and metrics only.
    #[must_use]
    pub fn approximate(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.exponent)
    }

    /// The mantissa at `exponent`, rounded away from zero, and whether that lost nothing. Saturates.
    fn scaled(&self, exponent: i32) -> (i128, bool) {
        if self.mantissa == 0 {
            return (0, true);
        }
        let shift = self.exponent - exponent;
        if shift >= 0 {
            let saturated = if self.mantissa < 0 { i128::MIN } else { i128::MAX };
            let factor = u32::try_from(shift).ok().and_then(|s| 10i128.checked_pow(s));
            return (factor.and_then(|f| self.mantissa.checked_mul(f)).unwrap_or(saturated), true);
        }
        let Some(divisor) = 10i128.checked_pow(shift.unsigned_abs()) else {
            return (self.mantissa.signum(), false);
        };
        let (quotient, rest) = (self.mantissa / divisor, self.mantissa % divisor);
        (quotient + if rest == 0 { 0 } else { self.mantissa.signum() }, rest == 0)
    }

    /// Without trailing zeros in the mantissa.
    fn normalised(&self) -> (i128, i32) {
        if self.mantissa == 0 {
            return (0, 0);
        }
        let (mut mantissa, mut exponent) = (self.mantissa, self.exponent);
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        (mantissa, exponent)
    }

    fn combine(&self, other: &Self, sign: i128) -> Self {
        let format = if self.mantissa == 0 { other.format } else { self.format };
        let exponent = if self.mantissa == 0 {
            other.exponent
        } else if other.mantissa == 0 {
            self.exponent
        } else {
            self.exponent.min(other.exponent)
        };
        let (a, b) = (self.scaled(exponent).0, other.scaled(exponent).0);
        Self { mantissa: a.saturating_add(b.saturating_mul(sign)), exponent, format, text: None }
    }
}

fn cap(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn digits(mantissa: i128) -> u32 {
    mantissa.unsigned_abs().checked_ilog10().map_or(1, |n| n + 1)
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.normalised() == other.normalised()
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.normalised(), other.normalised());
        let by_sign = a.0.signum().cmp(&b.0.signum());
        if by_sign != Ordering::Equal || a == b {
            return by_sign;
        }
        let magnitude = |(m, e): (i128, i32)| i64::from(digits(m)) + i64::from(e);
        let by_magnitude = magnitude(a).cmp(&magnitude(b));
        let ordering = if by_magnitude == Ordering::Equal {
            let exponent = a.1.min(b.1);
            let at = |(m, e): (i128, i32)| {
                m.abs().saturating_mul(10i128.saturating_pow((e - exponent).unsigned_abs()))
            };
            at(a).cmp(&at(b))
        } else {
            by_magnitude
        };
        if a.0 < 0 { ordering.reverse() } else { ordering }
    }
}

impl Add for &Quantity {
    type Output = Quantity;
    fn add(self, other: Self) -> Quantity {
        self.combine(other, 1)
    }
}

impl Sub for &Quantity {
    type Output = Quantity;
    fn sub(self, other: Self) -> Quantity {
        self.combine(other, -1)
    }
}

impl AddAssign<&Self> for Quantity {
    fn add_assign(&mut self, other: &Self) {
        *self = self.combine(other, 1);
    }
}

impl SubAssign<&Self> for Quantity {
    fn sub_assign(&mut self, other: &Self) {
        *self = self.combine(other, -1);
    }
}

impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self { mantissa: -self.mantissa, text: None, ..self }
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts = Parts::split(text)?;
        let (format, power) = suffix(parts.suffix).ok_or(ParseError::Suffix)?;
        let (base10, base2) = if format == Format::BinarySi { (0, power) } else { (power, 0) };
        let all = format!("{}{}", parts.whole, parts.fraction);
        let significant = all.trim_start_matches('0');
        let mut exponent = base10 - i32::try_from(parts.fraction.len()).map_err(|_| ParseError::Numeric)?;
        let mut mantissa = parse_digits(significant, &mut exponent)?;
        if base2 > 0 {
            mantissa = mantissa.checked_mul(1i128 << base2).ok_or(ParseError::Numeric)?;
        }
        let mut out = Self { mantissa, exponent, format, text: None };
        if exponent < NANO {
            out = Self { mantissa: out.scaled(NANO).0, exponent: NANO, ..out };
        }
        if format == Format::BinarySi && out > Self::new(i64::MAX, format) {
            out = Self::new(i64::MAX, format);
        }
        if parts.negative {
            out.mantissa = -out.mantissa;
        }
        if keeps_text(&parts, &all, format, power) {
            out.text = Some(text.into());
        }
        Ok(out)
    }
}

/// Digits without leading zeros as a number; more than can be held are rounded up while they are a fraction.
fn parse_digits(significant: &str, exponent: &mut i32) -> Result<i128, ParseError> {
    let mut kept = significant.trim_end_matches('0');
    *exponent = exponent.saturating_add(i32::try_from(significant.len() - kept.len()).unwrap_or(i32::MAX));
    if kept.is_empty() {
        *exponent = 0;
        return Ok(0);
    }
    let mut round_up = false;
    if kept.len() > DIGITS_MAX as usize {
        let cut = kept.len() - DIGITS_MAX as usize;
        let cut_exponent = *exponent + i32::try_from(cut).map_err(|_| ParseError::Numeric)?;
        if cut_exponent > NANO {
            return Err(ParseError::Numeric);
        }
        kept = &kept[..DIGITS_MAX as usize];
        *exponent = cut_exponent;
        round_up = true;
    }
    let number: i128 = kept.parse().map_err(|_| ParseError::Numeric)?;
    if *exponent > 1_000_000 {
        return Err(ParseError::Numeric);
    }
    Ok(number + i128::from(round_up))
}

/// A number's text in its parts.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, mut tail) = rest.split_at(end);
        let mut fraction = "";
        if let Some(after) = tail.strip_prefix('.') {
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            (fraction, tail) = after.split_at(end);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(ParseError::Format);
        }
        let letters = tail.find(|c| !"eEinumkKMGTP".contains(c)).unwrap_or(tail.len());
        let number = tail[letters..].strip_prefix(['+', '-']).unwrap_or(&tail[letters..]);
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseError::Format);
        }
        Ok(Self { negative, whole, fraction, suffix: tail })
    }
}

/// The family and power (of ten, or of two for the binary family) that a suffix stands for.
fn suffix(text: &str) -> Option<(Format, i32)> {
    let si = |power| Some((Format::DecimalSi, power));
    let binary = |power| Some((Format::BinarySi, power));
    match text {
        "n" => si(-9),
        "u" => si(-6),
        "m" => si(-3),
        "" => si(0),
        "k" => si(3),
        "M" => si(6),
        "G" => si(9),
        "T" => si(12),
        "P" => si(15),
        "E" => si(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let power: i32 = text.strip_prefix(['e', 'E']).filter(|t| !t.is_empty())?.parse().ok()?;
            (power.abs() < 1_000_000).then_some((Format::DecimalExponent, power))
        }
    }
}

/// Whether upstream keeps the text: it looks canonical by a cheap test, which lets a few uncanonical ones through.
fn keeps_text(parts: &Parts<'_>, digits: &str, format: Format, power: i32) -> bool {
    if format == Format::BinarySi {
        let room = 15 - parts.whole.len() as i32 - power * 3 / 10 - 1;
        let low_bits = digits.parse::<i64>().map_or(0, |v| v & 7);
        return parts.fraction.is_empty() && room >= 0 && low_bits != 0;
    }
    let scale = power - parts.fraction.len() as i32;
    digits.len() <= 18
        && scale >= NANO
        && scale % 3 == 0
        && !digits.ends_with("000")
        && !digits.starts_with('0')
        && parts.whole.len() + parts.fraction.len() == digits.len()
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.mantissa == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi {
            let (whole, exact) = self.scaled(0);
            if exact && whole.unsigned_abs() >= 1024 {
                return write_binary(f, whole);
            }
        }
        self.write_decimal(f)
    }
}

fn write_binary(f: &mut fmt::Formatter<'_>, mut value: i128) -> fmt::Result {
    let mut steps = 0;
    while value % 1024 == 0 && steps < 6 {
        value /= 1024;
        steps += 1;
    }
    write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][steps])
}

impl Quantity {
    fn write_decimal(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mantissa, exponent) = self.normalised();
        // Zeros are written, not multiplied out: the number may be longer than any integer.
        let mut zeros = exponent.rem_euclid(3);
        if self.format != Format::DecimalExponent {
            zeros = zeros.max(exponent - 18);
        }
        let exponent = exponent - zeros;
        write!(f, "{mantissa}{}", "0".repeat(usize::try_from(zeros).unwrap_or(0)))?;
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { Ok(()) } else { write!(f, "e{exponent}") };
        }
        let suffixes = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        f.write_str(suffixes[usize::try_from((exponent + 9) / 3).unwrap_or(3)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().map_or_else(|e| format!("! {e}"), |q| q.to_string())
    }

    #[test]
    fn canonical_forms_are_upstreams() {
        let cases = [
            ("0", "0"),
            ("0Gi", "0"),
            ("1", "1"),
            ("1.5", "1500m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1."),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1100m", "1100m"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("1000e0", "1e3"),
            ("12E", "12E"),
            ("1500k", "1500k"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1024Mi", "1Gi"),
            ("1Ki", "1Ki"),
            ("1.5Ki", "1536"),
            ("512Ki", "512Ki"),
            ("0.1m", "100u"),
            ("0.0000000001", "1n"),
            ("-1.5Gi", "-1536Mi"),
            ("-0.0000000001", "-1n"),
            ("9223372036854775807", "9223372036854775807"),
            ("16Ei", "9223372036854775807"),
            ("64e6", "64e6"),
            ("0.001Ki", "1024m"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
        ];
        for (given, expected) in cases {
            assert_eq!(canonical(given), expected, "{given}");
        }
    }

    #[test]
    fn bad_texts_are_refused_as_upstream_does() {
        for bad in ["", "-", ".", "1.1.1", "1 Gi", "Gi", "1Gi5x", "0x10", "１"] {
            assert_eq!(bad.parse::<Quantity>().unwrap_err(), ParseError::Format, "{bad}");
        }
        for bad in ["1i", "1mi", "1K", "1GiB", "1e", "1ki"] {
            let error = bad.parse::<Quantity>().unwrap_err();
            assert!(matches!(error, ParseError::Suffix | ParseError::Format), "{bad} {error:?}");
        }
    }

    #[test]
    fn rounding_is_away_from_zero() {
        let q: Quantity = "1.0001".parse().unwrap();
        assert_eq!((q.value(), q.milli_value()), (2, 1001));
        let q: Quantity = "-1.0001".parse().unwrap();
        assert_eq!((q.value(), q.milli_value()), (-2, -1001));
        assert_eq!("1e30".parse::<Quantity>().unwrap().value(), i64::MAX);
    }

    #[test]
    fn sums_take_the_family_of_the_first_that_is_not_zero() {
        let mut sum = Quantity::zero();
        sum += &"1Gi".parse().unwrap();
        sum += &"512Mi".parse().unwrap();
        assert_eq!(sum.to_string(), "1536Mi");
        sum -= &"1536Mi".parse().unwrap();
        assert!(sum.is_zero());
        assert_eq!((&"250m".parse::<Quantity>().unwrap() + &"0.75".parse().unwrap()).to_string(), "1");
    }

    proptest! {
        #[test]
        fn agrees_with_whole_nanos(a in -1_000_000_000_000i64..1_000_000_000_000, b in -1_000_000_000_000i64..1_000_000_000_000,
                                   ea in 0usize..4, eb in 0usize..4) {
            let suffixes = ["n", "u", "m", ""];
            let nanos = |v: i64, e: usize| i128::from(v) * 1000i128.pow(e as u32);
            let qa: Quantity = format!("{a}{}", suffixes[ea]).parse().unwrap();
            let qb: Quantity = format!("{b}{}", suffixes[eb]).parse().unwrap();
            let (na, nb) = (nanos(a, ea), nanos(b, eb));
            prop_assert_eq!(qa.cmp(&qb), na.cmp(&nb));
            prop_assert_eq!(qa == qb, na == nb);
            prop_assert_eq!((&qa + &qb).scaled(-9), (na + nb, true));
            prop_assert_eq!((&qa - &qb).scaled(-9), (na - nb, true));
            prop_assert_eq!(qa.to_string().parse::<Quantity>().unwrap(), qa);
        }

        #[test]
        fn any_text_parses_or_fails_without_panic(text in "[-+]?[0-9.]{0,50}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}") {
            if let Ok(q) = text.parse::<Quantity>() {
                let again: Quantity = q.to_string().parse().unwrap();
                prop_assert_eq!(again.to_string().parse::<Quantity>().unwrap(), again);
                let _ = (q.value(), q.milli_value(), &q + &q, q.cmp(&Quantity::new(1, Format::BinarySi)));
            }
        }
    }
}
