//! What the router in front of upstream's handlers refuses: methods, media types and places that no route has.
//!
//! Built-in kinds are registered with that router, so these refusals come before anything is read, in its own words.
//! Custom kinds are not: what they refuse is said by the handlers. Source: go-restful's `detectRoute`, and
//! `k8s.io/apiserver/pkg/endpoints/installer.go` for what is registered.

use http::{HeaderMap, Method};

use crate::{
    negotiate,
    registry::Resource,
    request::RequestInfo,
    status::{ApiError, ApiResult},
};

/// What an object can be shown as.
const OBJECTS: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// What a collection can be shown as, watched or not.
const COLLECTIONS: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf, \
                           application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// The patches of built-in kinds.
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Checks a request against the routes of a built-in kind.
///
/// # Errors
/// 404, 405, 406, 415.
pub(crate) fn check(
    resource: &Resource,
    info: &RequestInfo,
    method: &Method,
    headers: &HeaderMap,
) -> ApiResult<()> {
    check_place(resource, info, method)?;
    // Connections answer in forms of their own, with any method.
    if matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy") {
        return Ok(());
    }
    if !matches!(*method, Method::GET | Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        return Err(ApiError::method_not_allowed());
    }
    if *method == Method::PATCH && !PATCHES.contains(&negotiate::media_type(headers)) {
        return Err(ApiError::unsupported_route());
    }
    let offered = if matches!(info.verb, "list" | "watch") { COLLECTIONS } else { OBJECTS };
    if negotiate::accepts_any(headers, &OBJECTS.split(", ").collect::<Vec<_>>()) {
        return Ok(());
    }
    Err(ApiError::not_acceptable_route(offered))
}

/// Whether there is such a place at all, and with this method.
fn check_place(resource: &Resource, info: &RequestInfo, method: &Method) -> ApiResult<()> {
    let is_namespaces = resource.group.is_empty() && resource.plural == "namespaces";
    let is_collection = is_collection(info);
    if resource.namespaced && info.namespace.is_empty() {
        // Over all namespaces a kind can only be read; questions are asked there, too.
        return match is_collection {
            false if info.name.is_empty() => Err(ApiError::method_not_allowed()),
            false => Err(ApiError::no_such_resource()),
            true if matches!(info.verb, "list" | "watch") => Ok(()),
            true => Err(ApiError::method_not_allowed()),
        };
    }
    if !resource.namespaced && !info.namespace.is_empty() && !is_namespaces {
        return Err(ApiError::no_such_resource());
    }
    let of_one = matches!(*method, Method::PUT | Method::PATCH);
    let misplaced = (of_one && info.name.is_empty())
        || (*method == Method::POST && info.subresource.is_empty() && !info.name.is_empty());
    if misplaced { Err(ApiError::method_not_allowed()) } else { Ok(()) }
}

/// True when the path names a collection, whatever a field selector says.
fn is_collection(info: &RequestInfo) -> bool {
    match info.verb {
        "list" | "watch" | "deletecollection" => true,
        "create" => info.name.is_empty(),
        _ => false,
    }
}
