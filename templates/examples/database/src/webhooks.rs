//! What is decided about a change before it is kept and takes more than the object alone: engines only go forward, one major
//! version at a time. Pure.

use windlass::webhook::{Denied, Review, Validate};

use crate::Database;

pub(crate) struct Rules;

impl Validate<Database> for Rules {
    async fn validate(&self, review: &Review<Database>) -> Result<(), Denied> {
        let (Some(old), Some(db)) = (&review.old, &review.object) else { return Ok(()) };
        engine(&old.spec.engine.version, &db.spec.engine.version).map_err(Denied::invalid)
    }
}

/// Whether an engine of one version may become one of another.
fn engine(old: &str, new: &str) -> Result<(), String> {
    let parts = |version: &str| -> Option<(u32, u32)> {
        let (major, minor) = version.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let (Some(from), Some(to)) = (parts(old), parts(new)) else {
        return Err(format!("the engine {new} is no version"));
    };
    if to < from {
        return Err(format!("the engine goes from {old} to {new}, and its data only goes forward"));
    }
    if to.0 > from.0 + 1 {
        return Err(format!("the engine goes from {old} to {new}: one major version at a time"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_go_forward_step_by_step() {
        let table = [
            ("16.4", "16.4", true),
            ("16.4", "16.10", true),
            ("16.4", "17.0", true),
            ("16.4", "18.0", false),
            ("16.4", "16.3", false),
            ("16.4", "15.9", false),
            ("16.4", "x", false),
        ];
        for (old, new, allowed) in table {
            assert_eq!(engine(old, new).is_ok(), allowed, "{old} {new}");
        }
    }
}
