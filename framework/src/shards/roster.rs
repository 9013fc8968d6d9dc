//! Which member has which slot, and who is a member: pure, and the same on every replica.
//!
//! The space of keys is cut into 256 slots. A [`Roster`] is a numbered list of members; the owner of a slot is the member
//! with the highest weight for it (rendezvous hashing), so that a member that comes or goes moves its own slots and no
//! others. [`judge`] finds what the next roster should be from what was seen of the members' Leases.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::key::{FNV_OFFSET, fnv};

/// Slots that keys fall into.
pub(crate) const SLOTS: usize = 256;
/// Members of a roster; more wait outside until one leaves.
pub(crate) const SEATS_MAX: usize = 128;

/// A set of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots([u64; SLOTS / 64]);

impl Slots {
    pub(crate) fn contains(self, slot: u8) -> bool {
        self.0[usize::from(slot / 64)] & (1 << (slot % 64)) != 0
    }

    pub(crate) fn insert(&mut self, slot: u8) {
        self.0[usize::from(slot / 64)] |= 1 << (slot % 64);
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }
}

/// The slot of a text that may differ from others in its last letter alone.
pub(crate) fn slot(text: &str) -> u8 {
    top(mix(fnv(FNV_OFFSET, text.as_bytes())))
}

/// The slot of a uid: the highest byte of its FNV-1a hash.
pub(crate) fn slot_of_uid(uid: &str) -> u8 {
    top(fnv(FNV_OFFSET, uid.as_bytes()))
}

fn top(hash: u64) -> u8 {
    u8::try_from(hash >> 56).unwrap_or(u8::MAX)
}

/// Spreads every bit over all others.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A member, for as long as it has never let its Lease run out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Seat {
    /// The name of its Lease.
    pub(crate) name: String,
    /// Unlike that of every other time in which the Lease was taken.
    pub(crate) life: String,
}

/// Who shares the slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Roster {
    pub(crate) generation: u64,
    /// Ordered.
    pub(crate) seats: Vec<Seat>,
}

impl Roster {
    pub(crate) fn has(&self, seat: &Seat) -> bool {
        self.seats.binary_search(seat).is_ok()
    }

    /// The slots of a member; none if it has no seat.
    pub(crate) fn slots(&self, seat: &Seat) -> Slots {
        let mut slots = Slots::default();
        if !self.has(seat) {
            return slots;
        }
        let weights: Vec<u64> = self.seats.iter().map(|seat| fnv(FNV_OFFSET, seat.name.as_bytes())).collect();
        for slot in 0..=u8::MAX {
            let weight = |at: &usize| mix(weights[*at] ^ mix(u64::from(slot) + 1));
            let owner = (0..self.seats.len()).max_by_key(weight);
            if owner.is_some_and(|at| self.seats[at] == *seat) {
                slots.insert(slot);
            }
        }
        slots
    }
}

/// What was seen of a member's Lease.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    pub(crate) life: String,
    /// It has let go of everything and gives its seat back.
    pub(crate) left: bool,
    /// The generation for which it has let go of what it does not own.
    pub(crate) seen: u64,
    /// How long it is trusted after a change.
    pub(crate) trusted: Duration,
    pub(crate) revision: String,
    /// When that was seen, by our own clock.
    pub(crate) since: Instant,
}

/// What follows from what was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Who should have a seat.
    pub(crate) seats: Vec<Seat>,
    /// Leases that ran out as far as was seen, of members that have a seat: to be asked for before they lose it.
    pub(crate) silent: Vec<String>,
    /// Leases that nobody needs any more.
    pub(crate) dead: Vec<String>,
    /// Who proposes the next roster.
    pub(crate) speaker: Option<String>,
    /// When a look leads to something else if nothing changes.
    pub(crate) next: Option<Instant>,
}

/// Judges members. `missing` says since when Leases are gone of members that have a seat; those are trusted for `trusted`.
pub(crate) fn judge(
    roster: &Roster,
    sights: &BTreeMap<String, Sight>,
    missing: &BTreeMap<String, Instant>,
    trusted: Duration,
    now: Instant,
) -> Verdict {
    let (mut verdict, mut seats) = (Verdict::default(), BTreeSet::new());
    let mut newcomers = Vec::new();
    let sooner = |next: &mut Option<Instant>, at| *next = Some(next.map_or(at, |next| next.min(at)));
    for (name, sight) in sights {
        let seat = Seat { name: name.clone(), life: sight.life.clone() };
        let ends = sight.since + sight.trusted;
        if !sight.left && now < ends {
            sooner(&mut verdict.next, ends);
            verdict.speaker.get_or_insert_with(|| name.clone());
            if roster.has(&seat) {
                seats.insert(seat);
            } else {
                newcomers.push(seat);
            }
        } else if !roster.has(&seat) {
            verdict.dead.push(name.clone());
        } else if !sight.left {
            verdict.silent.push(name.clone());
        }
    }
    for seat in &roster.seats {
        let ends = missing.get(&seat.name).map_or(now + trusted, |since| *since + trusted);
        if !sights.contains_key(&seat.name) && now < ends {
            sooner(&mut verdict.next, ends);
            seats.insert(seat.clone());
        }
    }
    let room = SEATS_MAX.saturating_sub(seats.len());
    seats.extend(newcomers.into_iter().take(room));
    verdict.seats = seats.into_iter().collect();
    verdict
}

/// Whether every member has let go of what the roster does not give it.
pub(crate) fn is_settled(roster: &Roster, sights: &BTreeMap<String, Sight>) -> bool {
    let agrees = |seat: &Seat| {
        sights.get(&seat.name).is_some_and(|sight| {
            // A later number does not count: it may be for a roster that gives it what this one took.
            sight.life == seat.life && sight.seen == roster.generation
        })
    };
    roster.seats.iter().all(agrees)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(name: &str) -> Seat {
        Seat { name: name.to_owned(), life: "1".to_owned() }
    }

    fn roster(names: &[&str]) -> Roster {
        Roster { generation: 7, seats: names.iter().copied().map(seat).collect() }
    }

    fn count(slots: Slots) -> usize {
        (0..=u8::MAX).filter(|slot| slots.contains(*slot)).count()
    }

    #[test]
    fn every_slot_has_one_owner_and_moves_only_when_it_has_to() {
        let (three, two) = (roster(&["a", "b", "c"]), roster(&["a", "b"]));
        let of = |roster: &Roster, name| roster.slots(&seat(name));
        let counts: Vec<usize> = ["a", "b", "c"].map(|name| count(of(&three, name))).to_vec();
        assert_eq!(counts.iter().sum::<usize>(), SLOTS);
        assert!(counts.iter().all(|count| (60..=110).contains(count)), "{counts:?}");
        assert_eq!(of(&three, "a").and(of(&three, "b")), Slots::default());
        for name in ["a", "b"] {
            let lost = of(&three, name).without(of(&two, name));
            assert_eq!(lost, Slots::default(), "{name} lost a slot to nobody's gain");
        }
        assert_eq!(of(&three, "d"), Slots::default());
    }

    #[test]
    fn names_that_differ_in_their_last_letter_spread() {
        let slots: BTreeSet<u8> = (0..64).map(|n| slot(&format!("default/web-{n}"))).collect();
        assert!(slots.len() > 45, "{}", slots.len());
    }

    fn sight(now: Instant, age: u64, left: bool) -> Sight {
        Sight {
            life: "1".to_owned(),
            left,
            seen: 7,
            trusted: Duration::from_secs(15),
            revision: String::new(),
            since: now - Duration::from_secs(age),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_seat_is_lost_by_leaving_or_by_silence() {
        tokio::time::advance(Duration::from_mins(1)).await;
        let (now, trusted) = (Instant::now(), Duration::from_secs(15));
        let sights: BTreeMap<String, Sight> = [
            ("fresh", sight(now, 14, false)),
            ("gone", sight(now, 1, true)),
            ("newcomer", sight(now, 0, false)),
            ("silent", sight(now, 15, false)),
            ("stranger", sight(now, 20, false)),
        ]
        .map(|(name, sight)| (name.to_owned(), sight))
        .into();
        let missing = [("lost".to_owned(), now - Duration::from_secs(5))].into();
        let now_seated = roster(&["fresh", "gone", "lost", "silent"]);
        let verdict = judge(&now_seated, &sights, &missing, trusted, now);
        let names: Vec<&str> = verdict.seats.iter().map(|seat| seat.name.as_str()).collect();
        assert_eq!(names, ["fresh", "lost", "newcomer"]);
        assert_eq!((verdict.silent, verdict.dead), (vec!["silent".into()], vec!["stranger".into()]));
        assert_eq!(verdict.speaker.as_deref(), Some("fresh"));
        assert_eq!(verdict.next, Some(now + Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_settled_when_everybody_saw_this_very_roster() {
        tokio::time::advance(Duration::from_mins(1)).await;
        let now = Instant::now();
        let seen = |generation| Sight { seen: generation, ..sight(now, 0, false) };
        let sights = |a, b| [("a".to_owned(), seen(a)), ("b".to_owned(), seen(b))].into();
        let both = roster(&["a", "b"]);
        assert!(is_settled(&both, &sights(7, 7)));
        assert!(!is_settled(&both, &sights(7, 6)));
        assert!(!is_settled(&both, &sights(7, 8)), "that is another roster");
        assert!(!is_settled(&roster(&["a", "b", "c"]), &sights(7, 7)));
    }
}
