//! Definitions of kinds as they change: what has kinds that are not served asked for again, and discovery refreshed.
//!
//! Knows that something changed, never what is served: that is for the server to say ([`crate::discovery`]).

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::core::PartialObjectMeta;

use crate::{Informers, Rules, Scope, Subscription, Verbs};

/// Somebody follows the definitions, for as long as this is held.
pub(crate) struct Definitions {
    _subscriptions: [Subscription; 2],
}

impl Definitions {
    pub(crate) fn follow(informers: &Informers) -> Self {
        let definitions = informers.get::<PartialObjectMeta<CustomResourceDefinition>>(Scope::all());
        let services = informers.get::<PartialObjectMeta<APIService>>(Scope::all());
        let (one, two) = (informers.redefined().clone(), informers.redefined().clone());
        Self {
            _subscriptions: [
                definitions.subscribe(move |_| one.update(|n| n + 1)),
                services.subscribe(move |_| two.update(|n| n + 1)),
            ],
        }
    }

    /// What is needed to follow them.
    pub(crate) fn needs(rules: &mut Rules) {
        rules.allow::<CustomResourceDefinition>(&Scope::all(), Verbs::READ);
        rules.allow::<APIService>(&Scope::all(), Verbs::READ);
    }
}
