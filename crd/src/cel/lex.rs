//! Tokens.

use super::{At, Issue, Literal};

/// A token and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) at: At,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A name; `quoted`: between backticks, for fields alone.
    Ident {
        text: String,
        quoted: bool,
    },
    Literal(Literal),
    /// An operator or a sign.
    Sign(&'static str),
    End,
}

/// Longer ones first.
const SIGNS: [&str; 28] = [
    "==", "!=", "<=", ">=", "&&", "||", "?", ":", "<", ">", "+", "-", "*", "/", "%", "!", "(", ")", "[", "]",
    "{", "}", ",", ".", "in", "\0", "\0", "\0",
];

/// Splits an expression.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, Issue> {
    let mut lexer = Lexer { source, at: 0 };
    let mut all = Vec::new();
    loop {
        let token = lexer.next()?;
        let ended = token.kind == Kind::End;
        all.push(token);
        if ended {
            return Ok(all);
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    at: At,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn skip_space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn next(&mut self) -> Result<Token, Issue> {
        self.skip_space();
        let at = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token { at, kind: Kind::End }) };
        if let Some(kind) = self.string(rest)? {
            return Ok(Token { at, kind });
        }
        let is_number =
            first.is_ascii_digit() || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()));
        let kind = if is_number {
            self.number(rest)?
        } else if first == '_' || first.is_ascii_alphabetic() {
            let end = rest.find(|c: char| !(c == '_' || c.is_ascii_alphanumeric())).unwrap_or(rest.len());
            self.at += end;
            match &rest[..end] {
                "in" => Kind::Sign("in"),
                "true" => Kind::Literal(Literal::Bool(true)),
                "false" => Kind::Literal(Literal::Bool(false)),
                "null" => Kind::Literal(Literal::Null),
                name => Kind::Ident { text: name.to_owned(), quoted: false },
            }
        } else if first == '`' {
            let end = rest[1..].find('`').ok_or_else(|| self.error(at, rest))?;
            self.at += end + 2;
            Kind::Ident { text: rest[1..=end].to_owned(), quoted: true }
        } else {
            let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
            let sign = sign.ok_or_else(|| self.error(at, &rest[..first.len_utf8()]))?;
            self.at += sign.len();
            Kind::Sign(sign)
        };
        Ok(Token { at, kind })
    }

    fn error(&self, at: At, text: &str) -> Issue {
        Issue { at, message: format!("Syntax error: token recognition error at: '{text}'") }
    }

    fn number(&mut self, rest: &str) -> Result<Kind, Issue> {
        let at = self.at;
        let fault = |what: &str| Issue { at, message: format!("invalid {what} literal") };
        if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
            let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            self.at += 2 + end;
            let digits = &hex[..end];
            if hex[end..].starts_with(['u', 'U']) {
                self.at += 1;
                let value = u64::from_str_radix(digits, 16).map_err(|_| fault("uint"))?;
                return Ok(Kind::Literal(Literal::Uint(value)));
            }
            let value = i64::from_str_radix(digits, 16).map_err(|_| fault("int"))?;
            return Ok(Kind::Literal(Literal::Int(value)));
        }
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let mut end = digits(rest);
        let mut is_double = false;
        if rest[end..].starts_with('.') && rest[end + 1..].starts_with(|c: char| c.is_ascii_digit()) {
            is_double = true;
            end += 1 + digits(&rest[end + 1..]);
        }
        if rest[end..].starts_with(['e', 'E']) {
            let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
            let exponent = digits(&rest[end + 1 + sign..]);
            if exponent > 0 {
                is_double = true;
                end += 1 + sign + exponent;
            }
        }
        let text = &rest[..end];
        self.at += end;
        if is_double {
            return Ok(Kind::Literal(Literal::Double(text.parse().map_err(|_| fault("double"))?)));
        }
        if rest[end..].starts_with(['u', 'U']) {
            self.at += 1;
            return Ok(Kind::Literal(Literal::Uint(text.parse().map_err(|_| fault("uint"))?)));
        }
        // The smallest number is written with a minus that is not part of it.
        let value = match text.parse::<i64>() {
            Ok(value) => value,
            Err(_) if text.trim_start_matches('0') == "9223372036854775808" => i64::MIN,
            Err(_) => return Err(fault("int")),
        };
        Ok(Kind::Literal(Literal::Int(value)))
    }

    /// A string or bytes, if one begins here.
    fn string(&mut self, rest: &str) -> Result<Option<Kind>, Issue> {
        let at = self.at;
        let quote = rest.find(['"', '\'']);
        let Some(quote) = quote.filter(|q| *q <= 2) else { return Ok(None) };
        let prefix = rest[..quote].to_ascii_lowercase();
        if !matches!(prefix.as_str(), "" | "r" | "b" | "rb" | "br") {
            return Ok(None);
        }
        let (raw, bytes) = (prefix.contains('r'), prefix.contains('b'));
        let mark = &rest[quote..=quote];
        let triple = mark.repeat(3);
        let close = if rest[quote..].starts_with(&triple) { triple.as_str() } else { mark };
        let body = &rest[quote + close.len()..];
        let mut out = Vec::new();
        let mut chars = body.char_indices();
        while let Some((i, c)) = chars.next() {
            if body[i..].starts_with(close) {
                self.at += quote + close.len() + i + close.len();
                let literal = match bytes {
                    true => Literal::Bytes(out),
                    false => Literal::String(String::from_utf8_lossy(&out).into_owned()),
                };
                return Ok(Some(Kind::Literal(literal)));
            }
            if c == '\n' && close.len() == 1 {
                break;
            }
            if c == '\\' && !raw {
                let used = escaped(&body[i + 1..], bytes, &mut out)
                    .ok_or_else(|| self.error(at, &rest[..quote + close.len() + i + 1]))?;
                for _ in 0..body[i + 1..i + 1 + used].chars().count() {
                    chars.next();
                }
                continue;
            }
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Err(self.error(at, rest.lines().next().unwrap_or("")))
    }
}

/// Reads what follows a backslash; returns how many bytes of the source it is.
fn escaped(text: &str, bytes: bool, out: &mut Vec<u8>) -> Option<usize> {
    let first = text.chars().next()?;
    let plain = match first {
        'a' => Some(7),
        'b' => Some(8),
        'f' => Some(12),
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        'v' => Some(11),
        '\\' | '\'' | '"' | '?' | '`' => Some(first as u8),
        _ => None,
    };
    if let Some(byte) = plain {
        out.push(byte);
        return Some(1);
    }
    let (digits, length, radix) = match first {
        'x' | 'X' => (text.get(1..3)?, 3, 16),
        'u' => (text.get(1..5)?, 5, 16),
        'U' => (text.get(1..9)?, 9, 16),
        '0'..='3' => (text.get(0..3)?, 3, 8),
        _ => return None,
    };
    let value = u32::from_str_radix(digits, radix).ok()?;
    if bytes {
        out.push(u8::try_from(value).ok()?);
    } else {
        out.extend_from_slice(char::from_u32(value)?.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(length)
}
