//! Putting what an operator needs into a cluster: its definitions, its account and its roles. For tests and for tools; an
//! operator in a pod has no right to do it, and does not.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};

use crate::{Description, Error};

/// How long a definition may take to be served, and how often that is looked at.
const SERVED_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

impl Description {
    /// Applies the definitions, and waits until they are served; then the account, the roles, the policies and what makes
    /// API servers ask its webhooks, for an operator that runs in `namespace`, which has to be there. What is there already
    /// is brought up to date.
    ///
    /// # Errors
    /// When the server refuses an object, or does not serve a definition within 30 s.
    pub async fn install(&self, client: &Client, namespace: &str) -> Result<(), Error> {
        self.serve(client, &self.definitions(namespace)).await?;
        self.install_policies(client).await?;
        let asking = self.configurations(namespace).into_iter().map(serde_json::from_value);
        let asking: Vec<DynamicObject> =
            asking.collect::<Result<_, _>>().map_err(|error| Error::Other(error.into()))?;
        self.apply(client, self.rbac(namespace).into_iter().chain(asking)).await
    }

    /// Applies the policies.
    ///
    /// # Errors
    /// When the server refuses one.
    pub async fn install_policies(&self, client: &Client) -> Result<(), Error> {
        let policies = self.objects.iter().cloned().map(serde_json::from_value);
        let policies: Vec<DynamicObject> =
            policies.collect::<Result<_, _>>().map_err(|error| Error::Other(error.into()))?;
        self.apply(client, policies).await
    }

    async fn apply(
        &self,
        client: &Client,
        objects: impl IntoIterator<Item = DynamicObject>,
    ) -> Result<(), Error> {
        for object in objects {
            let types = object.types.clone().unwrap_or_default();
            let kind = GroupVersionKind::try_from(&types).map_err(|error| Error::Other(error.into()))?;
            let resource = ApiResource::from_gvk(&kind);
            let api: Api<DynamicObject> = match object.namespace() {
                Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            api.patch(&object.name_any(), &self.params(), &Patch::Apply(&object)).await?;
        }
        Ok(())
    }

    /// Applies the definitions, and waits until they are served.
    ///
    /// # Errors
    /// When the server refuses one, or does not serve it within 30 s.
    pub async fn install_definitions(&self, client: &Client) -> Result<(), Error> {
        self.serve(client, &self.crds).await
    }

    async fn serve(&self, client: &Client, definitions: &[CustomResourceDefinition]) -> Result<(), Error> {
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        for definition in definitions {
            let name = definition.name_any();
            let mut seen = api.patch(&name, &self.params(), &Patch::Apply(definition)).await?;
            let until = tokio::time::Instant::now() + SERVED_WITHIN;
            while !is_served(&seen) {
                if tokio::time::Instant::now() > until {
                    let why = conditions(&seen);
                    return Err(Error::Other(format!("the kind {name} is not served: {why}").into()));
                }
                tokio::time::sleep(LOOK).await;
                seen = api.get(&name).await?;
            }
        }
        Ok(())
    }

    fn params(&self) -> PatchParams {
        PatchParams::apply(&self.name).force()
    }
}

fn is_served(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Established" && c.status == "True"))
}

/// What a definition says of itself that is not so.
fn conditions(definition: &CustomResourceDefinition) -> String {
    let conditions =
        definition.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let wrong = conditions.iter().filter(|c| c.status == "False");
    let lines: Vec<String> =
        wrong.map(|c| format!("{} is false, {}", c.type_, c.message.clone().unwrap_or_default())).collect();
    lines.join("; ")
}
