//! `delete` and `deletecollection`: grace, finalizers, propagation, preconditions.
//!
//! Source: `k8s.io/apiserver/pkg/registry/generic/registry/store.go` and `registry/rest/delete.go`.

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use minicluster_store::{Entry, Outcome, Txn};
use serde_json::{Value, json};

use windlass_crd::field;

use crate::{
    admission::{self, Operation},
    body::{self, Body},
    context::Context,
    crds::conversion,
    decode,
    negotiate::View,
    object::{self, is_deleting},
    options,
    read::{self, Selectors, line},
    registry::Resource,
    status::{ApiError, ApiResult},
};

const CONFLICT_RETRIES: usize = 8;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// `meta/v1 DeleteOptions`, from the body and the query.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Seconds to wait.
    pub grace: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<String>,
    /// The uid that the object must have.
    pub uid: Option<String>,
    /// The resource version that the object must have.
    pub resource_version: Option<String>,
    /// Change nothing.
    pub dry_run: bool,
    /// Says at once that the deletion goes on (`orphanDependents: false`).
    pub goes_on: bool,
}

impl Options {
    /// Reads the body, or the query when there is none.
    ///
    /// # Errors
    /// 400 or 422.
    pub fn read(cx: &Context, body: &[u8]) -> ApiResult<Self> {
        let given = if body.is_empty() { from_query(cx)? } else { from_body(cx, body)? };
        let policy = object::at(&given, &["propagationPolicy"]).and_then(Value::as_str);
        let orphan = given.get("orphanDependents").and_then(Value::as_bool);
        check(policy, orphan, &given)?;
        let own = |path: &[&str]| object::at(&given, path).and_then(Value::as_str).map(str::to_owned);
        let dry_run = object::list(&given, &["dryRun"]).iter().any(|value| value == "All");
        // Others ask the context; only the first answer counts, and both are the same.
        let dry_run = *cx.dry_run.get_or_init(|| dry_run);
        Ok(Self {
            // What is negative is as soon as can be.
            grace: object::number(&given, &["gracePeriodSeconds"])
                .map(|grace| if grace < 0 { 1 } else { grace }),
            propagation: match orphan {
                Some(true) => Some("Orphan".to_owned()),
                Some(false) => Some("Background".to_owned()),
                None => policy.map(str::to_owned),
            },
            uid: own(&["preconditions", "uid"]),
            resource_version: own(&["preconditions", "resourceVersion"]),
            dry_run,
            goes_on: orphan == Some(false),
        })
    }
}

fn from_query(cx: &Context) -> ApiResult<Value> {
    let mut given = json!({});
    if let Some(grace) = options::number(&cx.query, "gracePeriodSeconds")? {
        given["gracePeriodSeconds"] = grace.into();
    }
    if let Some(policy) = cx.query.get("propagationPolicy") {
        given["propagationPolicy"] = policy.into();
    }
    if cx.query.get("orphanDependents").is_some() {
        given["orphanDependents"] = cx.query.flag("orphanDependents").into();
    }
    given["dryRun"] = cx.query.all("dryRun").map(Value::from).collect();
    Ok(given)
}

fn from_body(cx: &Context, body: &[u8]) -> ApiResult<Value> {
    let (given, _) = decode::parse(&cx.headers, body).map_err(|error| match error.code {
        400 => {
            ApiError::bad_request(format!("couldn't get version/kind; json parse error: {}", error.message))
        }
        _ => error,
    })?;
    if !given.is_object() {
        return Err(ApiError::bad_request(decode::no_object(&given)));
    }
    let (version, kind) = (object::text(&given, &["apiVersion"]), object::text(&given, &["kind"]));
    if !matches!(kind, "" | "DeleteOptions") {
        let scheme = "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27";
        return Err(ApiError::bad_request(decode::not_registered(kind, version, scheme)));
    }
    Ok(given)
}

/// Checks what is wished for, by upstream's rules of `DeleteOptions`.
fn check(policy: Option<&str>, orphan: Option<bool>, given: &Value) -> ApiResult<()> {
    let path = field::root("propagationPolicy");
    let mut errors = field::ErrorList::new();
    if let Some(policy) = policy {
        if orphan.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(field::Error::invalid(&path, policy, why));
        }
        if !matches!(policy, "Foreground" | "Background" | "Orphan") {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(field::Error::not_supported(&path, policy, &known));
        }
    }
    let dry: Vec<&str> = object::list(given, &["dryRun"]).iter().filter_map(Value::as_str).collect();
    errors.extend(options::dry_run_errors(&dry));
    options::refuse("DeleteOptions", &errors)
}

/// What became of a deletion.
enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Value),
    /// The object waits for its grace period or its finalizers.
    Waiting(Value),
}

/// `DELETE` of one object.
///
/// # Errors
/// 400, 403, 404, 409.
pub async fn one(cx: &Context, body: Bytes) -> ApiResult<Response<Body>> {
    let form = cx.form()?;
    let options = Options::read(cx, &body)?;
    warn(cx, &options);
    match delete(cx, &cx.info.namespace, &cx.info.name, &options).await? {
        Deleted::Waiting(obj) => {
            let code = if options.goes_on { StatusCode::ACCEPTED } else { StatusCode::OK };
            read::value(cx, form, code, &obj)
        }
        Deleted::Gone(obj) if returns_object(&cx.resource) => read::value(cx, form, StatusCode::OK, &obj),
        Deleted::Gone(obj) => {
            let mut details = json!({
                "name": object::name(&obj), "kind": cx.resource.plural, "uid": object::uid(&obj),
            });
            if !cx.resource.group.is_empty() {
                details["group"] = cx.resource.group.as_ref().into();
            }
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
            });
            Ok(body::json(StatusCode::OK, line(&status)))
        }
    }
}

fn warn(cx: &Context, options: &Options) {
    if options.propagation.is_none()
        && let Some(warning) = cx.resource.strategy.deletion_warning()
    {
        cx.warn(warning.to_owned());
    }
}

/// Kinds whose deletion answers with the object rather than a `Status`.
fn returns_object(resource: &Resource) -> bool {
    let of_storage = resource.group == "storage.k8s.io" && resource.plural != "csistoragecapacities";
    of_storage
        || resource.group == "resource.k8s.io"
        || resource.group.is_empty()
            && matches!(
                resource.plural.as_ref(),
                "pods"
                    | "services"
                    | "serviceaccounts"
                    | "persistentvolumes"
                    | "persistentvolumeclaims"
                    | "podtemplates"
                    | "resourcequotas"
            )
}

/// `DELETE` of a collection.
///
/// # Errors
/// 400, 403; a conflict on one object is not an error of the whole.
pub async fn collection(cx: &Context, body: Bytes) -> ApiResult<Response<Body>> {
    let form = cx.form()?;
    let selectors = Selectors::of(cx, false)?;
    let options = Options::read(cx, &body)?;
    warn(cx, &options);
    let page = read::page(cx, &selectors).await?;
    let mut items = Vec::with_capacity(page.entries.len());
    for entry in &page.entries {
        // What is answered is what was found, not what became of it.
        items.push(conversion::decode(&cx.api, &cx.resource, &entry.value).await?);
        let (namespace, name) = cx.resource.split_key(&entry.key);
        match delete(cx, namespace, name, &options).await {
            Err(error) if error.reason != "NotFound" => return Err(error),
            _ => {}
        }
    }
    if form.view == View::Table {
        return Ok(body::json(StatusCode::OK, line(&crate::table::render(cx, &items, &page.metadata()))));
    }
    if cx.resource.custom.is_none() {
        let types = |item: &mut Value| ["kind", "apiVersion"].map(|key| object::remove(item, &[key]));
        items.iter_mut().for_each(|item| drop(types(item)));
    }
    let list = json!({
        "kind": cx.resource.list_kind, "apiVersion": cx.resource.api_version(),
        "metadata": page.metadata_of_objects(&cx.resource), "items": items,
    });
    Ok(body::json(StatusCode::OK, line(&list)))
}

/// Deletes one object as the server itself; one that is gone already is deleted, too.
///
/// # Errors
/// 403, 409, 500.
pub(crate) async fn background(cx: &Context, namespace: &str, name: &str) -> ApiResult<()> {
    match delete(cx, namespace, name, &Options::default()).await {
        Err(error) if error.reason != "NotFound" => Err(error),
        _ => Ok(()),
    }
}

/// Deletes the object of the request as these options say.
///
/// # Errors
/// 403, 404, 409.
pub(crate) async fn with(cx: &Context, options: &Options) -> ApiResult<()> {
    delete(cx, &cx.info.namespace, &cx.info.name, options).await.map(drop)
}

async fn delete(cx: &Context, namespace: &str, name: &str, options: &Options) -> ApiResult<Deleted> {
    let key = cx.resource.key(namespace, name);
    for _ in 0..CONFLICT_RETRIES {
        let entry = cx.api.store.get(&key).ok_or_else(|| ApiError::not_found(&cx.resource, name))?;
        let old = conversion::decode(&cx.api, &cx.resource, &entry.value).await?;
        check_preconditions(cx, name, options, &old)?;
        admission::validate(cx, Operation::Delete, None, Some(&old)).await?;
        let Some((obj, waits)) = begin(cx, &old, options) else { return Ok(Deleted::Waiting(old)) };
        // What goes at once is shown as it was; only what is given time is shown with its end.
        let obj = match resource_is_timed(cx, &old, options) || is_deleting(&old) || waits {
            true => obj,
            false => old.clone(),
        };
        if options.dry_run {
            return Ok(if waits { Deleted::Waiting(obj) } else { Deleted::Gone(obj) });
        }
        if !waits {
            if let Some(obj) = remove_now(cx, obj, &entry).await? {
                return Ok(Deleted::Gone(obj));
            }
            continue;
        }
        let mut stored = obj;
        conversion::to_storage(&cx.api, &cx.resource, &mut stored).await?;
        let txn = Txn::put(
            std::sync::Arc::clone(&entry.key),
            object::encode(&cx.resource, &stored),
            entry.mod_revision,
        )
        .with_lease(entry.lease);
        if let Outcome::Committed { entries, .. } = cx.api.store.txn(txn).await? {
            let written = entries.into_iter().flatten().next().expect("a put returns its entry");
            let obj = conversion::decode(&cx.api, &cx.resource, &written.value).await?;
            return Ok(Deleted::Waiting(obj));
        }
    }
    Err(ApiError::modified(&cx.resource, name))
}

/// True for kinds whose objects are given time to end.
fn resource_is_timed(cx: &Context, old: &Value, options: &Options) -> bool {
    cx.resource.strategy.grace_period(old, options.grace).is_some()
}

pub(crate) fn check_preconditions(cx: &Context, name: &str, options: &Options, old: &Value) -> ApiResult<()> {
    let mismatch = |what: &str, wanted: &str, is: &str, since: &str| {
        let why = format!(
            "the {what} in the precondition ({wanted}) does not match the {what} in record ({is}). The object might \
             have been {since}"
        );
        Err(ApiError::precondition(&cx.resource, name, why))
    };
    let (uid, rv) = (object::uid(old), object::text(old, &["metadata", "resourceVersion"]));
    match (&options.uid, &options.resource_version) {
        (Some(wanted), _) if wanted != uid => mismatch("UID", wanted, uid, "deleted and then recreated"),
        (_, Some(wanted)) if wanted != rv => mismatch("ResourceVersion", wanted, rv, "modified"),
        _ => Ok(()),
    }
}

/// The object as a deletion leaves it, and whether something still has to happen before it is gone. `None`: the
/// deletion has begun already and this request changes nothing.
fn begin(cx: &Context, old: &Value, options: &Options) -> Option<(Value, bool)> {
    let resource = &cx.resource;
    let mut obj = old.clone();
    let grace = resource.strategy.grace_period(old, options.grace).unwrap_or(0);
    let finalizers = wanted_finalizers(resource, old, options);
    let mut changed = finalizers != object::finalizers(old);
    if changed {
        object::set(&mut obj, &["metadata", "finalizers"], finalizers);
    }
    // Kinds that are not given time may end without a number of seconds.
    let seconds = || object::number(old, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    let before = is_deleting(old).then(seconds);
    let shortens = before.is_none_or(|b| grace < b);
    if !is_deleting(old) || (shortens && before != Some(0)) {
        changed = true;
        mark(cx, &mut obj, old, grace);
    }
    let waits = grace > 0 || !object::finalizers(&obj).is_empty() || has_spec_finalizers(resource, &obj);
    if waits && !changed {
        return None;
    }
    Some((obj, waits))
}

fn mark(cx: &Context, obj: &mut Value, old: &Value, grace: i64) {
    let begun: Option<Timestamp> = object::text(old, &["metadata", "deletionTimestamp"])
        .parse()
        .ok()
        .zip(object::number(old, &["metadata", "deletionGracePeriodSeconds"]))
        .map(|(at, grace): (Timestamp, i64)| at - SignedDuration::from_secs(grace));
    let from = begun.unwrap_or_else(windlass::clock::now);
    let at = from.checked_add(SignedDuration::from_secs(grace)).unwrap_or(from);
    object::set(obj, &["metadata", "deletionTimestamp"], object::seconds(at));
    object::set(obj, &["metadata", "deletionGracePeriodSeconds"], grace);
    if !is_deleting(old) && (cx.resource.generation || cx.resource.custom.is_some()) {
        let generation = object::number(old, &["metadata", "generation"]).unwrap_or(0) + 1;
        object::set(obj, &["metadata", "generation"], generation);
    }
    if !is_deleting(old) {
        cx.resource.strategy.begin_deletion(obj);
    }
}

fn wanted_finalizers(resource: &Resource, old: &Value, options: &Options) -> Vec<String> {
    let mut finalizers = object::finalizers(old);
    let policy = match options.propagation.as_deref() {
        Some(policy) => policy,
        // Without a wish, finalizers that are there already decide.
        None if finalizers.iter().any(|f| f == ORPHAN || f == FOREGROUND) => return finalizers,
        None => resource.strategy.default_propagation(),
    };
    let wanted = match policy {
        "Foreground" => Some(FOREGROUND),
        "Orphan" => Some(ORPHAN),
        _ => None,
    };
    // Nothing can own a dependent through these, so nobody would ever remove the finalizer.
    let collected = !matches!(resource.plural.as_ref(), "events");
    finalizers.retain(|f| (f != ORPHAN && f != FOREGROUND) || Some(f.as_str()) == wanted);
    if let Some(wanted) = wanted.filter(|_| collected)
        && !finalizers.iter().any(|f| f == wanted)
    {
        finalizers.push(wanted.to_owned());
    }
    finalizers
}

fn has_spec_finalizers(resource: &Resource, obj: &Value) -> bool {
    resource.group.is_empty()
        && resource.plural == "namespaces"
        && !object::list(obj, &["spec", "finalizers"]).is_empty()
}

/// True when an object that is being deleted has nothing left to wait for.
pub fn is_finished(resource: &Resource, obj: &Value) -> bool {
    object::finalizers(obj).is_empty()
        && !has_spec_finalizers(resource, obj)
        && object::number(obj, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
}

/// Removes an object from the store. `None`: somebody else wrote in between.
///
/// # Errors
/// 500 when the store fails.
pub async fn remove_now(cx: &Context, mut obj: Value, entry: &Entry) -> ApiResult<Option<Value>> {
    let txn = Txn::delete(std::sync::Arc::clone(&entry.key), entry.mod_revision);
    match cx.api.store.txn(txn).await? {
        Outcome::Committed { revision, .. } => {
            cx.api.services.release(cx, &obj);
            object::set(&mut obj, &["metadata", "resourceVersion"], revision.to_string());
            Ok(Some(obj))
        }
        Outcome::Conflict { .. } => Ok(None),
    }
}
