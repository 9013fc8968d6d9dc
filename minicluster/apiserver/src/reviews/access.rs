//! May they? SubjectAccessReview in its three forms, and SelfSubjectRulesReview.
//!
//! Source: `pkg/registry/authorization`, `pkg/apis/authorization/validation`.

use serde_json::{Map, Value, json};
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    protobuf,
    selector::{FieldRequirement, FieldSelector, LabelSelector, Operator, Requirement},
};

use crate::{
    authn::Identity,
    authz::{Attributes, Decision, aggregate},
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

/// Answers for the one who asks.
pub(super) async fn own(cx: &Context, review: &mut Value) -> ApiResult<()> {
    let mut errors = attributes_errors(review);
    errors.extend(metadata_errors(review, false));
    refuse(&errors)?;
    let user = cx.user.clone();
    decide(cx, &user, review).await;
    Ok(())
}

/// Answers for somebody named in the question.
pub(super) async fn of_subject(cx: &Context, review: &mut Value) -> ApiResult<()> {
    let mut errors = attributes_errors(review);
    errors.extend(subject_errors(review));
    errors.extend(metadata_errors(review, false));
    refuse(&errors)?;
    let user = subject(review);
    decide(cx, &user, review).await;
    Ok(())
}

/// As [`of_subject`], within the request's namespace.
pub(super) async fn of_subject_here(cx: &Context, review: &mut Value) -> ApiResult<()> {
    let namespace = object::namespace(review).to_owned();
    let mut errors = attributes_errors(review);
    errors.extend(subject_errors(review));
    errors.extend(metadata_errors(review, true));
    if let Some(attributes) = object::at(review, &["spec", "resourceAttributes"]) {
        let asked = object::text(attributes, &["namespace"]);
        if asked != namespace {
            let path = field::root("spec.resourceAttributes.namespace");
            errors.push(Error::invalid(path, asked, "must match metadata.namespace"));
        }
    }
    if let Some(attributes) = object::at(review, &["spec", "nonResourceAttributes"]) {
        let path = field::root("spec.nonResourceAttributes");
        errors.push(Error::invalid(path, as_in_go(attributes), "disallowed on this kind of request"));
    }
    refuse(&errors)?;
    if namespace != cx.info.namespace {
        let here = &cx.info.namespace;
        return Err(ApiError::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {here}"
        )));
    }
    let user = subject(review);
    decide(cx, &user, review).await;
    Ok(())
}

/// What the one who asks may do in a namespace.
pub(super) fn rules(cx: &Context, review: &mut Value) -> ApiResult<()> {
    let namespace = object::text(review, &["spec", "namespace"]).to_owned();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let answer = cx.api.authorizer.rules_for(&cx.user, &namespace);
    let list = |wanted: fn(&crate::authz::Rule) -> bool| {
        answer.rules.iter().filter(|rule| wanted(rule)).map(|rule| json!(rule)).collect::<Vec<_>>()
    };
    let mut status = json!({
        "incomplete": answer.incomplete,
        "resourceRules": list(|rule| !rule.resources.is_empty()),
        "nonResourceRules": list(|rule| !rule.non_resource_urls.is_empty()),
    });
    if let Some(errors) = aggregate(answer.errors) {
        status["evaluationError"] = errors.into();
    }
    object::set(review, &["metadata"], json!({}));
    object::set(review, &["status"], status);
    object::set(review, &["spec"], json!({}));
    Ok(())
}

fn refuse(errors: &[Error]) -> ApiResult<()> {
    // Reviews lose their kind on the way in, so upstream's sentence has none.
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_of("", "authorization.k8s.io", "", errors)) }
}

fn metadata_errors(review: &Value, may_have_namespace: bool) -> ErrorList {
    let empty = Map::new();
    let metadata = review.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let stands = |(key, value): (&String, &Value)| {
        key != "managedFields"
            && !(may_have_namespace && key == "namespace")
            && !matches!(value, Value::Null)
            && *value != json!("")
            && *value != json!({})
            && *value != json!([])
    };
    if !metadata.iter().any(stands) {
        return ErrorList::new();
    }
    let why = if may_have_namespace { "must be empty except for namespace" } else { "must be empty" };
    let shown = protobuf::field_in_order("v1", "Pod", "metadata", &Value::Object(metadata.clone()));
    vec![Error::invalid_shown(field::root("metadata"), &shown, why)]
}

fn subject_errors(review: &Value) -> ErrorList {
    let named = !object::text(review, &["spec", "user"]).is_empty();
    if named || !object::list(review, &["spec", "groups"]).is_empty() {
        return ErrorList::new();
    }
    let why = "at least one of user or group must be specified";
    vec![Error::invalid(field::root("spec").child("user"), "", why)]
}

fn attributes_errors(review: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = field::root("spec");
    let attributes = |kind: &str| object::at(review, &["spec", kind]);
    match (attributes("resourceAttributes"), attributes("nonResourceAttributes")) {
        (Some(_), Some(other)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.push(Error::invalid(spec.child("nonResourceAttributes"), as_in_go(other), why));
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(Error::invalid(spec.child("resourceAttributes"), Value::Null, why));
        }
        _ => {}
    }
    let Some(resource) = attributes("resourceAttributes") else { return errors };
    for kind in ["fieldSelector", "labelSelector"] {
        if let Some(selector) = object::at(resource, &[kind]) {
            selector_errors(selector, &field::root("spec.resourceAttributes").child(kind), &mut errors);
        }
    }
    errors
}

/// Attributes of a path as upstream shows them, whose structures have other names inside than outside.
fn as_in_go(attributes: &Value) -> Value {
    let text = |field: &str| object::text(attributes, &[field]);
    json!({ "Path": text("path"), "Verb": text("verb") })
}

fn selector_errors(selector: &Value, path: &Path, errors: &mut ErrorList) {
    let (raw, requirements) =
        (object::text(selector, &["rawSelector"]), object::list(selector, &["requirements"]));
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => {
            let why = "may not specified at the same time as requirements";
            errors.push(Error::invalid(path.child("rawSelector"), raw, why));
        }
        (true, true) => {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            errors.push(Error::required(path.child("requirements"), why));
        }
        _ => {}
    }
    for (i, requirement) in requirements.iter().enumerate() {
        let path = path.child("requirements").index(i);
        let values = object::list(requirement, &["values"]);
        match object::text(requirement, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(Error::required(path.child("values"), why));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(Error::forbidden(path.child("values"), why));
            }
            // An operator that is not known here may be one that is known to whoever decides.
            _ => {}
        }
        if object::text(requirement, &["key"]).is_empty() {
            errors.push(Error::required(path.child("key"), "must be specified"));
        }
    }
}

fn subject(review: &Value) -> Identity {
    let spec = review.get("spec").cloned().unwrap_or_default();
    Identity {
        name: object::text(&spec, &["user"]).to_owned(),
        uid: object::text(&spec, &["uid"]).to_owned(),
        groups: object::list(&spec, &["groups"])
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        extra: serde_json::from_value(spec.get("extra").cloned().unwrap_or_default()).unwrap_or_default(),
    }
}

/// What selectors of a question mean, and what had to be left out of them.
struct Read<T> {
    terms: Vec<T>,
    failed: bool,
}

impl<T> Read<T> {
    fn complaint(&self, kind: &str) -> Option<String> {
        let how = if self.terms.is_empty() { "ignored" } else { "partially ignored" };
        self.failed.then(|| format!("spec.resourceAttributes.{kind} {how} due to parse error"))
    }
}

fn fields(attributes: &Value) -> Read<FieldRequirement> {
    let Some(selector) = object::at(attributes, &["fieldSelector"]) else {
        return Read { terms: Vec::new(), failed: false };
    };
    if object::list(selector, &["requirements"]).is_empty() {
        let parsed = FieldSelector::parse(object::text(selector, &["rawSelector"]));
        return Read { failed: parsed.is_err(), terms: parsed.unwrap_or_default().requirements().to_vec() };
    }
    let all = object::list(selector, &["requirements"]);
    let terms: Vec<FieldRequirement> = all
        .iter()
        .filter_map(|term| {
            let equal = match object::text(term, &["operator"]) {
                "In" => true,
                "NotIn" => false,
                _ => return None,
            };
            let [value] = object::list(term, &["values"]) else { return None };
            let value = value.as_str()?.to_owned();
            Some(FieldRequirement { field: object::text(term, &["key"]).to_owned(), value, equal })
        })
        .collect();
    Read { failed: terms.len() < all.len(), terms }
}

fn labels(attributes: &Value) -> Read<Requirement> {
    let Some(selector) = object::at(attributes, &["labelSelector"]) else {
        return Read { terms: Vec::new(), failed: false };
    };
    if object::list(selector, &["requirements"]).is_empty() {
        let parsed = LabelSelector::parse(object::text(selector, &["rawSelector"]));
        return Read { failed: parsed.is_err(), terms: parsed.unwrap_or_default().requirements().to_vec() };
    }
    let all = object::list(selector, &["requirements"]);
    let terms: Vec<Requirement> = all
        .iter()
        .filter_map(|term| {
            let operator = match object::text(term, &["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return None,
            };
            let values =
                object::list(term, &["values"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            Requirement::new(object::text(term, &["key"]), operator, values).ok()
        })
        .collect();
    Read { failed: terms.len() < all.len(), terms }
}

async fn decide(cx: &Context, user: &Identity, review: &mut Value) {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let none = Value::Null;
    let resource = object::at(&spec, &["resourceAttributes"]);
    let (fields, labels) = (fields(resource.unwrap_or(&none)), labels(resource.unwrap_or(&none)));
    let asked = match (resource, object::at(&spec, &["nonResourceAttributes"])) {
        (Some(of), _) => {
            let text = |field: &str| object::text(of, &[field]);
            Attributes {
                verb: text("verb"),
                group: text("group"),
                version: if text("version").is_empty() { "*" } else { text("version") },
                resource: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
                path: "",
                is_resource: true,
                fields: &fields.terms,
                labels: &labels.terms,
            }
        }
        (None, of) => {
            let text = |field: &str| object::text(of.unwrap_or(&none), &[field]);
            Attributes { verb: text("verb"), path: text("path"), ..Attributes::default() }
        }
    };
    let verdict = cx.api.authorizer.decide(&cx.api, user, &asked).await;
    let mut status = json!({ "allowed": verdict.is_allowed() });
    if verdict.decision == Decision::Deny {
        status["denied"] = true.into();
    }
    if !verdict.reason.is_empty() {
        status["reason"] = verdict.reason.as_ref().into();
    }
    let errors = [verdict.error, fields.complaint("fieldSelector"), labels.complaint("labelSelector")];
    if let Some(errors) = aggregate(errors.into_iter().flatten().collect()) {
        status["evaluationError"] = errors.into();
    }
    object::set(review, &["status"], status);
}
