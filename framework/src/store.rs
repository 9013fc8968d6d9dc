//! The cache of one informer: objects by key, an order over the keys, and the indexes.
//!
//! A relist is applied in place. Each list has a generation; what the list names is stamped with it, and what is left
//! with an older stamp when the list ends has vanished. So a relist costs no second copy of the cache, and an object
//! whose revision did not change keeps its allocation.

use std::{
    any::Any,
    collections::{BTreeSet, hash_map::Entry as Slotted},
    ops::Bound,
    sync::Arc,
};

use kube::core::{Selector, SelectorExt};
use parking_lot::RwLock;
use smallvec::{SmallVec, smallvec};

use crate::{
    Delta, Index, Key, Object,
    index::{Slot, Table},
    key::KeyMap,
};

/// What one change amounts to: two deltas when an object was replaced by another of the same name, else one or none.
pub(crate) type Deltas<K> = SmallVec<[Delta<K>; 2]>;

/// Which list last named an entry: the watch it came from and that watch's list generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) part: u32,
    pub(crate) generation: u32,
}

struct Entry<K> {
    object: Arc<K>,
    stamp: Stamp,
}

pub(crate) struct Store<K> {
    inner: RwLock<Inner<K>>,
}

struct Inner<K> {
    objects: KeyMap<Entry<K>>,
    order: BTreeSet<Key>,
    indexes: Vec<Arc<dyn Slot<K>>>,
}

/// The objects, while the store's read lock is held.
pub(crate) struct View<'a, K>(&'a Inner<K>);

impl<K> View<'_, K> {
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.0.objects.get(key).map(|e| e.object.clone())
    }
}

impl<K: Object> Store<K> {
    pub(crate) fn new() -> Self {
        let inner = Inner { objects: KeyMap::default(), order: BTreeSet::new(), indexes: Vec::new() };
        Self { inner: RwLock::new(inner) }
    }

    pub(crate) fn read<R>(&self, f: impl FnOnce(&View<'_, K>) -> R) -> R {
        f(&View(&self.inner.read()))
    }

    /// Takes in an object as the server has it.
    pub(crate) fn put(&self, object: K, stamp: Stamp, initial: bool) -> Deltas<K> {
        let key = Key::of(&object);
        let inner = &mut *self.inner.write();
        let mut entry = match inner.objects.entry(key) {
            Slotted::Occupied(entry) => entry,
            Slotted::Vacant(entry) => {
                let (key, new) = (entry.key().clone(), Arc::new(object));
                entry.insert(Entry { object: new.clone(), stamp });
                inner.order.insert(key.clone());
                inner.indexes.iter().for_each(|index| index.change(&key, None, Some(&new)));
                return smallvec![Delta::Added { new, initial }];
            }
        };
        entry.get_mut().stamp = stamp;
        let (was, is) = (entry.get().object.meta(), object.meta());
        if was.resource_version.is_some() && was.resource_version == is.resource_version && was.uid == is.uid
        {
            return Deltas::new();
        }
        let replaced = was.uid != is.uid;
        let new = Arc::new(object);
        let old = std::mem::replace(&mut entry.get_mut().object, new.clone());
        let key = entry.key();
        inner.indexes.iter().for_each(|index| index.change(key, Some(&old), Some(&new)));
        if replaced {
            return smallvec![
                Delta::Deleted { last: old, observed: false },
                Delta::Added { new, initial: false }
            ];
        }
        smallvec![Delta::Updated { old, new }]
    }

    /// Takes out an object whose delete was seen; `last` is its final state.
    pub(crate) fn remove(&self, last: K) -> Option<Delta<K>> {
        let key = Key::of(&last);
        let inner = &mut *self.inner.write();
        let entry = inner.objects.remove(&key)?;
        inner.forget(&key, &entry.object);
        Some(Delta::Deleted { last: Arc::new(last), observed: true })
    }

    /// Says that an object is still there, though its state cannot be taken in.
    pub(crate) fn touch(&self, key: &Key, stamp: Stamp) {
        if let Some(entry) = self.inner.write().objects.get_mut(key) {
            entry.stamp = stamp;
        }
    }

    /// Takes out an object whose delete was seen, but not its final state.
    pub(crate) fn forget(&self, key: &Key) -> Option<Delta<K>> {
        let inner = &mut *self.inner.write();
        let entry = inner.objects.remove(key)?;
        inner.forget(key, &entry.object);
        Some(Delta::Deleted { last: entry.object, observed: false })
    }

    /// Takes out what the list of this stamp, now complete, did not name.
    pub(crate) fn sweep(&self, stamp: Stamp) -> Vec<Delta<K>> {
        let inner = &mut *self.inner.write();
        let stale = |key: &&Key| {
            let entry = &inner.objects[*key];
            entry.stamp.part == stamp.part && entry.stamp.generation != stamp.generation
        };
        let gone: Vec<Key> = inner.order.iter().filter(stale).cloned().collect();
        let take = |key: Key| {
            let entry = inner.objects.remove(&key)?;
            inner.forget(&key, &entry.object);
            Some(Delta::Deleted { last: entry.object, observed: false })
        };
        gone.into_iter().filter_map(take).collect()
    }

    /// Adds an index, or finds the one that is the same.
    pub(crate) fn index<I: Index<K>>(&self, index: I) -> Arc<Table<K, I>> {
        let inner = &mut *self.inner.write();
        for slot in &inner.indexes {
            let any: Arc<dyn Any + Send + Sync> = slot.clone();
            if let Ok(table) = any.downcast::<Table<K, I>>()
                && table.index.same(&index)
            {
                return table;
            }
        }
        let table = Arc::new(Table::new(index));
        for key in &inner.order {
            table.change(key, None, Some(&inner.objects[key].object));
        }
        inner.indexes.push(table.clone());
        table
    }

    fn all(&self) -> Vec<Arc<K>> {
        let inner = self.inner.read();
        inner.order.iter().map(|key| inner.objects[key].object.clone()).collect()
    }
}

impl<K: Object> Inner<K> {
    fn forget(&mut self, key: &Key, last: &K) {
        self.order.remove(key);
        self.indexes.iter().for_each(|index| index.change(key, Some(last), None));
    }
}

/// Reads the cache of an informer. Cheap to clone; keeps the informer alive.
pub struct Lister<K: Object> {
    store: Arc<Store<K>>,
    /// The informer that fills the store.
    keep: Arc<dyn Any + Send + Sync>,
}

impl<K: Object> Clone for Lister<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), keep: self.keep.clone() }
    }
}

impl<K: Object> Lister<K> {
    pub(crate) fn new(store: Arc<Store<K>>, keep: Arc<dyn Any + Send + Sync>) -> Self {
        Self { store, keep }
    }

    pub(crate) fn store(&self) -> &Store<K> {
        &self.store
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.store.read(|objects| objects.get(key))
    }

    /// One object, by the parts of its key.
    #[must_use]
    pub fn find(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        self.get(&Key::for_kind::<K>(namespace, name))
    }

    /// All objects, ordered by key.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.all()
    }

    /// The objects of one namespace, or of all, that have the selected labels, ordered by key.
    #[must_use]
    pub fn list(&self, namespace: Option<&str>, selector: &Selector) -> Vec<Arc<K>> {
        let mut found = Vec::new();
        let unlabelled = std::collections::BTreeMap::new();
        self.visit(namespace, |object| {
            if selector.matches(object.meta().labels.as_ref().unwrap_or(&unlabelled)) {
                found.push(object.clone());
            }
        });
        found
    }

    /// The objects of one namespace, ordered by name.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.list(Some(namespace), &Selector::default())
    }

    /// Visits all objects in order of key. The cache is locked for reading meanwhile: be quick, and read no other cache
    /// that a subscriber of this one writes.
    pub fn for_each(&self, visit: impl FnMut(&Arc<K>)) {
        self.visit(None, visit);
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.inner.read().objects.len()
    }

    /// How many objects there are in a namespace.
    pub(crate) fn count_in(&self, namespace: &str) -> usize {
        let mut count = 0;
        self.visit(Some(namespace), |_| count += 1);
        count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn visit(&self, namespace: Option<&str>, mut visit: impl FnMut(&Arc<K>)) {
        let inner = self.store.inner.read();
        let Some(namespace) = namespace else {
            return inner.order.iter().for_each(|key| visit(&inner.objects[key].object));
        };
        let first = Key::new(Some(namespace), "");
        let range = inner.order.range((Bound::Included(first), Bound::Unbounded));
        for key in range.take_while(|key| key.namespace() == Some(namespace)) {
            visit(&inner.objects[key].object);
        }
    }
}
