//! `delete` and `deletecollection`: grace, finalizers, propagation, preconditions.
//!
//! Source: `k8s.io/apiserver/pkg/registry/generic/registry/store.go` and `registry/rest/delete.go`.

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use minicluster_store::{Entry, Outcome, Txn};
use serde_json::{Value, json};

use crate::{
    admission::{self, Operation},
    body::{self, Body},
    context::Context,
    crds::conversion,
    decode,
    negotiate::View,
    object::{self, is_deleting},
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
}

impl Options {
    /// Reads body and query; the body wins.
    ///
    /// # Errors
    /// 400 or 422.
    pub fn read(cx: &Context, body: &[u8]) -> ApiResult<Self> {
        let mut options = Self { dry_run: cx.dry_run()?, ..Self::default() };
        if let Some(grace) = cx.query.get("gracePeriodSeconds") {
            options.grace =
                Some(grace.parse().map_err(|_| ApiError::bad_request("invalid gracePeriodSeconds"))?);
        }
        options.propagation = cx.query.get("propagationPolicy").map(str::to_owned);
        if cx.query.flag("orphanDependents") {
            options.propagation = Some("Orphan".to_owned());
        }
        if !body.is_empty() {
            let (given, _) = decode::parse(&cx.headers, body)?;
            options.merge(&given)?;
        }
        if let Some(policy) = &options.propagation
            && !matches!(policy.as_str(), "Background" | "Foreground" | "Orphan")
        {
            return Err(ApiError::invalid_text(format!(
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"{policy}\": \
                 supported values: \"Background\", \"Foreground\", \"Orphan\""
            )));
        }
        Ok(options)
    }

    fn merge(&mut self, given: &Value) -> ApiResult<()> {
        if !given.is_object() {
            return Err(ApiError::bad_request("the body of a delete must be DeleteOptions"));
        }
        let kind = object::text(given, &["kind"]);
        if !matches!(kind, "" | "DeleteOptions") {
            return Err(ApiError::bad_request(format!(
                "decoded object cannot be converted to DeleteOptions: it is a {kind}"
            )));
        }
        self.grace = object::number(given, &["gracePeriodSeconds"]).or(self.grace);
        let own = |path: &[&str]| object::at(given, path).and_then(Value::as_str).map(str::to_owned);
        self.propagation = own(&["propagationPolicy"]).or(self.propagation.take());
        if let Some(orphan) = given.get("orphanDependents").and_then(Value::as_bool) {
            self.propagation = Some(if orphan { "Orphan" } else { "Background" }.to_owned());
        }
        self.uid = own(&["preconditions", "uid"]);
        self.resource_version = own(&["preconditions", "resourceVersion"]);
        self.dry_run |= object::list(given, &["dryRun"]).iter().any(|v| v == "All");
        Ok(())
    }
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
    let options = Options::read(cx, &body)?;
    let form = cx.form()?;
    warn(cx, &options);
    match delete(cx, &cx.info.namespace, &cx.info.name, &options).await? {
        Deleted::Waiting(obj) => read::value(cx, form, StatusCode::OK, &obj),
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
    let options = Options::read(cx, &body)?;
    let form = cx.form()?;
    warn(cx, &options);
    let selectors = Selectors::of(cx)?;
    let (entries, revision) = read::select(cx, &selectors).await?;
    let mut items = Vec::with_capacity(entries.len());
    for entry in entries {
        let (namespace, name) = cx.resource.split_key(&entry.key);
        match delete(cx, namespace, name, &options).await {
            Ok(Deleted::Gone(obj) | Deleted::Waiting(obj)) => items.push(obj),
            Err(error) if error.reason == "NotFound" => {}
            Err(error) => return Err(error),
        }
    }
    let list = json!({
        "kind": cx.resource.list_kind, "apiVersion": cx.resource.api_version(),
        "metadata": {"resourceVersion": revision.to_string()}, "items": items,
    });
    match form.view {
        View::Table => {
            let table = crate::table::render(cx, &items, &list["metadata"]);
            Ok(body::json(StatusCode::OK, line(&table)))
        }
        _ => Ok(body::json(StatusCode::OK, line(&list))),
    }
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

fn check_preconditions(cx: &Context, name: &str, options: &Options, old: &Value) -> ApiResult<()> {
    let mismatch = |what: &str, wanted: &str, is: &str| {
        let why =
            format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}");
        Err(ApiError::conflict(&cx.resource, name, why))
    };
    if let Some(uid) = &options.uid
        && uid != object::uid(old)
    {
        return mismatch("UID", uid, object::uid(old));
    }
    let rv = object::text(old, &["metadata", "resourceVersion"]);
    match &options.resource_version {
        Some(wanted) if wanted != rv => mismatch("ResourceVersion", wanted, rv),
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
