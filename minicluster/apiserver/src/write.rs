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
use windlass_crd::{apply, field, structural, typed};

use crate::{
    admission::{self, Operation, quota},
    authz,
    body::Body,
    context::Context,
    crds::{self, conversion},
    decode, delete, negotiate,
    object::{self, is_deleting},
    options, read,
    registry::METADATA,
    request::RequestInfo,
    status::{ApiError, ApiResult},
    strategy::Part,
    validate,
};

/// How often a change is tried again when somebody else wrote in between.
pub(crate) const CONFLICT_RETRIES: usize = 5;

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
pub(crate) fn subresource(part: Part) -> &'static str {
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
    negotiate::encoding(&cx.headers)?;
    options::check_write(&cx.query, "CreateOptions")?;
    let obj = decode::object(cx, &body)?;
    create(cx, obj, true).await?.respond(cx, StatusCode::CREATED).await
}

/// Creates an object. `tracks`: record field ownership (not when server-side apply has done so).
///
/// # Errors
/// As [`post`].
pub async fn create(cx: &Context, mut obj: Value, tracks: bool) -> ApiResult<Written> {
    take_namespace(cx, &mut obj)?;
    let dry_run = cx.dry_run();
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

/// Checks that an object is the one that the path names.
///
/// # Errors
/// 400.
pub(crate) fn check_name(cx: &Context, obj: &Value) -> ApiResult<()> {
    let (given, url) = (object::name(obj), &cx.info.name);
    if given.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({url} based on URL) was undeterminable: name must be provided"
        )));
    }
    if given != url {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({url})"
        )));
    }
    Ok(())
}

pub(crate) fn take_namespace(cx: &Context, obj: &mut Value) -> ApiResult<()> {
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
    unite_owners(cx, &mut obj, !tracks);
    fill_defaults(cx, &mut obj);
    // Owned is what the client sent, not what admission and the kind add to it.
    if tracks {
        track(cx, None, &mut obj, Part::Main);
    }
    if admission::mutate(cx, Operation::Create, &mut obj, None).await? {
        unite_owners(cx, &mut obj, true);
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
    authorize_creation(cx).await?;
    admission::validate(cx, Operation::Create, Some(&obj), None).await?;
    let charge = quota::charge(cx, Operation::Create, &obj, None);
    let name = object::name(&obj).to_owned();
    let key = resource.key(&cx.info.namespace, &name);
    let given = object::text(&obj, &["metadata", "resourceVersion"]);
    if !dry_run && given.parse::<u64>().is_ok_and(|revision| revision != 0) {
        return Err(ApiError::unknown("resourceVersion should not be set on objects to be created"));
    }
    object::remove(&mut obj, &["metadata", "resourceVersion"]);
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

/// Who makes an object by changing what is not there has to be allowed to create it, too.
async fn authorize_creation(cx: &Context) -> ApiResult<()> {
    if !matches!(cx.info.verb, "patch" | "update") {
        return Ok(());
    }
    let info = RequestInfo { verb: "create", ..cx.info.clone() };
    let asked = authz::Attributes::of(&info);
    cx.api.authorizer.decide(&cx.api, &cx.user, &asked).await.into_result(&cx.user, &asked)
}

/// Leaves one of several owners that are the same, and warns of the others.
fn unite_owners(cx: &Context, obj: &mut Value, admitted: bool) {
    let Some(Value::Array(owners)) = obj.pointer_mut("/metadata/ownerReferences") else { return };
    let mut seen: Vec<Value> = Vec::with_capacity(owners.len());
    let mut twice: Vec<String> = Vec::new();
    owners.retain(|owner| {
        let is_new = !seen.contains(owner);
        if is_new {
            seen.push(owner.clone());
        } else {
            twice.push(object::text(owner, &["uid"]).to_owned());
        }
        is_new
    });
    if twice.is_empty() {
        return;
    }
    twice.sort();
    twice.dedup();
    let when = if admitted { " after mutating admission happens" } else { "" };
    cx.warn(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may \
         reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        twice.join(", ")
    ));
}

/// What the server alone writes into the metadata of a new object.
fn begin_life(cx: &Context, obj: &mut Value) {
    let uid = cx.api.new_uid();
    let meta = object::meta(obj);
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        meta.remove(key);
    }
    // Zero, as every typed client has it, is none.
    if meta.get("generation").and_then(Value::as_i64) == Some(0) {
        meta.remove("generation");
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
    let mut errors = structural::validate(obj, &cx.resource.schema(), &field::EMPTY);
    if let Some(scale) = &custom.scale {
        crate::subresource::check_replicas(obj, scale, &mut errors);
    }
    let Some(rules) = &custom.rules else { return errors };
    // Rules rely on types: they are asked of objects that are well formed.
    let blocks = |error: &field::Error| {
        matches!(
            error.kind,
            field::Kind::NotSupported
                | field::Kind::Required
                | field::Kind::TooLong
                | field::Kind::TooMany
                | field::Kind::TypeInvalid
        )
    };
    if errors.iter().any(blocks) {
        let why = "some validation rules were not checked because the object was invalid; correct the existing errors to \
                   complete validation";
        errors.push(field::Error::invalid(field::root("<nil>"), Value::Null, why));
    } else {
        let verdict = rules.validate(obj, old);
        verdict.warnings.into_iter().for_each(|warning| cx.warn(warning));
        errors.extend(verdict.errors);
    }
    errors
}

fn refuse(cx: &Context, obj: &Value, errors: &[field::Error]) -> ApiResult<()> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&cx.resource, object::name(obj), errors))
}

pub(crate) fn track(cx: &Context, live: Option<&Value>, new: &mut Value, part: Part) {
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
pub(crate) fn reset_fields(cx: &Context, part: Part) -> Vec<&'static [&'static str]> {
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
    options::check_write(&cx.query, "UpdateOptions")?;
    let mut obj = decode::object(cx, &body)?;
    take_namespace(cx, &mut obj)?;
    check_name(cx, &obj)?;
    let exists = cx.api.store.get(&cx.resource.key(&cx.info.namespace, &cx.info.name)).is_some();
    if !exists && part == Part::Main && cx.resource.strategy.creates_on_update() {
        return create(cx, obj, true).await?.respond(cx, StatusCode::CREATED).await;
    }
    modify(cx, part, |_| Ok(Change::of(obj.clone()))).await?.respond(cx, StatusCode::OK).await
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
    // A patch that changes the uid breaks a rule instead.
    if cx.info.verb == "update" && !uid.is_empty() && uid != object::uid(old) {
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
    } else if rv.parse::<u64>().is_err() {
        return Err(ApiError::unknown(options::number_fault("ParseUint", rv)));
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
    unite_owners(cx, &mut obj, true);
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
        unite_owners(cx, &mut obj, true);
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
    if cx.dry_run() {
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

/// Metadata that no client may change. What it may not change without being told stays for validation to see.
fn keep_identity(obj: &mut Value, old: &Value) {
    const SERVERS_OWN: [&str; 3] = ["creationTimestamp", "generation", "resourceVersion"];
    const KEPT_WHEN_ABSENT: [&str; 2] = ["uid", "deletionGracePeriodSeconds"];
    let empty = json!({});
    let before = old.get("metadata").unwrap_or(&empty);
    let meta = object::meta(obj);
    for key in SERVERS_OWN {
        match before.get(key) {
            Some(value) => meta.insert(key.to_owned(), value.clone()),
            None => meta.remove(key),
        };
    }
    for key in KEPT_WHEN_ABSENT {
        if let Some(value) = before.get(key)
            && meta.get(key).is_none_or(|given| given.is_null() || given == "")
        {
            meta.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(value) = before.get("deletionTimestamp") {
        meta.insert("deletionTimestamp".to_owned(), value.clone());
    }
    meta.remove("selfLink");
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
