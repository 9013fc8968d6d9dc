//! Getting a container's image onto the node: pull policies, back-off, secrets, with upstream's reasons and messages.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};

use crate::pod::Waiting;
use crate::pod::env::Objects;
use crate::pod::restart::Backoff;
use crate::runtime::RegistryAuth;

/// Registries whose credentials nobody named by host.
const DOCKER_HUB: &str = "docker.io";

/// What to do about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Use what is there.
    Use,
    /// Fetch it.
    Pull,
    /// Do not start; try again at the moment given, or when something changes.
    Wait(Waiting, Option<Timestamp>),
}

/// The policy in force; the API server fills it in, so this covers static pods.
pub fn policy(spec: &Container) -> &str {
    if let Some(policy) = spec.image_pull_policy.as_deref().filter(|p| !p.is_empty()) {
        return policy;
    }
    let image = spec.image.as_deref().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
    if latest { "Always" } else { "IfNotPresent" }
}

/// The image as a registry reference; `None` when it is not one.
pub fn reference(image: &str) -> Option<&str> {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let tag_ok = tag.is_none_or(|t| {
        (1..=128).contains(&t.len())
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    });
    let digest_ok =
        digest.is_none_or(|d| d.split_once(':').is_some_and(|(a, h)| !a.is_empty() && h.len() >= 32));
    let mut parts = path.split('/').peekable();
    let has_host =
        path.contains('/') && parts.peek().is_some_and(|h| h.contains(['.', ':']) || *h == "localhost");
    if has_host {
        parts.next();
    }
    let part_ok = |p: &str| {
        !p.is_empty()
            && p.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
            && p.starts_with(|c: char| c.is_ascii_alphanumeric())
            && p.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    (tag_ok && digest_ok && parts.all(part_ok) && !path.is_empty()).then_some(image)
}

/// Decides whether an image has to be fetched now.
pub fn decide(spec: &Container, present: bool, backoff: Option<Backoff>, now: Timestamp) -> Decision {
    let image = spec.image.as_deref().unwrap_or_default();
    let waiting = |reason: &str, message: String| Waiting { reason: reason.to_owned(), message };
    match (policy(spec), present) {
        ("Never", false) => {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            return Decision::Wait(
                waiting("ErrImageNeverPull", message),
                Some(now + Duration::from_secs(60)),
            );
        }
        ("Never", true) | ("IfNotPresent", true) => return Decision::Use,
        _ => {}
    }
    match backoff.and_then(|b| b.holds(b.updated, now)) {
        Some(until) => Decision::Wait(
            waiting("ImagePullBackOff", format!("Back-off pulling image \"{image}\"")),
            Some(until),
        ),
        None => Decision::Pull,
    }
}

/// The registry host of an image.
fn host(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DOCKER_HUB,
    }
}

/// Credentials for an image from the pod's pull secrets, most specific first.
pub fn credentials(pod: &Pod, image: &str, objects: &dyn Objects) -> Vec<RegistryAuth> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let names = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_ref());
    let secrets = names.into_iter().flatten().filter_map(|r| objects.secret(namespace, &r.name));
    let mut found: Vec<(usize, RegistryAuth)> = secrets.flat_map(|s| of_secret(&s, image)).collect();
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn of_secret(secret: &Secret, image: &str) -> Vec<(usize, RegistryAuth)> {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key));
    let (text, nested) = match (data(".dockerconfigjson"), data(".dockercfg")) {
        (Some(ByteString(text)), _) => (text, true),
        (None, Some(ByteString(text))) => (text, false),
        _ => return Vec::new(),
    };
    let Ok(parsed) = serde_json::from_slice::<serde_json::Value>(text) else { return Vec::new() };
    let all = if nested { &parsed["auths"] } else { &parsed };
    let Some(all) = all.as_object() else { return Vec::new() };
    all.iter()
        .filter(|(server, _)| matches(server, image))
        .map(|(s, entry)| (s.len(), auth(s, entry)))
        .collect()
}

/// `https://registry.example/v1/` and `registry.example/team` match images below them; `*.example` any host there.
fn matches(server: &str, image: &str) -> bool {
    let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let server = server.trim_end_matches("/v1").trim_end_matches("/v2");
    let server =
        if matches!(server, "index.docker.io" | "registry-1.docker.io") { DOCKER_HUB } else { server };
    let (wanted, path) = server.split_once('/').unwrap_or((server, ""));
    let actual = host(image);
    let same_host = match wanted.strip_prefix("*.") {
        Some(domain) => actual.split_once('.').is_some_and(|(_, rest)| rest == domain),
        None => wanted == actual,
    };
    let below = image.strip_prefix(actual).unwrap_or(image).trim_start_matches('/');
    same_host && (path.is_empty() || below == path || below.starts_with(&format!("{path}/")))
}

fn auth(server: &str, entry: &serde_json::Value) -> RegistryAuth {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let mut auth = RegistryAuth {
        username: text("username"),
        password: text("password"),
        server: server.to_owned(),
        identity_token: text("identitytoken"),
    };
    let joined =
        entry["auth"].as_str().and_then(|a| STANDARD.decode(a).ok()).and_then(|a| String::from_utf8(a).ok());
    if let Some((user, password)) = joined.as_deref().and_then(|j| j.split_once(':')) {
        auth.username = user.to_owned();
        auth.password = password.to_owned();
    }
    auth
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(image: &str, policy: &str) -> Container {
        Container {
            image: Some(image.into()),
            image_pull_policy: Some(policy.into()),
            ..Container::default()
        }
    }

    #[test]
    fn the_policy_decides_and_a_failure_holds_the_next_pull() {
        let now = Timestamp::from_second(1000).unwrap();
        let backoff = Some(Backoff::next(None, now, now));
        let wait = |reason: &str, message: &str, after| {
            let waiting = Waiting { reason: reason.into(), message: message.into() };
            Decision::Wait(waiting, Some(now + Duration::from_secs(after)))
        };
        let never = "Container image \"a:1\" is not present with pull policy of Never";
        let cases = [
            ("Always", true, None, Decision::Pull),
            ("IfNotPresent", true, backoff, Decision::Use),
            ("IfNotPresent", false, None, Decision::Pull),
            ("IfNotPresent", false, backoff, wait("ImagePullBackOff", "Back-off pulling image \"a:1\"", 10)),
            ("Never", false, None, wait("ErrImageNeverPull", never, 60)),
            ("Never", true, None, Decision::Use),
        ];
        for (policy, present, backoff, expected) in cases {
            assert_eq!(
                decide(&container("a:1", policy), present, backoff, now),
                expected,
                "{policy} {present}"
            );
        }
    }

    #[test]
    fn the_default_policy_follows_the_tag() {
        let shown = ["a", "a:latest", "a:1", "r.io:5000/a", "a@sha256:00"]
            .map(|i| policy(&container(i, "")).to_owned());
        assert_eq!(shown, ["Always", "Always", "IfNotPresent", "Always", "IfNotPresent"]);
    }

    #[test]
    fn references_are_checked_before_they_reach_the_runtime() {
        for good in [
            "a",
            "localhost/busybox:1",
            "r.io:5000/team/app:v1.2",
            "app@sha256:0123456789abcdef0123456789abcdef",
        ] {
            assert!(reference(good).is_some(), "{good}");
        }
        for bad in ["", "Foo/Bar:x", "a:", "a b", "a//b", "-a", "a@sha256:zz"] {
            assert!(reference(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn credentials_match_host_and_path() {
        let cases = [
            ("https://index.docker.io/v1/", "busybox:1", true),
            ("r.io/team", "r.io/team/app", true),
            ("r.io/team", "r.io/teams/app", false),
            ("*.example.com", "a.example.com/x", true),
            ("*.example.com", "a.b.example.com/x", false),
        ];
        for (server, image, expected) in cases {
            assert_eq!(matches(server, image), expected, "{server} {image}");
        }
    }
}
