//! Unified diffs of lines, as Python's and Go's `difflib` make them (Ratcliff and Obershelp's matching, with lines that
//! stand too often left aside), three lines around a change.

use std::{collections::BTreeMap, fmt::Write as _, ops::Range};

/// Lines shown before and after a change.
const CONTEXT: usize = 3;
/// From so many lines on, lines that are more than one in a hundred are no anchors.
const MANY_LINES: usize = 200;

/// A run of equal lines: where it begins on both sides, and how long it is.
#[derive(Clone, Copy)]
struct Match {
    a: usize,
    b: usize,
    len: usize,
}

/// What is done with lines of the one side to come to those of the other.
#[derive(Clone)]
struct Step {
    equal: bool,
    a: Range<usize>,
    b: Range<usize>,
}

/// The diff; empty when both are the same.
pub(super) fn diff(old: &str, new: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.split('\n').collect(), new.split('\n').collect());
    let mut out = String::new();
    for group in groups(&steps(&a, &b)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let (of_a, of_b) = (first.a.start..last.a.end, first.b.start..last.b.end);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "@@ -{} +{} @@", place(&of_a), place(&of_b));
        for step in &group {
            let mut lines = |sign: char, lines: &[&str]| {
                for line in lines {
                    let _ = writeln!(out, "{sign}{line}");
                }
            };
            if step.equal {
                lines(' ', &a[step.a.clone()]);
            } else {
                lines('-', &a[step.a.clone()]);
                lines('+', &b[step.b.clone()]);
            }
        }
    }
    out
}

/// A range as diffs count: from one, and from the line before when it is empty.
fn place(range: &Range<usize>) -> String {
    match range.len() {
        1 => (range.start + 1).to_string(),
        0 => format!("{},0", range.start),
        len => format!("{},{len}", range.start + 1),
    }
}

/// Where each line of `b` stands, without those that stand too often.
fn places<'l>(b: &[&'l str]) -> BTreeMap<&'l str, Vec<usize>> {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, line) in b.iter().enumerate() {
        places.entry(line).or_default().push(i);
    }
    if b.len() >= MANY_LINES {
        let most = b.len() / 100 + 1;
        places.retain(|_, at| at.len() <= most);
    }
    places
}

fn steps(a: &[&str], b: &[&str]) -> Vec<Step> {
    let places = places(b);
    let mut matches = Vec::new();
    let mut open = vec![(0..a.len(), 0..b.len())];
    while let Some((of_a, of_b)) = open.pop() {
        let found = longest(a, b, &places, &of_a, &of_b);
        if found.len > 0 {
            open.push((of_a.start..found.a, of_b.start..found.b));
            open.push((found.a + found.len..of_a.end, found.b + found.len..of_b.end));
            matches.push(found);
        }
    }
    matches.sort_by_key(|found| (found.a, found.b));
    matches.push(Match { a: a.len(), b: b.len(), len: 0 });
    let (mut i, mut j) = (0, 0);
    let mut steps: Vec<Step> = Vec::new();
    for found in matches {
        if i < found.a || j < found.b {
            steps.push(Step { equal: false, a: i..found.a, b: j..found.b });
        }
        (i, j) = (found.a + found.len, found.b + found.len);
        match steps.last_mut().filter(|last| last.equal && found.len > 0) {
            Some(last) => (last.a.end, last.b.end) = (i, j),
            None if found.len > 0 => steps.push(Step { equal: true, a: found.a..i, b: found.b..j }),
            None => {}
        }
    }
    steps
}

/// The longest run of equal lines within two ranges, the first of several.
fn longest(
    a: &[&str],
    b: &[&str],
    places: &BTreeMap<&str, Vec<usize>>,
    of_a: &Range<usize>,
    of_b: &Range<usize>,
) -> Match {
    let mut best = Match { a: of_a.start, b: of_b.start, len: 0 };
    // How long the run is that ends at a line of `b`, for the line of `a` before.
    let mut runs: BTreeMap<usize, usize> = BTreeMap::new();
    for i in of_a.clone() {
        let mut next = BTreeMap::new();
        for &j in places.get(a[i]).into_iter().flatten().filter(|j| of_b.contains(j)) {
            let len = j.checked_sub(1).and_then(|before| runs.get(&before)).copied().unwrap_or(0) + 1;
            next.insert(j, len);
            if len > best.len {
                best = Match { a: i + 1 - len, b: j + 1 - len, len };
            }
        }
        runs = next;
    }
    while best.a > of_a.start && best.b > of_b.start && a[best.a - 1] == b[best.b - 1] {
        best = Match { a: best.a - 1, b: best.b - 1, len: best.len + 1 };
    }
    while best.a + best.len < of_a.end
        && best.b + best.len < of_b.end
        && a[best.a + best.len] == b[best.b + best.len]
    {
        best.len += 1;
    }
    best
}

/// Changes that are near each other, with the lines around them.
fn groups(steps: &[Step]) -> Vec<Vec<Step>> {
    let mut steps = steps.to_vec();
    if let Some(first) = steps.first_mut().filter(|step| step.equal) {
        first.a.start = first.a.start.max(first.a.end.saturating_sub(CONTEXT));
        first.b.start = first.b.start.max(first.b.end.saturating_sub(CONTEXT));
    }
    if let Some(last) = steps.last_mut().filter(|step| step.equal) {
        last.a.end = last.a.end.min(last.a.start + CONTEXT);
        last.b.end = last.b.end.min(last.b.start + CONTEXT);
    }
    let (mut groups, mut group) = (Vec::new(), Vec::new());
    for mut step in steps {
        if step.equal && step.a.len() > 2 * CONTEXT {
            let mut end = step.clone();
            (end.a.end, end.b.end) = (step.a.start + CONTEXT, step.b.start + CONTEXT);
            group.push(end);
            groups.push(std::mem::take(&mut group));
            (step.a.start, step.b.start) = (step.a.end - CONTEXT, step.b.end - CONTEXT);
        }
        group.push(step);
    }
    if group.iter().any(|step: &Step| !step.equal) {
        groups.push(group);
    }
    groups.retain(|group| group.iter().any(|step| !step.equal));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_changes_are_told_apart() {
        let old: Vec<String> = (0..30).map(|i| format!("line {i}")).collect();
        let mut new = old.clone();
        new[2] = "two".to_owned();
        new.insert(20, "more".to_owned());
        assert_eq!(
            diff(&old.join("\n"), &new.join("\n")),
            "@@ -1,6 +1,6 @@\n line 0\n line 1\n-line 2\n+two\n line 3\n line 4\n line 5\n\
             @@ -18,6 +18,7 @@\n line 17\n line 18\n line 19\n+more\n line 20\n line 21\n line 22\n"
        );
        assert_eq!(diff("a", "a"), "");
        assert_eq!(diff("a", "b"), "@@ -1 +1 @@\n-a\n+b\n");
    }
}
