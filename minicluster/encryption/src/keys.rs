//! Ciphers with keys that stand in the configuration: aescbc, aesgcm and secretbox.
//!
//! The formats are upstream's, byte by byte: a random nonce or initialization vector first, then what it sealed.
//! Sources: `k8s.io/apiserver/pkg/storage/value/encrypt/aes`, `…/secretbox`.

use aes::{
    Aes128, Aes192, Aes256,
    cipher::{
        BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, BlockSizeUser,
        InnerIvInit, KeyIvInit, StreamCipher,
        block_padding::{NoPadding, Pkcs7},
        consts::{U12, U16},
    },
};
use aes_gcm::{
    AesGcm, KeyInit,
    aead::{Aead, Payload},
};
use poly1305::Poly1305;
use ring::rand::{SecureRandom, SystemRandom};
use salsa20::XSalsa20;
use serde::de::IgnoredAny;

const BLOCK: usize = 16;
const GCM_NONCE: usize = 12;
const BOX_NONCE: usize = 24;
const BOX_TAG: usize = 16;
/// Secretbox takes the key of its checksum from the first bytes of the key stream.
const BOX_KEY: usize = 32;

const TOO_SHORT: &str = "the stored data was shorter than the required size";

/// A cipher with its key.
pub(crate) enum Cipher {
    Cbc(Box<Aes>),
    Gcm(Gcm),
    Secretbox([u8; 32]),
}

/// AES with a key of any length.
#[derive(Clone)]
pub(crate) enum Aes {
    Small(Aes128),
    Middle(Aes192),
    Large(Aes256),
}

/// AES-GCM with a key of any length.
pub(crate) enum Gcm {
    Small(Box<AesGcm<Aes128, U12>>),
    Middle(Box<AesGcm<Aes192, U12>>),
    Large(Box<AesGcm<Aes256, U12>>),
}

/// Fills bytes from the system's source: nonces must never repeat, not even in a replayed simulation, which has no disk.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), String> {
    SystemRandom::new().fill(bytes).map_err(|_| "unable to read sufficient random bytes".to_owned())
}

impl Cipher {
    /// The kinds that the configuration knows, by the length of the key; `None` for a length that no cipher has.
    pub(crate) fn new(kind: &str, key: &[u8]) -> Option<Self> {
        match kind {
            "aescbc" => Some(Self::Cbc(Box::new(match key.len() {
                16 => Aes::Small(Aes128::new_from_slice(key).ok()?),
                24 => Aes::Middle(Aes192::new_from_slice(key).ok()?),
                _ => Aes::Large(Aes256::new_from_slice(key).ok()?),
            }))),
            "aesgcm" => Gcm::new(key).map(Self::Gcm),
            "secretbox" => key.try_into().ok().map(Self::Secretbox),
            _ => None,
        }
    }

    /// Seals; `context` is where the value is stored, which some ciphers tie it to.
    pub(crate) fn seal(&self, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(gcm) => gcm.seal(plain, context),
            Self::Secretbox(key) => seal_box(key, plain),
            Self::Cbc(aes) => match &**aes {
                Aes::Small(aes) => seal_cbc(aes, plain),
                Aes::Middle(aes) => seal_cbc(aes, plain),
                Aes::Large(aes) => seal_cbc(aes, plain),
            },
        }
    }

    /// Opens what [`Cipher::seal`] sealed.
    pub(crate) fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(gcm) => gcm.open(sealed, context),
            Self::Secretbox(key) => open_box(key, sealed),
            Self::Cbc(aes) => match &**aes {
                Aes::Small(aes) => open_cbc(aes, sealed),
                Aes::Middle(aes) => open_cbc(aes, sealed),
                Aes::Large(aes) => open_cbc(aes, sealed),
            },
        }
    }
}

fn seal_cbc<C>(aes: &C, plain: &[u8]) -> Result<Vec<u8>, String>
where
    C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + Clone,
{
    let mut out = vec![0; BLOCK];
    random(&mut out)?;
    let mode = cbc::Encryptor::inner_iv_slice_init(aes.clone(), &out).map_err(|e| e.to_string())?;
    out.extend(mode.encrypt_padded_vec::<Pkcs7>(plain));
    Ok(out)
}

fn open_cbc<C>(aes: &C, sealed: &[u8]) -> Result<Vec<u8>, String>
where
    C: BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Clone,
{
    let (iv, data) = sealed.split_at_checked(BLOCK).ok_or(TOO_SHORT)?;
    if !data.len().is_multiple_of(BLOCK) {
        return Err("the stored data is not a multiple of the block size".to_owned());
    }
    let mode = cbc::Decryptor::inner_iv_slice_init(aes.clone(), iv).map_err(|e| e.to_string())?;
    let mut plain = mode.decrypt_padded_vec::<NoPadding>(data).map_err(|e| e.to_string())?;
    let padding = usize::from(plain.last().copied().unwrap_or(0));
    if padding == 0 || padding > plain.len() {
        return Err("invalid PKCS7 data (empty or not padded)".to_owned());
    }
    let size = plain.len() - padding;
    if plain[size..].iter().any(|byte| usize::from(*byte) != padding) {
        return Err("invalid padding on input".to_owned());
    }
    plain.truncate(size);
    // This cipher has no checksum: one wrong key in 256 leaves a padding that looks right. Objects are JSON.
    if serde_json::from_slice::<IgnoredAny>(&plain).is_err() {
        return Err("invalid padding on input".to_owned());
    }
    Ok(plain)
}

impl Gcm {
    pub(crate) fn new(key: &[u8]) -> Option<Self> {
        match key.len() {
            16 => Some(Self::Small(Box::new(AesGcm::new_from_slice(key).ok()?))),
            24 => Some(Self::Middle(Box::new(AesGcm::new_from_slice(key).ok()?))),
            _ => Some(Self::Large(Box::new(AesGcm::new_from_slice(key).ok()?))),
        }
    }

    pub(crate) fn seal(&self, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        let mut nonce = [0; GCM_NONCE];
        random(&mut nonce)?;
        let payload = Payload { msg: plain, aad: context };
        let sealed = match self {
            Self::Small(gcm) => gcm.encrypt(&nonce.into(), payload),
            Self::Middle(gcm) => gcm.encrypt(&nonce.into(), payload),
            Self::Large(gcm) => gcm.encrypt(&nonce.into(), payload),
        };
        let mut out = nonce.to_vec();
        out.extend(sealed.map_err(|_| "the value is too large for AES-GCM")?);
        Ok(out)
    }

    pub(crate) fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        let (nonce, data) = sealed.split_first_chunk::<GCM_NONCE>().ok_or(TOO_SHORT)?;
        let payload = Payload { msg: data, aad: context };
        let plain = match self {
            Self::Small(gcm) => gcm.decrypt(&(*nonce).into(), payload),
            Self::Middle(gcm) => gcm.decrypt(&(*nonce).into(), payload),
            Self::Large(gcm) => gcm.decrypt(&(*nonce).into(), payload),
        };
        plain.map_err(|_| "cipher: message authentication failed".to_owned())
    }
}

/// NaCl's `secretbox`: XSalsa20 with Poly1305 over what it encrypted.
fn seal_box(key: &[u8; 32], plain: &[u8]) -> Result<Vec<u8>, String> {
    let mut nonce = [0; BOX_NONCE];
    random(&mut nonce)?;
    Ok(seal_box_with(key, nonce, plain))
}

fn seal_box_with(key: &[u8; 32], nonce: [u8; BOX_NONCE], plain: &[u8]) -> Vec<u8> {
    let (mut stream, checksum) = box_stream(key, nonce);
    let mut data = plain.to_vec();
    stream.apply_keystream(&mut data);
    let tag = checksum.compute_unpadded(&data);
    [&nonce[..], tag.as_slice(), &data].concat()
}

fn open_box(key: &[u8; 32], sealed: &[u8]) -> Result<Vec<u8>, String> {
    let (nonce, rest) = sealed.split_first_chunk::<BOX_NONCE>().ok_or(TOO_SHORT)?;
    let (tag, data) = rest.split_at_checked(BOX_TAG).ok_or(TOO_SHORT)?;
    let (mut stream, checksum) = box_stream(key, *nonce);
    let differs = checksum.compute_unpadded(data).iter().zip(tag).fold(0, |all, (a, b)| all | (a ^ b));
    if differs != 0 {
        return Err("output array was not large enough for encryption".to_owned());
    }
    let mut plain = data.to_vec();
    stream.apply_keystream(&mut plain);
    Ok(plain)
}

fn box_stream(key: &[u8; 32], nonce: [u8; BOX_NONCE]) -> (XSalsa20, Poly1305) {
    let mut stream = XSalsa20::new(&(*key).into(), &nonce.into());
    let mut first = [0; BOX_KEY];
    stream.apply_keystream(&mut first);
    (stream, Poly1305::new(&first.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_at_the_same_place() {
        let plain = br#"{"kind":"Secret","data":{"a":"b"}}"#;
        for (kind, sizes) in
            [("aescbc", &[16, 24, 32][..]), ("aesgcm", &[16, 24, 32][..]), ("secretbox", &[32][..])]
        {
            for size in sizes {
                let cipher = Cipher::new(kind, &vec![7; *size]).unwrap();
                let sealed = cipher.seal(plain, b"/registry/secrets/d/a").unwrap();
                assert_ne!(
                    sealed,
                    cipher.seal(plain, b"/registry/secrets/d/a").unwrap(),
                    "{kind}: nonces repeat"
                );
                assert_eq!(cipher.open(&sealed, b"/registry/secrets/d/a").unwrap(), plain, "{kind} {size}");
                let moved = cipher.open(&sealed, b"/registry/secrets/d/b");
                assert_eq!(moved.is_err(), kind == "aesgcm", "{kind}");
                let other = Cipher::new(kind, &vec![8; *size]).unwrap();
                assert!(other.open(&sealed, b"/registry/secrets/d/a").is_err(), "{kind} {size}");
                for cut in [0, 5, BLOCK, sealed.len() - 1] {
                    assert!(
                        cipher.open(&sealed[..cut], b"/registry/secrets/d/a").is_err(),
                        "{kind} cut at {cut}"
                    );
                }
            }
        }
        assert!(Cipher::new("aescbc", &[0; 20]).is_none() && Cipher::new("secretbox", &[0; 16]).is_none());
    }

    /// `openssl enc -aes-256-cbc` of the same key, vector and text.
    #[test]
    fn aescbc_is_what_openssl_makes() {
        let key = bytes("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
        let sealed = bytes(CBC);
        let cipher = Cipher::new("aescbc", &key).unwrap();
        assert_eq!(cipher.open(&sealed, b"").unwrap(), br#"{"a":"0123456789"}"#);
    }

    const CBC: &str =
        "aabbccddeeff00112233445566778899897d1d170e1d429af5ecaee0e47922bb8206701c702513f56af9a3c53ad4bec4";

    #[test]
    fn aesgcm_is_what_ring_makes() {
        use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
        let key = [9; 32];
        let ours = Cipher::new("aesgcm", &key).unwrap();
        let theirs = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
        let mut data = b"{}".to_vec();
        let nonce = [3; GCM_NONCE];
        theirs
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(b"/k"), &mut data)
            .unwrap();
        assert_eq!(ours.open(&[&nonce[..], &data].concat(), b"/k").unwrap(), b"{}");
    }

    /// The vector of NaCl's own `tests/secretbox.c`.
    #[test]
    fn secretbox_is_nacls() {
        let key = bytes("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = bytes("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let plain = bytes(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01\
             233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd\
             4924ca1c60902e52f0a089bc76897040e082f937763848645e0705",
        );
        let key: [u8; 32] = key.try_into().unwrap();
        let sealed = seal_box_with(&key, nonce.clone().try_into().unwrap(), &plain);
        assert_eq!(&sealed[..BOX_NONCE], nonce);
        assert_eq!(
            &sealed[BOX_NONCE..BOX_NONCE + 32],
            bytes("f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce")
        );
        assert_eq!(open_box(&key, &sealed).unwrap(), plain);
    }
}
