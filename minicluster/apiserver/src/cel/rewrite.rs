//! Puts what the engine does not know into words that it does.
//!
//! A constructed object, `Object.spec{replicas: 3}`, becomes the map that it is; each loop counts its turns. Pure.
//! Missing: macros with two variables, which the checker knows and the engine does not.

use kube_cel::cel::{
    IdedExpr,
    common::ast::{
        CallExpr, EntryExpr, Expr, IdedEntryExpr, LiteralValue, MapEntryExpr, MapExpr, StructExpr, operators,
    },
};

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
            comprehension.loop_cond = counted(condition);
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

fn counted(condition: IdedExpr) -> IdedExpr {
    let id = condition.id;
    let call = |func_name: &str, args| IdedExpr {
        id,
        expr: Expr::Call(CallExpr { func_name: func_name.to_owned(), target: None, args }),
    };
    call(operators::LOGICAL_AND, vec![call(STEP, Vec::new()), condition])
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
