//! What watches over an operator: the manifests say it in each format, and name no metric that a running operator does not
//! export.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use minicluster::{TestCluster, test_cluster::Identity};
use serde::Deserialize;
use serde_json::{Value, json};
use windlass::{
    Action, Controller, Error, Lease, Operator, Projection, Reconcile, Request, Scope,
    random::Source,
    webhook::{Certificates, Denied, Hook, Review, Validate, Webhooks},
};

struct Nothing;

impl Reconcile<ConfigMap> for Nothing {
    async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
        match request.key.name() {
            "bad" => Err(Error::Other("as it was told".into())),
            _ => Ok(Action::Done),
        }
    }
}

impl Validate<ConfigMap> for Nothing {
    async fn validate(&self, _: &Review<ConfigMap>) -> Result<(), Denied> {
        Ok(())
    }
}

/// ConfigMaps with numbers in them, which none has: so that there is something that cannot be read.
#[derive(Clone, Debug, Deserialize)]
struct Numbers {
    #[serde(default, rename = "data")]
    _data: BTreeMap<String, u32>,
}

impl Projection for Numbers {
    type Kind = ConfigMap;
}

fn operator(certificates: Certificates) -> Operator {
    Operator::new("harbour-keeper").secure_metrics(certificates).with(|manager| {
        let here = json!({ "matchLabels": { "kubernetes.io/metadata.name": "default" } });
        let hook = Hook::default().namespaces(here);
        let webhooks = Webhooks::new("keeper-hooks", Certificates::self_signed());
        let numbers = manager.informers().projected::<Numbers>(Scope::all());
        manager.add(Controller::<ConfigMap>::new("keeper").reads(&numbers).build(Nothing));
        manager.add(webhooks.validate(Nothing, hook));
    })
}

fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Types `windlass manifests` about an operator; what it printed.
fn manifests(dir: &Path, operator: &Operator, args: &str) -> String {
    let file = dir.join("operator.json");
    fs::write(&file, serde_json::to_string(&operator.description()).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    command.args(["manifests", "--image", "keeper:1", "--namespace", "port", "--description"]).arg(&file);
    let output = command.args(args.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

fn of<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    all.iter().find(is).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The metrics that a query asks for: what stands before braces.
fn asked(query: &str) -> BTreeSet<String> {
    let name = |part: &str| {
        let name: String =
            part.chars().rev().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        name.chars().rev().collect::<String>()
    };
    let mut parts: Vec<&str> = query.split('{').collect();
    parts.pop();
    parts.into_iter().map(name).collect()
}

#[test]
fn queries_are_taken_apart() {
    let query = r#"sum by (a) (rate(one_total{job="x"}[5m])) / max(two{job="x"}) > 0"#;
    assert_eq!(asked(query), BTreeSet::from(["one_total".to_owned(), "two".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn every_metric_that_is_asked_for_is_one_that_a_running_operator_exports() {
    let dir = folder("exported");
    let operator = operator(Certificates::self_signed());
    let all = documents(&manifests(&dir, &operator, "--with dashboard,alerts"));
    let dashboard = of(&all, "ConfigMap", "harbour-keeper-dashboard");
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = dashboard["data"]["harbour-keeper.json"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let rows: Vec<&Value> = panels.iter().filter(|p| p["type"] == "row").map(|p| &p["title"]).collect();
    assert_eq!(rows, ["Controllers", "Webhooks", "API server"]);
    assert_eq!(dashboard["templating"]["list"][1]["query"], "keeper");
    // No two panels lie upon each other.
    let places: BTreeSet<String> = panels.iter().map(|panel| panel["gridPos"].to_string()).collect();
    assert_eq!(places.len(), panels.len());
    let rules =
        of(&all, "PrometheusRule", "harbour-keeper")["spec"]["groups"][0]["rules"].as_array().unwrap();
    assert_eq!(rules[0]["alert"], "HarbourKeeperNoLeader");
    let queries = panels.iter().filter_map(|panel| panel["targets"][0]["expr"].as_str());
    let queries: Vec<&str> = queries.chain(rules.iter().filter_map(|rule| rule["expr"].as_str())).collect();
    assert!(
        queries.len() > 20 && queries.iter().all(|query| query.contains("job=\"harbour-keeper-metrics\""))
    );

    let cluster = TestCluster::start().await;
    let description = operator.description();
    description.install(&cluster.client(), "default").await.unwrap();
    let client =
        cluster.component("keeper", Identity::new(description.user("default"), &["system:serviceaccounts"]));
    let connections = cluster.serve("default", "keeper-hooks", 443);
    let manager = operator.manager(client, Source::seeded(1)).connections("keeper-hooks", connections);
    let manager = manager.leader_election(Lease::new("default", "harbour-keeper", "me")).build();
    let (metrics, ready) = (manager.metrics().clone(), manager.readiness());
    tokio::spawn(manager.run(std::future::pending()));
    let minute = Duration::from_secs(60);
    cluster.eventually("readiness", minute, async || ready().then_some(())).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    for name in ["good", "bad"] {
        let map =
            serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "a": "b" } })).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    cluster.advance(minute).await;

    let text = metrics.render();
    let series: BTreeSet<&str> =
        text.lines().filter_map(|line| line.split_once('{')).map(|(name, _)| name).collect();
    let wanted: BTreeSet<String> = queries.iter().flat_map(|query| asked(query)).collect();
    for name in &wanted {
        assert!(series.contains(name.as_str()), "{name}: {text}");
    }
    assert!(wanted.len() > 15, "{wanted:?}");
}

#[tokio::test]
async fn prometheus_finds_the_metrics_in_every_format() {
    let dir = folder("found");
    let operator = operator(Certificates::self_signed());
    let extras = "--with service-monitor,dashboard,alerts";
    let plain = documents(&manifests(&dir, &operator, extras));
    let service = of(&plain, "Service", "harbour-keeper-metrics");
    assert_eq!(service["spec"]["ports"], json!([{ "name": "https", "port": 8443, "targetPort": 8443 }]));
    let container = &of(&plain, "Deployment", "harbour-keeper")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"][3], "--metrics=0.0.0.0:8443");
    assert_eq!(container["ports"][2], json!({ "name": "metrics", "containerPort": 8443 }));
    let monitor = &of(&plain, "ServiceMonitor", "harbour-keeper")["spec"];
    assert_eq!(monitor["selector"]["matchLabels"], service["metadata"]["labels"]);
    let scraped = &monitor["endpoints"][0];
    assert_eq!((&scraped["port"], &scraped["scheme"]), (&json!("https"), &json!("https")));
    let tls = json!({
        "serverName": "harbour-keeper-metrics.port.svc",
        "ca": { "secret": { "name": "harbour-keeper-metrics-ca", "key": "ca.crt" } },
    });
    assert_eq!(scraped["tlsConfig"], tls);
    // What the operator may ask, and whom it lets read.
    let rules = of(&plain, "ClusterRole", "harbour-keeper")["rules"].as_array().unwrap();
    let may = |resource: &str| {
        rules.iter().any(|rule| rule["resources"] == json!([resource]) && rule["verbs"] == json!(["create"]))
    };
    assert!(may("tokenreviews") && may("subjectaccessreviews"), "{rules:?}");
    let reader = of(&plain, "ClusterRole", "harbour-keeper-metrics-reader");
    assert_eq!(reader["rules"], json!([{ "nonResourceURLs": ["/metrics"], "verbs": ["get"] }]));
    let reader = of(&plain, "ClusterRole", "harbour-keeper-diagnostics-reader");
    let paths = json!(["/failing", "/diagnostics", "/diagnostics.json"]);
    assert_eq!(reader["rules"][0]["nonResourceURLs"], paths);

    for format in ["kustomize", "helm", "olm"] {
        manifests(&dir, &operator, &format!("{extras} --format {format} --out {format}"));
    }
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
    let watching = ["Service", "ServiceMonitor", "ConfigMap", "PrometheusRule"];
    let kinds =
        |all: &[Value]| all.iter().map(|o| o["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let base = documents(&read("kustomize/monitoring.yaml"));
    assert_eq!(kinds(&base), watching);
    assert!(read("kustomize/kustomization.yaml").contains("monitoring.yaml"));
    // Helm gives Grafana and Prometheus back the braces that are theirs.
    let chart = read("helm/templates/monitoring.yaml");
    let filled = chart.replace(r#"{{ "{{" }}"#, "{{").replace("{{ .Release.Namespace }}", "port");
    assert_eq!(documents(&filled), base);
    let open = chart.replace(r#"{{ "{{" }}"#, "").matches("{{").count();
    assert_eq!(open, chart.matches("{{ .Release.Namespace }}").count());
    for file in [
        "harbour-keeper-metrics.service",
        "harbour-keeper.servicemonitor",
        "harbour-keeper.prometheusrule",
        "harbour-keeper-metrics-reader.clusterrole",
    ] {
        let object = &documents(&read(&format!("olm/manifests/{file}.yaml")))[0];
        assert_eq!(object["metadata"].get("namespace"), None, "{file}");
    }

    // Certificates that somebody else makes are mounted, and believed by what lies beside them.
    let mounted = self::operator(Certificates::folder("/certs"));
    let plain = documents(&manifests(&dir, &mounted, extras));
    let pod = &of(&plain, "Deployment", "harbour-keeper")["spec"]["template"]["spec"];
    let volume = json!([{ "name": "metrics", "secret": { "secretName": "harbour-keeper-metrics-tls" } }]);
    assert_eq!(pod["volumes"], volume);
    let ca = &of(&plain, "ServiceMonitor", "harbour-keeper")["spec"]["endpoints"][0]["tlsConfig"]["ca"];
    assert_eq!(ca["secret"]["name"], "harbour-keeper-metrics-tls");
}

#[tokio::test]
async fn metrics_that_everybody_may_read_are_found_where_they_are() {
    let dir = folder("plain-metrics");
    let open = Operator::new("open");
    let all = documents(&manifests(&dir, &open, ""));
    assert!(all.iter().all(|object| object["kind"] != "Service"), "nobody asked for one");
    let all = documents(&manifests(&dir, &open, "--with service-monitor,alerts"));
    assert_eq!(of(&all, "Service", "open-metrics")["spec"]["ports"][0]["port"], 8080);
    let scraped = json!([{ "path": "/metrics", "port": "http" }]);
    assert_eq!(of(&all, "ServiceMonitor", "open")["spec"]["endpoints"], scraped);
    let rules = of(&all, "PrometheusRule", "open")["spec"]["groups"][0]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 1, "it has no controller and no webhook: {rules:?}");
}
