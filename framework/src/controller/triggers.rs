//! What triggers a controller: other kinds, sources of its own, and whoever is lent its queue.
//!
//! A trigger is only described here. It is connected at each start of the controller, and warmed, cache alone, on a
//! replica that does not lead.

use std::{any::Any, future::ready, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use super::Controller;
use crate::{
    Delta, Informer, Informers, Key, Object, Scope, Subscription, Verbs,
    loops::Loops,
    owners,
    queue::{Add, Priority, SharedQueue},
    shards::Selection,
    source::Source,
};

/// Something that adds keys to the queue of a controller.
pub(crate) struct Trigger {
    /// Connects it with the queue.
    pub(crate) connect: Box<dyn Fn(&Wiring<'_>) -> Wire + Send + Sync>,
    /// Fills the caches it will read, and hands out what keeps them.
    pub(crate) warm: Box<dyn Fn(&Informers, &Scope) -> Kept + Send + Sync>,
}

/// What keeps a cache.
pub(crate) type Kept = Box<dyn Any + Send>;

/// What a trigger is connected with.
pub(crate) struct Wiring<'a> {
    pub(crate) informers: &'a Informers,
    pub(crate) queue: &'a SharedQueue,
    pub(crate) scope: &'a Scope,
    pub(crate) loops: &'a Arc<Loops>,
    /// What the watches of the controller's own kind ask for.
    pub(crate) selection: Option<&'a Selection>,
}

/// A trigger that is connected, until it is dropped.
pub(crate) struct Wire {
    pub(crate) synced: BoxFuture<'static, ()>,
    /// The informer, kept while the controller pauses so that its cache stays warm.
    pub(crate) keep: Kept,
    pub(crate) _connected: Box<dyn Any + Send>,
}

/// Adds keys to the queue of a controller from elsewhere.
#[derive(Clone)]
pub struct Enqueue {
    queue: SharedQueue,
    loops: Arc<Loops>,
}

impl Enqueue {
    pub(crate) fn new(queue: &SharedQueue, loops: &Arc<Loops>) -> Self {
        Self { queue: queue.clone(), loops: loops.clone() }
    }

    /// Adds a key because of a change.
    pub(crate) fn because<C: Object>(&self, key: Key, delta: &Delta<C>) {
        self.loops.triggered(&key, delta);
        self.queue.add(key, Add { priority: priority(delta), ..Add::default() });
    }

    /// Adds a key to be reconciled now.
    pub fn now(&self, key: Key) {
        self.add(key, Add::default());
    }

    /// Adds a key to be reconciled after a while.
    pub fn after(&self, key: Key, after: Duration) {
        self.add(key, Add { after, ..Add::default() });
    }

    /// Adds a key with a delay and a priority.
    pub fn add(&self, key: Key, add: Add) {
        self.loops.asked(&key);
        self.queue.add(key, add);
    }
}

impl<K: Object> Controller<K>
where
    K::DynamicType: Default,
{
    /// Also triggered by objects of kind `C` that an object of kind `K` controls, for that object. The reconciler may
    /// read and write them.
    #[must_use]
    pub fn owns<C: Object>(self) -> Self
    where
        C::DynamicType: Default,
    {
        self.owns_if::<C>(|_| true)
    }

    /// As [`Controller::owns`], for changes that pass a filter; deletes always pass.
    #[must_use]
    pub fn owns_if<C: Object>(mut self, filter: impl Fn(&Delta<C>) -> bool + Send + Sync + 'static) -> Self
    where
        C::DynamicType: Default,
    {
        let filter = Arc::new(filter);
        let connect = move |wiring: &Wiring<'_>| {
            let owners = wiring.own::<K>();
            let children = wiring.informers.get::<C>(wiring.scope.clone());
            let (enqueue, filter) = (wiring.enqueue(), filter.clone());
            let subscription = children.subscribe(move |delta: &Delta<C>| {
                if !delta.is_deleted() && !filter(delta) {
                    return;
                }
                for key in owner_keys::<K, C>(delta, &owners) {
                    enqueue.because(key, delta);
                }
            });
            Wire::new(children, Some(subscription))
        };
        let warm =
            |informers: &Informers, scope: &Scope| -> Kept { Box::new(informers.get::<C>(scope.clone())) };
        self.triggers.push(Trigger { connect: Box::new(connect), warm: Box::new(warm) });
        self.needs(|scope, rules| {
            rules.allow::<C>(scope, Verbs::ALL);
            // A reference that holds up the owner's deletion may be set by who may set the owner's finalizers.
            rules.allow_sub::<K>(scope, "finalizers", Verbs::UPDATE);
        })
    }

    /// Also triggered by changes of kind `C`, for the keys that `map` names.
    #[must_use]
    pub fn watches<C: Object, I>(
        self,
        scope: Scope,
        map: impl Fn(&Delta<C>, &Informers) -> I + Send + Sync + 'static,
    ) -> Self
    where
        C::DynamicType: Default,
        I: IntoIterator<Item = Key>,
    {
        self.watches_if(scope, |_| true, map)
    }

    /// As [`Controller::watches`], for changes that pass a filter; deletes always pass.
    #[must_use]
    pub fn watches_if<C: Object, I>(
        self,
        scope: Scope,
        filter: impl Fn(&Delta<C>) -> bool + Send + Sync + 'static,
        map: impl Fn(&Delta<C>, &Informers) -> I + Send + Sync + 'static,
    ) -> Self
    where
        C::DynamicType: Default,
        I: IntoIterator<Item = Key>,
    {
        self.triggered_by::<C>(scope, move |delta, informers, enqueue| {
            if !delta.is_deleted() && !filter(delta) {
                return;
            }
            for key in map(delta, informers) {
                enqueue.because(key, delta);
            }
        })
    }

    /// Also triggered by changes of kind `C`, however `trigger` decides: now, after a while, or not at all.
    #[must_use]
    pub fn triggered_by<C: Object>(
        mut self,
        scope: Scope,
        trigger: impl Fn(&Delta<C>, &Informers, &Enqueue) + Send + Sync + 'static,
    ) -> Self
    where
        C::DynamicType: Default,
    {
        let (trigger, watched, warmed) = (Arc::new(trigger), scope.clone(), scope.clone());
        self = self.needs(move |_, rules| rules.allow::<C>(&watched, Verbs::READ));
        let connect = move |wiring: &Wiring<'_>| {
            let informer = wiring.informers.get::<C>(scope.clone());
            let (informers, trigger) = (wiring.informers.clone(), trigger.clone());
            let enqueue = wiring.enqueue();
            let subscription = informer.subscribe(move |delta| trigger(delta, &informers, &enqueue));
            Wire::new(informer, Some(subscription))
        };
        let warm =
            move |informers: &Informers, _: &Scope| -> Kept { Box::new(informers.get::<C>(warmed.clone())) };
        self.triggers.push(Trigger { connect: Box::new(connect), warm: Box::new(warm) });
        self
    }

    /// Also triggered by what is no object: a channel, a timer, or what an outside system answers; see [`crate::source`].
    #[must_use]
    pub fn source(mut self, source: impl Source) -> Self {
        self.sources.push(Arc::new(source));
        self
    }

    /// Every object is reconciled again about once in this time, give or take a tenth, behind everything that changed.
    /// By default never: a change is not missed. For what changes outside of the cluster.
    #[must_use]
    pub fn resync(mut self, period: Duration) -> Self {
        self.resync = Some(period);
        self
    }

    /// Lends its queue to whoever finds triggers of its own while the controller runs; called at each start.
    #[must_use]
    pub fn lends_queue(mut self, lend: impl Fn(Enqueue) + Send + Sync + 'static) -> Self {
        let connect = move |wiring: &Wiring<'_>| {
            lend(wiring.enqueue());
            Wire::none()
        };
        self.triggers.push(Trigger { connect: Box::new(connect), warm: Box::new(|_, _| Box::new(())) });
        self
    }

    /// Reads this informer: no reconcile before its first list is complete.
    #[must_use]
    pub fn reads<C: Object>(mut self, informer: &Informer<C>) -> Self {
        let informer = informer.clone();
        let connect = move |_: &Wiring<'_>| Wire::new(informer.clone(), None);
        self.triggers.push(Trigger { connect: Box::new(connect), warm: Box::new(|_, _| Box::new(())) });
        self
    }

    /// Connects a part that finds its triggers by itself.
    pub(crate) fn trigger(&mut self, trigger: Trigger) {
        self.triggers.push(trigger);
    }

    /// The wire of the controller's own kind.
    pub(super) fn primary(&self, informer: &Informer<K>, enqueue: Enqueue) -> Wire {
        let filter = self.filter.clone();
        let subscription = informer.subscribe(move |delta| {
            let wanted = delta.is_deleted() || filter.as_ref().is_none_or(|filter| filter(delta));
            if wanted {
                enqueue.because(delta.key(), delta);
            }
        });
        Wire::new(informer.clone(), Some(subscription))
    }
}

impl Wiring<'_> {
    /// The cache of the controller's own kind.
    pub(crate) fn own<K: Object>(&self) -> Informer<K>
    where
        K::DynamicType: Default,
    {
        self.informers.select(&K::DynamicType::default(), self.scope, true, self.selection)
    }

    pub(crate) fn enqueue(&self) -> Enqueue {
        Enqueue::new(self.queue, self.loops)
    }
}

impl Wire {
    fn new<C: Object>(informer: Informer<C>, subscription: Option<Subscription>) -> Self {
        let synced = Box::pin(informer.synced());
        Self { synced, keep: Box::new(informer), _connected: Box::new(subscription) }
    }

    fn none() -> Self {
        Self::guarded(())
    }

    /// A trigger that has nothing to wait for, and that ends when `guard` is dropped.
    pub(crate) fn guarded(guard: impl Any + Send) -> Self {
        Self { synced: Box::pin(ready(())), keep: Box::new(()), _connected: Box::new(guard) }
    }
}

fn priority<C: Object>(delta: &Delta<C>) -> Priority {
    if delta.is_initial() { Priority::INITIAL } else { Priority::NORMAL }
}

/// The objects that control, or controlled, what changed. A reference to another object of the same name is skipped.
fn owner_keys<K: Object, C: Object>(delta: &Delta<C>, known: &Informer<K>) -> Vec<Key>
where
    K::DynamicType: Default,
{
    let kind = K::DynamicType::default();
    let mut keys = Vec::with_capacity(1);
    for object in [delta.new(), delta.old()].into_iter().flatten() {
        let meta = object.meta();
        let Some(owner) = owners::controller_of(meta).filter(|o| owners::refers_to::<K>(o, &kind)) else {
            continue;
        };
        let key = Key::for_kind::<K>(meta.namespace.as_deref(), &owner.name);
        let another = known.get(&key).is_some_and(|k| k.meta().uid.as_deref() != Some(&owner.uid));
        if !another && !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}
