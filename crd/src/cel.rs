//! The Common Expression Language as the API server's users write it: parsed, type-checked and estimated.
//!
//! [`parse`] reads an expression, [`check`] holds it to the types of its variables, [`cost::estimate`] says how much it
//! may cost at most. All three tell what is wrong in cel-go's words, at its positions. Nothing is evaluated here.
//! Source: `github.com/google/cel-go` (`parser`, `checker`, `common/stdlib`, `ext`), `k8s.io/apiserver/pkg/cel/library`.

pub mod cost;

mod check;
mod lex;
mod library;
mod parse;
#[cfg(test)]
mod tests;
mod types;

pub use check::{Env, check};
pub use parse::parse;
pub use types::{Fields, Type, escape, of_schema};

/// Words that are values.
const CONSTANTS: [&str; 3] = ["true", "false", "null"];

/// Words of the grammar, and of languages that it is like.
const GRAMMAR: [&str; 15] = [
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
];

/// Words kept for later.
const KEPT: [&str; 3] = ["var", "void", "while"];

/// Whether a word can name nothing that a user defines.
#[must_use]
pub fn is_reserved(word: &str) -> bool {
    CONSTANTS.contains(&word) || GRAMMAR.contains(&word) || KEPT.contains(&word)
}

/// Where something stands in an expression: a byte offset.
pub type At = usize;

/// A part of an expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where cel-go says it stands: operators at their sign, calls at their parenthesis.
    pub at: At,
    /// What it is.
    pub expr: Expr,
}

/// What a part of an expression is. Macros are kept as such.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// `null`, `true`, `1`, `1u`, `1.0`, `"a"`, `b"a"`.
    Literal(Literal),
    /// A name, with its dots if it could be one of those that have some.
    Ident(String),
    /// `a.b`; with `optional`, `a.?b`.
    Select {
        /// What is looked into.
        operand: Box<Node>,
        /// The field.
        field: String,
        /// Whether the field may be missing.
        optional: bool,
    },
    /// `has(a.b)`.
    Has {
        /// What is looked into.
        operand: Box<Node>,
        /// The field.
        field: String,
    },
    /// A function or operator, under cel-go's name for it.
    Call {
        /// Its name.
        function: String,
        /// What it is called on, if it is a method.
        target: Option<Box<Node>>,
        /// The arguments.
        args: Vec<Node>,
    },
    /// `[a, b]`; those marked may be missing.
    List(Vec<(Node, bool)>),
    /// `{a: b}`; those marked may be missing.
    Map(Vec<(Node, Node, bool)>),
    /// `T{a: b}`; those marked may be missing.
    Struct(String, Vec<(String, Node, bool)>),
    /// A macro that loops.
    Loop(Box<Loop>),
}

/// A macro that loops: `range.all(x, body)`, `range.map(x, filter, body)` and so on.
#[derive(Clone, Debug, PartialEq)]
pub struct Loop {
    /// Which macro.
    pub kind: LoopKind,
    /// What is looped over.
    pub range: Node,
    /// The variables: the item, or index (key) and item.
    pub vars: Vec<String>,
    /// Which items count; for `map` and its like alone.
    pub filter: Option<Node>,
    /// What is done with each item.
    pub body: Node,
}

/// The macros that loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopKind {
    /// True for all.
    All,
    /// True for some.
    Exists,
    /// True for exactly one.
    ExistsOne,
    /// A list of what is made of each.
    Map,
    /// A list of those for which it is true.
    Filter,
    /// A list of what is made of each pair.
    TransformList,
    /// A map with other values.
    TransformMap,
    /// A map of other entries.
    TransformMapEntry,
    /// What is made of a value, if there is one.
    OptMap,
    /// The same, where what is made may be missing, too.
    OptFlatMap,
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `null`.
    Null,
    /// `true`.
    Bool(bool),
    /// `1`.
    Int(i64),
    /// `1u`.
    Uint(u64),
    /// `1.5`.
    Double(f64),
    /// `"a"`.
    String(String),
    /// `b"a"`.
    Bytes(Vec<u8>),
}

impl Node {
    /// Whether it names this variable anywhere.
    #[must_use]
    pub fn mentions(&self, name: &str) -> bool {
        let names = |node: &Self| node.mentions(name);
        match &self.expr {
            Expr::Literal(_) => false,
            Expr::Ident(known) => known == name,
            Expr::Select { operand, .. } | Expr::Has { operand, .. } => operand.mentions(name),
            Expr::Call { target, args, .. } => target.iter().map(|t| &**t).chain(args).any(names),
            Expr::List(items) => items.iter().map(|(item, _)| item).any(names),
            Expr::Map(entries) => entries.iter().flat_map(|(key, value, _)| [key, value]).any(names),
            Expr::Struct(_, fields) => fields.iter().map(|(_, value, _)| value).any(names),
            Expr::Loop(looped) => {
                let parts = [&looped.range, &looped.body];
                parts.into_iter().chain(&looped.filter).any(names)
            }
        }
    }
}

/// Something wrong at a place of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Where.
    pub at: At,
    /// What.
    pub message: String,
}

/// All that is wrong, as cel-go shows it: each with the line that it is in.
#[must_use]
pub fn shown(source: &str, issues: &[Issue]) -> String {
    let told = issues.iter().map(|issue| {
        let at = source.floor_char_boundary(issue.at.min(source.len()));
        let line = source[..at].matches('\n').count();
        let start = source[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let column = source[start..at].chars().count();
        let text = source.lines().nth(line).unwrap_or("");
        format!(
            "ERROR: <input>:{}:{}: {}\n | {text}\n | {}^",
            line + 1,
            column + 1,
            issue.message,
            ".".repeat(column)
        )
    });
    told.collect::<Vec<_>>().join("\n")
}
