//! What is made of what an operator says of itself: definitions, rights, manifests. The operator is the one of
//! `framework/examples`; `rigger.json` is what its `describe` prints.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use expect_test::expect;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DynamicObject, ListParams, PostParams},
    core::GroupVersionKind,
};
use minicluster::TestCluster;
use serde_json::{Value, json};

fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Types `windlass ...`; the exit code, and what was printed on standard output and error.
fn windlass(dir: &Path, args: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    let output = command.args(args.split_whitespace()).current_dir(dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Types a command about the rigger that has to succeed; what it printed.
fn rigger(dir: &Path, args: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rigger.json");
    let (code, out, err) = windlass(dir, &format!("{args} --description {}", file.display()));
    assert_eq!((code, err.as_str()), (0, ""), "{args}: {out}");
    out
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

fn definition() -> Value {
    let text = include_str!("rigger.json");
    serde_json::from_str::<Value>(text).unwrap()["crds"][0].clone()
}

/// Sorted by kind and name, to be compared with others that come in another order.
fn sorted(mut objects: Vec<Value>) -> Vec<Value> {
    objects.sort_by_key(|object| format!("{}{}", object["kind"], object["metadata"]));
    objects
}

#[test]
fn definitions_and_rights_are_printed() {
    let dir = folder("printed");
    let printed = documents(&rigger(&dir, "crd print"));
    assert_eq!(printed, [definition()]);
    let list: Value = serde_json::from_str(&rigger(&dir, "crd print -o json")).unwrap();
    assert_eq!(list["items"], json!([definition()]));
    let rights = documents(&rigger(&dir, "rbac --namespace port"));
    let line = |o: &Value| {
        format!("{} {}", o["kind"].as_str().unwrap(), o["metadata"]["namespace"].as_str().unwrap_or("-"))
    };
    let lines: Vec<String> = rights.iter().map(line).collect();
    expect![[r#"
        ServiceAccount port
        ClusterRole -
        ClusterRoleBinding -
        Role port
        RoleBinding port"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn a_server_says_whether_definitions_are_good() {
    let dir = folder("checked");
    assert_eq!(rigger(&dir, "crd check"), "sails.harbour.dev: good\n");
    let mut bad = definition();
    bad["spec"]["scope"] = json!("Everywhere");
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{ "rule": "self.area > 'a lot'" }]);
    fs::write(dir.join("bad.json"), bad.to_string()).unwrap();
    let (code, out, err) = windlass(&dir, "crd check --file bad.json");
    assert_eq!((code, err.as_str()), (1, "windlass: 1 of 1 definitions are refused\n"));
    assert!(
        out.contains(
            "spec.scope: Unsupported value: \"Everywhere\": supported values: \"Cluster\", \"Namespaced\""
        ),
        "{out}"
    );
    assert!(out.contains("found no matching overload for '_>_' applied to '(int, string)'"), "{out}");
    fs::write(dir.join("none.yaml"), "kind: ConfigMap\n").unwrap();
    let (code, _, err) = windlass(&dir, "crd check --file none.yaml");
    assert_eq!((code, err.as_str()), (1, "windlass: none.yaml holds no CustomResourceDefinition\n"));
}

#[test]
fn a_change_is_tried_on_what_is_stored() {
    let dir = folder("compared");
    fs::write(dir.join("old.json"), definition().to_string()).unwrap();
    let mut new = definition();
    let spec = &mut new["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["x-kubernetes-validations"] =
        json!([{ "rule": "self.area < 100", "message": "no ship carries it" }]);
    fs::write(dir.join("new.json"), new.to_string()).unwrap();
    let sail = |name: &str, area: u32| json!({ "apiVersion": "harbour.dev/v1", "kind": "Sail", "metadata": { "name": name, "namespace": "sea" }, "spec": { "area": area } });
    let stored = json!({ "apiVersion": "v1", "kind": "List", "items": [sail("jib", 20), sail("main", 200)] });
    fs::write(dir.join("stored.json"), stored.to_string()).unwrap();

    let (code, out, _) = windlass(&dir, "crd diff old.json old.json --objects stored.json");
    assert_eq!((code, out.as_str()), (0, "nothing that stored objects would notice\n"));
    let (code, out, err) = windlass(&dir, "crd diff old.json new.json --objects stored.json");
    assert_eq!((code, err.as_str()), (1, "windlass: 2 changes may break objects that are stored\n"));
    expect![[r#"
        breaks sails.harbour.dev v1 spec: the rule "self.area < 100" is new: what does not follow it is refused
        refused Sail sea/main: Sail.harbour.dev "main" is invalid: spec: Invalid value: no ship carries it
    "#]]
    .assert_eq(&out);
    let (code, out, _) = windlass(&dir, "crd diff old.json new.json -o json");
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &out["changes"][0]["field"], &out["changes"][0]["breaks"]),
        (1, &json!("spec"), &json!(true))
    );
}

const IMAGE: &str = "--image harbour.example:5000/rigger:1.2.3";

#[tokio::test(start_paused = true)]
async fn a_cluster_takes_every_manifest_and_runs_the_pod() {
    let dir = folder("plain");
    let objects = documents(&rigger(&dir, &format!("manifests {IMAGE} --replicas 2")));
    let cluster = TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(1).start().await;
    for object in objects {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let kind = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
        let (resource, capabilities) = kube::discovery::pinned_kind(&cluster.client(), &kind).await.unwrap();
        let api: Api<DynamicObject> = match capabilities.scope {
            kube::discovery::Scope::Namespaced => Api::namespaced_with(cluster.client(), "rigger", &resource),
            kube::discovery::Scope::Cluster => Api::all_with(cluster.client(), &resource),
        };
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    assert!(cluster.settle().await);
    // The namespace is restricted: a pod that asks for more than it may is not made.
    let pods = Api::<Pod>::namespaced(cluster.client(), "rigger").list(&ListParams::default()).await.unwrap();
    assert_eq!(pods.items.len(), 2);
    let spec = pods.items[0].spec.as_ref().unwrap();
    assert_eq!(spec.containers[0].image.as_deref(), Some("harbour.example:5000/rigger:1.2.3"));
    assert_eq!(spec.service_account_name.as_deref(), Some("rigger"));
}

#[test]
fn a_base_for_kustomize_holds_the_same() {
    let dir = folder("kustomize");
    let plain = documents(&rigger(&dir, &format!("manifests {IMAGE}")));
    rigger(&dir, &format!("manifests {IMAGE} --format kustomize --out base"));
    let base = &documents(&fs::read_to_string(dir.join("base/kustomization.yaml")).unwrap())[0];
    let files = base["resources"].as_array().unwrap();
    let all = files.iter().flat_map(|file| {
        documents(&fs::read_to_string(dir.join("base").join(file.as_str().unwrap())).unwrap())
    });
    assert_eq!(sorted(all.collect()), sorted(plain));

    rigger(&dir, &format!("manifests {IMAGE} --format kustomize --out base --check"));
    fs::write(dir.join("base/rbac.yaml"), "").unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rigger.json");
    let stale =
        format!("manifests {IMAGE} --format kustomize --out base --check --description {}", file.display());
    let (code, _, err) = windlass(&dir, &stale);
    assert_eq!((code, err.as_str()), (1, "windlass: rbac.yaml is not up to date in base\n"));
}

#[test]
fn a_chart_holds_the_same_once_it_is_filled_in() {
    let dir = folder("helm");
    let plain = documents(&rigger(&dir, &format!("manifests {IMAGE} --namespace port")));
    rigger(&dir, &format!("manifests {IMAGE} --format helm --out chart"));
    let read = |file: &str| fs::read_to_string(dir.join("chart").join(file)).unwrap();
    let values = &documents(&read("values.yaml"))[0];
    let text = |path: &str| values.pointer(path).unwrap().as_str().unwrap().to_owned();
    let resources = format!(" {}", values["resources"]);
    let filled = |file: &str| {
        let filled = read(file)
            .replace("{{ .Release.Namespace }}", "port")
            .replace("{{ .Values.image.repository }}", &text("/image/repository"))
            .replace("{{ .Values.image.separator }}", &text("/image/separator"))
            .replace("{{ .Values.image.tag }}", &text("/image/tag"))
            .replace("{{ .Values.replicas }}", &values["replicas"].to_string())
            .replace(" {{- toYaml .Values.resources | nindent 12 }}", &resources);
        assert!(!filled.contains("{{") && !filled.contains("windlass-mark"), "{filled}");
        documents(&filled)
    };
    let mut all = [filled("templates/rbac.yaml"), filled("templates/deployment.yaml")].concat();
    all.extend(documents(&read("crds/sails.harbour.dev.yaml")));
    // Helm makes the namespace itself where it is told to.
    let without_namespace = plain.into_iter().filter(|object| object["kind"] != "Namespace").collect();
    assert_eq!(sorted(all), sorted(without_namespace));
    let chart = &documents(&read("Chart.yaml"))[0];
    assert_eq!((&chart["apiVersion"], &chart["name"]), (&json!("v2"), &json!("rigger")));
}

#[test]
fn a_bundle_asks_for_the_same_rights() {
    let dir = folder("olm");
    let plain = documents(&rigger(&dir, &format!("manifests {IMAGE}")));
    let of = |kind: &str| plain.iter().find(|object| object["kind"] == kind).unwrap().clone();
    rigger(&dir, &format!("manifests {IMAGE} --version 1.2.3 --format olm --out bundle"));
    let read = |file: &str| fs::read_to_string(dir.join("bundle").join(file)).unwrap();
    let version = &documents(&read("manifests/rigger.clusterserviceversion.yaml"))[0];
    assert_eq!(version["metadata"]["name"], "rigger.v1.2.3");
    let install = &version["spec"]["install"]["spec"];
    assert_eq!(install["clusterPermissions"][0]["rules"], of("ClusterRole")["rules"]);
    assert_eq!(install["permissions"][0]["rules"], of("Role")["rules"]);
    assert_eq!(install["deployments"][0]["spec"], of("Deployment")["spec"]);
    assert_eq!(version["spec"]["customresourcedefinitions"]["owned"][0]["name"], "sails.harbour.dev");
    assert_eq!(documents(&read("manifests/sails.harbour.dev.yaml")), [definition()]);
    let annotations = read("metadata/annotations.yaml");
    for line in read("bundle.Dockerfile").lines().filter_map(|line| line.strip_prefix("LABEL ")) {
        let (label, value) = line.split_once('=').unwrap();
        assert!(annotations.contains(&format!("{label}: {value}")), "{line}: {annotations}");
    }
}

#[test]
fn bad_projects_are_told_so() {
    let dir = folder("bad");
    fs::write(dir.join("other.json"), "{}").unwrap();
    fs::write(
        dir.join("newer.json"),
        include_str!("rigger.json").replacen("\"windlass\": 1", "\"windlass\": 2", 1),
    )
    .unwrap();
    let table = [
        ("rbac", "windlass: . is no operator's folder: there is no Cargo.toml in it\n"),
        (
            "rbac --description other.json",
            "windlass: this is not what an operator of Windlass says of itself: missing field `windlass` at line 1 column 2\n",
        ),
        (
            "rbac --description newer.json",
            "windlass: the description has version 2, and this program knows 1\n",
        ),
        ("rbac --description gone.json", "windlass: gone.json: No such file or directory (os error 2)\n"),
    ];
    for (args, sentence) in table {
        let (code, out, err) = windlass(&dir, args);
        assert_eq!((code, out.as_str(), err.as_str()), (1, "", sentence), "{args}");
    }
    let (code, _, err) = windlass(&dir, "crd install --kubeconfig gone --description newer.json");
    assert_eq!(code, 1, "{err}");
}

#[test]
fn shells_and_readers_are_served() {
    let dir = folder("man");
    let (code, out, _) = windlass(&dir, "completions bash");
    assert!(code == 0 && out.contains("manifests") && out.contains("kustomize"));
    assert_eq!(windlass(&dir, "man pages").0, 0);
    let page = fs::read_to_string(dir.join("pages/windlass-manifests.1")).unwrap();
    assert!(page.contains("kustomize"), "{page}");
}
