//! Objects held to their own schema in this process, as the API server will.

use std::{
    any::TypeId,
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use kube_cel::{CompiledSchema, RootContext, Validator, compile_schema};
use parking_lot::Mutex;
use serde_json::Value;
use windlass_crd::{field, schema, structural};

use super::{CustomResource, definition};

/// What is wrong with an object, field by field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    errors: Vec<String>,
}

impl Invalid {
    /// One sentence for each field that is wrong, which it begins with.
    #[must_use]
    pub fn errors(&self) -> &[String] {
        &self.errors
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.as_slice() {
            [one] => f.write_str(one),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

/// The schema of one kind, ready to be held against objects.
pub(super) struct Checker {
    pub(super) model: Arc<schema::Schema>,
    rules: CompiledSchema,
}

impl Checker {
    /// The checker of a kind; made once in a process.
    pub(super) fn of<K: CustomResource>() -> Arc<Self> {
        static ALL: OnceLock<Mutex<BTreeMap<TypeId, Arc<Checker>>>> = OnceLock::new();
        let all = ALL.get_or_init(Mutex::default);
        let made = || Arc::new(Self::new(&definition::schema::<K>(), K::DECLARED.kind));
        Arc::clone(all.lock().entry(TypeId::of::<K>()).or_insert_with(made))
    }

    fn new(schema: &Value, kind: &str) -> Self {
        let model =
            schema::from_crd(schema).unwrap_or_else(|errors| panic!("the schema of {kind}: {errors:?}"));
        Self { model, rules: compile_schema(schema) }
    }
}

/// Holds an object to its schema and rules.
pub(super) fn check<K: CustomResource>(new: &K, old: Option<&K>) -> Result<(), Invalid> {
    let checker = Checker::of::<K>();
    let json = |object: &K| {
        let mut value = serde_json::to_value(object).unwrap_or_default();
        structural::default(&mut value, &checker.model);
        value
    };
    let (new, old) = (json(new), old.map(json));
    let wrong = structural::validate(&new, &checker.model, &field::EMPTY);
    let mut errors: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    // Rules are written for objects of the right shape.
    if errors.is_empty() {
        errors = broken_rules::<K>(&checker.rules, &new, old.as_ref());
    }
    if errors.is_empty() { Ok(()) } else { Err(Invalid { errors }) }
}

fn broken_rules<K: CustomResource>(rules: &CompiledSchema, new: &Value, old: Option<&Value>) -> Vec<String> {
    let declared = K::DECLARED;
    let root = RootContext {
        api_version: declared.api_version.to_owned(),
        api_group: declared.group.to_owned(),
        kind: declared.kind.to_owned(),
    };
    let checked = Validator::new().validate_compiled_with_context(rules, new, old, Some(&root));
    let Err(broken) = checked else { return Vec::new() };
    let sentence = |error: kube_cel::ValidationError| match error.field_path.is_empty() {
        true => error.message,
        false => format!("{}: {}", error.field_path, error.message),
    };
    broken.into_vec().into_iter().map(sentence).collect()
}
