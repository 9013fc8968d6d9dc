//! What the expressions of a validating policy get wrong about the kinds that it names: told in the policy's status,
//! since a policy may be about kinds that come and go.
//!
//! Upstream's controller does this a moment later; here it is part of the write. Source:
//! `k8s.io/apiserver/pkg/admission/plugin/policy/validating/typechecking.go`.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use windlass_crd::cel::{Env, Fields, Type, of_schema};

use crate::{
    cel::{Wanted, environment, type_of, with_variables},
    context::Context,
    object,
    registry::Resource,
};

/// The most kinds that expressions are checked against.
const KINDS_MAX: usize = 10;

/// Brings the status of a validating policy that is being written up to date.
pub(crate) fn settle_written(cx: &Context, obj: &mut Value) {
    let is_policy = cx.resource.group == "admissionregistration.k8s.io"
        && cx.resource.plural == "validatingadmissionpolicies"
        && cx.info.subresource.is_empty();
    if !is_policy {
        return;
    }
    let warnings = warnings(cx, obj.get("spec").unwrap_or(&Value::Null));
    let checking = if warnings.is_empty() { json!({}) } else { json!({ "expressionWarnings": warnings }) };
    object::set(obj, &["status", "typeChecking"], checking);
    let generation = object::number(obj, &["metadata", "generation"]).unwrap_or(1);
    object::set(obj, &["status", "observedGeneration"], generation);
}

fn warnings(cx: &Context, spec: &Value) -> Vec<Value> {
    let environments: Vec<(String, Env)> =
        kinds(cx, spec).iter().map(|resource| (shown(resource), env(cx, spec, resource))).collect();
    let mut warnings = Vec::new();
    for (i, validation) in object::list(spec, &["validations"]).iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let text = object::text(validation, &[field]);
            let faults = environments.iter().filter(|_| !text.is_empty()).filter_map(|(kind, env)| {
                let why = type_of(text, env, Wanted::Any).err()?;
                Some(format!("{kind}: {why}\n"))
            });
            let faults: Vec<String> = faults.collect();
            if !faults.is_empty() {
                let place = format!("spec.validations[{i}].{field}");
                warnings.push(json!({ "fieldRef": place, "warning": faults.join("\n") }));
            }
        }
    }
    warnings
}

/// `apps/v1, Kind=Deployment`.
fn shown(resource: &Resource) -> String {
    format!("{}/{}, Kind={}", resource.group, resource.version, resource.kind)
}

/// The kinds that the policy names, by group, version and kind; those that it means with a `*` are left out.
fn kinds(cx: &Context, spec: &Value) -> Vec<Arc<Resource>> {
    let table = cx.api.registry.table();
    let mut found: BTreeMap<String, Arc<Resource>> = BTreeMap::new();
    for rule in object::list(spec, &["matchConstraints", "resourceRules"]) {
        let named = |field: &str| {
            let all = object::list(rule, &[field]).iter().filter_map(Value::as_str).map(str::to_owned);
            let all: Vec<String> = all.filter(|text| !text.contains(['*', '/'])).collect();
            all
        };
        for group in named("apiGroups") {
            for version in named("apiVersions") {
                for plural in named("resources") {
                    if let Some(resource) = table.get(&group, &version, &plural) {
                        found.insert(shown(resource), Arc::clone(resource));
                    }
                }
            }
        }
    }
    found.into_values().take(KINDS_MAX).collect()
}

fn type_of_kind(resource: &Resource) -> Type {
    let ty = of_schema(&resource.schema(), &resource.kind, true);
    match ty {
        // A custom schema does not say what every object has.
        Type::Object(fields) if resource.custom.is_some() => {
            let mut fields = (*fields).clone();
            fields.fields.insert("metadata".to_owned(), (Type::Dyn, true));
            Type::Object(Arc::new(fields))
        }
        other => other,
    }
}

fn env(cx: &Context, spec: &Value, resource: &Resource) -> Env {
    let params = object::at(spec, &["paramKind"]).map(|kind| {
        let api_version = object::text(kind, &["apiVersion"]);
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let table = cx.api.registry.table();
        let found = table.of_version(group, version).find(|r| r.kind == object::text(kind, &["kind"]));
        found.map_or(Type::Dyn, |resource| type_of_kind(resource))
    });
    let env = environment(type_of_kind(resource), params, true);
    let mut known = Fields { name: "kubernetes.variables".to_owned(), ..Fields::default() };
    let mut composed = with_variables(&env, &known);
    for variable in object::list(spec, &["variables"]) {
        let ty =
            type_of(object::text(variable, &["expression"]), &composed, Wanted::Any).unwrap_or(Type::Dyn);
        known.fields.insert(object::text(variable, &["name"]).to_owned(), (ty, true));
        composed = with_variables(&env, &known);
    }
    composed
}
