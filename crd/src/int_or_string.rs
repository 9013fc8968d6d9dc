//! Numbers that may be written as a name or a percentage: ports, `maxSurge`, `minAvailable`.

use std::fmt;

use serde_json::Value;

/// A whole number or a string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IntOrString {
    /// A number of 32 bits.
    Int(i32),
    /// A name or a percentage.
    String(String),
}

/// Why a value cannot be scaled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    /// A string without `%`.
    #[error("invalid value for IntOrString: invalid type: string is not a percentage")]
    NotPercent,
    /// A percentage that is no number.
    #[error("invalid value for IntOrString: invalid value {0:?}: not a number")]
    NotNumber(String),
}

/// How a share of a whole becomes a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Towards more: `maxSurge`, `minAvailable`.
    Up,
    /// Towards less: `maxUnavailable` of a Deployment.
    Down,
}

impl IntOrString {
    /// Reads a JSON number or string.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::String(text.clone())),
            Value::Number(number) => number.as_i64().and_then(|n| i32::try_from(n).ok()).map(Self::Int),
            _ => None,
        }
    }

    /// The percentage, when it is one.
    #[must_use]
    pub fn percent(&self) -> Option<i64> {
        match self {
            Self::Int(_) => None,
            Self::String(text) => text.strip_suffix('%')?.parse().ok(),
        }
    }

    /// The number itself, or the percentage of `total`.
    ///
    /// # Errors
    /// When the string is no percentage.
    pub fn scaled(&self, total: i64, round: Round) -> Result<i64, ScaleError> {
        let text = match self {
            Self::Int(number) => return Ok(i64::from(*number)),
            Self::String(text) => text,
        };
        let digits = text.strip_suffix('%').ok_or(ScaleError::NotPercent)?;
        let percent: i64 = digits.parse().map_err(|_| ScaleError::NotNumber(text.clone()))?;
        let product = i128::from(percent) * i128::from(total);
        let floor = product.div_euclid(100);
        let up = i128::from(round == Round::Up && product.rem_euclid(100) != 0);
        Ok(i64::try_from(floor + up).unwrap_or(i64::MAX))
    }
}

impl From<IntOrString> for Value {
    fn from(value: IntOrString) -> Self {
        match value {
            IntOrString::Int(number) => number.into(),
            IntOrString::String(text) => text.into(),
        }
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::String(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentages_round_both_ways() {
        let quarter = IntOrString::from_json(&json!("25%")).unwrap();
        for (total, up, down) in [(0, 0, 0), (1, 1, 0), (4, 1, 1), (5, 2, 1), (10, 3, 2)] {
            assert_eq!(quarter.scaled(total, Round::Up), Ok(up), "{total}");
            assert_eq!(quarter.scaled(total, Round::Down), Ok(down), "{total}");
        }
        assert_eq!(IntOrString::from_json(&json!(3)).unwrap().scaled(100, Round::Up), Ok(3));
    }

    #[test]
    fn what_is_no_percentage_is_refused() {
        assert_eq!(IntOrString::String("http".into()).scaled(1, Round::Up), Err(ScaleError::NotPercent));
        assert!(matches!(
            IntOrString::String("x%".into()).scaled(1, Round::Up),
            Err(ScaleError::NotNumber(_))
        ));
        assert_eq!(IntOrString::from_json(&json!(3_000_000_000i64)), None);
        assert_eq!(IntOrString::from_json(&json!([1])), None);
    }
}
