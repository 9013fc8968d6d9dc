//! `authorizer`: expressions ask what the user of the request may do.
//!
//! `authorizer.group('apps').resource('deployments').namespace('x').check('get').allowed()`. Each step is a map that says
//! what was asked so far; only `check` asks. Source: `k8s.io/apiserver/pkg/cel/library/authz.go`.

use std::{collections::HashMap, sync::Arc};

use kube_cel::cel::{
    Context, ExecutionError, Value as Cel,
    extractors::This,
    objects::{Key, Map},
};

/// What an expression asks about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// The verb.
    pub(crate) verb: String,
    /// A path that is no resource, or empty.
    pub(crate) path: String,
    /// The API group.
    pub(crate) group: String,
    /// The resource.
    pub(crate) resource: String,
    /// The subresource, or empty.
    pub(crate) subresource: String,
    /// The namespace, or empty.
    pub(crate) namespace: String,
    /// The object's name, or empty.
    pub(crate) name: String,
    /// Namespace and name of the service account that is asked about instead of the user.
    pub(crate) account: Option<(String, String)>,
}

/// Answers questions: whether it is allowed, and why.
type Answer = dyn Fn(&Question) -> (bool, String) + Send + Sync;

/// Who answers, and what the request itself is about.
#[derive(Clone)]
pub(crate) struct Authorizer {
    answer: Arc<Answer>,
    request: Question,
}

impl Authorizer {
    /// `request`: what `authorizer.requestResource` stands for.
    pub(crate) fn new(
        request: Question,
        answer: impl Fn(&Question) -> (bool, String) + Send + Sync + 'static,
    ) -> Self {
        Self { answer: Arc::new(answer), request }
    }

    /// Makes `authorizer` known.
    pub(super) fn add_to(&self, context: &mut Context<'_>) {
        let own = step(&[("requestResource", resource_of(&self.request))]);
        context.add_variable_from_value("authorizer", own);
        for field in ["path", "group", "resource", "subresource", "namespace", "name"] {
            context.add_function(field, move |This(this): This<Cel>, text: Arc<String>| {
                with(&this, field, Cel::String(text))
            });
        }
        for ignored in ["fieldSelector", "labelSelector"] {
            context
                .add_function(ignored, |This(this): This<Cel>, _: Arc<String>| Ok::<_, ExecutionError>(this));
        }
        context.add_function(
            "serviceAccount",
            |This(this): This<Cel>, namespace: Arc<String>, name: Arc<String>| {
                let this = with(&this, "accountNamespace", Cel::String(namespace))?;
                with(&this, "accountName", Cel::String(name))
            },
        );
        let answer = Arc::clone(&self.answer);
        context.add_function("check", move |This(this): This<Cel>, verb: Arc<String>| {
            let (allowed, reason) = answer(&question(&this, &verb)?);
            let reason = Cel::String(Arc::new(reason));
            Ok::<_, ExecutionError>(step(&[("allowed", Cel::Bool(allowed)), ("reason", reason)]))
        });
        for field in ["allowed", "reason"] {
            context.add_function(field, move |This(this): This<Cel>| field_of(&this, field));
        }
        context.add_function("errored", |This(_): This<Cel>| false);
        context.add_function("error", |This(_): This<Cel>| Arc::new(String::new()));
    }
}

fn step(fields: &[(&str, Cel)]) -> Cel {
    let entry = |(name, value): &(&str, Cel)| (Key::String(Arc::new((*name).to_owned())), value.clone());
    Cel::Map(Map { map: Arc::new(fields.iter().map(entry).collect::<HashMap<_, _>>()) })
}

fn resource_of(question: &Question) -> Cel {
    let text = |text: &str| Cel::String(Arc::new(text.to_owned()));
    step(&[
        ("group", text(&question.group)),
        ("resource", text(&question.resource)),
        ("subresource", text(&question.subresource)),
        ("namespace", text(&question.namespace)),
        ("name", text(&question.name)),
    ])
}

fn fields(this: &Cel) -> Result<&Map, ExecutionError> {
    match this {
        Cel::Map(map) => Ok(map),
        other => Err(ExecutionError::unsupported_target_type(other.clone())),
    }
}

fn with(this: &Cel, field: &str, value: Cel) -> Result<Cel, ExecutionError> {
    let mut all = (*fields(this)?.map).clone();
    all.insert(Key::String(Arc::new(field.to_owned())), value);
    Ok(Cel::Map(Map { map: Arc::new(all) }))
}

fn field_of(this: &Cel, field: &str) -> Result<Cel, ExecutionError> {
    let key = Key::String(Arc::new(field.to_owned()));
    fields(this)?.map.get(&key).cloned().ok_or(ExecutionError::NoSuchOverload)
}

fn question(this: &Cel, verb: &str) -> Result<Question, ExecutionError> {
    let map = fields(this)?;
    let text = |field: &str| match map.map.get(&Key::String(Arc::new(field.to_owned()))) {
        Some(Cel::String(text)) => text.to_string(),
        _ => String::new(),
    };
    let account = (text("accountNamespace"), text("accountName"));
    Ok(Question {
        verb: verb.to_owned(),
        path: text("path"),
        group: text("group"),
        resource: text("resource"),
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
        account: Some(account).filter(|(_, name)| !name.is_empty()),
    })
}
