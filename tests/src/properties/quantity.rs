//! Quantities against an obvious slow model.

use windlass_crd::quantity::Quantity;

/// Powers of ten and of two of the suffixes.
const SUFFIXES: &[(&str, i32, u32)] = &[
    ("", 0, 0),
    ("n", -9, 0),
    ("u", -6, 0),
    ("m", -3, 0),
    ("k", 3, 0),
    ("M", 6, 0),
    ("G", 9, 0),
    ("T", 12, 0),
    ("P", 15, 0),
    ("E", 18, 0),
    ("Ki", 0, 10),
    ("Mi", 0, 20),
    ("Gi", 0, 30),
    ("Ti", 0, 40),
    ("Pi", 0, 50),
    ("Ei", 0, 60),
];

/// Thousandths, rounded away from zero; `None` where it does not fit, or is written with an exponent.
fn thousandths(text: &str) -> Option<i64> {
    let (sign, rest) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (if text.starts_with('-') { -1 } else { 1 }, rest),
        None => (1, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (_, ten, two) = SUFFIXES.iter().find(|(name, ..)| *name == suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let mut numerator = digits.checked_mul(1 << two)?.checked_mul(1000)?;
    let scale = ten - i32::try_from(fraction.len()).ok()?;
    let power = 10_i128.checked_pow(scale.unsigned_abs())?;
    let denominator = if scale < 0 { power } else { 1 };
    if scale > 0 {
        numerator = numerator.checked_mul(power)?;
    }
    // What is finer than a billionth counts as one: it rounds up to a thousandth either way.
    let up = numerator / denominator + i128::from(numerator % denominator != 0);
    i64::try_from(sign * up).ok()
}

/// The canonical text reads as the same quantity and is its own canonical text; the value is the model's.
pub fn quantity(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(parsed) = text.parse::<Quantity>() else { return };
    let canonical = parsed.to_string();
    let again: Quantity = canonical.parse().unwrap_or_else(|e| panic!("{text:?} became {canonical:?}: {e}"));
    assert_eq!(again.to_string(), canonical, "{text:?} is not settled");
    assert_eq!(again, parsed, "{text:?} became {canonical:?}");
    assert_eq!(parsed.value() == 0, parsed.is_zero() || parsed.value() == 0);
    if let Some(expected) = thousandths(text) {
        assert_eq!(parsed.milli_value(), expected, "{text:?}");
    }
}
