//! The versions of a custom kind: from the one in which an object is stored to the one that a request names, and back.
//!
//! An object says itself in which version it was stored, so a definition may change its storage version while objects
//! of the older one remain; the next write of each brings it up to date. With the strategy `None` only `apiVersion`
//! changes, with `Webhook` a program of the cluster's users is asked ([`review`]). As upstream, what is read gets the
//! defaults of the version in which it was stored and loses what the version asked for does not specify.
//!
//! Single objects are asked for anew each time. What lists and watches show is kept beside the stored entry, so that
//! it is converted once however many look ([`prepare`], [`shown`]); a new generation of the definition begins anew.
//! Source: `k8s.io/apiextensions-apiserver/pkg/apiserver/conversion`.

pub(crate) mod review;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use minicluster_store::{Entry, Revision};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use windlass_crd::{schema::Schema, structural};

use crate::{
    api::Api,
    object::{self, Attributes},
    outbound::{self, Backend},
    registry::Resource,
    status::{ApiError, ApiResult},
};

/// How long a webhook may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of stored objects put into one review; a list that is longer takes several.
const REVIEW_BYTES: usize = 1 << 20;

/// How objects of one definition are converted; its versions share it.
#[derive(Debug)]
pub struct Conversion {
    definition: String,
    /// The schema of each version, served or not, by `apiVersion`.
    schemas: BTreeMap<String, Arc<Schema>>,
    webhook: Option<Webhook>,
}

#[derive(Debug)]
struct Webhook {
    backend: Backend,
    /// The version of the review; `None` when the definition names none that is spoken.
    version: Option<&'static str>,
    /// Those who want the same objects for lists and watches wait for one another.
    turn: tokio::sync::Mutex<()>,
    /// How many calls failed, and how the last did: who waited meanwhile need not fail as slowly.
    failure: Mutex<(u64, Option<ApiError>)>,
}

impl Conversion {
    pub(super) fn new(crd: &Value, schemas: BTreeMap<String, Arc<Schema>>) -> Self {
        let spec = object::at(crd, &["spec", "conversion"]);
        let webhook = spec.filter(|spec| object::text(spec, &["strategy"]) == "Webhook").map(|spec| {
            let named = object::list(spec, &["webhook", "conversionReviewVersions"]);
            let version = named.iter().find_map(|n| review::VERSIONS.into_iter().find(|v| n == v));
            let config = object::at(spec, &["webhook", "clientConfig"]).unwrap_or(&Value::Null);
            Webhook {
                backend: Backend::of_client_config(config, TIMEOUT),
                version,
                turn: tokio::sync::Mutex::default(),
                failure: Mutex::default(),
            }
        });
        Self { definition: object::name(crd).to_owned(), schemas, webhook }
    }

    pub(super) fn schema(&self, api_version: &str) -> Option<&Arc<Schema>> {
        self.schemas.get(api_version)
    }
}

fn of(resource: &Resource) -> Option<&Conversion> {
    resource.custom.as_ref().map(|custom| &*custom.conversion)
}

/// The webhook that stands between stored bytes and what is shown of them, if any.
fn webhook(resource: &Resource) -> Option<(&Conversion, &Webhook)> {
    if resource.is_served_as_stored() {
        return None;
    }
    let conversion = of(resource)?;
    conversion.webhook.as_ref().map(|webhook| (conversion, webhook))
}

/// Brings a stored object of a custom kind into the version of `resource` where no webhook is needed.
pub(crate) fn to_version(resource: &Resource, obj: &mut Value) {
    let Some(conversion) = of(resource) else { return };
    default_as_stored(conversion, obj);
    let wanted = resource.api_version();
    object::set(obj, &["apiVersion"], wanted);
    structural::prune(obj, &resource.schema());
}

fn default_as_stored(conversion: &Conversion, obj: &mut Value) {
    if let Some(schema) = conversion.schema(object::text(obj, &["apiVersion"])) {
        structural::default(obj, schema);
    }
}

/// Decodes stored bytes into the version of `resource`, for any kind.
///
/// # Errors
/// 500 with what the webhook says, or is.
pub(crate) async fn decode(api: &Api, resource: &Resource, bytes: &[u8]) -> ApiResult<Value> {
    let Some((conversion, webhook)) = webhook(resource) else { return Ok(object::decode(resource, bytes)) };
    let obj = parsed(conversion, bytes);
    let mut all = ask(api, conversion, webhook, vec![obj], &resource.api_version()).await?;
    let mut obj = all.pop().expect("as many come back as were sent");
    structural::prune(&mut obj, &resource.schema());
    Ok(obj)
}

fn parsed(conversion: &Conversion, bytes: &[u8]) -> Value {
    let mut obj: Value = serde_json::from_slice(bytes).expect("stored objects are valid JSON");
    default_as_stored(conversion, &mut obj);
    obj
}

/// Converts an object into the version in which it is stored.
///
/// # Errors
/// 500 with what the webhook says, or is.
pub(crate) async fn to_storage(api: &Api, resource: &Resource, obj: &mut Value) -> ApiResult<()> {
    if resource.is_storage_version() {
        return Ok(());
    }
    let Some(conversion) = of(resource) else {
        object::to_storage(resource, obj);
        return Ok(());
    };
    let wanted = &resource.storage_version;
    match &conversion.webhook {
        Some(webhook) => {
            let mut all = ask(api, conversion, webhook, vec![obj.take()], wanted).await?;
            *obj = all.pop().expect("as many come back as were sent");
        }
        None => object::set(obj, &["apiVersion"], wanted.as_str()),
    }
    if let Some(schema) = conversion.schema(wanted) {
        structural::prune(obj, schema);
    }
    Ok(())
}

/// True when an object was stored in a version that its definition has left since: the next write brings it up to
/// date, even one that changes nothing.
pub(crate) fn is_stale(resource: &Resource, bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Shallow<'a> {
        #[serde(rename = "apiVersion", borrow)]
        api_version: std::borrow::Cow<'a, str>,
    }
    if resource.custom.as_ref().is_none_or(|custom| !custom.evolved) {
        return false;
    }
    serde_json::from_slice::<Shallow<'_>>(bytes).is_ok_and(|obj| obj.api_version != resource.storage_version)
}

/// Asks the webhook about those objects that are not in the wanted version yet.
async fn ask(
    api: &Api,
    conversion: &Conversion,
    webhook: &Webhook,
    mut objects: Vec<Value>,
    wanted: &str,
) -> ApiResult<Vec<Value>> {
    let others: Vec<usize> =
        (0..objects.len()).filter(|i| object::text(&objects[*i], &["apiVersion"]) != wanted).collect();
    let Some(first) = others.first().map(|i| object::text(&objects[*i], &["apiVersion"]).to_owned()) else {
        return Ok(objects);
    };
    for i in &others {
        let version = object::text(&objects[*i], &["apiVersion"]);
        if conversion.schema(version).is_none() {
            let text = format!("request to convert CR from an invalid group/version: {version}");
            return Err(ApiError::unknown(text));
        }
    }
    let Some(version) = webhook.version else {
        return Err(ApiError::unknown("no supported conversion review versions"));
    };
    let uid = api.new_uid();
    let sent: Vec<&Value> = others.iter().map(|i| &objects[*i]).collect();
    let began = Instant::now();
    let question = review::request(version, &uid, wanted, &sent);
    let answer = match outbound::post(api, &webhook.backend, "kube-apiserver-admission", &question).await {
        Ok(body) => review::read(&body, version, &uid, &sent, wanted),
        Err(why) => {
            let (from, kind) = (&first, object::text(sent[0], &["kind"]));
            Err((review::Fault::Call, format!("conversion webhook for {from}, Kind={kind} failed: {why}")))
        }
    };
    let fault = answer.as_ref().err().map(|(fault, _)| fault.label());
    api.metrics.conversions.observe(&conversion.definition, &first, wanted, fault, began.elapsed());
    let converted = answer.map_err(|(_, text)| ApiError::unknown(text))?;
    for (i, obj) in others.into_iter().zip(converted) {
        objects[i] = obj;
    }
    Ok(objects)
}

/// What is derived from a stored entry, once, for all who look at it.
#[derive(Default)]
pub(crate) struct Derived {
    attributes: OnceLock<Arc<Attributes>>,
    shown: Mutex<Vec<Arc<Shown>>>,
}

/// An entry in another version than its own.
struct Shown {
    version: String,
    fingerprint: String,
    bytes: Bytes,
    attributes: OnceLock<Arc<Attributes>>,
}

fn fingerprint(resource: &Resource) -> &str {
    resource.custom.as_ref().map_or("", |custom| &custom.fingerprint)
}

impl Derived {
    fn of(entry: &Entry) -> Arc<Self> {
        entry.derived(|_| Self::default())
    }

    fn find(&self, resource: &Resource) -> Option<Arc<Shown>> {
        let fits = |s: &&Arc<Shown>| s.version == resource.version && s.fingerprint == fingerprint(resource);
        self.shown.lock().iter().find(fits).cloned()
    }

    fn shown(&self, resource: &Resource, entry: &Entry) -> Arc<Shown> {
        self.find(resource).unwrap_or_else(|| self.keep(resource, &object::decode(resource, &entry.value)))
    }

    fn keep(&self, resource: &Resource, obj: &Value) -> Arc<Shown> {
        let shown = Arc::new(Shown {
            version: resource.version.to_string(),
            fingerprint: fingerprint(resource).to_owned(),
            bytes: object::shown(obj).into(),
            attributes: OnceLock::new(),
        });
        let mut all = self.shown.lock();
        // What an older definition made of it, nobody asks for again.
        all.retain(|old| old.version != shown.version && old.fingerprint == shown.fingerprint);
        all.push(Arc::clone(&shown));
        shown
    }
}

/// The attributes of an entry as selectors see them in the version of `resource`; where a webhook converts, only after
/// [`prepare`].
pub(crate) fn attributes(resource: &Resource, entry: &Entry) -> Arc<Attributes> {
    let derived = Derived::of(entry);
    if resource.custom.is_some() && !resource.is_served_as_stored() {
        let shown = derived.shown(resource, entry);
        let read = || Arc::new(Attributes::read(resource, &shown.bytes));
        return Arc::clone(shown.attributes.get_or_init(read));
    }
    Arc::clone(derived.attributes.get_or_init(|| Arc::new(Attributes::read(resource, &entry.value))))
}

/// True when a webhook decides what labels and fields an entry has.
pub(crate) fn asks_webhook(resource: &Resource) -> bool {
    webhook(resource).is_some()
}

/// Makes sure that [`shown`] has an answer for all of these entries. It costs nothing where no webhook converts; where
/// one does, it is asked once for all entries that nobody wanted yet.
///
/// # Errors
/// 500 with what the webhook says, or is.
pub(crate) async fn prepare<'e>(
    api: &Api,
    resource: &Resource,
    entries: impl Iterator<Item = &'e Arc<Entry>> + Send,
) -> ApiResult<()> {
    let Some((conversion, webhook)) = webhook(resource) else { return Ok(()) };
    let is_missing = |entry: &&Arc<Entry>| Derived::of(entry).find(resource).is_none();
    let missing: Vec<&Arc<Entry>> = entries.filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let failures = webhook.failure.lock().0;
    let _turn = webhook.turn.lock().await;
    if let (count, Some(error)) = &*webhook.failure.lock()
        && *count != failures
    {
        return Err(error.clone());
    }
    let missing: Vec<&Arc<Entry>> = missing.into_iter().filter(is_missing).collect();
    for part in reviews(&missing) {
        let objects = part.iter().map(|entry| parsed(conversion, &entry.value)).collect();
        let converted = match ask(api, conversion, webhook, objects, &resource.api_version()).await {
            Ok(converted) => converted,
            Err(error) => {
                let mut failure = webhook.failure.lock();
                *failure = (failure.0 + 1, Some(error.clone()));
                return Err(error);
            }
        };
        let schema = resource.schema();
        for (entry, mut obj) in part.iter().zip(converted) {
            structural::prune(&mut obj, &schema);
            Derived::of(entry).keep(resource, &obj);
        }
    }
    Ok(())
}

/// Entries in portions of at most [`REVIEW_BYTES`], or of one that is larger.
fn reviews<'e, 'a>(entries: &'a [&'e Arc<Entry>]) -> Vec<&'a [&'e Arc<Entry>]> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, entry) in entries.iter().enumerate() {
        if i > start && bytes + entry.value.len() > REVIEW_BYTES {
            parts.push(&entries[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += entry.value.len();
    }
    if start < entries.len() {
        parts.push(&entries[start..]);
    }
    parts
}

/// An entry's bytes in the version of `resource`; where a webhook converts, only after [`prepare`].
pub(crate) fn shown(resource: &Resource, entry: &Entry) -> Bytes {
    if resource.is_served_as_stored() {
        return entry.value.clone();
    }
    Derived::of(entry).shown(resource, entry).bytes.clone()
}

/// An entry's bytes in the version of `resource`, as its deletion at `revision` shows them.
pub(crate) fn shown_at(resource: &Resource, entry: &Entry, revision: Revision) -> Bytes {
    if resource.is_served_as_stored() {
        return entry.restamped(revision);
    }
    let mut obj: Value = serde_json::from_slice(&shown(resource, entry)).expect("made of JSON");
    object::set(&mut obj, &["metadata", "resourceVersion"], revision.to_string());
    object::shown(&obj).into()
}
