//! Namespaces, which say whose something is and how much there may be of it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use windlass::{Informer, Informers, Key, Scope, webhook::Denied};

/// Namespaces as the cache has them; those that it does not have yet, as the server does.
#[derive(Clone)]
pub(crate) struct Namespaces {
    known: Informer<Namespace>,
    client: Client,
}

impl Namespaces {
    pub(crate) fn of(informers: &Informers) -> Self {
        Self { known: informers.get(Scope::all()), client: informers.client().clone() }
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Arc<Namespace>, Denied> {
        if let Some(found) = self.known.lister().get(&Key::new(None, name)) {
            return Ok(found);
        }
        Api::all(self.client.clone()).get(name).await.map(Arc::new).map_err(Denied::failed)
    }
}
