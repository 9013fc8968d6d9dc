//! `windlass dev` against a cluster of its own. In the place of cargo and of an operator there are two scripts, so that
//! nothing has to be compiled.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
};
use serde_json::json;

/// How long a line may take to be printed.
const LINE_WITHIN: Duration = Duration::from_secs(30);

struct Dev {
    child: Child,
    lines: Receiver<String>,
    dir: PathBuf,
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Dev {
    fn start(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("src")).unwrap();
        fs::write(dir.join("Cargo.toml"), "").unwrap();
        fs::write(dir.join("src/main.rs"), "good").unwrap();
        let description = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rigger.json");
        let operator = dir.join("operator");
        script(
            &operator,
            &format!(
                "case $1 in describe) cat {} ;; run) trap 'echo operator told to end; exit' TERM; echo \"operator started: $*\"; \
                 grep -q ends src/main.rs && exit 3; while :; do sleep 0.1; done ;; esac",
                description.display()
            ),
        );
        let message =
            json!({ "reason": "compiler-artifact", "target": { "kind": ["bin"] }, "executable": operator });
        script(&dir.join("cargo"), &format!("grep -q bad src/main.rs && exit 101\necho '{message}'"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_windlass"))
            .args(["dev", "--cluster", "--nodes", "0", "--", "--admin=127.0.0.1:0"])
            .current_dir(&dir)
            .env("CARGO", dir.join("cargo"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { child, lines, dir }
    }

    /// Waits for a line with this in it.
    fn until(&self, part: &str) -> String {
        let mut seen = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(LINE_WITHIN) else { panic!("no {part:?} in {seen:#?}") };
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
    }

    fn write(&self, source: &str) {
        fs::write(self.dir.join("src/main.rs"), source).unwrap();
    }

    async fn client(&self) -> Client {
        let file = Kubeconfig::read_from(self.dir.join("target/dev.kubeconfig")).unwrap();
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn an_operator_is_run_again_after_each_change() {
    let mut dev = Dev::start("dev");
    let kubeconfig = dev.dir.join("target/dev.kubeconfig").canonicalize();
    dev.until("a cluster in memory: export KUBECONFIG=");
    let kubeconfig = kubeconfig.or_else(|_| dev.dir.join("target/dev.kubeconfig").canonicalize()).unwrap();
    let started = dev.until("operator started: run --admin=127.0.0.1:0");
    assert!(started.ends_with(&format!("--kubeconfig {}", kubeconfig.display())), "{started}");

    let client = dev.client().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.get("sails.harbour.dev").await.unwrap();
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("harbour.dev", "v1", "Sail"));
    let sails: Api<DynamicObject> = Api::default_namespaced_with(client, &kind);
    let sail = DynamicObject::new("main", &kind).data(json!({ "spec": { "area": 4 } }));
    sails.create(&PostParams::default(), &sail).await.unwrap();
    dev.until("object  Sail default/main is there");

    dev.write("bad");
    dev.until("it does not build; waiting for a change");
    assert!(dev.child.try_wait().unwrap().is_none());
    dev.write("good again");
    dev.until("operator told to end");
    dev.until("operator started");
    dev.write("ends");
    dev.until("the operator ended with exit status: 3; waiting for a change");
    dev.write("good for the third time");
    dev.until("operator started");

    let id = dev.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    dev.until("operator told to end");
    assert!(dev.child.wait().unwrap().success());
}
