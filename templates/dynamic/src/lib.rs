//! Sees to it that objects of many kinds carry what the TemplateNames ask for. The kinds are known at run time alone.

mod api;
mod carry;
mod controller;
mod policy;

pub use api::{TemplateName, TemplateNameKind, TemplateNameSpec, TemplateNameStatus};
pub use policy::{Carried, Verdict, judge, mark, matches};

use kube::core::{DynamicObject, PartialObjectMeta};
use windlass::{Controller, DynamicWatches, Operator, Place, Scope, Verbs};

/// Group and resource of what policies may be about; `*` is any. What is not here is not watched, not written, and the
/// operator has no rights to it.
pub const REACH: &[(&str, &str)] = &[
    ("", "configmaps"),
    ("", "services"),
    ("apps", "*"),
    ("example.com", "*"),
];

/// The operator: its kinds, and what runs. What it may do in a cluster follows from this.
pub fn operator() -> Operator {
    Operator::new("template-name")
        .crd::<TemplateName>()
        .with(|manager| {
            let mut watches = DynamicWatches::<PartialObjectMeta<DynamicObject>>::new(
                manager.informers(),
                controller::concerned,
            )
            .following(controller::is_within_reach);
            for (group, resource) in REACH {
                watches = watches.may_watch(Place::Everywhere, group, resource);
            }
            let controller = Controller::<TemplateName>::new("template-name")
                // Policies give way to older ones.
                .watches::<TemplateName, _>(Scope::all(), |_, informers| controller::all(informers))
                .dynamic(&watches)
                .needs(|_, rules| {
                    for (group, resource) in REACH {
                        rules.allow_resource(Place::Everywhere, group, resource, Verbs::PATCH);
                    }
                })
                .may::<TemplateName>(Verbs::PATCH)
                .writes_status();
            manager.add(controller.build(controller::TemplateNames { watches }));
        })
}
