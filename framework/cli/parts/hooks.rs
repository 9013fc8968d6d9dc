//! What is decided about a PartKind before it is kept. Only what takes code belongs here: bounds, formats and CEL rules are
//! better said in the kind, where API servers hold objects to them by themselves.

use kube::ResourceExt;
use windlass::webhook::{Denied, Mutate, Operation, Review, Validate};

use crate::PartKind;

/// The annotation that says who made an object.
const MADE_BY: &str = "part.group/made-by";

/// Fills in what was left out.
pub(crate) struct Defaults;

impl Mutate<PartKind> for Defaults {
    async fn mutate(&self, object: &mut PartKind, review: &Review<PartKind>) -> Result<(), Denied> {
        if review.operation == Operation::Create {
            object.annotations_mut().insert(MADE_BY.to_owned(), review.user.username.clone());
        }
        Ok(())
    }
}

/// Refuses what must not be.
pub(crate) struct Rules;

impl Validate<PartKind> for Rules {
    async fn validate(&self, review: &Review<PartKind>) -> Result<(), Denied> {
        let (Some(object), Some(old)) = (&review.object, &review.old) else { return Ok(()) };
        // An object that is older than this rule says nothing, and may go on saying nothing.
        if object.annotations().get(MADE_BY) != old.annotations().get(MADE_BY) {
            return Err(Denied::forbidden(format!("the annotation {MADE_BY} stays as it is")));
        }
        Ok(())
    }
}
