//! Questions with an answer and nothing stored: who am I, may I, may they, is this token good.

mod access;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    authn::Identity,
    body::{self, Body},
    context::Context,
    decode,
    negotiate::{self, Offer},
    object, options, read,
    status::{ApiError, ApiResult},
    strategy::Part,
    subresource, write,
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
    options::check_write(&cx.query, "CreateOptions")?;
    let mut review = decode::object(cx, &body)?;
    if cx.resource.kind != "Binding" {
        begin(cx, &mut review)?;
    }
    match cx.resource.kind.as_ref() {
        "SelfSubjectReview" => {
            // An object of its own: nothing of the question is in it.
            review = json!({
                "kind": "SelfSubjectReview", "apiVersion": cx.resource.api_version(),
                "metadata": { "creationTimestamp": object::now() },
                "status": { "userInfo": user_info(&cx.user) },
            });
        }
        "SelfSubjectAccessReview" => access::own(cx, &mut review).await?,
        "SubjectAccessReview" => access::of_subject(cx, &mut review).await?,
        "LocalSubjectAccessReview" => access::of_subject_here(cx, &mut review).await?,
        "SelfSubjectRulesReview" => access::rules(cx, &mut review)?,
        "TokenReview" => token(cx, &mut review).await?,
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

/// A question is owned by whoever asks it, as an object would be.
fn begin(cx: &Context, review: &mut Value) -> ApiResult<()> {
    write::take_namespace(cx, review)?;
    let metadata = object::meta(review);
    for key in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(key);
    }
    write::track(cx, None, review, Part::Main);
    Ok(())
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

/// Whose a token is, asked of the same chain that requests go through.
async fn token(cx: &Context, review: &mut Value) -> ApiResult<()> {
    let token = object::text(review, &["spec", "token"]).to_owned();
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let asked: Vec<String> = object::list(review, &["spec", "audiences"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let audiences = if asked.is_empty() { cx.api.authenticator.audiences().to_vec() } else { asked };
    let status = match cx.api.authenticator.token(&cx.api, &token, &audiences).await {
        Ok(known) => {
            json!({ "authenticated": true, "user": user_info(&known.user), "audiences": known.audiences })
        }
        Err(why) => json!({ "error": why, "user": {} }),
    };
    object::set(review, &["status"], status);
    Ok(())
}
