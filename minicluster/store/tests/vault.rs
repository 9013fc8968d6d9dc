//! What a vault seals: everything that reaches the disk, and nothing that readers see.

use std::{path::Path, sync::Arc};

use minicluster_store::{EngineError, Opened, Outcome, Payload, Seal, Sealed, Store, StoreError, Txn, Vault};

/// Keys under `/registry/secrets/` are turned around and marked with the number of the key that did it.
struct Mirror {
    newest: Seal,
    known: &'static [Seal],
    refuses: bool,
}

const fn mirror(newest: Seal, known: &'static [Seal]) -> Mirror {
    Mirror { newest, known, refuses: false }
}

impl Vault for Mirror {
    fn check(&self, _: &str) -> Result<(), String> {
        if self.refuses { Err("out of keys".to_owned()) } else { Ok(()) }
    }

    fn seal(&self, key: &str, plain: &[u8]) -> Result<Sealed, String> {
        if !key.starts_with("/registry/secrets/") {
            return Ok(Sealed { bytes: None, seal: 0 });
        }
        let bytes = self.newest.to_be_bytes().into_iter().chain(plain.iter().rev().copied()).collect();
        Ok(Sealed { bytes: Some(bytes), seal: self.newest })
    }

    fn open(&self, key: &str, stored: &[u8]) -> Result<Opened, String> {
        if !key.starts_with("/registry/secrets/") {
            return Ok(Opened { bytes: None, seal: 0 });
        }
        let (seal, rest) = stored.split_at(4);
        let seal = Seal::from_be_bytes(seal.try_into().map_err(|_| "too short")?);
        if !self.known.contains(&seal) {
            return Err(format!("no key {seal}"));
        }
        Ok(Opened { bytes: Some(rest.iter().rev().copied().collect()), seal })
    }

    fn is_current(&self, key: &str, seal: Seal) -> bool {
        seal == if key.starts_with("/registry/secrets/") { self.newest } else { 0 }
    }
}

async fn put(store: &Store, key: &str, value: &str) {
    let expected = store.get(key).map_or(0, |entry| entry.mod_revision);
    let txn = Txn::put(key, Payload::plain(value.as_bytes().to_vec()), expected);
    assert!(matches!(store.txn(txn).await.unwrap(), Outcome::Committed { .. }));
}

fn files_hold(dir: &Path, wanted: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().any(|file| {
        let path = file.unwrap().path();
        match path.is_dir() {
            true => files_hold(&path, wanted),
            // The engine may have put a file away meanwhile.
            false => {
                std::fs::read(&path).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|part| part == wanted))
            }
        }
    })
}

#[tokio::test]
async fn sealed_values_are_plain_in_memory_alone_and_open_with_the_keys_that_are_known() {
    let dir = std::env::temp_dir().join(format!("windlass-vault-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let open = |vault: Mirror| Store::open_sealed(&dir, Arc::new(vault));
    let (secret, plain) = ("/registry/secrets/d/a", "/registry/configmaps/d/a");
    {
        let store = open(mirror(1, &[1])).unwrap();
        put(&store, secret, "quite a secret").await;
        put(&store, plain, "nothing special").await;
        assert_eq!(&store.get(secret).unwrap().value[..], b"quite a secret");
        assert!(!store.is_stale(&store.get(secret).unwrap()));
    }
    assert!(files_hold(&dir, b"nothing special") && files_hold(&dir, b"terces a etiuq"));
    assert!(!files_hold(&dir, b"quite a secret"));
    {
        let store = open(mirror(2, &[1, 2])).unwrap();
        let read = store.get(secret).unwrap();
        assert_eq!(&read.value[..], b"quite a secret");
        assert!(store.is_stale(&read) && !store.is_stale(&store.get(plain).unwrap()));
        put(&store, secret, "quite a secret").await;
        assert!(!store.is_stale(&store.get(secret).unwrap()));
    }
    let error = open(mirror(3, &[1, 3])).unwrap_err();
    assert!(matches!(&error, EngineError::Sealed { key, why, .. } if key == secret && why == "no key 2"));
    {
        let store = open(Mirror { refuses: true, ..mirror(2, &[2]) }).unwrap();
        let txn = Txn::put(secret, Payload::plain("x"), store.get(secret).unwrap().mod_revision);
        assert!(matches!(store.txn(txn).await, Err(StoreError::Sealing(why)) if why == "out of keys"));
        assert_eq!(&store.get(secret).unwrap().value[..], b"quite a secret");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
