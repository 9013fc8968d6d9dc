//! Discovery: which groups, versions and resources are served, in the old form and the aggregated one.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use parking_lot::Mutex;
use ring::digest;
use serde_json::{Value, json};

use crate::{
    aggregation::Learned,
    api::Api,
    body::{self, Body},
    object,
    read::line,
    registry::{Resource, Table},
    status::{ApiError, ApiResult},
};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The aggregated documents, kept until the table of kinds changes.
#[derive(Default)]
pub struct Discovery {
    cached: Mutex<Option<Cached>>,
}

/// What two documents were made of, and the two.
struct Cached {
    table: Arc<Table>,
    learned: Arc<BTreeMap<(String, String), Arc<Learned>>>,
    core: Arc<Document>,
    named: Arc<Document>,
}

struct Document {
    bytes: Vec<u8>,
    etag: HeaderValue,
}

impl Document {
    fn new(value: &Value) -> Arc<Self> {
        let bytes = line(value);
        let hash = digest::digest(&digest::SHA256, &bytes);
        let hex: String = hash.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{hex}\"")).expect("hex is a header");
        Arc::new(Self { bytes, etag })
    }
}

/// Answers a discovery path, or nothing when the path is none.
///
/// # Errors
/// 404 for groups and versions that are not served.
pub fn answer(api: &Api, path: &str, headers: &HeaderMap) -> Option<ApiResult<Response<Body>>> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let table = api.registry.table();
    Some(match parts.as_slice() {
        ["api"] if wants_aggregated(headers) => Ok(aggregated(api, &table, true, headers)),
        ["apis"] if wants_aggregated(headers) => Ok(aggregated(api, &table, false, headers)),
        ["api"] => Ok(json_ok(&json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": "" }],
        }))),
        ["apis"] => Ok(json_ok(&json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": named_groups(api, &table).map(|(g, v)| group(&g, &v)).collect::<Vec<_>>(),
        }))),
        ["apis", name] => Ok(match named_groups(api, &table).find(|(g, _)| g == name) {
            Some((g, v)) => {
                let mut group = group(&g, &v);
                group["kind"] = "APIGroup".into();
                group["apiVersion"] = "v1".into();
                json_ok(&group)
            }
            None => return Some(Ok(body::no_such_page())),
        }),
        ["api", version] => resources(&table, "", version),
        ["apis", group, version] => match resources(&table, group, version) {
            Err(_) if !api.registry.is_builtin_group(group) => Ok(body::no_such_page()),
            answer => answer,
        },
        _ => return None,
    })
}

fn json_ok(value: &Value) -> Response<Body> {
    body::json(StatusCode::OK, line(value))
}

fn named_groups(api: &Api, table: &Table) -> impl Iterator<Item = (String, Vec<String>)> {
    api.aggregation.groups(&api.registry, table).into_iter().filter(|(group, _)| !group.is_empty())
}

fn group(name: &str, versions: &[String]) -> Value {
    let entry = |v: &String| json!({ "groupVersion": format!("{name}/{v}"), "version": v });
    json!({
        "name": name,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(entry),
    })
}

fn resources(table: &Table, group: &str, version: &str) -> ApiResult<Response<Body>> {
    let mut list = Vec::new();
    for resource in table.of_version(group, version) {
        list.push(main_entry(resource));
        list.extend(resource.subresources.iter().map(|sub| {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": sub.kind, "verbs": sub.verbs.names(),
            });
            if let Some((group, version)) = sub.group_version
                && !(group.is_empty() && resource.group.is_empty())
            {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            entry
        }));
    }
    if list.is_empty() {
        return Err(ApiError::no_such_resource());
    }
    // Custom kinds are announced with their status before their scale, as they are made.
    let place = |entry: &Value| {
        let name = entry["name"].as_str().unwrap_or_default().to_owned();
        let (main, sub) = name.split_once('/').unwrap_or((&name, ""));
        let custom = table.of_version(group, version).any(|r| r.plural == main && r.custom.is_some());
        (main.to_owned(), custom && sub == "scale", sub.to_owned())
    };
    list.sort_by_cached_key(place);
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json_ok(&json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list,
    })))
}

/// The verbs of a kind, which upstream lists for custom ones in an order of their own.
fn verbs(resource: &Resource) -> Vec<&'static str> {
    const CUSTOM: [&str; 8] =
        ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
    let verbs = resource.announced_verbs();
    match &resource.custom {
        Some(_) => CUSTOM.into_iter().filter(|verb| verbs.has(verb)).collect(),
        None => verbs.names().to_vec(),
    }
}

fn main_entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if resource.verbs.has("list") {
        let stored = match &resource.custom {
            Some(_) => format!("{}/{}/{}", resource.group, resource.version, resource.kind),
            None => resource.prefix.clone(),
        };
        let hash = digest::digest(&digest::SHA256, stored.as_bytes());
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &hash.as_ref()[..8]);
        entry["storageVersionHash"] = text.into();
    }
    entry
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(
        |clause| {
            let has = |param: &str| clause.split(';').any(|p| p.trim() == param);
            has("g=apidiscovery.k8s.io") && has("v=v2") && has("as=APIGroupDiscoveryList")
        },
    )
}

fn aggregated(api: &Api, table: &Arc<Table>, core: bool, headers: &HeaderMap) -> Response<Body> {
    let mut cached = api.discovery.cached.lock();
    let learned = api.aggregation.learned();
    let fits = |kept: &&Cached| Arc::ptr_eq(&kept.table, table) && Arc::ptr_eq(&kept.learned, &learned);
    if cached.as_ref().filter(fits).is_none() {
        let groups = api.aggregation.groups(&api.registry, table);
        let [core, named] =
            [true, false].map(|core| Document::new(&aggregated_list(table, &groups, &learned, core)));
        *cached = Some(Cached { table: Arc::clone(table), learned, core, named });
    }
    let kept = cached.as_ref().expect("just made");
    let document = if core { &kept.core } else { &kept.named };
    let mut response = if headers.get(header::IF_NONE_MATCH) == Some(&document.etag) {
        let mut unchanged = Response::new(body::empty());
        *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
        unchanged
    } else {
        body::json(StatusCode::OK, document.bytes.clone())
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    headers.insert(header::ETAG, document.etag.clone());
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_list(
    table: &Table,
    groups: &[(String, Vec<String>)],
    learned: &BTreeMap<(String, String), Arc<Learned>>,
    core: bool,
) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .filter(|(g, _)| g.is_empty() == core)
        .map(|(g, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|v| {
                    let resources: Vec<Value> = match learned.get(&(g.clone(), v.clone())) {
                        Some(learned) => foreign_resources(g, v, &learned.resources),
                        None => table.of_version(g, v).map(|r| aggregated_resource(r)).collect(),
                    };
                    json!({ "version": v, "freshness": "Current", "resources": resources })
                })
                .collect();
            let mut metadata = json!({ "creationTimestamp": null });
            if !g.is_empty() {
                metadata["name"] = g.as_str().into();
            }
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items })
}

/// Another server's `APIResourceList` as entries of the aggregated document.
fn foreign_resources(group: &str, version: &str, list: &Value) -> Vec<Value> {
    let all = object::list(list, &["resources"]);
    let kind = |entry: &Value| {
        let or = |key: &str, other: &str| match object::text(entry, &[key]) {
            "" => other.to_owned(),
            text => text.to_owned(),
        };
        json!({ "group": or("group", group), "version": or("version", version), "kind": entry["kind"] })
    };
    let mains = all.iter().filter(|entry| !object::text(entry, &["name"]).contains('/'));
    mains
        .map(|main| {
            let name = object::text(main, &["name"]);
            let scope = if main["namespaced"] == true { "Namespaced" } else { "Cluster" };
            let mut entry = json!({
                "resource": name, "responseKind": kind(main), "scope": scope,
                "singularResource": main["singularName"], "verbs": main["verbs"],
            });
            for key in ["shortNames", "categories"] {
                if let Some(value) = object::at(main, &[key]) {
                    entry[key] = value.clone();
                }
            }
            let subs: Vec<Value> = all
                .iter()
                .filter_map(|sub| Some((sub, object::text(sub, &["name"]).strip_prefix(name)?.strip_prefix('/')?)))
                .map(|(sub, name)| json!({ "subresource": name, "responseKind": kind(sub), "verbs": sub["verbs"] }))
                .collect();
            if !subs.is_empty() {
                entry["subresources"] = subs.into();
            }
            entry
        })
        .collect()
}

fn aggregated_resource(resource: &Resource) -> Value {
    let response_kind =
        |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|sub| {
            let (group, version) = sub.group_version.unwrap_or((&resource.group, &resource.version));
            json!({
                "subresource": sub.name, "responseKind": response_kind(group, version, &sub.kind),
                "verbs": sub.verbs.names(),
            })
        })
        .collect();
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": response_kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.announced_verbs().names(),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}
