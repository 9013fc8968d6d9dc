//! The cluster that a command is about: a kubeconfig's.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Cluster {
    /// The kubeconfig; by default the environment's
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

impl Cluster {
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(file) => {
                let read = Kubeconfig::read_from(file);
                let read =
                    read.with_context(|| format!("{} cannot be read as a kubeconfig", file.display()))?;
                Config::from_custom_kubeconfig(read, &options).await?
            }
            None => {
                Config::from_kubeconfig(&options).await.context("no cluster was named: use --kubeconfig")?
            }
        };
        Ok(Client::try_from(config)?)
    }
}
