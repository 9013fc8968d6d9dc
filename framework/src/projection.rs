//! Caches of the few fields that a controller reads, instead of whole objects.
//!
//! A [`Projection`] is a struct with the wanted fields of a kind. Objects are decoded into it straight from the bytes of
//! the watch, so what is not named in it is never built and takes no memory. Apart from that a [`Projected`] object is
//! one like any other: it has a key, labels and owners, is indexed, triggers and is reconciled. It cannot be written:
//! what was left out would be lost.

use std::{borrow::Cow, collections::BTreeMap, fmt::Debug, ops::Deref};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::{Resource, core::ObjectMeta};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::Object;

/// Some fields of a kind, named and nested as in the kind itself.
///
/// ```
/// use std::convert::Infallible;
///
/// # use http::{Request, Response};
/// use k8s_openapi::api::core::v1::Pod;
/// # use kube::{Client, client::Body};
/// use serde::Deserialize;
/// use windlass::{Informers, Projected, Projection, Scope};
///
/// /// Where a pod runs.
/// #[derive(Clone, Debug, Deserialize)]
/// struct Placement {
///     #[serde(default)]
///     spec: PlacementSpec,
/// }
///
/// #[derive(Clone, Debug, Default, Deserialize)]
/// #[serde(rename_all = "camelCase")]
/// struct PlacementSpec {
///     node_name: Option<String>,
/// }
///
/// impl Projection for Placement {
///     type Kind = Pod;
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let nobody = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
/// # let informers = Informers::new(Client::new(nobody, "default"));
/// let pods = informers.projected::<Placement>(Scope::all());
/// for pod in pods.lister().all() {
///     println!("{:?} runs on {:?}", pod.metadata.name, pod.spec.node_name);
/// }
/// # }
/// ```
pub trait Projection: DeserializeOwned + Clone + Debug + Send + Sync + 'static {
    /// The kind it is a part of.
    type Kind: Object;
}

/// An object of which only a projection and what identifies it are kept. Fields of the projection are its own.
#[derive(Clone, Debug)]
pub struct Projected<P> {
    /// Name, namespace, uid, revision, generation, times, labels, owners and finalizers; annotations and all else are
    /// left out, unless the projection names them.
    pub metadata: ObjectMeta,
    /// The fields that were wanted.
    pub fields: P,
}

impl<P> Deref for Projected<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.fields
    }
}

impl<P: Projection> Resource for Projected<P> {
    type DynamicType = <P::Kind as Resource>::DynamicType;
    type Scope = <P::Kind as Resource>::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        P::Kind::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        P::Kind::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        P::Kind::version(dynamic)
    }

    fn api_version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        P::Kind::api_version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        P::Kind::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The object as it is decoded for its identity.
#[derive(Deserialize)]
struct Identified {
    metadata: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
}

impl<'de, P: Projection> Deserialize<'de> for Projected<P> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Read twice from the text: reading it once would build all of it.
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let Identified { metadata } = serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
        let fields = serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
        let metadata = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            generation: metadata.generation,
            creation_timestamp: metadata.creation_timestamp,
            deletion_timestamp: metadata.deletion_timestamp,
            labels: metadata.labels,
            owner_references: metadata.owner_references,
            finalizers: metadata.finalizers,
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, fields })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[derive(Clone, Debug, Deserialize)]
    struct Phase {
        status: Option<Status>,
    }

    #[derive(Clone, Debug, Deserialize)]
    struct Status {
        phase: Option<String>,
    }

    impl Projection for Phase {
        type Kind = Pod;
    }

    #[test]
    fn only_what_is_named_is_kept() {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "a", "namespace": "b", "uid": "u", "resourceVersion": "7", "labels": {"app": "x"},
                "annotations": {"much": "heavy"}, "managedFields": [{"manager": "heavy"}],
            },
            "spec": {"nodeName": "heavy"},
            "status": {"phase": "Running", "podIP": "heavy"},
        });
        let pod: Projected<Phase> = serde_json::from_str(&object.to_string()).unwrap();
        assert_eq!(pod.status.as_ref().unwrap().phase.as_deref(), Some("Running"));
        assert_eq!((crate::Key::of(&pod).as_str(), crate::revision_of(&pod)), ("b/a", 7));
        assert_eq!(pod.metadata.labels.as_ref().unwrap()["app"], "x");
        assert!(!format!("{pod:?}").contains("heavy"));
        assert_eq!(Projected::<Phase>::url_path(&(), Some("b")), "/api/v1/namespaces/b/pods");
        let wrong = json!({"metadata": {"name": "a"}, "status": {"phase": 7}});
        assert!(serde_json::from_str::<Projected<Phase>>(&wrong.to_string()).is_err());
    }
}
