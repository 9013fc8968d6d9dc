//! What a wrong declaration is told, and where the finger points.

use expect_test::{Expect, expect};

/// The error of an expansion, with the line and column where it stands and the text there.
fn refused(source: &str, expected: &Expect) {
    let input: syn::DeriveInput = syn::parse_str(source).unwrap();
    let expanded = if source.contains("#[kube") || source.contains("hub") {
        crate::resource::expand(input)
    } else if source.contains("enum") {
        crate::condition::expand(&input)
    } else {
        crate::schema::expand(&input)
    };
    let error = expanded.unwrap_err();
    let (start, end) = (error.span().start(), error.span().end());
    let line = source.lines().nth(start.line - 1).unwrap();
    let until = if end.line == start.line { end.column } else { line.len() };
    expected.assert_eq(&format!("{}: {error}", &line[start.column..until]));
}

const KUBE: &str = r#"group = "harbour.dev", version = "v1", kind = "Sail""#;

fn with_kube(more: &str) -> String {
    format!("#[kube({KUBE}, {more})]\nstruct SailSpec {{ area: u32 }}")
}

#[test]
fn a_kind_needs_its_names() {
    refused(
        r#"#[kube(group = "harbour.dev", kind = "Sail")] struct SailSpec {}"#,
        &expect![[
            r##"#[kube(group = "harbour.dev", kind = "Sail")]: version is missing: #[kube(group = "harbour.dev", version = "v1", kind = "Sail", namespaced)]"##
        ]],
    );
    refused(
        r#"#[kube(group = "harbour", version = "v1", kind = "Sail")] struct SailSpec {}"#,
        &expect![[r#""harbour": a group is a domain of yours, such as "harbour.dev""#]],
    );
    refused(
        r#"#[kube(group = "harbour.dev", version = "1.0", kind = "Sail")] struct SailSpec {}"#,
        &expect![[r#""1.0": a version is one such as "v1", "v1beta1" or "v1alpha1""#]],
    );
    refused(
        r#"#[kube(group = "harbour.dev", version = "v1", kind = "sail")] struct SailSpec {}"#,
        &expect![[r#""sail": a kind is a word such as "Guestbook""#]],
    );
    refused(
        r#"#[kube(group = "harbour.dev", version = "v1", kind = "Sail")] struct Sail {}"#,
        &expect![
            "Sail: a struct with the name of its kind is the object itself and has a field `metadata: ObjectMeta`; a spec is called GuestbookSpec, say"
        ],
    );
    refused(
        r#"#[kube(group = "harbour.dev", version = "v1", kind = "Sail", status = "SailStatus")] struct Sail { metadata: ObjectMeta }"#,
        &expect![[
            r#""SailStatus": the object itself has its status: give it a field `status: Option<...>` of this type"#
        ]],
    );
    refused(
        r#"#[kube(group = "harbour.dev", version = "v1", kind = "Sail")] enum SailSpec { A }"#,
        &expect!["SailSpec: a custom resource's spec is a struct"],
    );
}

#[test]
fn columns_in_one_list_are_looked_at_as_those_by_themselves() {
    let with = |columns: &str| with_kube(&format!("printcolumns({columns})"));
    refused(
        &with(r#"("Area", "text", ".spec.area")"#),
        &expect![[r#""text": not a column's type: integer, number, string, boolean, date"#]],
    );
    refused(
        &with(r#"("A", "string", ".a"), ("B", "string", "b")"#),
        &expect![[r#""b": a path begins with a dot: ".spec.color""#]],
    );
    refused(
        &with(r#"("A", "string", ".a", width = 3)"#),
        &expect!["width: not known here: priority, description, format"],
    );
}

#[test]
fn what_is_not_known_is_named() {
    refused(
        &with_kube("shortnames = \"s\""),
        &expect![
            "shortnames: not known here: group, version, kind, plural, singular, namespaced, status, root, doc, shortname, category, printcolumn, printcolumns, scale, selectable, derive, label, annotation, validation, storage, served, deprecated"
        ],
    );
    refused(
        &with_kube(r#"printcolumn(name = "Area", type_ = "int", json_path = ".spec.area")"#),
        &expect![[r#""int": not a column's type: integer, number, string, boolean, date"#]],
    );
    refused(
        &with_kube(r#"printcolumn(name = "Area", json_path = ".spec.area")"#),
        &expect![[r#"printcolumn(name = "Area", json_path = ".spec.area"): type_ is missing"#]],
    );
    refused(
        &with_kube(r#"selectable = "spec.area""#),
        &expect![[r#""spec.area": a path begins with a dot: ".spec.color""#]],
    );
    refused(
        "struct Part {\n    #[windlass(lists = \"map\")]\n    parts: Vec<String>,\n}",
        &expect!["lists: not known here: validation, list, key, map"],
    );
}

#[test]
fn rules_and_lists_are_checked() {
    refused(
        "struct Part {\n    #[windlass(validation = \" \")]\n    a: u32,\n}",
        &expect![[r#"" ": a rule is an expression of CEL, such as "self.min <= self.max""#]],
    );
    refused(
        "struct Part {\n    #[windlass(validation(\"self > 0\", reason = \"Wrong\"))]\n    a: u32,\n}",
        &expect![[
            r#""Wrong": not a reason: FieldValueInvalid, FieldValueForbidden, FieldValueRequired, FieldValueDuplicate"#
        ]],
    );
    refused(
        "struct Part {\n    #[windlass(list = \"map\")]\n    a: Vec<u32>,\n}",
        &expect![[r##""map": a list of type map needs a key: #[windlass(list = "map", key = "name")]"##]],
    );
    refused(
        "struct Part {\n    #[windlass(list = \"set\", key = \"name\")]\n    a: Vec<u32>,\n}",
        &expect![[r#""name": only a list of type map has keys"#]],
    );
    refused("struct Part<T> { a: T }", &expect!["<T>: a schema has no parameters: a CRD holds one type"]);
}

#[test]
fn versions_differ_from_something_at_some_place() {
    let versions = |marks: &str| {
        format!("{}\n#[windlass({marks})] struct SailSpec {{}}", format_args!("#[kube({KUBE})]"))
    };
    refused(
        &versions(r#"moved("/spec/a" => "/spec/b")"#),
        &expect![[r##"moved: different from what? #[windlass(hub = "v1::Guestbook", ...)] says it"##]],
    );
    refused(
        &versions(r#"hub = "v1::Sail", added("spec.b")"#),
        &expect![[
            r#""spec.b": a place is a JSON pointer to what a kind has beside its metadata: "/spec/message""#
        ]],
    );
}

#[test]
fn what_is_applied_is_made_of_plain_fields() {
    let spec = "struct SailSpec { #[serde(with = \"metres\")] area: u32 }";
    refused(
        &format!("#[kube({KUBE})] #[windlass(apply)] {spec}"),
        &expect!["with: what is applied cannot be made of this: leave out `apply`"],
    );
}

#[test]
fn conditions_are_words() {
    refused(
        "enum Conditions { Ready, Broken(u32) }",
        &expect!["Broken(u32): a condition's type is a word: a variant without fields"],
    );
}
