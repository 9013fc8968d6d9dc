//! A kind without a spec: the struct that is derived for is the object itself, `metadata` and perhaps `status` among its
//! fields, and everything else stands beside them.
//!
//! Its author derives `Deserialize`; `Serialize` is made here, since an object says its kind when it is written and the
//! struct has no field for it.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Attribute, Data, DeriveInput, Field, Fields, Path, Result};

use crate::apply;

/// The fields of a whole object.
pub(crate) struct Whole<'a> {
    input: &'a DeriveInput,
    fields: Vec<&'a Field>,
}

impl<'a> Whole<'a> {
    /// Reads a struct that has the name of its kind.
    pub(crate) fn read(input: &'a DeriveInput, status: Option<&Path>) -> Result<Self> {
        let fields = match &input.data {
            Data::Struct(data) => data.fields.iter().collect(),
            _ => Vec::new(),
        };
        let whole = Self { input, fields };
        if !whole.has("metadata") {
            return Err(syn::Error::new_spanned(
                &input.ident,
                "a struct with the name of its kind is the object itself and has a field `metadata: ObjectMeta`; a spec is \
                 called GuestbookSpec, say",
            ));
        }
        match status {
            Some(status) if !whole.has("status") => Err(syn::Error::new_spanned(
                status,
                "the object itself has its status: give it a field `status: Option<...>` of this type",
            )),
            _ => Ok(whole),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.ident.as_ref().is_some_and(|ident| ident == name))
    }

    /// The struct as its schema sees it: metadata has a schema of its own.
    pub(crate) fn body(&self, doc: Option<&syn::LitStr>) -> DeriveInput {
        let mut body = self.input.clone();
        if let Data::Struct(data) = &mut body.data
            && let Fields::Named(fields) = &mut data.fields
        {
            let kept =
                fields.named.iter().filter(|field| field.ident.as_ref().is_none_or(|i| i != "metadata"));
            fields.named = kept.cloned().collect();
        }
        if let Some(doc) = doc {
            body.attrs.retain(|attr| !attr.path().is_ident("doc"));
            body.attrs.push(syn::parse_quote! { #[doc = #doc] });
        }
        body
    }

    /// What writes the object with its kind, and what kube knows of its status.
    pub(crate) fn object(&self, status: Option<&Path>) -> TokenStream {
        let name = &self.input.ident;
        let fields = self.fields.iter().map(|field| {
            let (attrs, ident, type_) = (serde_of(&field.attrs), &field.ident, &field.ty);
            quote! { #(#attrs)* #ident: #type_ }
        });
        let serialize = serialize(
            &quote! { #name },
            &serde_of(&self.input.attrs),
            &quote! { #(#fields),* },
            &quote! { <#name as ::windlass::custom::CustomResource>::DECLARED.api_version },
            &quote! { <#name as ::windlass::custom::CustomResource>::DECLARED.kind },
        );
        let has_status = status.map(|status| {
            quote! {
                #[automatically_derived]
                impl ::windlass::private::kube::core::object::HasStatus for #name {
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
        quote! { #serialize #has_status }
    }

    /// The twin that is applied, with every field but metadata optional.
    pub(crate) fn twin(&self, (api_version, kind): (&str, &str), is_namespaced: bool) -> Result<TokenStream> {
        let (vis, name) = (&self.input.vis, &self.input.ident);
        let twin = format_ident!("{name}Apply");
        let is_metadata = |field: &&&Field| field.ident.as_ref().is_some_and(|ident| ident == "metadata");
        let mut fields = vec![syn::parse_quote! { #vis metadata: ::windlass::private::ObjectMeta }];
        for field in self.fields.iter().filter(|field| !is_metadata(field)) {
            fields.extend(apply::optional(field)?);
        }
        let (bare, cases) = (quote! { #(#fields),* }, apply::cases(&self.input.attrs)?);
        let plain = fields.iter().map(|field: &Field| {
            let docs = field.attrs.iter().filter(|attr| attr.path().is_ident("doc"));
            let (vis, ident, type_) = (&field.vis, &field.ident, &field.ty);
            quote! { #(#docs)* #vis #ident: #type_ }
        });
        let plain = quote! { #(#plain),* };
        let serialize =
            serialize(&quote! { #twin }, &cases, &bare, &quote! { #api_version }, &quote! { #kind });
        let doc = format!("What is applied of a {kind}: exactly what is set here.");
        let new = apply::new(vis, is_namespaced);
        Ok(quote! {
            #[doc = #doc]
            #[derive(Clone, Debug, Default)]
            #[allow(missing_docs)]
            #vis struct #twin { #plain }

            #[allow(dead_code)]
            impl #twin {
                #new
            }

            #serialize

            #[automatically_derived]
            impl ::windlass::Apply for #twin {
                type Kind = #name;

                fn metadata(&self) -> &::windlass::private::ObjectMeta {
                    &self.metadata
                }
            }
        })
    }
}

/// Serializes a struct with its API version and kind before its fields, whatever serde was told of these.
fn serialize(
    name: &TokenStream,
    attrs: &[Attribute],
    fields: &TokenStream,
    api_version: &TokenStream,
    kind: &TokenStream,
) -> TokenStream {
    let remote = name.to_string();
    quote! {
        #[automatically_derived]
        impl ::windlass::private::serde::Serialize for #name {
            fn serialize<S: ::windlass::private::serde::Serializer>(
                &self,
                to: S,
            ) -> ::std::result::Result<S::Ok, S::Error> {
                #[derive(::windlass::private::serde::Serialize)]
                #[serde(crate = "::windlass::private::serde", remote = #remote)]
                #(#attrs)*
                #[allow(dead_code, missing_docs)]
                struct Body { #fields }

                struct Flat<'a>(&'a #name);

                impl ::windlass::private::serde::Serialize for Flat<'_> {
                    fn serialize<S: ::windlass::private::serde::Serializer>(
                        &self,
                        to: S,
                    ) -> ::std::result::Result<S::Ok, S::Error> {
                        Body::serialize(self.0, to)
                    }
                }

                ::windlass::custom::serialize_whole(to, #api_version, #kind, &Flat(self))
            }
        }
    }
}

fn serde_of(attrs: &[Attribute]) -> Vec<Attribute> {
    attrs.iter().filter(|attr| attr.path().is_ident("serde")).cloned().collect()
}
