//! Who may read what a process serves: the API server is asked who a bearer token is (TokenReview), and whether they may
//! `get` the path (SubjectAccessReview on a non-resource URL), as controller-runtime's
//! `WithAuthenticationAndAuthorization` does. Nothing is decided here, and verdicts are forgotten after a while.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

use crate::{BoxError, Place, Rules, Verbs};

/// How long somebody may go on after they were let in: a token that is withdrawn is good for that long.
const ALLOWED_FOR: Duration = Duration::from_secs(60);
/// How long a refusal holds: rights that were just given are noticed after that.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Verdicts that are remembered. Refusals make room first, so that strangers do not push out who is let in.
const REMEMBERED: usize = 1024;
/// Questions to the API server at a time; more wait.
const AT_ONCE: usize = 4;
/// The longest wait for a verdict.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest token.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// What was found about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// Nobody knows who asks.
    Unauthorized,
    /// This user may not.
    Forbidden(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    token: String,
    verb: String,
    path: String,
}

/// Asks the API server, and remembers for a while.
pub(super) struct Access {
    client: Client,
    known: Mutex<Verdicts>,
    asking: Semaphore,
}

#[derive(Default)]
struct Verdicts(BTreeMap<Asked, (Verdict, Instant)>);

impl Verdicts {
    fn get(&self, asked: &Asked, now: Instant) -> Option<Verdict> {
        let (verdict, until) = self.0.get(asked)?;
        (now < *until).then(|| verdict.clone())
    }

    fn put(&mut self, asked: Asked, verdict: Verdict, now: Instant) {
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, (_, until)| now < *until);
        }
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, (verdict, _)| *verdict == Verdict::Allowed);
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let holds = if verdict == Verdict::Allowed { ALLOWED_FOR } else { REFUSED_FOR };
        self.0.insert(asked, (verdict, now + holds));
    }
}

/// What [`Access`] needs from the API.
pub(super) fn needs(rules: &mut Rules) {
    let ask = |rules: &mut Rules, group, resource| {
        rules.allow_resource(Place::Everywhere, group, resource, Verbs::CREATE);
    };
    ask(rules, "authentication.k8s.io", "tokenreviews");
    ask(rules, "authorization.k8s.io", "subjectaccessreviews");
}

impl Access {
    pub(super) fn new(client: Client) -> Self {
        Self { client, known: Mutex::default(), asking: Semaphore::new(AT_ONCE) }
    }

    /// Whether who holds this token may do this to a path.
    pub(super) async fn judge(
        &self,
        token: Option<&str>,
        verb: &str,
        path: &str,
    ) -> Result<Verdict, BoxError> {
        let Some(token) = token.filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX) else {
            return Ok(Verdict::Unauthorized);
        };
        let asked = Asked { token: token.to_owned(), verb: verb.to_owned(), path: path.to_owned() };
        if let Some(verdict) = self.known.lock().get(&asked, Instant::now()) {
            return Ok(verdict);
        }
        tokio::time::timeout(TIMEOUT, async {
            let _turn = self.asking.acquire().await?;
            // Who waited before for the same has the answer by now.
            if let Some(verdict) = self.known.lock().get(&asked, Instant::now()) {
                return Ok(verdict);
            }
            let verdict = self.ask(&asked).await?;
            self.known.lock().put(asked, verdict.clone(), Instant::now());
            Ok(verdict)
        })
        .await?
    }

    async fn ask(&self, asked: &Asked) -> Result<Verdict, BoxError> {
        let Some(user) = self.authenticate(&asked.token).await? else { return Ok(Verdict::Unauthorized) };
        let name = user.username.clone().unwrap_or_default();
        let spec = SubjectAccessReviewSpec {
            user: user.username,
            groups: user.groups,
            uid: user.uid,
            extra: user.extra,
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some(asked.path.clone()),
                verb: Some(asked.verb.clone()),
            }),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let status = api.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        let allowed = status.allowed && !status.denied.unwrap_or_default();
        Ok(if allowed { Verdict::Allowed } else { Verdict::Forbidden(name) })
    }

    async fn authenticate(&self, token: &str) -> Result<Option<UserInfo>, BoxError> {
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status = api.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        Ok(status.user.filter(|_| status.authenticated.unwrap_or_default()))
    }
}

/// The token of an `Authorization` header.
pub(super) fn bearer(header: Option<&http::HeaderValue>) -> Option<&str> {
    let (scheme, token) = header?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(token: &str) -> Asked {
        Asked { token: token.to_owned(), verb: "get".to_owned(), path: "/metrics".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn verdicts_are_forgotten_and_strangers_push_out_nobody() {
        let mut known = Verdicts::default();
        known.put(asked("friend"), Verdict::Allowed, Instant::now());
        for n in 0..3 * REMEMBERED {
            known.put(asked(&format!("stranger-{n}")), Verdict::Unauthorized, Instant::now());
            assert!(known.0.len() <= REMEMBERED);
        }
        assert_eq!(known.get(&asked("friend"), Instant::now()), Some(Verdict::Allowed));
        let last = asked(&format!("stranger-{}", 3 * REMEMBERED - 1));
        assert_eq!(known.get(&last, Instant::now()), Some(Verdict::Unauthorized));
        tokio::time::advance(REFUSED_FOR).await;
        assert_eq!(known.get(&last, Instant::now()), None);
        tokio::time::advance(ALLOWED_FOR).await;
        assert_eq!(known.get(&asked("friend"), Instant::now()), None);
    }

    #[test]
    fn tokens_are_read_from_their_header() {
        let header = |text: &'static str| http::HeaderValue::from_static(text);
        for (text, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(bearer(Some(&header(text))), token, "{text:?}");
        }
        assert_eq!(bearer(None), None);
    }
}
