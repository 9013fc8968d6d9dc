//! Numbers for keys, so that every stored entry can say in four bytes what sealed it.

use minicluster_store::Seal;
use parking_lot::Mutex;

/// Keys in the order in which they were first met; the first is number 1.
#[derive(Default)]
pub(crate) struct Seals(Mutex<Vec<String>>);

impl Seals {
    /// The number of a key, by prefix and name.
    pub(crate) fn number(&self, name: &str) -> Seal {
        let mut names = self.0.lock();
        let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        Seal::try_from(at + 1).expect("there are few keys")
    }
}
