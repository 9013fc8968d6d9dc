//! `create`, `update`, `patch` and every other change of an object, for every kind.
//!
//! All changes run through [`create`] or [`modify`]: decide on a tree, default, admit, stamp, validate, admit again,
//! and commit on the revision that was read. A conflict that the client did not ask for is retried.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Response, StatusCode};
use minicluster_store::{Entry, Outcome, Txn};
use serde_json::{Value, json};
use windlass_crd::{
    apply::{self, ApplyError},
    field, patch, structural, typed,
};

use crate::{
    admission::{self, Operation, quota},
    authz,
    body::Body,
    context::Context,
    crds::{self, conversion},
    decode, delete,
    object::{self, is_deleting},
    read,
    registry::METADATA,
    status::{ApiError, ApiResult, Cause},
    strategy::Part,
    validate,
};

/// How often a change is tried again when somebody else wrote in between.
const CONFLICT_RETRIES: usize = 5;

/// How many names are tried for `generateName`.
const GENERATE_NAME_TRIES: usize = 8;

/// The longest prefix of a generated name; five random characters follow.
const GENERATE_NAME_PREFIX_MAX: usize = 58;

/// What became of a write.
pub enum Written {
    /// It is stored.
    Stored(Arc<Entry>),
    /// It would have been stored (`dryRun=All`), or was the last write before the object's end.
    Computed(Value),
}

impl Written {
    /// The response that shows it.
    ///
    /// # Errors
    /// 406; 500 when it cannot be converted.
    pub async fn respond(&self, cx: &Context, code: StatusCode) -> ApiResult<Response<Body>> {
        let form = cx.form()?;
        match self {
            Self::Stored(entry) => read::one(cx, form, code, entry).await,
            Self::Computed(obj) => read::value(cx, form, code, obj),
        }
    }

    /// The object in the version of the request.
    ///
    /// # Errors
    /// 500 when it cannot be converted.
    pub async fn value(&self, cx: &Context) -> ApiResult<Value> {
        match self {
            Self::Stored(entry) => conversion::decode(&cx.api, &cx.resource, &entry.value).await,
            Self::Computed(obj) => Ok(obj.clone()),
        }
    }
}

/// Which subresource name a write's field ownership is recorded under.
fn subresource(part: Part) -> &'static str {
    match part {
        Part::Status => "status",
        Part::EphemeralContainers => "ephemeralcontainers",
        Part::Resize => "resize",
        Part::Main | Part::Server => "",
    }
}

/// `POST` of a new object.
///
/// # Errors
/// 400, 403, 404, 409, 413, 415, 422.
pub async fn post(cx: &Context, body: Bytes) -> ApiResult<Response<Body>> {
    cx.form()?;
    let obj = decode::accept(cx, decode::parse(&cx.headers, &body)?)?;
    create(cx, obj, true).await?.respond(cx, StatusCode::CREATED).await
}

/// Creates an object. `tracks`: record field ownership (not when server-side apply has done so).
///
/// # Errors
/// As [`post`].
pub async fn create(cx: &Context, mut obj: Value, tracks: bool) -> ApiResult<Written> {
    take_namespace(cx, &mut obj)?;
    let dry_run = cx.dry_run()?;
    let generated =
        object::name(&obj).is_empty() && !object::text(&obj, &["metadata", "generateName"]).is_empty();
    let tries = if generated { GENERATE_NAME_TRIES } else { 1 };
    for last in (0..tries).rev() {
        let mut candidate = obj.clone();
        if generated {
            let prefix: String = object::text(&obj, &["metadata", "generateName"])
                .chars()
                .take(GENERATE_NAME_PREFIX_MAX)
                .collect();
            object::set(&mut candidate, &["metadata", "name"], format!("{prefix}{}", cx.api.random_suffix()));
        }
        match create_named(cx, candidate, dry_run, tracks).await {
            Err(error) if error.reason == "AlreadyExists" && generated => {
                if last == 0 {
                    return Err(ApiError::generate_name_conflict(
                        &cx.resource,
                        object::text(&obj, &["metadata", "generateName"]),
                    ));
                }
            }
            other => return other,
        }
    }
    Err(ApiError::internal("no name could be generated"))
}

fn take_namespace(cx: &Context, obj: &mut Value) -> ApiResult<()> {
    if !object::at(obj, &["metadata"]).is_some_and(Value::is_object) {
        object::meta(obj);
    }
    if !cx.resource.namespaced {
        object::remove(obj, &["metadata", "namespace"]);
        return Ok(());
    }
    let given = object::namespace(obj);
    if !given.is_empty() && given != cx.info.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if cx.info.namespace.is_empty() {
        return Err(ApiError::bad_request("namespace is required"));
    }
    object::set(obj, &["metadata", "namespace"], cx.info.namespace.as_str());
    Ok(())
}

/// Schema defaults and the kind's own, and what its typed form always has.
pub fn fill_defaults(cx: &Context, obj: &mut Value) {
    let schema = cx.resource.schema();
    structural::default(obj, &schema);
    cx.resource.strategy.default(obj);
    if cx.resource.custom.is_none() {
        typed::complete(obj, &schema);
    }
}

async fn create_named(cx: &Context, mut obj: Value, dry_run: bool, tracks: bool) -> ApiResult<Written> {
    let resource = &cx.resource;
    if resource.is_terminating() {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(ApiError::forbidden(resource, object::name(&obj), why));
    }
    begin_life(cx, &mut obj);
    fill_defaults(cx, &mut obj);
    // Owned is what the client sent, not what admission and the kind add to it.
    if tracks {
        track(cx, None, &mut obj, Part::Main);
    }
    if admission::mutate(cx, Operation::Create, &mut obj, None).await? {
        fill_defaults(cx, &mut obj);
    }
    authz::check_escalation(cx, &obj, None).await?;
    if resource.has("status") {
        // A typed status is empty, not absent: its defaults bring it back.
        object::remove(&mut obj, &["status"]);
    }
    if resource.generation || resource.custom.is_some() {
        object::set(&mut obj, &["metadata", "generation"], 1);
    }
    resource.strategy.prepare_create(&mut obj);
    fill_defaults(cx, &mut obj);
    crds::settle_written(cx, &mut obj);
    admission::settle_written(cx, &mut obj);
    let reservation = cx.api.services.allocate(cx, &mut obj, None)?;
    let mut errors = validate::metadata(resource, &obj);
    errors.extend(own_errors(cx, &obj, None));
    errors.extend(resource.strategy.validate(&obj));
    refuse(cx, &obj, &errors)?;
    for warning in resource.strategy.warnings(&obj) {
        cx.warn(warning);
    }
    admission::validate(cx, Operation::Create, Some(&obj), None).await?;
    let charge = quota::charge(cx, Operation::Create, &obj, None);
    let name = object::name(&obj).to_owned();
    let key = resource.key(&cx.info.namespace, &name);
    if dry_run {
        quota::check(cx, charge.as_ref())?;
        if cx.api.store.get(&key).is_some() {
            return Err(ApiError::already_exists(resource, &name));
        }
        return Ok(Written::Computed(obj));
    }
    conversion::to_storage(&cx.api, resource, &mut obj).await?;
    let mut txn = Txn::put(key, object::encode(resource, &obj), 0);
    if let Some(lease) = cx.api.lease_for(resource).await? {
        txn = txn.with_lease(lease);
    }
    match quota::commit(cx, charge.as_ref(), txn).await? {
        Outcome::Committed { entries, .. } => {
            reservation.keep();
            Ok(Written::Stored(entries.into_iter().flatten().next().expect("a put returns its entry")))
        }
        Outcome::Conflict { .. } => Err(ApiError::already_exists(resource, &name)),
    }
}

/// What the server alone writes into the metadata of a new object.
fn begin_life(cx: &Context, obj: &mut Value) {
    let uid = cx.api.new_uid();
    let meta = object::meta(obj);
    for key in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"]
    {
        meta.remove(key);
    }
    meta.insert("uid".to_owned(), uid.into());
    meta.insert("creationTimestamp".to_owned(), object::now().into());
    if meta.get("generateName").and_then(Value::as_str) == Some("") {
        meta.remove("generateName");
    }
}

/// What the schema says against an object of a custom kind.
fn own_errors(cx: &Context, obj: &Value, old: Option<&Value>) -> field::ErrorList {
    let Some(custom) = &cx.resource.custom else { return field::ErrorList::new() };
    let errors = structural::validate(obj, &cx.resource.schema(), &field::EMPTY);
    match &custom.rules {
        // Rules rely on types: they are asked of objects that are well formed.
        Some(rules) if errors.is_empty() => rules.validate(&cx.resource, obj, old),
        _ => errors,
    }
}

fn refuse(cx: &Context, obj: &Value, errors: &[field::Error]) -> ApiResult<()> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&cx.resource, object::name(obj), errors))
}

fn track(cx: &Context, live: Option<&Value>, new: &mut Value, part: Part) {
    let name = cx.field_manager();
    let time = object::now();
    let api_version = cx.resource.api_version();
    let manager = apply::Manager {
        name: &name,
        api_version: &api_version,
        subresource: subresource(part),
        time: &time,
    };
    apply::update(live, new, &cx.resource.schema(), &manager, &reset_fields(cx, part));
}

/// The fields that a write of `part` never owns, because the server puts back what was there.
fn reset_fields(cx: &Context, part: Part) -> Vec<&'static [&'static str]> {
    match part {
        Part::Main if cx.resource.has("status") => vec![&["status"]],
        Part::Status => vec![&["spec"]],
        _ => Vec::new(),
    }
}

/// A change on its way through [`modify`].
pub struct Change {
    /// The object as it should be.
    pub obj: Value,
    /// False when server-side apply has recorded the ownership already.
    pub tracks: bool,
}

impl Change {
    /// A change whose ownership is recorded as an update.
    pub fn of(obj: Value) -> Self {
        Self { obj, tracks: true }
    }
}

/// `PUT` of a whole object, or of its `part`.
///
/// # Errors
/// 400, 403, 404, 409, 413, 415, 422.
pub async fn put(cx: &Context, part: Part, body: Bytes) -> ApiResult<Response<Body>> {
    cx.form()?;
    let obj = decode::accept(cx, decode::parse(&cx.headers, &body)?)?;
    let given = object::name(&obj);
    if given != cx.info.name {
        let url = &cx.info.name;
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({url})"
        )));
    }
    let mut obj = obj;
    take_namespace(cx, &mut obj)?;
    let exists = cx.api.store.get(&cx.resource.key(&cx.info.namespace, &cx.info.name)).is_some();
    if !exists && part == Part::Main && cx.resource.strategy.creates_on_update() {
        return create(cx, obj, true).await?.respond(cx, StatusCode::CREATED).await;
    }
    modify(cx, part, |_| Ok(Change::of(obj.clone()))).await?.respond(cx, StatusCode::OK).await
}

/// `PATCH` of an object or of its `part`, in any of the four encodings.
///
/// # Errors
/// 400, 403, 404, 409, 413, 415, 422.
pub async fn patch(cx: &Context, part: Part, body: Bytes) -> ApiResult<Response<Body>> {
    cx.form()?;
    let media = crate::negotiate::media_type(&cx.headers);
    match media {
        "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
            return server_side_apply(cx, part, &body).await;
        }
        "application/json-patch+json" | "application/merge-patch+json" => {}
        "application/strategic-merge-patch+json" if cx.resource.custom.is_none() => {}
        _ => {
            let mut accepted = vec!["application/json-patch+json", "application/merge-patch+json"];
            if cx.resource.custom.is_none() {
                accepted.push("application/strategic-merge-patch+json");
            }
            accepted.push("application/apply-patch+yaml");
            return Err(ApiError::unsupported_media_type(&accepted.join(", ")));
        }
    }
    let (document, _) = decode::parse_json(&body)?;
    let schema = cx.resource.schema();
    let change = |old: &Value| {
        let mut obj = old.clone();
        let result = match media {
            "application/json-patch+json" => patch::json(&mut obj, &document),
            "application/merge-patch+json" => {
                patch::merge(&mut obj, &document);
                Ok(())
            }
            _ => patch::strategic(&mut obj, &document, &schema),
        };
        result.map_err(|e| patch_error(&e))?;
        let (name, version) = (object::name(&obj), object::text(&obj, &["apiVersion"]));
        if name != cx.info.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                cx.info.name
            )));
        }
        if version != cx.resource.api_version() {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({})",
                cx.resource.api_version()
            )));
        }
        decode::tidy(cx, &mut obj, Vec::new())?;
        Ok(Change::of(obj))
    };
    modify(cx, part, change).await?.respond(cx, StatusCode::OK).await
}

fn patch_error(error: &patch::PatchError) -> ApiError {
    match error {
        // Upstream says no more than this.
        patch::PatchError::Unprocessable(_) => {
            ApiError::invalid_text("the server rejected our request due to an error in our request")
        }
        patch::PatchError::Malformed(_) => ApiError::bad_request(error.to_string()),
        patch::PatchError::Unmergeable(_) => ApiError::unknown(error.to_string()),
        _ => ApiError::too_large_text(error.to_string()),
    }
}

async fn server_side_apply(cx: &Context, part: Part, body: &[u8]) -> ApiResult<Response<Body>> {
    let manager = cx.query.get("fieldManager").unwrap_or("").to_owned();
    if manager.is_empty() {
        return Err(ApiError::invalid_text(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let force = cx.query.flag("force");
    let (mut applied, duplicates) = decode::parse_yaml(body)?;
    if !applied.is_object() {
        return Err(ApiError::bad_request("error decoding YAML: the patch is not an object"));
    }
    if object::at(&applied, &["metadata", "managedFields"]).is_some() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    if object::name(&applied).is_empty() {
        object::set(&mut applied, &["metadata", "name"], cx.info.name.as_str());
    }
    if cx.resource.namespaced {
        take_namespace(cx, &mut applied)?;
    }
    apply::check(&applied, &cx.resource.schema()).map_err(|e| apply_error(&e))?;
    let applied = decode::accept(cx, (applied, duplicates))?;
    let api_version = cx.resource.api_version();
    let time = object::now();
    let owner = apply::Manager {
        name: &manager,
        api_version: &api_version,
        subresource: subresource(part),
        time: &time,
    };
    let schema = cx.resource.schema();
    let reset = reset_fields(cx, part);
    let merge = |live: Option<&Value>| {
        apply::apply(live, &applied, &schema, &owner, force, &reset).map_err(|e| apply_error(&e))
    };
    let key = cx.resource.key(&cx.info.namespace, &cx.info.name);
    for _ in 0..CONFLICT_RETRIES {
        if cx.api.store.get(&key).is_none() {
            if part != Part::Main {
                return Err(ApiError::not_found(&cx.resource, &cx.info.name));
            }
            match create(cx, merge(None)?, false).await {
                Err(error) if error.reason == "AlreadyExists" => continue,
                other => return other?.respond(cx, StatusCode::CREATED).await,
            }
        }
        let change = |old: &Value| Ok(Change { obj: merge(Some(old))?, tracks: false });
        return modify(cx, part, change).await?.respond(cx, StatusCode::OK).await;
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
        other => ApiError::bad_request(other.to_string()),
    }
}

/// Changes an object: reads it, lets `change` decide on a tree, and commits on the revision that was read.
///
/// # Errors
/// 403, 404, 409, 422 and what `change` says.
pub fn modify<'a>(
    cx: &'a Context,
    part: Part,
    mut change: impl FnMut(&Value) -> ApiResult<Change> + Send + 'a,
) -> BoxFuture<'a, ApiResult<Written>> {
    let decide = move |old: &Value| change(old);
    Box::pin(modify_with(cx, part, Box::new(decide)))
}

/// What decides on a change, given the object as it is.
type Decide<'a> = Box<dyn FnMut(&Value) -> ApiResult<Change> + Send + 'a>;

async fn modify_with(cx: &Context, part: Part, mut change: Decide<'_>) -> ApiResult<Written> {
    let name = cx.info.name.clone();
    let key = cx.resource.key(&cx.info.namespace, &name);
    for _ in 0..=CONFLICT_RETRIES {
        let entry = cx.api.store.get(&key).ok_or_else(|| ApiError::not_found(&cx.resource, &name))?;
        let old = conversion::decode(&cx.api, &cx.resource, &entry.value).await?;
        let changed = change(&old)?;
        let insists = check_preconditions(cx, part, &changed.obj, &old)?;
        match modify_once(cx, part, changed, &old, &entry).await? {
            Some(written) => return Ok(written),
            None if insists => return Err(ApiError::modified(&cx.resource, &name)),
            None => {}
        }
    }
    Err(ApiError::modified(&cx.resource, &name))
}

/// Compares what the client says it read with what is there. True when the client insists on a revision.
fn check_preconditions(cx: &Context, part: Part, new: &Value, old: &Value) -> ApiResult<bool> {
    let rv = object::text(new, &["metadata", "resourceVersion"]);
    let name = &cx.info.name;
    let uid = object::uid(new);
    if !uid.is_empty() && uid != object::uid(old) {
        return Err(ApiError::conflict(
            &cx.resource,
            name,
            format!(
                "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition \
                 failed: UID in precondition: {uid}, UID in object meta: {}",
                cx.resource.key(&cx.info.namespace, name),
                object::uid(old)
            ),
        ));
    }
    if rv.is_empty() || rv == "0" {
        if part == Part::Main && !cx.resource.strategy.allows_unconditional_update() {
            let error = field::Error::invalid(
                field::root("metadata").child("resourceVersion"),
                0,
                "must be specified for an update",
            );
            return Err(ApiError::invalid(&cx.resource, name, &[error]));
        }
    } else if rv != object::text(old, &["metadata", "resourceVersion"]) {
        return Err(ApiError::modified(&cx.resource, name));
    }
    // A patch carries the revision it was computed on; only a PUT brings one of its own.
    Ok(!rv.is_empty() && cx.info.verb == "update")
}

/// One try. `None`: somebody else wrote in between.
async fn modify_once(
    cx: &Context,
    part: Part,
    changed: Change,
    old: &Value,
    entry: &Entry,
) -> ApiResult<Option<Written>> {
    let resource = &cx.resource;
    let Change { mut obj, tracks } = changed;
    keep_identity(&mut obj, old);
    if part == Part::Main && resource.has("status") {
        keep(&mut obj, old, "status");
    }
    if part == Part::Status {
        keep_all_but_status(cx, &mut obj, old);
    }
    fill_defaults(cx, &mut obj);
    if tracks {
        if obj.pointer("/metadata/managedFields").is_none()
            && let Some(fields) = old.pointer("/metadata/managedFields")
            && cx.info.verb != "update"
        {
            object::set(&mut obj, &["metadata", "managedFields"], fields.clone());
        }
        track(cx, Some(old), &mut obj, part);
    }
    if admission::mutate(cx, Operation::Update, &mut obj, Some(old)).await? {
        fill_defaults(cx, &mut obj);
    }
    authz::check_escalation(cx, &obj, Some(old)).await?;
    resource.strategy.prepare_update(part, &mut obj, old);
    fill_defaults(cx, &mut obj);
    let reservation = cx.api.services.allocate(cx, &mut obj, Some(old))?;
    bump_generation(cx, part, &mut obj, old);
    crds::settle_written(cx, &mut obj);
    admission::settle_written(cx, &mut obj);
    if part != Part::Server {
        let mut errors = validate::metadata_update(resource, &obj, old);
        errors.extend(own_errors(cx, &obj, Some(old)));
        errors.extend(resource.strategy.validate_update(part, &obj, old));
        refuse(cx, &obj, &errors)?;
        for warning in resource.strategy.update_warnings(part, &obj, old) {
            cx.warn(warning);
        }
    }
    admission::validate(cx, Operation::Update, Some(&obj), Some(old)).await?;
    let charge = quota::charge(cx, Operation::Update, &obj, Some(old));
    if cx.dry_run()? {
        quota::check(cx, charge.as_ref())?;
        return Ok(Some(Written::Computed(obj)));
    }
    if is_deleting(&obj) && delete::is_finished(resource, &obj) {
        return delete::remove_now(cx, obj, entry).await.map(|o| o.map(Written::Computed));
    }
    if same(&obj, old) && !is_stale(cx, entry) {
        let current = cx.api.store.get(&entry.key);
        return Ok(current.map(Written::Stored));
    }
    conversion::to_storage(&cx.api, resource, &mut obj).await?;
    let txn = Txn::put(Arc::clone(&entry.key), object::encode(resource, &obj), entry.mod_revision)
        .with_lease(entry.lease);
    match quota::commit(cx, charge.as_ref(), txn).await? {
        Outcome::Committed { entries, .. } => {
            reservation.keep();
            Ok(entries.into_iter().flatten().next().map(Written::Stored))
        }
        Outcome::Conflict { .. } => Ok(None),
    }
}

fn keep(obj: &mut Value, old: &Value, key: &str) {
    match old.get(key) {
        Some(value) => object::set(obj, &[key], value.clone()),
        None => {
            object::remove(obj, &[key]);
        }
    }
}

/// Metadata that no client may change.
fn keep_identity(obj: &mut Value, old: &Value) {
    const SERVERS_OWN: [&str; 6] = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    ];
    let empty = json!({});
    let before = old.get("metadata").unwrap_or(&empty);
    for key in SERVERS_OWN {
        let meta = object::meta(obj);
        match before.get(key) {
            Some(value) => meta.insert(key.to_owned(), value.clone()),
            None => meta.remove(key),
        };
    }
    object::meta(obj).remove("selfLink");
}

/// A status write changes the status, and of the metadata what the kind allows.
fn keep_all_but_status(cx: &Context, obj: &mut Value, old: &Value) {
    let status = obj.get("status").cloned();
    let mut meta = object::meta(obj).clone();
    let mut base = old.clone();
    let kept = cx.resource.status_keeps;
    let free = METADATA.iter().filter(|key| !kept.contains(key));
    for key in ["managedFields", "resourceVersion"].iter().chain(free) {
        match meta.remove(*key) {
            Some(value) => object::set(&mut base, &["metadata", key], value),
            None => {
                object::remove(&mut base, &["metadata", key]);
            }
        }
    }
    match status {
        Some(status) => object::set(&mut base, &["status"], status),
        None => {
            object::remove(&mut base, &["status"]);
        }
    }
    *obj = base;
}

/// Counts what clients ask for; what the server itself enters, like a pod's node, is not counted.
fn bump_generation(cx: &Context, part: Part, obj: &mut Value, old: &Value) {
    if !cx.resource.generation && cx.resource.custom.is_none() {
        return;
    }
    let changed = {
        let empty = serde_json::Map::new();
        let (new, old) = (obj.as_object().unwrap_or(&empty), old.as_object().unwrap_or(&empty));
        let relevant = |key: &str| !matches!(key, "metadata" | "status");
        let status_counts = cx.resource.custom.is_some() && !cx.resource.has("status");
        let differs = |key: &String| {
            (relevant(key) || (status_counts && key == "status")) && new.get(key) != old.get(key)
        };
        new.keys().chain(old.keys()).any(differs)
    };
    let deletion_begins = is_deleting(obj) && !is_deleting(old);
    if (changed && part != Part::Server) || deletion_begins {
        let generation = object::number(old, &["metadata", "generation"]).unwrap_or(0) + 1;
        object::set(obj, &["metadata", "generation"], generation);
    }
}

/// True when what is stored is due for a write even if nothing changes: another storage version, another key.
fn is_stale(cx: &Context, entry: &Entry) -> bool {
    conversion::is_stale(&cx.resource, &entry.value) || cx.api.store.is_stale(entry)
}

/// True when a write would change nothing.
fn same(new: &Value, old: &Value) -> bool {
    new == old
}
