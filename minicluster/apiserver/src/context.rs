//! Everything a handler knows about one request.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, header};
use parking_lot::Mutex;

use crate::{
    api::Api,
    authn::Identity,
    negotiate::{self, Form, Offer},
    registry::Resource,
    request::{Query, RequestInfo},
    status::{ApiError, ApiResult},
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
}

impl Context {
    /// The representation of the response.
    ///
    /// # Errors
    /// 406.
    pub fn form(&self) -> ApiResult<Form> {
        let offer = Offer { protobuf: self.resource.custom.is_none(), views: true };
        negotiate::form(&self.headers, offer)
    }

    /// True when nothing is to be stored.
    ///
    /// # Errors
    /// 400 for a `dryRun` that is not `All`.
    pub fn dry_run(&self) -> ApiResult<bool> {
        let mut on = false;
        for value in self.query.all("dryRun") {
            match value {
                "All" => on = true,
                "" => {}
                other => {
                    return Err(ApiError::invalid_text(format!(
                        "dryRun: Unsupported value: \"{other}\": supported values: \"All\""
                    )));
                }
            }
        }
        Ok(on)
    }

    /// What to do about unknown fields: `Warn` unless asked otherwise.
    ///
    /// # Errors
    /// 400 for another word.
    pub fn field_validation(&self) -> ApiResult<FieldValidation> {
        match self.query.get("fieldValidation").unwrap_or("") {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Strict" => Ok(FieldValidation::Strict),
            "Ignore" => Ok(FieldValidation::Ignore),
            other => Err(ApiError::invalid_text(format!(
                "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
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
