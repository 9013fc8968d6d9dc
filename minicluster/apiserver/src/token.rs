//! Service account tokens: signed here, checked here, published as a key set for everybody else.
//!
//! JSON Web Signatures with ES256 over ring. Source: KEP-1205 (bound tokens), KEP-1393 (issuer discovery).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::SetupError;

/// The longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// What a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The object's name.
    pub name: String,
    /// The object's uid.
    #[serde(default)]
    pub uid: String,
}

/// The private claim of a service account token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    /// The namespace.
    pub namespace: String,
    /// The node of the bound pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Bound>,
    /// The bound pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Bound>,
    /// The bound secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Bound>,
    /// The service account.
    pub serviceaccount: Bound,
    /// When a client should have fetched a new one, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The claims of a service account token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom it is meant.
    pub aud: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// Its own name.
    pub jti: String,
    /// Kubernetes' part.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Private,
    /// When it begins.
    pub nbf: i64,
    /// `system:serviceaccount:namespace:name`.
    pub sub: String,
}

/// Signs and verifies.
pub struct Tokens {
    key: EcdsaKeyPair,
    key_id: String,
    issuer: String,
    random: SystemRandom,
}

impl Tokens {
    /// Takes an ECDSA P-256 key in PKCS#8.
    ///
    /// # Errors
    /// [`SetupError::TokenKey`].
    pub fn new(pkcs8: &[u8], issuer: &str) -> Result<Self, SetupError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|e| SetupError::TokenKey(e.to_string()))?;
        let key_id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, key.public_key().as_ref()));
        Ok(Self { key, key_id, issuer: issuer.to_owned(), random })
    }

    /// The `iss` of tokens signed here.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Claims) -> String {
        let header = json!({ "alg": "ES256", "kid": self.key_id });
        let part = |v: Vec<u8>| URL_SAFE_NO_PAD.encode(v);
        let signed = format!(
            "{}.{}",
            part(serde_json::to_vec(&header).expect("JSON into memory")),
            part(serde_json::to_vec(claims).expect("JSON into memory"))
        );
        let signature = self.key.sign(&self.random, signed.as_bytes()).expect("the key signs");
        format!("{signed}.{}", part(signature.as_ref().to_vec()))
    }

    /// The claims of a token that was signed here and is valid at `now` (seconds since 1970) for one of `audiences`.
    ///
    /// Whether the service account and the bound objects still exist is for the caller to see.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn verify(&self, token: &str, audiences: &[String], now: i64) -> Result<Claims, &'static str> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("token is too long");
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("token is not a JWS")?;
        let (header, payload) = signed.split_once('.').ok_or("token is not a JWS")?;
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| "token is not base64url");
        let header: Value =
            serde_json::from_slice(&bytes(header)?).map_err(|_| "token header is not JSON")?;
        if header["alg"] != "ES256" || header["kid"] != self.key_id.as_str() {
            return Err("token was signed by an unknown key");
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &bytes(signature)?)
            .map_err(|_| "token signature is wrong")?;
        let claims: Claims =
            serde_json::from_slice(&bytes(payload)?).map_err(|_| "token claims are not understood")?;
        if claims.iss != self.issuer {
            return Err("token has another issuer");
        }
        if now >= claims.exp {
            return Err("token has expired");
        }
        if now + 60 < claims.nbf {
            return Err("token is not valid yet");
        }
        if !claims.aud.iter().any(|a| audiences.contains(a)) {
            return Err("token audiences are not accepted");
        }
        Ok(claims)
    }

    /// The public key as a JSON Web Key Set.
    pub fn key_set(&self) -> Value {
        // An uncompressed point: 0x04, then x and y of 32 bytes each.
        let point = self.key.public_key().as_ref();
        json!({ "keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Tokens::new(pkcs8.as_ref(), "https://issuer").unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec!["api".into()],
            exp: 1000,
            iat: 0,
            iss: "https://issuer".into(),
            jti: "j".into(),
            kubernetes: Private {
                namespace: "d".into(),
                node: None,
                pod: None,
                secret: None,
                serviceaccount: Bound { name: "x".into(), uid: "u".into() },
                warnafter: None,
            },
            nbf: 0,
            sub: "system:serviceaccount:d:x".into(),
        }
    }

    #[test]
    fn a_token_is_good_only_as_signed_in_its_time_and_for_its_audience() {
        let (ours, other) = (tokens(), tokens());
        let token = ours.sign(&claims());
        let api = ["api".to_owned()];
        assert_eq!(ours.verify(&token, &api, 10), Ok(claims()));
        assert_eq!(ours.verify(&token, &api, 1000), Err("token has expired"));
        assert_eq!(ours.verify(&token, &["vault".to_owned()], 10), Err("token audiences are not accepted"));
        assert_eq!(other.verify(&token, &api, 10), Err("token was signed by an unknown key"));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let mut longer = claims();
        longer.exp = 1_000_000;
        let forged = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&longer).unwrap());
        assert_eq!(
            ours.verify(&format!("{header}.{forged}.{signature}"), &api, 10),
            Err("token signature is wrong")
        );
        for broken in ["", "a", "a.b", "a.b.c", "....", &token[1..]] {
            assert!(ours.verify(broken, &api, 10).is_err(), "{broken}");
        }
    }
}
