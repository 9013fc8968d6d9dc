//! Reading attributes: `#[windlass(...)]` wherever it stands, and the parts that `#[kube(...)]` shares with it.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{
    Attribute, Expr, ExprLit, Lit, LitStr, Path, Result, Token,
    meta::ParseNestedMeta,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
};

/// Attributes that schemars reads; others would be unknown to it.
const SCHEMARS_READS: [&str; 5] = ["serde", "schemars", "garde", "validate", "doc"];

/// What a struct, an enum or a field says about its schema with `#[windlass(...)]`.
#[derive(Default)]
pub(crate) struct Marks {
    /// CEL rules, each as the tokens of a JSON object.
    pub(crate) rules: Vec<TokenStream>,
    list: Option<LitStr>,
    keys: Vec<LitStr>,
    map: Option<LitStr>,
}

impl Marks {
    /// Reads the attributes of a struct, an enum or a field; what is none of its business goes to `other`.
    pub(crate) fn read(
        attrs: &[Attribute],
        mut other: impl FnMut(&ParseNestedMeta<'_>) -> Result<bool>,
    ) -> Result<Self> {
        let mut marks = Self::default();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("windlass")) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("validation") {
                    marks.rules.push(rule(&meta)?);
                } else if meta.path.is_ident("list") {
                    marks.list = Some(one_of(&meta, &["atomic", "set", "map"])?);
                } else if meta.path.is_ident("key") {
                    marks.keys.push(meta.value()?.parse()?);
                } else if meta.path.is_ident("map") {
                    marks.map = Some(one_of(&meta, &["atomic", "granular"])?);
                } else if !other(&meta)? {
                    return Err(meta.error("not known here: validation, list, key, map"));
                }
                Ok(())
            })?;
        }
        marks.check()?;
        Ok(marks)
    }

    fn check(&self) -> Result<()> {
        let is_map = self.list.as_ref().is_some_and(|list| list.value() == "map");
        match (&self.list, self.keys.first()) {
            (Some(list), None) if is_map => Err(syn::Error::new(
                list.span(),
                "a list of type map needs a key: #[windlass(list = \"map\", key = \"name\")]",
            )),
            (_, Some(key)) if !is_map => Err(syn::Error::new(key.span(), "only a list of type map has keys")),
            _ => Ok(()),
        }
    }

    /// The attributes for schemars that carry these marks into the schema.
    pub(crate) fn for_schemars(&self) -> Vec<Attribute> {
        let mut found = Vec::from_iter(carried(&self.rules));
        if let Some(list) = &self.list {
            let keys = &self.keys;
            found.push(syn::parse_quote! {
                #[schemars(transform = ::windlass::custom::Extend::list(#list, &[#(#keys),*]))]
            });
        }
        if let Some(map) = &self.map {
            found.push(syn::parse_quote! { #[schemars(transform = ::windlass::custom::Extend::map(#map))] });
        }
        found
    }
}

/// The attribute for schemars that carries CEL rules into a schema, if there are any.
pub(crate) fn carried(rules: &[TokenStream]) -> Option<Attribute> {
    (!rules.is_empty()).then(|| {
        syn::parse_quote! {
            #[schemars(transform = ::windlass::custom::Extend::rules(|| ::windlass::private::json!([#(#rules),*])))]
        }
    })
}

/// Keeps of an item's attributes what schemars reads.
pub(crate) fn keep_for_schemars(attrs: &[Attribute]) -> Vec<Attribute> {
    let reads = |attr: &&Attribute| SCHEMARS_READS.iter().any(|name| attr.path().is_ident(name));
    attrs.iter().filter(reads).cloned().collect()
}

/// `validation = "rule"`, or `validation("rule", message = "…", …)`: the tokens of a JSON object.
pub(crate) fn rule(meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    if meta.input.peek(Token![=]) {
        let rule: LitStr = meta.value()?.parse()?;
        check_rule(&rule)?;
        return Ok(quote! { { "rule": #rule } });
    }
    let content;
    syn::parenthesized!(content in meta.input);
    let rule: LitStr = content.parse()?;
    check_rule(&rule)?;
    let mut fields = vec![quote! { "rule": #rule }];
    while !content.is_empty() {
        content.parse::<Token![,]>()?;
        if content.is_empty() {
            break;
        }
        fields.push(rule_field(&content)?);
    }
    Ok(quote! { { #(#fields),* } })
}

fn rule_field(content: ParseStream<'_>) -> Result<TokenStream> {
    const REASONS: [&str; 4] =
        ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];
    let name: syn::Ident = content.parse()?;
    let json = match name.to_string().as_str() {
        "message" => "message",
        "message_expression" => "messageExpression",
        "reason" => "reason",
        "field_path" => "fieldPath",
        "optional_old_self" => "optionalOldSelf",
        _ => {
            let known = "message, message_expression, reason, field_path, optional_old_self";
            return Err(syn::Error::new(name.span(), format!("not known of a rule: {known}")));
        }
    };
    if json == "optionalOldSelf" && !content.peek(Token![=]) {
        return Ok(quote! { #json: true });
    }
    content.parse::<Token![=]>()?;
    if json == "optionalOldSelf" {
        let value: syn::LitBool = content.parse()?;
        return Ok(quote! { #json: #value });
    }
    let value: LitStr = content.parse()?;
    if json == "reason" && !REASONS.contains(&value.value().as_str()) {
        return Err(syn::Error::new(value.span(), format!("not a reason: {}", REASONS.join(", "))));
    }
    Ok(quote! { #json: #value })
}

fn check_rule(rule: &LitStr) -> Result<()> {
    match rule.value().trim().is_empty() {
        true => Err(syn::Error::new(
            rule.span(),
            "a rule is an expression of CEL, such as \"self.min <= self.max\"",
        )),
        false => Ok(()),
    }
}

fn one_of(meta: &ParseNestedMeta<'_>, known: &[&str]) -> Result<LitStr> {
    let value: LitStr = meta.value()?.parse()?;
    match known.contains(&value.value().as_str()) {
        true => Ok(value),
        false => Err(syn::Error::new(value.span(), format!("not known here: {}", known.join(", ")))),
    }
}

/// `name` alone, `name = true` or `name = false`.
pub(crate) fn flag(meta: &ParseNestedMeta<'_>) -> Result<bool> {
    if !meta.input.peek(Token![=]) {
        return Ok(true);
    }
    meta.value()?.parse::<syn::LitBool>().map(|value| value.value)
}

/// `name = "text"`.
pub(crate) fn text(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    meta.value()?.parse()
}

/// `name = "a::Path"` or `name = a::Path`.
pub(crate) fn path(meta: &ParseNestedMeta<'_>) -> Result<Path> {
    let value = meta.value()?;
    if value.peek(LitStr) {
        return value.parse::<LitStr>()?.parse();
    }
    value.parse()
}

/// `name("key", "value")`.
pub(crate) fn pair(meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    let content;
    syn::parenthesized!(content in meta.input);
    let parts = Punctuated::<LitStr, Token![,]>::parse_terminated(&content)?;
    match parts.iter().collect::<Vec<_>>().as_slice() {
        [key, value] => Ok(quote! { (#key, #value) }),
        _ => Err(meta.error("two strings are wanted: (\"key\", \"value\")")),
    }
}

/// `name(field = value, …)` with fields from a list; names in kube's spelling, `json_path`.
pub(crate) struct Fields(Vec<(syn::Ident, Expr)>);

impl Parse for Fields {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut fields = Vec::new();
        while !input.is_empty() {
            let name: syn::Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            fields.push((name, input.parse()?));
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(Self(fields))
    }
}

impl Fields {
    pub(crate) fn of(meta: &ParseNestedMeta<'_>, required: &[&str], optional: &[&str]) -> Result<Self> {
        let content;
        syn::parenthesized!(content in meta.input);
        let known: Vec<&str> = required.iter().chain(optional).copied().collect();
        let fields = Self::from(&content, &known)?;
        match required.iter().find(|name| !fields.0.iter().any(|(n, _)| n == *name)) {
            Some(name) => Err(meta.error(format!("{name} is missing"))),
            None => Ok(fields),
        }
    }

    /// What is left of a list.
    pub(crate) fn from(content: ParseStream<'_>, known: &[&str]) -> Result<Self> {
        let fields: Self = content.parse()?;
        match fields.0.iter().find(|(name, _)| !known.iter().any(|n| name == n)) {
            Some((name, _)) => {
                Err(syn::Error::new(name.span(), format!("not known here: {}", known.join(", "))))
            }
            None => Ok(fields),
        }
    }

    /// The text of a field; an empty one when it is not there.
    pub(crate) fn text(&self, name: &str) -> Result<LitStr> {
        let Some((_, value)) = self.0.iter().find(|(n, _)| n == name) else {
            return Ok(LitStr::new("", proc_macro2::Span::call_site()));
        };
        match value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(text.clone()),
            other => Err(syn::Error::new_spanned(other, "a string is wanted")),
        }
    }

    /// The number of a field; 0 when it is not there.
    pub(crate) fn number(&self, name: &str) -> TokenStream {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map_or_else(|| quote! { 0 }, |(_, value)| value.to_token_stream())
    }
}
