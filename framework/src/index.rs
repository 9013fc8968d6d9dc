//! Secondary indexes: from a value inside an object to the objects that carry it, in constant time.
//!
//! An index can be added at any time; it is filled from the cache and kept by the same lock that keeps the cache, so
//! that a lookup never sees one without the other. Asking twice for an index that is the same ([`Index::same`]) gives
//! the same table.

use std::{
    any::Any,
    borrow::{Borrow, Cow},
    collections::{BTreeSet, HashMap},
    hash::Hash,
    marker::PhantomData,
    sync::Arc,
};

use parking_lot::RwLock;

use crate::{Key, Lister, Object};

/// Which values an object is found by.
pub trait Index<K>: Send + Sync + 'static {
    /// What is looked up.
    type Value: Eq + Hash + Clone + Send + Sync + 'static;

    /// Emits the values of one object: none, one or several.
    fn values(&self, object: &K, emit: &mut dyn FnMut(Self::Value));

    /// Whether another index of this type yields the same values, so that both can share one table.
    fn same(&self, _other: &Self) -> bool {
        false
    }
}

/// By the uid of the owner that is the object's controller.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByOwner;

impl<K: Object> Index<K> for ByOwner {
    type Value = String;

    fn values(&self, object: &K, emit: &mut dyn FnMut(String)) {
        let owners = object.meta().owner_references.as_deref().unwrap_or_default();
        if let Some(owner) = owners.iter().find(|o| o.controller == Some(true)) {
            emit(owner.uid.clone());
        }
    }

    fn same(&self, _other: &Self) -> bool {
        true
    }
}

/// By the value of one label.
#[derive(Clone, Debug)]
pub struct ByLabel(pub Cow<'static, str>);

impl<K: Object> Index<K> for ByLabel {
    type Value = String;

    fn values(&self, object: &K, emit: &mut dyn FnMut(String)) {
        let labels = object.meta().labels.as_ref();
        if let Some(value) = labels.and_then(|labels| labels.get(&*self.0)) {
            emit(value.clone());
        }
    }

    fn same(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// By what a function finds in the object; see [`by`].
pub struct ByValue<F, O> {
    extract: F,
    out: PhantomData<fn() -> O>,
}

/// An index from a function that returns an `Option` or a collection of values.
///
/// ```
/// use k8s_openapi::api::core::v1::Pod;
/// let _by_node = windlass::by(|pod: &Pod| pod.spec.as_ref()?.node_name.clone());
/// ```
pub fn by<K, F, O>(extract: F) -> ByValue<F, O>
where
    F: Fn(&K) -> O + Send + Sync + 'static,
    O: IntoIterator,
{
    ByValue { extract, out: PhantomData }
}

impl<K, F, O> Index<K> for ByValue<F, O>
where
    F: Fn(&K) -> O + Send + Sync + 'static,
    O: IntoIterator + 'static,
    O::Item: Eq + Hash + Clone + Send + Sync + 'static,
{
    type Value = O::Item;

    fn values(&self, object: &K, emit: &mut dyn FnMut(O::Item)) {
        (self.extract)(object).into_iter().for_each(emit);
    }
}

/// An index together with the cache it points into.
pub struct Indexed<K: Object, I: Index<K>> {
    lister: Lister<K>,
    table: Arc<Table<K, I>>,
}

impl<K: Object, I: Index<K>> Clone for Indexed<K, I> {
    fn clone(&self) -> Self {
        Self { lister: self.lister.clone(), table: self.table.clone() }
    }
}

impl<K: Object, I: Index<K>> Indexed<K, I> {
    pub(crate) fn new(lister: Lister<K>, table: Arc<Table<K, I>>) -> Self {
        Self { lister, table }
    }

    /// The objects with this value, ordered by key.
    pub fn get<Q>(&self, value: &Q) -> Vec<Arc<K>>
    where
        I::Value: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.lister.store().read(|objects| {
            let table = self.table.keys.read();
            let keys = table.get(value).into_iter().flatten();
            keys.filter_map(|key| objects.get(key)).collect()
        })
    }

    /// The keys of the objects with this value, in order.
    pub fn keys<Q>(&self, value: &Q) -> Vec<Key>
    where
        I::Value: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.table.keys.read().get(value).into_iter().flatten().cloned().collect()
    }

    /// How many objects have this value.
    pub fn count<Q>(&self, value: &Q) -> usize
    where
        I::Value: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.table.keys.read().get(value).map_or(0, BTreeSet::len)
    }

    /// The cache itself.
    #[must_use]
    pub fn lister(&self) -> &Lister<K> {
        &self.lister
    }
}

/// The table of one index. Never iterated: only looked up.
pub(crate) struct Table<K, I: Index<K>> {
    pub(crate) index: I,
    keys: RwLock<HashMap<I::Value, BTreeSet<Key>>>,
}

impl<K: Object, I: Index<K>> Table<K, I> {
    pub(crate) fn new(index: I) -> Self {
        Self { index, keys: RwLock::new(HashMap::new()) }
    }

    fn values(&self, object: Option<&K>) -> Vec<I::Value> {
        let mut values = Vec::new();
        if let Some(object) = object {
            self.index.values(object, &mut |v| values.push(v));
        }
        values
    }
}

/// A table without the type of its index, as the store keeps it.
pub(crate) trait Slot<K>: Any + Send + Sync {
    fn change(&self, key: &Key, old: Option<&K>, new: Option<&K>);
}

impl<K: Object, I: Index<K>> Slot<K> for Table<K, I> {
    fn change(&self, key: &Key, old: Option<&K>, new: Option<&K>) {
        let (before, after) = (self.values(old), self.values(new));
        if before == after {
            return;
        }
        let mut keys = self.keys.write();
        for value in before {
            if let Some(set) = keys.get_mut(&value) {
                set.remove(key);
                if set.is_empty() {
                    keys.remove(&value);
                }
            }
        }
        for value in after {
            keys.entry(value).or_default().insert(key.clone());
        }
    }
}
