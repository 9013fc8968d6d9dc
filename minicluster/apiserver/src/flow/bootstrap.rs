//! The levels and schemas that every cluster has: the mandatory ones always as they should be, the suggested ones as
//! long as nobody took them over. Also says of each schema whether its level exists.
//!
//! Sources: `k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap`, `pkg/registry/flowcontrol/ensurer`.

use std::sync::Arc;

use futures::future::join_all;
use serde_json::{Value, json};
use windlass_crd::apply;

use super::{LEVELS, SCHEMAS};
use crate::{
    api::Api,
    bootstrap::own_context,
    object,
    status::{ApiError, ApiResult},
    strategy::Part,
    view,
    write::{self, Change},
};

/// Who applies the conditions of schemas.
const TELLER: &str = "api-priority-and-fairness-config-consumer-v1";
const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Name, shares, lendable percent, and queues with hand size (none: refuses).
const LIMITED: [(&str, i64, i64, Option<(i64, i64)>); 7] = [
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6))),
    ("node-high", 40, 25, Some((64, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
    ("global-default", 20, 50, Some((128, 6))),
];

const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

fn named(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": { "name": name, "annotations": { AUTO_UPDATE: "true" } }, "spec": spec,
    })
}

fn levels() -> Vec<Value> {
    let exempt =
        json!({ "type": "Exempt", "exempt": { "nominalConcurrencyShares": 0, "lendablePercent": 0 } });
    let mut all = vec![named("PriorityLevelConfiguration", "exempt", exempt)];
    all.extend(LIMITED.map(|(name, shares, lendable, queues)| {
        let response = match queues {
            Some((queues, hand)) => json!({
                "type": "Queue", "queuing": { "queues": queues, "handSize": hand, "queueLengthLimit": 50 },
            }),
            None => json!({ "type": "Reject" }),
        };
        let limited = json!({
            "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response,
        });
        named("PriorityLevelConfiguration", name, json!({ "type": "Limited", "limited": limited }))
    }));
    all
}

fn schemas() -> Vec<Value> {
    let groups = |names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| json!({ "kind": "Group", "group": { "name": name } })).collect()
    };
    let users = |names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| json!({ "kind": "User", "user": { "name": name } })).collect()
    };
    let system_accounts = || {
        vec![
            json!({ "kind": "ServiceAccount", "serviceAccount": { "name": "*", "namespace": "kube-system" } }),
        ]
    };
    let resources = |verbs: &[&str], group: &str, resources: &[&str], cluster: bool| {
        let mut rule =
            json!({ "verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"] });
        if cluster {
            rule["clusterScope"] = true.into();
        }
        rule
    };
    let everything = || vec![resources(&["*"], "*", &["*"], true)];
    let all_paths = || json!([{ "verbs": ["*"], "nonResourceURLs": ["*"] }]);
    let schema = |name: &str, level: &str, precedence: i64, by: &str, rule: Value| {
        let mut spec = json!({
            "priorityLevelConfiguration": { "name": level }, "matchingPrecedence": precedence, "rules": [rule],
        });
        if !by.is_empty() {
            spec["distinguisherMethod"] = json!({ "type": by });
        }
        named("FlowSchema", name, spec)
    };
    let anything = |subjects: Vec<Value>| json!({ "subjects": subjects, "resourceRules": everything(), "nonResourceRules": all_paths() });
    let everybody = || groups(&["system:unauthenticated", "system:authenticated"]);
    let manager = "system:kube-controller-manager";
    let scheduler = "system:kube-scheduler";
    let leases = "coordination.k8s.io";
    let electing = [users(&[manager, scheduler]), system_accounts()].concat();
    vec![
        schema("exempt", "exempt", 1, "", anything(groups(&["system:masters"]))),
        schema("catch-all", "catch-all", 10_000, "ByUser", anything(everybody())),
        schema(
            "probes",
            "exempt",
            2,
            "",
            json!({
                "subjects": everybody(),
                "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"] }],
            }),
        ),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            json!({
                "subjects": electing,
                "resourceRules": [resources(&["get", "create", "update"], leases, &["leases"], false)],
            }),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            json!({
                "subjects": groups(&["system:nodes"]),
                "resourceRules": [
                    resources(&["*"], "", &["nodes", "nodes/status"], true),
                    resources(&["*"], leases, &["leases"], false),
                ],
            }),
        ),
        schema("system-nodes", "system", 500, "ByUser", anything(groups(&["system:nodes"]))),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", anything(users(&[manager]))),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", anything(users(&[scheduler]))),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            anything(system_accounts()),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            anything(groups(&["system:serviceaccounts"])),
        ),
        schema("global-default", "global-default", 9900, "ByUser", anything(everybody())),
    ]
}

/// Writes what is missing, and puts right what is the server's to keep.
///
/// # Errors
/// When the store fails.
pub(crate) async fn settle(api: &Arc<Api>) -> ApiResult<()> {
    let levels =
        join_all(levels().into_iter().map(|obj| ensure(api, "prioritylevelconfigurations", LEVELS, obj)))
            .await;
    let schemas = join_all(schemas().into_iter().map(|obj| ensure(api, "flowschemas", SCHEMAS, obj))).await;
    levels.into_iter().chain(schemas).collect()
}

async fn ensure(api: &Arc<Api>, plural: &str, prefix: &str, obj: Value) -> ApiResult<()> {
    let name = object::name(&obj).to_owned();
    let there = api.store.get(&format!("{prefix}{name}"));
    let there: Option<Value> = there.and_then(|entry| serde_json::from_slice(&entry.value).ok());
    let Some(there) = there else {
        let cx = own_context(api, "create", GROUP, "v1", plural, &obj);
        return match write::create(&cx, obj, true).await {
            Err(error) if error.reason != "AlreadyExists" => Err(error),
            _ => Ok(()),
        };
    };
    let note = object::at(&there, &["metadata", "annotations", AUTO_UPDATE]).and_then(Value::as_str);
    // Who changes a suggested one says with the annotation that it is theirs now; without it, the generation tells.
    let ours = match note {
        Some(note) => note == "true",
        None => object::number(&there, &["metadata", "generation"]) == Some(1),
    };
    if !ours && !MANDATORY.contains(&name.as_str()) {
        return Ok(());
    }
    let cx = own_context(api, "patch", GROUP, "v1", plural, &obj);
    let change = |old: &Value| {
        let mut new = old.clone();
        // The exempt level's shares are the administrator's.
        if name != "exempt" || plural == "flowschemas" {
            object::set(&mut new, &["spec"], obj["spec"].clone());
        }
        object::set(&mut new, &["metadata", "annotations", AUTO_UPDATE], "true");
        Ok(Change::of(new))
    };
    write::modify(&cx, Part::Main, change).await.map(drop)
}

/// Keeps all of it up, for ever.
pub(super) async fn keep(api: &Arc<Api>) {
    loop {
        let revision = api.store.revision();
        let news = [SCHEMAS, LEVELS].map(|prefix| api.store.watch(prefix, revision));
        let kept = async {
            settle(api).await?;
            tell(api).await
        };
        if let Err(error) = kept.await {
            tracing::warn!(
                error = error.message,
                "the configuration of priority and fairness could not be kept up"
            );
            tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        }
        let [Ok(mut schemas), Ok(mut levels)] = news else { continue };
        // Lost or not: the next turn looks at everything.
        tokio::select! {
            biased;
            _ = schemas.next() => {}
            _ = levels.next() => {}
        }
    }
}

/// Says of each schema whether the level exists that it names.
async fn tell(api: &Arc<Api>) -> ApiResult<()> {
    let snapshot = api.store.snapshot();
    let schemas: Vec<Value> = view::objects(&snapshot, SCHEMAS).map(|(_, obj)| obj).collect();
    let writes = schemas.iter().filter_map(|schema| {
        let level = object::text(schema, &["spec", "priorityLevelConfiguration", "name"]);
        let (status, reason, found) = match snapshot.get(&format!("{LEVELS}{level}")) {
            Some(_) => ("False", "Found", "and it exists"),
            None => ("True", "NotFound", "but there is no such object"),
        };
        let message = format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {found}"
        );
        let there = object::list(schema, &["status", "conditions"]).iter().find(|c| c["type"] == "Dangling");
        if there.is_some_and(|c| c["status"] == status && c["message"] == message) {
            return None;
        }
        let condition = json!({
            "type": "Dangling", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": object::now(),
        });
        Some(write_condition(api, schema, condition))
    });
    join_all(writes.collect::<Vec<_>>()).await.into_iter().collect()
}

async fn write_condition(api: &Arc<Api>, schema: &Value, condition: Value) -> ApiResult<()> {
    let cx = own_context(api, "update", GROUP, "v1", "flowschemas", schema);
    let change = |old: &Value| {
        let told = json!({
            "apiVersion": cx.resource.api_version(), "kind": cx.resource.kind.as_ref(),
            "metadata": {"name": object::name(old)}, "status": {"conditions": [condition]},
        });
        let (api_version, time) = (cx.resource.api_version(), object::now());
        let teller =
            apply::Manager { name: TELLER, api_version: &api_version, subresource: "status", time: &time };
        let obj = apply::apply(Some(old), &told, &cx.resource.schema(), &teller, true, &[])
            .map_err(|error| ApiError::internal(format!("{error:?}")))?;
        Ok(Change { obj, tracks: false })
    };
    match write::modify(&cx, Part::Server, change).await {
        Err(error) if error.reason != "NotFound" => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) fn objects() -> (Vec<Value>, Vec<Value>) {
    (levels(), schemas())
}
