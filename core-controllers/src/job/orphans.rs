//! Pods that a Job left behind with the finalizer that only the Job would have taken away: the Job is gone, has finished,
//! or lost the pod. As upstream's second queue of the Job controller.

use std::sync::Arc;

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use windlass::{
    Action, ByOwner, CachedClient, Controller, Error, Informer, Key, ManagerBuilder, Reconcile, Request,
    Scope, controller_of,
};

use super::{facts, finished, is_ours, take_finalizer};
use crate::{Options, pods};

/// Adds the controller to a manager.
pub(super) fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let (pods, jobs) = (informers.get::<Pod>(Scope::all()), informers.get::<Job>(Scope::all()));
    let by_owner = pods.index(ByOwner);
    let controller = Controller::<Pod>::new("job_orphan_pod")
        .component("job-controller")
        .workers(options.workers)
        .filter(|delta| {
            let pod = delta.object();
            let left =
                pods::is_terminating(pod) || controller_of(&pod.metadata).is_none() || delta.is_initial();
            left && facts::is_tracked(pod)
        })
        .watches::<Job, _>(Scope::all(), move |delta, _| {
            let job = delta.object();
            let over = delta.is_deleted() || finished(job).is_some();
            let uid = job.metadata.uid.clone().filter(|_| over);
            let mut pods = uid.map(|uid| by_owner.get(&uid)).unwrap_or_default();
            pods.retain(|pod| facts::is_tracked(pod));
            pods.iter().map(|pod| Key::of(&**pod)).collect::<Vec<_>>()
        });
    manager.add(controller.build(Left { jobs }));
}

struct Left {
    jobs: Informer<Job>,
}

impl Reconcile<Pod> for Left {
    async fn reconcile(&self, request: Request<Pod>) -> Result<Action, Error> {
        let Some(pod) = request.object.clone().filter(|pod| facts::is_tracked(pod)) else {
            return Ok(Action::Done);
        };
        if self.is_left(&pod, &request.client).await? {
            take_finalizer(&pod, &request).await?;
        }
        Ok(Action::Done)
    }
}

impl Left {
    /// Whether no Job will take the finalizer away.
    async fn is_left(&self, pod: &Pod, client: &CachedClient) -> Result<bool, Error> {
        let Some(owner) = controller_of(&pod.metadata) else { return Ok(true) };
        if owner.kind != "Job" || owner.api_version != "batch/v1" {
            return Ok(false);
        }
        let key = Key::new(pod.metadata.namespace.as_deref(), &owner.name);
        let known = self.jobs.get(&key).filter(|job| job.metadata.uid.as_ref() == Some(&owner.uid));
        let job = match known {
            Some(job) => Some(job),
            // It may be newer than the cache.
            None => client.live::<Job>(&key).await?.map(Arc::new),
        };
        let job = job.filter(|job| job.metadata.uid.as_ref() == Some(&owner.uid));
        Ok(job.is_none_or(|job| is_ours(&job) && finished(&job).is_some()))
    }
}
