//! What is made of what an operator says of itself: definitions, rights, manifests. The operator is the one of
//! `framework/examples`; `rigger.json` is what its `describe` prints.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use expect_test::expect;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api,
    api::{DynamicObject, ListParams, PostParams},
    core::GroupVersionKind,
};
use minicluster::TestCluster;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass::{
    CustomResource, Operator,
    custom::Kind,
    webhook::{Certificates, Denied, Hook, Policy, Review, Validate, Webhooks},
};

mod v1 {
    use super::*;

    #[derive(CustomResource, Clone, Debug, Serialize, Deserialize)]
    #[kube(group = "harbour.dev", version = "v1", kind = "Buoy", namespaced)]
    pub(super) struct BuoySpec {
        depth: u32,
    }
}

mod v1beta1 {
    use super::*;

    #[derive(CustomResource, Clone, Debug, Serialize, Deserialize)]
    #[kube(group = "harbour.dev", version = "v1beta1", kind = "Buoy", namespaced, storage = false)]
    #[windlass(hub = v1::Buoy, moved("/spec/metres" => "/spec/depth"))]
    pub(super) struct BuoySpec {
        metres: u32,
    }
}

struct Nothing;

impl Validate<ConfigMap> for Nothing {
    async fn validate(&self, _: &Review<ConfigMap>) -> Result<(), Denied> {
        Ok(())
    }
}

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
    // OLM makes Roles of these where it watches, and ClusterRoles where that is everywhere.
    let rules = [of("ClusterRole"), of("Role")].map(|role| role["rules"].as_array().unwrap().clone());
    let mut asked = install["permissions"][0]["rules"].as_array().unwrap().clone();
    asked.retain(|rule| {
        *rule != json!({ "apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"] })
    });
    let without_events = |rule: &Value| rule["resources"] != json!(["events"]);
    let rules: Vec<Value> = rules.concat().into_iter().filter(without_events).collect();
    let text = |rules: &[Value]| rules.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(text(&asked), text(&rules));
    assert_eq!(install["clusterPermissions"], json!([]));
    let modes = version["spec"]["installModes"].as_array().unwrap();
    assert!(modes.iter().all(|mode| mode["supported"] == true), "{modes:?}");
    let mut deployment = of("Deployment")["spec"].clone();
    let target = json!({ "fieldRef": { "fieldPath": "metadata.annotations['olm.targetNamespaces']" } });
    deployment["template"]["spec"]["containers"][0]["env"] =
        json!([{ "name": "WATCH_NAMESPACE", "valueFrom": target }]);
    assert_eq!(install["deployments"][0]["spec"], deployment);
    assert_eq!(version["spec"]["customresourcedefinitions"]["owned"][0]["name"], "sails.harbour.dev");
    assert_eq!(documents(&read("manifests/sails.harbour.dev.yaml")), [definition()]);
    let annotations = read("metadata/annotations.yaml");
    for line in read("bundle.Dockerfile").lines().filter_map(|line| line.strip_prefix("LABEL ")) {
        let (label, value) = line.split_once('=').unwrap();
        assert!(annotations.contains(&format!("{label}: {value}")), "{line}: {annotations}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_of_some_namespaces_has_roles_there_and_nowhere_else() {
    let dir = folder("watching");
    let printed = documents(&rigger(&dir, "rbac --namespace port --watch-namespace sea,lake"));
    let line = |o: &Value| {
        let place = o["metadata"]["namespace"].as_str().unwrap_or("-");
        format!("{} {place}", o["kind"].as_str().unwrap())
    };
    expect![[r#"
        ServiceAccount port
        Role lake
        RoleBinding lake
        Role port
        RoleBinding port
        Role sea
        RoleBinding sea"#]]
    .assert_eq(&printed.iter().map(line).collect::<Vec<_>>().join("\n"));
    assert_eq!(printed[1]["rules"], printed[5]["rules"]);
    assert_eq!(printed[1]["rules"].as_array().unwrap().len(), 5);
    let subject = json!([{ "kind": "ServiceAccount", "name": "rigger", "namespace": "port" }]);
    assert_eq!(printed[2]["subjects"], subject);

    let all =
        documents(&rigger(&dir, &format!("manifests {IMAGE} --namespace port --watch-namespace sea,lake")));
    assert!(all.iter().all(|object| object["kind"] != "ClusterRole"));
    let deployment = all.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["env"], json!([{ "name": "WATCH_NAMESPACE", "value": "lake,sea" }]));

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rigger.json");
    let wrong = format!("rbac --watch-namespace Sea --description {}", file.display());
    let (code, _, err) = windlass(&dir, &wrong);
    let sentence = "windlass: --watch-namespace names the namespace \"Sea\", which is none: names have lower-case \
                    letters, digits and '-' alone, begin and end with a letter or digit, and have 63 characters at most\n";
    assert_eq!((code, err.as_str()), (1, sentence));
}

/// An operator with hooks of each sort, a policy and two versions; a folder for certificates if it is told so.
fn judge(dir: &Path, certificates: Certificates) -> String {
    let certificates = Mutex::new(Some(certificates));
    let operator = Operator::new("judge")
        .policy(
            &Policy::of::<ConfigMap>("judge-named", Hook::default())
                .rule("object.metadata.name != 'a'", "no"),
        )
        .with(move |manager| {
            let certificates = certificates.lock().unwrap().take().unwrap();
            let listen = ([0, 0, 0, 0], 10250).into();
            manager.add(
                Webhooks::new("judge-hooks", certificates)
                    .listen(listen)
                    .validate(Nothing, Hook::default())
                    .convert(Kind::of::<v1::Buoy>().version::<v1beta1::Buoy>()),
            );
        });
    let file = dir.join("judge.json");
    fs::write(&file, serde_json::to_string(&operator.description()).unwrap()).unwrap();
    format!("--description {} --image judge:1", file.display())
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_finds_the_webhooks() {
    let dir = folder("judge");
    let about = judge(&dir, Certificates::self_signed());
    let (code, out, err) = windlass(&dir, &format!("manifests --namespace court {about}"));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let all = documents(&out);
    let of = |kind: &str| all.iter().find(|object| object["kind"] == kind).unwrap();
    let port = json!({ "name": "webhooks", "port": 443, "targetPort": 10250 });
    assert_eq!(of("Service")["spec"]["ports"], json!([port]));
    assert_eq!(of("Service")["metadata"]["name"], "judge-hooks");
    let container = &of("Deployment")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"][1], json!({ "name": "webhooks", "containerPort": 10250 }));
    assert_eq!(container.get("volumeMounts"), None);
    let asked = of("ValidatingWebhookConfiguration")["webhooks"][0]["clientConfig"]["service"].clone();
    assert_eq!((&asked["name"], &asked["namespace"]), (&json!("judge-hooks"), &json!("court")));
    let converted = &of("CustomResourceDefinition")["spec"]["conversion"]["webhook"]["clientConfig"];
    assert_eq!(converted["service"]["path"], "/convert/buoys.harbour.dev");
    assert_eq!(converted["service"]["namespace"], "court");
    assert_eq!(of("ValidatingAdmissionPolicyBinding")["spec"]["policyName"], "judge-named");

    // A cluster takes them; what the operator would be asked about is refused until it is there.
    let cluster = TestCluster::start().await;
    for object in &all {
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        let kind = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
        let (resource, capabilities) = kube::discovery::pinned_kind(&cluster.client(), &kind).await.unwrap();
        let api: Api<DynamicObject> = match capabilities.scope {
            kube::discovery::Scope::Namespaced => Api::namespaced_with(cluster.client(), "court", &resource),
            kube::discovery::Scope::Cluster => Api::all_with(cluster.client(), &resource),
        };
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let map = serde_json::from_value(json!({ "metadata": { "name": "b" } })).unwrap();
    let refused = maps.create(&PostParams::default(), &map).await.unwrap_err().to_string();
    assert!(refused.contains("failed calling webhook \"validate.configmaps.core\""), "{refused}");
}

#[tokio::test]
async fn each_format_leads_to_the_webhooks() {
    let dir = folder("ways");
    let about = judge(&dir, Certificates::folder("/certs"));
    let plain = documents(&windlass(&dir, &format!("manifests {about}")).1);
    let pod = plain.iter().find(|object| object["kind"] == "Deployment").unwrap()["spec"]["template"]["spec"]
        .clone();
    assert_eq!(
        pod["volumes"],
        json!([{ "name": "webhooks", "secret": { "secretName": "judge-hooks-tls" } }])
    );
    let mount = json!([{ "name": "webhooks", "mountPath": "/certs", "readOnly": true }]);
    assert_eq!(pod["containers"][0]["volumeMounts"], mount);

    for format in ["kustomize", "helm", "olm"] {
        let (code, _, err) = windlass(&dir, &format!("manifests {about} --format {format} --out {format}"));
        assert_eq!((code, err.as_str()), (0, ""), "{format}");
    }
    let read = |file: &str| documents(&fs::read_to_string(dir.join(file)).unwrap());
    let base = read("kustomize/kustomization.yaml");
    let files = base[0]["resources"].as_array().unwrap();
    let all = files.iter().flat_map(|file| read(&format!("kustomize/{}", file.as_str().unwrap())));
    assert_eq!(sorted(all.collect()), sorted(plain));
    let chart = fs::read_to_string(dir.join("helm/templates/webhooks.yaml")).unwrap();
    let filled = documents(&chart.replace("{{ .Release.Namespace }}", "court"));
    let kinds: Vec<&str> = filled.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    let asking =
        ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration"];
    assert_eq!(kinds, [&["Service"][..], &asking].concat());
    assert_eq!(filled[3]["webhooks"][0]["clientConfig"]["service"]["namespace"], "court");
    // The namespace is not known there, and the operator says the same once it runs.
    for definition in ["helm/crds/buoys.harbour.dev.yaml", "olm/manifests/buoys.harbour.dev.yaml"] {
        assert_eq!(read(definition)[0]["spec"].get("conversion"), None, "{definition}");
    }
    assert_eq!(read("olm/manifests/judge-hooks.service.yaml")[0]["kind"], "Service");
    // Where versions are converted, OLM takes operators of the whole cluster alone.
    let version = &read("olm/manifests/judge.clusterserviceversion.yaml")[0];
    let modes = version["spec"]["installModes"].as_array().unwrap();
    let supported: Vec<&Value> =
        modes.iter().filter(|m| m["supported"] == true).map(|m| &m["type"]).collect();
    assert_eq!(supported, ["AllNamespaces"]);
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
