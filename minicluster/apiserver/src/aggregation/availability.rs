//! Whether another server can be asked: the condition `Available`, and what the server says of itself.
//!
//! A task for each `APIService` with a Service: it looks again when the Service or its endpoints change, and every so
//! often. Source: `k8s.io/kube-aggregator/pkg/controllers/status/remote`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{Learned, PREFIX, Target, proxy};
use crate::{
    api::Api,
    authn::Identity,
    body::{self, Body},
    bootstrap::own_context,
    nodes, object,
    strategy::Part,
    view,
    write::{self, Change},
};

/// How often one is looked at that is well.
const INTERVAL: Duration = Duration::from_secs(30);
/// When one is looked at again that is not, at first; each time twice as late, up to [`INTERVAL`].
const RETRY: Duration = Duration::from_millis(500);
/// How often a server is asked in one look.
const ATTEMPTS: usize = 5;
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest document that is taken from another server.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Watches over all of them, for ever.
pub(super) async fn run(api: &Arc<Api>) {
    let mut tasks = JoinSet::new();
    let mut watched: BTreeMap<String, (Value, AbortHandle)> = BTreeMap::new();
    loop {
        let news = api.store.watch(PREFIX, api.store.revision());
        let snapshot = api.store.snapshot();
        let with_service: BTreeMap<String, Value> = view::objects(&snapshot, PREFIX)
            .filter(|(_, obj)| object::at(obj, &["spec", "service"]).is_some())
            .map(|(_, obj)| (object::name(&obj).to_owned(), obj))
            .collect();
        watched.retain(|name, (spec, task)| {
            let stays = with_service.get(name).is_some_and(|obj| obj["spec"] == *spec);
            if !stays {
                task.abort();
                api.aggregation.learn(object::text(spec, &["group"]), object::text(spec, &["version"]), None);
            }
            stays
        });
        for (name, obj) in with_service {
            if let std::collections::btree_map::Entry::Vacant(place) = watched.entry(name) {
                let (api, spec) = (Arc::clone(api), obj["spec"].clone());
                place.insert((spec, tasks.spawn(async move { follow(&api, &obj).await })));
            }
        }
        drop(snapshot);
        let Ok(mut news) = news else { continue };
        // Lost or not: the next turn looks at everything.
        tokio::select! {
            biased;
            _ = news.next() => {}
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Looks at one, for as long as it stays as it is.
async fn follow(api: &Arc<Api>, obj: &Value) {
    let Some(target) = Target::read(obj) else { return };
    let mut pause = RETRY;
    loop {
        let revision = api.store.revision();
        let keys = [
            format!("/registry/services/specs/{}/{}", target.namespace, target.service),
            format!("/registry/endpointslices/{}/", target.namespace),
        ];
        let [Ok(mut service), Ok(mut slices)] = keys.map(|key| api.store.watch(&key, revision)) else {
            continue;
        };
        let found = look(api, &target).await;
        let well = found.is_ok();
        let condition = match found {
            Ok(learned) => {
                api.aggregation.learn(&target.group, &target.version, Some(learned));
                ("True", "Passed", "all checks passed".to_owned())
            }
            Err((reason, message)) => {
                api.aggregation.learn(&target.group, &target.version, None);
                ("False", reason, message)
            }
        };
        tell(api, obj, &condition).await;
        let wait = if well { INTERVAL } else { pause };
        pause = if well { RETRY } else { (pause * 2).min(INTERVAL) };
        tokio::select! {
            biased;
            _ = service.next() => pause = RETRY,
            _ = slices.next() => pause = RETRY,
            () = sleep(wait) => {}
        }
    }
}

/// Writes the condition, unless it says so already.
async fn tell(api: &Arc<Api>, obj: &Value, (status, reason, message): &(&str, &str, String)) {
    let cx = own_context(api, "update", "apiregistration.k8s.io", "v1", "apiservices", obj);
    let change = |old: &Value| {
        let mut new = old.clone();
        let mut conditions = object::list(old, &["status", "conditions"]).to_vec();
        let mut condition = json!({
            "type": "Available", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": object::now(),
        });
        match conditions.iter_mut().find(|c| c["type"] == "Available") {
            Some(there) => {
                if there["status"] == condition["status"] {
                    condition["lastTransitionTime"] = there["lastTransitionTime"].clone();
                }
                *there = condition;
            }
            None => conditions.push(condition),
        }
        object::set(&mut new, &["status", "conditions"], conditions);
        Ok(Change { obj: new, tracks: false })
    };
    match write::modify(&cx, Part::Server, change).await {
        Err(error) if error.reason != "NotFound" => {
            tracing::warn!(
                name = object::name(obj),
                error = error.message,
                "an APIService could not be updated"
            );
        }
        _ => {}
    }
}

type Fault = (&'static str, String);

/// Looks once: at the Service, at its endpoints, at the server.
async fn look(api: &Arc<Api>, target: &Target) -> Result<Learned, Fault> {
    let (service, slices) = {
        let snapshot = api.store.snapshot();
        let key = format!("/registry/services/specs/{}/{}", target.namespace, target.service);
        let service = snapshot.get(&key).and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
        let prefix = format!("/registry/endpointslices/{}/", target.namespace);
        let of_service = |obj: &Value| {
            object::at(obj, &["metadata", "labels", "kubernetes.io/service-name"]).and_then(Value::as_str)
                == Some(&target.service)
        };
        let slices: Vec<Value> =
            view::objects(&snapshot, &prefix).map(|(_, obj)| obj).filter(of_service).collect();
        (service, slices)
    };
    reachable(target, service.as_ref(), &slices)?;
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match get(api, target, &target.path()).await {
            Ok(bytes) => return Ok(learn(api, target, &bytes).await),
            Err(error) => last = error,
        }
    }
    Err(("FailedDiscoveryCheck", last))
}

/// What the objects of the cluster say of a server.
fn reachable(target: &Target, service: Option<&Value>, slices: &[Value]) -> Result<(), Fault> {
    let (name, namespace) = (&target.service, &target.namespace);
    let Some(service) = service else {
        return Err(("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    if object::text(service, &["spec", "type"]) != "ClusterIP" {
        return Ok(());
    }
    let ports = object::list(service, &["spec", "ports"]);
    let Some(port) = ports.iter().find(|port| object::number(port, &["port"]) == Some(target.port)) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {}", target.port);
        return Err(("ServicePortError", message));
    };
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Err(("EndpointsNotFound", message));
    }
    let port_name = object::text(port, &["name"]);
    let ready = |endpoint: &Value| {
        object::at(endpoint, &["conditions", "ready"]).and_then(Value::as_bool) != Some(false)
    };
    let serves = |slice: &Value| {
        object::list(slice, &["endpoints"]).iter().any(ready)
            && object::list(slice, &["ports"]).iter().any(|port| {
                object::text(port, &["name"]) == port_name && object::at(port, &["port"]).is_some()
            })
    };
    if !slices.iter().any(serves) {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Err(("MissingEndpoints", message));
    }
    Ok(())
}

/// Gets a document of another server, as a user who may read everything.
async fn get(api: &Arc<Api>, target: &Target, path: &str) -> Result<Bytes, String> {
    let url = format!("https://{}.{}.svc:{}{path}", target.service, target.namespace, target.port);
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    let asked = async {
        let (stream, host) = proxy::connect(api, target).await?;
        let mut request: Request<Body> = Request::new(body::empty());
        request.headers_mut().insert(http::header::ACCEPT, body::JSON);
        proxy::identify(request.headers_mut(), &Identity::new("system:kube-aggregator", &["system:masters"]));
        let answer = nodes::forward(stream, &host, path, request).await.map_err(|error| error.message)?;
        let status = answer.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(format!("bad status from {url}: {}", status.as_u16()));
        }
        let whole = Limited::new(answer.into_body(), DOCUMENT_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        Ok::<_, String>((status, whole.to_bytes()))
    };
    match timeout(TIMEOUT, asked).await {
        Ok(Ok((StatusCode::OK, bytes))) => Ok(bytes),
        Ok(Ok(_)) => Ok(Bytes::new()),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(failed("context deadline exceeded".to_owned())),
    }
}

/// What a server says of itself; documents that it does not have are left out.
async fn learn(api: &Arc<Api>, target: &Target, resources: &Bytes) -> Learned {
    let document = |bytes: Result<Bytes, String>| -> Value {
        bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    };
    let index = document(get(api, target, "/openapi/v3").await);
    let entry = target.path();
    let url = index["paths"][entry.trim_start_matches('/')]["serverRelativeURL"].as_str().unwrap_or_default();
    Learned {
        resources: serde_json::from_slice(resources).unwrap_or_default(),
        v3_hash: url.split_once("hash=").map_or(String::new(), |(_, hash)| hash.to_owned()),
        v2: document(get(api, target, "/openapi/v2").await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_and_messages_are_upstreams() {
        let target = Target::read(
            &json!({"spec": {"group": "g", "version": "v1", "service": {"namespace": "n", "name": "s", "port": 8443}}}),
        );
        let target = target.unwrap();
        let service =
            |kind: &str, port: u16| json!({"spec": {"type": kind, "ports": [{"name": "api", "port": port}]}});
        let slice = |port: &str, ready: bool| json!({"ports": [{"name": port, "port": 1}], "endpoints": [{"conditions": {"ready": ready}}]});
        let table = [
            (None, vec![], Some("ServiceNotFound: service/s in \"n\" is not present")),
            (
                Some(service("ClusterIP", 443)),
                vec![],
                Some("ServicePortError: service/s in \"n\" is not listening on port 8443"),
            ),
            (
                Some(service("ClusterIP", 8443)),
                vec![],
                Some("EndpointsNotFound: cannot find endpointslices for service/s in \"n\""),
            ),
            (
                Some(service("ClusterIP", 8443)),
                vec![slice("api", false), slice("other", true)],
                Some(
                    "MissingEndpoints: endpointslices for service/s in \"n\" have no addresses with port name \"api\"",
                ),
            ),
            (Some(service("ClusterIP", 8443)), vec![slice("api", true)], None),
            (Some(service("ExternalName", 1)), vec![], None),
        ];
        for (service, slices, expected) in table {
            let found = reachable(&target, service.as_ref(), &slices).err();
            assert_eq!(found.map(|(reason, message)| format!("{reason}: {message}")).as_deref(), expected);
        }
    }
}
