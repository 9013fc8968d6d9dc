//! Structural schemas of custom resources: a schema, then an object.

use windlass_crd::{field::Path, schema, structural};

use super::two;

/// Pruning and defaulting are settled after the first time, and validation takes whatever comes.
pub fn structural(bytes: &[u8]) {
    let Some((declared, mut object)) = two(bytes) else { return };
    let Ok(schema) = schema::from_crd(&declared) else { return };
    structural::prune(&mut object, &schema);
    let pruned = object.clone();
    structural::prune(&mut object, &schema);
    assert_eq!(object, pruned, "pruned again by {declared}");
    structural::default(&mut object, &schema);
    let filled = object.clone();
    structural::default(&mut object, &schema);
    assert_eq!(object, filled, "filled in again by {declared}");
    drop(structural::validate(&object, &schema, &Path::root("")));
}
