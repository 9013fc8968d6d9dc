//! How fast nodes may be emptied, zone by zone: when most of a zone is down, slowly or not at all, and when everything
//! is down, not at all: then it is this process that is cut off. Pure.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;

/// One node every so often, as upstream's `--node-eviction-rate` of 0.1 a second.
const EVERY: Duration = Duration::from_secs(10);
/// One node every so often in a large zone that is mostly down (`--secondary-node-eviction-rate`).
const EVERY_SLOWLY: Duration = Duration::from_secs(100);
/// Up to this many nodes a zone is small, and is not emptied while mostly down (`--large-cluster-size-threshold`).
const SMALL: usize = 50;
/// Mostly down is more than two nodes, and this part of the zone (`--unhealthy-zone-threshold`).
const MOSTLY: f64 = 0.55;

/// The zone of a node.
pub(super) fn of(node: &Node) -> String {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map_or("", String::as_str);
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// How many nodes of each zone are up and down.
#[derive(Debug, Default)]
pub(super) struct Census(BTreeMap<String, (usize, usize)>);

impl Census {
    pub(super) fn count(&mut self, node: &Node, up: bool) {
        let (ups, downs) = self.0.entry(of(node)).or_default();
        *(if up { ups } else { downs }) += 1;
    }

    /// Whether no node anywhere is up.
    pub(super) fn all_down(&self) -> bool {
        self.0.values().all(|(up, _)| *up == 0)
    }

    /// The time between two nodes of a zone; `None` if it is not emptied at all.
    fn pace(&self, zone: &str) -> Option<Duration> {
        let (up, down) = self.0.get(zone).copied().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a share of a number of nodes")]
        let mostly = down > 2 && up > 0 && down as f64 / (up + down) as f64 >= MOSTLY;
        match mostly {
            false => Some(EVERY),
            true if up + down > SMALL => Some(EVERY_SLOWLY),
            true => None,
        }
    }
}

/// Whether a node may be emptied.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Yes.
    Now,
    /// Others come first.
    After(Duration),
    /// Not before more nodes are up.
    NotWhile,
}

/// When the next node of each zone may be emptied.
#[derive(Debug, Default)]
pub(super) struct Zones(BTreeMap<String, Timestamp>);

impl Zones {
    /// Asks for a node of this zone; a yes is counted.
    pub(super) fn ask(&mut self, census: &Census, zone: &str, now: Timestamp) -> Answer {
        let Some(pace) = census.pace(zone).filter(|_| !census.all_down()) else { return Answer::NotWhile };
        let next = self.0.entry(zone.to_owned()).or_insert(now);
        let wait = Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO);
        if !wait.is_zero() {
            return Answer::After(wait);
        }
        *next = now.checked_add(SignedDuration::try_from(pace).unwrap_or(SignedDuration::MAX)).unwrap_or(now);
        Answer::Now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn census(zones: &[(&str, usize, usize)]) -> Census {
        Census(zones.iter().map(|(zone, up, down)| ((*zone).to_owned(), (*up, *down))).collect())
    }

    #[test]
    fn the_more_is_down_the_slower() {
        let mut zones = Zones::default();
        let healthy = census(&[("a", 9, 2)]);
        assert_eq!(zones.ask(&healthy, "a", at(0)), Answer::Now);
        assert_eq!(zones.ask(&healthy, "a", at(4)), Answer::After(Duration::from_secs(6)));
        assert_eq!(zones.ask(&healthy, "a", at(10)), Answer::Now);
        assert_eq!(
            zones.ask(&census(&[("a", 2, 3)]), "a", at(99)),
            Answer::NotWhile,
            "small, and mostly down"
        );
        assert_eq!(zones.ask(&census(&[("a", 20, 40)]), "a", at(100)), Answer::Now);
        assert_eq!(
            zones.ask(&census(&[("a", 20, 40)]), "a", at(110)),
            Answer::After(Duration::from_secs(90))
        );
        assert_eq!(zones.ask(&census(&[("a", 0, 1)]), "a", at(500)), Answer::NotWhile, "everything is down");
        assert_eq!(
            zones.ask(&census(&[("a", 0, 5), ("b", 5, 0)]), "a", at(500)),
            Answer::Now,
            "one zone of two"
        );
    }
}
