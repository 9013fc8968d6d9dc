//! `apply_configurations!`: twins of built-in kinds in which every field is optional.
//!
//! Server-side apply owns what it is sent, and the types of k8s-openapi always send what they require: `selector: {}` of a
//! Deployment, `containers: []` of a pod. A twin sends what was written and nothing else. Twins are made for the kinds
//! that are named and for the types that these reach, each once; their structure is the table of facts that the server
//! reads, too. Values that have no parts, and types that send nothing by themselves, stay those of k8s-openapi.

mod custom;
mod facts;
mod root;

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::{
    Result, Token, Visibility, braced,
    ext::IdentExt,
    parse::{Parse, ParseStream},
    token::Brace,
};

pub(crate) use custom::{cases, optional, twins};
use facts::{Definition, Facts, Type};
use root::Root;
pub(crate) use root::new;

/// Types of k8s-openapi that send nothing that was not written.
const KEPT: [&str; 3] = ["meta.v1.ObjectMeta", "meta.v1.LabelSelector", "meta.v1.Condition"];

/// What is asked for: `pub apps::v1::Deployment, core::v1::{Pod, Service}`.
struct Asked {
    vis: Visibility,
    paths: Vec<Vec<Ident>>,
}

impl Parse for Asked {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let vis = input.parse()?;
        let mut paths = Vec::new();
        list(input, &[], &mut paths)?;
        match paths.is_empty() {
            true => Err(input.error("which kinds? apps::v1::Deployment, core::v1::{Pod, Service}")),
            false => Ok(Self { vis, paths }),
        }
    }
}

/// Paths with commas between them, each below the same prefix.
fn list(input: ParseStream<'_>, prefix: &[Ident], out: &mut Vec<Vec<Ident>>) -> Result<()> {
    while !input.is_empty() {
        tree(input, prefix.to_vec(), out)?;
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    Ok(())
}

fn tree(input: ParseStream<'_>, mut path: Vec<Ident>, out: &mut Vec<Vec<Ident>>) -> Result<()> {
    loop {
        if input.peek(Brace) {
            let content;
            braced!(content in input);
            return list(&content, &path, out);
        }
        path.push(input.call(Ident::parse_any)?);
        if !input.peek(Token![::]) {
            out.push(path);
            return Ok(());
        }
        input.parse::<Token![::]>()?;
    }
}

pub(crate) fn expand(input: TokenStream) -> Result<TokenStream> {
    let Asked { vis, paths } = syn::parse2(input)?;
    let facts = Facts::read();
    let mut made: BTreeMap<&str, Span> = BTreeMap::new();
    let mut by_name: BTreeMap<&str, &str> = BTreeMap::new();
    for path in &paths {
        let (kind, span) = (find(&facts, path)?, path.last().map_or_else(Span::call_site, Ident::span));
        let mut open = vec![kind.name];
        while let Some(name) = open.pop() {
            let Some(definition) = facts.get(name).filter(|_| !made.contains_key(name)) else { continue };
            made.insert(name, span);
            if let Some(other) = by_name.insert(definition.short(), name) {
                let why = format!(
                    "{other} and {name} would both be {}Apply: ask for one of them in another module",
                    definition.short()
                );
                return Err(syn::Error::new(span, why));
            }
            open.extend(definition.fields.iter().filter_map(|field| made_for(&field.type_)));
        }
    }
    let structs = made.keys().filter_map(|name| facts.get(name)).map(|definition| {
        if definition.is_object() { object(&vis, definition) } else { part(&vis, &facts, definition) }
    });
    Ok(quote! { #(#structs)* })
}

/// The definition of a path, `apps::v1::Deployment`; k8s-openapi's own path will do, too.
fn find<'a>(facts: &'a Facts, path: &[Ident]) -> Result<&'a Definition> {
    let words: Vec<String> = path.iter().map(Ident::to_string).collect();
    let inner = match &words[..] {
        [first, second, rest @ ..] if first == "k8s_openapi" && second == "api" => rest,
        rest => rest,
    };
    let wrong = |why: String| {
        let (span, word) = path
            .last()
            .map_or_else(|| (Span::call_site(), String::new()), |ident| (ident.span(), ident.to_string()));
        syn::Error::new(span, format!("{word} {why}"))
    };
    let Some(found) = facts.get(&inner.join(".")) else {
        let last = words.last().map(String::as_str).unwrap_or_default();
        let others = facts.named(last).map(|name| name.replace('.', "::"));
        let others = Vec::from_iter(others).join(" or ");
        return Err(wrong(match others.is_empty() {
            true => "is no built-in kind; kinds are named as in apps::v1::Deployment".to_owned(),
            false => format!("is not there: {others} is"),
        }));
    };
    match found.is_object() {
        true => Ok(found),
        false => Err(wrong("is no kind that is applied: it has no apiVersion and name".to_owned())),
    }
}

/// The definition that a type is made of, if a twin is made for it.
fn made_for<'a>(type_: &Type<'a>) -> Option<&'a str> {
    match type_ {
        Type::List(of) | Type::Map(of) => made_for(of),
        Type::Definition(name) if !KEPT.contains(name) => Some(name),
        _ => None,
    }
}

/// A type of which objects are made.
fn part(vis: &Visibility, facts: &Facts, definition: &Definition) -> TokenStream {
    let name = twin(definition.name);
    let doc = format!("What is applied of a {}.", definition.short());
    let fields = definition.fields.iter().map(|field| {
        let (ident, json) = (ident(field.name), field.name);
        let mut type_ = rust(&field.type_);
        if let Type::Definition(of) = &field.type_
            && contains(facts, of, definition.name, &mut BTreeSet::new())
        {
            type_ = quote! { ::std::boxed::Box<#type_> };
        }
        quote! {
            #[serde(rename = #json, skip_serializing_if = "Option::is_none")]
            #vis #ident: ::std::option::Option<#type_>
        }
    });
    quote! {
        #[doc = #doc]
        #[derive(Clone, Debug, Default, PartialEq, ::windlass::private::serde::Serialize)]
        #[serde(crate = "::windlass::private::serde")]
        #[allow(missing_docs)]
        #vis struct #name { #(#fields),* }
    }
}

/// A kind.
fn object(vis: &Visibility, definition: &Definition) -> TokenStream {
    let about = |name: &str| !["apiVersion", "kind", "metadata"].contains(&name);
    let fields = definition.fields.iter().filter(|field| about(field.name));
    let root = Root {
        vis,
        name: twin(definition.name),
        kind: definition.short(),
        api_version: definition.api_version(),
        is_namespaced: definition.is_namespaced(),
        compares: true,
        path: openapi(definition.name),
        fields: fields.map(|field| (ident(field.name), field.name, rust(&field.type_))).collect(),
    };
    root.expand()
}

/// Whether a value of one type holds one of the other without a list or a map in between.
fn contains<'a>(facts: &'a Facts, one: &'a str, other: &str, seen: &mut BTreeSet<&'a str>) -> bool {
    if one == other {
        return true;
    }
    if !seen.insert(one) || KEPT.contains(&one) {
        return false;
    }
    let fields = facts.get(one).map_or(&[][..], |definition| &definition.fields[..]);
    fields.iter().any(|field| match field.type_ {
        Type::Definition(of) => contains(facts, of, other, seen),
        _ => false,
    })
}

fn twin(name: &str) -> Ident {
    format_ident!("{}Apply", name.rsplit('.').next().unwrap_or(name))
}

fn rust(type_: &Type<'_>) -> TokenStream {
    match type_ {
        Type::List(of) => {
            let of = rust(of);
            quote! { ::std::vec::Vec<#of> }
        }
        Type::Map(of) => {
            let of = rust(of);
            quote! { ::std::collections::BTreeMap<::std::string::String, #of> }
        }
        Type::Definition(name) if KEPT.contains(name) => openapi(name),
        Type::Definition(name) => {
            let name = twin(name);
            quote! { #name }
        }
        Type::Plain(name) => plain(name),
    }
}

fn plain(name: &str) -> TokenStream {
    let kubernetes = quote! { ::windlass::private::k8s_openapi };
    match name {
        "bool" => quote! { bool },
        "int32" => quote! { i32 },
        "int64" => quote! { i64 },
        "double" => quote! { f64 },
        "bytes" => quote! { #kubernetes::ByteString },
        "time" => quote! { #kubernetes::apimachinery::pkg::apis::meta::v1::Time },
        "microtime" => quote! { #kubernetes::apimachinery::pkg::apis::meta::v1::MicroTime },
        "quantity" => quote! { #kubernetes::apimachinery::pkg::api::resource::Quantity },
        "intstr" => quote! { #kubernetes::apimachinery::pkg::util::intstr::IntOrString },
        "any" | "raw" | "fields" => quote! { ::windlass::private::Value },
        _ => quote! { ::std::string::String },
    }
}

/// Where k8s-openapi has a definition.
fn openapi(name: &str) -> TokenStream {
    let words: Vec<Ident> = name.split('.').map(|word| format_ident!("{word}")).collect();
    let kubernetes = quote! { ::windlass::private::k8s_openapi };
    let (group, rest) = (name.split('.').next().unwrap_or_default(), &words);
    match group {
        "meta" => quote! { #kubernetes::apimachinery::pkg::apis::#(#rest)::* },
        "apiextensions" => quote! { #kubernetes::apiextensions_apiserver::pkg::apis::#(#rest)::* },
        "apiregistration" => quote! { #kubernetes::kube_aggregator::pkg::apis::#(#rest)::* },
        _ => quote! { #kubernetes::api::#(#rest)::* },
    }
}

/// A field's name as k8s-openapi has it.
fn ident(json: &str) -> Ident {
    let name = match json {
        "$ref" => "ref_path".to_owned(),
        json => snake(json.trim_start_matches('$')),
    };
    match syn::parse_str::<Ident>(&name) {
        Ok(ident) => ident,
        Err(_) => format_ident!("{name}_"),
    }
}

/// `clusterIPs` is `cluster_ips`, `hostPID` is `host_pid`, `nonResourceURLs` is `non_resource_urls`.
fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (at, c) in chars.iter().enumerate() {
        if *c == '-' {
            out.push('_');
            continue;
        }
        let before = at.checked_sub(1).map(|before| chars[before]);
        let follows_small = before.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        // The last capital of several begins a word, unless what follows is but the `s` of a plural.
        let rest: String = chars[at + 1..].iter().take_while(|c| c.is_ascii_lowercase()).collect();
        let begins_word = before.is_some_and(|b| b.is_ascii_uppercase()) && !matches!(&*rest, "" | "s");
        if c.is_ascii_uppercase() && (follows_small || begins_word) {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests;
