//! The server is killed at random moments under load, again and again. What it acknowledged is there when it is back.

mod daemon;

use std::{collections::BTreeMap, time::Duration};

use daemon::{Folder, PATIENCE, Server};
use futures::{StreamExt, future::join_all};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams},
};
use tokio::time::{sleep, timeout};

const KILLS: usize = 50;
const WRITERS: usize = 6;
const KEYS: usize = 8;
/// How long the load lasts at most until the server is killed, in milliseconds.
const LOAD: std::ops::Range<u64> = 5..250;
const LABEL: &str = "made-by=the-kill-test";

fn configmaps(server: &Server) -> Api<ConfigMap> {
    Api::default_namespaced(server.client.clone())
}

/// A ConfigMap as far as it matters here: its value and its revision.
type State = Option<(String, u64)>;

fn revision(object: &impl ResourceExt) -> u64 {
    object.resource_version().unwrap().parse().unwrap()
}

fn state(object: &ConfigMap) -> State {
    Some((object.data.as_ref().unwrap()["value"].clone(), revision(object)))
}

/// What one client knows: what was acknowledged, and the one request that had no answer.
struct Writer {
    id: usize,
    random: fastrand::Rng,
    serial: usize,
    acknowledged: BTreeMap<String, State>,
    /// The key, and the value it has if the request was carried out.
    open: Option<(String, Option<String>)>,
}

impl Writer {
    fn new(id: usize, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed.wrapping_add(id as u64));
        Self { id, random, serial: 0, acknowledged: BTreeMap::new(), open: None }
    }

    /// Writes until the server does not answer any more. Nobody else writes these keys: every refusal is a defect.
    async fn write(&mut self, configmaps: Api<ConfigMap>) {
        loop {
            let name = format!("w{}-{}", self.id, self.random.usize(..KEYS));
            let before = self.acknowledged.get(&name).cloned().flatten();
            let deletes = before.is_some() && self.random.u8(..3) == 0;
            self.serial += 1;
            let value = (!deletes).then(|| self.serial.to_string());
            self.open = Some((name.clone(), value.clone()));
            let answer = match (value, &before) {
                (None, _) => configmaps.delete(&name, &DeleteParams::default()).await.map(|_| None),
                (Some(value), None) => {
                    let object = object(&name, &value, None);
                    configmaps.create(&PostParams::default(), &object).await.map(|o| state(&o))
                }
                (Some(value), Some((_, revision))) => {
                    let object = object(&name, &value, Some(*revision));
                    configmaps.replace(&name, &PostParams::default(), &object).await.map(|o| state(&o))
                }
            };
            match answer {
                Ok(after) => {
                    self.acknowledged.insert(name, after);
                    self.open = None;
                }
                Err(kube::Error::Api(status)) => panic!("{name} was refused: {status:?}"),
                Err(_) => return,
            }
        }
    }

    /// Compares what is there with what was acknowledged, and goes on from what is there.
    fn check(&mut self, present: &BTreeMap<String, State>) {
        let open = self.open.take();
        for key in 0..KEYS {
            let name = format!("w{}-{key}", self.id);
            let is = present.get(&name).cloned().flatten();
            let was = self.acknowledged.get(&name).cloned().flatten();
            let carried_out = open.as_ref().is_some_and(|(open, value)| {
                *open == name && is.as_ref().map(|(value, _)| value) == value.as_ref()
            });
            assert!(is == was || carried_out, "{name}: {was:?} was acknowledged, {is:?} is there");
            self.acknowledged.insert(name, is);
        }
    }
}

fn object(name: &str, value: &str, revision: Option<u64>) -> ConfigMap {
    let (key, label) = LABEL.split_once('=').unwrap();
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object.metadata.resource_version = revision.map(|r| r.to_string());
    object.labels_mut().insert(key.to_owned(), label.to_owned());
    object.data = Some([("value".to_owned(), value.to_owned())].into());
    object
}

/// A copy of all ConfigMaps, kept by a watch that goes on where the last one broke off.
#[derive(Default)]
struct Mirror {
    objects: BTreeMap<String, State>,
    revision: u64,
    expired: usize,
}

impl Mirror {
    async fn list(configmaps: &Api<ConfigMap>) -> (BTreeMap<String, State>, u64) {
        let list = configmaps.list(&ListParams::default().labels(LABEL)).await.unwrap();
        let objects = list.items.iter().map(|o| (o.name_any(), state(o))).collect();
        (objects, list.metadata.resource_version.unwrap().parse().unwrap())
    }

    /// Follows until the mirror shows `wanted`, or until the server is gone.
    async fn follow(&mut self, configmaps: &Api<ConfigMap>, wanted: Option<&BTreeMap<String, State>>) {
        let params = WatchParams::default().labels(LABEL).timeout(290);
        while wanted != Some(&self.objects) {
            let Ok(events) = configmaps.watch(&params, &self.revision.to_string()).await else { return };
            let mut events = events.boxed();
            while wanted != Some(&self.objects) {
                match events.next().await {
                    Some(Ok(WatchEvent::Error(status))) if status.code == 410 => {
                        self.expired += 1;
                        (self.objects, self.revision) = Self::list(configmaps).await;
                        break;
                    }
                    Some(Ok(WatchEvent::Error(status))) => panic!("the watch failed: {status:?}"),
                    Some(Ok(WatchEvent::Bookmark(_))) => {}
                    Some(Ok(WatchEvent::Deleted(object))) => {
                        self.step(&object);
                        self.objects.remove(&object.name_any());
                    }
                    Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                        self.step(&object);
                        self.objects.insert(object.name_any(), state(&object));
                    }
                    Some(Err(_)) | None => return,
                }
            }
        }
    }

    fn step(&mut self, object: &ConfigMap) {
        assert!(self.revision < revision(object), "revisions go backwards");
        self.revision = revision(object);
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let seed = windlass::random::Source::from_entropy().next_u64();
    println!("seed {seed}");
    let dir = Folder::new("kill", seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut writers: Vec<Writer> = (0..WRITERS).map(|id| Writer::new(id, seed)).collect();
    let mut mirror = Mirror::default();
    let (mut last, mut writes) = (0, 0);
    for kill in 0..=KILLS {
        let mut server = Server::start(&dir.0, &[]).await;
        let configmaps = configmaps(&server);
        let (present, revision) = Mirror::list(&configmaps).await;
        let acknowledged = writers.iter().flat_map(|w| w.acknowledged.values().flatten()).map(|s| s.1).max();
        last = last.max(acknowledged.unwrap_or(0)).max(mirror.revision);
        assert!(revision >= last, "kill {kill}: revision {last} was acknowledged, {revision} is there");
        last = revision;
        if kill == 0 {
            (mirror.objects, mirror.revision) = (present.clone(), revision);
        }
        writers.iter_mut().for_each(|writer| writer.check(&present));
        // Where the watch may go on, it has to tell everything that happened since.
        let caught_up = timeout(PATIENCE, mirror.follow(&configmaps, Some(&present))).await;
        assert!(caught_up.is_ok() && mirror.objects == present, "kill {kill}: the watch missed something");
        if kill == KILLS {
            break;
        }
        let before: usize = writers.iter().map(|writer| writer.serial).sum();
        let load = join_all(writers.iter_mut().map(|writer| writer.write(configmaps.clone())));
        let end = async {
            sleep(Duration::from_millis(random.u64(LOAD))).await;
            server.child.kill().await.unwrap();
        };
        let all = futures::future::join3(load, mirror.follow(&configmaps, None), end);
        timeout(PATIENCE, all).await.expect("clients do not notice that the server is gone");
        writes += writers.iter().map(|writer| writer.serial).sum::<usize>() - before;
    }
    assert!(writes > KILLS * WRITERS, "{writes} writes are no load");
    println!("{writes} writes, {KILLS} kills; {} watches began anew", mirror.expired);
}
