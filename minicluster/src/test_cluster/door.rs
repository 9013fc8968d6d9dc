//! The way from a client to the API server of a test: what goes wrong goes wrong here, and what is asked is written
//! down. It outlives the server: after a restart the same clients reach the next one.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use kube::client::Body as KubeBody;
use minicluster_apiserver::{
    Api, Identity, InProcess,
    body::{self, Body, BodyError},
    status::ApiError,
};
use parking_lot::{Mutex, RwLock};
use tokio::time::{Sleep, sleep};
use tower::Service;
use windlass::{BoxError, CancellationToken, random::Source};

use super::{
    faults::{Call, Faults, Refusal, Rules, Trouble},
    transcript::Transcript,
};

/// The server that all doors of a cluster lead to.
pub(super) struct Server {
    /// The one that answers; `None` while it is down.
    api: RwLock<Option<Arc<Api>>>,
    pub(super) rules: Rules,
    pub(super) transcript: Transcript,
    /// Open watches that can be cut.
    watches: Mutex<Vec<(Call, CancellationToken)>>,
}

impl Server {
    pub(super) fn new(api: &Arc<Api>, transcript: Transcript) -> Arc<Self> {
        let api = RwLock::new(Some(Arc::clone(api)));
        Arc::new(Self { api, rules: Rules::default(), transcript, watches: Mutex::default() })
    }

    pub(super) fn replace(&self, api: Option<Arc<Api>>) {
        *self.api.write() = api;
    }

    /// Ends the open watches of a resource, or of all for `*`; returns how many.
    pub(super) fn drop_watches(&self, resource: &str) -> usize {
        let mut watches = self.watches.lock();
        let before = watches.len();
        watches.retain(|(call, cut)| {
            let wanted = resource == "*" || call.info.resource == resource;
            if wanted {
                cut.cancel();
            }
            !wanted
        });
        before - watches.len()
    }

    fn keep(&self, call: Call) -> CancellationToken {
        let cut = CancellationToken::new();
        let mut watches = self.watches.lock();
        watches.retain(|(_, cut)| !cut.is_cancelled());
        watches.push((call, cut.clone()));
        cut
    }
}

/// One identity's way in.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) server: Arc<Server>,
    /// `None`: nobody vouches for who asks.
    pub(super) identity: Option<Identity>,
    /// What goes wrong by chance; `None`: nothing does, nor do injected faults reach it.
    pub(super) line: Option<(Faults, Source)>,
}

impl Service<Request<KubeBody>> for Door {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<KubeBody>) -> Self::Future {
        let call = Call::of(&request, self.identity.as_ref());
        // Chance is drawn in the order of the calls, or a seed would not replay.
        let mut trouble = Trouble::default();
        if let Some((faults, random)) = &self.line {
            trouble = faults.draw(random, &call);
            self.server.rules.meet(&call, &mut trouble);
        }
        Box::pin(self.clone().pass(call, trouble, request))
    }
}

impl Door {
    async fn pass(
        self,
        call: Call,
        trouble: Trouble,
        request: Request<KubeBody>,
    ) -> Result<Response<Body>, BoxError> {
        let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let note = |outcome: &str| self.server.transcript.asked(&call.user, call.info.verb, &path, outcome);
        if let Some(refusal) = trouble.refusal {
            return refuse(refusal, &call, note).await;
        }
        pause(trouble.there).await;
        let stale = trouble.stale.clone();
        let Some(api) = stale.or_else(|| self.server.api.read().clone()) else {
            note("connection refused");
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        };
        let mut inside = match &self.identity {
            Some(identity) => InProcess::new(&api, identity.clone()),
            None => InProcess::stranger(&api),
        };
        let response = inside.call(request).await?;
        pause(trouble.back).await;
        note(response.status().as_str());
        if trouble.loses_answer {
            return Ok(body::failure(&ApiError::internal("a fault was injected: the answer was lost")));
        }
        let Some((_, random)) = self.line.filter(|_| call.info.verb == "watch") else { return Ok(response) };
        let cut = self.server.keep(call);
        Ok(response.map(|inner| {
            let ended = Box::pin(cut.clone().cancelled_owned());
            let Trouble { breaks, lag, .. } = trouble;
            BodyExt::boxed_unsync(Line { inner, random, breaks, lag, held: None, ended, cut })
        }))
    }
}

/// What a refused request comes to.
async fn refuse(refusal: Refusal, call: &Call, note: impl Fn(&str)) -> Result<Response<Body>, BoxError> {
    if let Some(error) = refusal.answer(call) {
        note(&format!("{} (injected)", error.code));
        return Ok(body::failure(&error));
    }
    let (kind, outcome) = match refusal {
        Refusal::Silence(patience) => {
            pause(patience).await;
            (io::ErrorKind::TimedOut, "no answer (injected)")
        }
        _ => (io::ErrorKind::ConnectionReset, "connection cut (injected)"),
    };
    note(outcome);
    Err(io::Error::from(kind).into())
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// The stream of a watch over a line that may be slow, and may end at any time.
struct Line {
    inner: Body,
    random: Source,
    breaks: f64,
    lag: Duration,
    /// A frame that is under way.
    held: Option<(Pin<Box<Sleep>>, Frame<Bytes>)>,
    ended: Pin<Box<tokio_util::sync::WaitForCancellationFutureOwned>>,
    cut: CancellationToken,
}

impl http_body::Body for Line {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        if self.held.is_none() {
            let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
                return Poll::Ready(None);
            };
            self.held = Some((Box::pin(sleep(self.lag)), frame?));
        }
        let Some((mut timer, frame)) = self.held.take() else { return Poll::Ready(None) };
        if !self.lag.is_zero() && timer.as_mut().poll(cx).is_pending() {
            self.held = Some((timer, frame));
            return Poll::Pending;
        }
        if self.breaks > 0.0 && self.random.unit() < self.breaks {
            self.cut.cancel();
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Whoever keeps the list of open watches sees that this one is over.
        self.cut.cancel();
    }
}
