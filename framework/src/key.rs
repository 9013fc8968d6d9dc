//! Which object: namespace and name, without kind, uid or revision.
//!
//! A key is a handle to shared text with its hash already computed, so that queues and indexes copy eight bytes and
//! never hash strings twice. Objects of a cluster-scoped kind always have a key without namespace, whoever built it
//! ([`Key::of`], [`Key::for_kind`]): two spellings of one object would be reconciled concurrently.

use std::{
    any::TypeId,
    cmp::Ordering,
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
};

use kube::core::ClusterResourceScope;

use crate::Object;

pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: the same on every run and machine, which `RandomState` is not.
pub(crate) fn fnv(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Namespace and name of an object; cheap to clone, compare and hash.
#[derive(Clone)]
pub struct Key(Arc<Inner>);

struct Inner {
    hash: u64,
    /// Bytes of namespace and separator at the start of `text`; zero for cluster-scoped objects.
    name_at: usize,
    text: Box<str>,
}

impl Key {
    /// The key of `name` in `namespace`; an empty namespace is none.
    #[must_use]
    pub fn new(namespace: Option<&str>, name: &str) -> Self {
        let (name_at, text) = match namespace.filter(|ns| !ns.is_empty()) {
            Some(ns) => (ns.len() + 1, format!("{ns}/{name}").into_boxed_str()),
            None => (0, name.into()),
        };
        // FNV leaves the high bits weak, which hash tables look at first: fold and multiply once more.
        let hash = fnv(FNV_OFFSET ^ name_at as u64, text.as_bytes());
        let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(Arc::new(Inner { hash, name_at, text }))
    }

    /// The key of an object.
    #[must_use]
    pub fn of<K: Object>(object: &K) -> Self {
        let meta = object.meta();
        Self::for_kind::<K>(meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default())
    }

    /// A key for an object of kind `K`: the namespace is dropped when the kind is cluster-scoped.
    #[must_use]
    pub fn for_kind<K: Object>(namespace: Option<&str>, name: &str) -> Self {
        let cluster = TypeId::of::<K::Scope>() == TypeId::of::<ClusterResourceScope>();
        Self::new(namespace.filter(|_| !cluster), name)
    }

    /// The namespace, if the object has one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.0.name_at.checked_sub(1).map(|end| &self.0.text[..end])
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.text[self.0.name_at..]
    }

    /// `namespace/name`, or the name alone.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.hash == other.0.hash
                && self.0.name_at == other.0.name_at
                && self.0.text == other.0.text)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ordering::Equal;
        }
        (self.namespace(), self.name()).cmp(&(other.namespace(), other.name()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0.text)
    }
}

/// A hasher that hands through the hash that a [`Key`] already has.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        // Tables look at the highest and the lowest bits: spread what other hashes leave in the middle.
        (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = fnv(self.0 ^ FNV_OFFSET, bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A hash map for short names from trusted sources: fast, and the same in every run.
pub(crate) type FastMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<KeyHasher>>;

/// A hash map by key, whose hash is known already.
pub(crate) type KeyMap<V> = FastMap<Key, V>;

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, Pod};

    use super::*;

    #[test]
    fn parts_and_text() {
        let key = Key::new(Some("default"), "web-1");
        assert_eq!((key.namespace(), key.name()), (Some("default"), "web-1"));
        assert_eq!(key.to_string(), "default/web-1");
        let node = Key::new(None, "n1");
        assert_eq!((node.namespace(), node.name(), node.as_str()), (None, "n1", "n1"));
        assert_eq!(Key::new(Some(""), "n1"), node);
    }

    #[test]
    fn a_cluster_scoped_kind_has_one_spelling() {
        assert_eq!(Key::for_kind::<Node>(Some("kube-system"), "n1"), Key::new(None, "n1"));
        assert_eq!(Key::for_kind::<Pod>(Some("a"), "p").namespace(), Some("a"));
    }

    #[test]
    fn order_is_by_namespace_then_name() {
        let mut keys = [
            Key::new(Some("b"), "a"),
            Key::new(Some("a-b"), "x"),
            Key::new(Some("a"), "z"),
            Key::new(None, "q"),
            Key::new(Some("a"), "b"),
        ];
        keys.sort();
        let text: Vec<&str> = keys.iter().map(Key::as_str).collect();
        assert_eq!(text, ["q", "a/b", "a/z", "a-b/x", "b/a"]);
    }

    #[test]
    fn equal_text_with_another_split_is_another_key() {
        assert_ne!(Key::new(Some("a"), "b"), Key::new(None, "a/b"));
    }
}
