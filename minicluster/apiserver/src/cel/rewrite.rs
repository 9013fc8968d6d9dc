//! Puts what the engine does not know into words that it does.
//!
//! A constructed object, `Object.spec{replicas: 3}`, becomes the map that it is; a macro with two variables becomes a
//! loop over pairs ([`pairs`]); what selects a field looks it up, which fails where there are no fields; each loop counts
//! what it runs. Pure.

use kube_cel::cel::{
    IdedExpr,
    common::ast::{
        CallExpr, EntryExpr, Expr, IdedEntryExpr, LiteralValue, MapEntryExpr, MapExpr, SelectExpr,
        StructExpr, operators,
    },
};

use super::{optionals, pairs};

/// The function that counts.
pub(super) const STEP: &str = "@step";

/// The type of an operation of a JSON patch.
const PATCH: &str = "JSONPatch";

/// Rewrites a whole expression.
///
/// # Errors
/// A sentence about an object of a type that there is none of here.
pub(super) fn rewrite(mut expression: IdedExpr) -> Result<IdedExpr, String> {
    walk(&mut expression)?;
    Ok(expression)
}

fn walk(at: &mut IdedExpr) -> Result<(), String> {
    at.expr = match std::mem::take(&mut at.expr) {
        // The engine looks up a missing field of what is there as if it had to be.
        Expr::Call(call) if call.func_name == operators::OPT_SELECT => {
            Expr::Call(CallExpr { func_name: operators::OPT_INDEX.to_owned(), ..call })
        }
        Expr::Call(call) if optionals::is_macro(&call) => optionals::expanded(at.id, call),
        Expr::Call(call) => pairs::expanded(at.id, call),
        Expr::Select(select) => looked_up(at.id, select),
        other => other,
    };
    match &mut at.expr {
        Expr::Call(call) => {
            if let Some(target) = &mut call.target {
                walk(target)?;
            }
            call.args.iter_mut().try_for_each(walk)
        }
        Expr::Comprehension(comprehension) => {
            let parts = [
                &mut comprehension.iter_range,
                &mut comprehension.accu_init,
                &mut comprehension.loop_cond,
                &mut comprehension.loop_step,
                &mut comprehension.result,
            ];
            parts.into_iter().try_for_each(walk)?;
            let condition = std::mem::take(&mut comprehension.loop_cond);
            comprehension.loop_cond = counted(condition, weight(&comprehension.loop_step));
            Ok(())
        }
        Expr::List(list) => list.elements.iter_mut().try_for_each(walk),
        Expr::Map(map) => map.entries.iter_mut().try_for_each(walk_entry),
        Expr::Select(select) => walk(&mut select.operand),
        Expr::Struct(object) => {
            let object = std::mem::take(object);
            at.expr = Expr::Map(map_of(object)?);
            Ok(())
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Ok(()),
    }
}

fn walk_entry(entry: &mut IdedEntryExpr) -> Result<(), String> {
    match &mut entry.expr {
        EntryExpr::MapEntry(entry) => {
            walk(&mut entry.key)?;
            walk(&mut entry.value)
        }
        EntryExpr::StructField(field) => walk(&mut field.value),
    }
}

fn call(id: u64, func_name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    IdedExpr { id, expr: Expr::Call(CallExpr { func_name: func_name.to_owned(), target: None, args }) }
}

/// The condition of a loop that runs so many parts in each turn.
fn counted(condition: IdedExpr, parts: u64) -> IdedExpr {
    let id = condition.id;
    let parts = i64::try_from(parts).unwrap_or(i64::MAX);
    let parts = IdedExpr { id, expr: Expr::Literal(LiteralValue::Int(parts.into())) };
    call(id, operators::LOGICAL_AND, vec![call(id, STEP, vec![parts]), condition])
}

/// A field as the entry of that name: the engine takes what has no fields for `false`, and upstream for a fault.
fn looked_up(id: u64, select: SelectExpr) -> Expr {
    let name = IdedExpr { id, expr: Expr::Literal(LiteralValue::String(select.field.as_str().into())) };
    let call = match select.test {
        true => call(id, operators::IN, vec![name, *select.operand]),
        false => call(id, operators::INDEX, vec![*select.operand, name]),
    };
    call.expr
}

/// How many parts an expression has; what a loop runs counts once.
pub(super) fn weight(at: &IdedExpr) -> u64 {
    let all = |parts: &[IdedExpr]| parts.iter().map(weight).sum::<u64>();
    let entry = |entry: &IdedEntryExpr| match &entry.expr {
        EntryExpr::MapEntry(entry) => weight(&entry.key) + weight(&entry.value),
        EntryExpr::StructField(field) => weight(&field.value),
    };
    1 + match &at.expr {
        Expr::Call(call) => call.target.as_deref().map_or(0, weight) + all(&call.args),
        Expr::Comprehension(inner) => {
            let parts =
                [&inner.iter_range, &inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result];
            parts.into_iter().map(weight).sum()
        }
        Expr::List(list) => all(&list.elements),
        Expr::Map(map) => map.entries.iter().map(entry).sum(),
        Expr::Select(select) => weight(&select.operand),
        Expr::Struct(object) => object.entries.iter().map(entry).sum(),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => 0,
    }
}

/// The map that a constructed object is, if its type fits its place.
fn map_of(object: StructExpr) -> Result<MapExpr, String> {
    let name = object.type_name.trim_start_matches('.').to_owned();
    let is_object = name == "Object" || name.starts_with("Object.");
    if !is_object && name != PATCH {
        return Err(format!("undeclared reference to '{name}' (in container '')"));
    }
    let mut entries = Vec::with_capacity(object.entries.len());
    for entry in object.entries {
        let EntryExpr::StructField(mut field) = entry.expr else { continue };
        if name == PATCH && !matches!(field.field.as_str(), "op" | "path" | "from" | "value") {
            return Err(format!("undefined field '{}'", field.field));
        }
        if is_object {
            check_place(&field.value, &format!("{name}.{}", field.field))?;
        }
        walk(&mut field.value)?;
        let key =
            IdedExpr { id: entry.id, expr: Expr::Literal(LiteralValue::String(field.field.as_str().into())) };
        let value = MapEntryExpr { key, value: field.value, optional: field.optional };
        entries.push(IdedEntryExpr { id: entry.id, expr: EntryExpr::MapEntry(value) });
    }
    Ok(MapExpr { entries })
}

/// An object inside another is of the type that its field names; lists and maps between them have no name.
fn check_place(value: &IdedExpr, expected: &str) -> Result<(), String> {
    match &value.expr {
        Expr::Struct(inner) if inner.type_name != expected => Err(format!(
            "type mismatch: unexpected type name \"{}\", expected \"{expected}\", which matches field name path from root \
             Object type",
            inner.type_name
        )),
        Expr::List(list) => list.elements.iter().try_for_each(|item| check_place(item, expected)),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => check_place(&entry.value, expected),
            EntryExpr::StructField(_) => Ok(()),
        }),
        _ => Ok(()),
    }
}
