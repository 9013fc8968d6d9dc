//! Members whose kubeconfigs are in Secrets of the hub, as Cluster API and Argo CD keep them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::future::BoxFuture;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    core::{Expression, Selector},
};

use super::{Provider, ProviderCx};
use crate::{BoxError, Delta, Rules, Scope, Verbs};

/// The label that such Secrets have.
const LABEL: &str = "windlass.dev/cluster";
/// Where in a Secret the kubeconfig is; the second is Cluster API's.
const ENTRIES: [&str; 2] = ["kubeconfig", "value"];

/// Makes a client of a kubeconfig.
pub type Connect = Arc<dyn Fn(Kubeconfig) -> BoxFuture<'static, Result<Client, BoxError>> + Send + Sync>;

/// Connects by the current context of a kubeconfig, without a limit on how long a watch is silent.
#[must_use]
pub fn connect() -> Connect {
    Arc::new(|kubeconfig| {
        Box::pin(async move {
            let options = KubeConfigOptions::default();
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            config.read_timeout = None;
            Ok(Client::try_from(config)?)
        })
    })
}

/// A member for each Secret of a namespace that has the label `windlass.dev/cluster`: named as the Secret, with its
/// labels, to be reached by the kubeconfig in its entry `kubeconfig` or `value`. A Secret that changes connects anew; one
/// that cannot be read is told in the log, and its member stays as it was.
pub struct Secrets {
    scope: Scope,
    connect: Connect,
}

impl Secrets {
    /// The Secrets of this namespace.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        let labelled = Selector::from(Expression::Exists(LABEL.to_owned()));
        Self { scope: Scope::namespace(namespace).labels(labelled), connect: connect() }
    }

    /// Those that another selector picks, such as that of Cluster API's Secrets.
    #[must_use]
    pub fn labels(mut self, selector: Selector) -> Self {
        self.scope = self.scope.labels(selector);
        self
    }

    /// Connects in another way.
    #[must_use]
    pub fn connecting(mut self, connect: Connect) -> Self {
        self.connect = connect;
        self
    }

    /// Takes in a Secret as it is.
    async fn take(&self, secret: &Secret, cx: &ProviderCx, known: &mut BTreeMap<String, Told>) {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let told = Told {
            kubeconfig: entry(secret).cloned().unwrap_or_default(),
            labels: secret.metadata.labels.clone().unwrap_or_default(),
        };
        if known.get(&name) == Some(&told) {
            return;
        }
        match client(&told.kubeconfig.0, &self.connect).await {
            Ok(client) => {
                cx.joined(&name, client, told.labels.clone());
                known.insert(name, told);
            }
            Err(error) => {
                let why = crate::sentence(&*error);
                tracing::warn!(secret = name, why, "no cluster can be reached by this Secret");
            }
        }
    }
}

/// What a member was made of.
#[derive(PartialEq)]
struct Told {
    kubeconfig: ByteString,
    labels: BTreeMap<String, String>,
}

fn entry(secret: &Secret) -> Option<&ByteString> {
    let data = secret.data.as_ref()?;
    ENTRIES.iter().find_map(|entry| data.get(*entry))
}

/// A client by the text of a kubeconfig.
pub(super) async fn client(text: &[u8], connect: &Connect) -> Result<Client, BoxError> {
    let text = std::str::from_utf8(text)?;
    if text.trim().is_empty() {
        return Err("there is no kubeconfig in it".into());
    }
    let kubeconfig = Kubeconfig::from_yaml(text)?;
    connect(kubeconfig).await
}

impl Provider for Secrets {
    fn name(&self) -> &'static str {
        "cluster-secrets"
    }

    fn needs(&self, rules: &mut Rules) {
        rules.allow::<Secret>(&self.scope, Verbs::READ);
    }

    fn run(&self, cx: ProviderCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            let secrets = cx.informers.get::<Secret>(self.scope.clone());
            secrets.synced().await;
            let (mut deltas, mut known) = (secrets.deltas(), BTreeMap::new());
            let first: BTreeSet<String> =
                secrets.lister().all().iter().filter_map(|secret| secret.metadata.name.clone()).collect();
            for secret in secrets.lister().all() {
                self.take(&secret, &cx, &mut known).await;
            }
            cx.listed(&first);
            loop {
                for delta in deltas.next().await {
                    match &delta {
                        Delta::Deleted { last, .. } => {
                            let name = last.metadata.name.clone().unwrap_or_default();
                            known.remove(&name);
                            cx.left(&name);
                        }
                        Delta::Added { new, .. } | Delta::Updated { new, .. } => {
                            self.take(new, &cx, &mut known).await;
                        }
                    }
                }
            }
        })
    }
}
