//! Types of expressions, and what does not fit. Source: `github.com/google/cel-go/checker`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    At, Expr, Fields, Issue, Literal, Loop, LoopKind, Node, Type,
    library::{Overload, overloads},
};

/// The most problems that are told.
const ISSUES_MAX: usize = 20;

/// The variables that an expression sees, and what else it may do.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// Their types.
    pub variables: BTreeMap<String, Type>,
    /// Whether it may construct `Object{…}` and `JSONPatch{…}`.
    pub constructs: bool,
}

impl Env {
    /// With these variables.
    #[must_use]
    pub fn new(variables: &[(&str, Type)]) -> Self {
        let variables = variables.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone())).collect();
        Self { variables, constructs: false }
    }
}

/// The type of an expression.
///
/// # Errors
/// Everything that does not fit; at least one.
pub fn check(node: &Node, env: &Env) -> Result<Type, Vec<Issue>> {
    let mut checker = Checker { env, scopes: Vec::new(), issues: Vec::new() };
    let ty = checker.visit(node);
    checker.issues.truncate(ISSUES_MAX);
    if checker.issues.is_empty() { Ok(ty) } else { Err(checker.issues) }
}

struct Checker<'e> {
    env: &'e Env,
    scopes: Vec<(String, Type)>,
    issues: Vec<Issue>,
}

/// What an overload's open types stand for.
type Bindings = BTreeMap<char, Type>;

impl Checker<'_> {
    /// Notes a problem; what it is about may be anything from then on.
    fn fault(&mut self, at: At, message: String) -> Type {
        self.issues.push(Issue { at, message });
        Type::Dyn
    }

    fn variable(&self, name: &str) -> Option<Type> {
        let scoped = self.scopes.iter().rev().find(|(known, _)| known == name).map(|(_, ty)| ty.clone());
        scoped.or_else(|| self.env.variables.get(name).cloned()).or_else(|| type_name(name))
    }

    fn visit(&mut self, node: &Node) -> Type {
        match &node.expr {
            Expr::Literal(literal) => of_literal(literal),
            Expr::Ident(name) => match self.variable(name) {
                Some(ty) => ty,
                None => self.fault(node.at, format!("undeclared reference to '{name}' (in container '')")),
            },
            Expr::Select { operand, field, optional } => self.select(node.at, operand, field, *optional),
            Expr::Has { operand, field } => {
                self.select(node.at, operand, field, false);
                Type::Bool
            }
            Expr::Call { function, target, args } => self.call(node.at, function, target.as_deref(), args),
            Expr::List(items) => {
                let types: Vec<Type> =
                    items.iter().map(|(item, optional)| self.item(item, *optional)).collect();
                Type::List(Arc::new(joined(types)), Some(items.len() as u64))
            }
            Expr::Map(entries) => {
                let (mut keys, mut values) = (Vec::new(), Vec::new());
                for (key, value, optional) in entries {
                    keys.push(self.visit(key));
                    values.push(self.item(value, *optional));
                }
                Type::Map(Arc::new(joined(keys)), Arc::new(joined(values)), Some(entries.len() as u64))
            }
            Expr::Struct(name, fields) => self.construct(node.at, name, fields),
            Expr::Loop(looped) => self.looped(node.at, looped),
        }
    }

    /// The type of an item; of one that may be missing, that of what is in it.
    fn item(&mut self, node: &Node, optional: bool) -> Type {
        let ty = self.visit(node);
        match ty {
            Type::Optional(inner) if optional => (*inner).clone(),
            Type::Dyn => Type::Dyn,
            other if optional => {
                self.fault(node.at, format!("expected type 'optional_type(dyn)' but found '{other}'"))
            }
            other => other,
        }
    }

    fn select(&mut self, at: At, operand: &Node, field: &str, optional: bool) -> Type {
        // A name with dots may be one: `authorizer.requestResource`, `net.IP`.
        if let Some(name) = dotted(operand)
            && let Some(ty) = self.env.variables.get(&format!("{name}.{field}"))
        {
            return ty.clone();
        }
        if let Some(name) = dotted(operand)
            && self.variable(name.split('.').next().unwrap_or_default()).is_none()
            && let Some(ty) = type_name(&format!("{name}.{field}"))
        {
            return ty;
        }
        let of = self.visit(operand);
        let (of, may_miss) = match of {
            Type::Optional(inner) => ((*inner).clone(), true),
            other => (other, optional),
        };
        let found = match &of {
            Type::Dyn | Type::Open(_) => Type::Dyn,
            Type::Map(_, value, _) => (**value).clone(),
            Type::Object(fields) => match fields.fields.get(field) {
                Some((ty, _)) => ty.clone(),
                None => return self.fault(at, format!("undefined field '{field}'")),
            },
            other => return self.fault(at, format!("type '{other}' does not support field selection")),
        };
        if may_miss && !matches!(found, Type::Dyn) { Type::optional(found) } else { found }
    }

    fn call(&mut self, at: At, function: &str, target: Option<&Node>, args: &[Node]) -> Type {
        // `sets.contains(…)`: what looks like a target is the front of the name.
        if let Some(prefix) = target.and_then(dotted)
            && self.variable(prefix.split('.').next().unwrap_or_default()).is_none()
        {
            let whole = format!("{prefix}.{function}");
            if !overloads(&whole).is_empty() {
                return self.resolve(at, &whole, None, args);
            }
        }
        if overloads(function).is_empty() {
            if let Some(target) = target {
                self.visit(target);
            }
            args.iter().for_each(|arg| drop(self.visit(arg)));
            return self.fault(at, format!("undeclared reference to '{function}' (in container '')"));
        }
        self.resolve(at, function, target, args)
    }

    fn resolve(&mut self, at: At, function: &str, target: Option<&Node>, args: &[Node]) -> Type {
        let types: Vec<Type> = target.into_iter().chain(args).map(|node| self.visit(node)).collect();
        // Calls that take any number of numbers.
        if matches!(function, "math.greatest" | "math.least") && types.len() > 2 {
            return Type::Dyn;
        }
        let mut results: Vec<Type> = Vec::new();
        for overload in overloads(function) {
            if let Some(result) = fits(overload, target.is_some(), &types) {
                results.push(result);
            }
        }
        match results.as_slice() {
            [] => {
                let shown =
                    |types: &[Type]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let applied = match target {
                    Some(_) => format!("{}.({})", types[0], shown(&types[1..])),
                    None => format!("({})", shown(&types)),
                };
                self.fault(at, format!("found no matching overload for '{function}' applied to '{applied}'"))
            }
            [one] => one.clone(),
            [first, rest @ ..] if rest.iter().all(|other| same(first, other)) => first.clone(),
            _ => Type::Dyn,
        }
    }

    fn construct(&mut self, at: At, name: &str, fields: &[(String, Node, bool)]) -> Type {
        let name = name.trim_start_matches('.');
        let patch = Fields {
            name: "JSONPatch".to_owned(),
            fields: [
                ("op", Type::STRING),
                ("path", Type::STRING),
                ("from", Type::STRING),
                ("value", Type::Dyn),
            ]
            .into_iter()
            .map(|(name, ty)| (name.to_owned(), (ty, false)))
            .collect(),
        };
        let is_object = name == "Object" || name.starts_with("Object.");
        if !self.env.constructs || !(is_object || name == "JSONPatch") {
            return self.fault(at, format!("undeclared reference to '{name}' (in container '')"));
        }
        for (field, value, optional) in fields {
            let ty = self.item(value, *optional);
            if is_object {
                continue;
            }
            match patch.fields.get(field) {
                None => drop(self.fault(value.at, format!("undefined field '{field}'"))),
                Some((wanted, _)) if assign(wanted, &ty, &mut Bindings::new()).is_none() => {
                    let why =
                        format!("expected type of field '{field}' is '{wanted}' but provided type is '{ty}'");
                    self.fault(value.at, why);
                }
                Some(_) => {}
            }
        }
        let known = if is_object { Fields { name: name.to_owned(), ..Fields::default() } } else { patch };
        Type::Object(Arc::new(known))
    }

    fn looped(&mut self, at: At, looped: &Loop) -> Type {
        let range = self.visit(&looped.range);
        let (key, item) = match &range {
            Type::List(item, _) => (Type::Int, (**item).clone()),
            Type::Map(key, value, _) => ((**key).clone(), (**value).clone()),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            Type::Optional(inner) if matches!(looped.kind, LoopKind::OptMap | LoopKind::OptFlatMap) => {
                (Type::Dyn, (**inner).clone())
            }
            other if matches!(looped.kind, LoopKind::OptMap | LoopKind::OptFlatMap) => {
                let why = format!("found no matching overload for 'hasValue' applied to '{other}.()'");
                self.fault(at, why);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let why = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.fault(looped.range.at, why);
                (Type::Dyn, Type::Dyn)
            }
        };
        let depth = self.scopes.len();
        let is_map = matches!(range, Type::Map(..));
        match looped.vars.as_slice() {
            [one] => self.scopes.push((one.clone(), if is_map { key.clone() } else { item.clone() })),
            [one, two] => {
                self.scopes.push((one.clone(), key.clone()));
                self.scopes.push((two.clone(), item.clone()));
            }
            _ => {}
        }
        if let Some(filter) = &looped.filter {
            self.condition(filter, "_?_:_");
        }
        let body = match looped.kind {
            LoopKind::All => self.condition(&looped.body, "_&&_"),
            LoopKind::Exists => self.condition(&looped.body, "_||_"),
            LoopKind::ExistsOne | LoopKind::Filter => self.condition(&looped.body, "_?_:_"),
            _ => self.visit(&looped.body),
        };
        self.scopes.truncate(depth);
        let size = range.size_max();
        let one = if is_map { key.clone() } else { item };
        match looped.kind {
            LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne => Type::Bool,
            LoopKind::Filter => Type::List(Arc::new(one), size),
            LoopKind::Map | LoopKind::TransformList => Type::List(Arc::new(body), size),
            LoopKind::OptMap => Type::optional(body),
            LoopKind::OptFlatMap => match body {
                body @ (Type::Optional(_) | Type::Dyn) => body,
                other => self.fault(at, format!("expected type 'optional_type(dyn)' but found '{other}'")),
            },
            LoopKind::TransformMap => Type::Map(Arc::new(key), Arc::new(body), size),
            LoopKind::TransformMapEntry => match body {
                Type::Map(key, value, _) => Type::Map(key, value, size),
                Type::Dyn => Type::Dyn,
                other => self.fault(at, format!("expected type 'map(dyn, dyn)' but found '{other}'")),
            },
        }
    }

    /// A body that has to be a truth: cel-go notices where the macro puts it.
    fn condition(&mut self, node: &Node, inside: &str) -> Type {
        let ty = self.visit(node);
        if assign(&Type::Bool, &ty, &mut Bindings::new()).is_none() {
            let applied = match inside {
                "_?_:_" => format!("({ty}, dyn, dyn)"),
                _ => format!("(bool, {ty})"),
            };
            let why = format!("found no matching overload for '{inside}' applied to '{applied}'");
            return self.fault(node.at, why);
        }
        ty
    }
}

fn dotted(node: &Node) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select { operand, field, optional: false } => Some(format!("{}.{field}", dotted(operand)?)),
        _ => None,
    }
}

fn of_literal(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(text) => Type::String(Some(text.chars().count() as u64)),
        Literal::Bytes(bytes) => Type::Bytes(Some(bytes.len() as u64)),
    }
}

/// Names that stand for types.
fn type_name(name: &str) -> Option<Type> {
    let named = match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::STRING,
        "bytes" => Type::Bytes(None),
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "null_type" => Type::Null,
        "type" => Type::Type(Arc::new(Type::Dyn)),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "net.IP" => Type::Opaque("net.IP"),
        "net.CIDR" => Type::Opaque("net.CIDR"),
        "optional_type" => Type::optional(Type::Dyn),
        _ => return None,
    };
    Some(Type::Type(Arc::new(named)))
}

/// The one type of several values; anything, if they differ.
fn joined(types: Vec<Type>) -> Type {
    let mut types = types.into_iter();
    let Some(mut first) = types.next() else { return Type::Dyn };
    for ty in types {
        if matches!(first, Type::Null) && is_nullable(&ty) {
            first = ty;
        } else if matches!(ty, Type::Null) && is_nullable(&first) {
        } else if !same(&first, &ty) {
            return Type::Dyn;
        } else {
            first = widest(first, &ty);
        }
    }
    first
}

/// Of two types that differ in their sizes the larger.
fn widest(a: Type, b: &Type) -> Type {
    let most = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.max(b));
    match (a, b) {
        (Type::String(x), Type::String(y)) => Type::String(most(x, *y)),
        (Type::Bytes(x), Type::Bytes(y)) => Type::Bytes(most(x, *y)),
        (Type::List(item, x), Type::List(other, y)) => {
            Type::List(Arc::new(widest((*item).clone(), other)), most(x, *y))
        }
        (a, _) => a,
    }
}

fn same(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::String(_), Type::String(_)) | (Type::Bytes(_), Type::Bytes(_)) => true,
        (Type::List(a, _), Type::List(b, _)) | (Type::Optional(a), Type::Optional(b)) => same(a, b),
        (Type::Map(a, x, _), Type::Map(b, y, _)) => same(a, b) && same(x, y),
        (Type::Object(a), Type::Object(b)) => a.name == b.name,
        (Type::Type(_), Type::Type(_)) => true,
        (a, b) => a == b,
    }
}

fn is_nullable(ty: &Type) -> bool {
    matches!(
        ty,
        Type::Object(_) | Type::Opaque(_) | Type::Duration | Type::Timestamp | Type::Null | Type::Optional(_)
    )
}

/// What a call gives, if these types fit an overload.
fn fits(overload: &Overload, method: bool, types: &[Type]) -> Option<Type> {
    if overload.method != method || overload.args.len() != types.len() {
        return None;
    }
    let mut bindings = Bindings::new();
    for (wanted, given) in overload.args.iter().zip(types) {
        assign(wanted, given, &mut bindings)?;
    }
    Some(substitute(&overload.result, &bindings))
}

/// Whether a value of the type `given` can stand where `wanted` is.
fn assign(wanted: &Type, given: &Type, bindings: &mut Bindings) -> Option<()> {
    let yes = |fits: bool| fits.then_some(());
    match (wanted, given) {
        (Type::Open(name), given) => {
            let Some(bound) = bindings.get(name).cloned() else {
                bindings.insert(*name, given.clone());
                return Some(());
            };
            if matches!(bound, Type::Dyn) || matches!(given, Type::Dyn) {
                return Some(());
            }
            if matches!(bound, Type::Null) && is_nullable(given) {
                bindings.insert(*name, given.clone());
                return Some(());
            }
            assign(&bound, given, &mut Bindings::new())
                .or_else(|| assign(given, &bound, &mut Bindings::new()))
        }
        (_, Type::Dyn | Type::Open(_)) | (Type::Dyn, _) => Some(()),
        (wanted, Type::Null) => yes(is_nullable(wanted)),
        (Type::List(wanted, _), Type::List(given, _)) | (Type::Optional(wanted), Type::Optional(given)) => {
            assign(wanted, given, bindings)
        }
        (Type::Map(k, v, _), Type::Map(key, value, _)) => {
            assign(k, key, bindings)?;
            assign(v, value, bindings)
        }
        (Type::Type(wanted), Type::Type(given)) => match &**wanted {
            Type::Open(_) => assign(wanted, given, bindings),
            _ => Some(()),
        },
        (wanted, given) => yes(same(wanted, given)),
    }
}

fn substitute(ty: &Type, bindings: &Bindings) -> Type {
    let inner = |ty: &Arc<Type>| Arc::new(substitute(ty, bindings));
    match ty {
        Type::Open(name) => bindings.get(name).cloned().unwrap_or(Type::Dyn),
        Type::List(item, max) => Type::List(inner(item), *max),
        Type::Map(key, value, max) => Type::Map(inner(key), inner(value), *max),
        Type::Optional(of) => Type::Optional(inner(of)),
        Type::Type(of) => Type::Type(inner(of)),
        other => other.clone(),
    }
}
