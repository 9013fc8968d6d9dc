//! What a hook is asked, in types, and what it may answer.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use crate::custom::CustomResource;

/// What is about to happen to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It is deleted.
    Delete,
    /// Somebody connects to it.
    Connect,
}

impl Operation {
    /// As it stands in rules: `CREATE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// Who asks the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct User {
    /// The name.
    pub username: String,
    /// The uid; may be empty.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// More attributes.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// A request that is to be judged.
#[derive(Clone, Debug)]
pub struct Review<K> {
    /// What is about to happen.
    pub operation: Operation,
    /// The object as it would be; `None` for a deletion.
    pub object: Option<K>,
    /// The object as it is; `None` for a creation.
    pub old: Option<K>,
    /// Its name; empty when the server is to make one up.
    pub name: String,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Who asks.
    pub user: User,
    /// Nothing will be kept: a hook must not have effects elsewhere.
    pub dry_run: bool,
    /// The options of the request, `CreateOptions` for instance.
    pub options: Value,
    pub(super) told: Told,
}

/// What the answer says beside yes and no.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) warnings: Arc<Mutex<Vec<String>>>,
    pub(super) notes: Arc<Mutex<BTreeMap<String, String>>>,
}

impl<K> Review<K> {
    /// Warns who asks; kubectl shows it.
    pub fn warn(&self, warning: impl Into<String>) {
        self.told.warnings.lock().push(warning.into());
    }

    /// Leaves a note in the server's audit log.
    pub fn note(&self, key: &str, value: impl Into<String>) {
        self.told.notes.lock().insert(key.to_owned(), value.into());
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Denied {
    /// Nobody may do this: 403 Forbidden.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { code: 403, reason: "Forbidden", message: message.into() }
    }

    /// The object is wrong: 422 Invalid.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: 422, reason: "Invalid", message: message.into() }
    }

    /// The hook itself cannot tell: 500 InternalError.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self { code: 500, reason: "InternalError", message: message.to_string() }
    }
}

/// Judges the objects of a kind.
pub trait Validate<K>: Send + Sync + 'static {
    /// Says what is wrong, if anything is.
    ///
    /// # Errors
    /// [`Denied`]: the request is refused with it.
    fn validate(&self, review: &Review<K>) -> impl Future<Output = Result<(), Denied>> + Send;
}

/// Changes the objects of a kind before they are judged.
pub trait Mutate<K>: Send + Sync + 'static {
    /// Changes the object; whatever it does not know stays as it is.
    ///
    /// # Errors
    /// [`Denied`]: the request is refused with it.
    fn mutate(&self, object: &mut K, review: &Review<K>) -> impl Future<Output = Result<(), Denied>> + Send;
}

/// Holds custom objects to their declaration.
pub(super) struct Checked;

impl<K: CustomResource> Validate<K> for Checked {
    async fn validate(&self, review: &Review<K>) -> Result<(), Denied> {
        let Some(object) = &review.object else { return Ok(()) };
        object.check(review.old.as_ref()).map_err(|wrong| Denied::invalid(wrong.to_string()))
    }
}
