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
use serde::{Deserialize, Serialize, de::DeserializeOwned};
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
    #[serde(default)]
    pub jti: String,
    /// Kubernetes' part.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Private,
    /// When it begins.
    pub nbf: i64,
    /// `system:serviceaccount:namespace:name`.
    pub sub: String,
}

/// Who made a token, as it says itself; nothing is verified.
pub(crate) fn untrusted_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Issuer>(&bytes).ok().map(|claims| claims.iss)
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
    pub fn sign(&self, claims: &impl Serialize) -> String {
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

    /// The claims of a token that was signed here. What they say, whether the time is right and what is bound still
    /// exists, is for the caller to see.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn open<T: DeserializeOwned>(&self, token: &str) -> Result<T, &'static str> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("token is too long");
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("token is not a JWS")?;
        let (header, payload) = signed.split_once('.').ok_or("token is not a JWS")?;
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| "token is not base64url");
        let header: Value =
            serde_json::from_slice(&bytes(header)?).map_err(|_| "token header is not JSON")?;
        if header["alg"] != "ES256" || header["kid"] != self.key_id.as_str() {
            return Err("invalid signature, no keys found");
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &bytes(signature)?)
            .map_err(|_| "go-jose/go-jose: error in cryptographic primitive")?;
        serde_json::from_slice(&bytes(payload)?).map_err(|_| "token claims are not understood")
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
    fn a_token_is_good_only_as_signed() {
        let (ours, other) = (tokens(), tokens());
        let token = ours.sign(&claims());
        assert_eq!(ours.open(&token), Ok(claims()));
        assert_eq!(untrusted_issuer(&token).as_deref(), Some("https://issuer"));
        assert_eq!(other.open::<Claims>(&token), Err("invalid signature, no keys found"));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let mut longer = claims();
        longer.exp = 1_000_000;
        let forged = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&longer).unwrap());
        assert_eq!(
            ours.open::<Claims>(&format!("{header}.{forged}.{signature}")),
            Err("go-jose/go-jose: error in cryptographic primitive")
        );
        for broken in ["", "a", "a.b", "a.b.c", "....", &token[1..]] {
            assert!(ours.open::<Claims>(broken).is_err(), "{broken}");
            assert!(broken.len() > 9 || untrusted_issuer(broken).is_none());
        }
    }
}
