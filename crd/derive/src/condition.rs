//! `#[derive(Condition)]`: the types of a kind's conditions as an enum.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields, Result};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Enum(data) = &input.data else {
        return Err(syn::Error::new_spanned(&input.ident, "conditions are the variants of an enum"));
    };
    let mut variants = Vec::new();
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(syn::Error::new_spanned(
                variant,
                "a condition's type is a word: a variant without fields",
            ));
        }
        variants.push(&variant.ident);
    }
    let name = &input.ident;
    let words = variants.iter().map(ToString::to_string);
    Ok(quote! {
        #[automatically_derived]
        impl ::windlass::ConditionType for #name {
            const ALL: &'static [Self] = &[#(Self::#variants),*];

            fn name(&self) -> &'static str {
                match self {
                    #(Self::#variants => #words,)*
                }
            }
        }
    })
}
