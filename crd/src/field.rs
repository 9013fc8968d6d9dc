//! Field paths and field errors, as every validation in Kubernetes reports them.
//!
//! Messages are byte for byte those of upstream's `field.Error`, because users, tests and tools read them: kubectl
//! prints them, the conformance suite matches them. This module never decides whether a value is valid.

use std::borrow::{Borrow, Cow};
use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde_json::Value;

/// Where in an object a value stands: `spec.containers[0].env[name].value`.
///
/// A path is a linked list towards the root, so that building a child is one small allocation and a validation that
/// finds nothing wrong never renders text.
#[derive(Clone, Debug, Default)]
pub struct Path(Option<Arc<Segment>>);

#[derive(Debug)]
struct Segment {
    parent: Path,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Name(Cow<'static, str>),
    Index(usize),
    Key(String),
}

/// The path of the object itself, which renders as nothing.
pub const EMPTY: Path = Path(None);

/// A path of one name, the usual start: `root("spec")`. The empty name is the object itself.
pub fn root(name: impl Into<Cow<'static, str>>) -> Path {
    Path::root(name)
}

impl Path {
    /// A path of one name. The empty name is the object itself.
    pub fn root(name: impl Into<Cow<'static, str>>) -> Self {
        let name = name.into();
        if name.is_empty() { EMPTY } else { EMPTY.step(Step::Name(name)) }
    }

    /// The path of the named member.
    #[must_use]
    pub fn child(&self, name: impl Into<Cow<'static, str>>) -> Self {
        self.step(Step::Name(name.into()))
    }

    /// The path of a list item.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// The path of a map entry.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.step(Step::Key(key.into()))
    }

    /// Whether this is the path of the whole object.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_none()
    }

    fn step(&self, step: Step) -> Self {
        Self(Some(Arc::new(Segment { parent: self.clone(), step })))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chain = Vec::new();
        let mut at = self;
        while let Some(segment) = &at.0 {
            chain.push(segment);
            at = &segment.parent;
        }
        if chain.is_empty() {
            return f.write_str("<nil>");
        }
        for (depth, segment) in chain.iter().rev().enumerate() {
            match &segment.step {
                Step::Name(name) if depth == 0 => f.write_str(name)?,
                Step::Name(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => write!(f, "[{key}]")?,
            }
        }
        Ok(())
    }
}

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A value that is referred to does not exist.
    NotFound,
    /// A value is missing.
    Required,
    /// A value stands twice where values are unique.
    Duplicate,
    /// A value is malformed or out of bounds.
    Invalid,
    /// A value is not one of those allowed.
    NotSupported,
    /// A well-formed value that may not be set here.
    Forbidden,
    /// A value is longer than its bound; the message leaves it out.
    TooLong,
    /// A list has more items than its bound.
    TooMany,
    /// An error that is not the user's.
    Internal,
    /// A value has another type than its schema says.
    TypeInvalid,
}

impl Kind {
    /// The `reason` of a `StatusCause`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    /// Whether upstream's message shows the offending value.
    const fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::Internal)
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// What is wrong.
    pub kind: Kind,
    /// The rendered path.
    pub path: String,
    /// The offending value, where the message shows one.
    pub value: Option<Value>,
    /// What would be right; may be empty.
    pub detail: String,
    /// How the message shows the value, where it is not as the value is written.
    pub shown: Option<String>,
}

/// What is wrong with an object; empty means valid.
pub type ErrorList = Vec<Error>;

/// The `StatusCause` of an error.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Cause {
    /// `FieldValueInvalid` and the like.
    pub reason: &'static str,
    /// The message without the path.
    pub message: String,
    /// The path.
    pub field: String,
}

impl Error {
    fn new(kind: Kind, path: impl Borrow<Path>, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { kind, path: path.borrow().to_string(), value, detail: detail.into(), shown: None }
    }

    /// A value that is referred to does not exist.
    pub fn not_found(path: impl Borrow<Path>, value: impl Into<Value>) -> Self {
        Self::new(Kind::NotFound, path, Some(value.into()), "")
    }

    /// A value is missing.
    pub fn required(path: impl Borrow<Path>, detail: impl Into<String>) -> Self {
        Self::new(Kind::Required, path, None, detail)
    }

    /// A value stands twice.
    pub fn duplicate(path: impl Borrow<Path>, value: impl Into<Value>) -> Self {
        Self::new(Kind::Duplicate, path, Some(value.into()), "")
    }

    /// A value is malformed.
    pub fn invalid(path: impl Borrow<Path>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, path, Some(value.into()), detail)
    }

    /// A value is malformed in a way that the message tells without showing it.
    pub fn invalid_unshown(path: impl Borrow<Path>, detail: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, path, None, detail)
    }

    /// A value is malformed, and shown in a text of its own.
    pub fn invalid_shown(path: impl Borrow<Path>, shown: &str, detail: &str) -> Self {
        Self::new(Kind::Invalid, path, None, format!("{shown}: {detail}"))
    }

    /// A value has the wrong type.
    pub fn type_invalid(path: impl Borrow<Path>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(Kind::TypeInvalid, path, Some(value.into()), detail)
    }

    /// A value is not one of those allowed, which the message lists in the order given.
    pub fn not_supported<S: AsRef<str>>(
        path: impl Borrow<Path>,
        value: impl Into<Value>,
        allowed: &[S],
    ) -> Self {
        let mut detail = String::new();
        for (i, one) in allowed.iter().enumerate() {
            detail.push_str(if i == 0 { "supported values: " } else { ", " });
            detail.push_str(&quote(one.as_ref()));
        }
        Self::new(Kind::NotSupported, path, Some(value.into()), detail)
    }

    /// A value may not be set here.
    pub fn forbidden(path: impl Borrow<Path>, detail: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, path, None, detail)
    }

    /// A value is longer than `max` bytes.
    #[must_use]
    pub fn too_long(path: impl Borrow<Path>, max: usize) -> Self {
        Self::new(Kind::TooLong, path, None, format!("may not be more than {max} bytes"))
    }

    /// A list has more than `max` items.
    #[must_use]
    pub fn too_many(path: impl Borrow<Path>, actual: usize, max: usize) -> Self {
        Self::new(Kind::TooMany, path, Some(actual.into()), format!("must have at most {max} items"))
    }

    /// Something went wrong that is not the user's doing.
    pub fn internal(path: impl Borrow<Path>, detail: impl Into<String>) -> Self {
        Self::new(Kind::Internal, path, None, detail)
    }

    /// The same error, with another text for the value in its message.
    #[must_use]
    pub fn showing(self, text: String) -> Self {
        Self { shown: Some(text), ..self }
    }

    /// The message without the path.
    #[must_use]
    pub fn body(&self) -> String {
        let mut out = self.kind.text().to_owned();
        if let Some(value) = self.value.as_ref().filter(|_| self.kind.shows_value()) {
            out.push_str(": ");
            match &self.shown {
                Some(text) => out.push_str(text),
                None => out.push_str(&show(value)),
            }
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }

    /// The cause that stands in a `Status`.
    #[must_use]
    pub fn cause(&self) -> Cause {
        Cause { reason: self.kind.reason(), message: self.body(), field: self.path.clone() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

impl std::error::Error for Error {}

/// The text of a whole list as a `Status` message carries it: one error plainly, several in brackets, repeated ones
/// once.
#[must_use]
pub fn aggregate(errors: &[Error]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// A value as Go's printer shows it in messages: strings quoted, scalars plainly, the rest as JSON.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) => quote(text),
        other => json(other),
    }
}

/// A value as Go prints one: `map[a:1 b:[x y]]`.
#[must_use]
pub fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let fields: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", go_value(v))).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

/// A value as Go's encoder writes it: safe to stand in a page.
#[must_use]
pub fn json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

/// A string in Go's `%q` form.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_render_as_upstream() {
        let spec = root("spec");
        assert_eq!(spec.child("containers").index(0).child("name").to_string(), "spec.containers[0].name");
        assert_eq!(root("data").key("a b").to_string(), "data[a b]");
        assert_eq!(EMPTY.to_string(), "<nil>");
        assert_eq!(EMPTY.child("x").to_string(), "x");
    }

    #[test]
    fn messages_render_as_upstream() {
        let p = root("spec").child("x");
        let cases = [
            (Error::required(&p, ""), "spec.x: Required value"),
            (Error::required(&p, "must be set"), "spec.x: Required value: must be set"),
            (Error::invalid(&p, "a\"b", "bad"), "spec.x: Invalid value: \"a\\\"b\": bad"),
            (Error::invalid(&p, 5, "bad"), "spec.x: Invalid value: 5: bad"),
            (Error::invalid(&p, Value::Null, "bad"), "spec.x: Invalid value: null: bad"),
            (Error::invalid(&p, json!({"a": 1}), "bad"), "spec.x: Invalid value: {\"a\":1}: bad"),
            (
                Error::not_supported(&p, "a", &["b", "c"]),
                "spec.x: Unsupported value: \"a\": supported values: \"b\", \"c\"",
            ),
            (Error::forbidden(&p, "no"), "spec.x: Forbidden: no"),
            (Error::duplicate(&p, "n"), "spec.x: Duplicate value: \"n\""),
            (Error::not_found(&p, "n"), "spec.x: Not found: \"n\""),
            (Error::too_long(&p, 63), "spec.x: Too long: may not be more than 63 bytes"),
            (Error::too_many(&p, 5, 3), "spec.x: Too many: 5: must have at most 3 items"),
            (Error::internal(&p, "oops"), "spec.x: Internal error: oops"),
            (Error::invalid_unshown(&p, "bad"), "spec.x: Invalid value: bad"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn lists_aggregate_without_repeats() {
        let p = root("a");
        let one = Error::required(&p, "");
        assert_eq!(aggregate(std::slice::from_ref(&one)), "a: Required value");
        let two = [one.clone(), one, Error::forbidden(&p, "no")];
        assert_eq!(aggregate(&two), "[a: Required value, a: Forbidden: no]");
    }
}
