//! Places in a file of Rust where something is to be inserted. Pure: a file is parsed, and offsets come out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use syn::{
    Expr, ExprMethodCall, File, Item, ItemFn, Lit, ReturnType, Stmt, Type, UseTree, Visibility,
    spanned::Spanned,
    visit::{self, Visit},
};

/// Text that is to be inserted before a byte of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Insertion {
    pub(super) at: usize,
    pub(super) text: String,
}

/// A text with all insertions made; those at one place stand in the order in which they were given.
pub(super) fn apply(text: &str, mut insertions: Vec<Insertion>) -> String {
    insertions.sort_by_key(|insertion| insertion.at);
    let (mut out, mut from) = (String::new(), 0);
    for Insertion { at, text: new } in insertions {
        out.push_str(&text[from..at]);
        out.push_str(&new);
        from = at;
    }
    out + &text[from..]
}

/// A file of Rust.
pub(super) struct Source {
    /// Below the project's folder.
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) file: File,
}

impl Source {
    pub(super) fn read(dir: &Path, path: &Path) -> anyhow::Result<Self> {
        let below = path.strip_prefix(dir).unwrap_or(path).to_owned();
        let text = fs::read_to_string(path).with_context(|| below.display().to_string())?;
        Self::parse(below, text)
    }

    fn parse(path: PathBuf, text: String) -> anyhow::Result<Self> {
        let parsed = syn::parse_file(&text);
        let file = parsed.map_err(|error| {
            let at = error.span().start();
            anyhow::anyhow!("{}:{}:{}: {error}", path.display(), at.line, at.column + 1)
        })?;
        Ok(Self { path, text, file })
    }

    /// Whether a name is public here: used again, or declared.
    pub(super) fn shows(&self, name: &str) -> bool {
        self.file.items.iter().any(|item| match item {
            Item::Use(item) => is_public(&item.vis) && names(&item.tree).iter().any(|known| known == name),
            Item::Struct(item) => is_public(&item.vis) && item.ident == name,
            _ => false,
        })
    }

    /// Whether a name is used here.
    pub(super) fn uses(&self, name: &str) -> bool {
        let uses = self.file.items.iter().filter_map(|item| match item {
            Item::Use(item) => Some(&item.tree),
            _ => None,
        });
        uses.flat_map(names).any(|known| known == name)
    }

    /// The place of one more module: after the last, or before everything else.
    pub(super) fn module(&self, line: &str) -> Insertion {
        let is_module = |item: &&Item| matches!(item, Item::Mod(module) if module.content.is_none());
        match self.file.items.iter().rfind(is_module) {
            Some(last) => Insertion { at: self.behind(last), text: format!("\n{line}") },
            None => Insertion { at: self.first(), text: format!("{line}\n\n") },
        }
    }

    /// The place of one more `pub use`: after the last, or after the modules.
    pub(super) fn export(&self, line: &str) -> Option<Insertion> {
        let is_export = |item: &&Item| matches!(item, Item::Use(item) if is_public(&item.vis));
        let is_module = |item: &&Item| matches!(item, Item::Mod(module) if module.content.is_none());
        let items = &self.file.items;
        if let Some(last) = items.iter().rfind(is_export) {
            return Some(Insertion { at: self.behind(last), text: format!("\n{line}") });
        }
        let text = format!("\n\n{line}");
        Some(match items.iter().rfind(is_module) {
            Some(last) => Insertion { at: self.behind(last), text },
            None => Insertion { at: self.first(), text: format!("{line}\n\n") },
        })
    }

    /// The place in the operator's chain after which kinds are registered.
    pub(super) fn after_kinds(&self, call: &str) -> Option<Insertion> {
        let (new, calls) = self.operator()?;
        let is_kind = |call: &&&ExprMethodCall| call.method == "crd" || call.method == "definition";
        // Calls come outermost first: the first of them is the last in the text.
        let at = calls.iter().find(is_kind).map_or_else(|| self.behind(new), |call| self.behind(*call));
        Some(self.call(at, call))
    }

    /// The end of the operator's chain.
    pub(super) fn after_parts(&self, call: &str) -> Option<Insertion> {
        let (new, calls) = self.operator()?;
        let at = calls.first().map_or_else(|| self.behind(new), |call| self.behind(*call));
        Some(self.call(at, call))
    }

    /// The name that the operator is given as a text.
    pub(super) fn operator_name(&self) -> Option<String> {
        let (Expr::Call(new), _) = self.operator()? else { return None };
        match new.args.first()? {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        }
    }

    /// What the function that gives the operator ends in: `Operator::new(...)`, and the calls on it, outermost first.
    fn operator(&self) -> Option<(&Expr, Vec<&ExprMethodCall>)> {
        let gives = |item: &ItemFn| match &item.sig.output {
            ReturnType::Type(_, ty) => matches!(&**ty, Type::Path(ty)
                if ty.path.segments.last().is_some_and(|last| last.ident == "Operator")),
            ReturnType::Default => false,
        };
        let functions = self.file.items.iter().filter_map(|item| match item {
            Item::Fn(item) if gives(item) => Some(item),
            _ => None,
        });
        let functions: Vec<&ItemFn> = functions.collect();
        let named = functions.iter().find(|item| item.sig.ident == "operator");
        let function = match (named, functions.as_slice()) {
            (Some(named), _) => named,
            (None, [only]) => only,
            _ => return None,
        };
        let Some(Stmt::Expr(last, None)) = function.block.stmts.last() else { return None };
        let (new, calls) = chain(last);
        is_new(new, "Operator").then_some((new, calls))
    }

    /// The ends of every `Webhooks::new(...)` with the calls on it.
    pub(super) fn webhooks(&self) -> Vec<usize> {
        let mut finder = Servers(Vec::new());
        finder.visit_file(&self.file);
        finder.0
    }

    /// One more call of a chain: on a line of its own, where what it follows ends one.
    pub(super) fn call(&self, at: usize, call: &str) -> Insertion {
        if !self.text[at..].starts_with('\n') {
            return Insertion { at, text: call.to_owned() };
        }
        let line = self.text[..at].lines().next_back().unwrap_or_default();
        let indent = &line[..line.len() - line.trim_start().len()];
        Insertion { at, text: format!("\n{indent}{call}") }
    }

    /// Where a node ends, and the comment behind it on its line.
    fn behind(&self, node: &impl Spanned) -> usize {
        let at = end(node);
        let line = self.text[at..].lines().next().unwrap_or_default();
        if line.trim_start().starts_with("//") { at + line.len() } else { at }
    }

    /// Where the first item begins.
    fn first(&self) -> usize {
        self.file.items.first().map_or(self.text.len(), |item| item.span().byte_range().start)
    }
}

/// Looks for servers of webhooks.
struct Servers(Vec<usize>);

impl<'ast> Visit<'ast> for Servers {
    fn visit_expr(&mut self, expr: &'ast Expr) {
        if is_new(chain(expr).0, "Webhooks") {
            self.0.push(end(expr));
        } else {
            visit::visit_expr(self, expr);
        }
    }
}

/// What calls are made on, and the calls, outermost first.
fn chain(mut expr: &Expr) -> (&Expr, Vec<&ExprMethodCall>) {
    let mut calls = Vec::new();
    while let Expr::MethodCall(call) = expr {
        calls.push(call);
        expr = &call.receiver;
    }
    (expr, calls)
}

/// Whether this is `TYPE::new(...)`, by whatever path.
fn is_new(expr: &Expr, ty: &str) -> bool {
    let Expr::Call(call) = expr else { return false };
    let Expr::Path(function) = &*call.func else { return false };
    let mut segments = function.path.segments.iter().rev();
    segments.next().is_some_and(|last| last.ident == "new") && segments.next().is_some_and(|s| s.ident == ty)
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// The names that a `use` brings.
fn names(tree: &UseTree) -> Vec<String> {
    match tree {
        UseTree::Path(path) => names(&path.tree),
        UseTree::Name(name) => vec![name.ident.to_string()],
        UseTree::Rename(renamed) => vec![renamed.rename.to_string()],
        UseTree::Group(group) => group.items.iter().flat_map(names).collect(),
        UseTree::Glob(_) => Vec::new(),
    }
}

fn end(node: &impl Spanned) -> usize {
    node.span().byte_range().end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::parse("src/lib.rs".into(), text.to_owned()).unwrap()
    }

    /// A text after everything that `add` may insert was inserted.
    fn after(text: &str) -> String {
        let source = source(text);
        let found = [
            Some(source.module("mod page;")),
            source.export("pub use page::Page;"),
            source.after_kinds(".crd::<Page>()"),
            source.after_parts(".with(page::add)"),
        ];
        apply(text, found.into_iter().flatten().collect())
    }

    #[test]
    fn lines_are_inserted_where_their_like_are() {
        let text = "//! Ünïcode.\nmod api; // ß\nmod other { }\npub use api::Book;\nuse windlass::Operator;\n\n\
                    pub fn operator() -> windlass::Operator {\n    let x = 1;\n    \
                    Operator::new(\"a\").crd::<Book>().with(|m| { m.add(x); })\n}\n";
        let expected = "//! Ünïcode.\nmod api; // ß\nmod page;\nmod other { }\npub use api::Book;\npub use page::Page;\n\
                        use windlass::Operator;\n\npub fn operator() -> windlass::Operator {\n    let x = 1;\n    \
                        Operator::new(\"a\").crd::<Book>().crd::<Page>().with(|m| { m.add(x); })\n    .with(page::add)\n}\n";
        assert_eq!(after(text), expected);
        assert_eq!(source(text).operator_name().as_deref(), Some("a"));
    }

    #[test]
    fn an_empty_operator_is_added_to() {
        let text = "//! Docs.\n\n/// Gives it.\nfn operator() -> Operator { Operator::new(NAME) }\n";
        let expected = "//! Docs.\n\nmod page;\n\npub use page::Page;\n\n/// Gives it.\nfn operator() -> Operator { \
                        Operator::new(NAME).crd::<Page>().with(page::add) }\n";
        assert_eq!(after(text), expected);
        assert_eq!(source(text).operator_name(), None);
    }

    #[test]
    fn what_is_put_together_otherwise_is_left_alone() {
        let table = [
            "fn operator() -> Operator { let it = Operator::new(\"a\"); it }",
            "fn operator() -> Operator { make().crd::<Book>() }",
            "fn a() -> Operator { Operator::new(\"a\") } fn b() -> Operator { Operator::new(\"b\") }",
            "fn operator() -> Operator { return Operator::new(\"a\"); }",
            "struct Operator;",
        ];
        for text in table {
            assert_eq!(source(text).after_kinds(".crd::<Page>()"), None, "{text}");
            assert_eq!(source(text).after_parts(".with(page::add)"), None, "{text}");
        }
    }

    #[test]
    fn servers_of_webhooks_are_found_wherever_they_are() {
        let text = "fn add(m: &mut M) { m.add(Webhooks::new(\"a\", c()).validate(A, h())); let b = webhook::Webhooks::new(b); }";
        let ends = source(text).webhooks();
        assert_eq!(ends.len(), 2);
        assert!(text[..ends[0]].ends_with(".validate(A, h())"));
        assert!(text[..ends[1]].ends_with("Webhooks::new(b)"));
        assert!(source("fn a() { Hooks::new(1); }").webhooks().is_empty());
    }

    #[test]
    fn names_are_known_by_how_they_are_shown() {
        let source = source("pub use a::{B, c::{D as E}}; use f::Hook; pub struct G; struct H;");
        let known: Vec<&str> =
            ["B", "D", "E", "Hook", "G", "H"].into_iter().filter(|n| source.shows(n)).collect();
        assert_eq!(known, ["B", "E", "G"]);
        assert!(source.uses("Hook") && !source.uses("G"));
    }
}
