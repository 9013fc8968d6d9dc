//! Keys of service account tokens in PEM files: RSA and ECDSA, private or public, as many as a file holds.
//!
//! Source: `k8s.io/client-go/util/keyutil`, `pkg/serviceaccount/jwt.go` for which algorithm a key signs with and what it
//! is called. P-521 is not supported by the cryptography here.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest,
    rand::SystemRandom,
    rsa,
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, KeyPair,
    },
};
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde_json::{Value, json};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, public_key::PublicKey as Parsed,
    x509::SubjectPublicKeyInfo,
};

/// `SEQUENCE { rsaEncryption, NULL }`
const RSA: [u8; 15] = [48, 13, 6, 9, 42, 134, 72, 134, 247, 13, 1, 1, 1, 5, 0];
/// `SEQUENCE { ecPublicKey, prime256v1 }`
const P256: [u8; 21] = [48, 19, 6, 7, 42, 134, 72, 206, 61, 2, 1, 6, 8, 42, 134, 72, 206, 61, 3, 1, 7];
/// `SEQUENCE { ecPublicKey, secp384r1 }`
const P384: [u8; 18] = [48, 16, 6, 7, 42, 134, 72, 206, 61, 2, 1, 6, 5, 43, 129, 4, 0, 34];

/// A key that verifies, as a JSON Web Key.
pub(super) type PublicKey = Value;

/// A key that signs.
pub(super) enum Signer {
    Ec(EcdsaKeyPair, &'static str),
    Rsa(rsa::KeyPair),
}

impl Signer {
    /// An ECDSA P-256 key in PKCS#8.
    pub(super) fn of_pkcs8(der: &[u8]) -> Result<Self, String> {
        let random = SystemRandom::new();
        for (algorithm, name) in CURVES {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, der, &random) {
                return Ok(Self::Ec(pair, name));
            }
        }
        rsa::KeyPair::from_pkcs8(der).map(Self::Rsa).map_err(|e| e.to_string())
    }

    /// The first private key of a file.
    pub(super) fn read(pem: &[u8]) -> Result<Self, String> {
        sections(pem)
            .find_map(|(kind, der)| private(kind, &der))
            .unwrap_or_else(|| Err("data does not contain a valid RSA or ECDSA private key".to_owned()))
    }

    /// The algorithm of its signatures.
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Ec(_, name) => name,
            Self::Rsa(_) => "RS256",
        }
    }

    /// The key that verifies what this one signs.
    pub(super) fn public(&self) -> PublicKey {
        match self {
            Self::Ec(pair, "ES384") => of_point(&P384, pair.public_key().as_ref()),
            Self::Ec(pair, _) => of_point(&P256, pair.public_key().as_ref()),
            Self::Rsa(pair) => {
                let der = info(&RSA, pair.public().as_ref());
                let read = SubjectPublicKeyInfo::from_der(&der).ok();
                read.and_then(|(_, info)| of_info(&info)).expect("a public key is one")
            }
        }
    }

    /// Signs a message.
    pub(super) fn sign(&self, message: &[u8], random: &SystemRandom) -> Vec<u8> {
        match self {
            Self::Ec(pair, _) => pair.sign(random, message).expect("the key signs").as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut out = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, random, message, &mut out).expect("the key signs");
                out
            }
        }
    }
}

const CURVES: [(&EcdsaSigningAlgorithm, &str); 2] =
    [(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256"), (&ECDSA_P384_SHA384_FIXED_SIGNING, "ES384")];

/// All keys of a file, the public ones of private keys among them.
///
/// # Errors
/// When there is none.
pub(super) fn public_keys(pem: &[u8]) -> Result<Vec<PublicKey>, String> {
    let keys: Vec<PublicKey> = sections(pem).filter_map(|(kind, der)| public(kind, &der)).collect();
    if keys.is_empty() {
        return Err("data does not contain any valid RSA or ECDSA public keys".to_owned());
    }
    Ok(keys)
}

fn sections(pem: &[u8]) -> impl Iterator<Item = (SectionKind, Vec<u8>)> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).flatten()
}

fn private(kind: SectionKind, der: &[u8]) -> Option<Result<Signer, String>> {
    match kind {
        SectionKind::PrivateKey => Some(Signer::of_pkcs8(der)),
        SectionKind::RsaPrivateKey => {
            Some(rsa::KeyPair::from_der(der).map(Signer::Rsa).map_err(|e| e.to_string()))
        }
        SectionKind::EcPrivateKey => Some(of_sec1(der).ok_or_else(|| "unsupported ECDSA key".to_owned())),
        _ => None,
    }
}

fn public(kind: SectionKind, der: &[u8]) -> Option<PublicKey> {
    match kind {
        SectionKind::PublicKey => of_info(&SubjectPublicKeyInfo::from_der(der).ok()?.1),
        SectionKind::Certificate => of_info(X509Certificate::from_der(der).ok()?.1.public_key()),
        _ => private(kind, der)?.ok().map(|signer| signer.public()),
    }
}

fn of_info(info: &SubjectPublicKeyInfo<'_>) -> Option<PublicKey> {
    match info.parsed().ok()? {
        Parsed::RSA(key) => Some(of_numbers(bare(key.modulus), bare(key.exponent), info.raw)),
        Parsed::EC(point) if point.data().len() == 65 => Some(of_point(&P256, point.data())),
        Parsed::EC(point) if point.data().len() == 97 => Some(of_point(&P384, point.data())),
        _ => None,
    }
}

fn bare(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// What a key is called: the hash of its public half.
fn id(info: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, info))
}

fn of_numbers(n: &[u8], e: &[u8], info: &[u8]) -> PublicKey {
    json!({
        "use": "sig", "kty": "RSA", "kid": id(info), "alg": "RS256",
        "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e),
    })
}

/// An uncompressed point: 0x04, then x and y.
fn of_point(curve: &[u8], point: &[u8]) -> PublicKey {
    let (x, y) = point[1..].split_at(point.len() / 2);
    let (name, algorithm) = if point.len() == 97 { ("P-384", "ES384") } else { ("P-256", "ES256") };
    json!({
        "use": "sig", "kty": "EC", "kid": id(&info(curve, point)), "crv": name, "alg": algorithm,
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    })
}

/// The DER of a `SubjectPublicKeyInfo`.
fn info(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let mut bits = vec![0];
    bits.extend_from_slice(key);
    der(48, &[algorithm, &der(3, &bits)].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    let bytes = length.to_be_bytes();
    let significant = bare(&bytes);
    #[expect(clippy::cast_possible_truncation, reason = "at most eight bytes, or less than 128")]
    match length {
        0..128 => out.push(length as u8),
        _ => {
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

/// `SEQUENCE { 1, OCTET STRING private, [0] curve, [1] BIT STRING public }` of RFC 5915.
fn of_sec1(bytes: &[u8]) -> Option<Signer> {
    let (48, content, _) = element(bytes)? else { return None };
    let (2, _, rest) = element(content)? else { return None };
    let (4, private, mut rest) = element(rest)? else { return None };
    let mut public = None;
    while let Some((tag, content, after)) = element(rest) {
        if tag == 0xa1 {
            let (3, bits, _) = element(content)? else { return None };
            public = bits.split_first().map(|(_, point)| point);
        }
        rest = after;
    }
    let random = SystemRandom::new();
    CURVES.into_iter().find_map(|(algorithm, name)| {
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public?, &random);
        pair.ok().map(|pair| Signer::Ec(pair, name))
    })
}

/// A tag, its content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*length) {
        length @ 0..128 => (length, rest),
        many => {
            let (length, rest) = rest.split_at_checked(many - 128).filter(|(length, _)| length.len() <= 4)?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((*tag, content, after))
}
