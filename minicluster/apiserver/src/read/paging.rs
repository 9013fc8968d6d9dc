//! The token with which a list goes on.
//!
//! Source: `k8s.io/apiserver/pkg/storage/continue.go`.

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use minicluster_store::Revision;
use serde::Serialize;
use serde_json::Value;
use windlass_crd::decode::parse_json;

use crate::status::{ApiError, ApiResult};

const VERSION: &str = "meta.k8s.io/v1";

/// Go reads base64 without a look at bits that say nothing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// The place in a list where the next page begins.
#[derive(Debug)]
pub(super) struct Continue {
    /// The revision that all pages show; `None` for whatever is there now.
    pub(super) revision: Option<Revision>,
    /// The key to begin with, without the prefix of the collection.
    pub(super) start: String,
}

#[derive(Serialize)]
struct Token<'a> {
    v: &'a str,
    rv: i64,
    start: &'a str,
}

impl Continue {
    pub(super) fn encode(revision: i64, start: &str) -> String {
        let token = Token { v: VERSION, rv: revision, start };
        BASE64.encode(serde_json::to_vec(&token).expect("a token is plain data"))
    }

    /// Reads a token.
    ///
    /// # Errors
    /// 400.
    pub(super) fn decode(token: &str) -> ApiResult<Self> {
        Self::read(token).map_err(|why| {
            ApiError::bad_request(format!("invalid continue token: continue key is not valid{why}"))
        })
    }

    fn read(token: &str) -> Result<Self, String> {
        let token: String = token.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let bytes = BASE64
            .decode(&token)
            .map_err(|_| format!(": illegal base64 data at input byte {}", corrupt_at(token.as_bytes())))?;
        let (value, _) = parse_json(&bytes, 8).map_err(|error| format!(": {error}"))?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("v") != VERSION {
            return Err(format!(": server does not recognize this encoded version {}", text("v")));
        }
        let revision = value.get("rv").and_then(Value::as_i64).unwrap_or_default();
        if revision == 0 {
            return Err(format!(": incorrect encoded start resourceVersion (version {VERSION})"));
        }
        let start = text("start");
        if start.is_empty() {
            return Err(format!(": encoded start key empty (version {VERSION})"));
        }
        // No way up, and none around: what is named is below the collection.
        let key = start.strip_prefix('/').unwrap_or(start);
        if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(format!(": {start}"));
        }
        Ok(Self { revision: Revision::try_from(revision).ok(), start: key.to_owned() })
    }
}

/// Where Go's decoder finds the fault: the first byte that is none of the alphabet, or a last byte alone.
fn corrupt_at(text: &[u8]) -> usize {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.iter().position(|byte| !known(byte)).unwrap_or_else(|| text.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_none_is_told_why() {
        let encoded = |json: &str| BASE64.encode(json);
        for (token, why) in [
            ("x".to_owned(), ": illegal base64 data at input byte 0"),
            ("ab$d".to_owned(), ": illegal base64 data at input byte 2"),
            ("abcde".to_owned(), ": illegal base64 data at input byte 4"),
            (encoded("{"), ": unexpected end of JSON input"),
            (encoded("{\"v\":\"x\"}"), ": server does not recognize this encoded version x"),
            (
                encoded("{\"v\":\"meta.k8s.io/v1\"}"),
                ": incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (
                encoded("{\"v\":\"meta.k8s.io/v1\",\"rv\":1}"),
                ": encoded start key empty (version meta.k8s.io/v1)",
            ),
            (encoded("{\"v\":\"meta.k8s.io/v1\",\"rv\":1,\"start\":\"a/../b\"}"), ": a/../b"),
        ] {
            assert_eq!(
                Continue::decode(&token).unwrap_err().message,
                format!("invalid continue token: continue key is not valid{why}")
            );
        }
        let token = Continue::decode(&Continue::encode(7, "a/b")).unwrap();
        assert_eq!((token.revision, token.start.as_str()), (Some(7), "a/b"));
        assert_eq!(Continue::decode(&Continue::encode(-1, "a")).unwrap().revision, None);
    }
}
