//! The admin server: `/healthz`, `/livez`, `/readyz`, `/metrics`, and `/failing` with what fails to be reconciled, over
//! plain HTTP. Serves nothing else and changes nothing.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::Metrics;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// The longest wait for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Named readiness checks.
#[derive(Clone, Default)]
pub(crate) struct Checks(Vec<(&'static str, Check)>);

impl Checks {
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.0.push((name, Arc::new(check)));
    }

    /// Whether all pass, and one line for each.
    pub(crate) fn report(&self) -> (bool, String) {
        let mut ready = true;
        let mut out = String::new();
        for (name, check) in &self.0 {
            match check() {
                Ok(()) => out += &format!("[+]{name} ok\n"),
                Err(reason) => {
                    ready = false;
                    out += &format!("[-]{name} failed: {reason}\n");
                }
            }
        }
        (ready, out)
    }
}

pub(crate) struct Admin {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Admin {
    pub(crate) async fn start(
        address: SocketAddr,
        metrics: Metrics,
        checks: Checks,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        tracing::info!(address = %listener.local_addr()?, "admin server listens");
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, metrics, checks, stop.clone()));
        Ok(Self { stop, task })
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // The server holds nothing that a panic in it could have left undone.
        let _ = self.task.await;
    }
}

async fn serve(listener: TcpListener, metrics: Metrics, checks: Checks, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "admin server could not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (metrics, checks) = (metrics.clone(), checks.clone());
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = answer(request.method(), request.uri().path(), &metrics, &checks);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "admin connection ended badly");
            }
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
}

fn answer(method: &Method, path: &str, metrics: &Metrics, checks: &Checks) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n".to_owned());
    }
    match path {
        "/healthz" | "/livez" => text(StatusCode::OK, "ok".to_owned()),
        "/readyz" => match checks.report() {
            (true, _) => text(StatusCode::OK, "ok".to_owned()),
            (false, report) => text(StatusCode::INTERNAL_SERVER_ERROR, report),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, metrics.render());
            let kind = header::HeaderValue::from_static(OPENMETRICS);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        "/failing" => {
            let mut response =
                text(StatusCode::OK, serde_json::to_string(&metrics.failures()).unwrap_or_default());
            let kind = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "not found\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let metrics = Metrics::new();
        metrics.leading("kube-controller-manager", true);
        let mut checks = Checks::default();
        checks.add("informers", || Ok(()));
        let get = |path, checks: &Checks| answer(&Method::GET, path, &metrics, checks).status().as_u16();
        assert_eq!((get("/healthz", &checks), get("/readyz", &checks), get("/x", &checks)), (200, 200, 404));
        assert_eq!(get("/failing", &checks), 200);
        assert_eq!(answer(&Method::POST, "/healthz", &metrics, &checks).status(), 405);
        checks.add("lease", || Err("lost".into()));
        assert_eq!(get("/readyz", &checks), 500);
        assert_eq!(checks.report().1, "[+]informers ok\n[-]lease failed: lost\n");
        let text = metrics.render();
        assert!(text.contains("leader_election_master_status{name=\"kube-controller-manager\"} 1"), "{text}");
    }
}
