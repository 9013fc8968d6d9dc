//! What a client is told when something is wrong: `metav1.Status`, with upstream's reasons, codes and sentences.
//!
//! Source: `k8s.io/apimachinery/pkg/api/errors`.

use std::borrow::Cow;

use serde::Serialize;
use windlass_crd::field;

use crate::registry::Resource;

/// An error as the API shows it.
#[derive(Debug, Clone, Serialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct ApiError {
    kind: &'static str,
    api_version: &'static str,
    metadata: ListMeta,
    status: &'static str,
    /// One sentence for people.
    pub message: String,
    /// One word for programs.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'static, str>,
    /// More for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    /// The HTTP status code.
    pub code: u16,
}

#[derive(Debug, Clone, Default, Serialize)]
struct ListMeta {
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    continue_token: Option<String>,
}

/// The details of a `Status`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The resource's group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource's plural name, or the kind for invalid objects.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One cause a field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to try again, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// One cause of a failure.
#[derive(Debug, Clone, Serialize)]
pub struct Cause {
    /// One word for programs.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
    /// The path of the field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The result of almost everything here.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            kind: "Status",
            api_version: "v1",
            metadata: ListMeta::default(),
            status: "Failure",
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: resource.group.to_string(),
            kind: resource.plural.to_string(),
            ..Details::default()
        }));
        self
    }

    /// Adds causes.
    #[must_use]
    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.details.get_or_insert_default().causes = causes;
        self
    }

    /// With another code and reason, and a cause.
    #[must_use]
    pub fn because(mut self, code: u16, reason: String, message: String) -> Self {
        self.code = code;
        self.reason = reason.into();
        self.with_causes(vec![Cause { reason: String::new(), message, field: String::new() }])
    }

    /// Tells the client when to come back.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// What a webhook says.
    pub fn by_webhook(code: u16, reason: String, message: String) -> Self {
        Self::new(code, reason, message)
    }

    /// 401: nobody knows who is asking.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 for an object.
    pub fn forbidden(resource: &Resource, name: &str, why: impl std::fmt::Display) -> Self {
        let what = resource.group_resource();
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} \"{name}\" is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// 403 for a path that is no resource.
    pub fn forbidden_path(message: impl Into<String>) -> Self {
        let mut error = Self::new(403, "Forbidden", message);
        error.details = Some(Box::default());
        error
    }

    /// 404 for an object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.group_resource()))
            .about(resource, name)
    }

    /// 404 for a kind or path that is not served.
    pub fn no_such_resource() -> Self {
        let mut error = Self::new(404, "NotFound", "the server could not find the requested resource");
        error.details = Some(Box::default());
        error
    }

    /// 404 with a text of its own.
    pub fn not_found_text(message: impl Into<String>) -> Self {
        Self::new(404, "NotFound", message)
    }

    /// With details that say nothing, as upstream has them on answers of no object.
    fn generic(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let mut error = Self::new(code, reason, message);
        error.details = Some(Box::default());
        error
    }

    /// 405: no such method here.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::generic(405, "MethodNotAllowed", message)
    }

    /// 405: a custom kind has no such verb.
    pub fn method_not_supported(resource: &Resource, verb: &str) -> Self {
        let what = resource.group_resource();
        Self::new(405, "MethodNotAllowed", format!("{verb} is not supported on resources of kind \"{what}\""))
            .about(resource, "")
    }

    /// 406: none of the accepted representations is served.
    pub fn not_acceptable(accepted: &str) -> Self {
        Self::new(406, "NotAcceptable", format!("only the following media types are accepted: {accepted}"))
    }

    /// 406 before the request is looked at.
    pub fn not_acceptable_route(offered: &str) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {offered}");
        Self::generic(406, "NotAcceptable", message)
    }

    /// 415 before the request is looked at.
    pub fn unsupported_route() -> Self {
        Self::generic(415, "UnsupportedMediaType", "415: Unsupported Media Type")
    }

    /// 422: a patch that does not apply; upstream says no more than this.
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::generic(422, "Invalid", message)
    }

    /// 409: it exists already.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.group_resource()))
            .about(resource, name)
    }

    /// 409: somebody else was faster.
    pub fn conflict(resource: &Resource, name: &str, why: impl std::fmt::Display) -> Self {
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.group_resource()),
        )
        .about(resource, name)
    }

    /// 409 for what is in no table.
    pub fn conflict_of(what: &str, name: &str, why: impl std::fmt::Display) -> Self {
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {what} \"{name}\": {why}"))
            .about_text(what, name)
    }

    /// 403 for what is in no table.
    pub fn forbidden_of(what: &str, name: &str, why: impl std::fmt::Display) -> Self {
        Self::new(403, "Forbidden", format!("{what} \"{name}\" is forbidden: {why}")).about_text(what, name)
    }

    fn about_text(mut self, what: &str, name: &str) -> Self {
        let (kind, group) = what.split_once('.').unwrap_or((what, ""));
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            ..Details::default()
        }));
        self
    }

    /// 409 on an update of an object that changed meanwhile.
    pub fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409 of a server-side apply.
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        Self::new(409, "Conflict", message).with_causes(causes)
    }

    /// 409: the object is not the one that a deletion is about.
    pub fn precondition(resource: &Resource, name: &str, why: impl std::fmt::Display) -> Self {
        Self::conflict_of(&kind_in_group(&resource.kind, &resource.group), name, why)
    }

    /// 410: the revision is compacted.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 410 on a page of a list, with a token that goes on at the present.
    pub fn expired_continue(token: String) -> Self {
        let mut error = Self::new(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter, or use the continue token in this response to retrieve the remainder of \
             the results. Continuing with the provided token results in an inconsistent list - objects that were \
             created, modified, or deleted between the time the first chunk was returned and now may show up in the \
             list.",
        );
        error.metadata.continue_token = Some(token);
        error
    }

    /// 413: the body is past its bound.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 413 with a text of its own.
    pub fn too_large_text(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415: no such request encoding.
    pub fn unsupported_media_type(accepted: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {accepted}"
            ),
        )
    }

    /// 422: the object breaks the rules of its kind.
    pub fn invalid(resource: &Resource, name: &str, errors: &[field::Error]) -> Self {
        Self::invalid_of(&resource.kind, &resource.group, name, errors)
    }

    /// 422 for an object of a kind that is in no table.
    pub fn invalid_of(kind: &str, group: &str, name: &str, errors: &[field::Error]) -> Self {
        let what = kind_in_group(kind, group);
        let list = field::aggregate(errors);
        let causes = errors
            .iter()
            .map(|e| {
                let cause = e.cause();
                Cause { reason: cause.reason.to_string(), message: cause.message, field: cause.field }
            })
            .collect();
        let mut error = Self::new(422, "Invalid", format!("{what} \"{name}\" is invalid: {list}"));
        error.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        }));
        error
    }

    /// 422 with a text of its own.
    pub fn invalid_text(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// 429: not now.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        Self::new(429, "TooManyRequests", message).retry_after(retry_after)
    }

    /// 500: our own fault.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let text = format!("Internal error occurred: {message}");
        Self::new(500, "InternalError", text.clone()).with_causes(vec![Cause {
            reason: String::new(),
            message: message.to_string(),
            field: String::new(),
        }])
    }

    /// 500 without a reason: what upstream makes of an error that it did not expect.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// 500: a name could not be generated in several tries.
    pub fn generate_name_conflict(resource: &Resource, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists, the server was not able to generate a unique name for the object", resource.group_resource()),
        )
        .about(resource, name)
    }

    /// 503: come back later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504: it took too long.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message)
    }

    /// The encoded `Status`.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a status is plain data")
    }
}

/// `Deployment.apps`, or `Pod`.
fn kind_in_group(kind: &str, group: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") }
}

impl From<minicluster_store::StoreError> for ApiError {
    fn from(error: minicluster_store::StoreError) -> Self {
        Self::internal(error)
    }
}
