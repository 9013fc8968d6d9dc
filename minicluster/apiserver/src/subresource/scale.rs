//! `scale`: the number of replicas of any kind that has one, as `autoscaling/v1 Scale`.

use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use windlass_crd::{
    apply,
    field::{self, Error},
    patch,
    selector::LabelSelector,
};

use super::parent;
use crate::{
    body::{self, Body},
    context::Context,
    decode, negotiate, object, read,
    registry::ScalePaths,
    status::{ApiError, ApiResult},
    strategy::Part,
    write::{self, Change},
};

pub(super) async fn handle(cx: &Context, request: Request<Body>) -> ApiResult<Response<Body>> {
    if cx.info.verb == "get" {
        return respond(&of(cx, &parent(cx).await?));
    }
    let bytes = body::read(request.into_body()).await?;
    let media = negotiate::media_type(&cx.headers);
    let patches = cx.info.verb == "patch";
    let by_operations = patches && media == "application/json-patch+json";
    let document = if patches && media == "application/apply-patch+yaml" {
        decode::parse_yaml(&bytes)?.0
    } else if patches {
        decode::parse_json(&bytes)?.0
    } else {
        decode::parse(&cx.headers, &bytes)?.0
    };
    let manager = cx.field_manager();
    let change = |old: &Value| {
        let current = of(cx, old);
        let mut wanted = if patches { current.clone() } else { document.clone() };
        if by_operations {
            patch::json(&mut wanted, &document).map_err(|e| ApiError::bad_request(e.to_string()))?;
        } else if patches {
            patch::merge(&mut wanted, &document);
        }
        check(cx, &wanted, &current)?;
        let replicas = object::number(&wanted, &["spec", "replicas"]).unwrap_or(0);
        let mut obj = old.clone();
        let path = replicas_path(cx);
        object::set(&mut obj, &path.iter().map(String::as_str).collect::<Vec<_>>(), replicas);
        // The replicas now belong to whoever scaled, under the subresource's name; of the time upstream says nothing.
        let api_version = cx.resource.api_version();
        let owner =
            apply::Manager { name: &manager, api_version: &api_version, subresource: "scale", time: "" };
        apply::update(Some(old), &mut obj, &cx.resource.schema(), &owner, &[]);
        Ok(Change { obj, tracks: false })
    };
    let written = write::modify(cx, Part::Main, change).await?;
    respond(&of(cx, &written.value(cx).await?))
}

fn respond(scale: &Value) -> ApiResult<Response<Body>> {
    Ok(body::json(StatusCode::OK, read::line(scale)))
}

fn check(cx: &Context, wanted: &Value, current: &Value) -> ApiResult<()> {
    let name = &cx.info.name;
    let rv = object::text(wanted, &["metadata", "resourceVersion"]);
    if !rv.is_empty() && rv != object::text(current, &["metadata", "resourceVersion"]) {
        return Err(ApiError::modified(&cx.resource, name));
    }
    let uid = object::uid(wanted);
    if !uid.is_empty() && uid != object::uid(current) {
        return Err(ApiError::conflict(&cx.resource, name, "Precondition failed: UID does not match"));
    }
    let path = field::root("spec").child("replicas");
    let error = match object::at(wanted, &["spec", "replicas"]) {
        None => return Ok(()),
        Some(value) => match value.as_i64() {
            Some(n) if n >= 0 && i32::try_from(n).is_ok() => return Ok(()),
            _ => Error::invalid(&path, value.clone(), "must be greater than or equal to 0"),
        },
    };
    Err(ApiError::invalid_of("Scale", "autoscaling", name, &[error]))
}

/// What is wrong with the numbers that a custom object is scaled by.
///
/// Source: `customResourceValidator`'s `ValidateScaleSpec` and `ValidateScaleStatus`.
pub(crate) fn check_replicas(obj: &Value, paths: &ScalePaths, errors: &mut field::ErrorList) {
    let ways = [&paths.spec_replicas, &paths.status_replicas].into_iter().filter(|way| !way.is_empty());
    for way in ways {
        let shown = format!(".{}", way.join("."));
        let found = object::at(obj, &way.iter().map(String::as_str).collect::<Vec<_>>());
        let (given, detail) = match found.map(|value| (value, value.as_i64())) {
            None => continue,
            Some((_, Some(n))) if n < 0 => (n, "should be a non-negative integer".to_owned()),
            Some((_, Some(n))) if n > i64::from(i32::MAX) => {
                (n, format!("should be less than or equal to {}", i32::MAX))
            }
            Some((_, Some(_))) => continue,
            Some((value, None)) => {
                let (text, ty) = match value {
                    Value::String(text) => (text.clone(), "string"),
                    Value::Bool(flag) => (flag.to_string(), "bool"),
                    Value::Number(number) => (number.to_string(), "float64"),
                    Value::Array(_) => ("[]".to_owned(), "[]interface {}"),
                    Value::Object(_) => ("map[]".to_owned(), "map[string]interface {}"),
                    Value::Null => ("<nil>".to_owned(), "<nil>"),
                };
                (0, format!("{shown} accessor error: {text} is of the type {ty}, expected int64"))
            }
        };
        errors.push(Error::invalid(field::root(shown), given, detail));
    }
}

fn replicas_path(cx: &Context) -> Vec<String> {
    match cx.resource.custom.as_ref().and_then(|c| c.scale.as_ref()) {
        Some(paths) => paths.spec_replicas.clone(),
        None => vec!["spec".to_owned(), "replicas".to_owned()],
    }
}

/// The `Scale` of an object.
fn of(cx: &Context, obj: &Value) -> Value {
    let at = |path: &[String]| {
        object::number(obj, &path.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_or(0)
    };
    let custom = cx.resource.custom.as_ref().and_then(|c| c.scale.as_ref());
    let (spec, status, selector) = match custom {
        Some(paths) => {
            let selector = paths
                .selector
                .as_ref()
                .map(|p| object::text(obj, &p.iter().map(String::as_str).collect::<Vec<_>>()).to_owned());
            (at(&paths.spec_replicas), at(&paths.status_replicas), selector.unwrap_or_default())
        }
        None => {
            let number = |path: &[&str]| object::number(obj, path).unwrap_or(0);
            (number(&["spec", "replicas"]), number(&["status", "replicas"]), selector_text(obj))
        }
    };
    let mut meta = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object::at(obj, &["metadata", key]) {
            meta[key] = value.clone();
        }
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": { "replicas": spec }, "status": { "replicas": status },
    });
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

fn selector_text(obj: &Value) -> String {
    let Some(selector) = object::at(obj, &["spec", "selector"]) else { return String::new() };
    // A ReplicationController selects by a plain map.
    let plain = selector.as_object().is_some_and(|m| m.values().all(Value::is_string));
    let selector = if plain { json!({ "matchLabels": selector }) } else { selector.clone() };
    LabelSelector::from_json(Some(&selector)).map(|s| s.to_string()).unwrap_or_default()
}
