//! What people are told about a database, from what is seen of it; and how far an upgrade is, which decides when the primary
//! may follow. Pure.

use std::sync::Arc;

use k8s_openapi::{
    api::{apps::v1::StatefulSet, batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use windlass::{ConditionsExt, condition};

use crate::{
    Database, DatabaseStatus, backups,
    children::{DATABASE, name, version_of},
};

/// What is seen of a database.
pub(crate) struct Seen<'a> {
    pub(crate) set: Option<&'a StatefulSet>,
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) jobs: &'a [Arc<Job>],
}

/// A replica.
struct Replica<'a> {
    /// The primary is 0.
    ordinal: i32,
    version: Option<&'a str>,
    ready: bool,
}

/// The status of a database; `complete` is about all that belongs to it.
pub(crate) fn status(db: &Database, seen: &Seen<'_>, complete: Condition) -> DatabaseStatus {
    let (wanted, version) = (db.spec.replicas, db.spec.engine.version.as_str());
    let replicas: Vec<Replica> = seen.pods.iter().filter_map(|pod| replica(db, pod)).collect();
    let count = |test: &dyn Fn(&Replica) -> bool| {
        i32::try_from(replicas.iter().filter(|replica| test(replica)).count()).unwrap_or(i32::MAX)
    };
    let ready_replicas = count(&|r| r.ready);
    let current = count(&|r| r.version == Some(version));
    let before = db.status.clone().unwrap_or_default();

    // A set that does not ask for this version yet says nothing about it.
    let template = seen.set.and_then(|set| version_of(set.spec.as_ref()?.template.spec.as_ref()));
    let arrived = count(&|r| (1..wanted).contains(&r.ordinal) && r.ready && r.version == Some(version));
    let followers_run = if template == Some(version) && arrived == wanted - 1 {
        Some(version.to_owned())
    } else {
        before.followers_run
    };
    let primary = replicas.iter().find(|replica| replica.ordinal == 0);

    let all = count(&|_| true);
    let ready = [ready_replicas, current, all] == [wanted; 3];
    let upgrading = current < all;
    let reason = match (upgrading, followers_run.as_deref() == Some(version)) {
        (false, _) => "AllUpgraded",
        (true, true) => "Primary",
        (true, false) => "Followers",
    };
    let mut conditions = before.conditions;
    let message = format!("{ready_replicas} of {wanted} replicas are ready");
    let why = if ready { "AllReady" } else { "Progressing" };
    conditions.set_condition(condition("Ready", ready, why, message));
    let message = format!("{current} of {wanted} replicas run {version}");
    conditions.set_condition(condition("Upgrading", upgrading, reason, message));
    conditions.set_condition(backups::backed_up(db, seen.jobs));
    conditions.set_condition(complete);
    DatabaseStatus {
        observed_generation: db.metadata.generation,
        selector: format!("{DATABASE}={}", name(db)),
        ready_replicas,
        primary: primary.map(|_| format!("{}-0", name(db))).or(before.primary),
        version: primary.and_then(|primary| primary.version).map(str::to_owned).or(before.version),
        followers_run,
        last_backup: backups::last(db, seen.jobs),
        conditions,
    }
}

/// A pod as a replica; `None` for one that is none by its name.
fn replica<'a>(db: &Database, pod: &'a Pod) -> Option<Replica<'a>> {
    let ordinal = pod.metadata.name.as_deref()?.strip_prefix(name(db))?.strip_prefix('-')?.parse().ok()?;
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    Some(Replica { ordinal, version: version_of(pod.spec.as_ref()), ready })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        children::{image, object},
        database,
    };

    fn pod(ordinal: usize, version: &str, ready: bool) -> Arc<Pod> {
        Arc::new(object(json!({
            "metadata": { "name": format!("db-{ordinal}") },
            "spec": { "containers": [{ "name": "engine", "image": image(version) }] },
            "status": { "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
        })))
    }

    #[test]
    fn the_primary_may_follow_when_all_others_are_there() {
        let mut db = database("db", 3);
        db.spec.engine.version = "17.0".to_owned();
        let before = DatabaseStatus { followers_run: Some("16.4".to_owned()), ..DatabaseStatus::default() };
        db.status = Some(before);
        let set = |version: &str| -> StatefulSet {
            object(json!({ "spec": { "selector": {}, "serviceName": "x", "template": {
                "spec": { "containers": [{ "name": "engine", "image": image(version) }] },
            } } }))
        };
        let (old, new) = (("16.4", true), ("17.0", true));
        // What the set asks for; what runs, and whether it is ready; what the followers run; how far it is.
        let table = [
            ("16.4", vec![old, old, old], "16.4", "True Followers"),
            ("17.0", vec![old, old, new], "16.4", "True Followers"),
            ("17.0", vec![old, ("17.0", false), new], "16.4", "True Followers"),
            ("17.0", vec![old, old, new, new], "16.4", "True Followers"),
            ("17.0", vec![old, new], "16.4", "True Followers"),
            ("17.0", vec![old, new, new], "17.0", "True Primary"),
            ("16.4", vec![old, new, new], "16.4", "True Followers"),
            ("17.0", vec![new, new, new], "17.0", "False AllUpgraded"),
        ];
        for (asks, runs, followers, upgrading) in table {
            let pods: Vec<_> = runs.iter().enumerate().map(|(i, (v, ready))| pod(i, v, *ready)).collect();
            let seen = Seen { set: Some(&set(asks)), pods: &pods, jobs: &[] };
            let status = status(&db, &seen, condition("Complete", true, "Ready", ""));
            assert_eq!(status.followers_run.as_deref(), Some(followers), "{asks} {runs:?}");
            let found = status.conditions.condition("Upgrading").unwrap();
            assert_eq!(format!("{} {}", found.status, found.reason), upgrading, "{asks} {runs:?}");
            assert_eq!(status.version.as_deref(), Some(runs[0].0));
            assert_eq!(status.primary.as_deref(), Some("db-0"));
        }
    }
}
