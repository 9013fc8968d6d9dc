//! What changed: the unit that informers hand to subscribers.

use std::sync::Arc;

use crate::{Key, Object};

/// One change of one object, with what was known before.
#[derive(Clone, Debug)]
pub enum Delta<K> {
    /// The object is new to this cache.
    Added {
        /// The object.
        new: Arc<K>,
        /// True for the initial list and for the replay to a late subscriber: nothing happened just now.
        initial: bool,
    },
    /// The object changed.
    Updated {
        /// As it was.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// The object is gone.
    Deleted {
        /// The last state that is known.
        last: Arc<K>,
        /// False when the delete itself was missed and is concluded from a later list; `last` may then be old.
        observed: bool,
    },
}

impl<K: Object> Delta<K> {
    /// The object as it is, or as it last was.
    #[must_use]
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added { new, .. } | Self::Updated { new, .. } => new,
            Self::Deleted { last, .. } => last,
        }
    }

    /// The object before the change, if it was known.
    #[must_use]
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Self::Added { .. } => None,
            Self::Updated { old, .. } => Some(old),
            Self::Deleted { last, .. } => Some(last),
        }
    }

    /// The object after the change, if it still exists.
    #[must_use]
    #[expect(clippy::new_ret_no_self, reason = "the counterpart of `old`, named as the fields are")]
    pub fn new(&self) -> Option<&Arc<K>> {
        match self {
            Self::Added { new, .. } | Self::Updated { new, .. } => Some(new),
            Self::Deleted { .. } => None,
        }
    }

    /// The key of the object.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::of(&**self.object())
    }

    /// Whether this is a part of an initial list or of a replay.
    #[must_use]
    pub fn is_initial(&self) -> bool {
        matches!(self, Self::Added { initial: true, .. })
    }

    /// Whether the object is gone.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        matches!(self, Self::Deleted { .. })
    }
}
