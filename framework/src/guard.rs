//! A client that asks for nothing that was not registered.
//!
//! RBAC made from [`Rules`] refuses in production what nobody registered. [`Guard`] refuses the same wherever the operator
//! runs, a test without RBAC included, and says which call is missing. It sees requests, not types: whatever goes to the
//! server goes through it, reads of caches and events included. Paths that name no resource are let through.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use http::{Method, Request, Response, StatusCode, header};
use kube::{
    Client,
    client::Body,
    core::{Resource, Status},
};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use crate::{Metrics, Rules, Verbs};

/// Holds requests to rules, from the moment on in which there are any.
#[derive(Clone, Default)]
pub(crate) struct Guard(Arc<OnceLock<Rules>>);

/// The kind that a request is about, for the sentence of a refusal.
#[derive(Clone)]
struct Kind(Cow<'static, str>);

/// Says in a request which kind it is about.
pub(crate) fn about<K: Resource>(mut request: Request<Vec<u8>>) -> Request<Vec<u8>>
where
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    request.extensions_mut().insert(Kind(kind.into()));
    request
}

impl Guard {
    /// A client whose requests are held to the rules, and counted when they are sent.
    pub(crate) fn client(&self, client: Client, metrics: &Metrics) -> Client {
        let (guard, namespace) = (self.clone(), client.default_namespace().to_owned());
        let metrics = metrics.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (client, refusal) = (client.clone(), guard.refusal(&request));
            let metrics = metrics.clone();
            async move {
                if let Some(sentence) = refusal {
                    return Ok(forbidden(&sentence));
                }
                let (method, begun) = (request.method().clone(), Instant::now());
                let response = client.send(request).await;
                metrics.requested(&method, response.as_ref().ok().map(Response::status), begun.elapsed());
                response
            }
        });
        Client::new(service, namespace)
    }

    /// From now on these rules hold.
    pub(crate) fn seal(&self, rules: Rules) {
        // A guard belongs to one manager, which is built once.
        let _ = self.0.set(rules);
    }

    /// Why a request is refused, if it is.
    fn refusal<B>(&self, request: &Request<B>) -> Option<String> {
        let asked = Asked::of(request.method(), request.uri())?;
        let rules = self.0.get()?;
        if rules
            .verbs(asked.namespace, asked.group, &asked.resource, asked.name.as_deref())
            .contains(asked.verb)
        {
            return None;
        }
        let kind = request.extensions().get::<Kind>().map_or("KIND", |Kind(kind)| kind);
        tracing::error!(path = request.uri().path(), verb = %asked.verb, "not registered, and refused");
        Some(asked.sentence(kind))
    }
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    verb: Verbs,
    group: &'a str,
    /// With its subresource.
    resource: Cow<'a, str>,
    namespace: Option<&'a str>,
    name: Option<Cow<'a, str>>,
}

/// The name that a field selector asks for.
fn selected(query: &str) -> Option<Cow<'_, str>> {
    let selector = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector="))?;
    let selector = percent_decode_str(selector).decode_utf8().ok()?;
    let name = selector.split(',').find_map(|term| term.strip_prefix("metadata.name="))?;
    Some(Cow::Owned(name.trim_start_matches('=').to_owned()))
}

impl<'a> Asked<'a> {
    /// `None` when the path names no resource.
    fn of(method: &Method, uri: &'a http::Uri) -> Option<Self> {
        let mut parts = uri.path().split('/').skip(1);
        let group = match parts.next()? {
            "api" => "",
            "apis" => parts.next()?,
            _ => return None,
        };
        parts.next()?;
        let rest: Vec<&str> = parts.collect();
        let (namespace, rest) = match &rest[..] {
            // A namespace, its status and its finalizers are the namespace's own.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, &rest[..]),
            ["namespaces", namespace, rest @ ..] => (Some(*namespace), rest),
            rest => (None, rest),
        };
        let (resource, name) = match rest {
            [resource] => (Cow::Borrowed(*resource), None),
            [resource, name] => (Cow::Borrowed(*resource), Some(*name)),
            [resource, name, sub, ..] => (Cow::Owned(format!("{resource}/{sub}")), Some(*name)),
            [] => return None,
        };
        let watches =
            uri.query().is_some_and(|query| query.split('&').any(|p| matches!(p, "watch=true" | "watch=1")));
        let verb = match (method, name) {
            (&Method::GET | &Method::HEAD, _) if watches => Verbs::WATCH,
            (&Method::GET | &Method::HEAD, Some(_)) => Verbs::GET,
            (&Method::GET | &Method::HEAD, None) => Verbs::LIST,
            (&Method::PUT, _) => Verbs::UPDATE,
            (&Method::PATCH, _) => Verbs::PATCH,
            (&Method::DELETE, Some(_)) => Verbs::DELETE,
            (&Method::DELETE, None) => Verbs::DELETE_COLLECTION,
            _ => Verbs::CREATE,
        };
        // A list of one object by its name is about that object alone, as API servers see it.
        let name = name.map(Cow::Borrowed).or_else(|| selected(uri.query()?));
        Some(Self { verb, group, resource, namespace, name })
    }

    /// What was asked for, and which call would have allowed it.
    fn sentence(&self, kind: &str) -> String {
        let Self { verb, resource, .. } = self;
        let place = self.namespace.map(|ns| format!(" in namespace {ns:?}")).unwrap_or_default();
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let constant = if *verb == Verbs::DELETE_COLLECTION {
            "DELETE_COLLECTION".to_owned()
        } else {
            verb.to_string().to_uppercase()
        };
        let call = match resource.split_once('/') {
            None => format!("`.may::<{kind}>(Verbs::{constant})` to its controller"),
            Some((_, "status")) => format!(
                "`.writes_status()` to its controller, or `.may_sub::<{kind}>(\"status\", Verbs::{constant})` to another"
            ),
            Some((_, sub)) => format!("`.may_sub::<{kind}>({sub:?}, Verbs::{constant})` to its controller"),
        };
        format!("nothing registered that this operator may {verb} {resource}{group}{place}: add {call}")
    }
}

fn forbidden(sentence: &str) -> Response<Body> {
    let status = Status::failure(sentence, "Forbidden").with_code(StatusCode::FORBIDDEN.as_u16());
    let mut response = Response::new(Body::from(serde_json::to_vec(&status).unwrap_or_default()));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_the_server_reads_them() {
        let table = [
            ("GET", "/api/v1/pods", "list  pods - -"),
            ("GET", "/api/v1/pods?watch=true", "watch  pods - -"),
            ("GET", "/api/v1/namespaces/a/pods/p", "get  pods a p"),
            ("GET", "/api/v1/namespaces/a/pods?watch=1&x=y", "watch  pods a -"),
            (
                "PATCH",
                "/apis/x.dev/v1/namespaces/a/boats/b/status?force=true",
                "patch x.dev boats/status a b",
            ),
            ("PUT", "/api/v1/namespaces/a/finalize", "update  namespaces/finalize - a"),
            ("GET", "/api/v1/namespaces/a", "get  namespaces - a"),
            ("GET", "/api/v1/namespaces", "list  namespaces - -"),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments", "deletecollection apps deployments a -"),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments/d", "delete apps deployments a d"),
            ("POST", "/api/v1/namespaces/a/pods/p/eviction", "create  pods/eviction a p"),
            ("PUT", "/api/v1/nodes/n", "update  nodes - n"),
        ];
        for (method, uri, expected) in table {
            let uri: http::Uri = uri.parse().unwrap();
            let a = Asked::of(&method.parse().unwrap(), &uri).unwrap();
            let (namespace, name) = (a.namespace.unwrap_or("-"), a.name.as_deref().unwrap_or("-"));
            assert_eq!(
                format!("{} {} {} {namespace} {name}", a.verb, a.group, a.resource),
                expected,
                "{uri}"
            );
        }
        for uri in ["/api", "/api/v1", "/apis/apps/v1", "/openapi/v3", "/version", "/readyz"] {
            assert_eq!(Asked::of(&Method::GET, &uri.parse().unwrap()), None, "{uri}");
        }
    }

    #[test]
    fn a_refusal_names_the_call_that_is_missing() {
        let sentence = |method: Method, uri: &str, kind| {
            let uri: http::Uri = uri.parse().unwrap();
            Asked::of(&method, &uri).unwrap().sentence(kind)
        };
        assert_eq!(
            sentence(Method::POST, "/api/v1/namespaces/a/secrets", "Secret"),
            "nothing registered that this operator may create secrets in namespace \"a\": \
             add `.may::<Secret>(Verbs::CREATE)` to its controller"
        );
        assert_eq!(
            sentence(Method::DELETE, "/apis/x.dev/v1/boats", "KIND"),
            "nothing registered that this operator may deletecollection boats.x.dev: \
             add `.may::<KIND>(Verbs::DELETE_COLLECTION)` to its controller"
        );
        assert_eq!(
            sentence(Method::PATCH, "/apis/x.dev/v1/namespaces/a/boats/b/status", "Boat"),
            "nothing registered that this operator may patch boats/status.x.dev in namespace \"a\": \
             add `.writes_status()` to its controller, or `.may_sub::<Boat>(\"status\", Verbs::PATCH)` to another"
        );
    }
}
