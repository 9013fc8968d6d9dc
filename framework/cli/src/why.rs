//! `windlass why`: what an object waits for.
//!
//! Facts are fetched (`fetch.rs`), and a report is made of them by pure functions (`report.rs`, `pods.rs`): what the
//! object and everything that belongs to it wait for, who it belongs to, what happened, and what its operator fails at.
//! Nothing is changed.

mod fetch;
mod operator;
mod pods;
mod report;

use anyhow::{Context, bail};
use clap::Args;

use crate::{
    cluster::Cluster,
    output::{self, Output},
};

#[derive(Args)]
pub(crate) struct Options {
    /// The object, as in deployment/web or sails.harbour.dev/main
    #[arg(value_name = "KIND/NAME")]
    object: String,
    /// Its namespace; by default the context's
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    cluster: Cluster,
    /// Where an operator serves health and metrics: what it fails at, and what it does just now, is told, too
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let Some((kind, name)) =
        options.object.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
    else {
        bail!("{:?} is no object: it is named as in deployment/web", options.object);
    };
    let client = options.cluster.client().await?;
    let mut facts = fetch::facts(&client, kind, name, options.namespace.as_deref()).await?;
    if let Some(address) = &options.admin {
        facts.failures =
            fetch::failures(address).await.with_context(|| format!("the operator at {address}"))?;
        facts.doing = fetch::diagnostics(address).await;
    }
    let report = report::Report::new(&facts, windlass::clock::now());
    match options.output {
        Output::Text => output::print(&report.to_string()),
        Output::Json => output::print(&output::pretty(&report)?),
    }
}
