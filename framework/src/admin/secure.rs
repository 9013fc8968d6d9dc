//! Metrics and what else tells of objects, over HTTPS and for those alone who may read it.

use std::{future::ready, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use super::{
    Checks, Page, Shows,
    access::{self, Access, Verdict},
    answer, text,
};
use crate::{
    BoxError, Endpoint, Metrics, Rules, RunCx, Runnable,
    certificates::{self, Certificates, Current},
    https::{self, Listen},
};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// Where it listens in a pod, and the port of its Service; as kubebuilder's.
const PORT: u16 = 8443;

/// `/metrics`, `/failing` and `/diagnostics` over HTTPS, for those alone whom the API server lets `get` the path: who
/// asks with a bearer token is looked up by a TokenReview, and what they may do by a SubjectAccessReview on the
/// non-resource URL, as controller-runtime's `WithAuthenticationAndAuthorization` does. Verdicts hold for a minute,
/// refusals for ten seconds.
///
/// The admin server serves health alone from then on. Who is to read metrics is bound to the ClusterRole
/// `NAME-metrics-reader` that comes with the operator's rights.
///
/// ```no_run
/// use windlass::{Manager, SecureMetrics, webhook::Certificates};
///
/// # fn manager(client: kube::Client) -> windlass::Manager {
/// let metrics = SecureMetrics::new("rigger-metrics", Certificates::self_signed());
/// Manager::builder(client)
///     .admin(([0, 0, 0, 0], 8080).into())
///     .secure_metrics(metrics.listen(([0, 0, 0, 0], 8443).into()))
///     .build()
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SecureMetrics {
    service: String,
    certificates: Certificates,
    listen: Option<SocketAddr>,
}

impl SecureMetrics {
    /// Metrics behind a Service of this name, in the namespace that the process runs in. They are served nowhere before
    /// it is said where.
    #[must_use]
    pub fn new(service: impl Into<String>, certificates: Certificates) -> Self {
        Self { service: service.into(), certificates, listen: None }
    }

    /// Listens here.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    pub(crate) fn needs(&self, rules: &mut Rules) {
        access::needs(rules);
        self.certificates.needs(&self.service, rules);
    }

    /// Where metrics are read.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            certificates: self.certificates.dir().map(|dir| dir.to_string_lossy().into_owned()),
            authority: self.certificates.secret(&self.service),
            ..Endpoint::new(&self.service, PORT, PORT)
        }
    }

    /// The part of a manager that serves them.
    pub(crate) fn serving(self, checks: Checks) -> impl Runnable {
        Serving { settings: self, checks }
    }
}

struct Serving {
    settings: SecureMetrics,
    checks: Checks,
}

impl Runnable for Serving {
    fn name(&self) -> &str {
        &self.settings.service
    }

    /// Every replica has its own.
    fn needs_leader(&self) -> bool {
        false
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(self.serve(cx))
    }
}

impl Serving {
    async fn serve(&self, cx: RunCx) -> Result<(), BoxError> {
        let SecureMetrics { service, certificates, listen } = &self.settings;
        let Some(listen) = cx.doors.of(service).or(listen.map(Listen::Address)) else {
            cx.stop.cancelled().await;
            return Ok(());
        };
        let current = Arc::new(Current::default());
        let guarded = Arc::new(Guarded {
            access: Access::new(cx.informers.client().clone()),
            metrics: cx.metrics.clone(),
            checks: self.checks.clone(),
        });
        let respond = move |request: Request<Incoming>| {
            let guarded = Arc::clone(&guarded);
            async move { guarded.respond(&request).await }
        };
        // Clients learn what to believe from the Secret, or from who made the files.
        let nothing = |_| -> BoxFuture<'_, _> { Box::pin(ready(Ok(()))) };
        tokio::select! {
            biased;
            () = cx.stop.cancelled() => Ok(()),
            ended = https::serve(&listen, &current, CONNECTIONS, respond) => ended,
            () = certificates::keep(certificates, service, &cx, &current, nothing) => Ok(()),
        }
    }
}

struct Guarded {
    access: Access,
    metrics: Metrics,
    checks: Checks,
}

impl Guarded {
    /// Answers who may read; the sentences and codes are controller-runtime's.
    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method(), request.uri().path());
        if Page::at(path).is_some_and(Page::is_protected) {
            let token = access::bearer(request.headers().get(http::header::AUTHORIZATION));
            let verb = method.as_str().to_ascii_lowercase();
            match self.access.judge(token, &verb, path).await {
                Ok(Verdict::Allowed) => {}
                Ok(Verdict::Unauthorized) => {
                    return text(StatusCode::UNAUTHORIZED, "Unauthorized\n".to_owned());
                }
                Ok(Verdict::Forbidden(user)) => {
                    let sentence = format!("Authorization denied for user {user}\n");
                    return text(StatusCode::FORBIDDEN, sentence);
                }
                Err(error) => {
                    tracing::warn!(%error, "who reads metrics could not be found out");
                    return text(StatusCode::INTERNAL_SERVER_ERROR, "Authentication failed\n".to_owned());
                }
            }
        }
        answer(method, path, &self.metrics, &self.checks, Shows::Everything)
    }
}
