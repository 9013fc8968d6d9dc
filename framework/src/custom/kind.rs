//! A kind in several versions side by side.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::crd::v1::merge_crds;
use serde_json::{Value, json};
use windlass_crd::{
    conversion::{Spoke, Versions},
    field,
    sample::Sampler,
    schema::Schema,
    structural,
};

use super::{CustomResource, Declared, Version, check::Checker};

/// Objects that are drawn at most until one is allowed.
const DRAWN_MAX: u32 = 1000;

/// Objects that a round trip is tried on, from each end.
const ROUND_TRIPS: u64 = 200;

/// The versions of a kind: one definition, and the way from each to each.
///
/// ```
/// use windlass::custom::Kind;
///
/// mod v1 {
///     #[derive(windlass::CustomResource, Clone, Debug, serde::Serialize, serde::Deserialize)]
///     #[kube(group = "harbour.dev", version = "v1", kind = "Sail", namespaced)]
///     pub struct SailSpec {
///         pub area: u32,
///     }
/// }
///
/// mod v1alpha1 {
///     #[derive(windlass::CustomResource, Clone, Debug, serde::Serialize, serde::Deserialize)]
///     #[kube(group = "harbour.dev", version = "v1alpha1", kind = "Sail", namespaced, storage = false)]
///     #[windlass(hub = super::v1::Sail, moved("/spec/size" => "/spec/area"))]
///     pub struct SailSpec {
///         pub size: u32,
///     }
/// }
///
/// fn main() {
///     let kind = Kind::of::<v1::Sail>().version::<v1alpha1::Sail>();
///     let old = serde_json::to_value(v1alpha1::Sail::new("main", v1alpha1::SailSpec { size: 7 })).unwrap();
///     assert_eq!(kind.versions().convert(old, "harbour.dev/v1").unwrap()["spec"]["area"], 7);
///     assert_eq!(kind.definition().spec.versions.len(), 2);
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Kind {
    name: &'static str,
    hub: &'static str,
    definitions: Vec<CustomResourceDefinition>,
    stored: &'static str,
    spokes: Vec<Spoke>,
}

impl Kind {
    /// The hub, the version that all others differ from.
    #[must_use]
    pub fn of<Hub: CustomResource>() -> Self {
        let Declared { api_version, version, .. } = Hub::DECLARED;
        Self {
            name: Hub::crd_name(),
            hub: api_version,
            definitions: vec![Hub::crd()],
            stored: version,
            spokes: Vec::new(),
        }
    }

    /// One more version. That which says `storage` is stored, or the hub if all say so.
    ///
    /// # Panics
    /// When the version differs from another hub than this.
    #[must_use]
    pub fn version<V: Version>(mut self) -> Self {
        let hub = V::SPOKE.hub;
        assert_eq!(hub, self.hub, "{} differs from {hub}, not from {}", V::SPOKE.api_version, self.hub);
        self.definitions.push(V::crd());
        self.spokes.push(V::SPOKE);
        let hub_is_stored = self.definitions[0].spec.versions[0].storage;
        if V::DECLARED.storage && !hub_is_stored {
            self.stored = V::DECLARED.version;
        }
        self
    }

    /// The name of its definition, `PLURAL.GROUP`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// One definition with all versions.
    ///
    /// # Panics
    /// When the versions do not agree about group, names or scope.
    #[must_use]
    pub fn definition(&self) -> CustomResourceDefinition {
        merge_crds(self.definitions.clone(), self.stored)
            .unwrap_or_else(|error| panic!("{}: {error}", self.hub))
    }

    /// The way from each version to each.
    #[must_use]
    pub fn versions(&self) -> Versions {
        Versions::new(self.hub, self.spokes.clone())
    }
}

/// Tries that conversions between a version and its hub lose nothing and make no nonsense: what comes out has to be what
/// the other version's schema allows, and has to be the same again on the way back. The derive makes a test of it.
///
/// # Panics
/// When something gets lost, with the object and the fields.
pub fn check_round_trips<V: Version>() {
    let (here, hub) = (Checker::of::<V>(), Checker::of::<V::Hub>());
    let (spoke, mut sampler) = (V::SPOKE, Sampler::seeded(1));
    for _ in 0..ROUND_TRIPS {
        let object = drawn::<V>(&mut sampler, &here.model);
        let there = spoke.to_hub(object.clone());
        fits(&object, &there, spoke.hub, &hub.model);
        same(&object, &spoke.from_hub(there), spoke.hub);
    }
    for _ in 0..ROUND_TRIPS {
        let object = drawn::<V::Hub>(&mut sampler, &hub.model);
        let there = spoke.from_hub(object.clone());
        fits(&object, &there, spoke.api_version, &here.model);
        same(&object, &spoke.to_hub(there), spoke.api_version);
    }
}

/// An object that its declaration allows, CEL rules included, for tests; without a status. A seed draws the same each time.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// use windlass::custom::{CustomResource as _, draw};
///
/// #[derive(windlass::CustomResource, Clone, Debug, Serialize, Deserialize)]
/// #[kube(group = "harbour.dev", version = "v1", kind = "Mast", namespaced)]
/// struct MastSpec {
///     #[garde(range(min = 1, max = 80))]
///     #[windlass(validation("self % 2 == 0", message = "is odd"))]
///     height: u32,
/// }
///
/// let mast: Mast = draw(7);
/// assert!(mast.check(None).is_ok());
/// assert_eq!(mast.spec.height, draw::<Mast>(7).spec.height);
/// ```
///
/// # Panics
/// When a thousand objects were drawn and none is allowed.
#[must_use]
pub fn draw<K: CustomResource>(seed: u64) -> K {
    let (checker, mut sampler) = (Checker::of::<K>(), Sampler::seeded(seed));
    let allowed = (0..DRAWN_MAX).find_map(|_| {
        let mut object = drawn::<K>(&mut sampler, &checker.model);
        object.as_object_mut()?.remove("status");
        serde_json::from_value::<K>(object).ok().filter(|object| object.check(None).is_ok())
    });
    allowed.unwrap_or_else(|| panic!("no {} of {DRAWN_MAX} that were drawn is allowed", K::DECLARED.kind))
}

fn drawn<K: CustomResource>(sampler: &mut Sampler, schema: &Schema) -> Value {
    let mut object = sampler.draw(schema);
    object["apiVersion"] = K::DECLARED.api_version.into();
    object["kind"] = K::DECLARED.kind.into();
    object["metadata"] = json!({ "name": "drawn" });
    object
}

fn fits(from: &Value, object: &Value, version: &str, schema: &Schema) {
    let mut pruned = object.clone();
    structural::prune(&mut pruned, schema);
    assert_eq!(&pruned, object, "{version} has no place for some fields (right) that come of {from}");
    structural::default(&mut pruned, schema);
    let wrong = structural::validate(&pruned, schema, &field::EMPTY);
    assert!(wrong.is_empty(), "{version} refuses {object}, which comes of {from}: {wrong:?}");
}

fn same(before: &Value, after: &Value, version: &str) {
    assert_eq!(before, after, "by way of {version} the left becomes the right");
}
