//! The kind TemplateName in its versions. `v1` is the hub: what runs knows this one alone, and the others say how they
//! differ from it. It is also the version that is stored.

pub mod v1;
pub mod v1alpha1;
pub mod v1beta1;

use windlass::custom::Kind;

/// All versions, and the way from each to each.
pub fn kind() -> Kind {
    Kind::of::<v1::TemplateName>().version::<v1beta1::TemplateName>().version::<v1alpha1::TemplateName>()
}
