//! Macros with two variables, put into loops over pairs: `self.all(i, v, …)`, `transformList`, `transformMap`,
//! `transformMapEntry`.
//!
//! The engine's loops have one variable. Here that is a pair of an index or key and its value, which [`ENTRIES`] makes,
//! and what names one of the two names its place in the pair. Pure.
//! Source: `github.com/google/cel-go/ext/comprehensions.go`.

use std::{collections::HashMap, sync::Arc};

use kube_cel::cel::{
    Context, ExecutionError, IdedExpr, Value as Cel,
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, ListExpr, LiteralValue, operators},
    objects::{Key, Map},
};

use super::optionals;

/// Makes of a list or a map the list of its pairs.
const ENTRIES: &str = "@entries";

/// Makes of a list of pairs a map.
const MAP_OF: &str = "@map_of";

/// Makes of a list of maps one map.
const UNITED: &str = "@united";

/// The engine's name of what a loop gathers.
const GATHERED: &str = "@result";

/// Which macro it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    All,
    Exists,
    ExistsOne,
    List,
    Map,
    MapEntry,
}

fn kind_of(call: &CallExpr) -> Option<Kind> {
    call.target.as_ref()?;
    let named = |at: usize| matches!(call.args.get(at).map(|arg| &arg.expr), Some(Expr::Ident(_)));
    if !named(0) || !named(1) {
        return None;
    }
    match (call.func_name.as_str(), call.args.len()) {
        ("all", 3) => Some(Kind::All),
        ("exists", 3) => Some(Kind::Exists),
        ("existsOne" | "exists_one", 3) => Some(Kind::ExistsOne),
        ("transformList", 3 | 4) => Some(Kind::List),
        ("transformMap", 3 | 4) => Some(Kind::Map),
        ("transformMapEntry", 3 | 4) => Some(Kind::MapEntry),
        _ => None,
    }
}

/// The loop that a call of such a macro is; what is no such call comes back as it was.
pub(super) fn expanded(id: u64, mut call: CallExpr) -> Expr {
    let Some(kind) = kind_of(&call) else { return Expr::Call(call) };
    let Some(target) = call.target.take() else { return Expr::Call(call) };
    let pair = format!("@pair{id}");
    let mut body = call.args.split_off(2);
    for (place, variable) in (0i64..).zip(&call.args) {
        if let Expr::Ident(name) = &variable.expr {
            body.iter_mut().for_each(|part| put(part, name, &pair, place));
        }
    }
    let at = Maker { id };
    let transform = body.pop().unwrap_or_default();
    let filter = body.pop();
    let (init, condition, step, result) = match kind {
        Kind::All | Kind::Exists | Kind::ExistsOne => at.truth(kind, transform),
        Kind::List | Kind::Map | Kind::MapEntry => at.gathering(kind, transform, filter, &pair),
    };
    Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: at.call(ENTRIES, vec![*target]),
        iter_var: pair,
        iter_var2: None,
        accu_var: GATHERED.to_owned(),
        accu_init: init,
        loop_cond: condition,
        loop_step: step,
        result,
    }))
}

/// Makes parts of an expression, all at the place of the macro.
struct Maker {
    id: u64,
}

impl Maker {
    fn expr(&self, expr: Expr) -> IdedExpr {
        IdedExpr { id: self.id, expr }
    }

    fn call(&self, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
        self.expr(Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }))
    }

    fn gathered(&self) -> IdedExpr {
        self.expr(Expr::Ident(GATHERED.to_owned()))
    }

    fn bool(&self, truth: bool) -> IdedExpr {
        self.expr(Expr::Literal(LiteralValue::Boolean(truth.into())))
    }

    fn int(&self, number: i64) -> IdedExpr {
        self.expr(Expr::Literal(LiteralValue::Int(number.into())))
    }

    fn list(&self, items: Vec<IdedExpr>) -> IdedExpr {
        self.expr(Expr::List(ListExpr::new(items)))
    }

    /// Start, condition, step and result of a loop that ends in a truth.
    fn truth(&self, kind: Kind, holds: IdedExpr) -> (IdedExpr, IdedExpr, IdedExpr, IdedExpr) {
        let gathered = || self.gathered();
        let maybe = |truth| self.call(operators::NOT_STRICTLY_FALSE, vec![truth]);
        match kind {
            Kind::All => {
                let step = self.call(operators::LOGICAL_AND, vec![gathered(), holds]);
                (self.bool(true), maybe(gathered()), step, gathered())
            }
            Kind::Exists => {
                let not_yet = self.call(operators::LOGICAL_NOT, vec![gathered()]);
                let step = self.call(operators::LOGICAL_OR, vec![gathered(), holds]);
                (self.bool(false), maybe(not_yet), step, gathered())
            }
            _ => {
                let more = self.call(operators::ADD, vec![gathered(), self.int(1)]);
                let step = self.call(operators::CONDITIONAL, vec![holds, more, gathered()]);
                let one = self.call(operators::EQUALS, vec![gathered(), self.int(1)]);
                (self.int(0), self.bool(true), step, one)
            }
        }
    }

    /// The same of a loop that gathers items.
    fn gathering(
        &self,
        kind: Kind,
        transform: IdedExpr,
        filter: Option<IdedExpr>,
        pair: &str,
    ) -> (IdedExpr, IdedExpr, IdedExpr, IdedExpr) {
        let item = match kind {
            Kind::Map => self.list(vec![place(self.id, pair, 0), transform]),
            _ => transform,
        };
        let more = self.call(operators::ADD, vec![self.gathered(), self.list(vec![item])]);
        let step = match filter {
            Some(filter) => self.call(operators::CONDITIONAL, vec![filter, more, self.gathered()]),
            None => more,
        };
        let result = match kind {
            Kind::Map => self.call(MAP_OF, vec![self.gathered()]),
            Kind::MapEntry => self.call(UNITED, vec![self.gathered()]),
            _ => self.gathered(),
        };
        (self.list(Vec::new()), self.bool(true), step, result)
    }
}

/// One of the two of a pair.
fn place(id: u64, pair: &str, at: i64) -> IdedExpr {
    let part = |expr| IdedExpr { id, expr };
    let args = vec![part(Expr::Ident(pair.to_owned())), part(Expr::Literal(LiteralValue::Int(at.into())))];
    part(Expr::Call(CallExpr { func_name: operators::INDEX.to_owned(), target: None, args }))
}

/// Puts a place of the pair wherever a variable is named, but not where another of that name hides it.
fn put(at: &mut IdedExpr, name: &str, pair: &str, which: i64) {
    let id = at.id;
    match &mut at.expr {
        Expr::Ident(found) if found == name => *at = place(id, pair, which),
        Expr::Call(call) => {
            let variables = match kind_of(call) {
                Some(_) => 2,
                None => usize::from(optionals::is_macro(call)),
            };
            let own = |arg: &IdedExpr| matches!(&arg.expr, Expr::Ident(own) if own == name);
            let hidden = call.args.iter().take(variables).any(own);
            if let Some(target) = &mut call.target {
                put(target, name, pair, which);
            }
            if !hidden {
                call.args.iter_mut().skip(variables).for_each(|arg| put(arg, name, pair, which));
            }
        }
        Expr::Comprehension(inner) => {
            put(&mut inner.iter_range, name, pair, which);
            put(&mut inner.accu_init, name, pair, which);
            if inner.iter_var != name && inner.accu_var != name {
                for part in [&mut inner.loop_cond, &mut inner.loop_step, &mut inner.result] {
                    put(part, name, pair, which);
                }
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(|item| put(item, name, pair, which)),
        Expr::Select(select) => put(&mut select.operand, name, pair, which),
        Expr::Map(map) => {
            map.entries.iter_mut().for_each(|entry| put_entry(&mut entry.expr, name, pair, which));
        }
        Expr::Struct(object) => {
            object.entries.iter_mut().for_each(|entry| put_entry(&mut entry.expr, name, pair, which));
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

fn put_entry(entry: &mut EntryExpr, name: &str, pair: &str, which: i64) {
    match entry {
        EntryExpr::MapEntry(entry) => {
            put(&mut entry.key, name, pair, which);
            put(&mut entry.value, name, pair, which);
        }
        EntryExpr::StructField(field) => put(&mut field.value, name, pair, which),
    }
}

/// Adds the functions that the loops call.
pub(super) fn add_to(context: &mut Context<'_>) {
    context.add_function(ENTRIES, |of: Cel| entries(&of));
    context.add_function(MAP_OF, |pairs: Cel| map_of(&pairs));
    context.add_function(UNITED, |maps: Cel| united(&maps));
}

fn entries(of: &Cel) -> Result<Cel, ExecutionError> {
    let pair = |a: Cel, b: Cel| Cel::List(Arc::new(vec![a, b]));
    let pairs: Vec<Cel> = match of {
        Cel::List(items) => {
            (0i64..).zip(items.iter()).map(|(i, item)| pair(Cel::Int(i), item.clone())).collect()
        }
        Cel::Map(map) => {
            let mut keys: Vec<&Key> = map.map.keys().collect();
            // A map has no order; what is made of it has one.
            keys.sort();
            keys.into_iter().map(|key| pair(value_of(key), map.map[key].clone())).collect()
        }
        _ => return Err(ExecutionError::NoSuchOverload),
    };
    Ok(Cel::List(Arc::new(pairs)))
}

fn value_of(key: &Key) -> Cel {
    match key {
        Key::Int(number) => Cel::Int(*number),
        Key::Uint(number) => Cel::UInt(*number),
        Key::Bool(truth) => Cel::Bool(*truth),
        Key::String(text) => Cel::String(Arc::clone(text)),
    }
}

fn key_of(value: &Cel) -> Result<Key, ExecutionError> {
    Ok(match value {
        Cel::Int(number) => Key::Int(*number),
        Cel::UInt(number) => Key::Uint(*number),
        Cel::Bool(truth) => Key::Bool(*truth),
        Cel::String(text) => Key::String(Arc::clone(text)),
        other => return Err(ExecutionError::unsupported_key_type(other.clone())),
    })
}

fn items(list: &Cel) -> Result<&[Cel], ExecutionError> {
    match list {
        Cel::List(items) => Ok(items),
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

fn map_of(pairs: &Cel) -> Result<Cel, ExecutionError> {
    let mut map = HashMap::new();
    for pair in items(pairs)? {
        let [key, value] = items(pair)? else { return Err(ExecutionError::NoSuchOverload) };
        map.insert(key_of(key)?, value.clone());
    }
    Ok(Cel::Map(Map { map: Arc::new(map) }))
}

fn united(maps: &Cel) -> Result<Cel, ExecutionError> {
    let mut all = HashMap::new();
    for map in items(maps)? {
        let Cel::Map(map) = map else { return Err(ExecutionError::NoSuchOverload) };
        let mut keys: Vec<&Key> = map.map.keys().collect();
        keys.sort();
        for key in keys {
            if all.insert(key.clone(), map.map[key].clone()).is_some() {
                let why = format!("insert failed: key '{key}' already exists");
                return Err(ExecutionError::function_error(UNITED, why));
            }
        }
    }
    Ok(Cel::Map(Map { map: Arc::new(all) }))
}
