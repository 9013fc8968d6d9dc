//! What an expression may cost at most, in cel-go's units: about one for each operation, more for what looks at whole
//! texts and lists. Source: `github.com/google/cel-go/checker/cost.go`, `k8s.io/apiserver/pkg/cel/library/cost.go`.

use super::{Env, Expr, Loop, LoopKind, Node, Type, check};

/// The most that one expression may cost.
pub const EXPRESSION_MAX: u64 = 10_000_000;
/// The most that all expressions of a definition may cost together.
pub const DEFINITION_MAX: u64 = 100_000_000;

/// What it costs to make a list, a map and a structure.
const LIST: u64 = 10;
const MAP: u64 = 30;
const STRUCT: u64 = 40;

/// The most that an expression can cost, given how large its variables can be.
#[must_use]
pub fn estimate(node: &Node, env: &Env) -> u64 {
    let total = |nodes: &mut dyn Iterator<Item = &Node>| {
        nodes.fold(0_u64, |sum, node| sum.saturating_add(estimate(node, env)))
    };
    match &node.expr {
        Expr::Literal(_) => 0,
        Expr::Ident(_) => 1,
        Expr::Select { operand, .. } | Expr::Has { operand, .. } => estimate(operand, env).saturating_add(1),
        Expr::List(items) => LIST.saturating_add(total(&mut items.iter().map(|(item, _)| item))),
        Expr::Map(entries) => {
            MAP.saturating_add(total(&mut entries.iter().flat_map(|(key, value, _)| [key, value])))
        }
        Expr::Struct(_, fields) => {
            STRUCT.saturating_add(total(&mut fields.iter().map(|(_, value, _)| value)))
        }
        Expr::Call { function, target, args } => call(function, target.as_deref(), args, env),
        Expr::Loop(looped) => of_loop(looped, env),
    }
}

/// The longest text that a number, truth or moment is written as.
const WRITTEN_MAX: u64 = 64;

/// The most characters, items or entries of what an expression gives.
fn size(node: &Node, env: &Env) -> u64 {
    let typed = |node: &Node| check(node, env).ok().and_then(|ty| ty.size_max()).unwrap_or(u64::MAX);
    let Expr::Call { function, target, args } = &node.expr else { return typed(node) };
    let first = || target.as_deref().or(args.first()).map_or(u64::MAX, |node| size(node, env));
    match (function.as_str(), args.as_slice()) {
        ("_+_", [a, b]) => size(a, env).saturating_add(size(b, env)),
        ("_?_:_", [_, a, b]) => size(a, env).max(size(b, env)),
        ("string", [of]) => match check(of, env) {
            Ok(Type::String(_) | Type::Bytes(_)) => size(of, env),
            _ => WRITTEN_MAX,
        },
        (
            "lowerAscii" | "upperAscii" | "trim" | "substring" | "split" | "findAll" | "find" | "reverse"
            | "sort",
            _,
        ) => first(),
        ("charAt", _) => 1,
        _ => typed(node),
    }
}

/// A tenth, rounded up: texts are looked at ten characters at a time.
fn tenth(size: u64) -> u64 {
    size.div_ceil(10)
}

fn call(function: &str, target: Option<&Node>, args: &[Node], env: &Env) -> u64 {
    let costs: Vec<u64> = target.into_iter().chain(args).map(|node| estimate(node, env)).collect();
    let sum = costs.iter().fold(0_u64, |sum, cost| sum.saturating_add(*cost));
    let all: Vec<&Node> = target.into_iter().chain(args).collect();
    let of = |i: usize| all.get(i).map_or(1, |node| size(node, env));
    let own = match function {
        "_&&_" | "_||_" => 0,
        "_?_:_" => return costs[0].saturating_add(costs[1].max(costs[2])),
        "startsWith" | "endsWith" => tenth(of(1)),
        "matches" | "find" | "findAll" => {
            let regex = of(1).saturating_add(3) / 4;
            tenth(of(0).saturating_add(1)).saturating_mul(regex.max(1))
        }
        "contains" if is_text(all.first(), env) => tenth(of(0)).saturating_mul(tenth(of(1)).max(1)),
        "@in" => match check(all[1], env) {
            Ok(Type::List(..)) => of(1),
            _ => 1,
        },
        "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => compared(&all, env),
        "_+_" => match check(all[0], env) {
            Ok(Type::String(_) | Type::Bytes(_)) => tenth(of(0).saturating_add(of(1))),
            _ => 1,
        },
        "lowerAscii" | "upperAscii" | "substring" | "trim" | "replace" | "split" | "charAt" | "indexOf"
        | "lastIndexOf" | "join" | "reverse" | "url" | "isURL" | "quantity" | "isQuantity" | "ip"
        | "isIP" | "cidr" | "isCIDR" | "bytes" | "base64.encode" | "base64.decode" | "format"
        | "validate" | "strings.quote" => tenth(of(0)).max(1),
        "isSorted" | "sum" | "min" | "max" | "distinct" | "sort" | "flatten" => of(0),
        "sets.contains" | "sets.equivalent" | "sets.intersects" => of(0).saturating_mul(of(1)),
        // Somebody has to be asked.
        "check" => 350_000,
        _ => 1,
    };
    sum.saturating_add(own)
}

fn is_text(node: Option<&&Node>, env: &Env) -> bool {
    node.is_some_and(|node| matches!(check(node, env), Ok(Type::String(_))))
}

/// Comparing ends with the shorter of both; what has no size is compared at once.
fn compared(all: &[&Node], env: &Env) -> u64 {
    let sized = |node: &&&Node| {
        matches!(check(node, env), Ok(Type::String(_) | Type::Bytes(_) | Type::List(..) | Type::Map(..)))
    };
    let shortest = all.iter().filter(sized).map(|node| size(node, env)).min();
    shortest.map_or(1, |size| tenth(size).max(1))
}

fn of_loop(looped: &Loop, env: &Env) -> u64 {
    let range = check(&looped.range, env).unwrap_or(Type::Dyn);
    let (key, item) = match &range {
        Type::List(item, _) => (Type::Int, (**item).clone()),
        Type::Map(key, value, _) => ((**key).clone(), (**value).clone()),
        Type::Optional(inner) => (Type::Dyn, (**inner).clone()),
        _ => (Type::Dyn, Type::Dyn),
    };
    let mut inner = env.clone();
    match looped.vars.as_slice() {
        [one] => {
            let ty = if matches!(range, Type::Map(..)) { key } else { item };
            inner.variables.insert(one.clone(), ty);
        }
        [one, two] => {
            inner.variables.insert(one.clone(), key);
            inner.variables.insert(two.clone(), item);
        }
        _ => {}
    }
    let body = estimate(&looped.body, &inner);
    let filter = looped.filter.as_ref().map_or(0, |filter| estimate(filter, &inner));
    // What the macro itself does on each turn: looks at its result, and adds to it.
    let turn = match looped.kind {
        LoopKind::All => 3,
        LoopKind::Exists => 4,
        LoopKind::ExistsOne => 2,
        LoopKind::Map | LoopKind::Filter | LoopKind::TransformList => LIST + 2,
        LoopKind::TransformMap | LoopKind::TransformMapEntry | LoopKind::OptMap | LoopKind::OptFlatMap => 2,
    };
    let turns = match range {
        Type::Optional(_) => 1,
        range => range.size_max().unwrap_or(u64::MAX),
    };
    let each = body.saturating_add(filter).saturating_add(turn);
    estimate(&looped.range, env).saturating_add(turns.saturating_mul(each)).saturating_add(2)
}

/// By how much a cost exceeds what is allowed, in upstream's words.
#[must_use]
pub fn factor(cost: u64, allowed: u64) -> String {
    let times = cost as f64 / allowed as f64;
    match times {
        times if times > 100.0 => "more than 100x".to_owned(),
        // "By a factor of 1.0" would help nobody.
        times if times < 1.5 => format!("{times:.6}x"),
        times => format!("{times:.1}x"),
    }
}
