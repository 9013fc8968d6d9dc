//! Namespaces: their names are labels, they know their own name, and they end only when the finalizer is gone.

use serde_json::{Value, json};
use windlass_crd::name;

use super::{Column, Part, Strategy};
use crate::{object, table};

/// Namespace.
pub(crate) struct Namespace;

fn label(obj: &mut Value) {
    let name = object::name(obj).to_owned();
    if !name.is_empty() {
        object::set(obj, &["metadata", "labels", "kubernetes.io/metadata.name"], name);
    }
}

impl Strategy for Namespace {
    fn default(&self, obj: &mut Value) {
        // Who lets the server make a name does not own the label of it.
        let is_new = object::text(obj, &["metadata", "resourceVersion"]).is_empty();
        if !is_new || object::text(obj, &["metadata", "generateName"]).is_empty() {
            label(obj);
        }
        if object::text(obj, &["status", "phase"]).is_empty() {
            object::set(obj, &["status", "phase"], "Active");
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        label(obj);
        let mut finalizers = object::list(obj, &["spec", "finalizers"]).to_vec();
        if !finalizers.iter().any(|f| f == "kubernetes") {
            finalizers.push("kubernetes".into());
        }
        object::set(obj, &["spec", "finalizers"], finalizers);
        object::set(obj, &["status"], json!({ "phase": "Active" }));
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value) {
        if part == Part::Server {
            return;
        }
        match old.pointer("/spec/finalizers") {
            Some(finalizers) => object::set(obj, &["spec", "finalizers"], finalizers.clone()),
            None => {
                object::remove(obj, &["spec", "finalizers"]);
            }
        }
    }

    fn begin_deletion(&self, obj: &mut Value) {
        object::remove(obj, &["metadata", "deletionGracePeriodSeconds"]);
        object::set(obj, &["status", "phase"], "Terminating");
    }

    fn check_name(&self, name: &str) -> Result<(), String> {
        name::dns1123_label(name)
    }

    fn columns(&self) -> Option<Vec<Column>> {
        Some(vec![Column::new("Status", |o| object::text(o, &["status", "phase"]).into()), table::age()])
    }

    fn fields(&self) -> &'static [(&'static str, fn(&Value) -> String)] {
        &[("status.phase", |o| object::text(o, &["status", "phase"]).to_owned())]
    }
}
