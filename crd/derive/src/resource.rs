//! `#[derive(CustomResource)]`: the root object of a spec, its definition, and how its versions differ.
//!
//! `#[kube(...)]` is read as kube's own derive reads it, so that a type moves over by changing one word.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::{DeriveInput, LitStr, Path, Result, Token, meta::ParseNestedMeta, spanned::Spanned};

use crate::{
    apply,
    attributes::{Fields, carried, flag, pair, path, rule, text},
    schema,
    whole::Whole,
};

/// What `#[kube(...)]` may say.
const KUBE: &str = "group, version, kind, plural, singular, namespaced, status, root, doc, shortname, category, \
    printcolumn, printcolumns, scale, selectable, derive, label, annotation, validation, storage, served, deprecated";

/// What `#[kube(...)]` says.
#[derive(Default)]
struct Kube {
    group: Option<LitStr>,
    version: Option<LitStr>,
    kind: Option<LitStr>,
    plural: Option<LitStr>,
    singular: Option<LitStr>,
    root: Option<LitStr>,
    doc: Option<LitStr>,
    namespaced: bool,
    status: Option<Path>,
    short_names: Vec<LitStr>,
    categories: Vec<LitStr>,
    columns: Vec<TokenStream>,
    scale: Option<TokenStream>,
    selectable: Vec<LitStr>,
    derives: Vec<Path>,
    labels: Vec<TokenStream>,
    annotations: Vec<TokenStream>,
    rules: Vec<TokenStream>,
    storage: Option<bool>,
    served: Option<bool>,
    deprecated: Option<LitStr>,
    /// The struct is the spec, and not the object itself.
    has_spec: bool,
}

/// What `#[windlass(...)]` says of versions, and whether twins are wanted.
#[derive(Default)]
struct Versions {
    hub: Option<Path>,
    steps: Vec<TokenStream>,
    /// Where the first step stands.
    first: Option<Span>,
    /// Whether there are twins to apply.
    apply: bool,
    /// Whether the object has no spec.
    whole: bool,
}

/// Everything that follows from a spec.
pub(crate) fn expand(input: DeriveInput) -> Result<TokenStream> {
    if !matches!(input.data, syn::Data::Struct(_)) {
        return Err(syn::Error::new_spanned(&input.ident, "a custom resource's spec is a struct"));
    }
    let mut kube = Kube::read(&input)?;
    let (group, version, kind) = kube.identity(&input)?;
    check_identity(&group, &version, &kind)?;
    let root = kube.root(&kind);
    let whole = match root == input.ident {
        true => Some(Whole::read(&input, kube.status.as_ref())?),
        false => None,
    };
    kube.has_spec = whole.is_none();
    let mut versions = Versions { whole: whole.is_some(), ..Versions::default() };
    let (schema, object) = match &whole {
        Some(whole) => {
            let schema = schema::of(&whole.body(kube.doc.as_ref()), &kube.rules, |meta| versions.take(meta))?;
            (schema, whole.object(kube.status.as_ref()))
        }
        None => {
            let schema = schema::of(&input, &[], |meta| versions.take(meta))?;
            (schema, object(&input, &kube, &root, &kind))
        }
    };
    versions.check()?;
    let resource = kube.resource(&root, &group, &version, &kind);
    let api_version = format!("{}/{}", group.value(), version.value());
    let conversion = versions.conversion(&root, &api_version);
    let twins = match versions.apply {
        true => {
            let identity = (api_version.as_str(), &*kind.value());
            Some(match &whole {
                Some(whole) => whole.twin(identity, kube.namespaced)?,
                None => apply::twins(&input, &root, identity, kube.namespaced, kube.status.as_ref())?,
            })
        }
        false => None,
    };
    Ok(quote! { #schema #object #resource #conversion #twins })
}

fn check_identity(group: &LitStr, version: &LitStr, kind: &LitStr) -> Result<()> {
    let dns = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    if !group.value().contains('.') || !group.value().chars().all(dns) {
        return Err(syn::Error::new(group.span(), "a group is a domain of yours, such as \"harbour.dev\""));
    }
    let digits =
        version.value().strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if !digits || !version.value().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) {
        return Err(syn::Error::new(
            version.span(),
            "a version is one such as \"v1\", \"v1beta1\" or \"v1alpha1\"",
        ));
    }
    let first = kind.value().starts_with(|c: char| c.is_ascii_uppercase());
    if !first || !kind.value().chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(syn::Error::new(kind.span(), "a kind is a word such as \"Guestbook\""));
    }
    Ok(())
}

/// The root struct.
fn object(input: &DeriveInput, kube: &Kube, root: &Ident, kind: &LitStr) -> TokenStream {
    let (vis, spec) = (&input.vis, &input.ident);
    let doc = kube
        .doc
        .as_ref()
        .map_or_else(|| format!("A {}: its `spec` is a [`{spec}`].", kind.value()), LitStr::value);
    let derives = &kube.derives;
    let status = kube.status.as_ref().map(|status| {
        quote! {
            /// What became of it.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #vis status: Option<#status>,
        }
    });
    let no_status = kube.status.as_ref().map(|_| quote! { status: None, });
    let (status_type, status_value) = match &kube.status {
        Some(status) => (quote! { #status }, quote! { self.status.as_ref() }),
        None => (quote! { () }, quote! { None }),
    };
    let rules = carried(&kube.rules);
    let (labels, annotations) = (&kube.labels, &kube.annotations);
    let has_status = kube.status.as_ref().map(|status| {
        quote! {
            #[automatically_derived]
            impl ::windlass::private::kube::core::object::HasStatus for #root {
                type Status = #status;

                fn status(&self) -> Option<&#status> {
                    self.status.as_ref()
                }

                fn status_mut(&mut self) -> &mut Option<#status> {
                    &mut self.status
                }
            }
        }
    });
    quote! {
        #[doc = #doc]
        #[derive(
            Clone, Debug,
            ::windlass::private::serde::Deserialize,
            ::windlass::private::schemars::JsonSchema,
            #(#derives),*
        )]
        #[serde(crate = "::windlass::private::serde")]
        #[schemars(crate = "::windlass::private::schemars")]
        #rules
        #vis struct #root {
            /// Name, labels and the rest of what every object has.
            #[schemars(skip)]
            #vis metadata: ::windlass::private::ObjectMeta,
            /// What is wanted of it.
            #vis spec: #spec,
            #status
        }

        impl #root {
            /// An object of this name, with this spec.
            #vis fn new(name: &str, spec: #spec) -> Self {
                let metadata = ::windlass::custom::metadata(name, &[#(#labels),*], &[#(#annotations),*]);
                Self { metadata, spec, #no_status }
            }
        }

        #[automatically_derived]
        impl ::windlass::private::serde::Serialize for #root {
            fn serialize<S: ::windlass::private::serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                ::windlass::custom::serialize::<Self, _, #status_type, S>(to, &self.metadata, &self.spec, #status_value)
            }
        }

        #[automatically_derived]
        impl ::windlass::private::kube::core::object::HasSpec for #root {
            type Spec = #spec;

            fn spec(&self) -> &#spec {
                &self.spec
            }

            fn spec_mut(&mut self) -> &mut #spec {
                &mut self.spec
            }
        }

        #has_status
    }
}

impl Kube {
    fn read(input: &DeriveInput) -> Result<Self> {
        let mut kube = Self::default();
        for attr in input.attrs.iter().filter(|attr| attr.path().is_ident("kube")) {
            attr.parse_nested_meta(|meta| kube.take(&meta))?;
        }
        Ok(kube)
    }

    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let Some(name) = meta.path.get_ident() else {
            return Err(meta.error(format!("not known here: {KUBE}")));
        };
        match name.to_string().as_str() {
            "group" => self.group = Some(text(meta)?),
            "version" => self.version = Some(text(meta)?),
            "kind" => self.kind = Some(text(meta)?),
            "plural" => self.plural = Some(text(meta)?),
            "singular" => self.singular = Some(text(meta)?),
            "root" | "struct" => self.root = Some(text(meta)?),
            "doc" => self.doc = Some(text(meta)?),
            "namespaced" => self.namespaced = flag(meta)?,
            "status" => self.status = Some(path(meta)?),
            "shortname" => self.short_names.push(text(meta)?),
            "category" => self.categories.push(text(meta)?),
            "printcolumn" => self.columns.push(column(meta)?),
            "printcolumns" => self.columns.extend(columns(meta)?),
            "scale" => self.scale = Some(scale(meta)?),
            "selectable" => self.selectable.push(json_path(text(meta)?)?),
            "derive" => self.derives.push(path(meta)?),
            "label" => self.labels.push(pair(meta)?),
            "annotation" => self.annotations.push(pair(meta)?),
            "validation" => self.rules.push(rule(meta)?),
            "storage" => self.storage = Some(flag(meta)?),
            "served" => self.served = Some(flag(meta)?),
            "deprecated" => self.deprecated = Some(deprecated(meta)?),
            _ => return Err(meta.error(format!("not known here: {KUBE}"))),
        }
        Ok(())
    }

    /// The name of the struct that is the object.
    fn root(&self, kind: &LitStr) -> Ident {
        let name = self.root.as_ref().unwrap_or(kind);
        Ident::new(&name.value(), name.span())
    }

    fn identity(&self, input: &DeriveInput) -> Result<(LitStr, LitStr, LitStr)> {
        let attr = input.attrs.iter().find(|attr| attr.path().is_ident("kube"));
        let span = attr.map_or_else(|| input.ident.span(), Spanned::span);
        let missing = |name: &str| {
            let usage = "#[kube(group = \"harbour.dev\", version = \"v1\", kind = \"Sail\", namespaced)]";
            syn::Error::new(span, format!("{name} is missing: {usage}"))
        };
        let group = self.group.clone().ok_or_else(|| missing("group"))?;
        let version = self.version.clone().ok_or_else(|| missing("version"))?;
        let kind = self.kind.clone().ok_or_else(|| missing("kind"))?;
        Ok((group, version, kind))
    }

    /// `kube::Resource`, the definition, and the declaration that the definition is made of.
    fn resource(&self, root: &Ident, group: &LitStr, version: &LitStr, kind: &LitStr) -> TokenStream {
        let singular =
            self.singular.as_ref().map_or_else(|| kind.value().to_ascii_lowercase(), LitStr::value);
        let plural = self.plural.as_ref().map_or_else(|| plural_of(&singular), LitStr::value);
        let name = format!("{plural}.{}", group.value());
        let scope = match self.namespaced {
            true => quote! { NamespaceResourceScope },
            false => quote! { ClusterResourceScope },
        };
        let Self { namespaced, short_names, categories, columns, selectable, labels, annotations, .. } = self;
        let (storage, served) = (self.storage.unwrap_or(true), self.served.unwrap_or(true));
        let (has_spec, has_status) = (self.has_spec, self.status.is_some());
        let scale = self.scale.as_ref().map_or_else(|| quote! { None }, |scale| quote! { Some(#scale) });
        let warning = self.deprecated.as_ref().map_or_else(|| quote! { None }, |text| quote! { Some(#text) });
        let api_version = format!("{}/{}", group.value(), version.value());
        quote! {
            #[automatically_derived]
            impl ::windlass::private::kube::Resource for #root {
                type DynamicType = ();
                type Scope = ::windlass::private::kube::core::#scope;

                fn kind(_: &()) -> ::std::borrow::Cow<'_, str> {
                    #kind.into()
                }

                fn group(_: &()) -> ::std::borrow::Cow<'_, str> {
                    #group.into()
                }

                fn version(_: &()) -> ::std::borrow::Cow<'_, str> {
                    #version.into()
                }

                fn api_version(_: &()) -> ::std::borrow::Cow<'_, str> {
                    #api_version.into()
                }

                fn plural(_: &()) -> ::std::borrow::Cow<'_, str> {
                    #plural.into()
                }

                fn meta(&self) -> &::windlass::private::ObjectMeta {
                    &self.metadata
                }

                fn meta_mut(&mut self) -> &mut ::windlass::private::ObjectMeta {
                    &mut self.metadata
                }
            }

            #[automatically_derived]
            impl ::windlass::private::kube::CustomResourceExt for #root {
                fn crd() -> ::windlass::private::CustomResourceDefinition {
                    ::windlass::custom::definition::<Self>()
                }

                fn crd_name() -> &'static str {
                    #name
                }

                fn api_resource() -> ::windlass::private::kube::core::ApiResource {
                    ::windlass::private::kube::core::ApiResource::erase::<Self>(&())
                }

                fn shortnames() -> &'static [&'static str] {
                    &[#(#short_names),*]
                }
            }

            #[automatically_derived]
            impl ::windlass::custom::CustomResource for #root {
                const DECLARED: ::windlass::custom::Declared = ::windlass::custom::Declared {
                    group: #group,
                    version: #version,
                    api_version: #api_version,
                    kind: #kind,
                    plural: #plural,
                    singular: #singular,
                    namespaced: #namespaced,
                    short_names: &[#(#short_names),*],
                    categories: &[#(#categories),*],
                    columns: &[#(#columns),*],
                    scale: #scale,
                    selectable: &[#(#selectable),*],
                    labels: &[#(#labels),*],
                    annotations: &[#(#annotations),*],
                    spec: #has_spec,
                    status: #has_status,
                    storage: #storage,
                    served: #served,
                    deprecated: #warning,
                };
            }
        }
    }
}

impl Versions {
    /// Takes an attribute if it is about versions.
    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<bool> {
        if meta.path.is_ident("apply") {
            self.apply = flag(meta)?;
            return Ok(true);
        }
        if meta.path.is_ident("hub") {
            self.hub = Some(path(meta)?);
            return Ok(true);
        }
        let step = quote! { ::windlass::conversion::Step };
        let found = if meta.path.is_ident("moved") {
            let content;
            syn::parenthesized!(content in meta.input);
            let here = self.here(content.parse()?)?;
            content.parse::<Token![=>]>()?;
            let hub = pointer(content.parse()?)?;
            quote! { #step::Moved { here: #here, hub: #hub } }
        } else if meta.path.is_ident("added") {
            let hub = pointer(alone(meta)?)?;
            quote! { #step::Added { hub: #hub } }
        } else if meta.path.is_ident("removed") {
            let here = self.here(alone(meta)?)?;
            quote! { #step::Removed { here: #here } }
        } else {
            return Ok(false);
        };
        self.first.get_or_insert(meta.path.span());
        self.steps.push(found);
        Ok(true)
    }

    /// A place in this version.
    fn here(&self, at: LitStr) -> Result<LitStr> {
        let value = at.value();
        if self.whole || value.starts_with("/spec/") || value.starts_with("/status/") {
            return pointer(at);
        }
        let why = "a place is a JSON pointer below /spec or /status: \"/spec/message\"";
        Err(syn::Error::new(at.span(), why))
    }

    fn check(&self) -> Result<()> {
        match (self.first, &self.hub) {
            (Some(first), None) => Err(syn::Error::new(
                first,
                "different from what? #[windlass(hub = \"v1::Guestbook\", ...)] says it",
            )),
            _ => Ok(()),
        }
    }

    /// How it becomes the hub, and the test that nothing gets lost on the way.
    fn conversion(&self, root: &Ident, api_version: &str) -> Option<TokenStream> {
        let (hub, steps) = (self.hub.as_ref()?, &self.steps);
        let version = api_version.rsplit('/').next().unwrap_or_default();
        let test = format_ident!("{}_{version}_loses_nothing", root.to_string().to_ascii_lowercase());
        Some(quote! {
            #[automatically_derived]
            impl ::windlass::custom::Version for #root {
                type Hub = #hub;

                const SPOKE: ::windlass::conversion::Spoke = ::windlass::conversion::Spoke {
                    api_version: #api_version,
                    hub: <#hub as ::windlass::custom::CustomResource>::DECLARED.api_version,
                    steps: &[#(#steps),*],
                    has_spec: <#root as ::windlass::custom::CustomResource>::DECLARED.spec,
                    hub_has_spec: <#hub as ::windlass::custom::CustomResource>::DECLARED.spec,
                };
            }

            #[cfg(test)]
            #[test]
            fn #test() {
                ::windlass::custom::check_round_trips::<#root>();
            }
        })
    }
}

/// A JSON pointer into what an author decides about. The hub may be a kind without a spec.
fn pointer(at: LitStr) -> Result<LitStr> {
    let value = at.value();
    let first = value.strip_prefix('/').map(|rest| rest.split('/').next().unwrap_or_default());
    match first {
        Some(first) if !["", "apiVersion", "kind", "metadata"].contains(&first) => Ok(at),
        _ => Err(syn::Error::new(
            at.span(),
            "a place is a JSON pointer to what a kind has beside its metadata: \"/spec/message\"",
        )),
    }
}

/// `name("/spec/place")`.
fn alone(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    let content;
    syn::parenthesized!(content in meta.input);
    content.parse()
}

/// A path of a selectable field or a column, `.spec.color`.
fn json_path(at: LitStr) -> Result<LitStr> {
    match at.value().starts_with('.') {
        true => Ok(at),
        false => Err(syn::Error::new(at.span(), "a path begins with a dot: \".spec.color\"")),
    }
}

/// `printcolumns(("Name", "type", ".json.path"), (…, priority = 1))`. Where each column is an attribute of its own, clippy
/// takes two of one type for a mistake.
fn columns(meta: &ParseNestedMeta<'_>) -> Result<Vec<TokenStream>> {
    let content;
    syn::parenthesized!(content in meta.input);
    let mut columns = Vec::new();
    while !content.is_empty() {
        let one;
        syn::parenthesized!(one in content);
        let (name, _) = (one.parse::<LitStr>()?, one.parse::<Token![,]>()?);
        let (type_, _) = (one.parse::<LitStr>()?, one.parse::<Token![,]>()?);
        let path = one.parse()?;
        if !one.is_empty() {
            one.parse::<Token![,]>()?;
        }
        let more = Fields::from(&one, &COLUMN_MORE)?;
        columns.push(column_of(&name, &type_, path, &more)?);
        if !content.is_empty() {
            content.parse::<Token![,]>()?;
        }
    }
    Ok(columns)
}

/// What a column may say beside its name, type and path.
const COLUMN_MORE: [&str; 3] = ["priority", "description", "format"];

fn column(meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    let fields = Fields::of(meta, &["name", "type_", "json_path"], &COLUMN_MORE)?;
    column_of(&fields.text("name")?, &fields.text("type_")?, fields.text("json_path")?, &fields)
}

fn column_of(name: &LitStr, type_: &LitStr, path: LitStr, fields: &Fields) -> Result<TokenStream> {
    const TYPES: [&str; 5] = ["integer", "number", "string", "boolean", "date"];
    if !TYPES.contains(&type_.value().as_str()) {
        return Err(syn::Error::new(type_.span(), format!("not a column's type: {}", TYPES.join(", "))));
    }
    let path = json_path(path)?;
    let (description, format) = (fields.text("description")?, fields.text("format")?);
    let priority = fields.number("priority");
    Ok(quote! {
        ::windlass::custom::Column {
            name: #name, type_: #type_, json_path: #path, description: #description, format: #format,
            priority: #priority,
        }
    })
}

fn scale(meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    let fields = Fields::of(meta, &["spec_replicas_path", "status_replicas_path"], &["label_selector_path"])?;
    let spec = json_path(fields.text("spec_replicas_path")?)?;
    let status = json_path(fields.text("status_replicas_path")?)?;
    let selector = fields.text("label_selector_path")?;
    Ok(quote! {
        ::windlass::custom::Scale { spec_replicas: #spec, status_replicas: #status, label_selector: #selector }
    })
}

/// `deprecated`, or `deprecated = "what to use instead"`.
fn deprecated(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    match meta.input.peek(Token![=]) {
        true => text(meta),
        false => Ok(LitStr::new("", meta.path.span())),
    }
}

/// The plural of an English word in lower case, as Kubernetes forms it.
fn plural_of(word: &str) -> String {
    let vowel_before =
        |end: &str| word.strip_suffix(end).is_some_and(|rest| rest.ends_with(['a', 'e', 'i', 'o', 'u']));
    if word.ends_with('y') && !vowel_before("y") {
        return format!("{}ies", &word[..word.len() - 1]);
    }
    match ["s", "x", "z", "ch", "sh"].iter().any(|end| word.ends_with(end)) {
        true => format!("{word}es"),
        false => format!("{word}s"),
    }
}
