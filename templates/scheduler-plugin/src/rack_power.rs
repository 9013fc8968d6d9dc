//! RackPower: pods say how many watts they draw, and racks have only so many. Nothing here talks to anybody: a plugin sees
//! a pod and the nodes, and says what it thinks.

use std::collections::BTreeMap;

use serde::Deserialize;
use windlass_scheduler::{Change, Cycle, Event, Index, Plugin, PodInfo, PreFilter, Reject, State};

/// The label of a pod that says how many watts it draws.
pub const WATTS: &str = "example.com/watts";

/// What the plugin is told in `pluginConfig`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RackPowerArgs {
    /// The label of nodes that says in which rack they are. Nodes without it have power without end.
    pub rack_label: String,
    /// How many watts a rack has.
    pub watts_per_rack: u64,
    /// Racks that have another number.
    #[serde(default)]
    pub racks: BTreeMap<String, u64>,
}

/// Keeps racks within their power, and likes those best that have most of it left.
#[derive(Clone, Debug)]
pub struct RackPower {
    args: RackPowerArgs,
}

/// What is known once for all nodes: what the pod draws, and what each rack has left.
struct Power {
    wanted: u64,
    left: BTreeMap<String, u64>,
}

impl RackPower {
    /// As configurations have it.
    pub const NAME: &'static str = "RackPower";

    /// The plugin with these arguments.
    ///
    /// # Errors
    /// When they make no sense.
    pub fn new(args: RackPowerArgs) -> Result<Self, &'static str> {
        if args.watts_per_rack == 0 {
            return Err("wattsPerRack is 0, and no pod would run");
        }
        Ok(Self { args })
    }

    fn budget(&self, rack: &str) -> u64 {
        self.args
            .racks
            .get(rack)
            .copied()
            .unwrap_or(self.args.watts_per_rack)
    }

    /// The power of a node's rack; `None` for nodes that are in none, and pods that draw nothing.
    fn left(&self, cycle: &Cycle<'_>, at: Index) -> Option<(u64, u64, u64)> {
        let power = cycle.state::<Power>()?;
        let rack = cycle.snapshot.label(at, &self.args.rack_label)?;
        Some((power.wanted, *power.left.get(rack)?, self.budget(rack)))
    }
}

/// What a pod draws; `None` when it says nothing that can be read.
fn watts(pod: &PodInfo) -> Option<u64> {
    pod.labels()
        .get(WATTS)
        .map_or(Some(0), |watts| watts.parse().ok())
}

impl Plugin for RackPower {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn woken_by(&self) -> &'static [Change] {
        &[Change::NodeAdded, Change::NodeUpdated, Change::PodGone]
    }

    fn hint(&self, _pod: &PodInfo, event: &Event<'_>) -> bool {
        event.pod.is_none_or(|gone| watts(gone).unwrap_or(0) > 0)
    }

    fn pre_filter(&self, cycle: &Cycle<'_>, state: &mut State) -> Result<PreFilter, Reject> {
        let wanted = match watts(cycle.pod) {
            Some(0) => return Ok(PreFilter::Skip),
            Some(wanted) => wanted,
            None => return Err(Reject::because(format!("the label {WATTS} is no number")).unresolvable()),
        };
        let mut left = BTreeMap::new();
        for at in 0..cycle.snapshot.len() {
            let Some(rack) = cycle.snapshot.label(at, &self.args.rack_label) else {
                continue;
            };
            let drawn: u64 = cycle.snapshot.pods[at].iter().filter_map(|pod| watts(pod)).sum();
            let left = left.entry(rack.to_owned()).or_insert_with(|| self.budget(rack));
            *left = left.saturating_sub(drawn);
        }
        state.put(Power { wanted, left });
        Ok(PreFilter::All)
    }

    fn filter(&self, cycle: &Cycle<'_>, at: Index) -> Result<(), Reject> {
        match self.left(cycle, at) {
            Some((wanted, _, budget)) if wanted > budget => {
                Err(Reject::because("node(s) in racks with too little power for the pod").unresolvable())
            }
            Some((wanted, left, _)) if wanted > left => {
                Err(Reject::because("node(s) in racks without enough power left"))
            }
            _ => Ok(()),
        }
    }

    fn score(&self, cycle: &Cycle<'_>, at: Index) -> i64 {
        let Some((wanted, left, budget)) = self.left(cycle, at) else {
            return 0;
        };
        let percent = left.saturating_sub(wanted) * 100 / budget.max(1);
        i64::try_from(percent).unwrap_or(100)
    }
}
