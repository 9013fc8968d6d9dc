//! What a Kubernetes API type is: pure functions on JSON objects.
//!
//! Schemas of built-in and custom kinds in one model, and what follows from a schema: decoding checks, pruning,
//! defaulting, validation, JSON, merge and strategic merge patches, server-side apply, OpenAPI. Beside them the small
//! values that every kind uses: quantities, names, selectors, field errors.
//!
//! Nothing here does I/O, reads a clock or is asynchronous: everything is a function of its arguments. The behaviour
//! followed is Kubernetes v1.36.
//!
//! ```
//! use serde_json::json;
//! use windlass_crd::{apply, decode, schema, structural};
//!
//! let schema = schema::builtin("apps/v1", "Deployment").expect("a built-in kind");
//!
//! // Wrong types and unknown fields are told in the words that clients know.
//! let wrong = json!({"spec": {"replicas": "3", "replcas": 3}});
//! let checked = decode::check(&wrong, &schema);
//! assert_eq!(checked.unknown, ["spec.replcas"]);
//! assert!(checked.type_error.is_some_and(|text| text.contains("DeploymentSpec.spec.replicas of type int32")));
//!
//! // Two appliers share one object; whoever wants another's field is told.
//! let manager = |name| apply::Manager { name, api_version: "apps/v1", subresource: "", time: "2026-01-01T00:00:00Z" };
//! let config = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3}});
//! let mut object = apply::apply(None, &config, &schema, &manager("team-a"), false, &[])?;
//! structural::default(&mut object, &schema);
//! assert_eq!(object["spec"]["revisionHistoryLimit"], 10);
//!
//! let other = json!({"metadata": {"name": "web"}, "spec": {"replicas": 5}});
//! let refused = apply::apply(Some(&object), &other, &schema, &manager("team-b"), false, &[]).unwrap_err();
//! assert_eq!(refused.to_string(), "Apply failed with 1 conflict: conflict with \"team-a\": .spec.replicas");
//! # Ok::<(), apply::ApplyError>(())
//! ```

pub mod address;
pub mod apply;
pub mod cel;
pub mod conversion;
pub mod decode;
pub mod field;
pub mod int_or_string;
pub mod name;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod sample;
pub mod schedule;
pub mod schema;
pub mod selector;
pub mod structural;
pub mod typed;
