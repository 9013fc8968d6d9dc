//! Sees to it that whatever lives in a namespace carries the label of its namespace, and that there is not too much of it.

mod admission;
mod api;
mod controller;
mod rules;
mod write;

pub use api::{Quota, Standard, StandardSpec, StandardStatus, Usage, Violation};
pub use rules::{EXEMPT, Verdict, judge, matches};

use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::Namespace,
};
use kube::core::{DynamicObject, PartialObjectMeta};
use windlass::{Controller, DynamicWatches, Operator, Place, Scope, Verbs};

/// Group and resource of what standards may be about; `*` is any.
pub const REACH: &[(&str, &str)] = &[
    ("", "configmaps"),
    ("", "services"),
    ("", "persistentvolumeclaims"),
    ("apps", "*"),
    ("batch", "*"),
];

/// What is wrong with the operator on purpose.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    #[default]
    Nothing,
    /// It remembers what it is about to write, and takes it for written whatever the answer.
    TrustsItself,
}

/// The operator: its kinds, and what runs. What it may do in a cluster follows from this.
pub fn operator() -> Operator {
    with(Planted::Nothing)
}

/// The operator with a mistake in it, for simulations that have to find it.
#[doc(hidden)]
pub fn with(planted: Planted) -> Operator {
    Operator::new("labels").crd::<Standard>().with(move |manager| {
        let mut watches = DynamicWatches::<PartialObjectMeta<DynamicObject>>::new(
            manager.informers(),
            controller::concerned,
        )
        .following(controller::is_within_reach);
        for (group, resource) in REACH {
            watches = watches.may_watch(Place::Everywhere, group, resource);
        }
        let controller = Controller::<Standard>::new("labels")
            .watches::<PartialObjectMeta<Namespace>, _>(Scope::all(), |_, informers| {
                controller::all(informers)
            })
            .owns::<ValidatingAdmissionPolicy>()
            .owns::<ValidatingAdmissionPolicyBinding>()
            .dynamic(&watches)
            .needs(|_, rules| {
                for (group, resource) in REACH {
                    rules.allow_resource(Place::Everywhere, group, resource, Verbs::PATCH);
                }
            })
            .writes_status();
        manager.add(controller.build(controller::Standards::new(watches, planted)));
    })
}
