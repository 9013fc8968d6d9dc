//! Writes that the next reconcile sees.
//!
//! A reconcile reads from caches, and a cache learns of a write only when the watch brings it back. Each write of a
//! [`CachedClient`] therefore notes the revision it made; the worker pool holds the key until the informers of that kind
//! have reached it (the idea of KEP-5647). A write whose answer was lost is held for, too: until the caches are where the
//! server was afterwards. Reads go to the caches; [`CachedClient::live`] asks the server.

use std::{collections::BTreeMap, hash::Hasher, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use http_body_util::BodyExt;
use kube::{
    Client, Resource,
    api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{ObjectMeta, Request as ApiRequest, Status},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Apply, Error, Informers, Key, Object, guard, key,
    loops::{Mark, Marks},
    object::{parse_revision, revision_of},
    prune,
};

/// How many applies are remembered to skip the ones that change nothing.
const REMEMBERED_APPLIES: usize = 8192;

/// A client bound to the caches of this process. Cheap to clone.
#[derive(Clone)]
pub struct CachedClient {
    shared: Arc<Shared>,
    writes: Arc<Mutex<Unseen>>,
}

struct Shared {
    informers: Informers,
    manager: String,
    applied: Mutex<BTreeMap<(String, Key), Applied>>,
}

/// Writes that are waited for without looking which of them were seen meanwhile.
const UNSEEN: usize = 256;

/// Writes that the caches may not have yet.
#[derive(Default)]
struct Unseen {
    waits: Vec<BoxFuture<'static, ()>>,
    /// When there are this many, those that were seen are let go of: a client that nobody waits with, such as that of a
    /// task that runs for ever, does not grow.
    look_at: usize,
    /// What they changed.
    marks: Marks,
}

impl Unseen {
    fn push(&mut self, wait: BoxFuture<'static, ()>) {
        self.waits.push(wait);
        if self.waits.len() >= self.look_at.max(UNSEEN) {
            self.waits.retain_mut(|wait| wait.now_or_never().is_none());
            self.look_at = 2 * self.waits.len();
        }
    }
}

/// How long a key is held at most for a write that may have been done or not.
const DOUBT: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Applied {
    hash: u64,
    revision: u64,
}

impl CachedClient {
    /// A client that writes as `manager` (the field manager) and reads from `informers`.
    #[must_use]
    pub fn new(informers: &Informers, manager: &str) -> Self {
        let shared =
            Shared { informers: informers.clone(), manager: manager.to_owned(), applied: Mutex::default() };
        Self { shared: Arc::new(shared), writes: Arc::default() }
    }

    /// The same client with a record of writes of its own.
    pub(crate) fn for_request(&self) -> Self {
        Self { shared: self.shared.clone(), writes: Arc::default() }
    }

    /// Waits until every write so far is in the caches; false when that takes longer than `limit`.
    pub async fn seen(&self, limit: Duration) -> bool {
        let writes = std::mem::take(&mut self.writes.lock().waits);
        if writes.is_empty() {
            return true;
        }
        tokio::time::timeout(limit, futures::future::join_all(writes)).await.is_ok()
    }

    /// Whether there are writes that the caches do not have yet.
    pub(crate) fn has_unseen(&self) -> bool {
        !self.writes.lock().waits.is_empty()
    }

    /// What it has changed in the API since this was asked last.
    pub(crate) fn wrote(&self) -> Vec<Mark> {
        self.writes.lock().marks.take()
    }

    /// The client underneath, whose writes are not tracked.
    #[must_use]
    pub fn raw(&self) -> &Client {
        self.shared.informers.client()
    }

    /// The name that writes carry in managed fields.
    pub(crate) fn field_manager(&self) -> &str {
        &self.shared.manager
    }

    /// The caches.
    #[must_use]
    pub fn informers(&self) -> &Informers {
        &self.shared.informers
    }

    /// An object as the server has it now; `None` when there is none.
    pub async fn live<K: Object>(&self, key: &Key) -> Result<Option<K>, Error>
    where
        K::DynamicType: Default,
    {
        let request = path::<K>(key.namespace()).get(key.name(), &GetParams::default()).map_err(build)?;
        match self.call::<K>(guard::about::<K>(request)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates an object.
    pub async fn create<K: Object + Serialize>(&self, object: &K) -> Result<Arc<K>, Error>
    where
        K::DynamicType: Default,
    {
        let params = PostParams { field_manager: Some(self.shared.manager.clone()), ..PostParams::default() };
        let path = path::<K>(object.meta().namespace.as_deref());
        self.write(&Target::of(object), path.create(&params, json(object)?)).await
    }

    /// Replaces an object; fails on conflict if its revision is set and no longer current.
    pub async fn update<K: Object + Serialize>(&self, object: &K) -> Result<Arc<K>, Error>
    where
        K::DynamicType: Default,
    {
        let params = PostParams { field_manager: Some(self.shared.manager.clone()), ..PostParams::default() };
        let path = path::<K>(object.meta().namespace.as_deref());
        self.write(&Target::of(object), path.replace(name(object), &params, json(object)?)).await
    }

    /// Replaces a subresource of an object, such as `status`.
    pub async fn update_subresource<K: Object + Serialize>(
        &self,
        sub: &str,
        object: &K,
    ) -> Result<Arc<K>, Error>
    where
        K::DynamicType: Default,
    {
        let params = PostParams { field_manager: Some(self.shared.manager.clone()), ..PostParams::default() };
        let path = path::<K>(object.meta().namespace.as_deref());
        let request = path.replace_subresource(sub, name(object), &params, json(object)?);
        self.write(&Target::of(object), request).await
    }

    /// Replaces the status of an object.
    pub async fn update_status<K: Object + Serialize>(&self, object: &K) -> Result<Arc<K>, Error>
    where
        K::DynamicType: Default,
    {
        self.update_subresource("status", object).await
    }

    /// Patches an object.
    pub async fn patch<K: Object>(&self, key: &Key, patch: &Patch<impl Serialize>) -> Result<Arc<K>, Error>
    where
        K::DynamicType: Default,
    {
        let request = path::<K>(key.namespace()).patch(key.name(), &self.patch_params(patch), patch);
        self.write(&Target::at(key), request).await
    }

    /// Patches an object as another field manager than the client's.
    pub async fn patch_as<K: Object>(
        &self,
        key: &Key,
        params: &PatchParams,
        patch: &Patch<impl Serialize>,
    ) -> Result<Arc<K>, Error>
    where
        K::DynamicType: Default,
    {
        let request = path::<K>(key.namespace()).patch(key.name(), params, patch);
        self.write(&Target::at(key), request).await
    }

    /// Patches the status of an object.
    pub async fn patch_status<K: Object>(
        &self,
        key: &Key,
        patch: &Patch<impl Serialize>,
    ) -> Result<Arc<K>, Error>
    where
        K::DynamicType: Default,
    {
        let params = self.patch_params(patch);
        let request = path::<K>(key.namespace()).patch_subresource("status", key.name(), &params, patch);
        self.write(&Target::at(key), request).await
    }

    /// Server-side apply, by force, of an object or of a configuration ([`Apply`]). An apply of the same content to an
    /// object nobody has changed since is not sent.
    pub async fn apply<A: Apply>(&self, object: &A) -> Result<Arc<A::Kind>, Error>
    where
        <A::Kind as Resource>::DynamicType: Default,
    {
        self.apply_to("", object).await
    }

    /// Server-side apply of the status.
    pub async fn apply_status<A: Apply>(&self, object: &A) -> Result<Arc<A::Kind>, Error>
    where
        <A::Kind as Resource>::DynamicType: Default,
    {
        self.apply_to("status", object).await
    }

    /// Deletes this very object: one of the same name that came after it is left alone, and an object that is gone
    /// already is fine.
    pub async fn delete<K: Object>(&self, object: &K) -> Result<(), Error>
    where
        K::DynamicType: Default,
    {
        self.delete_with(object, DeleteParams::default()).await
    }

    /// Deletes this very object with other parameters, such as a propagation policy or a grace period.
    pub async fn delete_with<K: Object>(&self, object: &K, mut params: DeleteParams) -> Result<(), Error>
    where
        K::DynamicType: Default,
    {
        let meta = object.meta();
        let preconditions = params.preconditions.get_or_insert(Preconditions::default());
        preconditions.uid = preconditions.uid.take().or_else(|| meta.uid.clone());
        let request = path::<K>(meta.namespace.as_deref()).delete(name(object), &params).map_err(build)?;
        match self.bytes(guard::about::<K>(request)).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            // Either another object has the name by now, or this one is still there and the caller has to try again.
            Err(error) if error.is_conflict() => {
                let current = self.live::<K>(&Key::of(object)).await?;
                if current.is_some_and(|current| current.meta().uid == meta.uid) {
                    return Err(error);
                }
            }
            Err(error) => return Err(self.doubt::<K>(&Target::of(object), error)),
        }
        self.writes.lock().marks.add(Mark::Deleted(meta.uid.clone().unwrap_or_default()));
        for informer in self.shared.informers.following::<K>() {
            self.writes.lock().push(informer.lets_go(Key::of(object), meta.uid.clone()));
        }
        Ok(())
    }

    async fn apply_to<A: Apply>(&self, sub: &'static str, object: &A) -> Result<Arc<A::Kind>, Error>
    where
        <A::Kind as Resource>::DynamicType: Default,
    {
        let body = json(object)?;
        let key = object.key();
        let id = (format!("{}/{sub}", A::Kind::url_path(&Default::default(), None)), key.clone());
        let hash = hash(&body);
        if let Some(current) = self.unchanged::<A::Kind>(&id, hash) {
            return Ok(current);
        }
        let body: serde_json::Value = serde_json::from_slice(&body).map_err(|e| Error::Other(e.into()))?;
        let (params, patch) = (PatchParams::apply(&self.shared.manager).force(), Patch::Apply(body));
        let path = path::<A::Kind>(key.namespace());
        let request = match sub {
            "" => path.patch(key.name(), &params, &patch),
            sub => path.patch_subresource(sub, key.name(), &params, &patch),
        };
        let written: Arc<A::Kind> = self.write(&Target::at(&key), request).await?;
        let mut applied = self.shared.applied.lock();
        if applied.len() >= REMEMBERED_APPLIES {
            applied.clear();
        }
        applied.insert(id, Applied { hash, revision: revision_of(&*written) });
        Ok(written)
    }

    /// The cached object, if the last apply had this content and nothing has changed since.
    fn unchanged<K: Object>(&self, id: &(String, Key), hash: u64) -> Option<Arc<K>>
    where
        K::DynamicType: Default,
    {
        let last = self.shared.applied.lock().get(id).cloned().filter(|last| last.hash == hash)?;
        let informer = self.shared.informers.holding::<K>().into_iter().next()?;
        informer.get(&id.1).filter(|current| revision_of(&**current) == last.revision)
    }

    fn patch_params<P: Serialize>(&self, patch: &Patch<P>) -> PatchParams {
        match patch {
            Patch::Apply(_) => PatchParams::apply(&self.shared.manager).force(),
            _ => PatchParams { field_manager: Some(self.shared.manager.clone()), ..PatchParams::default() },
        }
    }

    /// Sends a write and notes the revision it made.
    async fn write<K: Object>(
        &self,
        target: &Target,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Arc<K>, Error>
    where
        K::DynamicType: Default,
    {
        let request = guard::about::<K>(request.map_err(build)?);
        let before = self.cached_revision::<K>(target);
        let object: K = match self.call(request).await {
            Ok(object) => object,
            Err(error) => return Err(self.doubt::<K>(target, error)),
        };
        let revision = revision_of(&object);
        let namespace = object.meta().namespace.as_deref();
        if before.is_none() || before != object.meta().resource_version {
            self.writes.lock().marks.add(Mark::Wrote(revision));
        }
        for informer in self.shared.informers.following::<K>() {
            if !informer.has_reached(namespace, revision) {
                self.writes.lock().push(informer.reaches(namespace, revision));
            }
        }
        Ok(Arc::new(object))
    }

    /// The revision of a write's object in a cache before the write; one that comes back unchanged has changed nothing.
    fn cached_revision<K: Object>(&self, target: &Target) -> Option<String>
    where
        K::DynamicType: Default,
    {
        let key = Key::for_kind::<K>(target.namespace.as_deref(), target.name.as_deref()?);
        self.shared.informers.following::<K>().iter().find_map(|informer| informer.revision_at(&key))
    }

    /// After a write that may have been done or not: the caches have to reach what the server has now, for the next
    /// reconcile to know which.
    fn doubt<K: Object>(&self, target: &Target, error: Error) -> Error
    where
        K::DynamicType: Default,
    {
        if !error.is_unsure() {
            return error;
        }
        let (client, target) = (self.for_request(), target.clone());
        let settled = async move { client.catch_up::<K>(&target).await };
        self.writes.lock().push(Box::pin(async move {
            let _ = tokio::time::timeout(DOUBT, settled).await;
        }));
        error
    }

    /// Waits until the caches of a kind have what the server has of a target.
    async fn catch_up<K: Object>(&self, target: &Target)
    where
        K::DynamicType: Default,
    {
        let stand = loop {
            match self.stand::<K>(target).await {
                Ok(stand) => break stand,
                Err(_) => tokio::time::sleep(DOUBT / 10).await,
            }
        };
        for informer in self.shared.informers.following::<K>() {
            match (stand, &target.name) {
                (Some(revision), _) => informer.reaches(target.namespace.as_deref(), revision).await,
                (None, Some(name)) => {
                    let key = Key::for_kind::<K>(target.namespace.as_deref(), name);
                    let known = informer.uid(&key);
                    informer.lets_go(key, known).await;
                }
                (None, None) => {}
            }
        }
    }

    /// The revision that the server has of a target now; `None` when it has none.
    async fn stand<K: Object>(&self, target: &Target) -> Result<Option<u64>, Error>
    where
        K::DynamicType: Default,
    {
        let path = path::<K>(target.namespace.as_deref());
        let revision = |meta: &ObjectMeta| meta.resource_version.as_deref().map_or(0, parse_revision);
        let Some(name) = &target.name else {
            // The server chose the name, if it came to that: what is newest tells.
            let request = path.list_metadata(&ListParams::default()).map_err(build)?;
            let all: Metas = self.call(request).await?;
            return Ok(all.items.iter().map(|item| revision(&item.metadata)).max());
        };
        match self.call::<Meta>(path.get_metadata(name, &GetParams::default()).map_err(build)?).await {
            Ok(one) => Ok(Some(revision(&one.metadata))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn call<T: DeserializeOwned>(&self, request: http::Request<Vec<u8>>) -> Result<T, Error> {
        let bytes = self.bytes(request).await?;
        let pruned = prune::without_managed_fields(&bytes);
        Ok(serde_json::from_slice(&pruned).map_err(kube::Error::SerdeError)?)
    }

    async fn bytes(&self, request: http::Request<Vec<u8>>) -> Result<bytes::Bytes, Error> {
        let response = self.raw().send(request.map(Into::into)).await?;
        let code = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        if code.is_success() {
            return Ok(bytes);
        }
        let status = serde_json::from_slice::<Status>(&bytes).unwrap_or_else(|_| {
            let reason = code.canonical_reason().unwrap_or_default();
            Status::failure(&String::from_utf8_lossy(&bytes), reason).with_code(code.as_u16())
        });
        Err(kube::Error::Api(status.boxed()).into())
    }
}

fn path<K: Object>(namespace: Option<&str>) -> ApiRequest
where
    K::DynamicType: Default,
{
    ApiRequest::new(K::url_path(&K::DynamicType::default(), namespace))
}

fn name<K: Object>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// What a write is about.
#[derive(Clone)]
struct Target {
    namespace: Option<String>,
    /// `None` when the server chooses it.
    name: Option<String>,
}

impl Target {
    fn of<K: Object>(object: &K) -> Self {
        let meta = object.meta();
        Self { namespace: meta.namespace.clone(), name: meta.name.clone().filter(|name| !name.is_empty()) }
    }

    fn at(key: &Key) -> Self {
        Self { namespace: key.namespace().map(str::to_owned), name: Some(key.name().to_owned()) }
    }
}

#[derive(Deserialize)]
struct Meta {
    metadata: ObjectMeta,
}

#[derive(Deserialize)]
struct Metas {
    items: Vec<Meta>,
}

fn json(object: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(object).map_err(|error| Error::Other(error.into()))
}

fn build(error: kube::core::request::Error) -> Error {
    Error::Kube(kube::Error::BuildRequest(error))
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = key::KeyHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn writes_that_were_seen_are_let_go_of() {
        let mut unseen = Unseen::default();
        for n in 0..10_000 {
            unseen.push(if n < 500 { Box::pin(pending()) } else { Box::pin(ready(())) });
            assert!(unseen.waits.len() <= 1024, "{n}");
        }
        let pending = unseen.waits.iter_mut().filter_map(|wait| wait.now_or_never().is_none().then_some(()));
        assert_eq!(pending.count(), 500, "what was not seen is still waited for");
    }
}
