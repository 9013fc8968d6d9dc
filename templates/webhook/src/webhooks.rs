//! What is decided about a TemplateName before it is kept, and where.
//!
//! What the object alone tells is said in its kind, and API servers hold it to that without anybody's help. What the
//! namespace tells as well is a policy, in CEL. Only what takes code is asked here: a default that is looked up, and a rule
//! about many objects together.

mod budget;
mod defaults;
mod namespaces;

use std::time::Duration;

use serde_json::json;
use windlass::{
    ManagerBuilder,
    webhook::{Certificates, Hook, Policy, Webhooks},
};

use crate::TemplateName;
use budget::Budget;
use defaults::Defaults;
use namespaces::Namespaces;

pub use budget::BUDGET;
pub use defaults::TEAM;

/// Adds the hooks. Every replica answers, whoever leads.
pub(crate) fn add(manager: &mut ManagerBuilder) {
    let namespaces = Namespaces::of(manager.informers());
    let budget = Budget::of(manager.informers(), namespaces.clone());
    // Days of the authority and of what it signs: few, so that their succession is nothing rare, in tests neither.
    let certificates = Certificates::self_signed_for(7, 3);
    let webhooks = Webhooks::new("template-name-webhooks", certificates)
        // A default that is missing does less harm than a request that waits.
        .mutate(Defaults { namespaces }, Hook::default().fails_open().timeout(Duration::from_secs(2)))
        .validate(budget, of_the_spec());
    manager.add(webhooks);
}

/// In namespaces that are labelled as production, images go by their digest.
pub(crate) fn policy() -> Policy {
    let production = json!({ "matchLabels": { "environment": "production" } });
    Policy::of::<TemplateName>("template-name-production", of_the_spec().namespaces(production))
        .rule("object.spec.image.contains('@sha256:')", "in production an image has a digest")
}

/// Asked when the spec is new or another. Labels and finalizers may be changed while the operator is away.
fn of_the_spec() -> Hook {
    Hook::default().when("spec", "request.operation == 'CREATE' || object.spec != oldObject.spec")
}
