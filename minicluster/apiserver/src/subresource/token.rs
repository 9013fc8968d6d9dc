//! `serviceaccounts/token`: a `TokenRequest` answered with a bound token.
//!
//! Source: `pkg/registry/core/serviceaccount/storage/token.go`, KEP-1205.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use windlass_crd::field::{self, Error, Path};

use super::parent;
use crate::{
    admission,
    body::{self, Body},
    context::Context,
    decode, object, read,
    status::{ApiError, ApiResult},
    token::{Bound, Claims, Private},
};

const GROUP: &str = "authentication.k8s.io";
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_DEFAULT: i64 = 3600;
/// What the kubelet asks for, which is stretched to a year while old clients do not reload tokens.
const SECONDS_STRETCHED: i64 = 3607;
const YEAR_SECONDS: i64 = 365 * 24 * 3600;

pub(super) async fn handle(cx: &Context, body: Bytes) -> ApiResult<Response<Body>> {
    let (mut request, _) = decode::parse(&cx.headers, &body)?;
    // Before anything is filled in: a node may ask for the audience that a pod leaves open, not for its name.
    admission::ask(cx, &request).await?;
    own_names(cx, &request)?;
    let account = parent(cx).await?;
    let asked_uid = object::uid(&request);
    if !asked_uid.is_empty() && asked_uid != object::uid(&account) {
        let uid = object::uid(&account);
        return Err(ApiError::conflict_of(
            "TokenRequest.authentication.k8s.io",
            &cx.info.name,
            format!(
                "the UID in the token request ({asked_uid}) does not match the UID of the service account ({uid})"
            ),
        ));
    }
    complete(cx, &mut request, &account);
    let asked = object::number(&request, &["spec", "expirationSeconds"]).unwrap_or(SECONDS_DEFAULT);
    check_seconds(asked)?;
    let bound = bind(cx, object::at(&request, &["spec", "boundObjectRef"]))?;
    let seconds = shortened(cx, asked);
    object::set(&mut request, &["spec", "expirationSeconds"], seconds);
    let now = windlass::clock::now().as_second();
    let claims = claims(cx, &request, &account, bound, now);
    let expires = Timestamp::from_second(now).unwrap_or_default() + SignedDuration::from_secs(seconds);
    let status =
        json!({ "token": cx.api.tokens.sign(&claims), "expirationTimestamp": object::seconds(expires) });
    object::set(&mut request, &["status"], status);
    let mut response = body::json(StatusCode::CREATED, read::line(&request));
    for warning in cx.warnings.lock().iter() {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{warning}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

fn invalid(name: &str, error: Error) -> ApiError {
    ApiError::invalid_of("TokenRequest", GROUP, name, &[error])
}

/// The body may repeat what the URL says, and nothing else.
fn own_names(cx: &Context, request: &Value) -> ApiResult<()> {
    let metadata = field::root("metadata");
    for (field, given, own, noun) in [
        ("name", object::name(request), &cx.info.name, "name"),
        ("namespace", object::namespace(request), &cx.info.namespace, "namespace"),
    ] {
        if !given.is_empty() && given != own {
            let why = format!("must match the service account {noun} if specified");
            return Err(invalid(&cx.info.name, Error::invalid(metadata.child(field), given, why)));
        }
    }
    Ok(())
}

fn complete(cx: &Context, request: &mut Value, account: &Value) {
    if object::list(request, &["spec", "audiences"]).is_empty() {
        object::set(request, &["spec", "audiences"], json!(cx.api.authenticator.audiences()));
    }
    if object::number(request, &["spec", "expirationSeconds"]).is_none() {
        object::set(request, &["spec", "expirationSeconds"], SECONDS_DEFAULT);
    }
    object::set(request, &["apiVersion"], "authentication.k8s.io/v1");
    object::set(request, &["kind"], "TokenRequest");
    object::set(request, &["metadata", "name"], object::name(account));
    object::set(request, &["metadata", "namespace"], object::namespace(account));
    object::set(request, &["metadata", "uid"], object::uid(account));
    object::set(request, &["metadata", "creationTimestamp"], object::now());
}

fn check_seconds(asked: i64) -> ApiResult<()> {
    let path: Path = field::root("spec").child("expirationSeconds");
    let why = match asked {
        ..SECONDS_MIN => "may not specify a duration less than 10 minutes",
        SECONDS_MIN..=SECONDS_MAX => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    Err(invalid("", Error::invalid(path, asked, why)))
}

/// The time that the server grants: not more than its bound, and it says so.
fn shortened(cx: &Context, asked: i64) -> i64 {
    let most = cx.api.config.token_seconds_max;
    if most == 0 || asked <= most {
        return asked;
    }
    cx.warn(format!("requested expiration of {asked} seconds shortened to {most} seconds"));
    most
}

/// What a token is bound to.
#[derive(Default)]
struct Bonds {
    pod: Option<Bound>,
    node: Option<Bound>,
    secret: Option<Bound>,
}

fn claims(cx: &Context, request: &Value, account: &Value, bonds: Bonds, now: i64) -> Claims {
    let audiences: Vec<String> = object::list(request, &["spec", "audiences"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let seconds = object::number(request, &["spec", "expirationSeconds"]).unwrap_or(SECONDS_DEFAULT);
    let own = cx.api.authenticator.audiences();
    // Only for this server, and only for pods: others are held to what they asked for.
    let stretched =
        seconds == SECONDS_STRETCHED && bonds.pod.is_some() && audiences.iter().all(|a| own.contains(a));
    Claims {
        sub: format!("system:serviceaccount:{}:{}", cx.info.namespace, cx.info.name),
        aud: audiences,
        exp: now + if stretched { YEAR_SECONDS } else { seconds },
        iat: now,
        nbf: now,
        iss: cx.api.tokens.issuer().to_owned(),
        jti: cx.api.new_uid(),
        kubernetes: Private {
            namespace: cx.info.namespace.clone(),
            node: bonds.node,
            pod: bonds.pod,
            secret: bonds.secret,
            serviceaccount: bound(account),
            warnafter: stretched.then_some(now + seconds),
        },
    }
}

fn bind(cx: &Context, reference: Option<&Value>) -> ApiResult<Bonds> {
    let mut bonds = Bonds::default();
    let Some(reference) = reference else { return Ok(bonds) };
    let text = |field: &str| object::text(reference, &[field]);
    let namespace = &cx.info.namespace;
    let version = text("apiVersion");
    let target = match (version.contains('/'), text("kind")) {
        (false, "Pod") => {
            let pod = find(cx, "pods", namespace, text("name"))?;
            if object::text(&pod, &["spec", "serviceAccountName"]) != cx.info.name {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                    cx.info.name
                )));
            }
            bonds.pod = Some(bound(&pod));
            bonds.node = node_of(cx, &pod);
            pod
        }
        (false, "Node") => {
            let node = find(cx, "nodes", "", text("name"))?;
            bonds.node = Some(bound(&node));
            node
        }
        (false, "Secret") => {
            let secret = find(cx, "secrets", namespace, text("name"))?;
            bonds.secret = Some(bound(&secret));
            secret
        }
        (_, kind) => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let uid = text("uid");
    if !uid.is_empty() && uid != object::uid(&target) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        );
        return Err(ApiError::conflict_of(text("kind"), text("name"), why));
    }
    Ok(bonds)
}

fn find(cx: &Context, plural: &str, namespace: &str, name: &str) -> ApiResult<Value> {
    let resource = cx.api.registry.builtin("", "v1", plural);
    let entry = cx.api.store.get(&resource.key(namespace, name));
    let entry = entry.ok_or_else(|| ApiError::not_found(&resource, name))?;
    Ok(object::decode(&resource, &entry.value))
}

/// The node of a pod; one that is not there is named without a uid.
fn node_of(cx: &Context, pod: &Value) -> Option<Bound> {
    let name = object::text(pod, &["spec", "nodeName"]);
    if name.is_empty() {
        return None;
    }
    let unknown = || Bound { name: name.to_owned(), uid: String::new() };
    Some(find(cx, "nodes", "", name).map_or_else(|_| unknown(), |node| bound(&node)))
}

fn bound(obj: &Value) -> Bound {
    Bound { name: object::name(obj).to_owned(), uid: object::uid(obj).to_owned() }
}
