//! Runs what a TemplateName asks for: a Deployment of its image, and a status that says how far it is. What may be asked for
//! is decided before it is kept, by webhooks.

mod api;
mod controller;
mod webhooks;

pub use api::{TemplateName, TemplateNameSpec, TemplateNameStatus};
pub use controller::{deployment, status};
pub use webhooks::{BUDGET, TEAM};

use k8s_openapi::api::apps::v1::Deployment;
use windlass::{Controller, Operator};

/// The operator: its kinds, and what runs. What it may do in a cluster follows from this.
pub fn operator() -> Operator {
    Operator::new("template-name")
        .crd::<TemplateName>()
        .policy(&webhooks::policy())
        .with(|manager| {
            let controller =
                Controller::<TemplateName>::new("template-name").owns::<Deployment>().writes_status();
            manager.add(controller.build(controller::TemplateNames));
        })
        .with(webhooks::add)
}
