//! The end of a definition: first its instances, then the definition itself.
//!
//! A deletion leaves a definition waiting for a finalizer ([`begin`]). [`run`] deletes the instances, waits until
//! their own finalizers are done, and lets the definition go. Source:
//! `k8s.io/apiextensions-apiserver/pkg/controller/finalizer`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{PREFIX, condition, conversion_of, is_established, row};
use crate::{
    api::Api,
    authn::Identity,
    bootstrap::own_context,
    context::Context,
    delete,
    object::{self, is_deleting},
    request::{Query, RequestInfo},
    status::{ApiError, ApiResult},
    strategy::Part,
    view,
    write::{self, Change},
};

/// What a definition waits for until its instances are gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// When a deletion of instances that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Marks a definition that begins to be deleted.
pub(crate) fn begin(crd: &mut Value) {
    let mut finalizers = object::finalizers(crd);
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    object::set(crd, &["metadata", "finalizers"], finalizers);
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    terminating(crd, "True", "InstanceDeletionPending", message);
}

/// True once new instances are refused.
pub(super) fn is_terminating(crd: &Value) -> bool {
    object::list(crd, &["status", "conditions"])
        .iter()
        .any(|c| object::text(c, &["type"]) == "Terminating" && object::text(c, &["status"]) == "True")
}

fn terminating(crd: &mut Value, status: &str, reason: &str, message: &str) {
    condition(crd, "Terminating", status, reason, message, &object::now());
}

/// Brings definitions that are being deleted to their end, for ever.
pub(crate) async fn run(api: &Arc<Api>) {
    let mut endings = JoinSet::new();
    let mut under_way = BTreeSet::new();
    loop {
        let snapshot = api.store.snapshot();
        let news = api.store.watch(PREFIX, snapshot.revision());
        for (_, crd) in view::objects(&snapshot, PREFIX) {
            let waits = is_deleting(&crd) && object::finalizers(&crd).iter().any(|f| f == FINALIZER);
            if waits && under_way.insert(object::uid(&crd).to_owned()) {
                let api = Arc::clone(api);
                endings.spawn(async move {
                    end(&api, &crd).await;
                    object::uid(&crd).to_owned()
                });
            }
        }
        let Ok(mut news) = news else { continue };
        tokio::select! {
            biased;
            // Lost or not: the next turn looks at everything.
            _ = news.next() => {}
            Some(Ok(uid)) = endings.join_next() => { under_way.remove(&uid); }
        }
    }
}

async fn end(api: &Arc<Api>, crd: &Value) {
    loop {
        let ended = if is_established(crd) {
            match instances(api, crd) {
                Some(cx) => delete_instances(api, crd, &cx).await,
                None => Err(ApiError::internal("the definition has no usable storage version")),
            }
        } else {
            Ok(("NeverEstablished", "resource was never established"))
        };
        let written = match &ended {
            Ok((reason, message)) => update(api, crd, "False", reason, message).await,
            Err(error) => {
                let message = format!("could not issue all deletes: {}", error.message);
                update(api, crd, "True", "InstanceDeletionFailed", &message).await
            }
        };
        match (ended, written) {
            (Ok(_), Ok(())) => return,
            (_, Err(error)) if error.reason == "NotFound" => return,
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(
                    name = object::name(crd),
                    error = error.message,
                    "a definition cannot end yet"
                );
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Deletes all instances, and returns when the last of them is gone.
async fn delete_instances(
    api: &Arc<Api>,
    crd: &Value,
    cx: &Context,
) -> ApiResult<(&'static str, &'static str)> {
    update(api, crd, "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress").await?;
    loop {
        let snapshot = api.store.snapshot();
        let mut left = false;
        for (entry, obj) in view::objects(&snapshot, &cx.resource.prefix) {
            left = true;
            if !is_deleting(&obj) {
                let (namespace, name) = cx.resource.split_key(&entry.key);
                delete::background(cx, namespace, name).await?;
            }
        }
        if !left {
            return Ok(("InstanceDeletionCompleted", "removed all instances"));
        }
        if let Ok(mut news) = api.store.watch(&cx.resource.prefix, snapshot.revision()) {
            // Lost or not: the next turn looks at everything.
            let _ = news.next().await;
        }
    }
}

/// A context in which the server itself deletes instances, in the version in which they are stored.
fn instances(api: &Arc<Api>, crd: &Value) -> Option<Context> {
    let storage = |v: &&Value| v.get("storage").and_then(Value::as_bool) == Some(true);
    let version = object::list(crd, &["spec", "versions"]).iter().find(storage)?;
    let resource = Arc::new(row(crd, version, &Arc::new(conversion_of(crd)))?);
    let info = RequestInfo {
        is_resource: true,
        verb: "delete",
        group: resource.group.to_string(),
        version: resource.version.to_string(),
        resource: resource.plural.to_string(),
        ..RequestInfo::default()
    };
    Some(Context {
        api: Arc::clone(api),
        info,
        query: Query::default(),
        headers: HeaderMap::new(),
        user: Identity::system(),
        resource,
        warnings: Mutex::default(),
        annotations: Mutex::default(),
        dry_run: std::sync::OnceLock::new(),
    })
}

/// Writes the condition; when it says that nothing is left, the finalizer goes with it.
async fn update(api: &Arc<Api>, crd: &Value, status: &str, reason: &str, message: &str) -> ApiResult<()> {
    let cx = own_context(api, "update", "apiextensions.k8s.io", "v1", "customresourcedefinitions", crd);
    let change = |old: &Value| {
        if object::uid(old) != object::uid(crd) {
            return Err(ApiError::not_found(&cx.resource, object::name(crd)));
        }
        let mut new = old.clone();
        terminating(&mut new, status, reason, message);
        if status == "False" {
            let mut finalizers = object::finalizers(&new);
            finalizers.retain(|f| f != FINALIZER);
            object::set(&mut new, &["metadata", "finalizers"], finalizers);
        }
        Ok(Change::of(new))
    };
    write::modify(&cx, Part::Server, change).await.map(drop)
}
