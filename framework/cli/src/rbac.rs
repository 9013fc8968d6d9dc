//! `windlass rbac`: the rights that an operator needs, from what it registered.

use clap::Args;
use serde_json::Value;
use windlass::Description;

use crate::{
    output::{self, Output},
    project::Project,
};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    project: Project,
    /// The namespace that the operator runs in; by default its name
    #[arg(short, long)]
    namespace: Option<String>,
    /// The namespaces that it watches, with commas; by default what its code says, or all
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    watch_namespace: Vec<String>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let description = options.project.describe_watching(&options.watch_namespace)?;
    let namespace = options.namespace.as_ref().unwrap_or(&description.name);
    output::print(&output::objects(&objects(&description, namespace)?, options.output)?)
}

/// The account, the roles and what binds them.
pub(crate) fn objects(description: &Description, namespace: &str) -> anyhow::Result<Vec<Value>> {
    Ok(description.rbac(namespace).iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
}
