//! The service account controller: every namespace has an account named `default`, for pods that name none.
//!
//! It makes the account and never changes or deletes one. Behaves as upstream's `serviceaccount-controller`.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::ObjectMeta;
use windlass::{Action, Controller, Error, Informer, Key, ManagerBuilder, Reconcile, Request, Scope};

use crate::{Options, namespace::is_active};

const NAME: &str = "default";

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let accounts = manager.informers().get::<ServiceAccount>(Scope::all());
    let controller = Controller::<Namespace>::new("serviceaccount")
        .workers(options.workers)
        .watches::<ServiceAccount, _>(Scope::all(), |delta, _| {
            let meta = &delta.object().metadata;
            let wanted = delta.is_deleted() && meta.name.as_deref() == Some(NAME);
            meta.namespace.as_deref().filter(|_| wanted).map(|namespace| Key::new(None, namespace))
        });
    manager.add(controller.build(ServiceAccounts { accounts }));
}

struct ServiceAccounts {
    accounts: Informer<ServiceAccount>,
}

impl Reconcile<Namespace> for ServiceAccounts {
    async fn reconcile(&self, request: Request<Namespace>) -> Result<Action, Error> {
        let namespace = request.key.name();
        let active = request.object.is_some_and(|namespace| is_active(&namespace));
        if !active || self.accounts.get(&Key::new(Some(namespace), NAME)).is_some() {
            return Ok(Action::Done);
        }
        let metadata = ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        };
        match request.client.create(&ServiceAccount { metadata, ..ServiceAccount::default() }).await {
            Ok(_) => Ok(Action::Done),
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(Action::Done),
            Err(error) => Err(error),
        }
    }
}
