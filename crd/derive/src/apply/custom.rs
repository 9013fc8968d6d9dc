//! `#[windlass(apply)]`: the twins of a custom resource and of its spec. What the fields of a spec hold stays the author's.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::{Attribute, Data, DeriveInput, Field, Path, Result, Type, ext::IdentExt};

use super::Root;

/// The twins of a kind whose spec is `input`.
pub(crate) fn twins(
    input: &DeriveInput,
    root: &Ident,
    (api_version, kind): (&str, &str),
    is_namespaced: bool,
    status: Option<&Path>,
) -> Result<TokenStream> {
    let (vis, spec) = (&input.vis, format_ident!("{}Apply", input.ident));
    let Data::Struct(data) = &input.data else { return Ok(TokenStream::new()) };
    let mut fields = Vec::new();
    for field in &data.fields {
        fields.extend(optional(field)?);
    }
    let cases = cases(&input.attrs)?;
    let doc = format!("What is applied of a {}.", input.ident);
    let mut parts = vec![(format_ident!("spec"), "spec", quote! { #spec })];
    parts.extend(status.map(|status| (format_ident!("status"), "status", quote! { #status })));
    let whole = Root {
        vis,
        name: format_ident!("{root}Apply"),
        kind,
        api_version,
        is_namespaced,
        // What the author's types are like is not known.
        compares: false,
        path: quote! { #root },
        fields: parts,
    };
    let whole = whole.expand();
    Ok(quote! {
        #[doc = #doc]
        #[derive(Clone, Debug, Default, ::windlass::private::serde::Serialize)]
        #[serde(crate = "::windlass::private::serde")]
        #(#cases)*
        #[allow(missing_docs)]
        #vis struct #spec { #(#fields),* }

        #whole
    })
}

/// How the names of a struct are spelled.
pub(crate) fn cases(attrs: &[Attribute]) -> Result<Vec<Attribute>> {
    Ok(serde(attrs, &["rename_all"])?.unwrap_or_default().attrs)
}

/// A field that may be left out; `None` for one that is never sent.
pub(crate) fn optional(field: &Field) -> Result<Option<Field>> {
    let (vis, ident) = (&field.vis, &field.ident);
    let Some(Kept { attrs, is_flat }) = serde(&field.attrs, &["rename", "flatten"])? else { return Ok(None) };
    let docs = field.attrs.iter().filter(|attr| attr.path().is_ident("doc"));
    let type_ = &field.ty;
    let type_ = match is_option(type_) {
        true => quote! { #type_ },
        false => quote! { ::std::option::Option<#type_> },
    };
    // What is spread out has no name of its own to leave out.
    let skip = (!is_flat).then(|| quote! { #[serde(skip_serializing_if = "Option::is_none")] });
    Ok(Some(syn::parse_quote! { #(#docs)* #(#attrs)* #skip #vis #ident: #type_ }))
}

#[derive(Default)]
struct Kept {
    attrs: Vec<Attribute>,
    is_flat: bool,
}

/// What serde is told, as far as it is about names; `None` for what is never sent.
fn serde(attrs: &[Attribute], keep: &[&str]) -> Result<Option<Kept>> {
    let (mut kept, mut sent) = (Kept::default(), true);
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("serde")) {
        attr.parse_nested_meta(|meta| {
            let name = meta.path.require_ident()?.unraw().to_string();
            if ["with", "serialize_with", "into", "transparent", "tag"].contains(&name.as_str()) {
                return Err(meta.error("what is applied cannot be made of this: leave out `apply`"));
            }
            sent &= !["skip", "skip_serializing"].contains(&name.as_str());
            let (path, wanted) = (&meta.path, keep.contains(&name.as_str()));
            kept.is_flat |= name == "flatten";
            if meta.input.peek(syn::token::Paren) {
                let content;
                syn::parenthesized!(content in meta.input);
                let inner: TokenStream = content.parse()?;
                if wanted {
                    kept.attrs.push(syn::parse_quote! { #[serde(#path(#inner))] });
                }
                return Ok(());
            }
            let value: Option<syn::Lit> = match meta.input.peek(syn::Token![=]) {
                true => Some(meta.value()?.parse()?),
                false => None,
            };
            let value = value.map(|value| quote! { = #value });
            if wanted {
                kept.attrs.push(syn::parse_quote! { #[serde(#path #value)] });
            }
            Ok(())
        })?;
    }
    Ok(sent.then_some(kept))
}

fn is_option(type_: &Type) -> bool {
    let Type::Path(path) = type_ else { return false };
    path.path.segments.last().is_some_and(|last| last.ident == "Option")
}
