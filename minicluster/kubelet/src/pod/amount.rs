//! Quantities as the whole numbers cgroups and environment variables take. Rounds up, as upstream's `Value()` and
//! `MilliValue()` do. Text that is no quantity counts as zero: the API server has validated it before.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A list of resources by name.
pub type Amounts = BTreeMap<String, Quantity>;

/// The quantity in thousandths, rounded up.
pub fn milli(q: &Quantity) -> i64 {
    scaled(&q.0, 1000)
}

/// The quantity in whole units, rounded up.
pub fn value(q: &Quantity) -> i64 {
    scaled(&q.0, 1)
}

/// The named resource in thousandths; zero when absent.
pub fn milli_of(amounts: Option<&Amounts>, name: &str) -> i64 {
    amounts.and_then(|a| a.get(name)).map_or(0, milli)
}

/// The named resource in whole units; zero when absent.
pub fn value_of(amounts: Option<&Amounts>, name: &str) -> i64 {
    amounts.and_then(|a| a.get(name)).map_or(0, value)
}

/// `text * scale`, rounded up, saturating.
fn scaled(text: &str, scale: i128) -> i64 {
    let digits = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let Some((times, over)) = multiplier(suffix) else { return 0 };
    let fraction = &fraction[..fraction.len().min(12)];
    let Ok(mantissa) = format!("{whole}{fraction}").parse::<i128>() else { return 0 };
    let over = over * 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let Some(top) = mantissa.checked_mul(times).and_then(|n| n.checked_mul(scale)) else { return i64::MAX };
    let rounded = if top > 0 { (top + over - 1) / over } else { top / over };
    i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
}

/// A suffix as a fraction.
fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    let whole = |n: i128| Some((n, 1));
    match suffix {
        "" => whole(1),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => whole(1000),
        "M" => whole(1_000_000),
        "G" => whole(1_000_000_000),
        "T" => whole(1_000_000_000_000),
        "P" => whole(1_000_000_000_000_000),
        "E" => whole(1_000_000_000_000_000_000),
        "Ki" => whole(1 << 10),
        "Mi" => whole(1 << 20),
        "Gi" => whole(1 << 30),
        "Ti" => whole(1 << 40),
        "Pi" => whole(1 << 50),
        "Ei" => whole(1 << 60),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_become_numbers_rounded_up() {
        let cases = [
            ("100m", 100, 1),
            ("1.5", 1500, 2),
            ("64Mi", 67_108_864_000, 67_108_864),
            ("1e3", 1_000_000, 1000),
            ("0.0005", 1, 1),
            ("2k", 2_000_000, 2000),
            ("nonsense", 0, 0),
            ("0", 0, 0),
        ];
        for (text, thousandths, units) in cases {
            let q = Quantity(text.to_owned());
            assert_eq!((milli(&q), value(&q)), (thousandths, units), "{text}");
        }
    }
}
