//! `windlass manifests`: what runs an operator in a cluster, as objects, as a kustomize base, as a Helm chart or as an OLM
//! bundle. All of it from what the operator says of itself; nothing is looked up, and nothing is applied.

mod helm;
mod kustomize;
mod monitoring;
mod olm;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use windlass::{Description, Endpoint};

use crate::{output, project::Project, rbac};

use monitoring::Extra;

/// Where health and metrics are served in the pod.
const ADMIN: u16 = 8080;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    project: Project,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The operator's image, with its tag or digest
    #[arg(long)]
    image: String,
    /// The namespace that the operator runs in; by default its name
    #[arg(short, long)]
    namespace: Option<String>,
    /// How many replicas; one of them works, the others wait for its lease
    #[arg(long, default_value_t = 1)]
    replicas: u32,
    /// The operator's version; by default the package's
    #[arg(long)]
    version: Option<String>,
    /// The namespaces that it watches, with commas; its rights are Roles there. By default what its code says, or all
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    watch_namespace: Vec<String>,
    /// What is to watch over it, too: several with commas
    #[arg(long = "with", value_name = "EXTRAS", value_enum, value_delimiter = ',')]
    extras: Vec<Extra>,
    /// Write into this folder; plain objects are printed without it
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write nothing, and fail when the folder does not hold just this
    #[arg(long, requires = "out")]
    check: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// Objects for kubectl apply
    #[default]
    Plain,
    /// A base for kustomize
    Kustomize,
    /// A chart for Helm
    Helm,
    /// A bundle for the Operator Lifecycle Manager
    Olm,
}

/// What manifests are made of.
struct Shipment {
    description: Description,
    image: String,
    namespace: String,
    replicas: u32,
    version: String,
    extras: Vec<Extra>,
}

/// Files by their paths.
type Files = BTreeMap<String, String>;

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let description = options.project.describe_watching(&options.watch_namespace)?;
    let image = options.image.clone();
    ensure!(!image.is_empty() && !image.contains(char::is_whitespace), "{image:?} is no image");
    let version = options.version.clone().unwrap_or_else(|| options.project.version());
    let namespace = options.namespace.clone().unwrap_or_else(|| description.name.clone());
    let (replicas, extras) = (options.replicas, options.extras.clone());
    let shipment = Shipment { description, image, namespace, replicas, version, extras };
    let files = match options.format {
        Format::Plain => Files::from([("operator.yaml".to_owned(), output::documents(&shipment.plain()?)?)]),
        Format::Kustomize => kustomize::files(&shipment)?,
        Format::Helm => helm::files(&shipment)?,
        Format::Olm => olm::files(&shipment)?,
    };
    match (&options.out, options.check) {
        (Some(dir), true) => check(dir, &files),
        (Some(dir), false) => write(dir, &files),
        (None, _) if files.len() == 1 => files.values().try_for_each(|text| output::print(text)),
        (None, _) => bail!("these are {} files: say with --out where they are to be", files.len()),
    }
}

fn write(dir: &Path, files: &Files) -> anyhow::Result<()> {
    for (path, text) in files {
        let path = dir.join(path);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.with_context(|| format!("{} cannot be written", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn check(dir: &Path, files: &Files) -> anyhow::Result<()> {
    let stale =
        |(path, text): &(&String, &String)| fs::read_to_string(dir.join(path)).ok().as_ref() != Some(text);
    let stale: Vec<&str> = files.iter().filter(stale).map(|(path, _)| path.as_str()).collect();
    ensure!(stale.is_empty(), "{} is not up to date in {}", stale.join(", "), dir.display());
    Ok(())
}

impl Shipment {
    /// Every object, in the order in which they have to be made.
    fn plain(&self) -> anyhow::Result<Vec<Value>> {
        let mut all = vec![self.namespace()];
        all.extend(self.definitions()?);
        all.extend(self.rights()?);
        all.push(self.deployment());
        all.extend(self.services());
        all.extend(self.monitoring());
        all.extend(self.asking());
        Ok(all)
    }

    fn namespace(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": self.namespace,
                "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
            },
        })
    }

    /// The definitions; those in several versions name the operator as their converter.
    fn definitions(&self) -> anyhow::Result<Vec<Value>> {
        let all = self.description.definitions(&self.namespace);
        Ok(all.iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
    }

    /// The same for a namespace that nobody knows yet: the operator itself says where it converts.
    fn definitions_of_no_place(&self) -> anyhow::Result<Vec<Value>> {
        Ok(self.description.crds.iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
    }

    /// What leads API servers to the operator's webhooks.
    fn services(&self) -> Vec<Value> {
        let service = |endpoint: &Endpoint| {
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": endpoint.service, "namespace": self.namespace, "labels": self.labels() },
                "spec": {
                    "selector": self.labels(),
                    "ports": [{ "name": "webhooks", "port": endpoint.port, "targetPort": endpoint.listens }],
                },
            })
        };
        self.description.webhooks.iter().map(service).collect()
    }

    /// What makes API servers ask, and the rules that they hold objects to by themselves. It comes last: from then on what
    /// fails closed waits for the operator.
    fn asking(&self) -> Vec<Value> {
        let policies = self.description.objects.iter().cloned();
        policies.chain(self.description.configurations(&self.namespace)).collect()
    }

    fn rights(&self) -> anyhow::Result<Vec<Value>> {
        rbac::objects(&self.description, &self.namespace)
    }

    /// What lets somebody read protected metrics.
    fn readers(&self) -> anyhow::Result<Vec<Value>> {
        let all = self.rights()?;
        let reads = |object: &Value| object["rules"][0]["nonResourceURLs"].is_array();
        Ok(all.into_iter().filter(reads).collect())
    }

    fn labels(&self) -> Value {
        json!({ "app.kubernetes.io/name": self.description.name })
    }

    fn deployment(&self) -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": self.description.name, "namespace": self.namespace, "labels": self.labels() },
            "spec": self.deployment_spec(),
        })
    }

    /// A pod that may run where security is restricted.
    fn deployment_spec(&self) -> Value {
        let probe = |path: &str| json!({ "httpGet": { "path": path, "port": "admin" } });
        let mut ports = vec![json!({ "name": "admin", "containerPort": ADMIN })];
        let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
        let mut args =
            vec!["run".to_owned(), "--leader-elect".to_owned(), format!("--admin=0.0.0.0:{ADMIN}")];
        let name = |(at, _): &(usize, &Endpoint)| match at {
            0 => "webhooks".to_owned(),
            more => format!("webhooks-{more}"),
        };
        let webhooks = self.description.webhooks.iter().enumerate().map(|each| (name(&each), each.1));
        let metrics = self.description.metrics.iter().map(|endpoint| ("metrics".to_owned(), endpoint));
        args.extend(metrics.clone().map(|(_, endpoint)| format!("--metrics=0.0.0.0:{}", endpoint.listens)));
        for (name, endpoint) in webhooks.chain(metrics) {
            ports.push(json!({ "name": name, "containerPort": endpoint.listens }));
            if let Some(dir) = &endpoint.certificates {
                // As cert-manager would write it.
                let secret = format!("{}-tls", endpoint.service);
                volumes.push(json!({ "name": name, "secret": { "secretName": secret } }));
                mounts.push(json!({ "name": name, "mountPath": dir, "readOnly": true }));
            }
        }
        let mut container = json!({
            "name": "operator",
            "image": self.image,
            "args": args,
            "ports": ports,
            "livenessProbe": probe("/livez"),
            "readinessProbe": probe("/readyz"),
            "resources": {
                "requests": { "cpu": "10m", "memory": "32Mi" },
                "limits": { "memory": "256Mi" },
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
                "readOnlyRootFilesystem": true,
            },
        });
        let mut spec = json!({
            "replicas": self.replicas,
            "selector": { "matchLabels": self.labels() },
            "template": {
                "metadata": { "labels": self.labels() },
                "spec": {
                    "serviceAccountName": self.description.name,
                    "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
                    "terminationGracePeriodSeconds": 15,
                },
            },
        });
        let watched = &self.description.watch_namespaces;
        if !watched.is_empty() {
            container["env"] = json!([{ "name": "WATCH_NAMESPACE", "value": watched.join(",") }]);
        }
        if !mounts.is_empty() {
            container["volumeMounts"] = mounts.into();
            spec["template"]["spec"]["volumes"] = volumes.into();
        }
        spec["template"]["spec"]["containers"] = json!([container]);
        spec
    }
}
