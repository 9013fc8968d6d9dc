//! What is there before anybody asks: namespaces, roles, priority classes and the `kubernetes` Service.
//!
//! Everything goes through the front door, as the server's own identity; what exists already is left alone, except
//! that bootstrap roles get their rules back. Source: `pkg/controlplane` and `pkg/registry/rbac/rest`.

mod rbac;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    aggregation,
    api::Api,
    authn::Identity,
    authz::Rule,
    context::Context,
    flow, object,
    request::{Query, RequestInfo},
    status::ApiResult,
    strategy::Part,
    write::{self, Change},
};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes a fresh cluster usable and an old one complete.
///
/// # Errors
/// When the store fails.
pub async fn run(api: &Arc<Api>, advertise: Option<(IpAddr, u16)>) -> ApiResult<()> {
    for name in NAMESPACES {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        ensure(api, "", "v1", "namespaces", namespace).await?;
    }
    rbac::reconcile(api).await?;
    for (name, value, description) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": name },
            "value": value, "description": description,
        });
        ensure(api, "scheduling.k8s.io", "v1", "priorityclasses", class).await?;
    }
    let cidr = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "kubernetes" },
        "spec": { "cidrs": [api.config.service_cidr.to_string()] },
    });
    ensure(api, "networking.k8s.io", "v1", "servicecidrs", cidr).await?;
    let data: BTreeMap<_, _> = api.authenticator.published().into_iter().collect();
    let mut authentication = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
        "data": data,
    });
    if let Some(ca) = &api.config.aggregation.requestheader_ca_pem {
        publish_own_proxy(&mut authentication, ca);
    }
    replace(api, "", "v1", "configmaps", authentication).await?;
    aggregation::register::builtin(api).await?;
    flow::bootstrap(api).await?;
    if let Some((address, port)) = advertise {
        kubernetes_service(api, address, port).await?;
    }
    api.set_bootstrapped();
    Ok(())
}

/// This server is a front proxy for extension servers, beside those that it believes itself.
fn publish_own_proxy(authentication: &mut Value, ca: &str) {
    let given = object::text(authentication, &["data", "requestheader-client-ca-file"]);
    let pem = if given.is_empty() { ca.to_owned() } else { format!("{}\n{ca}", given.trim_end()) };
    object::set(authentication, &["data", "requestheader-client-ca-file"], pem);
    for (key, own) in [
        ("allowed-names", "front-proxy-client"),
        ("extra-headers-prefix", "X-Remote-Extra-"),
        ("group-headers", "X-Remote-Group"),
        ("uid-headers", "X-Remote-Uid"),
        ("username-headers", "X-Remote-User"),
    ] {
        let key = format!("requestheader-{key}");
        let given = object::text(authentication, &["data", &key]);
        let mut list: Vec<String> = serde_json::from_str(given).unwrap_or_default();
        // A list of names that is there and empty means anybody.
        let open = given == "[]" && key.ends_with("allowed-names");
        if !open && !list.iter().any(|name| name == own) {
            list.push(own.to_owned());
        }
        object::set(authentication, &["data", &key], json!(list).to_string());
    }
}

/// The Service by which pods find the API server, with itself as the endpoint.
async fn kubernetes_service(api: &Arc<Api>, address: IpAddr, port: u16) -> ApiResult<()> {
    let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kubernetes", "namespace": "default", "labels": labels },
        "spec": {
            "clusterIP": api.services.first_ip().to_string(), "type": "ClusterIP", "sessionAffinity": "None",
            "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": port }],
        },
    });
    ensure(api, "", "v1", "services", service).await?;
    if address.is_loopback() {
        // On a host with no other address no pod could reach it there, and no endpoint may say so.
        return Ok(());
    }
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": [{
            "addresses": [{ "ip": address.to_string() }],
            "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
        }],
    });
    replace(api, "", "v1", "endpoints", endpoints).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [address.to_string()], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    });
    replace(api, "discovery.k8s.io", "v1", "endpointslices", slice).await
}

/// The rules of a bootstrap ClusterRole, as this version wants them.
pub(crate) fn rules_of(role: &str) -> Vec<Rule> {
    rbac::rules_of(role)
}

/// A context in which the server itself acts on one object.
pub fn own_context(
    api: &Arc<Api>,
    verb: &'static str,
    group: &str,
    version: &str,
    plural: &str,
    obj: &Value,
) -> Context {
    let info = RequestInfo {
        is_resource: true,
        verb,
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: object::namespace(obj).to_owned(),
        resource: plural.to_owned(),
        name: object::name(obj).to_owned(),
        ..RequestInfo::default()
    };
    Context {
        resource: api.registry.builtin(group, version, plural),
        api: Arc::clone(api),
        info,
        query: Query::parse("fieldManager=kube-apiserver"),
        headers: HeaderMap::new(),
        user: Identity::system(),
        warnings: Mutex::default(),
        annotations: Mutex::default(),
        dry_run: std::sync::OnceLock::new(),
    }
}

async fn ensure(api: &Arc<Api>, group: &str, version: &str, plural: &str, obj: Value) -> ApiResult<()> {
    let cx = own_context(api, "create", group, version, plural, &obj);
    // What is there keeps what it holds: a create would ask again for the address of a Service, and be refused.
    if api.store.get(&cx.resource.key(object::namespace(&obj), object::name(&obj))).is_some() {
        return Ok(());
    }
    match write::create(&cx, obj, true).await {
        Err(error) if error.reason != "AlreadyExists" => Err(error),
        _ => Ok(()),
    }
}

/// As [`ensure`], but an object that is there gets the wanted content.
async fn replace(api: &Arc<Api>, group: &str, version: &str, plural: &str, obj: Value) -> ApiResult<()> {
    let cx = own_context(api, "patch", group, version, plural, &obj);
    let change = |old: &Value| {
        let mut new = old.clone();
        for (key, value) in obj.as_object().into_iter().flatten().filter(|(k, _)| *k != "metadata") {
            object::set(&mut new, &[key], value.clone());
        }
        Ok(Change::of(new))
    };
    match write::modify(&cx, Part::Main, change).await {
        Err(error) if error.reason == "NotFound" => ensure(api, group, version, plural, obj).await,
        other => other.map(drop),
    }
}
