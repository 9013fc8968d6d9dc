//! The admin server, over plain HTTP: `/healthz`, `/livez`, `/readyz`, `/metrics`, `/failing` with what fails to be
//! reconciled, and `/diagnostics` with what is done at this moment. Serves nothing else and changes nothing.
//!
//! Where metrics are protected ([`SecureMetrics`]), they and whatever else tells of objects are served there, and health
//! alone here.

#[cfg(feature = "webhook")]
mod access;
#[cfg(feature = "webhook")]
mod secure;

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

#[cfg(feature = "webhook")]
pub use secure::SecureMetrics;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// The longest wait for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const JSON: &str = "application/json";
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

/// What a server lets be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    Everything,
    /// How the process is, and nothing of what it does.
    Health,
}

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Alive,
    Ready,
    Metrics,
    Failing,
    Diagnostics,
    DiagnosticsJson,
}

/// Pages by their paths.
const PAGES: [(&str, Page); 7] = [
    ("/healthz", Page::Alive),
    ("/livez", Page::Alive),
    ("/readyz", Page::Ready),
    ("/metrics", Page::Metrics),
    ("/failing", Page::Failing),
    ("/diagnostics", Page::Diagnostics),
    ("/diagnostics.json", Page::DiagnosticsJson),
];

impl Page {
    fn at(path: &str) -> Option<Self> {
        PAGES.iter().find(|(known, _)| *known == path).map(|(_, page)| *page)
    }

    /// Whether it tells of objects, or of what is done with them.
    fn is_protected(self) -> bool {
        !matches!(self, Self::Alive | Self::Ready)
    }
}

/// The paths that tell of objects, but for metrics.
pub(crate) fn diagnostic_paths() -> impl Iterator<Item = &'static str> {
    let told = PAGES.iter().filter(|(_, page)| page.is_protected() && *page != Page::Metrics);
    told.map(|(path, _)| *path)
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
        shows: Shows,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        tracing::info!(address = %listener.local_addr()?, "admin server listens");
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, metrics, checks, shows, stop.clone()));
        Ok(Self { stop, task })
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // The server holds nothing that a panic in it could have left undone.
        let _ = self.task.await;
    }
}

async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    checks: Checks,
    shows: Shows,
    stop: CancellationToken,
) {
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
                let response = answer(request.method(), request.uri().path(), &metrics, &checks, shows);
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

fn answer(
    method: &Method,
    path: &str,
    metrics: &Metrics,
    checks: &Checks,
    shows: Shows,
) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n".to_owned());
    }
    let Some(page) = Page::at(path) else {
        return text(StatusCode::NOT_FOUND, "not found\n".to_owned());
    };
    if page.is_protected() && shows == Shows::Health {
        let sentence = format!("{path} is served over HTTPS, to those who may read it\n");
        return text(StatusCode::NOT_FOUND, sentence);
    }
    match page {
        Page::Alive => text(StatusCode::OK, "ok".to_owned()),
        Page::Ready => match checks.report() {
            (true, _) => text(StatusCode::OK, "ok".to_owned()),
            (false, report) => text(StatusCode::INTERNAL_SERVER_ERROR, report),
        },
        Page::Metrics => of_type(OPENMETRICS, metrics.render()),
        Page::Failing => of_type(JSON, serde_json::to_string(&metrics.failures()).unwrap_or_default()),
        Page::Diagnostics => text(StatusCode::OK, metrics.diagnostics().to_string()),
        Page::DiagnosticsJson => {
            of_type(JSON, serde_json::to_string(&metrics.diagnostics()).unwrap_or_default())
        }
    }
}

fn of_type(kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
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
        let all = Shows::Everything;
        let get = |path, checks: &Checks| answer(&Method::GET, path, &metrics, checks, all).status().as_u16();
        assert_eq!((get("/healthz", &checks), get("/readyz", &checks), get("/x", &checks)), (200, 200, 404));
        assert_eq!(get("/failing", &checks), 200);
        assert_eq!(answer(&Method::POST, "/healthz", &metrics, &checks, all).status(), 405);
        let health = |path| answer(&Method::GET, path, &metrics, &checks, Shows::Health).status().as_u16();
        for (path, page) in PAGES {
            assert_eq!(health(path), if page.is_protected() { 404 } else { 200 }, "{path}");
        }
        checks.add("lease", || Err("lost".into()));
        assert_eq!(get("/readyz", &checks), 500);
        assert_eq!(checks.report().1, "[+]informers ok\n[-]lease failed: lost\n");
        let text = metrics.render();
        assert!(text.contains("leader_election_master_status{name=\"kube-controller-manager\"} 1"), "{text}");
    }
}
