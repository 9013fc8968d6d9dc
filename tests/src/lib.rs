//! What the tests of the whole system share.

pub mod differences;
pub mod properties;
