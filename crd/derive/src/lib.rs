//! Derive macros of the operator toolkit; `windlass` re-exports them and documents their use.
//!
//! What is declared once reaches the CRD's schema, the check in the process and the webhook: serde's names and defaults,
//! schemars', validator's and garde's constraints, CEL rules, list semantics, and how versions differ. The macros only
//! read declarations; what follows from them is done by functions of `windlass`, so that little code is generated.

mod apply;
mod attributes;
mod condition;
mod resource;
mod schema;
mod whole;

use proc_macro::TokenStream;

/// A custom resource: see `windlass::CustomResource`.
#[proc_macro_derive(CustomResource, attributes(kube, windlass, serde, schemars, garde, validate))]
pub fn custom_resource(input: TokenStream) -> TokenStream {
    run(input, resource::expand)
}

/// The schema of a part of a custom resource: see `windlass::Schema`.
#[proc_macro_derive(Schema, attributes(windlass, serde, schemars, garde, validate))]
pub fn schema(input: TokenStream) -> TokenStream {
    run(input, |input| schema::expand(&input))
}

/// The conditions of a kind: see `windlass::Condition`.
#[proc_macro_derive(Condition, attributes(windlass))]
pub fn condition(input: TokenStream) -> TokenStream {
    run(input, |input| condition::expand(&input))
}

/// Twins of built-in kinds in which every field is optional: see `windlass::apply_configurations`.
#[proc_macro]
pub fn apply_configurations(input: TokenStream) -> TokenStream {
    apply::expand(input.into()).unwrap_or_else(|error| error.to_compile_error()).into()
}

fn run(
    input: TokenStream,
    expand: impl FnOnce(syn::DeriveInput) -> syn::Result<proc_macro2::TokenStream>,
) -> TokenStream {
    let expanded = syn::parse(input).and_then(expand);
    expanded.unwrap_or_else(|error| error.to_compile_error()).into()
}

#[cfg(test)]
mod tests;
