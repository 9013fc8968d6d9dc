//! JSON with its fields in the order of upstream's structures, which is that of their tags.
//!
//! Nothing depends on this order but messages that show an object whole.

use serde_json::{Map, Value};

use super::{
    definition,
    table::{self, Field, Id, Kind, Shape},
};

/// An object of a built-in kind as one line, its fields in the order in which upstream writes them; those of other
/// kinds by name.
pub fn in_order(api_version: &str, kind: &str, object: &Value) -> String {
    let mut out = String::new();
    match (object, definition(api_version, kind)) {
        (Value::Object(map), Some(id)) => {
            let mut rest = map.clone();
            let types: Vec<(String, String)> = ["kind", "apiVersion"]
                .iter()
                .filter_map(|key| Some(((*key).to_owned(), rest.remove(*key)?.to_string())))
                .collect();
            write_fields(&mut out, types.into_iter().chain(fields(&rest, id)));
        }
        _ => out = object.to_string(),
    }
    out
}

/// A field of a built-in object as one line, in the same order.
pub fn field_in_order(api_version: &str, kind: &str, name: &str, value: &Value) -> String {
    let field = definition(api_version, kind).and_then(|id| table::message(id).by_name(name));
    field.map_or_else(|| value.to_string(), |(_, field)| text(value, field.kind, field.shape))
}

/// A field of an object's metadata, in the same order.
pub fn metadata_in_order(name: &str, value: &Value) -> String {
    let metadata = definition("v1", "Pod").and_then(|id| table::message(id).by_name("metadata"));
    let Some((_, Field { kind: Kind::Message(_, id), .. })) = metadata else { return value.to_string() };
    let field = table::message(*id).by_name(name);
    field.map_or_else(|| value.to_string(), |(_, field)| text(value, field.kind, field.shape))
}

fn text(value: &Value, kind: Kind, shape: Shape) -> String {
    let Kind::Message(_, id) = kind else { return value.to_string() };
    let mut out = String::new();
    match (value, shape) {
        (Value::Array(items), Shape::List) => {
            let items: Vec<String> = items.iter().map(|item| text(item, kind, Shape::One)).collect();
            out = format!("[{}]", items.join(","));
        }
        (Value::Object(map), Shape::Map) => {
            write_fields(&mut out, map.iter().map(|(k, v)| (k.clone(), text(v, kind, Shape::One))));
        }
        (Value::Object(map), Shape::One) => write_fields(&mut out, fields(map, id).into_iter()),
        _ => out = value.to_string(),
    }
    out
}

/// The members of a message, by tag; those that the table does not know come last.
fn fields(map: &Map<String, Value>, id: Id) -> Vec<(String, String)> {
    let message = table::message(id);
    // Of all structures, that of owners alone is written in another order than its tags have.
    let is_owner = table::find("meta.v1.OwnerReference").is_some_and(|owner| owner == id);
    let mut found: Vec<(Vec<u32>, String, String)> = map
        .iter()
        .map(|(name, value)| match message.by_name(name) {
            Some((_, field)) if is_owner && name == "apiVersion" => {
                (Vec::new(), name.clone(), text(value, field.kind, field.shape))
            }
            Some((path, field)) => {
                let place = path.iter().copied().chain([field.tag]).collect();
                (place, name.clone(), text(value, field.kind, field.shape))
            }
            None => (vec![u32::MAX], name.clone(), value.to_string()),
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.into_iter().map(|(_, name, text)| (name, text)).collect()
}

fn write_fields(out: &mut String, fields: impl Iterator<Item = (String, String)>) {
    out.push('{');
    for (i, (name, text)) in fields.enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&Value::from(name).to_string());
        out.push(':');
        out.push_str(&text);
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_stand_in_the_order_of_upstreams_structures() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"image": "i", "name": "a"}], "volumes": []},
            "metadata": {"creationTimestamp": "T", "uid": "u", "name": "p", "labels": {"b": "1", "a": "2"}},
        });
        assert_eq!(
            in_order("v1", "Pod", &pod),
            "{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"p\",\"uid\":\"u\",\"creationTimestamp\":\
             \"T\",\"labels\":{\"a\":\"2\",\"b\":\"1\"}},\"spec\":{\"volumes\":[],\"containers\":[{\"name\":\"a\",\
             \"image\":\"i\"}]}}"
        );
        assert_eq!(
            field_in_order("v1", "Pod", "metadata", &pod["metadata"]["labels"]),
            "{\"a\":\"2\",\"b\":\"1\"}"
        );
        assert_eq!(in_order("x/v1", "Own", &json!({"b": 1, "a": 2})), "{\"a\":2,\"b\":1}");
    }
}
