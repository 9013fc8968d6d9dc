//! Runs what a TemplateName asks for: a Deployment of its image, and a status that says how far it is.

mod api;
mod controller;

pub use api::{TemplateName, TemplateNameSpec, TemplateNameStatus};
pub use controller::{deployment, status};

use k8s_openapi::api::apps::v1::Deployment;
use windlass::{Controller, Operator};

/// The operator: its kinds, and what runs. What it may do in a cluster follows from this.
pub fn operator() -> Operator {
    Operator::new("template-name").crd::<TemplateName>().with(|manager| {
        let controller = Controller::<TemplateName>::new("template-name").owns::<Deployment>().writes_status();
        manager.add(controller.build(controller::TemplateNames));
    })
}
