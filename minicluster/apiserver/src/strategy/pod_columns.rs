//! What `kubectl get pods` shows.
//!
//! Source: `pkg/printers/internalversion/printers.go`, `printPod`.

use serde_json::Value;

use super::{Column, columns};
use crate::{object, table};

/// The columns after the name.
pub(super) fn all() -> Vec<Column> {
    vec![
        columns::made("Ready", |pod| Summary::of(pod).ready()),
        columns::made("Status", |pod| Summary::of(pod).reason),
        columns::made("Restarts", |pod| Summary::of(pod).restarts()),
        columns::age(),
        columns::made("IP", ip).wide(),
        columns::text_or_none("Node", &["spec", "nodeName"]).wide(),
        columns::text_or_none("Nominated Node", &["status", "nominatedNodeName"]).wide(),
        columns::made("Readiness Gates", readiness_gates).wide(),
    ]
}

fn ip(pod: &Value) -> String {
    let first = object::list(pod, &["status", "podIPs"]).first().map(|ip| object::text(ip, &["ip"]));
    columns::or_none(
        first.filter(|ip| !ip.is_empty()).unwrap_or_else(|| object::text(pod, &["status", "podIP"])),
    )
}

fn readiness_gates(pod: &Value) -> String {
    let gates = object::list(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = object::list(pod, &["status", "conditions"]);
    let is_true = |gate: &Value| {
        let kind = object::text(gate, &["conditionType"]);
        let found = conditions.iter().find(|c| object::text(c, &["type"]) == kind);
        found.is_some_and(|c| object::text(c, &["status"]) == "True")
    };
    format!("{}/{}", gates.iter().filter(|gate| is_true(gate)).count(), gates.len())
}

/// What a pod's containers come to.
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: String,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let mut this = Self {
            reason: match object::text(pod, &["status", "reason"]) {
                "" => object::text(pod, &["status", "phase"]).to_owned(),
                reason => reason.to_owned(),
            },
            ready: 0,
            total: object::list(pod, &["spec", "containers"]).len(),
            restarts: 0,
            last_restart: String::new(),
        };
        let gated = object::list(pod, &["status", "conditions"]).iter().any(|c| {
            object::text(c, &["type"]) == "PodScheduled" && object::text(c, &["reason"]) == "SchedulingGated"
        });
        if gated {
            "SchedulingGated".clone_into(&mut this.reason);
        }
        let sidecars = this.add_init_containers(pod);
        if sidecars.initialising.is_none() || is_initialised(pod) {
            this.add_containers(pod, &sidecars);
        }
        this.finish(pod);
        this
    }

    fn ready(&self) -> String {
        format!("{}/{}", self.ready, self.total)
    }

    fn restarts(&self) -> String {
        if self.restarts != 0 && !self.last_restart.is_empty() {
            return format!("{} ({} ago)", self.restarts, table::since(&self.last_restart));
        }
        self.restarts.to_string()
    }

    fn note_restart(&mut self, status: &Value) {
        self.restarts += object::number(status, &["restartCount"]).unwrap_or(0);
        let finished = object::text(status, &["lastState", "terminated", "finishedAt"]);
        if finished > self.last_restart.as_str() {
            finished.clone_into(&mut self.last_restart);
        }
    }

    fn add_init_containers(&mut self, pod: &Value) -> Sidecars {
        let specs = object::list(pod, &["spec", "initContainers"]);
        let is_sidecar = |name: &str| {
            let spec = specs.iter().find(|spec| object::text(spec, &["name"]) == name);
            spec.is_some_and(|spec| object::text(spec, &["restartPolicy"]) == "Always")
        };
        self.total += specs.iter().filter(|spec| object::text(spec, &["restartPolicy"]) == "Always").count();
        let mut out = Sidecars::default();
        for (i, status) in object::list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
            self.note_restart(status);
            let sidecar = is_sidecar(object::text(status, &["name"]));
            if sidecar {
                out.restarts += object::number(status, &["restartCount"]).unwrap_or(0);
                let finished = object::text(status, &["lastState", "terminated", "finishedAt"]);
                if finished > out.last_restart.as_str() {
                    finished.clone_into(&mut out.last_restart);
                }
            }
            let terminated = object::at(status, &["state", "terminated"]);
            if terminated.is_some_and(|t| object::number(t, &["exitCode"]).unwrap_or(0) == 0) {
                continue;
            }
            if sidecar && object::at(status, &["started"]) == Some(&Value::Bool(true)) {
                if object::at(status, &["ready"]) == Some(&Value::Bool(true)) {
                    self.ready += 1;
                }
                continue;
            }
            self.reason = match (terminated, object::text(status, &["state", "waiting", "reason"])) {
                (Some(end), _) => format!("Init:{}", end_reason(end)),
                (None, waiting) if !waiting.is_empty() && waiting != "PodInitializing" => {
                    format!("Init:{waiting}")
                }
                _ => format!("Init:{i}/{}", specs.len()),
            };
            out.initialising = Some(i);
            break;
        }
        out
    }

    fn add_containers(&mut self, pod: &Value, sidecars: &Sidecars) {
        self.restarts = sidecars.restarts;
        self.last_restart.clone_from(&sidecars.last_restart);
        let mut running = false;
        for status in object::list(pod, &["status", "containerStatuses"]).iter().rev() {
            self.note_restart(status);
            let waiting = object::text(status, &["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.reason);
            } else if let Some(end) = object::at(status, &["state", "terminated"]) {
                self.reason = end_reason(end);
            } else if object::at(status, &["ready"]) == Some(&Value::Bool(true))
                && object::at(status, &["state", "running"]).is_some()
            {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = object::list(pod, &["status", "conditions"])
                .iter()
                .any(|c| object::text(c, &["type"]) == "Ready" && object::text(c, &["status"]) == "True");
            (if ready { "Running" } else { "NotReady" }).clone_into(&mut self.reason);
        }
    }

    fn finish(&mut self, pod: &Value) {
        if !object::is_deleting(pod) {
            return;
        }
        let phase = object::text(pod, &["status", "phase"]);
        if object::text(pod, &["status", "reason"]) == "NodeLost" {
            "Unknown".clone_into(&mut self.reason);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut self.reason);
        }
    }
}

#[derive(Default)]
struct Sidecars {
    initialising: Option<usize>,
    restarts: i64,
    last_restart: String,
}

fn is_initialised(pod: &Value) -> bool {
    let conditions = object::list(pod, &["status", "conditions"]);
    conditions
        .iter()
        .any(|c| object::text(c, &["type"]) == "Initialized" && object::text(c, &["status"]) == "True")
}

/// Why a container ended: its reason, else its signal, else its exit code.
fn end_reason(terminated: &Value) -> String {
    let reason = object::text(terminated, &["reason"]);
    let signal = object::number(terminated, &["signal"]).unwrap_or(0);
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", object::number(terminated, &["exitCode"]).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(pod: &Value) -> String {
        let s = Summary::of(pod);
        format!("{} {} {}", s.ready(), s.reason, s.restarts())
    }

    #[test]
    fn rows_are_upstreams() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let running =
            |ready: bool, n: i64| json!({"ready": ready, "restartCount": n, "state": {"running": {}}});
        let waiting =
            |r: &str| json!({"ready": false, "restartCount": 2, "state": {"waiting": {"reason": r}}});
        let ended = |r: &str, code: i64| json!({"restartCount": 0, "state": {"terminated": {"reason": r, "exitCode": code}}});
        let pod = |status: Value| json!({"spec": spec, "status": status});
        let cases = [
            (pod(json!({"phase": "Pending"})), "0/2 Pending 0"),
            (
                pod(json!({"phase": "Running", "containerStatuses": [running(true, 0), running(true, 1)]})),
                "2/2 Running 1",
            ),
            (
                pod(
                    json!({"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff"), running(true, 0)]}),
                ),
                "1/2 CrashLoopBackOff 2",
            ),
            (
                pod(json!({"phase": "Succeeded", "containerStatuses": [ended("Completed", 0)]})),
                "0/2 Completed 0",
            ),
            (pod(json!({"phase": "Failed", "containerStatuses": [ended("", 3)]})), "0/2 ExitCode:3 0"),
            (pod(json!({"phase": "Failed", "reason": "Evicted"})), "0/2 Evicted 0"),
            (
                json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}, "spec": spec,
                       "status": {"phase": "Running", "containerStatuses": [running(true, 0), running(true, 0)]}}),
                "2/2 Terminating 0",
            ),
            (
                json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
                       "status": {"phase": "Pending", "initContainerStatuses": [ended("Completed", 0), running(false, 0)]}}),
                "0/1 Init:1/2 0",
            ),
            (
                json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i", "restartPolicy": "Always"}]},
                       "status": {"phase": "Running", "containerStatuses": [running(true, 0)],
                                  "initContainerStatuses": [{"name": "i", "ready": true, "started": true, "restartCount": 0}]}}),
                "2/2 Running 0",
            ),
        ];
        for (pod, text) in cases {
            assert_eq!(row(&pod), text, "{pod}");
        }
    }
}
