//! What the tests of the whole system share.

#[cfg(doctest)]
mod book;
pub mod differences;
pub mod properties;
