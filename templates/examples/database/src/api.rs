//! The kind Database in its versions. `v1` is the hub, and the version that is stored.

pub mod v1;
pub mod v1beta1;

use windlass::custom::Kind;

/// Both versions, and the way from each to the other.
pub fn kind() -> Kind {
    Kind::of::<v1::Database>().version::<v1beta1::Database>()
}
