//! EventRateLimit: how many events a second the server takes, in all, from a namespace, a user or a source.
//!
//! Source: `plugin/pkg/admission/eventratelimit`.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

/// Keys that a limit remembers unless it says otherwise.
const CACHE_SIZE: usize = 4096;
/// Seconds after which a client may try again.
const RETRY_SECONDS: u32 = 1;

/// What a limit counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

/// One limit of the plugin's configuration.
#[derive(Clone, Debug)]
pub struct Limit {
    by: By,
    name: String,
    per_second: f64,
    burst: f64,
    cache_size: usize,
}

impl Limit {
    /// Reads an entry of `limits`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(value: &Value) -> Result<Self, String> {
        let name = object::text(value, &["type"]);
        let by = match name {
            "Server" => By::Server,
            "Namespace" => By::Namespace,
            "User" => By::User,
            "SourceAndObject" => By::SourceAndObject,
            other => {
                return Err(format!(
                    "type: Unsupported value: \"{other}\": supported values: \"Namespace\", \"Server\", \
                     \"SourceAndObject\", \"User\""
                ));
            }
        };
        let positive = |field: &str| match object::number(value, &[field]) {
            Some(number) if number > 0 => Ok(number as f64),
            other => Err(format!("{field}: Invalid value: {}: must be positive", other.unwrap_or(0))),
        };
        let cache_size = match object::number(value, &["cacheSize"]).unwrap_or(0) {
            0 => CACHE_SIZE,
            size => usize::try_from(size)
                .map_err(|_| format!("cacheSize: Invalid value: {size}: must not be negative"))?,
        };
        let (per_second, burst) = (positive("qps")?, positive("burst")?);
        Ok(Self { by, name: name.to_owned(), per_second, burst, cache_size })
    }

    fn key(&self, cx: &Context, event: &Value) -> String {
        match self.by {
            By::Server => String::new(),
            By::Namespace => cx.info.namespace.clone(),
            By::User => cx.user.name.clone(),
            By::SourceAndObject => {
                let source = ["component", "host"].map(|field| object::text(event, &["source", field]));
                let about = ["kind", "namespace", "name", "uid", "apiVersion"]
                    .map(|field| object::text(event, &["involvedObject", field]));
                source.into_iter().chain(about).collect()
            }
        }
    }
}

/// What is left of each limit, by key.
#[derive(Default)]
pub struct EventRates(Mutex<Vec<BTreeMap<String, Bucket>>>);

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl EventRates {
    /// Takes an event, if every limit has room for it.
    ///
    /// # Errors
    /// 429 with the limits that have none.
    pub(super) fn take(&self, cx: &Context, event: &Value) -> ApiResult<()> {
        let limits = &cx.api.config.admission.event_rates;
        let is_event =
            matches!(cx.resource.group.as_ref(), "" | "events.k8s.io") && cx.resource.plural == "events";
        if limits.is_empty() || !is_event || cx.dry_run() {
            return Ok(());
        }
        let mut buckets = self.0.lock();
        buckets.resize_with(limits.len(), BTreeMap::new);
        let mut full = Vec::new();
        for (limit, buckets) in limits.iter().zip(buckets.iter_mut()) {
            let key = limit.key(cx, event);
            if !accept(limit, buckets, &key, Instant::now()) {
                full.push(format!("limit reached on type {} for key {key}", limit.name));
            }
        }
        match full.as_slice() {
            [] => Ok(()),
            [one] => Err(ApiError::too_many_requests(one.clone(), RETRY_SECONDS)),
            many => Err(ApiError::too_many_requests(format!("[{}]", many.join(", ")), RETRY_SECONDS)),
        }
    }
}

fn accept(limit: &Limit, buckets: &mut BTreeMap<String, Bucket>, key: &str, now: Instant) -> bool {
    if buckets.len() >= limit.cache_size && !buckets.contains_key(key) {
        let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.at).map(|(key, _)| key.clone());
        oldest.map(|key| buckets.remove(&key));
    }
    let bucket = buckets.entry(key.to_owned()).or_insert(Bucket { tokens: limit.burst, at: now });
    let passed: Duration = now.saturating_duration_since(bucket.at);
    bucket.tokens = limit.burst.min(bucket.tokens + passed.as_secs_f64() * limit.per_second);
    bucket.at = now;
    let has_room = bucket.tokens >= 1.0;
    if has_room {
        bucket.tokens -= 1.0;
    }
    has_room
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bucket_fills_again_and_the_oldest_key_is_forgotten() {
        let limit = Limit::read(&json!({"type": "User", "qps": 2, "burst": 3, "cacheSize": 2})).unwrap();
        let start = Instant::now();
        let mut buckets = BTreeMap::new();
        let mut at =
            |key: &str, ms: u64| accept(&limit, &mut buckets, key, start + Duration::from_millis(ms));
        assert_eq!([at("a", 0), at("a", 0), at("a", 0), at("a", 0)], [true, true, true, false]);
        assert_eq!([at("a", 500), at("a", 500)], [true, false]);
        assert!(at("b", 600) && at("c", 700));
        // Forgotten, it begins anew.
        assert_eq!([at("a", 800), at("a", 800)], [true, true]);
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        for (limit, why) in [
            (json!({"type": "Odd"}), "type: Unsupported value: \"Odd\""),
            (json!({"type": "User", "burst": 1}), "qps: Invalid value: 0: must be positive"),
            (json!({"type": "User", "qps": 1, "burst": 1, "cacheSize": -1}), "cacheSize: Invalid value: -1"),
        ] {
            let error = Limit::read(&limit).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
