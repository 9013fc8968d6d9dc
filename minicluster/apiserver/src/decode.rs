//! A request body becomes an object of the kind that the path names.

use http::HeaderMap;
use serde_json::Value;
use windlass_crd::{decode as strict, protobuf, structural};

use crate::{
    context::{Context, FieldValidation},
    negotiate::{self, Encoding},
    object,
    registry::Resource,
    status::{ApiError, ApiResult},
    yaml,
};

/// The deepest nesting of a body.
pub const DEPTH_MAX: usize = 128;

/// A tree, and complaints of the fields that stood in it twice.
type Parsed = (Value, Vec<String>);

/// Parses a body by its content type.
///
/// # Errors
/// 400 or 415.
pub fn parse(headers: &HeaderMap, bytes: &[u8]) -> ApiResult<Parsed> {
    match negotiate::encoding(headers)? {
        Encoding::Json => parse_json(bytes),
        Encoding::Yaml => parse_yaml(bytes),
        Encoding::Protobuf => {
            let value =
                protobuf::decode(bytes, DEPTH_MAX).map_err(|e| ApiError::bad_request(e.to_string()))?;
            Ok((value, Vec::new()))
        }
    }
}

/// Parses JSON.
///
/// # Errors
/// 400.
pub fn parse_json(bytes: &[u8]) -> ApiResult<Parsed> {
    let (value, twice) =
        strict::parse_json(bytes, DEPTH_MAX).map_err(|e| ApiError::bad_request(e.to_string()))?;
    Ok((value, twice.iter().map(|field| format!("duplicate field \"{field}\"")).collect()))
}

/// Parses YAML, of which JSON is a part.
///
/// # Errors
/// 400.
pub fn parse_yaml(bytes: &[u8]) -> ApiResult<Parsed> {
    if bytes.trim_ascii_start().first() == Some(&b'{')
        && let Ok(parsed) = parse_json(bytes)
    {
        return Ok(parsed);
    }
    let text =
        std::str::from_utf8(bytes).map_err(|e| ApiError::bad_request(format!("error parsing YAML: {e}")))?;
    let (value, twice) =
        yaml::parse(text).map_err(|e| ApiError::bad_request(format!("error parsing YAML: {e}")))?;
    Ok((value, twice.into_iter().collect()))
}

/// Checks that a body is an object of the resource's kind, without fields that the kind does not have.
///
/// # Errors
/// 400 as upstream words it.
pub fn accept(cx: &Context, parsed: Parsed) -> ApiResult<Value> {
    let (mut obj, duplicates) = parsed;
    expect_kind(&cx.resource, &mut obj)?;
    tidy(cx, &mut obj, duplicates)?;
    Ok(obj)
}

fn expect_kind(resource: &Resource, obj: &mut Value) -> ApiResult<()> {
    if !obj.is_object() {
        return Err(ApiError::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ \
             APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            json_type(obj)
        )));
    }
    let wanted = resource.api_version();
    let (version, kind) = (object::text(obj, &["apiVersion"]), object::text(obj, &["kind"]));
    if resource.custom.is_some() && (version.is_empty() || kind.is_empty()) {
        let what = if kind.is_empty() { "Kind" } else { "apiVersion" };
        return Err(ApiError::bad_request(format!("Object '{what}' is missing in 'unstructured object'")));
    }
    let version_ok = version.is_empty() || version == wanted;
    let kind_ok = kind.is_empty() || kind == resource.kind;
    if !version_ok {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    if !kind_ok {
        return Err(ApiError::bad_request(format!(
            "{kind} in version \"{}\" cannot be handled as a {}: no kind \"{kind}\" is registered for version \
             \"{wanted}\" in scheme",
            resource.version, resource.kind
        )));
    }
    object::set(obj, &["apiVersion"], wanted);
    object::set(obj, &["kind"], resource.kind.as_ref());
    Ok(())
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Checks types, reports or drops unknown fields and removes nulls.
///
/// # Errors
/// 400: a wrong type, or an unknown field with `fieldValidation=Strict`.
pub fn tidy(cx: &Context, obj: &mut Value, duplicates: Vec<String>) -> ApiResult<()> {
    let schema = cx.resource.schema();
    let checked = strict::check(obj, &schema);
    if let Some(error) = checked.type_error
        && cx.resource.custom.is_none()
    {
        return Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {error}",
            cx.resource.kind, cx.resource.version, cx.resource.kind
        )));
    }
    let unknown = checked.unknown.iter().map(|f| format!("unknown field \"{f}\""));
    // YAML is read as a whole before its fields are looked at; JSON is read field by field, and what is unknown stands
    // before what stands twice unless somebody wrote it the other way round.
    let (yaml, json): (Vec<String>, Vec<String>) =
        duplicates.into_iter().partition(|complaint| complaint.starts_with("yaml:"));
    let complaints: Vec<String> = yaml.into_iter().chain(unknown).chain(json).collect();
    match cx.field_validation()? {
        FieldValidation::Strict if !complaints.is_empty() => {
            return Err(ApiError::bad_request(format!(
                "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
                cx.resource.kind,
                cx.resource.version,
                cx.resource.kind,
                complaints.join(", ")
            )));
        }
        FieldValidation::Warn => complaints.into_iter().for_each(|c| cx.warn(c)),
        _ => {}
    }
    if cx.resource.custom.is_some() {
        structural::prune(obj, &schema);
    } else {
        strict::prune_unknown(obj, &schema);
        strict::canonicalise(obj, &schema);
    }
    Ok(())
}
