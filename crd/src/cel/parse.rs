//! From tokens to a tree, with macros told apart from calls.

use super::{
    At, Expr, GRAMMAR, Issue, KEPT, Literal, Loop, LoopKind, Node,
    lex::{Kind, Token, tokens},
};

/// How deep an expression may nest.
/// What an expression begins with, as the grammar lists it.
const STARTS: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, \
    IDENTIFIER}";

const DEPTH_MAX: usize = 250;

/// The operators of each level, the weakest first.
const LEVELS: [&[(&str, &str)]; 3] = [
    &[
        ("==", "_==_"),
        ("!=", "_!=_"),
        ("<", "_<_"),
        ("<=", "_<=_"),
        (">", "_>_"),
        (">=", "_>=_"),
        ("in", "@in"),
    ],
    &[("+", "_+_"), ("-", "_-_")],
    &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")],
];

/// Reads an expression.
///
/// # Errors
/// What does not belong where it stands; at least one.
pub fn parse(source: &str) -> Result<Node, Vec<Issue>> {
    let tokens = tokens(source).map_err(|issue| vec![issue])?;
    let mut parser = Parser { tokens, next: 0, depth: 0 };
    let node = parser.expression().map_err(|issue| vec![issue])?;
    match parser.peek().kind {
        Kind::End => Ok(node),
        _ => Err(vec![parser.unexpected("<EOF>")]),
    }
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
}

type Parsed<T> = Result<T, Issue>;

fn call(at: At, function: &str, args: Vec<Node>) -> Node {
    Node { at, expr: Expr::Call { function: function.to_owned(), target: None, args } }
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next]
    }

    fn take(&mut self) -> Token {
        let token = self.tokens[self.next].clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek().kind, Kind::Sign(s) if s == sign)
    }

    /// Takes a sign if it stands here, and says where.
    fn takes(&mut self, sign: &str) -> Option<At> {
        self.is(sign).then(|| self.take().at)
    }

    fn expect(&mut self, sign: &str) -> Parsed<At> {
        self.takes(sign).ok_or_else(|| self.unexpected(&format!("'{sign}'")))
    }

    fn unexpected(&self, wanted: &str) -> Issue {
        let token = self.peek();
        let text = match &token.kind {
            Kind::End => "<EOF>".to_owned(),
            Kind::Sign(sign) => (*sign).to_owned(),
            Kind::Ident { text, .. } => text.clone(),
            Kind::Literal(literal) => match literal {
                Literal::Null => "null".to_owned(),
                Literal::Bool(value) => value.to_string(),
                Literal::Int(value) => value.to_string(),
                Literal::Uint(value) => format!("{value}u"),
                Literal::Double(value) => value.to_string(),
                Literal::String(text) => format!("{text:?}"),
                Literal::Bytes(_) => "b\"...\"".to_owned(),
            },
        };
        Issue { at: token.at, message: format!("Syntax error: mismatched input '{text}' expecting {wanted}") }
    }

    fn expression(&mut self) -> Parsed<Node> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let message = format!("expression recursion limit exceeded: {DEPTH_MAX}");
            return Err(Issue { at: self.peek().at, message });
        }
        let node = self.conditional();
        self.depth -= 1;
        node
    }

    fn conditional(&mut self) -> Parsed<Node> {
        let condition = self.logic("||", "_||_")?;
        let Some(at) = self.takes("?") else { return Ok(condition) };
        let yes = self.logic("||", "_||_")?;
        self.expect(":")?;
        let no = self.expression()?;
        Ok(call(at, "_?_:_", vec![condition, yes, no]))
    }

    fn logic(&mut self, sign: &str, function: &str) -> Parsed<Node> {
        let mut node = self.below(sign)?;
        while let Some(at) = self.takes(sign) {
            let right = self.below(sign)?;
            node = call(at, function, vec![node, right]);
        }
        Ok(node)
    }

    fn below(&mut self, sign: &str) -> Parsed<Node> {
        if sign == "||" { self.logic("&&", "_&&_") } else { self.binary(0) }
    }

    fn binary(&mut self, level: usize) -> Parsed<Node> {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut node = self.binary(level + 1)?;
        while let Some((_, function)) = operators.iter().find(|(sign, _)| self.is(sign)) {
            let at = self.take().at;
            let right = self.binary(level + 1)?;
            node = call(at, function, vec![node, right]);
        }
        Ok(node)
    }

    fn unary(&mut self) -> Parsed<Node> {
        for (sign, function) in [("!", "!_"), ("-", "-_")] {
            let Some(at) = self.takes(sign) else { continue };
            let mut count = 1;
            while self.takes(sign).is_some() {
                count += 1;
            }
            let operand = self.member()?;
            if sign == "-"
                && count == 1
                && let Expr::Literal(literal) = &operand.expr
            {
                match literal {
                    Literal::Int(value) => {
                        return Ok(Node { at, expr: Expr::Literal(Literal::Int(value.wrapping_neg())) });
                    }
                    Literal::Double(value) => {
                        return Ok(Node { at, expr: Expr::Literal(Literal::Double(-value)) });
                    }
                    _ => {}
                }
            }
            return Ok(if count % 2 == 0 { operand } else { call(at, function, vec![operand]) });
        }
        let node = self.member()?;
        // Without its minus the smallest number is none.
        match node.expr {
            Expr::Literal(Literal::Int(i64::MIN)) => {
                Err(Issue { at: node.at, message: "invalid int literal".to_owned() })
            }
            _ => Ok(node),
        }
    }

    fn member(&mut self) -> Parsed<Node> {
        let mut node = self.primary()?;
        loop {
            if let Some(dot) = self.takes(".") {
                let optional = self.takes("?").is_some();
                let token = self.take();
                let Kind::Ident { text, quoted } = token.kind else {
                    self.next -= 1;
                    return Err(self.unexpected("IDENTIFIER"));
                };
                node = match self.takes("(").filter(|_| !optional && !quoted) {
                    Some(open) => {
                        let args = self.arguments(")")?;
                        method(open, node, text, args)?
                    }
                    None => Node {
                        at: dot,
                        expr: Expr::Select { operand: Box::new(node), field: text, optional },
                    },
                };
            } else if let Some(open) = self.takes("[") {
                let function = if self.takes("?").is_some() { "_[?_]" } else { "_[_]" };
                let index = self.expression()?;
                self.expect("]")?;
                node = call(open, function, vec![node, index]);
            } else if self.is("{")
                && let Some(name) = dotted(&node)
            {
                let open = self.take().at;
                node = Node { at: open, expr: Expr::Struct(name, self.fields()?) };
            } else {
                return Ok(node);
            }
        }
    }

    fn arguments(&mut self, close: &str) -> Parsed<Vec<Node>> {
        let mut args = Vec::new();
        if self.takes(close).is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expression()?);
            if self.takes(",").is_none() {
                break;
            }
        }
        self.expect(close)?;
        Ok(args)
    }

    fn fields(&mut self) -> Parsed<Vec<(String, Node, bool)>> {
        let mut fields = Vec::new();
        while self.takes("}").is_none() {
            let optional = self.takes("?").is_some();
            let Kind::Ident { text, .. } = self.take().kind else {
                self.next -= 1;
                return Err(self.unexpected("IDENTIFIER"));
            };
            self.expect(":")?;
            fields.push((text, self.expression()?, optional));
            if self.takes(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        Ok(fields)
    }

    fn primary(&mut self) -> Parsed<Node> {
        let token = self.take();
        let at = token.at;
        match token.kind {
            Kind::Literal(literal) => Ok(Node { at, expr: Expr::Literal(literal) }),
            Kind::Sign("(") => {
                let node = self.expression()?;
                self.expect(")")?;
                Ok(node)
            }
            Kind::Sign("[") => {
                let mut items = Vec::new();
                while self.takes("]").is_none() {
                    let optional = self.takes("?").is_some();
                    items.push((self.expression()?, optional));
                    if self.takes(",").is_none() {
                        self.expect("]")?;
                        break;
                    }
                }
                Ok(Node { at, expr: Expr::List(items) })
            }
            Kind::Sign("{") => {
                let mut entries = Vec::new();
                while self.takes("}").is_none() {
                    let optional = self.takes("?").is_some();
                    let key = self.expression()?;
                    self.expect(":")?;
                    entries.push((key, self.expression()?, optional));
                    if self.takes(",").is_none() {
                        self.expect("}")?;
                        break;
                    }
                }
                Ok(Node { at, expr: Expr::Map(entries) })
            }
            Kind::Sign(".") | Kind::Ident { quoted: false, .. } => self.name(at, token.kind),
            _ => {
                self.next -= usize::from(self.next > 0 && self.tokens[self.next].at != at);
                Err(self.unexpected(STARTS))
            }
        }
    }

    fn name(&mut self, at: At, first: Kind) -> Parsed<Node> {
        let kind = if first == Kind::Sign(".") { self.take().kind } else { first };
        let Kind::Ident { text, quoted: false } = kind else {
            self.next -= 1;
            return Err(self.unexpected("IDENTIFIER"));
        };
        if GRAMMAR.contains(&text.as_str()) || KEPT.contains(&text.as_str()) {
            return Err(Issue { at, message: format!("reserved identifier: {text}") });
        }
        let Some(open) = self.takes("(") else { return Ok(Node { at, expr: Expr::Ident(text) }) };
        let mut args = self.arguments(")")?;
        if text == "has" && args.len() == 1 {
            let arg = args.remove(0);
            return match arg.expr {
                Expr::Select { operand, field, .. } => {
                    Ok(Node { at: open, expr: Expr::Has { operand, field } })
                }
                _ => Err(Issue { at: arg.at, message: "invalid argument to has() macro".to_owned() }),
            };
        }
        Ok(call(open, &text, args))
    }
}

/// `a.b.c` as the name of a type.
fn dotted(node: &Node) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select { operand, field, optional: false } => Some(format!("{}.{field}", dotted(operand)?)),
        _ => None,
    }
}

/// A method, a namespaced function, or a macro.
fn method(at: At, target: Node, function: String, mut args: Vec<Node>) -> Parsed<Node> {
    let kind = match (function.as_str(), args.len()) {
        ("all", 2 | 3) => Some((LoopKind::All, args.len() - 1, false)),
        ("exists", 2 | 3) => Some((LoopKind::Exists, args.len() - 1, false)),
        ("exists_one" | "existsOne", 2 | 3) => Some((LoopKind::ExistsOne, args.len() - 1, false)),
        ("map", 2) => Some((LoopKind::Map, 1, false)),
        ("map", 3) => Some((LoopKind::Map, 1, true)),
        ("filter", 2) => Some((LoopKind::Filter, 1, false)),
        ("optMap", 2) => Some((LoopKind::OptMap, 1, false)),
        ("optFlatMap", 2) => Some((LoopKind::OptFlatMap, 1, false)),
        ("transformList", 3 | 4) => Some((LoopKind::TransformList, 2, args.len() == 4)),
        ("transformMap", 3 | 4) => Some((LoopKind::TransformMap, 2, args.len() == 4)),
        ("transformMapEntry", 3 | 4) => Some((LoopKind::TransformMapEntry, 2, args.len() == 4)),
        _ => None,
    };
    let Some((kind, count, filtered)) = kind else {
        return Ok(Node { at, expr: Expr::Call { function, target: Some(Box::new(target)), args } });
    };
    let body = args.pop().expect("counted above");
    let filter = if filtered { args.pop() } else { None };
    let mut vars = Vec::with_capacity(count);
    for arg in args {
        match arg.expr {
            Expr::Ident(name) => vars.push(name),
            _ => return Err(Issue { at: arg.at, message: "argument must be a simple name".to_owned() }),
        }
    }
    Ok(Node { at, expr: Expr::Loop(Box::new(Loop { kind, range: target, vars, filter, body })) })
}
