//! Bootstrap tokens: `id.secret`, kept in Secrets of kube-system, with which a new node introduces itself.
//!
//! Source: `plugin/pkg/auth/authenticator/token/bootstrap`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::Value;

use super::Identity;
use crate::{api::Api, object};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const USER_PREFIX: &str = "system:bootstrap:";
const GROUP: &str = "system:bootstrappers";
const GROUP_PREFIX: &str = "system:bootstrappers:";

/// Whose a token is. What is wrong with one is nobody's to know.
pub(super) fn ask(api: &Api, token: &str) -> Option<Identity> {
    let (id, secret) = parse(token)?;
    let resource = api.registry.builtin("", "v1", "secrets");
    let entry = api.store.get(&resource.key("kube-system", &format!("bootstrap-token-{id}")))?;
    let found = object::decode(&resource, &entry.value);
    match read(&found, id, secret, windlass::clock::now()) {
        Ok(identity) => Some(identity),
        Err(why) => {
            tracing::info!(secret = object::name(&found), why, "a bootstrap token was refused");
            None
        }
    }
}

/// Six characters, a dot, sixteen characters.
fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

fn read(secret: &Value, id: &str, given: &str, now: Timestamp) -> Result<Identity, &'static str> {
    let data = |key: &str| {
        let bytes = STANDARD.decode(object::text(secret, &["data", key])).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    if object::is_deleting(secret) {
        return Err("is deleted and awaiting removal");
    }
    if object::text(secret, &["type"]) != TYPE {
        return Err("has invalid type, expected bootstrap.kubernetes.io/token.");
    }
    #[allow(deprecated)]
    let same =
        ring::constant_time::verify_slices_are_equal(data("token-secret").as_bytes(), given.as_bytes());
    if same.is_err() {
        return Err("has invalid value for key token-secret.");
    }
    if data("token-id") != id {
        return Err("has invalid value for key token-id.");
    }
    let expiration = data("expiration");
    if !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |until| until <= now) {
        return Err("has expired.");
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("not marked usage-bootstrap-authentication=true.");
    }
    Ok(Identity {
        name: format!("{USER_PREFIX}{id}"),
        groups: groups(&data("auth-extra-groups"))?,
        ..Identity::default()
    })
}

fn groups(extra: &str) -> Result<Vec<String>, &'static str> {
    let mut groups = vec![GROUP.to_owned()];
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        if !is_bootstrap_group(group) {
            return Err("has invalid value for key auth-extra-groups.");
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Ok(groups)
}

/// `system:bootstrappers:` and letters, digits, `:` and `-`, neither at the end.
fn is_bootstrap_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix(GROUP_PREFIX) else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
        && rest.bytes().next().is_some_and(|b| plain(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(plain)
        && rest.len() <= 255
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_whole_and_living_tokens_are_good() {
        let base = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token"),
        ];
        let secret = |changes: &[(&str, &str)]| {
            let mut data = json!({});
            for (key, value) in base.iter().chain(changes) {
                data[*key] = STANDARD.encode(value).into();
            }
            json!({"type": TYPE, "data": data})
        };
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ask = |secret: &Value| read(secret, "abcdef", "0123456789abcdef", now);
        let good = ask(&secret(&[("expiration", "2026-01-01T00:00:01Z")])).unwrap();
        assert_eq!(good.name, "system:bootstrap:abcdef");
        assert_eq!(good.groups, ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token"]);
        for (change, why) in [
            (("expiration", "2026-01-01T00:00:00Z"), "has expired."),
            (("expiration", "soon"), "has expired."),
            (("token-id", "other1"), "has invalid value for key token-id."),
            (("token-secret", "x"), "has invalid value for key token-secret."),
            (("usage-bootstrap-authentication", "false"), "not marked usage-bootstrap-authentication=true."),
            (("auth-extra-groups", "system:masters"), "has invalid value for key auth-extra-groups."),
        ] {
            assert_eq!(ask(&secret(&[change])).unwrap_err(), why);
        }
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        assert!(ask(&other).unwrap_err().contains("invalid type"));
        for text in [
            "abcdef.0123456789abcde",
            "abcde.0123456789abcdef",
            "ABCDEF.0123456789abcdef",
            "abcdef0123456789abcdef",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
