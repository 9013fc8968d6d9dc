//! Randomness that replays.
//!
//! Every draw comes from a [`Source`] that somebody passed in. A simulation seeds one source and forks a stream for
//! each part by name, so that one part drawing more often does not shift what the others see.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

/// Letters and digits of generated names: no vowels and nothing that reads like another, as upstream's names.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A seeded stream of random numbers; clones share the stream.
#[derive(Clone, Debug)]
pub struct Source {
    seed: u64,
    rng: Arc<Mutex<fastrand::Rng>>,
}

impl Source {
    /// A stream that repeats for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { seed, rng: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))) }
    }

    /// A stream nobody can predict; for processes that are not simulations.
    #[must_use]
    pub fn from_entropy() -> Self {
        Self::seeded(fastrand::Rng::new().u64(..))
    }

    /// The seed that replays this stream.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// An independent stream that depends on the seed and the label alone.
    #[must_use]
    pub fn fork(&self, label: &str) -> Self {
        Self::seeded(crate::key::fnv(self.seed ^ crate::key::FNV_OFFSET, label.as_bytes()))
    }

    /// A uniform 64-bit number.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        self.rng.lock().u64(..)
    }

    /// A uniform number below `n`; zero when `n` is zero.
    #[must_use]
    pub fn below(&self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.rng.lock().u64(..n) }
    }

    /// A uniform number in `[0, 1)`.
    #[must_use]
    pub fn unit(&self) -> f64 {
        self.rng.lock().f64()
    }

    /// A duration between `base` and `base * (1 + factor)`.
    #[must_use]
    pub fn jitter(&self, base: Duration, factor: f64) -> Duration {
        base.mul_f64(1.0 + factor * self.unit())
    }

    /// A name suffix of `len` characters, in the alphabet upstream uses for generated names.
    #[must_use]
    pub fn suffix(&self, len: usize) -> String {
        let mut rng = self.rng.lock();
        (0..len).map(|_| char::from(NAME_ALPHABET[rng.usize(..NAME_ALPHABET.len())])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_and_forks_do_not_disturb_each_other() {
        let (a, b) = (Source::seeded(7), Source::seeded(7));
        let fork = a.fork("watch");
        let _ = (fork.next_u64(), fork.next_u64());
        assert_eq!(a.next_u64(), b.next_u64());
        assert_eq!(b.fork("watch").suffix(5), Source::seeded(7).fork("watch").suffix(5));
        assert_ne!(b.fork("watch").next_u64(), b.fork("queue").next_u64());
    }

    #[test]
    fn jitter_stays_in_its_range() {
        let source = Source::seeded(1);
        for _ in 0..1000 {
            let d = source.jitter(Duration::from_secs(1), 0.5);
            assert!(d >= Duration::from_secs(1) && d < Duration::from_millis(1500), "{d:?}");
        }
    }
}
