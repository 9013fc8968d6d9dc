//! Questions with an answer and nothing stored: who am I, may I, may they, is this token good.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    authn::{self, Identity},
    authz::Attributes,
    body::{self, Body},
    context::Context,
    decode,
    negotiate::{self, Offer},
    object, read,
    status::{ApiError, ApiResult},
    subresource,
};

/// True when `POST`ing this kind asks a question rather than creating an object.
pub fn is_review(kind: &str) -> bool {
    kind.ends_with("Review") || kind == "Binding"
}

/// Answers.
///
/// # Errors
/// 400 for questions that make no sense.
pub async fn answer(cx: &Context, body: Bytes) -> ApiResult<Response<Body>> {
    // A question has neither a table nor metadata to show alone.
    negotiate::form(&cx.headers, Offer { protobuf: true, views: false })?;
    let mut review = decode::accept(cx, decode::parse(&cx.headers, &body)?)?;
    match cx.resource.kind.as_ref() {
        "SelfSubjectReview" => {
            object::set(&mut review, &["status"], json!({ "userInfo": user_info(&cx.user) }));
        }
        "SelfSubjectAccessReview" => access(cx, &cx.user.clone(), &mut review)?,
        "SubjectAccessReview" => {
            let user = subject(&review)?;
            access(cx, &user, &mut review)?;
        }
        "LocalSubjectAccessReview" => {
            let user = subject(&review)?;
            let namespace = object::text(&review, &["spec", "resourceAttributes", "namespace"]);
            if namespace != cx.info.namespace {
                return Err(ApiError::bad_request(format!(
                    "spec.resourceAttributes.namespace must match namespace: {}",
                    cx.info.namespace
                )));
            }
            access(cx, &user, &mut review)?;
        }
        "SelfSubjectRulesReview" => rules(cx, &mut review),
        "TokenReview" => token(cx, &mut review),
        "Binding" => {
            let pods = subresource::about(cx, "", "v1", "pods", object::name(&review));
            subresource::assign(&pods, &review).await?;
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
            });
            return Ok(body::json(StatusCode::CREATED, read::line(&status)));
        }
        _ => return Err(ApiError::method_not_allowed()),
    }
    Ok(body::json(StatusCode::CREATED, read::line(&review)))
}

fn user_info(user: &Identity) -> Value {
    let mut info = json!({ "username": user.name, "groups": user.groups });
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn subject(review: &Value) -> ApiResult<Identity> {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let texts = |key: &str| -> Vec<String> {
        object::list(&spec, &[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let user = Identity {
        name: object::text(&spec, &["user"]).to_owned(),
        uid: object::text(&spec, &["uid"]).to_owned(),
        groups: texts("groups"),
        extra: serde_json::from_value(spec.get("extra").cloned().unwrap_or_default()).unwrap_or_default(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(ApiError::invalid_text(
            "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of \
             user or group must be specified",
        ));
    }
    Ok(user)
}

fn access(cx: &Context, user: &Identity, review: &mut Value) -> ApiResult<()> {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let (resource, path) =
        (object::at(&spec, &["resourceAttributes"]), object::at(&spec, &["nonResourceAttributes"]));
    let asked = match (resource, path) {
        (Some(r), None) => Attributes {
            verb: object::text(r, &["verb"]),
            group: object::text(r, &["group"]),
            version: object::text(r, &["version"]),
            resource: object::text(r, &["resource"]),
            subresource: object::text(r, &["subresource"]),
            namespace: object::text(r, &["namespace"]),
            name: object::text(r, &["name"]),
            path: "",
            is_resource: true,
        },
        (None, Some(p)) => Attributes {
            verb: object::text(p, &["verb"]),
            path: object::text(p, &["path"]),
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            is_resource: false,
        },
        _ => {
            return Err(ApiError::invalid_text(format!(
                "{}.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: null: exactly one of \
                 nonResourceAttributes or resourceAttributes must be specified",
                cx.resource.kind
            )));
        }
    };
    let mut status = json!({ "allowed": false });
    if let Some(reason) = cx.api.rbac.allows(user, &asked) {
        status["allowed"] = true.into();
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
    }
    object::set(review, &["status"], status);
    Ok(())
}

fn rules(cx: &Context, review: &mut Value) {
    let namespace = object::text(review, &["spec", "namespace"]).to_owned();
    let all = cx.api.rbac.rules_for(&cx.user, &namespace);
    let (paths, resources): (Vec<_>, Vec<_>) = all.into_iter().partition(|r| !r.non_resource_urls.is_empty());
    object::set(
        review,
        &["status"],
        json!({
            "incomplete": false, "resourceRules": resources, "nonResourceRules": paths,
        }),
    );
}

fn token(cx: &Context, review: &mut Value) {
    let asked: Vec<String> = object::list(review, &["spec", "audiences"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let audiences = if asked.is_empty() { vec![cx.api.config.issuer.clone()] } else { asked };
    let token = object::text(review, &["spec", "token"]).to_owned();
    let status = match authn::check_token(&cx.api, &token, &audiences) {
        Ok((user, claims)) => {
            let accepted: Vec<&String> = claims.aud.iter().filter(|a| audiences.contains(a)).collect();
            json!({ "authenticated": true, "user": user_info(&user), "audiences": accepted })
        }
        Err(why) => json!({ "error": format!("[invalid bearer token, {why}]"), "user": {} }),
    };
    object::set(review, &["status"], status);
}
