//! `PATCH` of an object or of a part of it, in any of the four encodings.
//!
//! A patch is read only once there is an object to apply it to; what is wrong with it is said in the words of the
//! decoders that upstream uses. Source: `k8s.io/apiserver/pkg/endpoints/handlers/patch.go`.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;
use windlass_crd::{
    apply::{self, ApplyError},
    decode as strict,
    field::{self, Error},
    patch::{self, PatchError},
    protobuf,
    schema::Schema,
};

use crate::{
    body::Body,
    context::Context,
    decode, negotiate, object, options,
    status::{ApiError, ApiResult, Cause},
    strategy::Part,
    write::{self, CONFLICT_RETRIES, Change},
};

const APPLY: [&str; 2] = ["application/apply-patch+yaml", "application/apply-patch+cbor"];

/// The three encodings that say what to change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Operations,
    Merge,
    Strategic,
}

/// Patches.
///
/// # Errors
/// 400, 403, 404, 409, 413, 415, 422.
pub(crate) async fn patch(cx: &Context, part: Part, body: Bytes) -> ApiResult<Response<Body>> {
    let media = negotiate::media_type(&cx.headers);
    let applies = APPLY.contains(&media);
    let is_custom = cx.resource.custom.is_some();
    let kind = match media {
        "application/json-patch+json" => Kind::Operations,
        "application/strategic-merge-patch+json" if !is_custom => Kind::Strategic,
        "application/merge-patch+json" => Kind::Merge,
        _ if applies => Kind::Merge,
        _ => {
            return Err(ApiError::unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
    };
    cx.form()?;
    options::check_patch(&cx.query, applies)?;
    if applies {
        return server_side_apply(cx, part, &body).await;
    }
    let patch = Patch { cx, kind, body: &body };
    let change = |old: &Value| patch.applied_to(old).map(Change::of);
    write::modify(cx, part, change).await?.respond(cx, StatusCode::OK).await
}

struct Patch<'a> {
    cx: &'a Context,
    kind: Kind,
    body: &'a [u8],
}

impl Patch<'_> {
    /// The object as the patch leaves it.
    fn applied_to(&self, old: &Value) -> ApiResult<Value> {
        let cx = self.cx;
        let (document, duplicates) = self.document()?;
        let schema = cx.resource.schema();
        let mut obj = old.clone();
        let result = match self.kind {
            Kind::Operations => patch::json(&mut obj, &document),
            Kind::Merge => {
                patch::merge(&mut obj, &document);
                Ok(())
            }
            Kind::Strategic => patch::strategic(&mut obj, &document, &schema),
        };
        result.map_err(|e| patch_error(&e))?;
        self.check(&mut obj, old, &document, duplicates)?;
        write::take_namespace(cx, &mut obj)?;
        write::check_name(cx, &obj)?;
        Ok(obj)
    }

    fn document(&self) -> ApiResult<(Value, Vec<String>)> {
        let refuse = |why: &str| {
            // A strategic patch is read by another decoder, which says no more.
            let before = if self.kind == Kind::Strategic { "" } else { "error decoding patch: " };
            ApiError::bad_request(format!("{before}{why}"))
        };
        let (document, duplicates) = decode::parse_json(self.body).map_err(|error| refuse(&error.message))?;
        let (fits, wanted) = match self.kind {
            Kind::Operations => (document.is_array(), "[]handlers.jsonPatchOp"),
            _ => (document.is_object(), "map[string]interface {}"),
        };
        if !fits {
            let given = decode::json_type(&document);
            return Err(refuse(&format!("json: cannot unmarshal {given} into Go value of type {wanted}")));
        }
        if self.kind != Kind::Operations {
            return Ok((document, duplicates));
        }
        let unknown = unknown_of_operations(&document);
        let complaints =
            duplicates.into_iter().chain(unknown).map(|why| format!("json patch {why}")).collect();
        Ok((document, complaints))
    }

    /// Checks what came of it: it has to be an object of its kind, still.
    fn check(
        &self,
        obj: &mut Value,
        old: &Value,
        document: &Value,
        complaints: Vec<String>,
    ) -> ApiResult<()> {
        let cx = self.cx;
        // A strategic patch is about a kind that is known; what it says of that does not count.
        if self.kind != Kind::Strategic {
            let other = decode::another(&cx.resource, obj);
            other.map_or(Ok(()), |why| Err(self.refused(obj, old, document, why)))?;
        }
        object::set(obj, &["apiVersion"], cx.resource.api_version());
        object::set(obj, &["kind"], cx.resource.kind.as_ref());
        // Nothing has been tidied away when something is wrong.
        decode::check(cx, obj, complaints).map_err(|why| self.refused(obj, old, document, why))
    }

    /// 422 for what came of the patch.
    fn refused(&self, obj: &Value, old: &Value, document: &Value, why: String) -> ApiError {
        let (shown, why) = match self.kind {
            Kind::Operations => (shown_after(self.cx, obj, old, obj), why),
            Kind::Merge => (shown_after(self.cx, obj, old, document), why),
            Kind::Strategic => (field::go_value(document), restored(&why).unwrap_or(why)),
        };
        let error = Error::invalid(field::root("patch"), shown, why);
        ApiError::invalid_of("", "", "", &[error])
    }
}

/// The members of operations that upstream does not know.
fn unknown_of_operations(document: &Value) -> Vec<String> {
    let operations = document.as_array().map(Vec::as_slice).unwrap_or_default();
    let members = operations.iter().enumerate().flat_map(|(i, operation)| {
        let names = operation.as_object().into_iter().flat_map(serde_json::Map::keys);
        names.map(move |name| (i, name))
    });
    members
        .filter(|(_, name)| !matches!(name.as_str(), "op" | "path" | "from" | "value"))
        .map(|(i, name)| format!("unknown field \"[{i}].{name}\""))
        .collect()
}

/// What Go's JSON says of a wrong type, in the words of the converter that strategic patches go through.
fn restored(why: &str) -> Option<String> {
    let (given, rest) = why.strip_prefix("json: cannot unmarshal ")?.split_once(" into Go ")?;
    let wanted = rest.rsplit(" of type ").next()?;
    let given = match given {
        "number" => "int64",
        "object" => "map",
        "array" => "slice",
        other => other,
    };
    Some(match wanted {
        _ if wanted.starts_with("map[") => format!("cannot restore map from {given}"),
        _ if wanted.starts_with("[]") => format!("cannot restore slice from {given}"),
        _ if wanted.contains('.') => format!("cannot restore struct from: {given}"),
        scalar => format!("unrecognized type: {scalar}"),
    })
}

/// The object after a patch, as upstream has it at hand: what the patch went into by name, what it left alone in the
/// order in which upstream writes it.
fn shown_after(cx: &Context, obj: &Value, old: &Value, touched: &Value) -> String {
    let (version, kind) = (cx.resource.api_version(), &cx.resource.kind);
    let Some(map) = obj.as_object() else { return obj.to_string() };
    if cx.resource.custom.is_some() {
        return obj.to_string();
    }
    let fields: Vec<String> = map
        .iter()
        .map(|(name, value)| {
            let same = old.get(name) == Some(value);
            let text = match (same, value.as_object(), touched.get(name)) {
                (true, ..) => protobuf::field_in_order(&version, kind, name, value),
                // One level further down, where it is most of what there is.
                (false, Some(members), Some(_)) if name == "metadata" => {
                    let members: Vec<String> = members
                        .iter()
                        .map(|(name, value)| {
                            format!(
                                "{}:{}",
                                Value::from(name.as_str()),
                                protobuf::metadata_in_order(name, value)
                            )
                        })
                        .collect();
                    format!("{{{}}}", members.join(","))
                }
                _ => value.to_string(),
            };
            format!("{}:{text}", Value::from(name.as_str()))
        })
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn patch_error(error: &PatchError) -> ApiError {
    match error {
        PatchError::Unprocessable(_) => ApiError::unprocessable(),
        PatchError::Malformed(_) => ApiError::bad_request(error.to_string()),
        PatchError::Unmergeable(_) => ApiError::unknown(error.to_string()),
        _ => ApiError::too_large_text(error.to_string()),
    }
}

/// A configuration that its owner applies.
struct Applied {
    manager: String,
    force: bool,
    part: Part,
    body: Value,
    schema: std::sync::Arc<Schema>,
}

impl Applied {
    fn read(cx: &Context, part: Part, body: &[u8]) -> ApiResult<Self> {
        let (mut applied, duplicates) = decode::parse_yaml(body)
            .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {}", error.message)))?;
        if !applied.is_object() {
            return Err(ApiError::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go \
                 value of type map[string]interface {{}}",
                decode::json_type(&applied)
            )));
        }
        let (version, kind) = (object::text(&applied, &["apiVersion"]), object::text(&applied, &["kind"]));
        if version != cx.resource.api_version() || kind != cx.resource.kind {
            let core = if version.contains('/') { "" } else { "/" };
            return Err(ApiError::bad_request(format!("invalid object type: {core}{version}, Kind={kind}")));
        }
        if object::at(&applied, &["metadata", "managedFields"]).is_some() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let schema = cx.resource.schema();
        apply::check(&applied, &schema).map_err(|e| apply_error(&e))?;
        decode::tidy(cx, &mut applied, duplicates)?;
        let manager = cx.query.get("fieldManager").unwrap_or_default().to_owned();
        Ok(Self { manager, force: cx.query.flag("force"), part, body: applied, schema })
    }

    /// The configuration merged into what is there.
    fn merged_into(&self, cx: &Context, live: Option<&Value>) -> ApiResult<Value> {
        let (api_version, time) = (cx.resource.api_version(), object::now());
        let owner = apply::Manager {
            name: &self.manager,
            api_version: &api_version,
            subresource: write::subresource(self.part),
            time: &time,
        };
        let reset = write::reset_fields(cx, self.part);
        let mut merged = apply::apply(live, &self.body, &self.schema, &owner, self.force, &reset)
            .map_err(|e| apply_error(&e))?;
        if cx.resource.custom.is_none() {
            // What lost its last member is empty still.
            strict::canonicalise(&mut merged, &self.schema);
        }
        let uid = object::uid(&merged);
        if live.is_none() && !uid.is_empty() {
            return Err(ApiError::conflict(
                &cx.resource,
                &cx.info.name,
                format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                ),
            ));
        }
        write::take_namespace(cx, &mut merged)?;
        write::check_name(cx, &merged)?;
        Ok(merged)
    }
}

async fn server_side_apply(cx: &Context, part: Part, body: &[u8]) -> ApiResult<Response<Body>> {
    let applied = Applied::read(cx, part, body)?;
    let key = cx.resource.key(&cx.info.namespace, &cx.info.name);
    for _ in 0..CONFLICT_RETRIES {
        if cx.api.store.get(&key).is_none() {
            if part != Part::Main {
                return Err(ApiError::not_found(&cx.resource, &cx.info.name));
            }
            match write::create(cx, applied.merged_into(cx, None)?, false).await {
                Err(error) if error.reason == "AlreadyExists" => continue,
                other => return other?.respond(cx, StatusCode::CREATED).await,
            }
        }
        let change = |old: &Value| Ok(Change { obj: applied.merged_into(cx, Some(old))?, tracks: false });
        return write::modify(cx, part, change).await?.respond(cx, StatusCode::OK).await;
    }
    Err(ApiError::modified(&cx.resource, &cx.info.name))
}

fn apply_error(error: &ApplyError) -> ApiError {
    match error {
        ApplyError::Conflicts(conflicts) => {
            let causes = conflicts
                .iter()
                .map(|c| Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: c.message(),
                    field: c.field.clone(),
                })
                .collect();
            ApiError::apply_conflict(error.to_string(), causes)
        }
        // Upstream expects none of the others.
        other => ApiError::unknown(other.to_string()),
    }
}
