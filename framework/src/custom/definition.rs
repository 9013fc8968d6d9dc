//! The CustomResourceDefinition of a declared kind.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::schema::{OptionalEnum, OptionalIntOrString, StructuralSchemaRewriter};
use schemars::{
    JsonSchema, Schema,
    generate::SchemaSettings,
    transform::{AddNullable, Transform},
};
use serde_json::{Map, Value, json};

use super::{Column, CustomResource, Declared};

/// What schemars does not know of Kubernetes' schemas.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Extend {
    /// CEL rules.
    Rules(fn() -> Value),
    /// How a list merges, and by which keys.
    List(&'static str, &'static [&'static str]),
    /// How a map merges.
    Map(&'static str),
}

impl Extend {
    /// CEL rules, a JSON list.
    #[must_use]
    pub fn rules(rules: fn() -> Value) -> Self {
        Self::Rules(rules)
    }

    /// How a list merges.
    #[must_use]
    pub fn list(list: &'static str, keys: &'static [&'static str]) -> Self {
        Self::List(list, keys)
    }

    /// How a map merges.
    #[must_use]
    pub fn map(map: &'static str) -> Self {
        Self::Map(map)
    }
}

impl Transform for Extend {
    fn transform(&mut self, schema: &mut Schema) {
        match self {
            Self::Rules(rules) => {
                let all =
                    schema.ensure_object().entry("x-kubernetes-validations").or_insert_with(|| json!([]));
                if let (Value::Array(all), Value::Array(more)) = (all, rules()) {
                    all.extend(more);
                }
            }
            Self::List(list, keys) => {
                schema.insert("x-kubernetes-list-type".to_owned(), json!(list));
                if !keys.is_empty() {
                    schema.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
                }
            }
            Self::Map(map) => {
                schema.insert("x-kubernetes-map-type".to_owned(), json!(map));
            }
        }
    }
}

/// The schema of a type as a CRD has it: structural, without references.
pub(super) fn schema<K: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let generator = settings
        .with_transform(AddNullable::default())
        .with_transform(StructuralSchemaRewriter)
        .with_transform(OptionalEnum)
        .with_transform(OptionalIntOrString)
        .into_generator();
    generator.into_root_schema_for::<K>().to_value()
}

/// The definition of a kind, with this one version.
///
/// # Panics
/// When the schema of a type is none that a definition can hold, which `schemars` attributes alone can bring about.
#[must_use]
pub fn definition<K: CustomResource>() -> CustomResourceDefinition {
    let declared = K::DECLARED;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": pruned(json!({
            "name": format!("{}.{}", declared.plural, declared.group),
            "labels": pairs(declared.labels),
            "annotations": pairs(declared.annotations),
        })),
        "spec": {
            "group": declared.group,
            "names": pruned(json!({
                "kind": declared.kind,
                "plural": declared.plural,
                "singular": declared.singular,
                "shortNames": declared.short_names,
                "categories": declared.categories,
            })),
            "scope": if declared.namespaced { "Namespaced" } else { "Cluster" },
            "versions": [version(&declared, schema::<K>())],
        },
    });
    serde_json::from_value(definition).unwrap_or_else(|error| panic!("{}: {error}", declared.kind))
}

fn version(declared: &Declared, schema: Value) -> Value {
    let mut version = pruned(json!({
        "name": declared.version,
        "additionalPrinterColumns": declared.columns.iter().map(column).collect::<Vec<_>>(),
        "selectableFields": declared.selectable.iter().map(|at| json!({ "jsonPath": at })).collect::<Vec<_>>(),
        "deprecationWarning": declared.deprecated.unwrap_or_default(),
    }));
    version["schema"] = json!({ "openAPIV3Schema": schema });
    version["served"] = declared.served.into();
    version["storage"] = declared.storage.into();
    if declared.deprecated.is_some() {
        version["deprecated"] = true.into();
    }
    let mut subresources = Map::new();
    if declared.status {
        subresources.insert("status".to_owned(), json!({}));
    }
    if let Some(scale) = declared.scale {
        let scale = pruned(json!({
            "specReplicasPath": scale.spec_replicas,
            "statusReplicasPath": scale.status_replicas,
            "labelSelectorPath": scale.label_selector,
        }));
        subresources.insert("scale".to_owned(), scale);
    }
    if !subresources.is_empty() {
        version["subresources"] = Value::Object(subresources);
    }
    version
}

fn column(column: &Column) -> Value {
    let mut shown = pruned(json!({
        "name": column.name, "type": column.type_, "jsonPath": column.json_path,
        "description": column.description, "format": column.format,
    }));
    if column.priority != 0 {
        shown["priority"] = column.priority.into();
    }
    shown
}

fn pairs(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect::<Map<_, _>>().into()
}

/// What is empty was not said.
fn pruned(mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        map.retain(|_, member| match member {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        });
    }
    value
}
