//! JSON Web Signatures and the key sets that verify them. Source: RFC 7515, 7517, 7518.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Map, Value};

/// The longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 64 << 10;

/// The most keys of a set.
const KEYS_MAX: usize = 256;

/// A token taken apart, not verified yet.
pub(crate) struct Jws {
    pub(super) algorithm: String,
    key_id: String,
    signed: String,
    signature: Vec<u8>,
    pub(crate) claims: Map<String, Value>,
}

impl Jws {
    pub(crate) fn read(token: &str) -> Result<Self, &'static str> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("oidc: malformed jwt: too long");
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("oidc: malformed jwt")?;
        let (header, payload) = signed.split_once('.').ok_or("oidc: malformed jwt")?;
        let bytes =
            |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| "oidc: malformed jwt: not base64url");
        let object = |part: &str| {
            serde_json::from_slice::<Map<String, Value>>(&bytes(part)?)
                .map_err(|_| "oidc: malformed jwt: not JSON")
        };
        let header = object(header)?;
        // Extensions that a verifier has to understand: there are none here.
        if header.contains_key("crit") {
            return Err("oidc: malformed jwt: unsupported crit header");
        }
        let text = |key: &str| header.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        Ok(Self {
            algorithm: text("alg"),
            key_id: text("kid"),
            signed: signed.to_owned(),
            signature: bytes(signature)?,
            claims: object(payload)?,
        })
    }
}

#[derive(Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point on the curve.
    Ec {
        curve: String,
        point: Vec<u8>,
    },
}

#[derive(Debug)]
struct Key {
    id: String,
    /// Empty for any that fits.
    algorithm: String,
    material: Material,
}

/// The keys of an issuer.
#[derive(Debug)]
pub(crate) struct Keys(Vec<Key>);

impl Keys {
    /// Reads a JSON Web Key Set. Keys of other kinds are left out.
    pub(crate) fn read(set: &Value) -> Self {
        let all = set.get("keys").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        Self(all.iter().take(KEYS_MAX).filter_map(key).collect())
    }

    /// Whether there is a key of the name that the token gives; any, when it gives none.
    pub(crate) fn has(&self, jws: &Jws) -> bool {
        self.0.iter().any(|key| jws.key_id.is_empty() || key.id == jws.key_id)
    }

    /// Whether one of the keys signed the token.
    pub(crate) fn verify(&self, jws: &Jws) -> bool {
        self.0
            .iter()
            .filter(|key| jws.key_id.is_empty() || key.id == jws.key_id)
            .filter(|key| key.algorithm.is_empty() || key.algorithm == jws.algorithm)
            .any(|key| key.verify(jws))
    }
}

fn key(key: &Value) -> Option<Key> {
    let text = |field: &str| key.get(field).and_then(Value::as_str).unwrap_or("");
    if !matches!(text("use"), "" | "sig") {
        return None;
    }
    let bytes = |field: &str| {
        URL_SAFE_NO_PAD.decode(text(field).trim_end_matches('=')).ok().filter(|b| !b.is_empty())
    };
    let material = match text("kty") {
        "RSA" => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
        "EC" => {
            let size = match text("crv") {
                "P-256" => 32,
                "P-384" => 48,
                _ => return None,
            };
            let mut point = vec![4];
            for coordinate in [bytes("x")?, bytes("y")?] {
                let padding = size - coordinate.len().min(size);
                point.extend(std::iter::repeat_n(0, padding));
                point.extend(coordinate);
            }
            (point.len() == 2 * size + 1).then_some(())?;
            Material::Ec { curve: text("crv").to_owned(), point }
        }
        _ => return None,
    };
    Some(Key { id: text("kid").to_owned(), algorithm: text("alg").to_owned(), material })
}

impl Key {
    fn verify(&self, jws: &Jws) -> bool {
        let (message, signature) = (jws.signed.as_bytes(), jws.signature.as_slice());
        match &self.material {
            Material::Rsa { n, e } => {
                let algorithm = match jws.algorithm.as_str() {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                // Leading zeros are no part of a number for ring.
                let bare =
                    |bytes: &'_ [u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect::<Vec<_>>();
                RsaPublicKeyComponents { n: bare(n), e: bare(e) }
                    .verify(algorithm, message, signature)
                    .is_ok()
            }
            Material::Ec { curve, point } => {
                let algorithm = match (jws.algorithm.as_str(), curve.as_str()) {
                    ("ES256", "P-256") => &signature::ECDSA_P256_SHA256_FIXED,
                    ("ES384", "P-384") => &signature::ECDSA_P384_SHA384_FIXED,
                    _ => return false,
                };
                UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
    };
    use serde_json::json;

    use super::*;
    use crate::token::Tokens;

    fn tokens() -> Tokens {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Tokens::new(pkcs8.as_ref(), "https://a", &crate::token::Settings::default()).unwrap()
    }

    #[test]
    fn elliptic_signatures_are_verified_by_the_published_set() {
        let (ours, other) = (tokens(), tokens());
        let token = ours.sign(&json!({"iss": "https://a", "sub": "x"}));
        let jws = Jws::read(&token).unwrap();
        assert_eq!(jws.claims["sub"], "x");
        assert!(Keys::read(ours.key_set()).verify(&jws));
        assert!(!Keys::read(other.key_set()).verify(&jws));
        let mut wrong = ours.key_set().clone();
        wrong["keys"][0]["alg"] = "ES384".into();
        assert!(!Keys::read(&wrong).verify(&jws));
        wrong["keys"][0]["alg"] = "ES256".into();
        wrong["keys"][0]["use"] = "enc".into();
        assert!(!Keys::read(&wrong).verify(&jws));
    }

    #[test]
    fn rsa_signatures_are_verified_by_modulus_and_exponent() {
        let key = json!({"kty": "RSA", "kid": "k", "e": "AQAB", "n": "qhveWtJkKNutY4JHQNXjGPJjLIu2HiZ4XEfMjk1fe_scCufVNIdNzY0PR3VYbHrJcbWDV3m2gAqwz9odyCZ-eQCZh1TMMJbA22Km4IkNvGTkKjbO-swdWtDwUsfnCNTHhYiL_EgXYZSwadKxNE2pt8teZqTh85X655o3L05qAGUPXOll3AK7lF_n0pDXCUoWqM1Ta69YlQU2k59QqrbAaaoi25K3LevlESAb0lmB2vEFclhycNKmjq2k3aHsqKE9C_5TpPIcUj86yrE9oB1vL34iZZKEBLeQAlhC5JZlPtjZ-UlaezLV0E-Kc0rNGKEIGsY8CHvc9VyFvJTTaGyzPQ"});
        let set = Keys::read(&json!({"keys": [{"kty": "oct"}, key]}));
        for token in [
            "eyJhbGciOiAiUlMyNTYiLCAia2lkIjogImsifQ.eyJpc3MiOiAiaHR0cHM6Ly9hIiwgInN1YiI6ICJ4In0.KGAc3FuGMzcgjs14CIfWI0j1X8dhz24UtVYcZPlhF7GK_uYkWD9BY4iXBkIqtAjfcbcDQXl18Gw012FqfAZWmeqiXi4izhcBGgf_iSYP1uf5WKPRyeLWk8-G_DpLWNvJRua4xBIvf9kunILX8CLmXU3YodFNYXkT77o4p4Aq6R3Tws3AGUTJjjpFcaTTex_jTMv3K0AS-W4eaCRQoILbjs2rd6_8r-B1PLGxpGS1cJd1m3w_XcM-uUGaw6Yta4750YbCCq0xnSGbre-t9kz0qi2C3Z9Oef9PWCu6b0AbHBMwkdq2EcBoI07hkqFTZOtLDHYSzub1h0A5SXvZi1JZow",
            "eyJhbGciOiAiUFMzODQiLCAia2lkIjogImsifQ.eyJpc3MiOiAiaHR0cHM6Ly9hIiwgInN1YiI6ICJ4In0.OQU0ehXnaUgHeXSqV5vcJhtSVETKFFng_V9kvV7ovE9e1zPjs3GmWkqeFXsm1ZBPAprMQF4tJj763Zr2uBeme9nZeHBV2fLyR18t4lRKg4lVBMDSR31t6jdjYgXy1PJFek_Z0GLoGSgvfphsWm6Vt-ujQz9FMM45CbuiG54qSsuT9zLJmt5bXJorieDu_iK88HZoUu3RVoFFQdRQSpDJNvb7kzDPphej6Pk-dhZmvJBd2GPf_KlTICsVtIhjs8XNqfeI-7KVoeVvhUk9xldja5kWQZLFxXtLlKggBtwAUzANOMbpWaoOnvcKXtM0PBugHv1_dTiyc67TOsg9qDWGxA",
        ] {
            let jws = Jws::read(token).unwrap();
            assert!(set.verify(&jws), "{}", jws.algorithm);
            let forged = Jws { signed: format!("{}x", jws.signed), ..jws };
            assert!(!set.verify(&forged));
        }
        for broken in ["", "a", "a.b", "a.b.c", "e30.e30", "e30.W10.e30"] {
            assert!(Jws::read(broken).is_err(), "{broken}");
        }
    }
}
