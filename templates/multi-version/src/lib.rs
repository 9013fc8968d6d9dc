//! Runs what a TemplateName asks for: a Deployment of its image, and a status that says how far it is. The kind is served in
//! three versions.

pub mod api;
mod controller;

pub use api::{
    kind,
    v1::{Rollout, TemplateName, TemplateNameSpec, TemplateNameStatus},
};
pub use controller::{deployment, status};

use k8s_openapi::api::apps::v1::Deployment;
use windlass::{
    Controller, Operator,
    webhook::{Certificates, Webhooks},
};

/// The operator: its kinds, and what runs. What it may do in a cluster follows from this.
pub fn operator() -> Operator {
    Operator::new("template-name").with(|manager| {
        let controller = Controller::<TemplateName>::new("template-name").owns::<Deployment>().writes_status();
        manager.add(controller.build(controller::TemplateNames));
        // The definition comes with whoever converts.
        let webhooks = Webhooks::new("template-name-webhooks", Certificates::self_signed());
        manager.add(webhooks.convert(kind()));
    })
}
