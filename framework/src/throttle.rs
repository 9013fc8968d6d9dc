//! A client that sends no more than so many requests a second, as client-go's `QPS` and `Burst` hold a client back.
//!
//! Requests go in the order in which they came. A watch counts when it begins, and not for what it brings. Leases do not
//! count: who waits for its turn must not lose them. API servers have priority and fairness of their own; this is for who
//! is told to spare a server.

use std::sync::Arc;

use http::{Request, Response};
use kube::{Client, client::Body};
use tokio::time::Instant;

use crate::{Bucket, Metrics};

/// What is never held back.
const LEASES: &str = "/apis/coordination.k8s.io/";

/// A client that takes a token for each request.
pub(crate) fn client(client: Client, bucket: Bucket, metrics: &Metrics) -> Client {
    let (bucket, namespace) = (Arc::new(bucket), client.default_namespace().to_owned());
    let metrics = metrics.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, metrics, begun) = (client.clone(), metrics.clone(), Instant::now());
        // The turn is taken now, and not when the wait begins.
        let turn = (!request.uri().path().starts_with(LEASES)).then(|| bucket.reserve(begun));
        async move {
            if let Some(turn) = turn {
                tokio::time::sleep_until(turn).await;
                metrics.held_back(request.method(), turn - begun);
            }
            let response: Result<Response<Body>, kube::Error> = client.send(request).await;
            response
        }
    });
    Client::new(service, namespace)
}
