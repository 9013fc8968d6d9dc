//! Handing transactions to the kernel through `nft`, and forgetting the connections of endpoints that went away.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Bound of one transaction.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a transaction was not applied. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The program could not be run.
    #[error("nft cannot be run: {0} (is the package nftables installed?)")]
    Run(#[from] std::io::Error),
    /// The kernel or the program refused.
    #[error("nft refused the rules: {0}")]
    Refused(String),
    /// It took too long.
    #[error("nft did not answer within 30 s")]
    Timeout,
}

/// Applies one transaction.
pub(crate) async fn apply(transaction: &str) -> Result<(), ApplyError> {
    let work = async {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // When nft gives up early its answer says why.
            let _ = stdin.write_all(transaction.as_bytes()).await;
        }
        let output = child.wait_with_output().await?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(ApplyError::Refused(text.lines().take(3).collect::<Vec<_>>().join(" ")))
    };
    tokio::time::timeout(TIMEOUT, work).await.unwrap_or(Err(ApplyError::Timeout))
}

/// Makes the kernel forget UDP flows to a service address, all of them or those to one endpoint. UDP has no end that
/// the kernel could see, so a flow would go to the old place as long as it is busy.
pub(crate) async fn forget_udp(service: Option<Ipv4Addr>, port: u16, endpoint: Option<Ipv4Addr>) {
    let mut command = Command::new("conntrack");
    command.args(["-D", "-p", "udp", "--orig-port-dst", &port.to_string()]);
    if let Some(service) = service {
        command.args(["--orig-dst", &service.to_string()]);
    }
    if let Some(endpoint) = endpoint {
        command.args(["--dst-nat", &endpoint.to_string()]);
    }
    // It also "fails" when there was no such flow.
    let done = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).status();
    if let Err(error) = tokio::time::timeout(TIMEOUT, done).await.unwrap_or(Ok(Default::default())) {
        tracing::debug!(%error, "old UDP flows could not be forgotten");
    }
}
