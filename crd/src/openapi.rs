//! OpenAPI documents of what an API server serves: v3 a document for each group and version, v2 one for all.
//!
//! Definitions carry the extensions that clients rely on: kinds, list types and map keys, merge keys. Paths carry the
//! parameters that kubectl looks for (`dryRun`, `fieldValidation`). Descriptions of built-in kinds stand in the
//! documents when the feature `descriptions` is on.

mod custom;
mod definitions;
#[cfg(feature = "descriptions")]
mod descriptions;
pub mod gnostic;
mod paths;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::schema::Schema;
use definitions::Definitions;

/// One kind that is served.
#[derive(Clone, Debug)]
pub struct Row {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind.
    pub kind: String,
    /// The kind of its lists.
    pub list_kind: String,
    /// Its name in URLs.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done: `get`, `list`, `create`, `update`, `patch`, `delete`, `deletecollection`, `watch`.
    pub verbs: Vec<String>,
    /// Its subresources.
    pub subresources: Vec<SubRow>,
    /// Its schema.
    pub schema: Arc<Schema>,
    /// The `openAPIV3Schema` of the `CustomResourceDefinition` that it comes from.
    pub custom: Option<Arc<Value>>,
}

/// A subresource that is served.
#[derive(Clone, Debug)]
pub struct SubRow {
    /// Its name: `status`, `scale`.
    pub name: String,
    /// The kind that it speaks.
    pub kind: String,
    /// The group and version of that kind, when they are not the resource's own.
    pub group_version: Option<(String, String)>,
    /// What can be done.
    pub verbs: Vec<String>,
}

/// Which of the two forms a document has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// A reference to a definition.
    fn reference(self, name: &str) -> Value {
        let prefix = if self == Self::V2 { "#/definitions/" } else { "#/components/schemas/" };
        json!({ "$ref": format!("{prefix}{name}") })
    }
}

/// The v3 document of the given kinds, all of one group and version.
#[must_use]
pub fn v3(rows: &[Row], server_version: &str) -> Value {
    let definitions = Definitions::collect(rows, Dialect::V3);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": server_version},
        "paths": paths::all(rows, Dialect::V3),
        "components": {
            "schemas": definitions.into_json(),
            "securitySchemes": {"BearerToken": bearer_token()},
        },
    })
}

/// The v2 document of all kinds.
#[must_use]
pub fn v2(rows: &[Row], server_version: &str) -> Value {
    let definitions = Definitions::collect(rows, Dialect::V2);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": server_version},
        "paths": paths::all(rows, Dialect::V2),
        "definitions": definitions.into_json(),
        "securityDefinitions": {"BearerToken": bearer_token()},
        "security": [{"BearerToken": []}],
    })
}

fn bearer_token() -> Value {
    json!({
        "type": "apiKey", "name": "authorization", "in": "header",
        "description": "Bearer Token authentication",
    })
}

#[cfg(test)]
mod tests;
