//! `get`, `list` and `watch` for every kind.
//!
//! Objects asked for in the version in which they are stored leave as the stored bytes; everything else (other
//! versions, tables, metadata alone) is computed from them.

mod indexes;
mod paging;

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use minicluster_store::{Entry, RangeError, Revision};
use paging::Continue;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use windlass_crd::{
    field::quote,
    protobuf::{self, Encoder},
    selector::{FieldRequirement, FieldSelector, LabelSelector},
};

use crate::{
    body::{self, Body, ListBody},
    context::Context,
    crds::conversion,
    encodings::Which,
    negotiate::{Encoding, Form, View},
    object::{self, Attributes},
    options,
    registry::Resource,
    status::{ApiError, ApiResult},
    table,
};

pub use indexes::Indexes;
pub(crate) use indexes::{Term, run as run_indexes};

/// Both selectors of a request.
#[derive(Debug, Clone)]
pub struct Selectors {
    /// `labelSelector`.
    pub labels: LabelSelector,
    /// `fieldSelector`.
    pub fields: FieldSelector,
    everything: bool,
}

impl Selectors {
    /// Reads the selectors of a request, and checks the options of a list or a watch on the way.
    ///
    /// # Errors
    /// 400 when one does not parse or names a field that cannot be selected, 422 for options that make no sense.
    pub fn of(cx: &Context, watches: bool) -> ApiResult<Self> {
        let label_text = cx.query.get("labelSelector").unwrap_or("");
        let field_text = cx.query.get("fieldSelector").unwrap_or("");
        let labels = LabelSelector::parse(label_text).map_err(|e| ApiError::bad_request(e.to_string()))?;
        let mut fields =
            FieldSelector::parse(field_text).map_err(|e| ApiError::bad_request(e.to_string()))?;
        options::check_list(&cx.query, watches)?;
        for requirement in fields.requirements() {
            check_field(&cx.resource, &requirement.field)?;
        }
        let name = &cx.info.name;
        if fields.is_empty() && !name.is_empty() {
            fields = FieldSelector::equals("metadata.name", name);
        } else if !name.is_empty() && fields.exact("metadata.name") != Some(name.as_str()) {
            return Err(ApiError::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        let everything = label_text.is_empty() && fields.is_empty();
        Ok(Self { labels, fields, everything })
    }

    /// True when an entry matches.
    pub fn matches(&self, resource: &Resource, entry: &Entry) -> bool {
        self.everything
            || Attributes::of(resource, entry).matches(resource, &entry.key, &self.labels, &self.fields)
    }

    /// The one name that the field selector allows, if it says so.
    fn only_name(&self) -> Option<&str> {
        self.fields
            .requirements()
            .iter()
            .find(|r| r.field == "metadata.name" && r.equal)
            .map(|r| r.value.as_str())
    }

    /// A label or a field that has to have this one value, if the selectors say so of any.
    fn exact(&self) -> Option<(Term, &str)> {
        let field = |r: &&FieldRequirement| r.equal && !r.field.starts_with("metadata.");
        let by_field = self.fields.requirements().iter().find(field);
        if let Some(one) = by_field {
            return Some((Term::Field(one.field.clone()), &one.value));
        }
        let by_label = self.labels.requirements().iter().find_map(|r| Some((r, r.exact()?)));
        by_label.map(|(one, value)| (Term::Label(one.key.clone()), value))
    }
}

/// Kinds with selectable fields of their own say less of one that is none, some of them more.
fn check_field(resource: &Resource, field: &str) -> ApiResult<()> {
    let own = resource.strategy.fields();
    let selectable = matches!(field, "metadata.name" | "metadata.namespace")
        || own.iter().any(|(name, _)| *name == field)
        || resource.custom.as_ref().is_some_and(|c| c.selectable_fields.iter().any(|f| f == field));
    if selectable {
        return Ok(());
    }
    Err(ApiError::bad_request(match (&*resource.group, &*resource.kind) {
        ("batch", "Job") => format!("field label {} not supported for Job", quote(field)),
        ("resource.k8s.io", "ResourceSlice") => {
            format!("field label not supported for {}, Kind=ResourceSlice: {field}", resource.api_version())
        }
        _ if resource.custom.is_some() || !own.is_empty() => format!("field label not supported: {field}"),
        _ => format!(
            "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            quote(field)
        ),
    }))
}

/// `GET` of one object.
///
/// # Errors
/// 404.
pub async fn get(cx: &Context) -> ApiResult<Response<Body>> {
    let form = cx.form()?;
    let name = &cx.info.name;
    let entry = cx
        .api
        .store
        .get(&cx.resource.key(&cx.info.namespace, name))
        .ok_or_else(|| ApiError::not_found(&cx.resource, name))?;
    one(cx, form, StatusCode::OK, &entry).await
}

/// The response that shows one stored object, in JSON (see [`crate::represent`]).
///
/// # Errors
/// 500 when it cannot be converted.
pub async fn one(cx: &Context, form: Form, code: StatusCode, entry: &Entry) -> ApiResult<Response<Body>> {
    match form.view {
        View::Object if cx.resource.is_served_as_stored() => {
            let mut bytes = Vec::with_capacity(entry.value.len() + 1);
            bytes.extend_from_slice(&entry.value);
            bytes.push(b'\n');
            Ok(body::json(code, bytes))
        }
        View::Metadata if !conversion::asks_webhook(&cx.resource) => {
            Ok(body::json(code, metadata_only(&entry.value)))
        }
        _ => {
            let obj = conversion::decode(&cx.api, &cx.resource, &entry.value).await?;
            value(cx, form, code, &obj)
        }
    }
}

/// The response that shows one object, in JSON.
///
/// # Errors
/// None today.
pub fn value(cx: &Context, form: Form, code: StatusCode, obj: &Value) -> ApiResult<Response<Body>> {
    let bytes = match form.view {
        View::Object => line(obj),
        View::Metadata => metadata_only(&line(obj)),
        View::Table => {
            let revision = object::text(obj, &["metadata", "resourceVersion"]);
            let metadata = json!({ "resourceVersion": revision });
            line(&table::render(cx, std::slice::from_ref(obj), &metadata))
        }
    };
    Ok(body::json(code, bytes))
}

/// One line of JSON.
pub fn line(value: &impl Serialize) -> Vec<u8> {
    let mut out = serde_json::to_vec(value).expect("JSON into memory");
    out.push(b'\n');
    out
}

/// `PartialObjectMetadata` of encoded bytes, with nothing but the metadata looked at.
fn metadata_only(bytes: &[u8]) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Shallow<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let metadata = serde_json::from_slice::<Shallow<'_>>(bytes).map_or("{}", |s| s.metadata.get());
    format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{metadata}}}\n"
    )
    .into_bytes()
}

/// How many objects are looked at to know how large those of a collection are.
const SAMPLE: usize = 16;

/// A page of a collection.
pub(crate) struct Page {
    pub(crate) entries: Vec<Arc<Entry>>,
    revision: Revision,
    continue_token: Option<String>,
    remaining: Option<usize>,
}

impl Page {
    /// The metadata of a list that shows this page.
    pub(crate) fn metadata(&self) -> Value {
        let mut metadata = json!({ "resourceVersion": self.revision.to_string() });
        if let Some(token) = &self.continue_token {
            metadata["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }

    /// The same, of a list of whole objects: those of custom kinds say that nothing follows, others say nothing.
    pub(crate) fn metadata_of_objects(&self, resource: &Resource) -> Value {
        let mut metadata = self.metadata();
        if resource.custom.is_some() && self.continue_token.is_none() {
            metadata["continue"] = "".into();
        }
        metadata
    }
}

/// The entries that a list or a collection delete is about, all at one revision.
///
/// # Errors
/// 400 for parameters that make no sense, 410 for revisions that are gone, 500 when they cannot be converted.
pub(crate) async fn page(cx: &Context, selectors: &Selectors) -> ApiResult<Page> {
    let limit =
        options::number(&cx.query, "limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
    let prefix = cx.resource.collection(&cx.info.namespace);
    let Range { revision, start, entries: all, is_whole } = range(cx, selectors, &prefix)?;
    if is_whole {
        let bytes = all.iter().take(SAMPLE).map(|entry| entry.value.len()).sum::<usize>();
        cx.api.flow.note_size(&cx.resource.plural, all.len(), bytes / all.len().clamp(1, SAMPLE) * all.len());
    }
    if selectors.everything && limit == 0 && start.is_empty() {
        return Ok(Page { entries: all, revision, continue_token: None, remaining: None });
    }
    if !selectors.everything {
        conversion::prepare(&cx.api, &cx.resource, all.iter()).await?;
    }
    let from = all.partition_point(|e| e.key[prefix.len()..] < *start);
    let mut matching = all[from..].iter().filter(|e| selectors.matches(&cx.resource, e));
    if limit == 0 {
        return Ok(Page {
            entries: matching.cloned().collect(),
            revision,
            continue_token: None,
            remaining: None,
        });
    }
    let entries: Vec<Arc<Entry>> = matching.by_ref().take(limit).cloned().collect();
    let next = matching.next();
    let continue_token = next.map(|e| {
        #[expect(clippy::cast_possible_wrap, reason = "revisions stay far below 2^63")]
        Continue::encode(revision as i64, &e.key[prefix.len()..])
    });
    let remaining = next.filter(|_| selectors.everything).map(|_| 1 + matching.count());
    Ok(Page { entries, revision, continue_token, remaining })
}

/// What a request is to be answered from.
struct Range {
    revision: Revision,
    /// The key below the prefix to begin with.
    start: String,
    entries: Vec<Arc<Entry>>,
    /// Whether it is the whole collection. Otherwise an index has left out what the selectors do not match.
    is_whole: bool,
}

impl Range {
    fn whole(revision: Revision, start: String, entries: Vec<Arc<Entry>>) -> Self {
        Self { revision, start, entries, is_whole: true }
    }
}

/// The newest state under a prefix: what an index has of it, or all.
fn newest(cx: &Context, selectors: &Selectors, prefix: &str, start: String) -> Range {
    let store = &cx.api.store;
    let indexed = selectors
        .exact()
        .and_then(|(term, value)| cx.api.indexes.find(store, &cx.resource, prefix, &term, value));
    if let Some((revision, entries)) = indexed {
        return Range { revision, start, entries, is_whole: false };
    }
    let snapshot = store.snapshot();
    Range::whole(snapshot.revision(), start, snapshot.range(prefix).cloned().collect())
}

/// The collection at the revision that the request asks for.
fn range(cx: &Context, selectors: &Selectors, prefix: &str) -> ApiResult<Range> {
    let rv = cx.query.get("resourceVersion").unwrap_or("");
    let rule = cx.query.get("resourceVersionMatch").unwrap_or("");
    if let Some(token) = cx.query.get("continue").filter(|t| !t.is_empty()) {
        let token = Continue::decode(token)?;
        if !rv.is_empty() && rv != "0" {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let Some(at) = token.revision else { return Ok(newest(cx, selectors, prefix, token.start)) };
        return match cx.api.store.range_at(prefix, at) {
            Ok(entries) => Ok(Range::whole(at, token.start, entries)),
            Err(_) => Err(ApiError::expired_continue(Continue::encode(-1, &token.start))),
        };
    }
    let asked = parse_revision(rv)
        .map_err(|why| ApiError::bad_request(format!("invalid resource version: {why}")))?;
    if asked > cx.api.store.revision() {
        return Err(too_large(asked, cx.api.store.revision()));
    }
    if rule != "Exact" {
        return Ok(newest(cx, selectors, prefix, String::new()));
    }
    match cx.api.store.range_at(prefix, asked) {
        Ok(entries) => Ok(Range::whole(asked, String::new(), entries)),
        Err(RangeError::Compacted { .. }) => {
            Err(ApiError::expired("The resourceVersion for the provided list is too old."))
        }
        Err(RangeError::Future { current }) => Err(too_large(asked, current)),
    }
}

/// The revision that a text names, or why it names none.
fn parse_revision(text: &str) -> Result<Revision, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let invalid = |_| {
        let fault = options::number_fault("ParseUint", text);
        format!("resourceVersion: Invalid value: {}: {fault}", quote(text))
    };
    text.parse().map_err(invalid)
}

fn too_large(asked: Revision, current: Revision) -> ApiError {
    ApiError::timeout(format!("Timeout: Too large resource version: {asked}, current: {current}"))
        .with_causes(vec![crate::status::Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }])
        .retry_after(1)
}

/// `GET` of a collection. Items are written as they are read, not gathered first.
///
/// # Errors
/// What [`page`] says.
pub async fn list(cx: &Arc<Context>) -> ApiResult<Response<Body>> {
    let form = cx.form()?;
    let selectors = Selectors::of(cx, false)?;
    let page = page(cx, &selectors).await?;
    conversion::prepare(&cx.api, &cx.resource, page.entries.iter()).await?;
    let resource = &cx.resource;
    let metadata = match form.view {
        View::Object => page.metadata_of_objects(resource),
        _ => page.metadata(),
    };
    let (api_version, kind) = match form.view {
        View::Object => (resource.api_version(), &*resource.list_kind),
        View::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList"),
        View::Table => {
            let items: Vec<Value> = page.entries.iter().map(|e| decoded(resource, e)).collect();
            return Ok(body::json(StatusCode::OK, line(&table::render(cx, &items, &metadata))));
        }
    };
    let shown = Arc::clone(cx);
    let show = move |entry: &Entry| {
        watch_object(&shown, form.view, conversion::shown(&shown.resource, entry), false)
    };
    let list = match form.encoding {
        Encoding::Protobuf => protobuf_list(&api_version, kind, &metadata, page.entries, show).await?,
        _ => {
            let head = format!(
                "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":["
            );
            let mut list = ListBody::json(Bytes::from(head), page.entries, show);
            if form.view == View::Object && resource.custom.is_none() {
                list = list.leaving_out(object::head(&api_version, &resource.kind));
            }
            http_body_util::BodyExt::boxed_unsync(list)
        }
    };
    let mut response = Response::new(list);
    let encoding = if form.encoding == Encoding::Yaml { Encoding::Json } else { form.encoding };
    response.headers_mut().insert(header::CONTENT_TYPE, encoding.content_type());
    Ok(response)
}

/// Encoded items of a list that are kept between measuring and sending, in bytes; items beyond are encoded twice.
const MEASURED_KEPT_MAX: usize = 8 << 20;

/// Items encoded before other requests get their turn.
const ENCODED_AT_ONCE: usize = 32;

/// A list in protobuf. Its length stands before it, so all items are measured first.
async fn protobuf_list(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    entries: Vec<Arc<Entry>>,
    show: impl Fn(&Entry) -> Bytes + Send + 'static,
) -> ApiResult<Body> {
    let of_items = kind.strip_suffix("List").unwrap_or(kind);
    let (version, of_items) = (api_version.to_owned(), of_items.to_owned());
    let api_version = version.clone();
    let encode = move |entry: &Entry| -> Bytes {
        let mut out = Vec::new();
        if let Err(error) = Encoder::new(&api_version, &of_items).and_then(|e| e.bare(&show(entry), &mut out))
        {
            tracing::error!(key = %entry.key, %error, "a stored object has no protobuf form");
            out.clear();
        }
        out.into()
    };
    let mut len = 0;
    let mut kept = VecDeque::new();
    let mut kept_bytes = 0;
    for (i, entry) in entries.iter().enumerate() {
        let item = encode(entry);
        len += protobuf::item_len(item.len());
        kept_bytes += item.len();
        if kept_bytes <= MEASURED_KEPT_MAX {
            kept.push_back(item);
        }
        if i % ENCODED_AT_ONCE == ENCODED_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
    let list = Encoder::new(&version, kind);
    let head = list.and_then(|list| list.list_head(metadata, len)).map_err(ApiError::internal)?;
    let kept = Mutex::new(kept);
    let item = move |entry: &Entry| kept.lock().pop_front().unwrap_or_else(|| encode(entry));
    Ok(http_body_util::BodyExt::boxed_unsync(ListBody::protobuf(head.into(), entries, item)))
}

/// An entry as [`conversion::shown`] has it, as a tree.
fn decoded(resource: &Resource, entry: &Entry) -> Value {
    serde_json::from_slice(&conversion::shown(resource, entry)).expect("made of JSON")
}

/// The collection, one name or all, that a watch is about, with its starting point.
pub(crate) struct WatchStart {
    pub(crate) prefix: String,
    pub(crate) selectors: Selectors,
    /// Objects to show first, as of the revision after which events follow.
    pub(crate) initial: Vec<Arc<Entry>>,
    pub(crate) after: Revision,
    /// Mark the end of the initial objects with a bookmark (`sendInitialEvents`).
    pub(crate) marks_initial: bool,
}

/// Decides where a watch begins.
///
/// # Errors
/// 400, 410 or 504 as in upstream; 500 when what is there cannot be converted.
pub(crate) async fn watch_start(cx: &Context) -> ApiResult<WatchStart> {
    let selectors = Selectors::of(cx, true)?;
    let rv = cx.query.get("resourceVersion").unwrap_or("");
    let initial_events = cx.query.get("sendInitialEvents");
    let bookmarks = cx.query.flag("allowWatchBookmarks");
    let asked = parse_revision(rv).map_err(ApiError::unknown)?;
    let wants_initial = initial_events.is_some_and(|v| v == "true");
    let shows_state = wants_initial || (initial_events.is_none() && asked == 0);
    let prefix = match selectors.only_name() {
        Some(name) if !cx.resource.namespaced || !cx.info.namespace.is_empty() => {
            cx.resource.key(&cx.info.namespace, name)
        }
        _ => cx.resource.collection(&cx.info.namespace),
    };
    // Who waits for the future without a wish to see the state waits.
    if shows_state && asked > cx.api.store.revision() {
        return Err(too_large(asked, cx.api.store.revision()));
    }
    if !shows_state {
        // `sendInitialEvents=false` without a revision means "from now on".
        let after = if asked == 0 { cx.api.store.revision() } else { asked };
        return Ok(WatchStart { prefix, selectors, initial: Vec::new(), after, marks_initial: false });
    }
    let Range { revision: after, entries, .. } = newest(cx, &selectors, &prefix, String::new());
    conversion::prepare(&cx.api, &cx.resource, entries.iter()).await?;
    let initial = entries.into_iter().filter(|e| selectors.matches(&cx.resource, e)).collect();
    let marks_initial = wants_initial && bookmarks;
    Ok(WatchStart { prefix, selectors, initial, after, marks_initial })
}

/// One state, already in the version of the request, as a list or a watch shows it, in JSON.
pub(crate) fn watch_object(cx: &Context, view: View, bytes: Bytes, first: bool) -> Bytes {
    match view {
        View::Object => bytes,
        View::Metadata => {
            let mut out = metadata_only(&bytes);
            out.pop();
            out.into()
        }
        View::Table => {
            let obj: Value = serde_json::from_slice(&bytes).expect("made of JSON");
            let rv = object::text(&obj, &["metadata", "resourceVersion"]).to_owned();
            let mut table = table::render(cx, std::slice::from_ref(&obj), &json!({ "resourceVersion": rv }));
            if !first {
                table["columnDefinitions"] = Value::Null;
            }
            serde_json::to_vec(&table).expect("JSON into memory").into()
        }
    }
}

/// The protobuf of a state for a watch, made once for all who watch.
pub(crate) fn watch_protobuf(
    cx: &Context,
    view: View,
    revision: Revision,
    entry: &Entry,
    bytes: Bytes,
) -> Bytes {
    let (api_version, kind) = match view {
        View::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
        _ => (cx.resource.api_version(), &*cx.resource.kind),
    };
    let variant = format!("{api_version} {kind}").into();
    let which = Which { revision, key: Arc::clone(&entry.key), variant };
    let encoded = cx.api.encodings.get(which, || {
        let mut out = Vec::with_capacity(bytes.len());
        let json = watch_object(cx, view, bytes, false);
        match Encoder::new(&api_version, kind).and_then(|e| e.enveloped(&json, &mut out)) {
            Ok(()) => Some(out.into()),
            Err(error) => {
                tracing::error!(key = %entry.key, %error, "a stored object has no protobuf form");
                None
            }
        }
    });
    encoded.unwrap_or_default()
}
