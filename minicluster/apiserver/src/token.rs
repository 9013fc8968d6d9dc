//! Service account tokens: signed here, checked here, published as a key set for everybody else.
//!
//! JSON Web Signatures over ring, with the server's own ECDSA key or with those of files. Source: KEP-1205 (bound tokens), KEP-1393 (issuer discovery).

mod pem;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    api::SetupError,
    authn::{Jws, Keys},
    expiring::Expiring,
};
use pem::Signer;

/// The longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Tokens whose signatures are known to be good: one for each pod of a cluster that fills this server.
const VERIFIED_MAX: usize = 32 << 10;

/// How long one that nobody shows is remembered. Keys are those of the start, so that what was good stays so; all else
/// about a token is looked at each time.
const VERIFIED_FOR: Duration = Duration::from_secs(3600);

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
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    payload(token).map(|claims: Issuer| claims.iss)
}

/// What a token says, read as a `T`; nothing is verified.
fn payload<T: DeserializeOwned>(token: &str) -> Option<T> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// Which keys sign and verify tokens, beside the server's own.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `--service-account-signing-key-file`: signs instead of the server's own key.
    pub signing_key_file: Option<PathBuf>,
    /// `--service-account-key-file`: verify, in the place of the signing key's public half.
    pub key_files: Vec<PathBuf>,
    /// Further issuers whose tokens are accepted.
    pub more_issuers: Vec<String>,
    /// `--service-account-jwks-uri`: where others find the keys; empty for below the issuer.
    pub jwks_uri: String,
}

/// Signs and verifies.
pub struct Tokens {
    signer: Signer,
    key_id: String,
    /// The keys that verify, as they are published.
    set: Value,
    keys: Keys,
    issuers: Vec<String>,
    /// Digests of tokens whose signatures were verified: that costs more than everything else about a request.
    verified: Expiring<Vec<u8>, ()>,
    random: SystemRandom,
}

impl Tokens {
    /// Takes the server's own key, ECDSA P-256 in PKCS#8, and what it was told of others.
    ///
    /// # Errors
    /// [`SetupError::TokenKey`], which names the file.
    pub fn new(pkcs8: &[u8], issuer: &str, settings: &Settings) -> Result<Self, SetupError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|e| SetupError::TokenKey(format!("{}: {e}", path.display())))
        };
        let wrong = |path: &Path, why: String| SetupError::TokenKey(format!("{}: {why}", path.display()));
        let signer = match &settings.signing_key_file {
            Some(path) => Signer::read(&read(path)?).map_err(|why| wrong(path, why))?,
            None => Signer::of_pkcs8(pkcs8).map_err(SetupError::TokenKey)?,
        };
        let own = signer.public();
        let mut all: Vec<Value> = Vec::new();
        for path in &settings.key_files {
            all.extend(pem::public_keys(&read(path)?).map_err(|why| wrong(path, why))?);
        }
        // What signs without being told to can be verified without being told to.
        if settings.signing_key_file.is_none() || all.is_empty() {
            all.insert(0, own.clone());
        }
        let mut set: Vec<Value> = Vec::with_capacity(all.len());
        for key in all {
            if !set.contains(&key) {
                set.push(key);
            }
        }
        let set = json!({ "keys": set });
        let issuers =
            std::iter::once(issuer.to_owned()).chain(settings.more_issuers.iter().cloned()).collect();
        let key_id = own["kid"].as_str().unwrap_or_default().to_owned();
        let keys = Keys::read(&set);
        let verified = Expiring::new(VERIFIED_MAX);
        Ok(Self { signer, key_id, set, keys, issuers, verified, random: SystemRandom::new() })
    }

    /// The `iss` of tokens signed here.
    pub fn issuer(&self) -> &str {
        &self.issuers[0]
    }

    /// True for the `iss` of tokens that are this server's, signed here or before.
    pub fn accepts(&self, issuer: &str) -> bool {
        self.issuers.iter().any(|own| own == issuer)
    }

    /// All issuers of tokens that are accepted, that of new ones first.
    pub fn issuers(&self) -> &[String] {
        &self.issuers
    }

    /// Signs claims.
    pub fn sign(&self, claims: &impl Serialize) -> String {
        let header = json!({ "alg": self.signer.algorithm(), "kid": self.key_id });
        let part = |v: Vec<u8>| URL_SAFE_NO_PAD.encode(v);
        let signed = format!(
            "{}.{}",
            part(serde_json::to_vec(&header).expect("JSON into memory")),
            part(serde_json::to_vec(claims).expect("JSON into memory"))
        );
        let signature = self.signer.sign(signed.as_bytes(), &self.random);
        format!("{signed}.{}", part(signature))
    }

    /// The claims of a token that one of the keys signed. What they say, whether the time is right and what is bound
    /// still exists, is for the caller to see.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn open<T: DeserializeOwned>(&self, token: &str) -> Result<T, &'static str> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("token is too long");
        }
        let seen = digest(&SHA256, token.as_bytes()).as_ref().to_vec();
        if self.verified.get(&seen).is_none() {
            self.verify(token)?;
            self.verified.put(seen, (), VERIFIED_FOR);
        }
        payload(token).ok_or("token claims are not understood")
    }

    /// Whether one of the keys signed a token.
    fn verify(&self, token: &str) -> Result<(), &'static str> {
        let jws = Jws::read(token).map_err(|_| "token is not a JWS")?;
        if !self.keys.has(&jws) {
            return Err("invalid signature, no keys found");
        }
        if !self.keys.verify(&jws) {
            return Err("go-jose/go-jose: error in cryptographic primitive");
        }
        Ok(())
    }

    /// The public keys as a JSON Web Key Set.
    pub fn key_set(&self) -> &Value {
        &self.set
    }

    /// The algorithms of those keys.
    pub fn algorithms(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.set["keys"].as_array().into_iter().flatten().filter_map(|key| key["alg"].as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

    use super::*;

    fn own_key() -> Vec<u8> {
        let random = SystemRandom::new();
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap().as_ref().to_vec()
    }

    fn tokens() -> Tokens {
        Tokens::new(&own_key(), "https://issuer", &Settings::default()).unwrap()
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
        for _ in 0..2 {
            assert_eq!(ours.open(&token), Ok(claims()));
        }
        assert_eq!(untrusted_issuer(&token).as_deref(), Some("https://issuer"));
        assert_eq!(other.open::<Claims>(&token), Err("invalid signature, no keys found"));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let mut longer = claims();
        longer.exp = 1_000_000;
        let forged = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&longer).unwrap());
        for _ in 0..2 {
            assert_eq!(
                ours.open::<Claims>(&format!("{header}.{forged}.{signature}")),
                Err("go-jose/go-jose: error in cryptographic primitive")
            );
        }
        for broken in ["", "a", "a.b", "a.b.c", "....", &token[1..]] {
            assert!(ours.open::<Claims>(broken).is_err(), "{broken}");
            assert!(broken.len() > 9 || untrusted_issuer(broken).is_none());
        }
    }

    /// A file of a test, gone with it.
    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("windlass-token-{}-{name}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    // Made for this test with openssl: the same keys in all the forms that a file may have.
    const RSA_PRIVATE: &str = include_str!("token/testdata/rsa.pem");
    const RSA_PUBLIC: &str = include_str!("token/testdata/rsa.pub.pem");
    const RSA_OLD: &str = include_str!("token/testdata/rsa.pkcs1.pem");
    const EC_PRIVATE: &str = include_str!("token/testdata/ec.pem");
    const EC_PUBLIC: &str = include_str!("token/testdata/ec.pub.pem");
    const EC_384: &str = include_str!("token/testdata/ec384.sec1.pem");
    const CERTIFICATE: &str = include_str!("token/testdata/rsa.crt.pem");

    fn signing(name: &str, private: &str, verify: &[&str]) -> Result<Tokens, String> {
        let signs = File::new(&format!("{name}-signs"), private);
        let verify: Vec<File> =
            verify.iter().enumerate().map(|(i, text)| File::new(&format!("{name}-{i}"), text)).collect();
        let settings = Settings {
            signing_key_file: Some(signs.0.clone()),
            key_files: verify.iter().map(|file| file.0.clone()).collect(),
            more_issuers: vec!["https://before".to_owned()],
            jwks_uri: String::new(),
        };
        Tokens::new(&own_key(), "https://issuer", &settings).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_of_files_sign_and_verify() {
        let all = [RSA_PUBLIC, EC_PUBLIC, EC_384];
        for (name, private, algorithm) in [
            ("rsa", RSA_PRIVATE, "RS256"),
            ("pkcs1", RSA_OLD, "RS256"),
            ("ec", EC_PRIVATE, "ES256"),
            ("sec1", EC_384, "ES384"),
        ] {
            let signs = signing(name, private, &all).unwrap();
            let token = signs.sign(&claims());
            let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
            let header: Value = serde_json::from_slice(&header).unwrap();
            assert_eq!(header["alg"], algorithm, "{name}");
            assert_eq!(signs.open(&token), Ok(claims()), "{name}");
            // Whoever has the public half alone can tell, too.
            let other = signing(&format!("{name}-other"), EC_PRIVATE, &all).unwrap();
            assert_eq!(other.open(&token), Ok(claims()), "{name}");
            let stranger = signing(&format!("{name}-stranger"), private, &[]).unwrap();
            assert_eq!(stranger.open(&token), Ok(claims()), "{name}");
            assert_eq!(tokens().open::<Claims>(&token), Err("invalid signature, no keys found"));
            assert!(signs.accepts("https://before") && !signs.accepts("https://other"));
        }
    }

    #[test]
    fn a_file_may_hold_several_keys_and_certificates() {
        let both = format!("{RSA_PUBLIC}\n{EC_384}");
        let tokens = signing("both", EC_PRIVATE, &[&both, EC_PUBLIC, CERTIFICATE]).unwrap();
        assert_eq!(tokens.algorithms(), ["ES256", "ES384", "RS256"]);
        // The certificate is of a key that is there already.
        assert_eq!(tokens.key_set()["keys"].as_array().unwrap().len(), 3);
        // As kube-apiserver calls that key.
        assert_eq!(tokens.key_set()["keys"][0]["kid"], include_str!("token/testdata/rsa.kid").trim());
    }

    #[test]
    fn files_without_keys_are_told() {
        let why = signing("none", "nothing", &[]).err().unwrap();
        assert!(why.ends_with("data does not contain a valid RSA or ECDSA private key"), "{why}");
        let why = signing("public", RSA_PRIVATE, &["nothing"]).err().unwrap();
        assert!(why.ends_with("data does not contain any valid RSA or ECDSA public keys"), "{why}");
    }
}
