//! `#[derive(Schema)]`: a `JsonSchema` that knows CEL rules and list semantics beside all that schemars knows.
//!
//! schemars does the work on a copy of the type whose `#[windlass(...)]` marks have become its own `transform`s; so
//! whatever schemars reads from serde, garde and validator counts, and nothing is said twice.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields, Result};

use crate::attributes::{Marks, carried, keep_for_schemars};

/// The `JsonSchema` of a type.
pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    of(input, &[], |_| Ok(false))
}

/// The same, with further CEL rules; attributes of the type itself that are not about its schema go to `other`.
pub(crate) fn of(
    input: &DeriveInput,
    rules: &[TokenStream],
    other: impl FnMut(&syn::meta::ParseNestedMeta<'_>) -> Result<bool>,
) -> Result<TokenStream> {
    let name = &input.ident;
    if !input.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(
            &input.generics,
            "a schema has no parameters: a CRD holds one type",
        ));
    }
    let mut copy = input.clone();
    let marks = Marks::read(&input.attrs, other)?;
    copy.attrs = keep_for_schemars(&input.attrs);
    copy.attrs.extend(marks.for_schemars());
    copy.attrs.extend(carried(rules));
    match &mut copy.data {
        Data::Struct(data) => rewrite(&mut data.fields)?,
        Data::Enum(data) => {
            for variant in &mut data.variants {
                variant.attrs = keep_for_schemars(&variant.attrs);
                rewrite(&mut variant.fields)?;
            }
        }
        Data::Union(_) => return Err(syn::Error::new_spanned(name, "a union has no schema")),
    }
    let title = name.to_string();
    Ok(quote! {
        #[automatically_derived]
        impl ::windlass::private::schemars::JsonSchema for #name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> ::std::borrow::Cow<'static, str> {
                #title.into()
            }

            fn json_schema(
                generator: &mut ::windlass::private::schemars::SchemaGenerator,
            ) -> ::windlass::private::schemars::Schema {
                #[derive(::windlass::private::schemars::JsonSchema)]
                #[schemars(crate = "::windlass::private::schemars")]
                #[allow(dead_code, missing_docs)]
                #copy

                <#name as ::windlass::private::schemars::JsonSchema>::json_schema(generator)
            }
        }
    })
}

/// Gives fields the attributes that schemars understands.
fn rewrite(fields: &mut Fields) -> Result<()> {
    for field in fields {
        let marks = Marks::read(&field.attrs, |_| Ok(false))?;
        field.attrs = keep_for_schemars(&field.attrs);
        field.attrs.extend(marks.for_schemars());
    }
    Ok(())
}
