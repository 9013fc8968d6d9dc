//! From a review's bytes to the bytes of its answer. No sockets, no clock.

use std::{any::type_name, panic::AssertUnwindSafe, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use windlass_crd::conversion::Versions;

use super::{
    Hook,
    review::{Denied, Mutate, Operation, Review, Told, User, Validate},
};
use crate::Object;

/// What a handler is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Validating,
    Mutating,
}

impl Role {
    /// As it stands in paths and names.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Validating => "validate",
            Self::Mutating => "mutate",
        }
    }
}

type Answer = Arc<dyn Fn(Request) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// Answers the reviews of one kind in one role.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(crate) role: Role,
    pub(crate) hook: Hook,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
    /// How many of its sort come before it.
    pub(crate) nth: usize,
    answer: Answer,
}

/// The part of an AdmissionReview that is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    uid: String,
    operation: Operation,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    user_info: User,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    options: Value,
}

/// What came of a review.
pub(crate) struct Outcome {
    allowed: Result<(), Denied>,
    patch: Vec<u8>,
    told: Told,
}

impl Request {
    fn review<K: DeserializeOwned>(&self) -> Result<Review<K>, Denied> {
        let typed = |value: &Value, what: &str| match value {
            Value::Null => Ok(None),
            value => serde_json::from_value(value.clone()).map(Some).map_err(|error| {
                let kind = type_name::<K>().rsplit("::").next().unwrap_or_default();
                Denied::invalid(format!("the {what} is no {kind}: {error}"))
            }),
        };
        Ok(Review {
            operation: self.operation,
            object: typed(&self.object, "object")?,
            old: typed(&self.old_object, "old object")?,
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            user: self.user_info.clone(),
            dry_run: self.dry_run,
            options: self.options.clone(),
            told: Told::default(),
        })
    }
}

impl Handler {
    pub(crate) fn validating<K: Object>(validator: impl Validate<K>, hook: Hook) -> Self
    where
        K::DynamicType: Default,
    {
        let validator = Arc::new(validator);
        let answer = move |request: Request| {
            let validator = Arc::clone(&validator);
            async move {
                let review = match request.review::<K>() {
                    Ok(review) => review,
                    Err(denied) => return Outcome::refused(denied),
                };
                let allowed = validator.validate(&review).await;
                Outcome { allowed, patch: Vec::new(), told: review.told }
            }
            .boxed()
        };
        Self::new::<K>(Role::Validating, hook, Arc::new(answer))
    }

    pub(crate) fn mutating<K: Object + Serialize>(mutator: impl Mutate<K>, hook: Hook) -> Self
    where
        K::DynamicType: Default,
    {
        let mutator = Arc::new(mutator);
        let answer = move |request: Request| {
            let mutator = Arc::clone(&mutator);
            async move {
                let review = match request.review::<K>() {
                    Ok(review) => review,
                    Err(denied) => return Outcome::refused(denied),
                };
                let Some(mut object) = review.object.clone() else {
                    return Outcome { allowed: Ok(()), patch: Vec::new(), told: review.told };
                };
                let before = serde_json::to_value(&object).unwrap_or_default();
                let allowed = mutator.mutate(&mut object, &review).await;
                let after = serde_json::to_value(&object).unwrap_or_default();
                let patch =
                    if allowed.is_ok() { patch(&request.object, &before, &after) } else { Vec::new() };
                Outcome { allowed, patch, told: review.told }
            }
            .boxed()
        };
        Self::new::<K>(Role::Mutating, hook, Arc::new(answer))
    }

    fn new<K: Object>(role: Role, hook: Hook, answer: Answer) -> Self
    where
        K::DynamicType: Default,
    {
        let kind = K::DynamicType::default();
        let scope = std::any::TypeId::of::<K::Scope>();
        Self {
            role,
            hook,
            group: K::group(&kind).into_owned(),
            version: K::version(&kind).into_owned(),
            plural: K::plural(&kind).into_owned(),
            kind: K::kind(&kind).into_owned(),
            namespaced: scope != std::any::TypeId::of::<kube::core::ClusterResourceScope>(),
            nth: 0,
            answer,
        }
    }

    /// Whether names would be the same as another's.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        (self.role, &self.group, &self.plural) == (other.role, &other.group, &other.plural)
    }

    /// `validate`; the second of its sort is `validate-2`.
    pub(crate) fn verb(&self) -> String {
        match self.nth {
            0 => self.role.verb().to_owned(),
            nth => format!("{}-{}", self.role.verb(), nth + 1),
        }
    }

    /// Where it is asked: `/validate-harbour-dev-v1-sail`, as kubebuilder names it.
    pub(crate) fn path(&self) -> String {
        let (role, group) = (self.verb(), self.group.replace('.', "-"));
        format!("/{role}-{group}-{}-{}", self.version, self.kind.to_ascii_lowercase())
    }

    /// Answers an AdmissionReview. `None`: it is none.
    pub(crate) async fn answer(&self, body: &[u8]) -> Option<Value> {
        let mut review: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let request: Request = serde_json::from_value(review.remove("request")?).ok()?;
        let uid = request.uid.clone();
        let answered = AssertUnwindSafe((self.answer)(request)).catch_unwind().await;
        let outcome = answered.unwrap_or_else(|_| Outcome::refused(Denied::failed("the webhook panicked")));
        Some(json!({
            "apiVersion": review.get("apiVersion")?, "kind": "AdmissionReview",
            "response": outcome.response(&uid),
        }))
    }
}

impl Outcome {
    fn refused(denied: Denied) -> Self {
        Self { allowed: Err(denied), patch: Vec::new(), told: Told::default() }
    }

    fn response(self, uid: &str) -> Value {
        let mut response = json!({ "uid": uid, "allowed": self.allowed.is_ok() });
        if let Err(Denied { code, reason, message }) = self.allowed {
            response["status"] = json!({ "code": code, "reason": reason, "message": message });
        }
        if !self.patch.is_empty() {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(self.patch).into();
        }
        let (warnings, notes) = (self.told.warnings.lock().clone(), self.told.notes.lock().clone());
        if !warnings.is_empty() {
            response["warnings"] = json!(warnings);
        }
        if !notes.is_empty() {
            response["auditAnnotations"] = json!(notes);
        }
        response
    }
}

/// The JSON patch that does to an object what was done to its typed form. What the type does not know, or would write
/// otherwise, is not touched.
fn patch(raw: &Value, before: &Value, after: &Value) -> Vec<u8> {
    let mut wanted = raw.clone();
    carry_over(&mut wanted, before, after);
    let patch = json_patch::diff(raw, &wanted);
    if patch.0.is_empty() { Vec::new() } else { serde_json::to_vec(&patch).unwrap_or_default() }
}

fn carry_over(raw: &mut Value, before: &Value, after: &Value) {
    if before == after {
        return;
    }
    let (Value::Object(was), Value::Object(is), Value::Object(map)) = (before, after, &mut *raw) else {
        raw.clone_from(after);
        return;
    };
    for name in was.keys().filter(|name| !is.contains_key(*name)) {
        map.remove(name);
    }
    for (name, value) in is {
        let old = was.get(name).unwrap_or(&Value::Null);
        if old != value {
            carry_over(map.entry(name.clone()).or_insert(Value::Null), old, value);
        }
    }
}

/// Answers a ConversionReview. `None`: it is none.
pub(crate) fn convert(body: &[u8], versions: &Versions) -> Option<Value> {
    let review: Value = serde_json::from_slice(body).ok()?;
    let request = review.get("request")?;
    let wanted = request.get("desiredAPIVersion")?.as_str()?;
    let objects = request.get("objects")?.as_array()?;
    let converted: Result<Vec<Value>, _> =
        objects.iter().map(|object| versions.convert(object.clone(), wanted)).collect();
    let uid = request.get("uid")?;
    let response = match converted {
        Ok(objects) => json!({ "uid": uid, "convertedObjects": objects, "result": { "status": "Success" } }),
        Err(error) => {
            json!({ "uid": uid, "result": { "status": "Failure", "message": error.to_string() } })
        }
    };
    Some(json!({ "apiVersion": review.get("apiVersion")?, "kind": "ConversionReview", "response": response }))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    struct Stamp;

    impl Mutate<ConfigMap> for Stamp {
        async fn mutate(&self, map: &mut ConfigMap, review: &Review<ConfigMap>) -> Result<(), Denied> {
            let data = map.data.get_or_insert_default();
            if data.remove("drop").is_some() {
                review.warn("drop is dropped");
            }
            match data.get("mode").map(String::as_str) {
                Some("panic") => panic!("as it was told"),
                Some("deny") => return Err(Denied::forbidden("not today")),
                _ => {}
            }
            data.insert("stamp".to_owned(), review.user.username.clone());
            Ok(())
        }
    }

    async fn asked(object: Value) -> Value {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": { "uid": "1", "operation": "CREATE", "userInfo": { "username": "ann" }, "object": object },
        });
        let handler = Handler::mutating(Stamp, Hook::default());
        assert_eq!(handler.path(), "/mutate--v1-configmap");
        handler.answer(review.to_string().as_bytes()).await.unwrap()["response"].clone()
    }

    /// The operations by their place: no two are at one.
    fn patch_of(response: &Value) -> Value {
        let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let mut patch: Vec<Value> = serde_json::from_slice(&patch).unwrap();
        patch.sort_by_key(|operation| operation["path"].to_string());
        patch.into()
    }

    #[tokio::test]
    async fn a_patch_touches_what_was_changed_alone() {
        let unknown = json!({ "metadata": { "name": "a", "later": 1 }, "data": { "drop": "x", "b": "1" }, "novel": [] });
        let response = asked(unknown).await;
        let patch = patch_of(&response);
        assert_eq!(
            patch,
            json!([{ "op": "remove", "path": "/data/drop" }, { "op": "add", "path": "/data/stamp", "value": "ann" }])
        );
        assert_eq!(response["warnings"], json!(["drop is dropped"]));

        let bare = patch_of(&asked(json!({ "metadata": {} })).await);
        assert_eq!(bare, json!([{ "op": "add", "path": "/data", "value": { "stamp": "ann" } }]));
    }

    #[tokio::test]
    async fn what_goes_wrong_is_an_answer() {
        let denied = asked(json!({ "metadata": {}, "data": { "mode": "deny" } })).await;
        assert_eq!(denied["allowed"], false);
        assert_eq!(denied["status"], json!({ "code": 403, "reason": "Forbidden", "message": "not today" }));
        assert_eq!(denied.get("patch"), None);
        let panicked = asked(json!({ "metadata": {}, "data": { "mode": "panic" } })).await;
        assert_eq!(panicked["status"]["message"], "the webhook panicked");
        let wrong = asked(json!({ "metadata": {}, "data": 7 })).await;
        assert!(
            wrong["status"]["message"].as_str().unwrap().starts_with("the object is no ConfigMap: "),
            "{wrong}"
        );
        let handler = Handler::mutating(Stamp, Hook::default());
        assert_eq!(handler.answer(b"{}").await, None);
        assert_eq!(handler.answer(b"\xff").await, None);
    }
}
