//! The root CA publisher: every namespace has a ConfigMap with the CA that pods verify the API server with.
//!
//! A ConfigMap that somebody changed or deleted is put back. Behaves as upstream's
//! `root-ca-certificate-publisher-controller`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::ObjectMeta;
use windlass::{Action, Controller, Error, Informer, Key, ManagerBuilder, Reconcile, Request, Scope};

use crate::{Options, namespace::is_active};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
/// Shown by `kubectl describe`; upstream's words, which clients compare.
const DESCRIBED: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                         endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                         guaranteed across distributions of Kubernetes clusters.";

/// Adds the controller to a manager; without a CA to publish it has nothing to do and is left out.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let Some(ca) = options.root_ca.clone() else {
        tracing::info!("no root CA is known: it is not published");
        return;
    };
    let scope = Scope::all().fields(format!("metadata.name={NAME}"));
    let maps = manager.informers().get::<ConfigMap>(scope.clone());
    let controller = Controller::<Namespace>::new("root_ca_cert_publisher")
        .workers(options.workers)
        .watches::<ConfigMap, _>(scope, |delta, _| {
            let meta = &delta.object().metadata;
            meta.namespace.as_deref().map(|namespace| Key::new(None, namespace))
        });
    manager.add(controller.build(RootCa { ca, maps }));
}

struct RootCa {
    ca: String,
    maps: Informer<ConfigMap>,
}

impl Reconcile<Namespace> for RootCa {
    async fn reconcile(&self, request: Request<Namespace>) -> Result<Action, Error> {
        let namespace = request.key.name();
        if !request.object.is_some_and(|namespace| is_active(&namespace)) {
            return Ok(Action::Done);
        }
        let data = BTreeMap::from([("ca.crt".to_owned(), self.ca.clone())]);
        let written = match self.maps.get(&Key::new(Some(namespace), NAME)) {
            Some(map) if is_published(&map, &data) => return Ok(Action::Done),
            Some(map) => {
                let mut next = (*map).clone();
                next.data = Some(data);
                next.metadata
                    .annotations
                    .get_or_insert_default()
                    .insert(DESCRIPTION.into(), DESCRIBED.into());
                request.client.update(&next).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(NAME.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    annotations: Some(BTreeMap::from([(DESCRIPTION.into(), DESCRIBED.into())])),
                    ..ObjectMeta::default()
                };
                request.client.create(&ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }).await
            }
        };
        match written {
            Err(error) if !error.is_namespace_terminating() && !error.is_already_exists() => Err(error),
            _ => Ok(Action::Done),
        }
    }
}

fn is_published(map: &ConfigMap, data: &BTreeMap<String, String>) -> bool {
    let described = map.metadata.annotations.as_ref().and_then(|a| a.get(DESCRIPTION));
    map.data.as_ref() == Some(data) && described.is_some_and(|d| d == DESCRIBED)
}
