//! How long requests may take, and how the server goes down.

use std::{sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode};

use crate::{
    api::Api,
    body::{self, Body},
    status::ApiResult,
};

/// Changes how much the process says in its log.
pub type SetVerbosity = Arc<dyn Fn(u8) -> Result<(), String> + Send + Sync>;

/// What the server is told of its serving.
#[derive(Clone)]
pub struct Settings {
    /// How long a request that is neither a watch nor a connection may take.
    pub request_timeout: Duration,
    /// The shortest life of a watch without a timeout of its own; the longest is twice that.
    pub min_request_timeout: Duration,
    /// How long requests are still taken after `/readyz` has begun to fail.
    pub shutdown_delay: Duration,
    /// The part of requests over HTTP/2 after which a client is asked to connect anew, so that load spreads.
    pub goaway_chance: f64,
    /// What `/debug/flags/v` sets; `None`: nothing can be set.
    pub verbosity: Option<SetVerbosity>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1800),
            shutdown_delay: Duration::ZERO,
            goaway_chance: 0.0,
            verbosity: None,
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("request_timeout", &self.request_timeout).finish_non_exhaustive()
    }
}

const FLAGS: &str = "<html>\n<head>\n<title>/debug/flags/</title>\n</head>\n<body>\n/debug/flags/<br>\n<br>\nflags:<br>\n\
                     <table>\n<tr>v<br>\n</table>\n<br>\nfull flags configurable<br>\n</body>\n</html>\n";

/// `/debug/flags`: what can be changed while the server runs, which is how much it says.
///
/// # Errors
/// 413, or 400 when the body cannot be read.
pub(crate) async fn flags(api: &Api, request: Request<Body>) -> ApiResult<Response<Body>> {
    let path = request.uri().path().trim_end_matches('/').to_owned();
    let text = |code, text: String| Ok(body::text(code, text));
    match (path.as_str(), request.method()) {
        ("/debug/flags/v", &Method::PUT) => {
            let bytes = body::read(request.into_body()).await?;
            let given = String::from_utf8_lossy(&bytes).trim().to_owned();
            let set = match (given.parse::<u8>(), &api.config.serving.verbosity) {
                (Ok(level), Some(set)) => set(level),
                (Ok(_), None) => Err("the log of this process cannot be changed".to_owned()),
                (Err(error), _) => Err(format!("failed set klog.logging.verbosity {given}: {error}")),
            };
            match set {
                Ok(()) => text(StatusCode::OK, format!("successfully set klog.logging.verbosity to {given}")),
                Err(why) => text(StatusCode::BAD_REQUEST, why),
            }
        }
        ("/debug/flags/v", _) => text(StatusCode::NOT_ACCEPTABLE, "unsupported http method".to_owned()),
        _ => {
            let mut page = body::text(StatusCode::OK, FLAGS);
            page.headers_mut().insert(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static("text/html; charset=utf-8"),
            );
            Ok(page)
        }
    }
}
