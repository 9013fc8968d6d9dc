//! Another server decides: a SubjectAccessReview goes out, its answer is kept for a while.
//!
//! Source: `k8s.io/apiserver/plugin/pkg/authorizer/webhook`.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use windlass_crd::selector::Operator;

use super::{Attributes, Decision, Verdict, aggregate};
use crate::{
    api::Api,
    authn::Identity,
    cel::{Expression, Scope},
    expiring::Expiring,
    outbound::{self, Backend, Failure},
};

/// The most answers that are kept.
const CACHE_MAX: usize = 8192;

/// Answers about attributes longer than this are not kept: whoever asks chooses them.
const CACHED_BYTES_MAX: usize = 10_000;

/// How often a webhook that is overloaded is asked, with growing pauses between.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The version of the review that the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V1Beta1,
}

impl Version {
    pub(super) fn read(text: &str) -> Option<Self> {
        match text {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "authorization.k8s.io/v1",
            Self::V1Beta1 => "authorization.k8s.io/v1beta1",
        }
    }
}

/// An expression that says whether the server is asked at all.
#[derive(Debug)]
pub(super) struct Condition {
    text: String,
    expression: Expression,
}

impl Condition {
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), expression: Expression::compile(text)? })
    }
}

/// What a webhook is made of.
#[derive(Debug)]
pub(super) struct WebhookParts {
    pub(super) backend: Backend,
    pub(super) version: Version,
    /// Zero: an answer is not kept.
    pub(super) authorized_ttl: Duration,
    pub(super) unauthorized_ttl: Duration,
    pub(super) denies_on_failure: bool,
    pub(super) conditions: Vec<Condition>,
}

/// The authorizer.
#[derive(Debug)]
pub(super) struct Webhook {
    parts: WebhookParts,
    cache: Expiring<String, Status>,
}

/// What the server answered.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    allowed: bool,
    denied: bool,
    reason: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    status: Status,
}

impl Webhook {
    pub(super) fn new(parts: WebhookParts) -> Self {
        Self { parts, cache: Expiring::new(CACHE_MAX) }
    }

    pub(super) async fn ask(&self, api: &Api, user: &Identity, asked: &Attributes<'_>) -> Verdict {
        let spec = spec(user, asked);
        match self.wants(&spec) {
            Ok(true) => {}
            Ok(false) => return Verdict::no_opinion(""),
            Err(error) => return self.failed(error),
        }
        let key = spec.to_string();
        if let Some(status) = self.cache.get(&key) {
            return verdict(status);
        }
        let status = match self.review(api, spec).await {
            Ok(status) => status,
            Err(error) => {
                tracing::error!(error, "Failed to make webhook authorizer request");
                return self.failed(error);
            }
        };
        if size(asked) < CACHED_BYTES_MAX {
            let ttl = if status.allowed { self.parts.authorized_ttl } else { self.parts.unauthorized_ttl };
            self.cache.put(key, status.clone(), ttl);
        }
        verdict(status)
    }

    /// Whether all conditions hold. One that does not outweighs those that fail.
    fn wants(&self, spec: &Value) -> Result<bool, String> {
        if self.parts.conditions.is_empty() {
            return Ok(true);
        }
        let request = whole(spec);
        let scope = Scope::new(&[("request", &request)], None);
        let mut errors = Vec::new();
        for condition in &self.parts.conditions {
            match condition.expression.holds(&scope) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => errors.push(format!(
                    "cel evaluation error: expression '{}' resulted in error: {why}",
                    condition.text
                )),
            }
        }
        aggregate(errors).map_or(Ok(true), Err)
    }

    fn failed(&self, error: String) -> Verdict {
        let decision = if self.parts.denies_on_failure { Decision::Deny } else { Decision::NoOpinion };
        Verdict { decision, reason: "".into(), error: Some(error) }
    }

    async fn review(&self, api: &Api, spec: Value) -> Result<Status, String> {
        let review = review(self.parts.version, spec);
        let body =
            retry(api, || outbound::post_status(api, &self.parts.backend, "kube-apiserver", &review)).await?;
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|e| format!("the webhook's answer is no review: {e}"))?;
        Ok(answer.status)
    }
}

/// Asks again, after a pause, a server that says it cannot just now.
pub(crate) async fn retry<F>(api: &Api, mut ask: impl FnMut() -> F) -> Result<bytes::Bytes, String>
where
    F: Future<Output = Result<bytes::Bytes, Failure>>,
{
    let mut pause = FIRST_PAUSE;
    let mut tries = 1;
    loop {
        match ask().await {
            Ok(body) => return Ok(body),
            Err(failure) if failure.may_pass && tries < TRIES => {
                let jitter = pause.mul_f64(0.2 * api.random(1000) as f64 / 1000.0);
                tokio::time::sleep(pause + jitter).await;
                pause = pause.mul_f64(1.5);
                tries += 1;
            }
            Err(failure) => return Err(failure.text),
        }
    }
}

fn verdict(status: Status) -> Verdict {
    let error = (status.allowed && status.denied)
        .then(|| "webhook subject access review returned both allow and deny response".to_owned());
    let decision = match status {
        Status { denied: true, .. } => Decision::Deny,
        Status { allowed: true, .. } => Decision::Allow,
        _ => Decision::NoOpinion,
    };
    Verdict { decision, reason: status.reason.into(), error }
}

fn size(asked: &Attributes<'_>) -> usize {
    [
        asked.namespace,
        asked.verb,
        asked.group,
        asked.version,
        asked.resource,
        asked.subresource,
        asked.name,
        asked.path,
    ]
    .iter()
    .map(|text| text.len())
    .sum()
}

/// Puts texts that are not empty into a map.
fn fill(map: &mut Map<String, Value>, texts: &[(&str, &str)]) {
    for (key, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
        map.insert((*key).to_owned(), (*text).into());
    }
}

/// The `spec` of a `v1` review, as Go would encode it.
fn spec(user: &Identity, asked: &Attributes<'_>) -> Value {
    let mut spec = Map::new();
    let mut attributes = Map::new();
    if asked.is_resource {
        fill(
            &mut attributes,
            &[
                ("namespace", asked.namespace),
                ("verb", asked.verb),
                ("group", asked.group),
                ("version", asked.version),
                ("resource", asked.resource),
                ("subresource", asked.subresource),
                ("name", asked.name),
            ],
        );
        selectors(&mut attributes, asked);
        spec.insert("resourceAttributes".to_owned(), attributes.into());
    } else {
        fill(&mut attributes, &[("path", asked.path), ("verb", asked.verb)]);
        spec.insert("nonResourceAttributes".to_owned(), attributes.into());
    }
    fill(&mut spec, &[("user", &user.name)]);
    if !user.groups.is_empty() {
        spec.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(user.extra));
    }
    fill(&mut spec, &[("uid", &user.uid)]);
    spec.into()
}

fn selectors(attributes: &mut Map<String, Value>, asked: &Attributes<'_>) {
    let fields: Vec<Value> = asked
        .fields
        .iter()
        .map(|term| {
            let operator = if term.equal { "In" } else { "NotIn" };
            json!({ "key": term.field, "operator": operator, "values": [term.value] })
        })
        .collect();
    if !fields.is_empty() {
        attributes.insert("fieldSelector".to_owned(), json!({ "requirements": fields }));
    }
    let labels: Vec<Value> = asked
        .labels
        .iter()
        .filter_map(|term| {
            let operator = match term.operator {
                Operator::Equals | Operator::DoubleEquals | Operator::In => "In",
                Operator::NotEquals | Operator::NotIn => "NotIn",
                Operator::Exists => "Exists",
                Operator::DoesNotExist => "DoesNotExist",
                // Left out: the question only becomes broader.
                Operator::GreaterThan | Operator::LessThan => return None,
            };
            let mut requirement = json!({ "key": term.key, "operator": operator });
            if !term.values.is_empty() {
                requirement["values"] = json!(term.values);
            }
            Some(requirement)
        })
        .collect();
    if !labels.is_empty() {
        attributes.insert("labelSelector".to_owned(), json!({ "requirements": labels }));
    }
}

/// The spec as expressions see it: texts of a type are there though they be empty.
fn whole(spec: &Value) -> Value {
    let mut request = spec.clone();
    let mut defaults: BTreeMap<&str, &[&str]> = BTreeMap::new();
    defaults.insert(
        "resourceAttributes",
        &["namespace", "verb", "group", "version", "resource", "subresource", "name"],
    );
    defaults.insert("nonResourceAttributes", &["path", "verb"]);
    for (part, fields) in defaults {
        let Some(attributes) = request.get_mut(part).and_then(Value::as_object_mut) else { continue };
        for field in fields {
            attributes.entry(*field).or_insert_with(|| "".into());
        }
    }
    for field in ["user", "uid"] {
        if request.get(field).is_none() {
            request[field] = "".into();
        }
    }
    if request.get("groups").is_none() {
        request["groups"] = json!([]);
    }
    request
}

fn review(version: Version, mut spec: Value) -> Value {
    if version == Version::V1Beta1
        && let Some(fields) = spec.as_object_mut()
        && let Some(groups) = fields.remove("groups")
    {
        fields.insert("group".to_owned(), groups);
    }
    json!({
        "kind": "SubjectAccessReview", "apiVersion": version.api_version(), "metadata": { "creationTimestamp": null },
        "spec": spec, "status": { "allowed": false },
    })
}

#[cfg(test)]
mod tests {
    use windlass_crd::selector::{FieldSelector, LabelSelector};

    use super::*;

    fn webhook(conditions: &[&str]) -> Webhook {
        Webhook::new(WebhookParts {
            backend: Backend::of_url("https://127.0.0.1:1/", None, Duration::from_secs(1)).unwrap(),
            version: Version::V1,
            authorized_ttl: Duration::ZERO,
            unauthorized_ttl: Duration::ZERO,
            denies_on_failure: false,
            conditions: conditions.iter().map(|text| Condition::compile(text).unwrap()).collect(),
        })
    }

    #[test]
    fn reviews_say_what_upstreams_say() {
        let (fields, labels) = (
            FieldSelector::parse("spec.nodeName=n,a!=b").unwrap(),
            LabelSelector::parse("a in (x,y),!c").unwrap(),
        );
        let asked = Attributes {
            verb: "list",
            version: "v1",
            resource: "pods",
            namespace: "d",
            is_resource: true,
            fields: fields.requirements(),
            labels: labels.requirements(),
            ..Attributes::default()
        };
        let spec = spec(&Identity::new("ann", &["dev"]), &asked);
        assert_eq!(
            spec,
            json!({
                "user": "ann", "groups": ["dev", "system:authenticated"],
                "resourceAttributes": {
                    "verb": "list", "version": "v1", "resource": "pods", "namespace": "d",
                    "fieldSelector": {"requirements": [
                        {"key": "spec.nodeName", "operator": "In", "values": ["n"]},
                        {"key": "a", "operator": "NotIn", "values": ["b"]}]},
                    "labelSelector": {"requirements": [
                        {"key": "a", "operator": "In", "values": ["x", "y"]},
                        {"key": "c", "operator": "DoesNotExist"}]},
                },
            })
        );
        assert!(review(Version::V1Beta1, spec)["spec"]["group"].is_array());
    }

    #[test]
    fn conditions_that_do_not_hold_outweigh_those_that_fail() {
        let asked = Attributes {
            verb: "get",
            resource: "pods",
            namespace: "d",
            is_resource: true,
            ..Attributes::default()
        };
        let spec = spec(&Identity::new("ann", &[]), &asked);
        let table: [(&[&str], Result<bool, &str>); 5] = [
            (&[], Ok(true)),
            (&["has(request.resourceAttributes) && request.resourceAttributes.namespace == 'd'"], Ok(true)),
            (&["!('system:authenticated' in request.groups)"], Ok(false)),
            (&["request.none.x == 1", "request.user == 'bob'"], Ok(false)),
            (
                &["request.none.x == 1", "request.user == 'ann'"],
                Err("cel evaluation error: expression 'request.none.x == 1' resulted in error: "),
            ),
        ];
        for (conditions, expected) in table {
            match (webhook(conditions).wants(&spec), expected) {
                (Err(error), Err(why)) => assert!(error.starts_with(why), "{error}"),
                (found, expected) => {
                    assert_eq!(found.as_ref().ok(), expected.as_ref().ok(), "{conditions:?} {found:?}");
                }
            }
        }
    }

    #[test]
    fn an_answer_that_is_both_is_a_refusal_and_an_error() {
        let both = verdict(Status { allowed: true, denied: true, reason: "r".into() });
        assert_eq!((both.decision, both.error.is_some()), (Decision::Deny, true));
        assert_eq!(verdict(Status::default()).decision, Decision::NoOpinion);
    }
}
