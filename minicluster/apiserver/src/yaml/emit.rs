//! YAML as upstream writes it, down to where a text is quoted, folded or written as a block.
//!
//! Source: go-yaml v2 (`encode.go`, `emitterc.go`, `sorter.go`), whose output people keep in repositories and compare.

use std::{cmp::Ordering, fmt::Write as _};

use jiff::{civil::Date, fmt::strtime};
use serde_json::{Map, Value};

/// Texts are folded at the first space behind this column.
const WIDTH: usize = 80;

/// Longer keys are written with a question mark, in bytes.
const SIMPLE_KEY_BYTES: usize = 128;

/// Writes a document.
pub(crate) fn emit(value: &Value) -> String {
    let mut emitter = Emitter { out: String::new(), column: 0 };
    match value {
        Value::Object(map) if !map.is_empty() => emitter.map(map, 0, false),
        Value::Array(items) if !items.is_empty() => emitter.list(items, 0, false),
        other => emitter.inline(other, 0),
    }
    if emitter.column > 0 {
        emitter.out.push('\n');
    }
    emitter.out
}

struct Emitter {
    out: String,
    column: usize,
}

/// How a text is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

impl Emitter {
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn put_char(&mut self, c: char) {
        self.out.push(c);
        self.column += 1;
    }

    fn line(&mut self, indent: usize) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', indent));
        self.column = indent;
    }

    /// The members of a map. `begun`: the first stands on the line that is there already.
    fn map(&mut self, map: &Map<String, Value>, indent: usize, begun: bool) {
        let mut members: Vec<(&String, &Value)> = map.iter().collect();
        members.sort_by(|a, b| natural(a.0, b.0));
        for (i, (key, value)) in members.into_iter().enumerate() {
            if i > 0 || !begun && !self.out.is_empty() {
                self.line(indent);
            }
            if key.len() > SIMPLE_KEY_BYTES {
                self.put("? ");
                self.text(key, indent + 2, false);
                self.line(indent);
                self.put(":");
            } else {
                self.text(key, indent + 2, true);
                self.put(":");
            }
            match value {
                Value::Object(map) if !map.is_empty() => self.map(map, indent + 2, false),
                // A list stands below its key, no further in.
                Value::Array(items) if !items.is_empty() => self.list(items, indent, false),
                other => {
                    self.put(" ");
                    self.inline(other, indent + 2);
                }
            }
        }
    }

    fn list(&mut self, items: &[Value], indent: usize, begun: bool) {
        for (i, item) in items.iter().enumerate() {
            if i > 0 || !begun && !self.out.is_empty() {
                self.line(indent);
            }
            self.put("- ");
            match item {
                Value::Object(map) if !map.is_empty() => self.map(map, indent + 2, true),
                Value::Array(items) if !items.is_empty() => self.list(items, indent + 2, true),
                other => self.inline(other, indent + 2),
            }
        }
    }

    /// What stands on the line of its key. `indent` is where its further lines begin.
    fn inline(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Null => self.put("null"),
            Value::Bool(truth) => self.put(if *truth { "true" } else { "false" }),
            Value::Number(number) => self.put(&number.to_string()),
            Value::String(text) => self.text(text, indent, false),
            Value::Array(_) => self.put("[]"),
            Value::Object(_) => self.put("{}"),
        }
    }

    fn text(&mut self, text: &str, indent: usize, is_key: bool) {
        match style(text, is_key) {
            Style::Plain => self.folded(text, indent, !is_key, |text, at| at + 1 < text.len()),
            Style::Single => {
                self.put("'");
                let text: Vec<char> = text.chars().collect();
                self.single(&text, indent, !is_key);
                self.put("'");
            }
            Style::Double => self.double(text, indent, !is_key),
            Style::Literal => self.literal(text, indent),
        }
    }

    /// A text with some of its single spaces turned into line breaks.
    fn folded(&mut self, text: &str, indent: usize, folds: bool, may: fn(&[char], usize) -> bool) {
        let text: Vec<char> = text.chars().collect();
        let mut after_space = false;
        for (at, c) in text.iter().copied().enumerate() {
            let alone = text.get(at + 1) != Some(&' ');
            if c == ' ' && folds && !after_space && self.column > WIDTH && alone && may(&text, at) {
                self.line(indent);
            } else {
                self.put_char(c);
            }
            after_space = c == ' ';
        }
    }

    fn single(&mut self, text: &[char], indent: usize, folds: bool) {
        let mut after_space = false;
        let mut after_break = false;
        for (at, c) in text.iter().copied().enumerate() {
            let inside = at > 0 && at + 1 < text.len() && text[at + 1] != ' ';
            match c {
                ' ' if folds && !after_space && self.column > WIDTH && inside => self.line(indent),
                '\n' => {
                    if !after_break {
                        self.out.push('\n');
                    }
                    self.out.push('\n');
                    self.column = 0;
                }
                _ => {
                    if after_break {
                        self.out.extend(std::iter::repeat_n(' ', indent));
                        self.column = indent;
                    }
                    if c == '\'' {
                        self.put_char('\'');
                    }
                    self.put_char(c);
                }
            }
            (after_space, after_break) = (c == ' ', c == '\n');
        }
    }

    fn double(&mut self, text: &str, indent: usize, folds: bool) {
        self.put("\"");
        let text: Vec<char> = text.chars().collect();
        let mut after_space = false;
        for (at, c) in text.iter().copied().enumerate() {
            let inside = at > 0 && at + 1 < text.len();
            if c == ' ' && folds && !after_space && self.column > WIDTH && inside {
                self.line(indent);
                if text[at + 1] == ' ' {
                    self.put_char('\\');
                }
            } else if is_printable(c) && !matches!(c, '\n' | '"' | '\\') && !is_break(c) {
                self.put_char(c);
            } else {
                self.put(&escaped(c));
            }
            after_space = c == ' ';
        }
        self.put("\"");
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.put("|");
        if text.starts_with([' ', '\n']) {
            self.put("2");
        }
        match text.strip_suffix('\n') {
            None => self.put("-"),
            Some(rest) if rest.is_empty() || rest.ends_with('\n') => self.put("+"),
            Some(_) => {}
        }
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            self.out.push('\n');
            self.column = 0;
            if !line.is_empty() {
                self.out.extend(std::iter::repeat_n(' ', indent));
                self.put(line);
            }
        }
        self.column = self.column.max(1);
    }
}

/// How a text is to be written so that it reads as the text it is.
fn style(text: &str, is_key: bool) -> Style {
    let shape = Shape::of(text);
    let wanted = match text.contains('\n') {
        true => Style::Literal,
        false if reads_as_text(text) => Style::Plain,
        false => Style::Double,
    };
    let fallback = if shape.quotes { Style::Single } else { Style::Double };
    match wanted {
        Style::Literal if is_key || !shape.literal => Style::Double,
        Style::Plain if !shape.plain => fallback,
        other => other,
    }
}

/// What a text's characters allow.
struct Shape {
    plain: bool,
    quotes: bool,
    literal: bool,
}

impl Shape {
    fn of(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let at = |i: usize| chars.get(i).copied();
        let blank = |c: Option<char>| c.is_none_or(|c| c == ' ' || c == '\t' || is_break(c));
        let mut indicates = text.starts_with("---") || text.starts_with("...");
        let (mut special, mut breaks, mut break_space, mut space_break) = (false, false, false, false);
        for (i, c) in chars.iter().copied().enumerate() {
            let before = i.checked_sub(1).and_then(at);
            let (after_blank, before_blank) = (i == 0 || blank(before), blank(at(i + 1)));
            indicates |= match c {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@'
                | '`'
                    if i == 0 =>
                {
                    true
                }
                '?' | '-' if i == 0 => before_blank,
                ':' => before_blank,
                '#' => after_blank,
                _ => false,
            };
            special |= !is_printable(c) && !is_break(c);
            breaks |= is_break(c);
            break_space |= c == ' ' && before.is_some_and(is_break);
            space_break |= is_break(c) && before == Some(' ');
        }
        let edge = |c: Option<&char>| c.is_some_and(|c| *c == ' ' || is_break(*c));
        let trailing_space = chars.last() == Some(&' ');
        Self {
            plain: !(indicates
                || breaks
                || special
                || space_break
                || break_space
                || edge(chars.first())
                || edge(chars.last())),
            quotes: !(break_space || space_break || special),
            literal: !(trailing_space || space_break || special),
        }
    }
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Printable by that library's lights, which end at the basic plane.
fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && c != '\u{feff}'
}

fn escaped(c: char) -> String {
    let short = match c {
        '\0' => "0",
        '\u{7}' => "a",
        '\u{8}' => "b",
        '\t' => "t",
        '\n' => "n",
        '\u{b}' => "v",
        '\u{c}' => "f",
        '\r' => "r",
        '\u{1b}' => "e",
        '"' => "\"",
        '\\' => "\\",
        '\u{85}' => "N",
        '\u{a0}' => "_",
        '\u{2028}' => "L",
        '\u{2029}' => "P",
        _ => "",
    };
    let mut out = format!("\\{short}");
    if short.is_empty() {
        // Writing to a String cannot fail.
        let _ = match u32::from(c) {
            code @ ..=0xff => write!(out, "x{code:02X}"),
            code @ ..=0xffff => write!(out, "u{code:04X}"),
            code => write!(out, "U{code:08X}"),
        };
    }
    out
}

/// True when a text without quotes would not be taken for something else.
fn reads_as_text(text: &str) -> bool {
    const WORDS: [&str; 37] = [
        "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "n", "N", "no", "No", "NO",
        "false", "False", "FALSE", "off", "Off", "OFF", "", "~", "null", "Null", "NULL", ".nan", ".NaN",
        ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf",
    ];
    if WORDS.contains(&text) || matches!(text, "-.Inf" | "-.INF") {
        return false;
    }
    match text.bytes().next() {
        Some(b'.') => text.parse::<f64>().is_err(),
        Some(b'+' | b'-' | b'0'..=b'9') => {
            !(is_time(text)
                || is_integer(&text.replace('_', ""))
                || is_float(&text.replace('_', ""))
                || is_base_60(text))
        }
        _ => true,
    }
}

/// As Go reads integers, with the prefixes of bases.
fn is_integer(text: &str) -> bool {
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_alphanumeric());
    let read = u64::from_str_radix(digits, radix);
    is_number && read.is_ok_and(|number| !negative || number <= 1 << 63)
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let exponent = exponent.map(|e| e.strip_prefix(['-', '+']).unwrap_or(e));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && (fraction.is_empty() || !mantissa.contains('.')))
        && exponent.is_none_or(|e| !e.is_empty() && digits(e))
}

/// `1:30`, which other parsers take for ninety.
fn is_base_60(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let Some((first, rest)) = text.split_once(':') else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let (rest, fraction) = rest.split_once('.').unwrap_or((rest, "0"));
    let minutes = |part: &str| {
        !part.is_empty()
            && part.len() <= 2
            && part.parse::<u8>().is_ok_and(|n| n < 60)
            && !part.starts_with('+')
    };
    digits(first)
        && first.starts_with(|c: char| c.is_ascii_digit())
        && rest.split(':').all(minutes)
        && (fraction.is_empty() || digits(fraction))
}

/// A date, or a date with a time.
fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() < 5 || !bytes[..4].iter().all(u8::is_ascii_digit) || bytes[4] != b'-' {
        return false;
    }
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at..])),
        None => (text, None),
    };
    if Date::strptime("%Y-%m-%d", date).is_err() {
        return false;
    }
    match time.map(|time| time.split_at(1)) {
        None => true,
        Some((" ", time)) => strtime::parse("%H:%M:%S%.f", time).is_ok(),
        Some((_, time)) => {
            let time = time.strip_suffix('Z').map_or_else(|| time.to_owned(), |time| format!("{time}+00:00"));
            strtime::parse("%H:%M:%S%.f%:z", &time).is_ok()
        }
    }
}

/// The order of keys: letters behind other characters, numbers within them by what they count.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let Some(at) = a.iter().zip(&b).position(|(a, b)| a != b) else { return a.len().cmp(&b.len()) };
    let (ac, bc) = (a[at], b[at]);
    let in_number = at > 0 && a[at - 1].is_numeric();
    match (ac.is_alphabetic(), bc.is_alphabetic()) {
        (true, true) => return ac.cmp(&bc),
        // Behind digits a letter ends the number, which is the smaller one then.
        (true, false) => return if in_number { Ordering::Less } else { Ordering::Greater },
        (false, true) => return if in_number { Ordering::Greater } else { Ordering::Less },
        (false, false) => {}
    }
    let number = |text: &[char]| -> (u128, usize) {
        let digits = text[at..].iter().take_while(|c| c.is_ascii_digit());
        let zeros_count = (ac == '0' || bc == '0')
            && text[..at].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
        let (mut value, mut length) = (u128::from(zeros_count), 0);
        for digit in digits {
            value = value.wrapping_mul(10).wrapping_add(u128::from(digit.to_digit(10).unwrap_or(0)));
            length += 1;
        }
        (value, length)
    };
    number(&a).cmp(&number(&b)).then(ac.cmp(&bc))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_written_as_upstream_writes_them() {
        let long = "long ".repeat(18);
        let value = json!({
            "annotations": {
                "a": "this is a rather long annotation that goes on and on and on and on and on and on until it is much \
                      longer than eighty columns wide, yes: it is",
                "b": format!("it's # here: 'quoted' and {}", long.trim_end()),
                "c": format!("tab\there and {long}long"), "d": "{\"a\": 1}", "e": "", "f": "yes", "g": "1:30", "h": "- x",
                "i": " lead", "j": "trail ", "k": "a\nb\n", "l": "a\nb", "m": "\n", "n": "a \nb", "o": "é ü",
                "p": "0x1F", "q": "1e3", "r": "2020-01-01", "s": "null", "t": "~", "u": "*a", "v": "a: b", "w": "a:b",
                "x": "a #b", "y": "@x", "z": "%x", "aa": "line one\n\n  indented\nlast\n\n", "ab": "<<", "ac": "=",
                "ad": ".", "ae": "...", "af": "---", "ag": "1_000", "ah": "+1", "ai": "-", "aj": "?", "ak": "? a",
                "al": ":",
            },
            "data": {
                "k10": "x", "k9": "y", "K1": "z", "a.b": "1", "a-b": "2", "true": "t", "12": "n",
                "multi.yaml": "a: 1\nb:\n  - c\n",
            },
            "list": [{"a": [1, []], "b": {}}, [true, null], "2020-01-02T03:04:05Z"],
        });
        let wanted = r#"annotations:
  a: 'this is a rather long annotation that goes on and on and on and on and on and
    on until it is much longer than eighty columns wide, yes: it is'
  aa: |+
    line one

      indented
    last

  ab: <<
  ac: =
  ad: .
  ae: '...'
  af: '---'
  ag: "1_000"
  ah: "+1"
  ai: '-'
  aj: '?'
  ak: '? a'
  al: ':'
  b: 'it''s # here: ''quoted'' and long long long long long long long long long long
    long long long long long long long long'
  c: "tab\there and long long long long long long long long long long long long long
    long long long long long long"
  d: '{"a": 1}'
  e: ""
  f: "yes"
  g: "1:30"
  h: '- x'
  i: ' lead'
  j: 'trail '
  k: |
    a
    b
  l: |-
    a
    b
  m: |2+

  "n": "a \nb"
  o: é ü
  p: "0x1F"
  q: "1e3"
  r: "2020-01-01"
  s: "null"
  t: "~"
  u: '*a'
  v: 'a: b'
  w: a:b
  x: 'a #b'
  "y": '@x'
  z: '%x'
data:
  "12": "n"
  K1: z
  a-b: "2"
  a.b: "1"
  k9: "y"
  k10: x
  multi.yaml: |
    a: 1
    b:
      - c
  "true": t
list:
- a:
  - 1
  - []
  b: {}
- - true
  - null
- "2020-01-02T03:04:05Z"
"#;
        assert_eq!(emit(&value), wanted);
    }

    #[test]
    fn what_is_written_reads_as_it_was() {
        for text in [
            "a\tb",
            "\u{1f600}",
            "a'b",
            "\"",
            "\\",
            "x\ny\n\n\nz",
            " \n",
            "#",
            "a#",
            "-1",
            "0b1",
            "1.",
            "é\u{85}",
        ] {
            let value = json!({"k": text, "l": [text], text: 1});
            let read: Value = serde_saphyr::from_str(&emit(&value)).unwrap();
            assert_eq!(read, value, "{}", emit(&value));
        }
    }
}
