//! Values sealed on their way to the disk, and opened on the way back.
//!
//! The boundary of the engine is the place: readers, watchers and the store's own map see plain bytes, so that reads
//! and lists cost nothing, and everything that reaches a file has gone through here. A store in memory has no disk and
//! seals nothing.

use std::fmt;

/// Which key of a [`Vault`] sealed a value; 0 means that it lies there as it is. Vaults number their keys themselves.
pub type Seal = u32;

/// A value as it lies on the disk.
#[derive(Debug)]
pub struct Sealed {
    /// The bytes; `None`: the plain ones.
    pub bytes: Option<Vec<u8>>,
    /// What sealed them.
    pub seal: Seal,
}

/// A value read from the disk.
#[derive(Debug)]
pub struct Opened {
    /// The plain bytes; `None`: those that lie there.
    pub bytes: Option<Vec<u8>>,
    /// What had sealed them.
    pub seal: Seal,
}

/// Seals and opens values. Called from the thread that writes, except for [`Vault::check`].
pub trait Vault: Send + Sync + 'static {
    /// Refuses a write under `key` before it is begun: nothing could seal it at present.
    ///
    /// # Errors
    /// Why.
    fn check(&self, key: &str) -> Result<(), String>;

    /// Seals a value.
    ///
    /// # Errors
    /// Why it cannot; nothing of the batch that it belongs to is kept then.
    fn seal(&self, key: &str, plain: &[u8]) -> Result<Sealed, String>;

    /// Opens what lies on the disk.
    ///
    /// # Errors
    /// Why it cannot: no key fits, as a rule.
    fn open(&self, key: &str, stored: &[u8]) -> Result<Opened, String>;

    /// False when a value under `key` would be sealed otherwise today.
    fn is_current(&self, key: &str, seal: Seal) -> bool;
}

impl fmt::Debug for dyn Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}
