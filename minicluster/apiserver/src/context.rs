//! Everything a handler knows about one request.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, header};
use parking_lot::Mutex;

use crate::{
    api::Api,
    authn::Identity,
    negotiate::{self, Form, Offer, View},
    registry::Resource,
    request::{Query, RequestInfo},
    status::ApiResult,
    table,
};

/// What to do about fields that the kind does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    Warn,
    /// Refuse the request.
    Strict,
}

/// One request for a resource.
pub struct Context {
    /// The server.
    pub api: Arc<Api>,
    /// What is asked for.
    pub info: RequestInfo,
    /// The query parameters.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
    /// Who asks.
    pub user: Identity,
    /// The kind.
    pub resource: Arc<Resource>,
    /// `Warning` headers of the response.
    pub warnings: Mutex<Vec<String>>,
    /// What admission notes for the audit log.
    pub annotations: Mutex<BTreeMap<String, String>>,
    /// Whether nothing is to be stored, where the body says so rather than the query.
    pub dry_run: OnceLock<bool>,
}

impl Context {
    /// The representation of the response.
    ///
    /// # Errors
    /// 406.
    pub fn form(&self) -> ApiResult<Form> {
        let offer = Offer { protobuf: self.resource.custom.is_none(), views: true };
        let form = negotiate::form(&self.headers, offer)?;
        if form.view == View::Table {
            table::check(&self.query)?;
        }
        Ok(form)
    }

    /// True when nothing is to be stored.
    pub fn dry_run(&self) -> bool {
        self.dry_run.get().copied().unwrap_or_else(|| self.query.all("dryRun").any(|value| value == "All"))
    }

    /// What to do about unknown fields: `Warn` unless asked otherwise.
    pub fn field_validation(&self) -> FieldValidation {
        match self.query.get("fieldValidation") {
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            _ => FieldValidation::Warn,
        }
    }

    /// The name under which written fields are owned: `fieldManager`, or the program's name.
    pub fn field_manager(&self) -> String {
        if let Some(manager) = self.query.get("fieldManager").filter(|m| !m.is_empty()) {
            return manager.to_owned();
        }
        let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let program = agent.split('/').next().unwrap_or("").trim();
        if program.is_empty() { "unknown".to_owned() } else { program.chars().take(128).collect() }
    }

    /// Notes something for the audit log; what was noted first under a key stays.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.annotations.lock().entry(key.into()).or_insert_with(|| value.into());
    }

    /// Adds a `Warning` header.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }
}
