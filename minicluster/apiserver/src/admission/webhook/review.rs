//! `AdmissionReview`: the question to a webhook, and its answer. Source: `k8s.io/api/admission/v1`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Event, Operation};
use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

/// The question.
pub(super) fn request(cx: &Context, event: &Event<'_>, uid: &str, dry_run: bool) -> Value {
    let resource = &cx.resource;
    let (group, version) = (resource.group.as_ref(), resource.version.as_ref());
    let sub = resource.subresources.iter().find(|sub| sub.name == cx.info.subresource);
    let (kind_group, kind_version) = sub.and_then(|sub| sub.group_version).unwrap_or((group, version));
    let kind = sub.map_or(resource.kind.as_ref(), |sub| sub.kind.as_ref());
    let kind = json!({"group": kind_group, "version": kind_version, "kind": kind});
    let what = json!({"group": group, "version": version, "resource": resource.plural});
    let name = match cx.info.name.as_str() {
        "" => event.obj.or(event.old).map(object::name).unwrap_or_default(),
        name => name,
    };
    let options = match event.op {
        Operation::Create => "CreateOptions",
        Operation::Update if cx.info.verb == "patch" => "PatchOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => "",
    };
    let mut options = match options {
        "" => Value::Null,
        kind => json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"}),
    };
    if let Some(manager) = cx.query.get("fieldManager").filter(|_| options.is_object()) {
        options["fieldManager"] = manager.into();
    }
    let mut request = json!({
        "uid": uid,
        "kind": kind, "resource": what, "requestKind": kind, "requestResource": what,
        "operation": event.operation(),
        "userInfo": user(cx),
        "object": event.obj, "oldObject": event.old, "options": options,
        "dryRun": dry_run,
    });
    for (field, text) in [
        ("name", name),
        ("namespace", &cx.info.namespace),
        ("subResource", &cx.info.subresource),
        ("requestSubResource", &cx.info.subresource),
    ] {
        if !text.is_empty() {
            request[field] = text.into();
        }
    }
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
}

fn user(cx: &Context) -> Value {
    let mut user = json!({"username": cx.user.name, "groups": cx.user.groups});
    if !cx.user.uid.is_empty() {
        user["uid"] = cx.user.uid.as_str().into();
    }
    if !cx.user.extra.is_empty() {
        user["extra"] = json!(cx.user.extra);
    }
    user
}

/// The answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    allowed: bool,
    result: Value,
    pub(super) patch: Option<Value>,
    pub(super) warnings: Vec<String>,
    /// Notes for the audit.
    pub(super) annotations: Vec<(String, String)>,
}

/// Reads an answer to the question `uid`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(body: &[u8], uid: &str) -> Result<Answer, String> {
    let review: Value =
        serde_json::from_slice(body).map_err(|e| format!("couldn't decode the response: {e}"))?;
    let (version, kind) = (object::text(&review, &["apiVersion"]), object::text(&review, &["kind"]));
    if (version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {version}, Kind={kind}"
        ));
    }
    let Some(response) = object::at(&review, &["response"]) else {
        return Err("webhook response was absent".to_owned());
    };
    let given = object::text(response, &["uid"]);
    if given != uid {
        return Err(format!("expected response.uid=\"{uid}\", got \"{given}\""));
    }
    let patch = object::text(response, &["patch"]);
    let patch_type = object::text(response, &["patchType"]);
    let patch = match (patch, patch_type) {
        ("", "") => None,
        ("", _) => return Err("webhook returned response.patchType but not response.patch".to_owned()),
        (_, "") => return Err("webhook returned response.patch but not response.patchType".to_owned()),
        (patch, "JSONPatch") => {
            let bytes = STANDARD.decode(patch).map_err(|e| format!("response.patch: {e}"))?;
            Some(serde_json::from_slice(&bytes).map_err(|e| format!("response.patch: {e}"))?)
        }
        (_, other) => return Err(format!("webhook returned invalid response.patchType of \"{other}\"")),
    };
    let warnings = object::list(response, &["warnings"]);
    let notes = object::at(response, &["auditAnnotations"]).and_then(Value::as_object).into_iter().flatten();
    Ok(Answer {
        allowed: response.get("allowed").and_then(Value::as_bool) == Some(true),
        result: response.get("status").cloned().unwrap_or_default(),
        patch,
        annotations: notes.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
        warnings: warnings.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}

impl Answer {
    /// Lets the request go on, or refuses it in the hook's words.
    ///
    /// # Errors
    /// The hook's status, or 400 when it gives none.
    pub(super) fn verdict(self, hook: &str) -> ApiResult<Self> {
        if self.allowed {
            return Ok(self);
        }
        let denied = format!("admission webhook \"{hook}\" denied the request");
        let reason = object::text(&self.result, &["reason"]);
        let message = match (object::text(&self.result, &["message"]), reason) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        let code = object::number(&self.result, &["code"]).and_then(|code| u16::try_from(code).ok());
        Err(ApiError::by_webhook(code.filter(|code| *code >= 400).unwrap_or(400), reason.to_owned(), message))
    }
}
