//! Why bytes are no JSON, in the words of Go's scanner: clients show them.
//!
//! Only asked of bytes that another parser refused; it says nothing about what the bytes mean.
//! Source: `encoding/json/scanner.go`.

/// The first thing wrong with a document; `None` when it is JSON by its grammar.
pub(super) fn fault(bytes: &[u8]) -> Option<String> {
    let mut scanner = Scanner { bytes, at: 0 };
    scanner.document().err().map(|fault| match fault {
        Fault::End => "unexpected end of JSON input".to_owned(),
        Fault::Byte(byte, context) => format!("invalid character {} {context}", quoted(byte)),
    })
}

enum Fault {
    End,
    Byte(u8, String),
}

type Scanned = Result<(), Fault>;

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A byte as Go's messages show it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        0x80.. => match char::from(byte) {
            c if c.is_control() => format!("'\\u{:04x}'", u32::from(c)),
            c => format!("'{c}'"),
        },
        _ => {
            let text = crate::field::quote(&char::from(byte).to_string());
            format!("'{}'", &text[1..text.len() - 1])
        }
    }
}

impl Scanner<'_> {
    fn document(&mut self) -> Scanned {
        // What is open, the innermost last: a list instead of the call stack bounds nothing but memory.
        let mut open: Vec<u8> = Vec::new();
        let mut wants_value = true;
        loop {
            if wants_value {
                let first = self.value_begins()?;
                if matches!(first, b'{' | b'[') {
                    if self.peek()? != if first == b'{' { b'}' } else { b']' } {
                        open.push(first);
                        if first == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
            }
            let Some(bracket) = open.last().copied() else { return self.nothing_more() };
            let (closes, context) = match bracket {
                b'{' => (b'}', "after object key:value pair"),
                _ => (b']', "after array element"),
            };
            match self.peek()? {
                b',' => {
                    self.at += 1;
                    if bracket == b'{' {
                        self.key()?;
                    }
                    wants_value = true;
                }
                byte if byte == closes => {
                    self.at += 1;
                    open.pop();
                    wants_value = false;
                }
                byte => return self.wrong(byte, context),
            }
        }
    }

    fn wrong<T>(&self, byte: u8, context: &str) -> Result<T, Fault> {
        Err(Fault::Byte(byte, context.to_owned()))
    }

    /// The next byte that is no space.
    fn peek(&mut self) -> Result<u8, Fault> {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied().ok_or(Fault::End)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = self.bytes.get(self.at).copied().ok_or(Fault::End)?;
        self.at += 1;
        Ok(byte)
    }

    fn nothing_more(&mut self) -> Scanned {
        match self.peek() {
            Ok(byte) => self.wrong(byte, "after top-level value"),
            Err(_) => Ok(()),
        }
    }

    fn key(&mut self) -> Scanned {
        match self.peek()? {
            b'"' => self.string()?,
            byte => return self.wrong(byte, "looking for beginning of object key string"),
        }
        match self.peek()? {
            b':' => self.at += 1,
            byte => return self.wrong(byte, "after object key"),
        }
        Ok(())
    }

    /// Reads a scalar, or the bracket that begins a list or an object; returns its first byte.
    fn value_begins(&mut self) -> Result<u8, Fault> {
        let first = self.peek()?;
        match first {
            b'{' | b'[' => self.at += 1,
            b'"' => self.string()?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            b'-' | b'0'..=b'9' => self.number()?,
            byte => return self.wrong(byte, "looking for beginning of value"),
        }
        Ok(first)
    }

    fn literal(&mut self, word: &str) -> Scanned {
        for wanted in word.bytes() {
            let byte = self.byte()?;
            if byte != wanted {
                let context = format!("in literal {word} (expecting '{}')", char::from(wanted));
                return Err(Fault::Byte(byte, context));
            }
        }
        Ok(())
    }

    fn string(&mut self) -> Scanned {
        self.at += 1;
        loop {
            match self.byte()? {
                b'"' => return Ok(()),
                b'\\' => match self.byte()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let byte = self.byte()?;
                            if !byte.is_ascii_hexdigit() {
                                return self.wrong(byte, "in \\u hexadecimal character escape");
                            }
                        }
                    }
                    byte => return self.wrong(byte, "in string escape code"),
                },
                byte if byte < 0x20 => return self.wrong(byte, "in string literal"),
                _ => {}
            }
        }
    }

    fn number(&mut self) -> Scanned {
        if self.bytes[self.at] == b'-' {
            self.at += 1;
        }
        match self.byte()? {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            byte => return self.wrong(byte, "in numeric literal"),
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            match self.byte()? {
                byte if byte.is_ascii_digit() => self.digits(),
                byte => return self.wrong(byte, "after decimal point in numeric literal"),
            }
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            match self.byte()? {
                byte if byte.is_ascii_digit() => self.digits(),
                byte => return self.wrong(byte, "in exponent of numeric literal"),
            }
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_gos_words() {
        for (text, wanted) in [
            ("", "unexpected end of JSON input"),
            ("{\"a\"", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{a}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{} {}", "invalid character '{' after top-level value"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
            ("\u{e9}", "invalid character '\u{c3}' looking for beginning of value"),
        ] {
            assert_eq!(fault(text.as_bytes()).as_deref(), Some(wanted), "{text}");
        }
        for text in ["{}", " [1, -2.5e+3, {\"a\": [true, null]}, \"\\u00e9\\n\"] ", "0", "[[],[[]]]"] {
            assert_eq!(fault(text.as_bytes()), None, "{text}");
        }
    }
}
