//! CustomResourceDefinitions: default names, and the checks of a definition itself.
//!
//! Source: `k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation`.

mod conversion;
mod selectable;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name, schema,
};

use super::{Column, Part, Strategy, apps::immutable};
use crate::{cel, crds::ending, object};

/// CustomResourceDefinition.
pub(crate) struct CustomResourceDefinition;

impl Strategy for CustomResourceDefinition {
    fn default(&self, obj: &mut Value) {
        let kind = object::text(obj, &["spec", "names", "kind"]).to_owned();
        if kind.is_empty() {
            return;
        }
        let names = ["spec", "names"];
        for (field, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
            let path = [names[0], names[1], field];
            if object::text(obj, &path).is_empty() {
                object::set(obj, &path, value);
            }
        }
        if object::text(obj, &["spec", "conversion", "strategy"]).is_empty() {
            object::set(obj, &["spec", "conversion", "strategy"], "None");
        }
        let service = ["spec", "conversion", "webhook", "clientConfig", "service"];
        if object::at(obj, &service).is_some_and(|service| object::at(service, &["port"]).is_none()) {
            object::set(obj, &[service[0], service[1], service[2], service[3], service[4], "port"], 443);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        let stored: Vec<Value> = object::list(obj, &["spec", "versions"])
            .iter()
            .filter(|version| version.get("storage") == Some(&Value::Bool(true)))
            .map(|version| version["name"].clone())
            .collect();
        object::set(obj, &["status", "storedVersions"], stored);
        for (field, value) in
            [("conditions", json!([])), ("acceptedNames", json!({"plural": "", "kind": ""}))]
        {
            if object::at(obj, &["status", field]).is_none() {
                object::set(obj, &["status", field], value);
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = placed(obj, check(obj, None));
        let stores = |version: &Value| version.get("storage") == Some(&Value::Bool(true));
        if !object::list(obj, &["spec", "versions"]).iter().any(stores) {
            let path = field::root("status").child("storedVersions");
            errors.push(Error::invalid(path, Value::Null, "must have at least one stored version"));
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        if part != Part::Main {
            return ErrorList::new();
        }
        let mut errors = placed(obj, check(obj, Some(old)));
        conversion::stored_versions(obj, &mut errors);
        let established = object::list(old, &["status", "conditions"])
            .iter()
            .any(|c| object::text(c, &["type"]) == "Established" && object::text(c, &["status"]) == "True");
        immutable(obj, old, &["spec", "group"], &mut errors);
        immutable(obj, old, &["spec", "names", "plural"], &mut errors);
        if established {
            immutable(obj, old, &["spec", "scope"], &mut errors);
            immutable(obj, old, &["spec", "names", "kind"], &mut errors);
        }
        errors
    }

    fn begin_deletion(&self, obj: &mut Value) {
        ending::begin(obj);
    }

    fn columns(&self) -> Option<Vec<Column>> {
        None
    }
}

/// Upstream looks at a definition in a form that has what all versions share at the top, and names it there: so it does
/// for a definition of one version.
fn placed(obj: &Value, mut errors: ErrorList) -> ErrorList {
    const SHARED: [(&str, &str); 4] = [
        ("spec.versions[0].schema.", "spec.validation."),
        ("spec.versions[0].subresources", "spec.subresources"),
        ("spec.versions[0].additionalPrinterColumns", "spec.additionalPrinterColumns"),
        ("spec.versions[0].selectableFields", "spec.selectableFields"),
    ];
    if object::list(obj, &["spec", "versions"]).len() != 1 {
        return errors;
    }
    // A schema that is missing is missed in the version.
    let shared = errors.iter_mut().filter(|error| error.path != "spec.versions[0].schema.openAPIV3Schema");
    for error in shared {
        if let Some((version, shared)) = SHARED.iter().find(|(version, _)| error.path.starts_with(version)) {
            error.path.replace_range(..version.len(), shared);
        }
    }
    errors
}

/// What is wrong with a definition, given what stood in its place.
fn check(obj: &Value, old: Option<&Value>) -> ErrorList {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    own_name(obj, spec, &mut errors);
    names(spec, &path, &mut errors);
    versions(spec, &path.child("versions"), &mut errors);
    let before = old.and_then(|old| object::at(old, &["spec", "conversion"]));
    conversion::validate(spec, before, &path.child("conversion"), &mut errors);
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
        let detail = "must be false in order to use defaults in the schema";
        errors.push(Error::invalid(path.child("preserveUnknownFields"), true, detail));
    }
    approval(obj, old, &mut errors);
    errors
}

fn own_name(obj: &Value, spec: &Value, errors: &mut ErrorList) {
    let expected = format!("{}.{}", object::text(spec, &["names", "plural"]), object::text(spec, &["group"]));
    let given = object::name(obj);
    if !given.is_empty() && given != expected {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(Error::invalid(field::root("metadata").child("name"), given, detail));
    }
}

/// Groups of Kubernetes itself are for what its community approved. Source: `apihelpers.GetAPIApprovalState`.
fn approval(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    const KEY: &str = "api-approved.kubernetes.io";
    const WHERE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    #[derive(PartialEq)]
    enum State {
        Missing,
        Bypassed,
        Approved,
        Invalid,
    }
    let group = object::text(obj, &["spec", "group"]);
    let ours = |domain: &str| group == domain || group.ends_with(&format!(".{domain}"));
    if !ours("k8s.io") && !ours("kubernetes.io") {
        return;
    }
    let given = object::text(obj, &["metadata", "annotations", KEY]);
    let state = |obj: &Value| match object::text(obj, &["metadata", "annotations", KEY]) {
        "" => State::Missing,
        text if text.starts_with("unapproved") => State::Bypassed,
        text => match text.parse::<http::Uri>() {
            Ok(uri) if uri.scheme().is_some() && uri.host().is_some_and(|host| !host.is_empty()) => {
                State::Approved
            }
            _ => State::Invalid,
        },
    };
    let now = state(obj);
    if old.is_some_and(|old| state(old) == now) {
        return;
    }
    let path = field::root("metadata").child("annotations").key(KEY);
    match now {
        State::Approved | State::Bypassed => {}
        State::Missing => {
            let why = format!("protected groups must have approval annotation \"{KEY}\", {WHERE}");
            errors.push(Error::required(path, why));
        }
        State::Invalid => {
            let why = format!(
                "protected groups must have approval annotation \"{KEY}\" with either a URL or a reason starting with \
                 \"unapproved\", {WHERE}"
            );
            errors.push(Error::invalid(path, given, why));
        }
    }
}

fn names(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let group = object::text(spec, &["group"]);
    if group.is_empty() {
        errors.push(Error::required(path.child("group"), ""));
    } else if let Err(why) = name::dns1123_subdomain(group) {
        errors.push(Error::invalid(path.child("group"), group, why));
    } else if !group.contains('.') {
        errors.push(Error::invalid(path.child("group"), group, "should be a domain with at least one dot"));
    }
    let scope = object::text(spec, &["scope"]);
    match scope {
        "" => errors.push(Error::required(path.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(Error::not_supported(path.child("scope"), other, &["Cluster", "Namespaced"])),
    }
    let at = path.child("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        let given = object::text(spec, &["names", field]);
        if given.is_empty() {
            errors.push(Error::required(at.child(field), ""));
        } else {
            let lower = given.to_lowercase();
            let checked = if field.ends_with("ind") { lower.as_str() } else { given };
            let faults = name::dns1035_label_faults(checked);
            let detail = |why: String| {
                if field.ends_with("ind") {
                    format!("may have mixed case, but should otherwise match: {why}")
                } else {
                    why
                }
            };
            errors.extend(faults.into_iter().map(|why| Error::invalid(at.child(field), given, detail(why))));
        }
    }
    for (i, short) in object::list(spec, &["names", "shortNames"]).iter().enumerate() {
        let text = short.as_str().unwrap_or_default();
        let faults = name::dns1035_label_faults(text);
        errors
            .extend(faults.into_iter().map(|why| Error::invalid(at.child("shortNames").index(i), text, why)));
    }
    let kind = object::text(spec, &["names", "kind"]);
    if !kind.is_empty() && kind == object::text(spec, &["names", "listKind"]) {
        errors.push(Error::invalid(at.child("listKind"), kind, "kind and listKind may not be the same"));
    }
}

fn versions(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let all = object::list(spec, &["versions"]);
    let storing = all.iter().filter(|version| version.get("storage") == Some(&Value::Bool(true))).count();
    let mut seen = BTreeSet::new();
    for (i, version) in all.iter().enumerate() {
        let at = path.index(i);
        let given = object::text(version, &["name"]);
        if !seen.insert(given) {
            let detail = "must contain unique version names";
            errors.push(Error::invalid(path, Value::from(all.to_vec()), detail));
        }
        let faults = name::dns1035_label_faults(given);
        errors.extend(faults.into_iter().map(|why| Error::invalid(at.child("name"), given, why)));
        let at_schema = at.child("schema").child("openAPIV3Schema");
        match object::at(version, &["schema", "openAPIV3Schema"]) {
            None => {
                errors.push(Error::required(at_schema, ""));
                if !object::list(version, &["selectableFields"]).is_empty() {
                    let detail = "may only be set when validations.schema is included";
                    errors.push(Error::invalid(at.child("selectableFields"), "", detail));
                }
            }
            Some(value) => {
                if let Err(more) = schema::from_crd_at(value, &at_schema) {
                    errors.extend(more);
                }
                metadata(value, &at_schema, errors);
                cel::check_rules(value, &at_schema, errors);
            }
        }
        printer_columns(version, &at, errors);
        subresources(version, &at.child("subresources"), errors);
        if let Some(schema) = object::at(version, &["schema", "openAPIV3Schema"]) {
            selectable::validate(version, schema, &at.child("selectableFields"), errors);
        }
    }
    if storing != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(Error::invalid(path, Value::from(all.to_vec()), detail).showing(shown(all)));
    }
}

/// Of the metadata a schema may restrict the name, and nothing else.
fn metadata(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(own) = object::at(schema, &["properties", "metadata"]).and_then(Value::as_object) else {
        return;
    };
    let allowed = |name: &String, value: &Value| match name.as_str() {
        "type" | "description" => true,
        "properties" => value.as_object().is_some_and(|fields| {
            fields.keys().all(|field| matches!(field.as_str(), "name" | "generateName"))
        }),
        _ => false,
    };
    if !own.iter().all(|(name, value)| allowed(name, value)) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(Error::forbidden(path.child("properties").key("metadata"), detail));
    }
}

/// Versions in upstream's internal form. What one version says of its objects stands at the top of that form.
fn shown(versions: &[Value]) -> String {
    let flag = |version: &Value, name: &str| version.get(name) == Some(&Value::Bool(true));
    let member = |version: &Value, name: &str| match versions {
        [_] => Value::Null,
        _ => version.get(name).cloned().unwrap_or_default(),
    };
    let all: Vec<String> = versions
        .iter()
        .map(|version| {
            format!(
                "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\"Schema\":{},\
                 \"Subresources\":{},\"AdditionalPrinterColumns\":{},\"SelectableFields\":{}}}",
                field::json(&object::text(version, &["name"]).into()),
                flag(version, "served"),
                flag(version, "storage"),
                flag(version, "deprecated"),
                field::json(&version.get("deprecationWarning").cloned().unwrap_or_default()),
                field::json(&member(version, "schema")),
                field::json(&member(version, "subresources")),
                field::json(&member(version, "additionalPrinterColumns")),
                field::json(&member(version, "selectableFields")),
            )
        })
        .collect();
    format!("[{}]", all.join(","))
}

fn printer_columns(version: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, column) in object::list(version, &["additionalPrinterColumns"]).iter().enumerate() {
        let at = path.child("additionalPrinterColumns").index(i);
        if object::text(column, &["name"]).is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        }
        let kinds = ["boolean", "date", "integer", "number", "string"];
        let kind = object::text(column, &["type"]);
        if kind.is_empty() {
            errors
                .push(Error::required(at.child("type"), "must be one of boolean,date,integer,number,string"));
        } else if !kinds.contains(&kind) {
            errors.push(Error::invalid(
                at.child("type"),
                kind,
                "must be one of boolean,date,integer,number,string",
            ));
        }
        let formats = ["int32", "int64", "float", "double", "byte", "date", "date-time", "password"];
        let format = object::text(column, &["format"]);
        if !format.is_empty() && !formats.contains(&format) {
            let detail = "must be one of byte,date,date-time,double,float,int32,int64,password";
            errors.push(Error::invalid(at.child("format"), format, detail));
        }
        let (shown, given) = (at.child("JSONPath"), object::text(column, &["jsonPath"]));
        if given.is_empty() {
            errors.push(Error::required(shown, ""));
        } else {
            simple_path(given, &shown, errors);
        }
    }
}

/// False when a path is not even one from the top.
fn simple_path(given: &str, path: &Path, errors: &mut ErrorList) -> bool {
    if !given.starts_with('.') {
        errors.push(Error::invalid(path, given, "must be a simple json path starting with ."));
        return false;
    }
    true
}

fn subresources(version: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(scale) = object::at(version, &["subresources", "scale"]) else { return };
    for (field, prefix, required) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", ".", false),
    ] {
        let at = path.child("scale").child(field);
        let given = object::text(scale, &[field]);
        if given.is_empty() {
            if required {
                errors.push(Error::required(at, ""));
            }
        } else if !simple_path(given, &at, errors) {
        } else if !given.starts_with(prefix) {
            let detail = match field {
                "labelSelectorPath" => "should be a json path under either .spec or .status".to_owned(),
                _ => format!("should be a json path under {}", prefix.trim_end_matches('.')),
            };
            errors.push(Error::invalid(at, given, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn definition() -> Value {
        json!({"metadata": {"name": "crons.x.dev"}, "spec": {"group": "x.dev", "scope": "Namespaced",
            "names": {"plural": "crons", "kind": "Cron"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
    }

    #[test]
    fn names_default_and_a_good_definition_passes() {
        let mut obj = definition();
        CustomResourceDefinition.default(&mut obj);
        CustomResourceDefinition.prepare_create(&mut obj);
        assert_eq!(obj["spec"]["names"]["singular"], "cron");
        assert_eq!(obj["spec"]["names"]["listKind"], "CronList");
        assert_eq!(obj["status"]["storedVersions"], json!(["v1"]));
        assert_eq!(CustomResourceDefinition.validate(&obj), []);
    }

    #[test]
    fn faults_are_upstreams() {
        let mut obj = definition();
        CustomResourceDefinition.default(&mut obj);
        obj["metadata"]["name"] = json!("other.x.dev");
        obj["spec"]["scope"] = json!("Global");
        obj["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"] = json!({"spec": {}});
        obj["spec"]["versions"][0]["storage"] = json!(false);
        obj["spec"]["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".status.x"}});
        let texts: String = CustomResourceDefinition
            .validate(&obj)
            .iter()
            .map(|e| format!("{}: {}\n", e.path, e.detail))
            .collect();
        expect![[r#"
            metadata.name: must be spec.names.plural+"."+spec.group
            spec.scope: supported values: "Cluster", "Namespaced"
            spec.validation.openAPIV3Schema.properties[spec].type: must not be empty for specified object fields
            spec.subresources.scale.specReplicasPath: should be a json path under .spec
            spec.subresources.scale.statusReplicasPath: 
            spec.versions: must have exactly one version marked as storage version
            status.storedVersions: must have at least one stored version
        "#]]
        .assert_eq(&texts);
    }
}
