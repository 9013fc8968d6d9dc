//! Field selectors: `metadata.name=web,status.phase!=Running`.
//!
//! Only equality; which fields a kind offers is its strategy's matter. Grammar as upstream's
//! `fields.ParseSelector`: `\` escapes `,`, `=` and itself in a value.

use std::fmt;

use super::SelectorError;

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldRequirement {
    /// The field's path, `spec.nodeName`.
    pub field: String,
    /// The value compared with.
    pub value: String,
    /// Whether the term holds when the values are equal (`=`, `==`) or when they differ (`!=`).
    pub equal: bool,
}

/// All terms must hold; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldRequirement>);

impl FieldSelector {
    /// A selector that selects everything.
    #[must_use]
    pub const fn everything() -> Self {
        Self(Vec::new())
    }

    /// A selector of one equality.
    pub fn equals(field: impl Into<String>, value: impl Into<String>) -> Self {
        Self(vec![FieldRequirement { field: field.into(), value: value.into(), equal: true }])
    }

    /// Parses the text of a query parameter.
    ///
    /// # Errors
    /// When a term has no operator, or a value holds a bad escape.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split_terms(text).into_iter().filter(|part| !part.is_empty()) {
            let (field, operator, value) = split_term(part).ok_or_else(|| {
                SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'"))
            })?;
            let value = unescape(value)?;
            if field.is_empty() && value.is_empty() {
                // Nothing is to be nothing: that holds of all.
                continue;
            }
            terms.push(FieldRequirement { field: field.to_owned(), value, equal: operator != "!=" });
        }
        Ok(Self(terms))
    }

    /// Its terms.
    #[must_use]
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.0
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that a field must have, when the selector demands one.
    #[must_use]
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }

    /// Whether the fields found by `lookup` satisfy all terms. An absent field counts as empty, as upstream.
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| (lookup(&r.field).unwrap_or("") == r.value) == r.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let operator = if term.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            terms.push(&text[start..at]);
            start = at + 1;
        }
    }
    terms.push(&text[start..]);
    terms
}

/// The first operator divides a term, the longer ones first.
fn split_term(term: &str) -> Option<(&str, &str, &str)> {
    (0..term.len()).filter(|at| term.is_char_boundary(*at)).find_map(|at| {
        let rest = &term[at..];
        let operator = ["!=", "==", "="].into_iter().find(|op| rest.starts_with(op))?;
        Some((&term[..at], operator, &rest[operator.len()..]))
    })
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                Some(next) => {
                    let message = format!("invalid field selector: invalid escape sequence: \\{next}");
                    return Err(SelectorError(message));
                }
                None => {
                    return Err(SelectorError("invalid field selector: invalid escape sequence: \\".into()));
                }
            },
            ',' | '=' => {
                let message = format!("invalid field selector: unescaped character in value: {value}: {c}");
                return Err(SelectorError(message));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for (text, printed) in [
            ("", ""),
            ("a=b", "a=b"),
            ("a==b,c!=d", "a=b,c!=d"),
            ("a=b\\,c\\=d\\\\", "a=b\\,c\\=d\\\\"),
            ("a=,b!=", "a=,b!="),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn refuses_with_upstreams_text() {
        let text = |s: &str| FieldSelector::parse(s).unwrap_err().to_string();
        assert_eq!(text("a=b,c"), "invalid selector: 'a=b,c'; can't understand 'c'");
        assert_eq!(text("a=b=c"), "invalid field selector: unescaped character in value: b=c: =");
        assert_eq!(text("a=\\x"), "invalid field selector: invalid escape sequence: \\x");
    }

    #[test]
    fn absent_fields_are_empty() {
        let selector = FieldSelector::parse("spec.nodeName=,status.phase!=Running").unwrap();
        assert!(selector.matches(|_| None));
        assert!(!selector.matches(|f| (f == "spec.nodeName").then_some("n1")));
        assert!(!selector.matches(|f| (f == "status.phase").then_some("Running")));
        assert_eq!(FieldSelector::parse("metadata.name=x").unwrap().exact("metadata.name"), Some("x"));
    }
}
