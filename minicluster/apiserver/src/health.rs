//! `/livez`, `/readyz` and `/healthz`: each check a line, under upstream's names.
//!
//! What upstream starts in hooks after it began to listen is done here before, so those checks hold once the bootstrap
//! is over. Source: `k8s.io/apiserver/pkg/server/healthz`.

use std::{fmt, sync::Arc};

use http::{Response, StatusCode};

use crate::{
    api::Api,
    body::{self, Body},
    request::Query,
};

/// Whether something is well; the reason why not goes into the log alone.
pub type Probe = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Checks that the server's owner adds.
#[derive(Clone, Default)]
pub struct Settings {
    /// Names and probes.
    pub checks: Vec<(&'static str, Probe)>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.checks.iter().map(|(name, _)| name)).finish()
    }
}

/// The paths.
pub(crate) const PATHS: [&str; 3] = ["healthz", "livez", "readyz"];

/// What the bootstrap has done when it is over.
const BOOTSTRAP: [&str; 16] = [
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "poststarthook/apiservice-registration-controller",
];

/// The checks of one path, in order, each with what is wrong.
fn checks(api: &Api, kind: &str) -> Vec<(&'static str, Result<(), String>)> {
    let well = |ok: bool, why: &str| if ok { Ok(()) } else { Err(why.to_owned()) };
    // A server whose disk is full still answers: it is not to be killed, but it is not ready.
    let writes = match api.store.failure() {
        Some(error) if kind != "livez" => Err(error.to_string()),
        _ => Ok(()),
    };
    let mut all = vec![("ping", Ok(())), ("log", Ok(())), ("etcd", writes.clone())];
    if kind == "readyz" {
        all.push(("etcd-readiness", writes));
        all.push(("informer-sync", Ok(())));
    }
    all.extend(api.config.health.checks.iter().map(|(name, probe)| (*name, probe())));
    all.extend(BOOTSTRAP.map(|name| (name, well(api.is_bootstrapped(), "not finished"))));
    all.push(("autoregister-completion", well(api.is_bootstrapped(), "missing APIService")));
    if kind == "readyz" {
        all.push(("shutdown", well(!api.is_stopping(), "process is shutting down")));
    }
    all
}

/// All paths, for the index of paths.
pub(crate) fn paths(api: &Api) -> Vec<String> {
    let of = |kind: &str| {
        let each =
            checks(api, kind).into_iter().map(|(name, _)| format!("/{kind}/{name}")).collect::<Vec<_>>();
        [vec![format!("/{kind}")], each].concat()
    };
    PATHS.iter().flat_map(|kind| of(kind)).collect()
}

/// Answers one of the paths; `None`: it is none.
pub(crate) fn answer(api: &Api, path: &str, query: &Query) -> Option<Response<Body>> {
    let (kind, one) = path.trim_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
    let kind = PATHS.into_iter().find(|known| *known == kind)?;
    let all = checks(api, kind);
    if !one.is_empty() {
        return Some(match all.into_iter().find(|(name, _)| *name == one) {
            Some((_, Ok(()))) => body::text(StatusCode::OK, "ok"),
            Some((_, Err(why))) => {
                body::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n"))
            }
            None => body::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        });
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let (failed, text) = report(kind, &all, &excluded);
    Some(match (failed, query.get("verbose").is_some()) {
        (true, _) => body::text(StatusCode::INTERNAL_SERVER_ERROR, text),
        (false, true) => body::text(StatusCode::OK, text),
        (false, false) => body::text(StatusCode::OK, "ok"),
    })
}

/// True when one check failed that is not excluded, and the text that says so.
fn report(kind: &str, all: &[(&'static str, Result<(), String>)], excluded: &[&str]) -> (bool, String) {
    let (mut text, mut failed) = (String::new(), false);
    for (name, found) in all {
        match found {
            _ if excluded.contains(name) => text.push_str(&format!("[+]{name} excluded: ok\n")),
            Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                tracing::debug!(check = name, why, "a health check failed");
                failed = true;
                text.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    let mut unknown: Vec<&&str> =
        excluded.iter().filter(|name| !all.iter().any(|(known, _)| known == *name)).collect();
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        let quoted: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
        let quoted = quoted.join(",");
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {quoted}\n"));
    }
    text.push_str(&format!("{kind} check {}\n", if failed { "failed" } else { "passed" }));
    (failed, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn reports_read_as_upstreams() {
        let all = [("ping", Ok(())), ("etcd", Err("full".to_owned())), ("log", Ok(()))];
        let (failed, text) = report("readyz", &all, &["log", "nothing", "also"]);
        assert!(failed);
        expect![[r#"
            [+]ping ok
            [-]etcd failed: reason withheld
            [+]log excluded: ok
            warn: some health checks cannot be excluded: no matches for "also","nothing"
            readyz check failed
        "#]]
        .assert_eq(&text);
        assert!(!report("livez", &all, &["etcd"]).0);
    }
}
