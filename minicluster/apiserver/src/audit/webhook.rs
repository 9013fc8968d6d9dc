//! A server that is told of events, as `EventList`. What it refuses for a while is tried again, a few times.
//!
//! Source: `k8s.io/apiserver/plugin/pkg/audit/webhook`.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::sleep;

use super::{WebhookSettings, event::Event};
use crate::{
    api::Api,
    outbound::{self, Backend},
};

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often a batch is sent, each time after a pause half as long again.
const TRIES: u32 = 5;

pub(super) struct Webhook {
    backend: Backend,
    backoff: Duration,
}

impl Webhook {
    pub(super) fn new(settings: &WebhookSettings) -> Result<Self, String> {
        let backend = Backend::of_kubeconfig(&settings.config, TIMEOUT)
            .map_err(|why| format!("initializing audit webhook: {why}"))?;
        Ok(Self { backend, backoff: settings.backoff })
    }

    /// Sends a batch; one that cannot be sent is lost.
    pub(super) async fn send(&self, api: &Arc<Api>, events: &[Event]) {
        let list = json!({
            "kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": events,
        });
        let mut pause = self.backoff;
        for last in (0..TRIES).rev() {
            match outbound::post(api, &self.backend, "kube-apiserver", &list).await {
                Ok(_) => return,
                Err(error) if last == 0 => {
                    tracing::error!(
                        error,
                        events = events.len(),
                        "audit events could not be sent and are lost"
                    );
                }
                Err(error) => {
                    tracing::warn!(error, "audit events could not be sent; trying again");
                    sleep(pause).await;
                    pause = pause.mul_f64(1.5);
                }
            }
        }
    }
}
