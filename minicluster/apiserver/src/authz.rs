//! Who may do what: one chain of authorizers, asked in order until one has an opinion.
//!
//! Members of `system:masters` may do anything before anybody is asked. Node, RBAC and ABAC are look-ups in memory and
//! never wait; only webhooks do. Nothing here knows kinds or bodies: a decision rests on [`Attributes`] alone. Source:
//! `k8s.io/apiserver/pkg/authorization` and `pkg/kubeapiserver/authorizer`.

mod abac;
mod config;
mod escalation;
mod graph;
mod node;
mod rbac;
mod webhook;

use std::{borrow::Cow, sync::Arc};

use arc_swap::ArcSwap;
use minicluster_store::Store;
use windlass_crd::{
    field::quote,
    selector::{FieldRequirement, Requirement},
};

pub use config::{Mode, Settings, WebhookSettings};
pub(crate) use escalation::{check as check_escalation, uncovered};
pub(crate) use graph::mentions;
pub(crate) use node::name_of as node_of;
pub use rbac::{Rbac, Rule};
pub(crate) use webhook::retry;

use crate::{
    api::Api,
    authn::{Identity, MASTERS},
    files::Watched,
    request::RequestInfo,
    status::{ApiError, ApiResult, Details},
};

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a> {
    /// The verb.
    pub verb: &'a str,
    /// The API group.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The resource.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The object's name, or empty.
    pub name: &'a str,
    /// The path, when it is no resource.
    pub path: &'a str,
    /// True for resources.
    pub is_resource: bool,
    /// What a list, a watch or the deletion of a collection is limited to by fields.
    pub fields: &'a [FieldRequirement],
    /// What it is limited to by labels.
    pub labels: &'a [Requirement],
}

impl<'a> Attributes<'a> {
    /// The attributes of a request.
    pub fn of(info: &'a RequestInfo) -> Self {
        Self {
            verb: info.verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
            is_resource: info.is_resource,
            fields: &info.fields,
            labels: &info.labels,
        }
    }

    fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }
}

/// What an authorizer thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Yes; nobody else is asked.
    Allow,
    /// No; nobody else is asked.
    Deny,
    /// The next one decides; after the last one this means no.
    NoOpinion,
}

/// A decision and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The decision.
    pub decision: Decision,
    /// Why, for people; may be empty.
    pub reason: Cow<'static, str>,
    /// What went wrong on the way.
    pub error: Option<String>,
}

impl Verdict {
    /// A decision with a reason.
    pub fn new(decision: Decision, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { decision, reason: reason.into(), error: None }
    }

    /// Yes.
    pub fn allow(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Decision::Allow, reason)
    }

    /// Let the next one decide.
    pub fn no_opinion(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Decision::NoOpinion, reason)
    }

    /// True for [`Decision::Allow`].
    pub fn is_allowed(&self) -> bool {
        self.decision == Decision::Allow
    }

    /// Passes or fails a request.
    ///
    /// # Errors
    /// 403 in upstream's words; 500 when an authorizer failed.
    pub fn into_result(self, user: &Identity, asked: &Attributes<'_>) -> ApiResult<()> {
        match self.error {
            _ if self.decision == Decision::Allow => Ok(()),
            Some(error) => Err(ApiError::internal(error)),
            None => Err(forbidden(user, asked, &self.reason)),
        }
    }
}

/// One link of the chain.
#[derive(Debug)]
enum Link {
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Abac(Arc<abac::Policies>),
    Webhook(Box<webhook::Webhook>),
}

/// The chain.
pub struct Authorizer {
    rbac: Rbac,
    node: node::Node,
    chain: ArcSwap<Vec<Link>>,
    /// `--authorization-config`, read again when it changes.
    file: Option<Watched>,
}

impl Authorizer {
    /// A chain over the objects of a store.
    ///
    /// # Errors
    /// One sentence that names the file or flag and the field.
    pub fn new(store: &Store, settings: &Settings) -> Result<Self, String> {
        let file = settings.config_file.as_deref().map(Watched::open).transpose()?;
        let chain = match &file {
            Some(file) => config::chain_of_file(file)?,
            None => config::chain_of_flags(settings)?,
        };
        Ok(Self {
            rbac: Rbac::new(store),
            node: node::Node::new(store),
            chain: ArcSwap::from_pointee(chain),
            file,
        })
    }

    /// Roles and bindings.
    pub fn rbac(&self) -> &Rbac {
        &self.rbac
    }

    /// Asks the chain.
    pub async fn decide(&self, api: &Api, user: &Identity, asked: &Attributes<'_>) -> Verdict {
        if user.is_in(MASTERS) {
            return Verdict::allow("");
        }
        let chain = self.chain.load();
        // The usual chain never waits, so it is gone through without a pinned state.
        if !chain.iter().any(|link| matches!(link, Link::Webhook(_))) {
            return join(chain.iter().map(|link| self.ask_here(link, user, asked)));
        }
        drop(chain);
        Box::pin(self.decide_waiting(api, user, asked)).await
    }

    /// Asks those of the chain that need not be waited for; webhooks have no opinion here.
    pub(crate) fn decide_here(&self, user: &Identity, asked: &Attributes<'_>) -> Verdict {
        if user.is_in(MASTERS) {
            return Verdict::allow("");
        }
        join(self.chain.load().iter().map(|link| self.ask_here(link, user, asked)))
    }

    async fn decide_waiting(&self, api: &Api, user: &Identity, asked: &Attributes<'_>) -> Verdict {
        let chain = self.chain.load_full();
        let mut verdicts = Vec::with_capacity(chain.len());
        for link in chain.iter() {
            let verdict = match link {
                Link::Webhook(webhook) => webhook.ask(api, user, asked).await,
                other => self.ask_here(other, user, asked),
            };
            let is_last = verdict.decision != Decision::NoOpinion;
            verdicts.push(verdict);
            if is_last {
                break;
            }
        }
        join(verdicts.into_iter())
    }

    fn ask_here(&self, link: &Link, user: &Identity, asked: &Attributes<'_>) -> Verdict {
        match link {
            Link::AlwaysAllow => Verdict::allow(""),
            Link::AlwaysDeny => Verdict::no_opinion("Everything is forbidden."),
            Link::Node => self.node.ask(user, asked),
            Link::Rbac => self.rbac.ask(user, asked),
            Link::Abac(policies) => policies.ask(user, asked),
            Link::Webhook(_) => Verdict::no_opinion(""),
        }
    }

    /// Passes or fails a request.
    ///
    /// # Errors
    /// 403 in upstream's words; 500 when an authorizer failed.
    pub async fn require(&self, api: &Api, user: &Identity, asked: &Attributes<'_>) -> ApiResult<()> {
        self.decide(api, user, asked).await.into_result(user, asked)
    }

    /// What a user may do in a namespace, as far as it can be listed.
    pub fn rules_for(&self, user: &Identity, namespace: &str) -> RulesAnswer {
        let mut answer = RulesAnswer::default();
        if user.is_in(MASTERS) {
            answer.rules.extend(rbac::everything());
        }
        for link in self.chain.load().iter() {
            match link {
                Link::AlwaysAllow => answer.rules.extend(rbac::everything()),
                Link::AlwaysDeny => {}
                Link::Node if node::name_of(user).is_some() => {
                    answer.incomplete = true;
                    answer.errors.push("node authorizer does not support user rule resolution".to_owned());
                }
                Link::Node => {}
                Link::Rbac => {
                    let (rules, errors) = self.rbac.rules_for(user, namespace);
                    answer.rules.extend(rules);
                    answer.errors.extend(errors);
                }
                Link::Abac(policies) => answer.rules.extend(policies.rules_for(user, namespace)),
                Link::Webhook(_) => {
                    answer.incomplete = true;
                    answer.errors.push("webhook authorizer does not support user rule resolution".to_owned());
                }
            }
        }
        answer
    }

    /// Reads `--authorization-config` again when it changed. A file that is wrong changes nothing.
    pub(crate) fn reload(&self) {
        let Some(file) = &self.file else { return };
        match file.changed() {
            Ok(false) => {}
            Ok(true) => match config::chain_of_file(file) {
                Ok(chain) => {
                    self.chain.store(Arc::new(chain));
                    tracing::info!(file = %file.path().display(), "reloaded authorizer config");
                }
                Err(error) => {
                    tracing::error!(error, "the authorization config is wrong; the old one goes on");
                }
            },
            Err(error) => {
                tracing::error!(error, "the authorization config cannot be read; the old one goes on");
            }
        }
    }

    /// True when [`Authorizer::reload`] has something to look at.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Whether everything is allowed to everybody, so that nobody may be anonymous unless told so.
    pub(crate) fn allows_all(&self) -> bool {
        self.chain.load().iter().any(|link| matches!(link, Link::AlwaysAllow))
    }
}

/// What a user may do.
#[derive(Debug, Default)]
pub struct RulesAnswer {
    /// The rules.
    pub rules: Vec<Rule>,
    /// True when an authorizer cannot list what it allows.
    pub incomplete: bool,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// The verdict of a chain: the first opinion, or all reasons for having none.
fn join(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let (mut reasons, mut errors): (Vec<Cow<'static, str>>, Vec<String>) = (Vec::new(), Vec::new());
    for verdict in verdicts {
        if verdict.decision != Decision::NoOpinion {
            return verdict;
        }
        if !verdict.reason.is_empty() {
            reasons.push(verdict.reason);
        }
        errors.extend(verdict.error);
    }
    let reason = match reasons.len() {
        0 | 1 => reasons.pop().unwrap_or_default(),
        _ => reasons.join("\n").into(),
    };
    Verdict { decision: Decision::NoOpinion, reason, error: aggregate(errors) }
}

/// Several errors as upstream's `Aggregate` writes them: each once, in brackets when there are several.
pub(crate) fn aggregate(mut errors: Vec<String>) -> Option<String> {
    let mut seen: Vec<String> = Vec::new();
    errors.retain(|error| {
        let new = !seen.contains(error);
        seen.push(error.clone());
        new
    });
    match errors.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

/// 403 in upstream's words.
pub fn forbidden(user: &Identity, asked: &Attributes<'_>, reason: &str) -> ApiError {
    let name = quote(&user.name);
    let cannot = if !asked.is_resource {
        format!("User {name} cannot {} path {}", asked.verb, quote(asked.path))
    } else {
        let resource = match asked.subresource {
            "" => asked.resource.to_owned(),
            sub => format!("{}/{sub}", asked.resource),
        };
        let scope = match asked.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {}", quote(namespace)),
        };
        let (resource, group) = (quote(&resource), quote(asked.group));
        format!("User {name} cannot {} resource {resource} in API group {group} {scope}", asked.verb)
    };
    let mut cannot = cannot.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !reason.is_empty() {
        cannot.push_str(": ");
        cannot.push_str(reason);
    }
    let group_resource = match asked.group {
        "" => asked.resource.to_owned(),
        group => format!("{}.{group}", asked.resource),
    };
    let message = match (asked.resource, asked.name) {
        ("", _) => format!("forbidden: {cannot}"),
        (_, "") => format!("{group_resource} is forbidden: {cannot}"),
        (_, name) => format!("{group_resource} {} is forbidden: {cannot}", quote(name)),
    };
    let mut error = ApiError::forbidden_path(message);
    error.details = Some(Box::new(Details {
        name: asked.name.to_owned(),
        group: asked.group.to_owned(),
        kind: asked.resource.to_owned(),
        ..Details::default()
    }));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_upstreams() {
        let jane = Identity::new("jane", &[]);
        let scale = Attributes {
            verb: "create",
            group: "apps",
            resource: "deployments",
            subresource: "scale",
            namespace: "d",
            name: "web",
            is_resource: true,
            ..Attributes::default()
        };
        assert_eq!(
            forbidden(&jane, &scale, "").message,
            "deployments.apps \"web\" is forbidden: User \"jane\" cannot create resource \"deployments/scale\" in API \
             group \"apps\" in the namespace \"d\""
        );
        let path = Attributes { verb: "get", path: "/<b>", ..Attributes::default() };
        assert_eq!(
            forbidden(&jane, &path, "nobody may").message,
            "forbidden: User \"jane\" cannot get path \"/&lt;b&gt;\": nobody may"
        );
    }

    #[test]
    fn a_chain_ends_at_the_first_opinion_and_collects_reasons_until_then() {
        let failed = Verdict { error: Some("e".to_owned()), ..Verdict::no_opinion("b") };
        let none = || [Verdict::no_opinion("a"), failed.clone(), Verdict::no_opinion("")].into_iter();
        let verdict = join(none());
        assert_eq!((verdict.reason.as_ref(), verdict.error.as_deref()), ("a\nb", Some("e")));
        for (last, decision) in
            [(Verdict::allow("yes"), Decision::Allow), (Verdict::new(Decision::Deny, "no"), Decision::Deny)]
        {
            let verdict = join(none().chain([last.clone(), Verdict::allow("never asked")]));
            assert_eq!((verdict.decision, verdict.reason), (decision, last.reason));
        }
        assert_eq!(aggregate(vec!["a".into(), "b".into(), "a".into()]).unwrap(), "[a, b]");
    }
}
