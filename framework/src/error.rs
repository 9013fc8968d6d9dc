//! How a reconcile ends: what to do next, or why it failed.

use std::time::Duration;

use crate::BoxError;

/// What to do with the key after a reconcile that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wait for the next change.
    Done,
    /// Reconcile again after this long, even if nothing changes.
    RequeueAfter(Duration),
}

/// Why a reconcile failed, which decides about the retry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No retry would help: wait until the object changes.
    #[error("terminal: {0}")]
    Terminal(#[source] BoxError),
    /// Retry after exactly this long.
    #[error("retry after {0:?}")]
    RetryAfter(Duration),
    /// The API refused or could not be reached: back off, or wait as long as the server asks.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// Anything else: back off.
    #[error(transparent)]
    Other(#[from] BoxError),
}

/// An error and its causes in one line. A cause that the text before it quotes already is not said again.
///
/// ```
/// let inner = std::io::Error::other("no such file");
/// let outer = windlass::Error::terminal(inner);
/// assert_eq!(windlass::sentence(&outer), "terminal: no such file");
/// ```
pub fn sentence(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| match cause.to_string() {
        cause if text.contains(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}

impl Error {
    /// An error that no retry helps.
    pub fn terminal(error: impl Into<BoxError>) -> Self {
        Self::Terminal(error.into())
    }

    /// Whether the API answered that the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if status.is_not_found())
    }

    /// Whether the API answered that the object was changed meanwhile.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if status.is_conflict() && !status.is_already_exists())
    }

    /// Whether the API answered that the object exists already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if status.is_already_exists())
    }

    /// Whether a create failed because its namespace is going away, which no retry helps.
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        let Self::Kube(kube::Error::Api(status)) = self else { return false };
        let causes = status.details.as_ref().map_or(&[][..], |details| &details.causes[..]);
        causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
    }

    /// Whether a write that ended so may have been done all the same: the answer was lost, or made up on the way.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        match self {
            Self::Kube(kube::Error::Api(status)) => status.code >= 500,
            Self::Kube(kube::Error::BuildRequest(_)) => false,
            Self::Kube(_) => true,
            _ => false,
        }
    }

    /// How long the server asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RetryAfter(after) => Some(*after),
            Self::Kube(kube::Error::Api(status)) => {
                let seconds = status.details.as_ref()?.retry_after_seconds;
                (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
            }
            _ => None,
        }
    }
}
