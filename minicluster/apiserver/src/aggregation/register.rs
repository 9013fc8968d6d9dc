//! An `APIService` for every group and version that this server has itself.
//!
//! Those of built-in groups are written at the start, those of custom groups come and go with their definitions. One
//! that somebody else wrote is left alone. Sources: `k8s.io/kube-aggregator/pkg/controllers/autoregister`,
//! `pkg/controlplane/controller/crdregistration`, `pkg/controlplane/apiserver/aggregator.go`.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use serde_json::{Value, json};

use super::{CUSTOM_PRIORITY, PREFIX};
use crate::{
    api::Api,
    bootstrap::own_context,
    crds, delete, object,
    status::ApiResult,
    strategy::Part,
    view,
    write::{self, Change},
};

const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const GROUP: &str = "apiregistration.k8s.io";

/// Priorities of built-in groups and their versions.
const PRIORITIES: [(&str, &str, i64, i64); 21] = [
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
];

fn local(group: &str, version: &str, priorities: (i64, i64), managed: &str) -> Value {
    let mut spec = json!({
        "version": version, "groupPriorityMinimum": priorities.0, "versionPriority": priorities.1,
    });
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": { "name": format!("{version}.{group}"), "labels": { LABEL: managed } },
        "spec": spec,
    })
}

fn managed(obj: &Value) -> &str {
    object::at(obj, &["metadata", "labels", LABEL]).and_then(Value::as_str).unwrap_or_default()
}

/// Writes those of built-in groups, and takes away those of groups that are no more.
///
/// # Errors
/// When the store fails.
pub(crate) async fn builtin(api: &Arc<Api>) -> ApiResult<()> {
    let served =
        PRIORITIES.into_iter().filter(|(group, version, ..)| api.registry.is_builtin(group, version));
    let wanted: BTreeMap<String, Value> = served
        .map(|(group, version, group_priority, version_priority)| {
            (
                format!("{version}.{group}"),
                local(group, version, (group_priority, version_priority), "onstart"),
            )
        })
        .collect();
    settle(api, &wanted, "onstart").await
}

/// Follows the definitions, for ever.
pub(super) async fn run(api: &Arc<Api>) {
    loop {
        let revision = api.store.revision();
        let news = [crds::PREFIX, PREFIX].map(|prefix| api.store.watch(prefix, revision));
        api.definitions.refresh(&api.registry);
        let table = api.registry.table();
        let custom = table.all().filter(|row| row.custom.is_some());
        let wanted: BTreeMap<String, Value> = custom
            .map(|row| {
                let obj = local(&row.group, &row.version, CUSTOM_PRIORITY, "true");
                (format!("{}.{}", row.version, row.group), obj)
            })
            .collect();
        if let Err(error) = settle(api, &wanted, "true").await {
            tracing::warn!(
                error = error.message,
                "APIServices of definitions could not be written; trying again"
            );
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            continue;
        }
        let [Ok(mut definitions), Ok(mut services)] = news else { continue };
        // Lost or not: the next turn looks at everything.
        tokio::select! {
            biased;
            _ = definitions.next() => {}
            _ = services.next() => {}
        }
    }
}

/// Makes those that are managed under `mark` what they should be.
async fn settle(api: &Arc<Api>, wanted: &BTreeMap<String, Value>, mark: &str) -> ApiResult<()> {
    let there: BTreeMap<String, Value> = {
        let snapshot = api.store.snapshot();
        view::objects(&snapshot, PREFIX).map(|(_, obj)| (object::name(&obj).to_owned(), obj)).collect()
    };
    let writes = wanted.iter().filter(|(name, obj)| match there.get(*name) {
        None => true,
        Some(old) => {
            managed(old) == mark
                && old["spec"] != obj["spec"]
                && object::at(old, &["spec", "service"]).is_none()
        }
    });
    let written = join_all(writes.map(|(_, obj)| put(api, obj)));
    for result in written.await {
        result?;
    }
    for (name, old) in there.iter().filter(|(name, old)| managed(old) == mark && !wanted.contains_key(*name))
    {
        let cx = own_context(api, "delete", GROUP, "v1", "apiservices", old);
        delete::background(&cx, "", name).await?;
    }
    Ok(())
}

async fn put(api: &Arc<Api>, obj: &Value) -> ApiResult<()> {
    let cx = own_context(api, "create", GROUP, "v1", "apiservices", obj);
    match write::create(&cx, obj.clone(), true).await {
        Err(error) if error.reason == "AlreadyExists" => {}
        other => return other.map(drop),
    }
    let cx = own_context(api, "patch", GROUP, "v1", "apiservices", obj);
    let change = |old: &Value| {
        let mut new = old.clone();
        object::set(&mut new, &["spec"], obj["spec"].clone());
        Ok(Change::of(new))
    };
    write::modify(&cx, Part::Main, change).await.map(drop)
}
