//! Encryption at rest: what the disk holds, what a wrong key is told, and keys that change under load.

mod daemon;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use daemon::{Folder, PATIENCE, Server};
use futures::future::join_all;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use tokio::time::{sleep, timeout};

const FLAG: &str = "--encryption-provider-config";

/// Puts a configuration in place as a whole, as careful administrators do.
fn configure(dir: &Path, providers: &str) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let (path, fresh) = (dir.join("encryption.yaml"), dir.join("encryption.yaml.new"));
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
         - resources: [secrets]\n  providers: [{providers}]\n"
    );
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    path
}

fn key(number: u8) -> String {
    format!("{{name: k{number}, secret: {}}}", STANDARD.encode([number; 32]))
}

fn secrets(client: &Client) -> Api<Secret> {
    Api::default_namespaced(client.clone())
}

fn secret(name: &str, value: &str) -> Secret {
    let mut secret = Secret::default();
    secret.metadata.name = Some(name.to_owned());
    secret.data = Some([("value".to_owned(), ByteString(value.as_bytes().to_vec()))].into());
    secret
}

fn value(secret: &Secret) -> String {
    String::from_utf8(secret.data.as_ref().unwrap()["value"].0.clone()).unwrap()
}

fn files_hold(dir: &Path, wanted: &str) -> bool {
    std::fs::read_dir(dir).unwrap().any(|file| {
        let path = file.unwrap().path();
        match path.is_dir() {
            true => files_hold(&path, wanted),
            false => {
                let bytes = std::fs::read(&path).unwrap();
                // Files are as long as they were reserved; what follows the last byte is nobody's.
                let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
                bytes[..end].windows(wanted.len()).any(|part| part == wanted.as_bytes())
            }
        }
    })
}

#[tokio::test]
async fn the_disk_holds_no_secret_and_a_wrong_key_is_told_at_the_start() {
    let dir = Folder::new("sealed", 0);
    let data = dir.0.join("data");
    let config = configure(&dir.0, &format!("{{aescbc: {{keys: [{}]}}}}, {{identity: {{}}}}", key(1)));
    let flags = [FLAG, config.to_str().unwrap()];
    let encoded = STANDARD.encode("a very well kept one");
    // Written before anybody asked for encryption.
    let mut server = Server::start(&data, &[]).await;
    secrets(&server.client).create(&PostParams::default(), &secret("old", "plain to see")).await.unwrap();
    server.child.kill().await.unwrap();

    let mut server = Server::start(&data, &flags).await;
    let api = secrets(&server.client);
    api.create(&PostParams::default(), &secret("new", "a very well kept one")).await.unwrap();
    let mut old = api.get("old").await.unwrap();
    assert_eq!(value(&old), "plain to see");
    let before = old.resource_version();
    old = api.replace("old", &PostParams::default(), &old).await.unwrap();
    assert_ne!(old.resource_version(), before, "a write that changes nothing seals it");
    let again = api.replace("old", &PostParams::default(), &old).await.unwrap();
    assert_eq!(again.resource_version(), old.resource_version());
    server.child.kill().await.unwrap();
    assert!(files_hold(&data.join("store"), "k8s:enc:aescbc:v1:k1:"));
    assert!(!files_hold(&data.join("store"), &encoded));

    for (providers, told) in [
        (
            format!("{{aescbc: {{keys: [{}]}}}}", key(2)),
            "no matching key was found for the provided AES transformer",
        ),
        ("{identity: {}}".to_owned(), "no matching prefix found"),
        (
            "{aescbc: {keys: [{name: k1, secret: AAAA}]}}".to_owned(),
            "secret is not of the expected length, got 3",
        ),
    ] {
        configure(&dir.0, &providers);
        let failed =
            daemon::command(&data, &flags).stderr(std::process::Stdio::piped()).output().await.unwrap();
        let text = String::from_utf8(failed.stderr).unwrap();
        assert!(!failed.status.success() && text.contains(told), "{providers}: {text}");
    }
    let failed = daemon::command(&data, &[]).stderr(std::process::Stdio::piped()).output().await.unwrap();
    let text = String::from_utf8(failed.stderr).unwrap();
    assert!(text.contains("/registry/secrets/default/new is encrypted"), "{text}");
    configure(&dir.0, &format!("{{aescbc: {{keys: [{}, {}]}}}}", key(2), key(1)));
    let server = Server::start(&data, &flags).await;
    assert_eq!(value(&secrets(&server.client).get("new").await.unwrap()), "a very well kept one");
}

const KILLS: u8 = 10;
const WRITERS: usize = 4;
const NAMES: usize = 6;

/// What a writer knows: acknowledged values, and the one that had no answer.
#[derive(Default)]
struct Writer {
    known: BTreeMap<String, String>,
    open: Option<(String, String)>,
    serial: usize,
}

impl Writer {
    async fn write(&mut self, id: usize, api: Api<Secret>) {
        loop {
            self.serial += 1;
            let (name, wanted) = (format!("w{id}-{}", self.serial % NAMES), format!("value {}", self.serial));
            self.open = Some((name.clone(), wanted.clone()));
            let object = secret(&name, &wanted);
            let written = match self.known.contains_key(&name) {
                true => api.replace(&name, &PostParams::default(), &object).await,
                false => api.create(&PostParams::default(), &object).await,
            };
            match written {
                Ok(_) => self.known.insert(name, wanted),
                Err(kube::Error::Api(status)) => panic!("{name} was refused: {status:?}"),
                Err(_) => return,
            };
            self.open = None;
        }
    }

    fn check(&mut self, present: &BTreeMap<String, String>) {
        if let Some((name, wanted)) = self.open.take()
            && present.get(&name) == Some(&wanted)
        {
            self.known.insert(name, wanted);
        }
        for (name, value) in &self.known {
            assert_eq!(present.get(name), Some(value), "{name}");
        }
    }
}

async fn present(client: &Client) -> BTreeMap<String, String> {
    let list = secrets(client).list(&ListParams::default()).await.unwrap();
    list.iter().map(|secret| (secret.name_any(), value(secret))).collect()
}

#[tokio::test]
async fn kill_9_while_keys_rotate_loses_nothing() {
    let seed = windlass::random::Source::from_entropy().next_u64();
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = Folder::new("rotation", seed);
    let data = dir.0.join("data");
    let kinds = ["aescbc", "aesgcm", "secretbox"];
    // The newest seals, the two before it open: as an administrator would do it, one step at a time.
    let providers = |newest: u8| {
        let one = |n: u8| format!("{{{}: {{keys: [{}]}}}}", kinds[usize::from(n) % 3], key(n));
        (newest.saturating_sub(40)..=newest).rev().map(one).collect::<Vec<_>>().join(", ")
    };
    let mut newest = 1;
    let config = configure(&dir.0, &providers(newest));
    let flags = [FLAG, config.to_str().unwrap(), "--encryption-provider-config-automatic-reload"];
    let mut writers: Vec<Writer> = (0..WRITERS).map(|_| Writer::default()).collect();
    for kill in 0..=KILLS {
        let mut server = Server::start(&data, &flags).await;
        let there = present(&server.client).await;
        writers.iter_mut().for_each(|writer| writer.check(&there));
        if kill == KILLS {
            break;
        }
        let api = secrets(&server.client);
        let load = join_all(writers.iter_mut().enumerate().map(|(id, writer)| writer.write(id, api.clone())));
        let end = async {
            for _ in 0..random.u8(1..4) {
                sleep(Duration::from_millis(random.u64(20..150))).await;
                newest += 1;
                configure(&dir.0, &providers(newest));
            }
            sleep(Duration::from_millis(random.u64(0..150))).await;
            server.child.kill().await.unwrap();
        };
        let all = futures::future::join(load, end);
        timeout(PATIENCE, all).await.expect("clients do not notice that the server is gone");
    }
    let writes: usize = writers.iter().map(|writer| writer.serial).sum();
    assert!(writes > usize::from(KILLS) * WRITERS, "{writes} writes are no load");
    // All written anew, all older keys are dispensable.
    let mut server = Server::start(&data, &flags).await;
    let api = secrets(&server.client);
    for secret in api.list(&ListParams::default()).await.unwrap() {
        api.replace(&secret.name_any(), &PostParams::default(), &secret).await.unwrap();
    }
    let before = present(&server.client).await;
    server.child.kill().await.unwrap();
    configure(&dir.0, &format!("{{{}: {{keys: [{}]}}}}", kinds[usize::from(newest) % 3], key(newest)));
    let server = Server::start(&data, &flags).await;
    assert_eq!(present(&server.client).await, before);
    println!("{writes} writes, {KILLS} kills, {newest} keys");
}
