//! What a Kubernetes API type is: pure functions on JSON objects.
//!
//! Schemas of built-in and custom kinds in one model, and what follows from a schema: decoding checks, pruning,
//! defaulting, validation, JSON, merge and strategic merge patches, server-side apply, OpenAPI. Beside them the small
//! values that every kind uses: quantities, names, selectors, field errors.
//!
//! Nothing here does I/O, reads a clock or is asynchronous: everything is a function of its arguments. The behaviour
//! followed is Kubernetes v1.36.

pub mod apply;
pub mod decode;
pub mod field;
pub mod int_or_string;
pub mod name;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod structural;
