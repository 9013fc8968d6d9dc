//! The demo: three replicas of a page behind a ClusterIP and a NodePort, seen by address, by port and by name.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    host,
    up::{Cluster, pause},
};

pub(crate) const IMAGE: &str = "windlass.dev/demo:1";
const PAGE: &str = "A windlass hauls the actual state to the desired one.";
const NODE_PORT: u16 = 30_080;
const REPLICAS: u64 = 3;
/// Tenths of a second.
const ROLLOUT_WITHIN: usize = 1200;

fn manifest() -> String {
    format!(
        r"
apiVersion: v1
kind: ConfigMap
metadata: {{ name: page }}
data: {{ index.html: '{PAGE}' }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web }}
spec:
  replicas: {REPLICAS}
  selector: {{ matchLabels: {{ app: web }} }}
  template:
    metadata: {{ labels: {{ app: web }} }}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {IMAGE}
        command: [httpd, -f, -p, '8080', -h, /www]
        ports: [{{ containerPort: 8080 }}]
        readinessProbe: {{ httpGet: {{ path: /index.html, port: 8080 }}, periodSeconds: 1 }}
        volumeMounts: [{{ name: page, mountPath: /www }}]
      volumes: [{{ name: page, configMap: {{ name: page }} }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: web }}
spec: {{ selector: {{ app: web }}, ports: [{{ port: 80, targetPort: 8080 }}] }}
---
apiVersion: v1
kind: Service
metadata: {{ name: web-nodeport }}
spec: {{ type: NodePort, selector: {{ app: web }}, ports: [{{ port: 80, targetPort: 8080, nodePort: {NODE_PORT} }}] }}
"
    )
}

/// Runs the demo and fails unless the page was seen in all three ways.
pub(crate) fn run(cluster: &Cluster) -> anyhow::Result<()> {
    import_image(cluster)?;
    wait_for_account(cluster)?;
    apply(cluster, &manifest())?;
    rollout(cluster)?;

    let get = |args: &[&str]| host::output(cluster.kubectl().args(args));
    let ip = get(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    see(cluster, "ClusterIP", &format!("http://{ip}/index.html"))?;
    see(cluster, "NodePort", &format!("http://{}:{NODE_PORT}/index.html", cluster.node_ip()))?;
    see_by_name(cluster)?;

    println!("\n{}", get(&["get", "all", "--all-namespaces"])?);
    Ok(())
}

/// Assembles the demo's image from this host's busybox.
pub(crate) fn import_image(cluster: &Cluster) -> anyhow::Result<()> {
    host::run(cluster.minicluster(&["image", "busybox", IMAGE]).stdout(Stdio::null()))
}

/// Pods need the default service account, which comes a moment after the namespace.
fn wait_for_account(cluster: &Cluster) -> anyhow::Result<()> {
    for _ in 0..100 {
        if host::output(cluster.kubectl().args(["get", "serviceaccount", "default"])).is_ok() {
            return Ok(());
        }
        pause(Duration::from_millis(100));
    }
    bail!("the default service account did not appear within 10 s")
}

fn apply(cluster: &Cluster, manifest: &str) -> anyhow::Result<()> {
    let mut command: Command = cluster.kubectl();
    let mut child =
        command.args(["apply", "-f", "-"]).stdin(Stdio::piped()).spawn().context("kubectl apply")?;
    child.stdin.take().context("kubectl has no input")?.write_all(manifest.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "kubectl apply failed with {status}");
    Ok(())
}

fn rollout(cluster: &Cluster) -> anyhow::Result<()> {
    let style = ProgressStyle::with_template("Deployment web {bar:30} {pos}/{len} available {elapsed}")?;
    let bar = ProgressBar::new(REPLICAS).with_style(style);
    for _ in 0..ROLLOUT_WITHIN {
        let path = "jsonpath={.status.availableReplicas}";
        let available = host::output(cluster.kubectl().args(["get", "deployment", "web", "-o", path]))?;
        let available: u64 = available.trim().parse().unwrap_or(0);
        bar.set_position(available);
        if available >= REPLICAS {
            bar.finish();
            println!("Deployment web: {available}/{REPLICAS} available");
            return Ok(());
        }
        pause(Duration::from_millis(100));
    }
    let events = host::output(cluster.kubectl().args(["get", "events"])).unwrap_or_default();
    bail!("the Deployment was not rolled out within {} s:\n{events}", ROLLOUT_WITHIN / 10)
}

fn see(cluster: &Cluster, how: &str, url: &str) -> anyhow::Result<()> {
    let mut last = anyhow::anyhow!("never tried");
    for _ in 0..50 {
        match host::output(cluster.command("curl").args(["--silent", "--show-error", "--max-time", "2", url]))
        {
            Ok(page) if page.contains(PAGE) => {
                println!("{how:>9}  {url}  {page}");
                return Ok(());
            }
            Ok(other) => last = anyhow::anyhow!("{url} shows {other:?}"),
            Err(error) => last = error,
        }
        pause(Duration::from_millis(100));
    }
    Err(last).with_context(|| format!("the page was not seen by {how}"))
}

/// One of the pods looks the Service's name up in the cluster DNS and fetches the page from what it is told.
fn see_by_name(cluster: &Cluster) -> anyhow::Result<()> {
    const NAME: &str = "web.default.svc.cluster.local";
    // In two steps, with a numeric port and no time limit: that much a static busybox can do.
    let script = format!(
        "ip=$(nslookup {NAME} | sed -n 's/^Address: //p' | tail -n 1); wget -q -O - http://$ip:80/index.html"
    );
    let url = format!("http://{NAME}/index.html");
    let mut last = anyhow::anyhow!("never tried");
    for _ in 0..50 {
        let fetch = ["exec", "deployment/web", "--", "sh", "-c", script.as_str()];
        match host::output(cluster.kubectl().args(fetch)) {
            Ok(page) if page.contains(PAGE) => {
                println!("{:>9}  {url}  {page}", "DNS");
                return Ok(());
            }
            Ok(other) => last = anyhow::anyhow!("{url} shows {other:?}"),
            Err(error) => last = error,
        }
        pause(Duration::from_millis(100));
    }
    Err(last).context("the page was not seen by its DNS name from inside a pod")
}
