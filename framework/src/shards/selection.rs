//! Which part of a kind a watch asks the server for (KEP-5866).
//!
//! A server that knows `shardSelector` sends the objects of a shard alone, and says so in `shardInfo` of its lists. One
//! that does not sends everything, and the gate does the rest: what is right never depends on it.

use std::{fmt::Write, sync::Arc};

use parking_lot::Mutex;

use super::roster::Slots;
use crate::signal::Signal;

/// Slots as a selector of a watch. Cheap to clone; clones are one.
#[derive(Clone)]
pub(crate) struct Selection(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Counts the changes of what is asked for.
    version: Signal<u64>,
    /// What was listed last, by the part of the informer.
    told: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    slots: Slots,
    listed: Vec<u64>,
    /// The server sends everything, whatever is asked for.
    unserved: bool,
}

impl Selection {
    /// Nothing yet; `told` is called when a list is complete.
    pub(crate) fn new(told: impl Fn() + Send + Sync + 'static) -> Self {
        let state = State { listed: vec![0], ..State::default() };
        Self(Arc::new(Inner { state: Mutex::new(state), version: Signal::new(1), told: Box::new(told) }))
    }

    /// Unlike that of every other selection that is in use.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Says how many watches ask for it, none of which has listed anything yet.
    pub(crate) fn spans(&self, parts: usize) {
        self.0.state.lock().listed = vec![0; parts.max(1)];
    }

    /// Asks for these slots from now on.
    pub(crate) fn select(&self, slots: Slots) {
        let mut state = self.0.state.lock();
        if state.slots == slots {
            return;
        }
        state.slots = slots;
        let unserved = state.unserved;
        drop(state);
        if !unserved {
            self.0.version.update(|version| version + 1);
        }
    }

    /// Whether everything that is asked for has been listed.
    pub(crate) fn is_listed(&self) -> bool {
        let state = self.0.state.lock();
        let version = self.0.version.get();
        state.listed.iter().all(|listed| *listed == version || (state.unserved && *listed > 0))
    }

    /// What to ask for, and which version of it that is.
    pub(crate) fn wanted(&self) -> (u64, Option<String>) {
        // The version first: what is asked for may be newer, and is then asked for once more.
        let version = self.0.version.get();
        let state = self.0.state.lock();
        (version, (!state.unserved).then(|| text(state.slots)))
    }

    /// Waits until something else is asked for.
    pub(crate) async fn changed(&self, version: u64) {
        self.0.version.wait_for(|now| now != version).await;
    }

    /// A list is complete.
    pub(crate) fn listed(&self, part: usize, version: u64) {
        if let Some(listed) = self.0.state.lock().listed.get_mut(part) {
            *listed = version;
        }
        (self.0.told)();
    }

    /// The server does not know what shards are.
    pub(crate) fn is_unserved(&self) {
        self.0.state.lock().unserved = true;
    }
}

/// Ranges of the hash of the uid, as the server wants them.
fn text(slots: Slots) -> String {
    let (mut text, mut slot) = (String::new(), 0_u32);
    let has = |slot: u32| u8::try_from(slot).is_ok_and(|slot| slots.contains(slot));
    while slot < 256 {
        if !has(slot) {
            slot += 1;
            continue;
        }
        let start = slot;
        while has(slot) {
            slot += 1;
        }
        let or = if text.is_empty() { "" } else { " || " };
        // Writing to a string never fails.
        let _ = write!(
            text,
            "{or}shardRange(object.metadata.uid, '0x{start:02x}00000000000000', '0x{slot:02x}00000000000000')"
        );
    }
    if text.is_empty() {
        // A selector of nothing is none: one hash of all will do.
        return "shardRange(object.metadata.uid, '0x0000000000000000', '0x0000000000000001')".to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_ranges_of_hashes() {
        let slots = |range: &[u8]| {
            let mut slots = Slots::default();
            range.iter().for_each(|slot| slots.insert(*slot));
            text(slots)
        };
        let range = |from, to| format!("shardRange(object.metadata.uid, '{from}', '{to}')");
        assert_eq!(slots(&[0, 1]), range("0x0000000000000000", "0x0200000000000000"));
        let two = [
            range("0x1000000000000000", "0x1100000000000000"),
            range("0xfe00000000000000", "0x10000000000000000"),
        ];
        assert_eq!(slots(&[16, 254, 255]), two.join(" || "));
        assert_eq!(slots(&[]), range("0x0000000000000000", "0x0000000000000001"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_is_listed_anew_where_it_is_served() {
        let selection = Selection::new(|| {});
        selection.spans(2);
        let one = || {
            let mut slots = Slots::default();
            slots.insert(7);
            slots
        };
        selection.select(one());
        let (version, _) = selection.wanted();
        assert_eq!(version, 2);
        selection.listed(0, version);
        assert!(!selection.is_listed(), "the other namespace is not");
        selection.listed(1, version);
        assert!(selection.is_listed());
        selection.select(Slots::default());
        assert!(!selection.is_listed());
        selection.is_unserved();
        assert!(selection.is_listed(), "everything is there already");
        assert_eq!(selection.wanted().1, None);
    }
}
