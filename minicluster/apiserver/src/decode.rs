//! A request body becomes an object of the kind that the path names.

use http::HeaderMap;
use serde_json::Value;
use windlass_crd::{decode as strict, field, protobuf, schema, structural};

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
    expect_kind(cx, &mut obj)?;
    tidy(cx, &mut obj, duplicates)?;
    Ok(obj)
}

/// Reads a body that is to be an object of the resource's kind.
///
/// # Errors
/// 400 as upstream words it, 415.
pub fn object(cx: &Context, body: &[u8]) -> ApiResult<Value> {
    let parsed = parse(&cx.headers, body).map_err(|error| {
        let is_protobuf = matches!(negotiate::encoding(&cx.headers), Ok(Encoding::Protobuf));
        match error.code {
            400 if is_protobuf => unrecognized(&cx.resource, &error.message, body),
            400 => {
                let why = format!("couldn't get version/kind; json parse error: {}", error.message);
                unrecognized(&cx.resource, &why, body)
            }
            _ => error,
        }
    })?;
    // Nothing is an object without fields.
    let parsed = if parsed.0.is_null() { (serde_json::json!({}), parsed.1) } else { parsed };
    if !parsed.0.is_object() {
        return Err(unrecognized(&cx.resource, &no_object(&parsed.0), body));
    }
    for key in ["apiVersion", "kind"] {
        if let Some(given) = parsed.0.get(key).filter(|given| !given.is_string() && !given.is_null()) {
            let why = format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{key} of \
                 type string",
                json_type(given)
            );
            return Err(unrecognized(&cx.resource, &why, body));
        }
    }
    let version = object::text(&parsed.0, &["apiVersion"]);
    if version.matches('/').count() > 1 {
        return Err(unrecognized(&cx.resource, &format!("unexpected GroupVersion string: {version}"), body));
    }
    accept(cx, parsed)
}

/// The most bytes of a body that a message shows.
const SUMMARY_BYTES: usize = 30;

/// 400 for a body whose kind cannot be told.
fn unrecognized(resource: &Resource, why: &str, body: &[u8]) -> ApiError {
    let more = if body.len() > SUMMARY_BYTES { " ..." } else { "" };
    let begin = &body[..body.len().min(SUMMARY_BYTES)];
    let summary = match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(begin)),
        Some(_) => begin.iter().map(|byte| format!("{byte:02x}")).chain([more.to_owned()]).collect(),
    };
    let kind = &resource.kind;
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {why} ({summary})"
    ))
}

/// Why something that is JSON, but no object, has no kind.
pub(crate) fn no_object(value: &Value) -> String {
    format!(
        "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ \
         APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
        json_type(value)
    )
}

/// Why nothing of this kind can be read; `scheme` is where upstream looked for it.
pub(crate) fn not_registered(kind: &str, version: &str, scheme: &str) -> String {
    format!("no kind \"{kind}\" is registered for version \"{version}\" in scheme \"{scheme}\"")
}

/// Where upstream registers the kinds of a group.
fn scheme_of(group: &str) -> &'static str {
    match group {
        "apiextensions.k8s.io" => "k8s.io/apiextensions-apiserver/pkg/apiserver/apiserver.go:53",
        "apiregistration.k8s.io" => "k8s.io/kube-aggregator/pkg/apiserver/scheme/scheme.go:33",
        _ => "pkg/api/legacyscheme/scheme.go:30",
    }
}

fn expect_kind(cx: &Context, obj: &mut Value) -> ApiResult<()> {
    let resource = &cx.resource;
    if !obj.is_object() {
        return Err(ApiError::bad_request(no_object(obj)));
    }
    let wanted = resource.api_version();
    let (version, kind) = (object::text(obj, &["apiVersion"]), object::text(obj, &["kind"]));
    if resource.custom.is_some() {
        expect_custom(cx, obj, version, kind)?;
    } else if !version.is_empty() && version != wanted || !kind.is_empty() && kind != resource.kind {
        let version = if version.is_empty() { wanted.as_str() } else { version };
        let kind = if kind.is_empty() { &resource.kind } else { kind };
        return Err(another_kind(resource, version, kind));
    }
    object::set(obj, &["apiVersion"], wanted);
    object::set(obj, &["kind"], resource.kind.as_ref());
    Ok(())
}

/// 400 for an object of another kind, or of another version of this one.
fn another_kind(resource: &Resource, version: &str, kind: &str) -> ApiError {
    let wanted = resource.api_version();
    match no_conversion(resource, version, kind) {
        Some(why) => {
            let (version, wanted) = (version.rsplit('/').next().unwrap_or_default(), &resource.kind);
            ApiError::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {wanted}: {why}"
            ))
        }
        None => ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )),
    }
}

/// Why an object of that kind cannot be turned into one of the resource's; `None` when it can.
fn no_conversion(resource: &Resource, version: &str, kind: &str) -> Option<String> {
    if schema::builtin(version, kind).is_none() {
        return Some(not_registered(kind, version, scheme_of(&resource.group)));
    }
    let (group, short) = version.split_once('/').unwrap_or(("", version));
    let to = internal(&resource.group, &resource.kind);
    (internal(group, kind) != to)
        .then(|| format!("converting ({short}.{kind}) to ({to}): unknown conversion"))
}

/// Why an object that has been changed is of the resource's kind no longer; `None` when it is.
pub(crate) fn another(resource: &Resource, obj: &Value) -> Option<String> {
    let wanted = resource.api_version();
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let version = or(object::text(obj, &["apiVersion"]), &wanted);
    let kind = or(object::text(obj, &["kind"]), &resource.kind);
    if version == wanted && kind == resource.kind {
        return None;
    }
    if resource.custom.is_some() {
        let why = "does not match the expected API version";
        return Some(format!("the API version in the data ({version}) {why} ({wanted})"));
    }
    // It is read as what it says it is before anybody sees that this is not wanted here.
    let read = schema::builtin(&version, &kind);
    let fault = read.and_then(|schema| strict::check(obj, &schema).type_error);
    fault.or_else(|| no_conversion(resource, &version, &kind))
}

/// The structure that upstream turns all versions of a kind into.
fn internal(group: &str, kind: &str) -> String {
    let package = match group {
        "" | "events.k8s.io" => "core",
        "internal.apiserver.k8s.io" => "apiserverinternal",
        _ => group.split('.').next().unwrap_or_default(),
    };
    format!("{package}.{kind}")
}

fn expect_custom(cx: &Context, obj: &Value, version: &str, kind: &str) -> ApiResult<()> {
    let resource = &cx.resource;
    let wanted = resource.api_version();
    if version.is_empty() || kind.is_empty() {
        let what = if kind.is_empty() { "Kind" } else { "apiVersion" };
        return Err(ApiError::bad_request(format!("Object '{what}' is missing in 'unstructured object'")));
    }
    if version != wanted {
        unknown_in(cx, obj, version, kind)?;
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    if kind != resource.kind {
        let why = field::Error::invalid(field::root("kind"), kind, format!("must be {}", resource.kind));
        return Err(ApiError::invalid_of(kind, &resource.group, object::name(obj), &[why]));
    }
    Ok(())
}

/// What an object of another version has that this version knows nothing of. A version that is not served knows nothing.
fn unknown_in(cx: &Context, obj: &Value, version: &str, kind: &str) -> ApiResult<()> {
    let (group, short) = version.split_once('/').unwrap_or(("", version));
    if *group != *cx.resource.group || *kind != *cx.resource.kind {
        return Ok(());
    }
    let unknown = match cx.api.registry.get(group, short, &cx.resource.plural) {
        Some(other) => strict::check(obj, &other.schema()).unknown,
        None => {
            let names = obj.as_object().into_iter().flatten().map(|(name, _)| name.clone());
            names.filter(|name| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata")).collect()
        }
    };
    let complaints: Vec<String> = unknown.iter().map(|name| format!("unknown field \"{name}\"")).collect();
    match cx.field_validation() {
        FieldValidation::Strict if !complaints.is_empty() => Err(ApiError::bad_request(format!(
            "{kind} in version \"{short}\" cannot be handled as a {kind}: strict decoding error: {}",
            complaints.join(", ")
        ))),
        FieldValidation::Warn => {
            complaints.into_iter().for_each(|complaint| cx.warn(complaint));
            Ok(())
        }
        _ => Ok(()),
    }
}

pub(crate) fn json_type(value: &Value) -> &'static str {
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
    check(cx, obj, duplicates).map_err(|why| {
        ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {why}",
            cx.resource.kind, cx.resource.version, cx.resource.kind
        ))
    })
}

/// [`tidy`], with what is wrong in words alone.
///
/// # Errors
/// Why the object is none of its kind.
pub(crate) fn check(cx: &Context, obj: &mut Value, duplicates: Vec<String>) -> Result<(), String> {
    let schema = cx.resource.schema();
    let checked = strict::check(obj, &schema);
    if let Some(error) = checked.type_error
        && cx.resource.custom.is_none()
    {
        return Err(error);
    }
    if cx.resource.custom.is_some()
        && let Some(error) = metadata_error(obj)
    {
        return Err(error);
    }
    let unknown = checked.unknown.iter().map(|f| format!("unknown field \"{f}\""));
    // YAML is read as a whole before its fields are looked at; JSON is read field by field, and what is unknown stands
    // before what stands twice unless somebody wrote it the other way round.
    let (yaml, json): (Vec<String>, Vec<String>) =
        duplicates.into_iter().partition(|why| why.starts_with("yaml:") || why.starts_with("json patch "));
    let complaints: Vec<String> = yaml.into_iter().chain(unknown).chain(json).collect();
    match cx.field_validation() {
        FieldValidation::Strict if !complaints.is_empty() => {
            return Err(format!("strict decoding error: {}", complaints.join(", ")));
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

/// Metadata has its types even where nobody gave a schema for them; other types are told field by field.
fn metadata_error(obj: &Value) -> Option<String> {
    let metadata = obj.get("metadata")?;
    let known = schema::definition("meta.v1.ObjectMeta")?;
    strict::check(metadata, &known).type_error
}
