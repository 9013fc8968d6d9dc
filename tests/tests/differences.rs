//! The recorded answers of upstream's API server, beside ours. `diff_`: what clients could tell apart.
//!
//! To record anew: `REFERENCE=path/to/kubeconfig cargo nextest run -p windlass-tests diff_`, against an empty
//! kube-apiserver v1.36 with `--authorization-mode=Node,RBAC` and no controllers.

use std::{fs, path::PathBuf};

use minicluster::TestCluster;
use serde_json::Value;
use windlass_tests::differences::{Asked, Known, answers, parse, report};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("differences")
}

/// The scenarios of the folder, by name.
fn scenarios() -> Vec<(String, Vec<Asked>)> {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "http"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, parse(&fs::read_to_string(path).unwrap()))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

async fn record(kubeconfig: &str) {
    let file = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    for (name, scenario) in scenarios() {
        let lines: String =
            answers(&client, &scenario).await.iter().map(|answer| format!("{answer}\n")).collect();
        fs::write(folder().join(format!("{name}.jsonl")), lines).unwrap();
    }
}

#[tokio::test]
async fn diff_answers_are_upstreams() {
    if let Ok(kubeconfig) = std::env::var("REFERENCE") {
        return record(&kubeconfig).await;
    }
    let known = Known::parse(&fs::read_to_string(folder().join("known.txt")).unwrap());
    let mut all = String::new();
    let mut asked = 0;
    for (name, scenario) in scenarios() {
        let recorded = fs::read_to_string(folder().join(format!("{name}.jsonl"))).unwrap();
        let recorded: Vec<Value> = recorded.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let cluster = TestCluster::start().await;
        let ours = answers(&cluster.client(), &scenario).await;
        all.push_str(&report(&name, &scenario, &recorded, &ours, &known));
        asked += scenario.len();
    }
    let (requests, lines) = (all.lines().filter(|l| !l.starts_with(' ')).count(), all.lines().count());
    assert!(all.is_empty(), "{requests} of {asked} answers differ, {} places:\n{all}", lines - requests);
    let outlived = known.outlived();
    assert!(outlived.is_empty(), "no longer different, so no longer known: {outlived:#?}");
}
