//! `serviceaccounts/token`: a `TokenRequest` answered with a bound token. Source: KEP-1205.

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use windlass_crd::field::{self, Error};

use super::parent;
use crate::{
    body::{self, Body},
    context::Context,
    decode, object, read,
    status::{ApiError, ApiResult},
    token::{Bound, Claims, Private},
};

const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_DEFAULT: i64 = 3600;
/// What the kubelet asks for, which is stretched to a year while old clients do not reload tokens.
const SECONDS_STRETCHED: i64 = 3607;
const YEAR_SECONDS: i64 = 365 * 24 * 3600;

pub(super) async fn handle(cx: &Context, body: Bytes) -> ApiResult<Response<Body>> {
    let account = parent(cx).await?;
    let (mut request, _) = decode::parse(&cx.headers, &body)?;
    let asked = object::number(&request, &["spec", "expirationSeconds"]).unwrap_or(SECONDS_DEFAULT);
    check_seconds(asked)?;
    let mut audiences: Vec<String> = object::list(&request, &["spec", "audiences"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if audiences.is_empty() {
        audiences.push(cx.api.config.issuer.clone());
    }
    let now = windlass::clock::now().as_second();
    let seconds = if asked == SECONDS_STRETCHED { YEAR_SECONDS } else { asked };
    let private = bind(cx, &account, object::at(&request, &["spec", "boundObjectRef"]))?;
    let claims = Claims {
        sub: format!("system:serviceaccount:{}:{}", cx.info.namespace, cx.info.name),
        aud: audiences.clone(),
        exp: now + seconds,
        iat: now,
        nbf: now,
        iss: cx.api.tokens.issuer().to_owned(),
        jti: cx.api.new_uid(),
        kubernetes: Private { warnafter: (asked == SECONDS_STRETCHED).then_some(now + asked), ..private },
    };
    let expires = Timestamp::from_second(now).unwrap_or_default() + SignedDuration::from_secs(seconds);
    object::set(&mut request, &["apiVersion"], "authentication.k8s.io/v1");
    object::set(&mut request, &["kind"], "TokenRequest");
    object::set(
        &mut request,
        &["metadata"],
        json!({
            "name": cx.info.name, "namespace": cx.info.namespace, "creationTimestamp": object::now(),
        }),
    );
    object::set(&mut request, &["spec", "audiences"], json!(audiences));
    object::set(&mut request, &["spec", "expirationSeconds"], asked);
    object::set(
        &mut request,
        &["status"],
        json!({
            "token": cx.api.tokens.sign(&claims), "expirationTimestamp": object::seconds(expires),
        }),
    );
    Ok(body::json(StatusCode::CREATED, read::line(&request)))
}

fn check_seconds(asked: i64) -> ApiResult<()> {
    let path = field::root("spec").child("expirationSeconds");
    let why = match asked {
        ..SECONDS_MIN => "may not specify a duration less than 10 minutes",
        SECONDS_MIN..=SECONDS_MAX => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let error = Error::invalid(&path, asked, why);
    Err(ApiError::invalid_text(format!("TokenRequest.authentication.k8s.io \"\" is invalid: {error}")))
}

fn bind(cx: &Context, account: &Value, reference: Option<&Value>) -> ApiResult<Private> {
    let mut private = Private {
        namespace: cx.info.namespace.clone(),
        node: None,
        pod: None,
        secret: None,
        serviceaccount: bound(account),
        warnafter: None,
    };
    let Some(reference) = reference else { return Ok(private) };
    let (kind, name) = (object::text(reference, &["kind"]), object::text(reference, &["name"]));
    let uid = object::text(reference, &["uid"]);
    let find = |plural: &str, namespace: &str| -> ApiResult<Value> {
        let resource = cx.api.registry.builtin("", "v1", plural);
        let entry = cx
            .api
            .store
            .get(&resource.key(namespace, name))
            .ok_or_else(|| ApiError::not_found(&resource, name))?;
        let obj = object::decode(&resource, &entry.value);
        if !uid.is_empty() && uid != object::uid(&obj) {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            );
            return Err(ApiError::conflict(&resource, name, why));
        }
        Ok(obj)
    };
    match kind {
        "Pod" => {
            let pod = find("pods", &cx.info.namespace)?;
            let runs_as = object::text(&pod, &["spec", "serviceAccountName"]);
            if runs_as != cx.info.name {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                    cx.info.name
                )));
            }
            private.pod = Some(bound(&pod));
            let node = object::text(&pod, &["spec", "nodeName"]);
            if !node.is_empty() {
                let nodes = cx.api.registry.builtin("", "v1", "nodes");
                let uid = cx.api.store.get(&nodes.key("", node));
                let uid = uid.map(|e| object::uid(&object::decode(&nodes, &e.value)).to_owned());
                private.node = Some(Bound { name: node.to_owned(), uid: uid.unwrap_or_default() });
            }
        }
        "Secret" => private.secret = Some(bound(&find("secrets", &cx.info.namespace)?)),
        "Node" => private.node = Some(bound(&find("nodes", "")?)),
        other => return Err(ApiError::bad_request(format!("cannot bind token to object of type {other}"))),
    }
    Ok(private)
}

fn bound(obj: &Value) -> Bound {
    Bound { name: object::name(obj).to_owned(), uid: object::uid(obj).to_owned() }
}
