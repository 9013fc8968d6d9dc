//! Encodings of recent states, made once and shared: a watch event costs one encoding however many watch.
//!
//! A bounded ring, by revision: what was written last is what is read most. Losing a place in it costs time only.

use std::sync::Arc;

use bytes::Bytes;
use minicluster_store::Revision;
use parking_lot::Mutex;

/// How many encodings are kept.
const SLOTS: usize = 1024;

/// The longest encoding that is kept, in bytes; together at most 64 MiB.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Which encoding of which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    /// The revision that wrote or deleted it.
    pub revision: Revision,
    /// The object's key.
    pub key: Arc<str>,
    /// The group and version, and the view: what sets this encoding apart from others of the same state.
    pub variant: Arc<str>,
}

/// The ring.
pub struct Encodings(Box<[Mutex<Option<(Which, Bytes)>>]>);

impl Default for Encodings {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| Mutex::default()).collect())
    }
}

impl Encodings {
    /// The encoding, from the ring or made now. `None` when `make` fails.
    pub fn get(&self, which: Which, make: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits choose the place")]
        let mut slot = self.0[which.revision as usize % SLOTS].lock();
        if let Some((_, bytes)) = slot.as_ref().filter(|(kept, _)| *kept == which) {
            return Some(bytes.clone());
        }
        let bytes = make()?;
        if bytes.len() <= KEPT_BYTES_MAX {
            *slot = Some((which, bytes.clone()));
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_encoded_once_until_its_place_is_taken() {
        let ring = Encodings::default();
        let which = |revision| Which { revision, key: "/registry/pods/a/b".into(), variant: "v1".into() };
        let made = std::cell::Cell::new(0);
        let make = || {
            made.set(made.get() + 1);
            Some(Bytes::from_static(b"x"))
        };
        ring.get(which(7), make);
        ring.get(which(7), make);
        assert_eq!(made.get(), 1);
        ring.get(Which { variant: "v2".into(), ..which(7) }, make);
        ring.get(which(7), make);
        assert_eq!(made.get(), 3);
        ring.get(which(7 + SLOTS as u64), make);
        ring.get(which(8), || Some(vec![0; KEPT_BYTES_MAX + 1].into()));
        ring.get(which(8), make);
        assert_eq!(made.get(), 5);
        assert_eq!(ring.get(which(9), || None), None);
    }
}
