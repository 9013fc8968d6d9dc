//! Transcripts of the pure part: a pod, a runtime's view, and the steps and the phase that follow.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use minicluster_kubelet::pod::status::{Node, status};
use minicluster_kubelet::pod::sync::{Action, sync};
use minicluster_kubelet::pod::{Memory, Seen};
use minicluster_kubelet::runtime::{Container, ContainerState, PodView, Sandbox};

/// A pod whose containers live and die by commands, one per line:
/// `sandbox up|down`, `run NAME`, `exit NAME CODE`, `at SECONDS`, `delete`, `volumes`.
struct Stage {
    pod: Pod,
    view: PodView,
    memory: Memory,
    told: PodStatus,
    now: i64,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

impl Stage {
    fn new(spec: &str) -> Self {
        let pod = format!(r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u"}},"spec":{spec}}}"#);
        Self {
            pod: serde_json::from_str(&pod).unwrap(),
            view: PodView::default(),
            memory: Memory { start_time: Some(at(0)), ..Memory::default() },
            told: PodStatus::default(),
            now: 0,
        }
    }

    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["volumes"] => self.memory.volumes_ready = true,
            ["at", seconds] => self.now = seconds.parse().unwrap(),
            ["sandbox", "up"] => {
                let attempt = u32::try_from(self.view.sandboxes.len()).unwrap();
                self.view.sandboxes.insert(
                    0,
                    Sandbox {
                        id: format!("s{attempt}"),
                        attempt,
                        ready: true,
                        ips: vec!["10.0.0.1".into()],
                        ..Sandbox::default()
                    },
                );
            }
            ["sandbox", "down"] => self.view.sandboxes[0].ready = false,
            ["run", name] => {
                let attempt = self.view.newest(name).map_or(0, |c| c.attempt + 1);
                let container = Container {
                    id: format!("{name}{attempt}"),
                    sandbox_id: self.view.sandboxes[0].id.clone(),
                    name: (*name).into(),
                    attempt,
                    state: ContainerState::Running,
                    created_at: at(self.now),
                    started_at: Some(at(self.now)),
                    ..Container::default()
                };
                self.view.containers.insert(0, container);
            }
            ["exit", name, code] => {
                let now = self.now;
                let c = self.view.containers.iter_mut().find(|c| c.name == *name).unwrap();
                c.state = ContainerState::Exited;
                c.exit_code = code.parse().unwrap();
                c.finished_at = Some(at(now));
                self.memory.stopping.clear();
            }
            ["delete"] => {
                self.pod.metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(self.now)));
                self.pod.metadata.deletion_grace_period_seconds = Some(30);
            }
            ["cleaned"] => self.memory.cleaned = true,
            other => panic!("{other:?}"),
        }
    }

    fn look(&mut self) -> String {
        let seen = Seen {
            pod: &self.pod,
            view: &self.view,
            memory: &self.memory,
            told: &self.told,
            now: at(self.now),
        };
        let plan = sync(seen);
        let told = status(seen, &Node { host_ips: &[], runtime: "test" });
        let mut text = format!("  {}", told.phase.as_deref().unwrap());
        for action in &plan.actions {
            let _ = match action {
                Action::Start { name, attempt, .. } => write!(text, ", start {name} #{attempt}"),
                Action::Stop { name, deadline, .. } => {
                    let left = deadline.duration_since(at(self.now)).as_secs();
                    write!(text, ", stop {name} within {left}s")
                }
                Action::Hold { name, waiting } => write!(text, ", hold {name} ({})", waiting.reason),
                other => write!(text, ", {other:?}"),
            };
            match action {
                Action::Stop { id, deadline, .. } => {
                    self.memory.stopping.insert(id.clone(), *deadline);
                }
                Action::Start { name, after: Some(ended), .. } => {
                    let memory = self.memory.container(name);
                    memory.crash = Some(minicluster_kubelet::pod::restart::Backoff::next(
                        memory.crash,
                        *ended,
                        at(self.now),
                    ));
                }
                _ => {}
            }
        }
        if let Some(wake) = plan.wake {
            let _ = write!(text, ", again in {}s", wake.duration_since(at(self.now)).as_secs());
        }
        self.told = told;
        text
    }
}

fn play(spec: &str, script: &str, expected: &Expect) {
    let mut stage = Stage::new(spec);
    let mut transcript = String::new();
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        for command in line.split(';') {
            stage.command(command.trim());
        }
        let _ = writeln!(transcript, "{line}\n{}", stage.look());
    }
    expected.assert_eq(&transcript);
}

#[test]
fn a_plain_pod_crashes_and_is_deleted() {
    play(
        r#"{"containers":[{"name":"a"},{"name":"b"}]}"#,
        "at 0
         volumes
         sandbox up
         run a; run b
         at 5; exit a 1
         run a
         at 8; exit a 1
         at 15
         at 18
         run a
         at 20; delete
         at 21; exit a 0; exit b 0
         sandbox down
         cleaned",
        &expect![[r#"
            at 0
              Pending, MountVolumes, CreateSandbox { attempt: 0 }
            volumes
              Pending, CreateSandbox { attempt: 0 }
            sandbox up
              Pending, start a #0, start b #0
            run a; run b
              Running
            at 5; exit a 1
              Running, start a #1
            run a
              Running
            at 8; exit a 1
              Running, hold a (CrashLoopBackOff), again in 10s
            at 15
              Running, hold a (CrashLoopBackOff), again in 3s
            at 18
              Running, start a #2
            run a
              Running, RemoveContainer { id: "a0" }
            at 20; delete
              Running, stop a within 30s, stop b within 30s
            at 21; exit a 0; exit b 0
              Running, StopSandbox { id: "s0" }
            sandbox down
              Running, CleanUp
            cleaned
              Succeeded, RemoveContainer { id: "a2" }, RemoveContainer { id: "a1" }, RemoveContainer { id: "b0" }, RemoveContainer { id: "a0" }, RemoveSandbox { id: "s0" }, Delete
        "#]],
    );
}

#[test]
fn init_containers_run_in_order_and_sidecars_outlive_the_application() {
    play(
        r#"{"restartPolicy":"Never","initContainers":[{"name":"i"},{"name":"s","restartPolicy":"Always"},{"name":"j"}],"containers":[{"name":"a"}]}"#,
        "volumes; sandbox up
         run i
         exit i 0
         run s
         run j
         exit j 0
         run a
         exit a 0
         exit s 0
         sandbox down",
        &expect![[r#"
            volumes; sandbox up
              Pending, start i #0
            run i
              Pending
            exit i 0
              Pending, start s #0
            run s
              Pending, start j #0
            run j
              Pending
            exit j 0
              Pending, start a #0
            run a
              Running
            exit a 0
              Running, stop s within 30s
            exit s 0
              Succeeded, StopSandbox { id: "s0" }
            sandbox down
              Succeeded, CleanUp
        "#]],
    );
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    play(
        r#"{"restartPolicy":"Never","initContainers":[{"name":"i"}],"containers":[{"name":"a"}]}"#,
        "volumes; sandbox up
         run i
         exit i 1
         sandbox down",
        &expect![[r#"
            volumes; sandbox up
              Pending, start i #0
            run i
              Pending
            exit i 1
              Failed, StopSandbox { id: "s0" }
            sandbox down
              Failed, CleanUp
        "#]],
    );
}

#[test]
fn a_lost_sandbox_is_replaced_and_everything_starts_anew() {
    play(
        r#"{"initContainers":[{"name":"i"}],"containers":[{"name":"a"}]}"#,
        "volumes; sandbox up
         run i
         exit i 0
         run a
         sandbox down
         exit a 137
         sandbox up
         run i
         exit i 0",
        &expect![[r#"
            volumes; sandbox up
              Pending, start i #0
            run i
              Pending
            exit i 0
              Pending, start a #0
            run a
              Running
            sandbox down
              Running, stop a within 30s
            exit a 137
              Running, CreateSandbox { attempt: 1 }
            sandbox up
              Running, start i #1
            run i
              Running
            exit i 0
              Running, start a #1
        "#]],
    );
}

#[test]
fn a_deadline_stops_what_runs() {
    play(
        r#"{"activeDeadlineSeconds":10,"terminationGracePeriodSeconds":3,"containers":[{"name":"a"}]}"#,
        "volumes; sandbox up
         run a
         at 4
         at 10
         exit a 143
         sandbox down",
        &expect![[r#"
            volumes; sandbox up
              Pending, start a #0, again in 10s
            run a
              Running, again in 10s
            at 4
              Running, again in 6s
            at 10
              Running, stop a within 3s
            exit a 143
              Failed, StopSandbox { id: "s0" }
            sandbox down
              Failed, CleanUp
        "#]],
    );
}
