//! Label selectors, from the query grammar and from the `LabelSelector` object.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::SelectorError;
use crate::field::{self, Error, Path};
use crate::name;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// `=`
    Equals,
    /// `==`
    DoubleEquals,
    /// `!=`
    NotEquals,
    /// `in`
    In,
    /// `notin`
    NotIn,
    /// The key alone.
    Exists,
    /// `!key`
    DoesNotExist,
    /// `>`
    GreaterThan,
    /// `<`
    LessThan,
}

/// One term of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// What it compares with.
    pub values: Vec<String>,
}

/// All terms must hold. No terms select everything; [`LabelSelector::nothing`] selects nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Requirement {
    /// A term that upstream would accept.
    ///
    /// # Errors
    /// The field errors of a bad key, bad values, or a wrong number of values.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, Vec<Error>> {
        let (key_path, values_path) = (field::root("key"), field::root("values"));
        let mut errors = Vec::new();
        let faults = name::qualified_name_faults(key);
        if !faults.is_empty() {
            errors.push(Error::invalid(&key_path, key, faults.join("; ")));
        }
        if let Some(wrong) = arity_fault(operator, values.len()) {
            errors.push(Error::invalid(&values_path, Value::from(values.clone()), wrong));
        }
        for (i, value) in values.iter().enumerate() {
            let path = values_path.index(i);
            if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err()
            {
                let text = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(Error::invalid(&path, value.as_str(), text));
            }
            let faults = name::label_value_faults(value);
            if !faults.is_empty() {
                errors.push(Error::invalid(&path, value.as_str(), faults.join("; ")));
            }
        }
        if errors.is_empty() { Ok(Self { key: key.to_owned(), operator, values }) } else { Err(errors) }
    }

    /// The one value that satisfies it, if there is just one.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        let names = matches!(self.operator, Operator::Equals | Operator::DoubleEquals | Operator::In);
        match &self.values[..] {
            [only] if names => Some(only),
            _ => None,
        }
    }

    /// Whether the value of its key, or the absence of one, satisfies it.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|one| one == v);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let number = |v: &str| v.parse::<i64>().ok();
                let bound = self.values.first().and_then(|v| number(v));
                let (Some(value), Some(bound)) = (value.and_then(number), bound) else { return false };
                if self.operator == Operator::GreaterThan { value > bound } else { value < bound }
            }
        }
    }
}

fn arity_fault(operator: Operator, count: usize) -> Option<&'static str> {
    match operator {
        Operator::In | Operator::NotIn => {
            (count == 0).then_some("for 'in', 'notin' operators, values set can't be empty")
        }
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals => {
            (count != 1).then_some("exact-match compatibility requires one single value")
        }
        Operator::Exists | Operator::DoesNotExist => {
            (count != 0).then_some("values set must be empty for exists and does not exist")
        }
        Operator::GreaterThan | Operator::LessThan => {
            (count != 1).then_some("for 'Gt', 'Lt' operators, exactly one value is required")
        }
    }
}

impl LabelSelector {
    /// Selects everything.
    #[must_use]
    pub const fn everything() -> Self {
        Self { requirements: Vec::new(), nothing: false }
    }

    /// Selects nothing: what an absent `LabelSelector` object means.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Selects objects that carry all the given labels.
    #[must_use]
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let equal = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Self { requirements: labels.iter().map(equal).collect(), nothing: false }
    }

    /// A selector of the given terms, in the order of their keys.
    #[must_use]
    pub fn from_requirements(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Parses the text of a query parameter: `a=b,c!=d,e in (f,g),!h,i`.
    ///
    /// # Errors
    /// When the text is not of the grammar, or a key or value is no label's.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self::from_requirements(Parser::new(text)?.selector()?))
    }

    /// Reads a map of labels, such as a Service's `spec.selector`. Null and absent select nothing, empty everything.
    #[must_use]
    pub fn from_map_value(value: Option<&Value>) -> Self {
        let Some(Value::Object(map)) = value else { return Self::nothing() };
        let equal = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        };
        Self { requirements: map.iter().map(equal).collect(), nothing: false }
    }

    /// Reads a `LabelSelector` object. Absent or null selects nothing, `{}` everything.
    ///
    /// # Errors
    /// When an operator is unknown or a term has the wrong number of values.
    pub fn from_json(value: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(Value::Object(object)) = value else { return Ok(Self::nothing()) };
        let mut requirements = Self::from_map_value(object.get("matchLabels")).requirements;
        for term in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = match term.get("operator").and_then(Value::as_str).unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!(
                        "{} is not a valid label selector operator",
                        field::quote(other)
                    )));
                }
            };
            let strings = term.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = strings.map(|v| v.as_str().unwrap_or_default().to_owned()).collect();
            let key = term.get("key").and_then(Value::as_str).unwrap_or_default();
            let term = Requirement::new(key, operator, values);
            requirements.push(term.map_err(|errors| SelectorError(field::aggregate(&errors)))?);
        }
        Ok(Self::from_requirements(requirements))
    }

    /// Its terms, in the order of their keys.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether it selects nothing whatever the labels.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// Whether the labels satisfy all terms.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_by(|key| labels.get(key).map(String::as_str))
    }

    /// Whether the labels of a JSON object (`metadata.labels`) satisfy all terms.
    #[must_use]
    pub fn matches_value(&self, labels: Option<&Value>) -> bool {
        self.matches_by(|key| labels?.get(key)?.as_str())
    }

    /// Whether the labels that `lookup` finds satisfy all terms.
    pub fn matches_by<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.holds(lookup(&r.key)))
    }
}

/// Checks a `LabelSelector` object where it stands in a spec.
#[must_use]
pub fn validate(value: &Value, path: &Path) -> Vec<Error> {
    let mut errors = Vec::new();
    for (key, label) in value.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        let at = path.child("matchLabels");
        errors.extend(
            name::qualified_name_faults(key).into_iter().map(|f| Error::invalid(&at, key.as_str(), f)),
        );
        let text = label.as_str().unwrap_or_default();
        errors.extend(name::label_value_faults(text).into_iter().map(|f| Error::invalid(&at, text, f)));
    }
    for (i, term) in value.get("matchExpressions").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        validate_expression(term, &path.child("matchExpressions").index(i), &mut errors);
    }
    errors
}

fn validate_expression(term: &Value, path: &Path, errors: &mut Vec<Error>) {
    let text = |name: &str| term.get(name).and_then(Value::as_str).unwrap_or_default();
    let values = term.get("values").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    match text("operator") {
        "In" | "NotIn" if values.is_empty() => errors.push(Error::required(
            path.child("values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(Error::forbidden(
            path.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            errors.push(Error::invalid(path.child("operator"), other, "not a valid selector operator"));
        }
    }
    let key = text("key");
    errors.extend(
        name::qualified_name_faults(key).into_iter().map(|f| Error::invalid(path.child("key"), key, f)),
    );
    for (i, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        let at = path.child("values").index(i);
        errors.extend(name::label_value_faults(value).into_iter().map(|f| Error::invalid(&at, value, f)));
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.clone();
        values.sort();
        let set = matches!(self.operator, Operator::In | Operator::NotIn);
        let values = match values.as_slice() {
            // The empty value alone: `()` would be no value at all.
            [only] if set && only.is_empty() => ",".to_owned(),
            _ => values.join(","),
        };
        let key = &self.key;
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// A piece of the query grammar. Words are keys, values and the two word operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    End,
}

impl<'a> Token<'a> {
    const fn text(self) -> &'a str {
        match self {
            Self::Word(text) | Self::Symbol(text) => text,
            Self::End => "",
        }
    }
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, SelectorError> {
        let special = |c: char| "=!(),<>".contains(c);
        let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
        let (mut tokens, mut rest) = (Vec::new(), text);
        loop {
            rest = rest.trim_start_matches(blank);
            let Some(first) = rest.chars().next() else { break };
            let length = if special(first) {
                ["==", "!="].into_iter().find(|two| rest.starts_with(two)).map_or(1, str::len)
            } else {
                rest.find(|c| special(c) || blank(c)).unwrap_or(rest.len())
            };
            let (token, tail) = rest.split_at(length);
            tokens.push(if special(first) { Token::Symbol(token) } else { Token::Word(token) });
            rest = tail;
        }
        tokens.push(Token::End);
        Ok(Self { tokens, at: 0 })
    }

    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Symbol("!") => {
                    let one = self.requirement();
                    requirements
                        .push(one.map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?);
                }
                other => return Err(found(other, "!, identifier, or 'end of string'")),
            }
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") => match self.peek() {
                    Token::Word(_) | Token::Symbol("!") => {}
                    other => return Err(found(other, "identifier after ','")),
                },
                other => return Err(found(other, "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = self.peek() == Token::Symbol("!");
        if negated {
            self.at += 1;
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(found(other, "identifier")),
        };
        if negated {
            return make(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return make(key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.list()?,
            _ => vec![self.value()?],
        };
        make(key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        Ok(match self.next() {
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            other => return Err(found(other, "in, notin, =, ==, !=, gt, lt")),
        })
    }

    /// One value, which may be empty and may be a word that is an operator elsewhere.
    fn value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(word) => {
                self.at += 1;
                Ok(word.to_owned())
            }
            other @ Token::Symbol(_) => Err(found(other, "identifier")),
        }
    }

    fn list(&mut self) -> Result<Vec<String>, SelectorError> {
        if self.next() != Token::Symbol("(") {
            self.at -= 1;
            return Err(SelectorError(format!("found '{}' expected: '('", self.peek().text())));
        }
        let mut values = Vec::new();
        let mut expect_value = true;
        loop {
            match self.next() {
                Token::Word(word) if expect_value => {
                    values.push(word.to_owned());
                    expect_value = false;
                }
                Token::Symbol(",") => {
                    if expect_value {
                        values.push(String::new());
                    }
                    expect_value = true;
                }
                Token::Symbol(")") => {
                    if expect_value && !values.is_empty() {
                        values.push(String::new());
                    }
                    values.sort();
                    values.dedup();
                    return Ok(values);
                }
                other => return Err(found(other, "',', or ')'")),
            }
        }
    }
}

fn make(key: &str, operator: Operator, values: Vec<String>) -> Result<Requirement, SelectorError> {
    // The parser looks at the key before it knows where it stands.
    let faults = name::qualified_name_faults(key);
    if !faults.is_empty() {
        return Err(SelectorError(Error::invalid(field::EMPTY, key, faults.join("; ")).to_string()));
    }
    Requirement::new(key, operator, values).map_err(|errors| SelectorError(field::aggregate(&errors)))
}

fn found(token: Token<'_>, expected: &str) -> SelectorError {
    SelectorError(format!("found '{}', expected: {expected}", token.text()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_grammar_parses_and_prints_by_key() {
        for (text, printed) in [
            ("", ""),
            ("a=b", "a=b"),
            ("a==b", "a==b"),
            (" b != c , a ", "a,b!=c"),
            ("x in (b,a , c)", "x in (a,b,c)"),
            ("x notin (a)", "x notin (a)"),
            ("!x,y", "!x,y"),
            ("x=", "x="),
            ("x=,z=y", "x=,z=y"),
            ("x in (,a)", "x in (,a)"),
            ("in in (in)", "in in (in)"),
            ("x>1,y<2", "x>1,y<2"),
            ("x=in", "x=in"),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn bad_texts_are_refused() {
        let text = |s: &str| LabelSelector::parse(s).unwrap_err().to_string();
        assert_eq!(text("a,"), "found '', expected: identifier after ','");
        assert_eq!(text("=a"), "found '=', expected: !, identifier, or 'end of string'");
        assert_eq!(text("x in a"), "unable to parse requirement: found 'a' expected: '('");
        assert_eq!(text("a=b c"), "found 'c', expected: ',' or 'end of string'");
        assert_eq!(
            text("a x"),
            "unable to parse requirement: found 'x', expected: in, notin, =, ==, !=, gt, lt"
        );
        assert!(text("x in ()").contains("values set can't be empty"));
        assert!(
            text("a=b/c")
                .starts_with("unable to parse requirement: values[0]: Invalid value: \"b/c\": a valid label")
        );
        assert!(text("x>a").contains("the value must be an integer"));
    }

    #[test]
    fn matching_is_upstreams() {
        let set = labels(&[("app", "web"), ("n", "5")]);
        for (text, holds) in [
            ("", true),
            ("app=web", true),
            ("app!=web", false),
            ("other!=web", true),
            ("other notin (web)", true),
            ("app in (web,db)", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("app>1", false),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&set), holds, "{text}");
        }
    }

    #[test]
    fn objects_select_as_their_terms() {
        assert!(LabelSelector::from_json(None).unwrap().is_nothing());
        assert!(LabelSelector::from_json(Some(&json!({}))).unwrap().is_empty());
        let selector = LabelSelector::from_json(Some(&json!({
            "matchLabels": {"b": "1"},
            "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "Exists"}]
        })));
        assert_eq!(selector.unwrap().to_string(), "a in (x,y),b=1,c");
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
        assert_eq!(
            LabelSelector::from_json(Some(&bad)).unwrap_err().to_string(),
            "\"Is\" is not a valid label selector operator"
        );
        assert_eq!(validate(&bad, &field::root("spec").child("selector")).len(), 1);
    }

    proptest! {
        #[test]
        fn printed_selectors_parse_to_themselves(text in "[a-c=!(), in]{0,24}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap().to_string(), selector.to_string());
            }
        }
    }
}
