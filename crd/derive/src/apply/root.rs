//! The configuration of a whole object, built-in or custom: what is sent of it, and to which kind.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::Visibility;

pub(super) struct Root<'a> {
    pub(super) vis: &'a Visibility,
    /// Such as `DeploymentApply`.
    pub(super) name: Ident,
    pub(super) kind: &'a str,
    pub(super) api_version: &'a str,
    pub(super) is_namespaced: bool,
    /// Whether two of them can be compared.
    pub(super) compares: bool,
    /// The type of the kind itself.
    pub(super) path: TokenStream,
    /// What it has beside metadata: name, name in JSON and type.
    pub(super) fields: Vec<(Ident, &'a str, TokenStream)>,
}

impl Root<'_> {
    pub(super) fn expand(&self) -> TokenStream {
        let Self { vis, name, kind, api_version, path, .. } = self;
        let doc = format!("What is applied of a {kind}: exactly what is set here.");
        let fields = self.fields.iter().map(|(ident, _, type_)| {
            quote! { #vis #ident: ::std::option::Option<#type_> }
        });
        let entries = self.fields.iter().map(|(ident, json, _)| {
            quote! {
                if let Some(value) = &self.#ident {
                    map.serialize_entry(#json, value)?;
                }
            }
        });
        let compares = self.compares.then(|| quote! { PartialEq });
        let new = new(vis, self.is_namespaced);
        quote! {
            #[doc = #doc]
            #[derive(Clone, Debug, Default, #compares)]
            #[allow(missing_docs)]
            #vis struct #name {
                #vis metadata: ::windlass::private::ObjectMeta,
                #(#fields),*
            }

            #[allow(dead_code)]
            impl #name {
                #new
            }

            #[automatically_derived]
            impl ::windlass::private::serde::Serialize for #name {
                fn serialize<S: ::windlass::private::serde::Serializer>(
                    &self,
                    to: S,
                ) -> ::std::result::Result<S::Ok, S::Error> {
                    use ::windlass::private::serde::ser::SerializeMap as _;
                    let mut map = to.serialize_map(None)?;
                    map.serialize_entry("apiVersion", #api_version)?;
                    map.serialize_entry("kind", #kind)?;
                    map.serialize_entry("metadata", &self.metadata)?;
                    #(#entries)*
                    map.end()
                }
            }

            #[automatically_derived]
            impl ::windlass::Apply for #name {
                type Kind = #path;

                fn metadata(&self) -> &::windlass::private::ObjectMeta {
                    &self.metadata
                }
            }
        }
    }
}

/// The function that begins one.
pub(crate) fn new(vis: &Visibility, is_namespaced: bool) -> TokenStream {
    let (arguments, namespace) = match is_namespaced {
        true => (quote! { name: &str, namespace: &str }, quote! { Some(namespace.to_owned()) }),
        false => (quote! { name: &str }, quote! { None }),
    };
    quote! {
        /// Nothing yet of the object of this name.
        #vis fn new(#arguments) -> Self {
            let metadata = ::windlass::private::ObjectMeta {
                name: Some(name.to_owned()),
                namespace: #namespace,
                ..::std::default::Default::default()
            };
            Self { metadata, ..::std::default::Default::default() }
        }
    }
}
