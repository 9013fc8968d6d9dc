//! What happens to members, and in them, as triggers of a controller of the hub.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{ClusterChange, Clusters, Member};
use crate::{
    Controller, Delta, Informers, Key, Object, Scope, Subscription, Verbs,
    controller::{Trigger, Wire, Wiring},
};

impl<K: Object> Controller<K>
where
    K::DynamicType: Default,
{
    /// Also triggered by members that come, go, fall silent and answer again, for the keys that `map` names from the hub's
    /// caches. It begins when the provider has told which members there are.
    #[must_use]
    pub fn clusters<I: IntoIterator<Item = Key>>(
        mut self,
        clusters: &Clusters,
        map: impl Fn(&ClusterChange, &Informers) -> I + Send + Sync + 'static,
    ) -> Self {
        let (map, all) = (Arc::new(map), clusters.clone());
        let connect = move |wiring: &Wiring<'_>| {
            let (enqueue, informers, map) = (wiring.enqueue(), wiring.informers.clone(), map.clone());
            let following = all.follow(move |change| {
                for key in map(change, &informers) {
                    enqueue.now(key);
                }
            });
            Wire { synced: all.listed(), keep: Box::new(()), _connected: Box::new(following) }
        };
        self.trigger(Trigger { connect: Box::new(connect), warm: Box::new(|_, _| Box::new(())) });
        self.brings(clusters.part());
        self
    }

    /// Also triggered by changes of kind `C` in members, for the keys of the hub that `map` names. A member need not be
    /// reached for the controller to begin: what is known of it, [`Member::cache`] says.
    #[must_use]
    pub fn watches_members<C: Object, I: IntoIterator<Item = Key>>(
        mut self,
        clusters: &Clusters,
        scope: Scope,
        map: impl Fn(&Member, &Delta<C>, &Informers) -> I + Send + Sync + 'static,
    ) -> Self
    where
        C::DynamicType: Default,
    {
        clusters.inner.settings.lock().rules.allow::<C>(&scope, Verbs::READ);
        let (map, all) = (Arc::new(map), clusters.clone());
        let connect = move |wiring: &Wiring<'_>| {
            let (enqueue, hub, map) = (wiring.enqueue(), wiring.informers.clone(), map.clone());
            let (scope, watched) = (scope.clone(), Mutex::new(BTreeMap::<Arc<str>, Subscription>::new()));
            let following = all.follow(move |change| match change {
                ClusterChange::Joined(member) => {
                    let (enqueue, hub, map) = (enqueue.clone(), hub.clone(), map.clone());
                    let (informer, of) = (member.informers.get::<C>(scope.clone()), member.clone());
                    let subscription = informer.subscribe(move |delta| {
                        for key in map(&of, delta, &hub) {
                            enqueue.because(key, delta);
                        }
                    });
                    let before = watched.lock().insert(member.name.clone(), subscription);
                    drop(before);
                }
                ClusterChange::Left(member) => {
                    let gone = watched.lock().remove(&member.name);
                    drop(gone);
                }
                ClusterChange::Ready(_) | ClusterChange::NotReady(_) => {}
            });
            Wire { synced: all.listed(), keep: Box::new(()), _connected: Box::new(following) }
        };
        self.trigger(Trigger { connect: Box::new(connect), warm: Box::new(|_, _| Box::new(())) });
        self.brings(clusters.part());
        self
    }
}
