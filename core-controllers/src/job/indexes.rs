//! Sets of completion indexes as a Job's status writes them: `0,2-5,7`. Pure.

use std::{collections::BTreeSet, fmt};

/// Indexes as intervals, in order and apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads what is below `completions`; what cannot be read is left out.
    pub(super) fn parse(text: &str, completions: i32) -> Self {
        let interval = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse().ok()?, last.parse::<i32>().ok()?);
            Some((first, last.min(completions - 1)))
        };
        text.split(',').filter_map(interval).filter(|(first, last)| first <= last).collect::<Self>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub(super) fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(super) fn has(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// Both together.
    pub(super) fn union(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).copied().collect()
    }

    /// These and some single ones.
    pub(super) fn with(&self, more: &BTreeSet<i32>) -> Self {
        self.0.iter().copied().chain(more.iter().map(|index| (*index, *index))).collect()
    }

    /// How many are in both.
    pub(super) fn shared(&self, other: &Self) -> i32 {
        let overlap = |a: &(i32, i32), b: &(i32, i32)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        let (mut i, mut j, mut count) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            count += overlap(a, b);
            if a.1 <= b.1 {
                i += 1;
            } else {
                j += 1;
            }
        }
        count
    }

    /// The first indexes below `completions` that are not among these, at most `count`.
    pub(super) fn first_missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let ends = self.0.iter().copied().chain([(completions, completions)]);
        let mut from = 0;
        let gaps = ends.flat_map(|(first, last)| {
            let gap = from..first.min(completions);
            from = last + 1;
            gap
        });
        gaps.take(count).collect()
    }
}

impl FromIterator<(i32, i32)> for Indexes {
    fn from_iter<T: IntoIterator<Item = (i32, i32)>>(intervals: T) -> Self {
        let mut intervals: Vec<(i32, i32)> = intervals.into_iter().collect();
        intervals.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::with_capacity(intervals.len());
        for (first, last) in intervals {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_joined_and_written() {
        for (text, written) in [
            ("", ""),
            ("0,1,2", "0-2"),
            ("0,1", "0,1"),
            ("0-3,5,7-8", "0-3,5,7,8"),
            ("1,x,3-y,5-", "1"),
            ("8-20", "8,9"),
            ("10", ""),
            ("5-3", ""),
        ] {
            assert_eq!(Indexes::parse(text, 10).to_string(), written, "{text}");
        }
        let some = Indexes::parse("0-3,7", 10);
        assert_eq!(
            (some.total(), some.has(3), some.has(4), some.has(7), some.has(8)),
            (5, true, false, true, false)
        );
        assert_eq!(some.with(&BTreeSet::from([4, 9])).to_string(), "0-4,7,9");
        assert_eq!(some.union(&Indexes::parse("2-6", 10)).to_string(), "0-7");
        assert_eq!(some.shared(&Indexes::parse("2-8", 10)), 3);
        assert_eq!(some.first_missing(3, 10), [4, 5, 6]);
        assert_eq!(some.first_missing(9, 10), [4, 5, 6, 8, 9]);
        assert_eq!(Indexes::default().first_missing(2, 10), [0, 1]);
        assert_eq!(Indexes::parse("0-9", 10).first_missing(2, 5), [] as [i32; 0]);
    }
}
