//! What hangs below objects and is no part of them: `scale`, `binding`, `eviction`, `token`, `finalize`, and the
//! connections `log`, `exec`, `attach`, `portforward` and `proxy`.

mod connect;
mod eviction;
mod links;
mod scale;
mod token;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use windlass_crd::field;

pub(crate) use self::scale::check_replicas;
use crate::{
    body::{self, Body},
    context::Context,
    crds::conversion,
    decode, object, options, patch, read,
    status::{ApiError, ApiResult},
    strategy::Part,
    write::{self, Change},
};

/// Answers a request for a subresource.
///
/// # Errors
/// 404 or 405 when there is no such subresource or verb, and what the subresource says.
pub async fn handle(cx: Context, request: Request<Body>) -> ApiResult<Response<Body>> {
    let name = cx.info.subresource.clone();
    let Some(sub) = cx.resource.subresources.iter().find(|s| s.name == name) else {
        return Err(ApiError::no_such_resource());
    };
    let verb = if matches!(cx.info.verb, "watch" | "list") { "get" } else { cx.info.verb };
    // OPTIONS is the backend's to answer, and no verb of the API.
    let passes = name == "proxy" && verb == "options";
    if !passes && !sub.verbs.has(verb) {
        return Err(ApiError::method_not_allowed());
    }
    match name.as_str() {
        "log" | "exec" | "attach" | "portforward" | "proxy" => connect::handle(&cx, request).await,
        "status" => part(&cx, Part::Status, request).await,
        "ephemeralcontainers" => part(&cx, Part::EphemeralContainers, request).await,
        "resize" => part(&cx, Part::Resize, request).await,
        "approval" => part(&cx, Part::Status, request).await,
        "scale" => scale::handle(&cx, request).await,
        "finalize" => finalize(&cx, body::read(request.into_body()).await?).await,
        "binding" => bind(&cx, body::read(request.into_body()).await?).await,
        "eviction" => eviction::handle(&cx, body::read(request.into_body()).await?).await,
        "token" => token::handle(&cx, body::read(request.into_body()).await?).await,
        _ => Err(ApiError::no_such_resource()),
    }
}

async fn part(cx: &Context, part: Part, request: Request<Body>) -> ApiResult<Response<Body>> {
    if cx.info.verb == "get" {
        return read::get(cx).await;
    }
    let body = body::read(request.into_body()).await?;
    if cx.info.verb == "update" {
        write::put(cx, part, body).await
    } else {
        patch::patch(cx, part, body).await
    }
}

/// `namespaces/finalize`: replaces the finalizers in the spec, and nothing else.
async fn finalize(cx: &Context, body: Bytes) -> ApiResult<Response<Body>> {
    options::check_write(&cx.query, "UpdateOptions")?;
    let given = decode::object(cx, &body)?;
    let finalizers = given.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
    let rv = object::text(&given, &["metadata", "resourceVersion"]).to_owned();
    let change = |old: &Value| {
        if !rv.is_empty() && rv != object::text(old, &["metadata", "resourceVersion"]) {
            return Err(ApiError::modified(&cx.resource, object::name(old)));
        }
        let mut obj = old.clone();
        if finalizers.as_array().is_none_or(Vec::is_empty) {
            object::remove(&mut obj, &["spec", "finalizers"]);
        } else {
            object::set(&mut obj, &["spec", "finalizers"], finalizers.clone());
        }
        Ok(Change::of(obj))
    };
    write::modify(cx, Part::Server, change).await?.respond(cx, StatusCode::OK).await
}

/// `pods/binding`: the scheduler gives a pod its node.
async fn bind(cx: &Context, body: Bytes) -> ApiResult<Response<Body>> {
    let (binding, _) = decode::parse(&cx.headers, &body)?;
    assign(cx, &binding).await?;
    Ok(body::json(
        StatusCode::CREATED,
        read::line(&json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        })),
    ))
}

/// Carries out a binding.
///
/// # Errors
/// 400, 404 or 409 as upstream.
pub(crate) async fn assign(cx: &Context, binding: &Value) -> ApiResult<()> {
    let target = object::text(binding, &["target", "name"]).to_owned();
    let faults = binding_faults(binding);
    if !faults.is_empty() {
        return Err(ApiError::unknown(field::aggregate(&faults)));
    }
    let uid = object::uid(binding).to_owned();
    let change = |old: &Value| {
        if !uid.is_empty() && uid != object::uid(old) {
            let is = object::uid(old);
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {is}");
            return Err(ApiError::conflict(&cx.resource, object::name(old), why));
        }
        let refuse = |why: String| Err(ApiError::conflict_of("pods/binding", object::name(old), why));
        if object::is_deleting(old) {
            return refuse(format!(
                "pod {} is being deleted, cannot be assigned to a host",
                object::name(old)
            ));
        }
        let node = object::text(old, &["spec", "nodeName"]);
        if !node.is_empty() {
            return refuse(format!("pod {} is already assigned to node \"{node}\"", object::name(old)));
        }
        if !object::list(old, &["spec", "schedulingGates"]).is_empty() {
            return refuse(format!("pod {} has non-empty .spec.schedulingGates", object::name(old)));
        }
        let mut pod = old.clone();
        object::set(&mut pod, &["spec", "nodeName"], target.as_str());
        for kind in ["annotations", "labels"] {
            for (key, value) in
                object::at(binding, &["metadata", kind]).and_then(Value::as_object).into_iter().flatten()
            {
                object::set(&mut pod, &["metadata", kind, key], value.clone());
            }
        }
        scheduled(&mut pod);
        // Nobody owns what a binding sets.
        Ok(Change { obj: pod, tracks: false })
    };
    write::modify(cx, Part::Server, change).await.map(drop)
}

/// Source: `ValidatePodBinding`.
fn binding_faults(binding: &Value) -> field::ErrorList {
    let mut faults = field::ErrorList::new();
    let path = field::root("target");
    let kind = object::text(binding, &["target", "kind"]);
    if !matches!(kind, "" | "Node") {
        faults.push(field::Error::not_supported(path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if object::text(binding, &["target", "name"]).is_empty() {
        faults.push(field::Error::required(path.child("name"), ""));
    }
    faults
}

fn scheduled(pod: &mut Value) {
    let mut conditions = object::list(pod, &["status", "conditions"]).to_vec();
    conditions.retain(|c| object::text(c, &["type"]) != "PodScheduled");
    conditions.push(json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": object::now(),
    }));
    object::set(pod, &["status", "conditions"], conditions);
}

/// The object that a subresource request names.
pub(crate) async fn parent(cx: &Context) -> ApiResult<Value> {
    let entry = cx
        .api
        .store
        .get(&cx.resource.key(&cx.info.namespace, &cx.info.name))
        .ok_or_else(|| ApiError::not_found(&cx.resource, &cx.info.name))?;
    conversion::decode(&cx.api, &cx.resource, &entry.value).await
}

/// The same request about another kind.
pub(crate) fn about(cx: &Context, group: &str, version: &str, plural: &str, name: &str) -> Context {
    let resource = cx.api.registry.builtin(group, version, plural);
    let mut info = cx.info.clone();
    info.group = group.to_owned();
    info.version = version.to_owned();
    info.resource = plural.to_owned();
    info.name = name.to_owned();
    info.subresource.clear();
    Context {
        api: Arc::clone(&cx.api),
        info,
        query: cx.query.clone(),
        headers: cx.headers.clone(),
        user: cx.user.clone(),
        resource,
        warnings: parking_lot::Mutex::default(),
        annotations: parking_lot::Mutex::default(),
        dry_run: std::sync::OnceLock::new(),
    }
}
