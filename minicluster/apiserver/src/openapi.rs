//! OpenAPI: v3 a document for each group and version, v2 in one; built when asked for, kept until the kinds change.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use ring::digest;
use serde_json::{Value, json};
use windlass_crd::openapi::{self, Row};

use crate::{
    aggregation::Learned,
    api::Api,
    body::{self, Body},
    read::line,
    registry::{Resource, Table},
    status::{ApiError, ApiResult},
};

/// Documents by name, for one state of the table.
#[derive(Default)]
pub struct Documents {
    table: Option<Arc<Table>>,
    learned: Option<Arc<BTreeMap<(String, String), Arc<Learned>>>>,
    by_name: BTreeMap<String, Arc<Document>>,
}

/// One encoded document.
pub struct Document {
    bytes: bytes::Bytes,
    hash: String,
    /// The same in gnostic's protobuf form, for v2; made when it is asked for.
    protobuf: OnceLock<bytes::Bytes>,
}

/// The name of gnostic's protobuf form of OpenAPI v2.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The name under which clients ask for it that do not know better; it is no media type.
const PROTOBUF_ONCE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Whether a client asks for protobuf first of all.
fn wants_protobuf(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let first = accept.split([',', ';']).next().unwrap_or_default().trim();
    first == PROTOBUF || first == PROTOBUF_ONCE
}

impl Document {
    fn new(value: &Value) -> Self {
        let bytes = line(value);
        let hash = digest::digest(&digest::SHA512, &bytes);
        let hash = hash.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        Self { bytes: bytes.into(), hash, protobuf: OnceLock::new() }
    }
}

/// Answers an OpenAPI path, or nothing when the path is none.
///
/// # Errors
/// 404 for documents that do not exist.
pub fn answer(api: &Api, path: &str, headers: &HeaderMap) -> Option<ApiResult<Response<Body>>> {
    let name = path.strip_prefix("/openapi/")?.trim_end_matches('/');
    let table = api.registry.table();
    let mut documents = api.documents.lock();
    let learned = api.aggregation.learned();
    let fits = documents.table.as_ref().is_some_and(|t| Arc::ptr_eq(t, &table))
        && documents.learned.as_ref().is_some_and(|l| Arc::ptr_eq(l, &learned));
    if !fits {
        *documents =
            Documents { table: Some(Arc::clone(&table)), learned: Some(learned), by_name: BTreeMap::new() };
    }
    let found = match documents.by_name.get(name) {
        Some(document) => Some(Arc::clone(document)),
        None => build(&table, name, api).map(Arc::new).inspect(|document| {
            documents.by_name.insert(name.to_owned(), Arc::clone(document));
        }),
    };
    drop(documents);
    let protobuf = name == "v2" && wants_protobuf(headers);
    Some(found.map(|d| respond(&d, headers, protobuf)).ok_or_else(ApiError::no_such_resource))
}

fn respond(document: &Document, headers: &HeaderMap, protobuf: bool) -> Response<Body> {
    let etag = HeaderValue::from_str(&format!("\"{}\"", document.hash)).expect("hex is a header");
    let mut response = if headers.get(header::IF_NONE_MATCH) == Some(&etag) {
        let mut unchanged = Response::new(body::empty());
        *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
        unchanged
    } else if protobuf {
        let encode = || {
            let json: Value = serde_json::from_slice(&document.bytes).unwrap_or_default();
            openapi::gnostic::encode(&json).into()
        };
        let mut response = Response::new(body::full(document.protobuf.get_or_init(encode).clone()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
        response
    } else {
        body::json(StatusCode::OK, document.bytes.clone())
    };
    response.headers_mut().insert(header::ETAG, etag);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn build(table: &Table, name: &str, api: &Api) -> Option<Document> {
    match name {
        "v2" => {
            let rows: Vec<Row> = table.all().map(|r| row(r)).collect();
            let mut document = openapi::v2(&rows, &api.config.git_version);
            for learned in api.aggregation.learned().values() {
                merge(&mut document, &learned.v2);
            }
            Some(Document::new(&document))
        }
        "v3" => Some(Document::new(&index(table, api))),
        other => {
            let (group, version) = match other.strip_prefix("v3/")?.split('/').collect::<Vec<_>>().as_slice()
            {
                ["api", version] => (String::new(), (*version).to_owned()),
                ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
                _ => return None,
            };
            let rows: Vec<Row> = table.of_version(&group, &version).map(|r| row(r)).collect();
            if rows.is_empty() {
                return None;
            }
            Some(Document::new(&openapi::v3(&rows, &api.config.git_version)))
        }
    }
}

/// The documents that exist, each with a URL that changes when the document does.
fn index(table: &Table, api: &Api) -> Value {
    let mut paths = serde_json::Map::new();
    for (group, versions) in table.groups() {
        for version in versions {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            // What the document is made of, without making it.
            let mut hash = digest::Context::new(&digest::SHA256);
            hash.update(api.config.git_version.as_bytes());
            for resource in table.of_version(group, version) {
                hash.update(resource.plural.as_bytes());
                if let Some(custom) = &resource.custom {
                    hash.update(custom.uid.as_bytes());
                    hash.update(custom.fingerprint.as_bytes());
                }
            }
            let hex: String = hash.finish().as_ref().iter().map(|b| format!("{b:02X}")).collect();
            paths.insert(
                path.clone(),
                json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={hex}") }),
            );
        }
    }
    for ((group, version), learned) in &*api.aggregation.learned() {
        let path = format!("apis/{group}/{version}");
        let hash = &learned.v3_hash;
        paths.insert(path.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}") }));
    }
    json!({ "paths": paths })
}

/// Adds the paths and definitions of another server that are not there yet.
fn merge(document: &mut Value, other: &Value) {
    for part in ["paths", "definitions"] {
        let Some(more) = other.get(part).and_then(Value::as_object) else { continue };
        for (name, value) in more {
            if document[part].get(name).is_none() {
                document[part][name] = value.clone();
            }
        }
    }
}

fn row(resource: &Resource) -> Row {
    Row {
        group: resource.group.to_string(),
        version: resource.version.to_string(),
        kind: resource.kind.to_string(),
        list_kind: resource.list_kind.to_string(),
        plural: resource.plural.to_string(),
        namespaced: resource.namespaced,
        verbs: resource.verbs.names().iter().map(|v| (*v).to_owned()).collect(),
        subresources: resource
            .subresources
            .iter()
            .map(|s| openapi::SubRow {
                name: s.name.to_owned(),
                kind: s.kind.to_string(),
                group_version: s.group_version.map(|(g, v)| (g.to_owned(), v.to_owned())),
                verbs: s.verbs.names().iter().map(|v| (*v).to_owned()).collect(),
            })
            .collect(),
        schema: resource.schema(),
        custom: resource.custom.as_ref().map(|custom| custom.schema.clone()),
    }
}
