//! `windlass crd`: the definitions of an operator's kinds.
//!
//! They are checked by the API server itself, one in memory: what it takes, a real one takes, and what it refuses it
//! refuses in the same words.

mod diff;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, PostParams},
    core::GroupVersionKind,
};
use minicluster::TestCluster;
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    output::{self, Output},
    project::Project,
};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the definitions
    Print {
        #[command(flatten)]
        project: Project,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Ask an API server in memory whether it takes the definitions
    Check {
        #[command(flatten)]
        project: Project,
        /// Check the definitions in this file instead
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Apply the definitions to a cluster, and wait until they are served
    Install {
        #[command(flatten)]
        project: Project,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Which stored objects a change of definitions would break; fails when there may be any
    Diff {
        /// The definitions as they are
        old: PathBuf,
        /// The definitions as they will be; by default the project's
        new: Option<PathBuf>,
        #[command(flatten)]
        project: Project,
        /// Objects as they are stored: an API server in memory that has the new definitions says which it refuses
        #[arg(long, value_name = "FILE")]
        objects: Option<PathBuf>,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    match &options.command {
        Command::Print { project, output } => {
            output::print(&output::objects(&definitions(project)?, *output)?)
        }
        Command::Check { project, file } => {
            let all = file.as_deref().map_or_else(|| definitions(project), read)?;
            check(&all).await
        }
        Command::Install { project, cluster } => {
            let description = project.describe()?;
            let client = cluster.client().await?;
            description.install_definitions(&client).await?;
            description.crds.iter().for_each(|crd| println!("{} is served", crd.name_any()));
            Ok(())
        }
        Command::Diff { old, new, project, objects, output } => {
            let (old, new) = (read(old)?, new.as_deref().map_or_else(|| definitions(project), read)?);
            let objects = objects.as_deref().map(read_all).transpose()?.unwrap_or_default();
            compare(&old, &new, &objects, *output).await
        }
    }
}

fn definitions(project: &Project) -> anyhow::Result<Vec<Value>> {
    let all = project.describe()?.crds;
    Ok(all.iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
}

fn read_all(file: &Path) -> anyhow::Result<Vec<Value>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    output::read(&text).with_context(|| file.display().to_string())
}

/// The definitions in a file.
fn read(file: &Path) -> anyhow::Result<Vec<Value>> {
    let mut all = read_all(file)?;
    all.retain(|object| object["kind"] == "CustomResourceDefinition");
    ensure!(!all.is_empty(), "{} holds no CustomResourceDefinition", file.display());
    Ok(all)
}

/// Gives the definitions to an API server in memory.
async fn check(definitions: &[Value]) -> anyhow::Result<()> {
    let cluster = TestCluster::start().await;
    let mut refused = 0;
    for definition in definitions {
        let name = definition["metadata"]["name"].as_str().unwrap_or("without a name");
        match create(&cluster, definition).await {
            Ok(()) => println!("{name}: good"),
            Err(error) => {
                refused += 1;
                println!("{name}: {error}");
            }
        }
    }
    ensure!(refused == 0, "{refused} of {} definitions are refused", definitions.len());
    Ok(())
}

/// Creates an object of any kind that a cluster in memory serves; the error is the server's sentence.
async fn create(cluster: &TestCluster, object: &Value) -> anyhow::Result<()> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    let kind = GroupVersionKind::gvk(group, version, text("kind"));
    let Ok((resource, capabilities)) = kube::discovery::pinned_kind(&cluster.client(), &kind).await else {
        bail!("the kind {} of {} is not served", kind.kind, text("apiVersion"));
    };
    // One namespace holds them all: where an object is does not make it better or worse.
    let api: Api<DynamicObject> = match capabilities.scope {
        kube::discovery::Scope::Namespaced => Api::default_namespaced_with(cluster.client(), &resource),
        kube::discovery::Scope::Cluster => Api::all_with(cluster.client(), &resource),
    };
    let mut object: DynamicObject = serde_json::from_value(object.clone())?;
    object.metadata.namespace = None;
    // As it would be written anew.
    object.metadata.resource_version = None;
    object.metadata.uid = None;
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => bail!("{}", status.message),
        Err(other) => Err(other.into()),
    }
}

async fn compare(old: &[Value], new: &[Value], objects: &[Value], output: Output) -> anyhow::Result<()> {
    let name = |definition: &Value| definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let by_name: BTreeMap<String, &Value> =
        new.iter().map(|definition| (name(definition), definition)).collect();
    let mut findings = Vec::new();
    for definition in old {
        findings.extend(diff::diff(definition, by_name.get(&name(definition)).copied()));
    }
    let refused = refused(new, objects).await?;
    match output {
        Output::Json => output::print(&output::pretty(&json!({ "changes": findings, "refused": refused }))?)?,
        Output::Text if findings.is_empty() && refused.is_empty() => {
            output::print("nothing that stored objects would notice\n")?;
        }
        Output::Text => {
            let found = findings.iter().map(|finding| format!("{finding}\n"));
            let said = refused.iter().map(|(name, why)| format!("refused {name}: {why}\n"));
            output::print(&found.chain(said).collect::<String>())?;
        }
    }
    let breaks = findings.iter().filter(|finding| finding.breaks).count() + refused.len();
    match breaks {
        0 => Ok(()),
        1 => bail!("one change may break objects that are stored"),
        many => bail!("{many} changes may break objects that are stored"),
    }
}

/// The objects that an API server with these definitions refuses, and why.
async fn refused(definitions: &[Value], objects: &[Value]) -> anyhow::Result<BTreeMap<String, String>> {
    if objects.is_empty() {
        return Ok(BTreeMap::new());
    }
    let cluster = TestCluster::start().await;
    for definition in definitions {
        create(&cluster, definition).await.context("the new definitions are not good themselves")?;
    }
    let known: Vec<CustomResourceDefinition> =
        definitions.iter().cloned().map(serde_json::from_value).collect::<Result<_, _>>()?;
    let mut refused = BTreeMap::new();
    for object in objects {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        if !known.iter().any(|crd| crd.spec.names.kind == text("/kind")) {
            continue;
        }
        if let Err(error) = create(&cluster, object).await {
            let name =
                format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
            refused.insert(name, error.to_string());
        }
    }
    Ok(refused)
}
