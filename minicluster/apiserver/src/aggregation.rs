//! API aggregation: groups and versions that another server of the cluster answers for (`APIService`).
//!
//! A local `APIService` stands for every group and version that this server has itself ([`register`]). One with a
//! Service is watched over ([`availability`]), its discovery and OpenAPI are merged into this server's, and requests for
//! it are handed on, with the user named in headers that a certificate of the front proxy vouches for ([`proxy`]).
//! Requests for built-in kinds never come by here. Source: `k8s.io/kube-aggregator`.

mod availability;
pub(crate) mod proxy;
pub(crate) mod register;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use minicluster_store::{Snapshot, Store};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde_json::Value;

use crate::{
    api::Api,
    crds::version_order,
    object,
    registry::{Registry, Table},
    request::RequestInfo,
    view::{self, View},
};

/// Where `APIService`s are stored.
pub(crate) const PREFIX: &str = "/registry/apiregistration.k8s.io/apiservices/";

/// What custom groups have for a priority, and their versions.
pub(crate) const CUSTOM_PRIORITY: (i64, i64) = (1000, 100);

/// How this server proves to others that it speaks for users.
#[derive(Clone, Default)]
pub struct Settings {
    /// The certificate and key of the front proxy.
    pub client: Option<Arc<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>>,
    /// The CA that signed it, in PEM; published to extension servers.
    pub requestheader_ca_pem: Option<String>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("client", &self.client.is_some()).finish_non_exhaustive()
    }
}

/// One group and version that another server answers for.
#[derive(Debug)]
pub(crate) struct Target {
    group: String,
    version: String,
    namespace: String,
    service: String,
    port: i64,
    ca_bundle: String,
    insecure: bool,
    available: bool,
    priorities: (i64, i64),
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Target {
    fn read(obj: &Value) -> Option<Self> {
        let spec = obj.get("spec")?;
        let service = object::at(spec, &["service"])?;
        let conditions = object::list(obj, &["status", "conditions"]);
        let text = |value: &Value, key: &str| object::text(value, &[key]).to_owned();
        Some(Self {
            group: text(spec, "group"),
            version: text(spec, "version"),
            namespace: text(service, "namespace"),
            service: text(service, "name"),
            port: object::number(service, &["port"]).unwrap_or(443),
            ca_bundle: text(spec, "caBundle"),
            insecure: spec.get("insecureSkipTLSVerify").and_then(Value::as_bool) == Some(true),
            available: conditions.iter().any(|c| c["type"] == "Available" && c["status"] == "True"),
            priorities: (
                object::number(spec, &["groupPriorityMinimum"]).unwrap_or(0),
                object::number(spec, &["versionPriority"]).unwrap_or(0),
            ),
            tls: OnceLock::new(),
        })
    }

    /// `/apis/GROUP/VERSION`.
    fn path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }
}

type Targets = BTreeMap<(String, String), Arc<Target>>;

fn build(snapshot: &Snapshot, prefixes: &'static [&'static str]) -> Targets {
    let all = prefixes.iter().flat_map(|prefix| view::objects(snapshot, prefix));
    let targets = all.filter_map(|(_, obj)| Target::read(&obj));
    targets.map(|target| ((target.group.clone(), target.version.clone()), Arc::new(target))).collect()
}

/// What another server said of itself when it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// Its `APIResourceList`.
    pub(crate) resources: Value,
    /// What its OpenAPI v3 document is known by.
    pub(crate) v3_hash: String,
    /// Its OpenAPI v2 document.
    pub(crate) v2: Value,
}

type AllLearned = BTreeMap<(String, String), Arc<Learned>>;

/// The other servers.
pub struct Aggregation {
    settings: Settings,
    targets: View<Targets>,
    learned: ArcSwap<AllLearned>,
}

impl Aggregation {
    pub(crate) fn new(store: &Store, settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            targets: View::new(store, &[PREFIX], build),
            learned: ArcSwap::default(),
        }
    }

    /// Who answers a request; `None`: this server. Asked only about what is not built in.
    pub(crate) fn target(&self, registry: &Registry, info: &RequestInfo) -> Option<Arc<Target>> {
        let (group, version) = match info.is_resource {
            true => (info.group.as_str(), info.version.as_str()),
            false => {
                let path = info.path.strip_prefix("/openapi/v3").unwrap_or(&info.path);
                path.strip_prefix("/apis/")?
                    .trim_end_matches('/')
                    .split_once('/')
                    .filter(|(_, v)| !v.contains('/'))?
            }
        };
        if registry.is_builtin(group, version) {
            return None;
        }
        self.targets.get().get(&(group.to_owned(), version.to_owned())).cloned()
    }

    /// What is known of the other servers that answer.
    pub(crate) fn learned(&self) -> Arc<AllLearned> {
        self.learned.load_full()
    }

    fn learn(&self, group: &str, version: &str, learned: Option<Learned>) {
        let key = (group.to_owned(), version.to_owned());
        self.learned.rcu(|all| {
            let mut all = AllLearned::clone(all);
            all.remove(&key);
            all
        });
        if let Some(learned) = learned.map(Arc::new) {
            self.learned.rcu(|all| {
                let mut all = AllLearned::clone(all);
                all.insert(key.clone(), Arc::clone(&learned));
                all
            });
        }
    }

    /// All groups with their versions, in the order in which discovery shows them.
    pub(crate) fn groups(&self, registry: &Registry, table: &Table) -> Vec<(String, Vec<String>)> {
        let learned = self.learned();
        let own = table.groups().iter().map(|(group, versions)| {
            (group.to_string(), versions.iter().map(ToString::to_string).collect::<Vec<_>>())
        });
        if learned.is_empty() {
            return own.collect();
        }
        let targets = self.targets.get();
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for (group, versions) in own {
            let builtin = versions.iter().any(|version| registry.is_builtin(&group, version));
            if builtin {
                first.push((group, versions));
            } else {
                rest.push((CUSTOM_PRIORITY.0, group, versions));
            }
        }
        for (group, version) in learned.keys() {
            let known = first.iter_mut().find(|(name, _)| name == group).map(|(_, versions)| versions);
            if let Some(versions) =
                known.or(rest.iter_mut().find(|(_, name, _)| name == group).map(|(.., v)| v))
            {
                if !versions.contains(version) {
                    versions.push(version.clone());
                }
                continue;
            }
            let of_group = targets.values().filter(|target| target.group == *group);
            let priority = of_group.map(|target| target.priorities.0).max().unwrap_or(0);
            rest.push((priority, group.clone(), vec![version.clone()]));
        }
        for (_, group, versions) in &mut rest {
            let priority = |version: &String| {
                targets
                    .get(&(group.clone(), version.clone()))
                    .map_or(CUSTOM_PRIORITY.1, |target| target.priorities.1)
            };
            versions.sort_by(|a, b| priority(b).cmp(&priority(a)).then_with(|| version_order(a, b)));
        }
        rest.sort_by(|(a, a_name, _), (b, b_name, _)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
        first.extend(rest.into_iter().map(|(_, group, versions)| (group, versions)));
        first
    }
}

/// Keeps all of this up, for ever.
pub(crate) async fn run(api: &Arc<Api>) {
    tokio::join!(register::run(api), availability::run(api));
}
