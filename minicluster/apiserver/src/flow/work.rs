//! How many seats a request takes: lists and watches that begin with a list take more the larger they are.
//!
//! Source: `k8s.io/apiserver/pkg/util/flowcontrol/request/list_work_estimator.go`.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::{
    registry::Text,
    request::{Query, RequestInfo},
};

/// Bytes in memory at once that take one seat.
const BYTES_PER_SEAT: usize = 100_000;

/// A list is streamed from memory: more than this is never held at once.
const STREAMED_BYTES_MAX: usize = 1_000_000;

/// The most seats of one list.
const LIST_SEATS_MAX: i64 = 100;

/// Collections whose size is remembered.
const SIZES_MAX: usize = 4096;

/// How large collections were when they were last listed: objects, and bytes of one on average.
#[derive(Default)]
pub(super) struct Sizes(Mutex<BTreeMap<Text, (usize, usize)>>);

impl Sizes {
    pub(super) fn note(&self, resource: &str, count: usize, bytes: usize) {
        let average = bytes.checked_div(count).unwrap_or(0);
        let mut sizes = self.0.lock();
        if let Some(size) = sizes.get_mut(resource) {
            *size = (count, average);
        } else if sizes.len() < SIZES_MAX {
            sizes.insert(Text::Owned(resource.to_owned()), (count, average));
        }
    }

    fn of(&self, resource: &str) -> Option<(usize, usize)> {
        self.0.lock().get(resource).copied()
    }
}

/// The seats of a request; `max`: the most that its level gives to one.
pub(super) fn seats(sizes: &Sizes, info: &RequestInfo, query: &Query, max: i64) -> i64 {
    if max <= 1 || !info.is_resource || !matches!(info.verb, "list" | "watch") || !info.name.is_empty() {
        return 1;
    }
    if info.verb == "watch" {
        let from_the_start = matches!(query.get("resourceVersion"), None | Some("" | "0"));
        if !query.flag("sendInitialEvents") && !from_the_start {
            return 1;
        }
    }
    // What nobody listed yet is small, or is served by somebody else.
    let Some((count, average)) = sizes.of(&info.resource) else { return 1 };
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let loaded = limit.map_or(count, |limit: usize| limit.min(count));
    let bytes = loaded.saturating_mul(average).min(STREAMED_BYTES_MAX);
    i64::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(LIST_SEATS_MAX).clamp(1, LIST_SEATS_MAX.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn lists_take_seats_by_their_size() {
        let sizes = Sizes::default();
        sizes.note("pods", 10_000, 20_000_000);
        sizes.note("secrets", 100, 250_000);
        sizes.note("nodes", 0, 0);
        for (method, url, max, expected) in [
            (Method::GET, "/api/v1/pods", 100, 10),
            (Method::GET, "/api/v1/pods", 4, 4),
            (Method::GET, "/api/v1/pods", 1, 1),
            (Method::GET, "/api/v1/pods?limit=100", 100, 2),
            (Method::GET, "/api/v1/secrets", 100, 3),
            (Method::GET, "/api/v1/nodes", 100, 1),
            (Method::GET, "/api/v1/unknowns", 100, 1),
            (Method::GET, "/api/v1/namespaces/d/pods/a", 100, 1),
            (Method::POST, "/api/v1/namespaces/d/pods", 100, 1),
            (Method::GET, "/api/v1/pods?watch=1", 100, 10),
            (Method::GET, "/api/v1/pods?watch=1&resourceVersion=0", 100, 10),
            (Method::GET, "/api/v1/pods?watch=1&resourceVersion=7", 100, 1),
            (Method::GET, "/api/v1/pods?watch=1&resourceVersion=7&sendInitialEvents=true", 100, 10),
            (Method::GET, "/version", 100, 1),
        ] {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let query = Query::parse(query);
            let info = RequestInfo::new(&method, path, &query);
            assert_eq!(seats(&sizes, &info, &query, max), expected, "{method} {url} {max}");
        }
    }
}
