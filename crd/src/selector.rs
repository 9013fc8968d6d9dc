//! Label and field selectors: parsing, matching and their canonical text.
//!
//! The grammar and the messages follow upstream's `labels.Parse` and `fields.ParseSelector`. A selector never reads
//! an object: it asks a lookup for the value of a key.

mod field_selector;
mod label;

pub use field_selector::{FieldRequirement, FieldSelector};
pub use label::validate as validate_label_selector;
pub use label::{LabelSelector, Operator, Requirement};

/// Why a text or an object is no selector. The text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
