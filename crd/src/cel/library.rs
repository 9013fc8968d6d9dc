//! The functions there are, with the types that they take and give: a table, `library.txt`.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use super::Type;

const TABLE: &str = include_str!("library.txt");

/// One way to call a function.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Overload {
    /// Whether the first argument stands before the dot.
    pub(super) method: bool,
    /// The types of the arguments, that before the dot first.
    pub(super) args: Vec<Type>,
    /// What it gives.
    pub(super) result: Type,
}

/// The ways to call a function; none if there is no such function.
pub(super) fn overloads(function: &str) -> &'static [Overload] {
    static ALL: OnceLock<BTreeMap<&str, Vec<Overload>>> = OnceLock::new();
    ALL.get_or_init(read).get(function).map_or(&[], Vec::as_slice)
}

fn read() -> BTreeMap<&'static str, Vec<Overload>> {
    let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &'static str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        (name, words.map(overload).collect())
    };
    lines.map(row).collect()
}

fn overload(text: &'static str) -> Overload {
    let mut reader = Reader { text };
    let mut args = Vec::new();
    let method = !reader.takes("(");
    if method {
        args.push(reader.ty());
        assert!(reader.takes(".("), "a method has a dot: {text}");
    }
    while !reader.takes(")") {
        args.push(reader.ty());
        reader.takes(",");
    }
    Overload { method, args, result: reader.ty() }
}

struct Reader {
    text: &'static str,
}

impl Reader {
    fn takes(&mut self, sign: &str) -> bool {
        let rest = self.text.strip_prefix(sign);
        self.text = rest.unwrap_or(self.text);
        rest.is_some()
    }

    fn inner(&mut self) -> Arc<Type> {
        assert!(self.takes("[") || self.takes(","), "a type stands in brackets: {}", self.text);
        let inner = Arc::new(self.ty());
        self.takes("]");
        inner
    }

    fn ty(&mut self) -> Type {
        let first = self.text.chars().next().expect("a type");
        self.text = &self.text[first.len_utf8()..];
        match first {
            'n' => Type::Null,
            'b' => Type::Bool,
            'i' => Type::Int,
            'u' => Type::Uint,
            'd' => Type::Double,
            's' => Type::STRING,
            'y' => Type::Bytes(None),
            'D' => Type::Duration,
            'T' => Type::Timestamp,
            '*' => Type::Dyn,
            'L' => Type::List(self.inner(), None),
            'M' => Type::Map(self.inner(), self.inner(), None),
            'O' => Type::Optional(self.inner()),
            'Y' => Type::Type(self.inner()),
            '<' => {
                let (name, rest) = self.text.split_once('>').expect("a name ends");
                self.text = rest;
                Type::Opaque(name)
            }
            open => Type::Open(open),
        }
    }
}
