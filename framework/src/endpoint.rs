//! Where a process is asked: what has to be in a cluster so that API servers find an operator's webhooks, and who scrapes
//! its metrics.
//!
//! A part says it of itself ([`crate::Runnable::endpoint`]). Tools make a Service, ports and configurations of it, and
//! definitions that name the converter. Nothing here talks to a server.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, ServiceReference, WebhookClientConfig,
    WebhookConversion,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Description;

/// A door of the process that an API server knocks at, or who reads its metrics, by way of a Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The name of the Service, in the namespace of the process.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// The port that the process listens on.
    pub listens: u16,
    /// Where the process expects `tls.crt` and `tls.key`, unless it makes its certificates itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<String>,
    /// The Secret, in the namespace of the process, whose `ca.crt` the process's certificates are believed by, where it
    /// makes them itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// What makes an API server ask. The process writes it, too, once it runs, with what its certificates are believed
    /// by; the namespace of the Service is left out here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configurations: Vec<Value>,
    /// The definitions whose versions are converted here, by their names, and the path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conversions: BTreeMap<String, String>,
}

impl Endpoint {
    /// A door behind a Service that says nothing else of itself.
    #[must_use]
    pub fn new(service: &str, port: u16, listens: u16) -> Self {
        Self {
            service: service.to_owned(),
            port,
            listens,
            certificates: None,
            authority: None,
            configurations: Vec::new(),
            conversions: BTreeMap::new(),
        }
    }

    fn conversion(&self, path: &str, namespace: &str) -> CustomResourceConversion {
        let service = ServiceReference {
            name: self.service.clone(),
            namespace: namespace.to_owned(),
            path: Some(path.to_owned()),
            port: Some(self.port.into()),
        };
        CustomResourceConversion {
            strategy: "Webhook".to_owned(),
            webhook: Some(WebhookConversion {
                client_config: Some(WebhookClientConfig { service: Some(service), ..Default::default() }),
                conversion_review_versions: vec!["v1".to_owned()],
            }),
        }
    }
}

impl Description {
    /// What makes API servers ask an operator that runs in a namespace. It has no `caBundle`: until the operator fills it
    /// in, what fails closed is refused.
    #[must_use]
    pub fn configurations(&self, namespace: &str) -> Vec<Value> {
        let mut all: Vec<Value> =
            self.webhooks.iter().flat_map(|endpoint| endpoint.configurations.clone()).collect();
        let hooks = all.iter_mut().filter_map(|object| object["webhooks"].as_array_mut()).flatten();
        hooks.for_each(|hook| hook["clientConfig"]["service"]["namespace"] = namespace.into());
        all
    }

    /// The definitions as they are for an operator that runs in a namespace: those in several versions name it as their
    /// converter.
    #[must_use]
    pub fn definitions(&self, namespace: &str) -> Vec<CustomResourceDefinition> {
        let mut all = self.crds.clone();
        for definition in &mut all {
            let name = definition.metadata.name.as_deref().unwrap_or_default();
            let found = self.webhooks.iter().find_map(|e| Some((e, e.conversions.get(name)?)));
            if let Some((endpoint, path)) = found {
                definition.spec.conversion = Some(endpoint.conversion(path, namespace));
            }
        }
        all
    }
}
