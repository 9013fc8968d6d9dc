//! The built-in plugins: one table with upstream's names, order and weights. Each is a function of a pod and a node; what
//! others write implements [`crate::Plugin`].

pub mod inter_pod_affinity;
mod node;
mod resources;
pub mod topology_spread;

use std::borrow::Cow;

use crate::{
    cycle::Cycle,
    plugin::{Point, Reject},
    snapshot::Index,
};

/// The highest score of a plugin, before its weight.
pub const SCORE_MAX: i64 = 100;

/// Why a node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The plugin that refuses.
    pub plugin: &'static str,
    /// In upstream's words.
    pub reasons: Vec<Cow<'static, str>>,
    /// False when removing other pods from the node might help.
    pub final_: bool,
}

impl Refusal {
    pub(crate) fn of(plugin: &'static str, reject: Reject) -> Self {
        Self { plugin, reasons: reject.reasons, final_: reject.unresolvable }
    }
}

/// A filter: `None` passes.
pub type Filter = fn(&Cycle<'_>, Index) -> Option<Refusal>;

/// A score, the higher the better; any range when the plugin normalises.
pub type Score = fn(&Cycle<'_>, Index) -> i64;

/// How raw scores become scores from 0 to [`SCORE_MAX`].
#[derive(Clone, Copy, Debug)]
pub enum Normalize {
    /// They are already.
    None,
    /// The highest becomes [`SCORE_MAX`].
    Proportional,
    /// The highest becomes 0.
    Reversed,
    /// The lowest becomes 0 and the highest [`SCORE_MAX`].
    MinMax,
    /// The lowest becomes [`SCORE_MAX`].
    MinMaxReversed,
    /// This function makes them that.
    With(fn(&mut [i64])),
}

/// One row of the table.
pub struct Builtin {
    /// Upstream's name.
    pub name: &'static str,
    /// Whether a node can take the pod.
    pub filter: Option<Filter>,
    /// How well.
    pub score: Option<(Score, Normalize)>,
    /// How much its score counts.
    pub weight: i64,
    /// Which changes in the cluster may make a refused pod fit.
    pub woken_by: &'static [Change],
    /// Where else it does something, which is done elsewhere.
    pub also: Option<Point>,
}

impl Builtin {
    /// Whether it does anything there.
    pub fn has(&self, point: Point) -> bool {
        match point {
            Point::Filter => self.filter.is_some(),
            Point::Score => self.score.is_some(),
            _ => self.also == Some(point),
        }
    }
}

/// A plugin that neither filters nor scores.
const fn elsewhere(name: &'static str, point: Point) -> Builtin {
    Builtin { name, filter: None, score: None, weight: 0, woken_by: &[], also: Some(point) }
}

/// A change in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A node came.
    NodeAdded,
    /// A node's allocatable resources, labels, taints or mark changed.
    NodeUpdated,
    /// A pod was bound, or a bound pod's labels changed.
    PodAssigned,
    /// A bound pod ended or was deleted.
    PodGone,
}

impl Change {
    /// All of them.
    pub const ALL: &'static [Self] = &[NodeAdded, NodeUpdated, PodAssigned, PodGone];
}

use Change::{NodeAdded, NodeUpdated, PodAssigned, PodGone};

/// All plugins, in the order in which filters run.
pub const TABLE: &[Builtin] = &[
    elsewhere("SchedulingGates", Point::PreEnqueue),
    elsewhere("PrioritySort", Point::QueueSort),
    Builtin {
        name: "NodeUnschedulable",
        filter: Some(node::unschedulable),
        score: None,
        weight: 0,
        woken_by: &[NodeAdded, NodeUpdated],
        also: None,
    },
    Builtin {
        name: "NodeName",
        filter: Some(node::name),
        score: None,
        weight: 0,
        woken_by: &[NodeAdded],
        also: None,
    },
    Builtin {
        name: "TaintToleration",
        filter: Some(node::taints),
        score: Some((node::prefer_no_taints, Normalize::Reversed)),
        weight: 3,
        woken_by: &[NodeAdded, NodeUpdated],
        also: None,
    },
    Builtin {
        name: "NodeAffinity",
        filter: Some(node::affinity),
        score: Some((node::preferred, Normalize::Proportional)),
        weight: 2,
        woken_by: &[NodeAdded, NodeUpdated],
        also: None,
    },
    Builtin {
        name: "NodePorts",
        filter: Some(node::ports),
        score: None,
        weight: 0,
        woken_by: &[NodeAdded, PodGone],
        also: None,
    },
    Builtin {
        name: "NodeResourcesFit",
        filter: Some(resources::fit),
        score: Some((resources::least_allocated, Normalize::None)),
        weight: 1,
        woken_by: &[NodeAdded, NodeUpdated, PodGone],
        also: None,
    },
    Builtin {
        name: "PodTopologySpread",
        filter: Some(topology_spread::filter),
        score: Some((topology_spread::score, Normalize::MinMaxReversed)),
        weight: 2,
        woken_by: &[NodeAdded, NodeUpdated, PodAssigned, PodGone],
        also: None,
    },
    Builtin {
        name: "InterPodAffinity",
        filter: Some(inter_pod_affinity::filter),
        score: Some((inter_pod_affinity::score, Normalize::MinMax)),
        weight: 2,
        woken_by: &[NodeAdded, NodeUpdated, PodAssigned, PodGone],
        also: None,
    },
    elsewhere("DefaultPreemption", Point::PostFilter),
    Builtin {
        name: "NodeResourcesBalancedAllocation",
        filter: None,
        score: Some((resources::balanced, Normalize::None)),
        weight: 1,
        woken_by: &[],
        also: None,
    },
    Builtin {
        name: "ImageLocality",
        filter: None,
        score: Some((node::images, Normalize::None)),
        weight: 1,
        woken_by: &[],
        also: None,
    },
    elsewhere("DefaultBinder", Point::Bind),
];

/// `NodeResourcesFit` with the scoring strategy `MostAllocated`.
pub(crate) const MOST_ALLOCATED: Builtin = Builtin {
    name: "NodeResourcesFit",
    filter: Some(resources::fit),
    score: Some((resources::most_allocated, Normalize::None)),
    weight: 1,
    woken_by: &[NodeAdded, NodeUpdated, PodGone],
    also: None,
};

/// Turns raw scores into scores from 0 to [`SCORE_MAX`].
pub fn normalize(how: Normalize, scores: &mut [i64]) {
    if let Normalize::With(function) = how {
        return function(scores);
    }
    let (Some(&min), Some(&max)) = (scores.iter().min(), scores.iter().max()) else { return };
    let scale = |n: i64, range: i64| if range == 0 { 0 } else { n * SCORE_MAX / range };
    for score in scores.iter_mut() {
        *score = match how {
            Normalize::None | Normalize::With(_) => *score,
            Normalize::Proportional => scale(*score, max),
            Normalize::Reversed => SCORE_MAX - scale(*score, max),
            Normalize::MinMax => scale(*score - min, max - min),
            Normalize::MinMaxReversed if max == min => SCORE_MAX,
            Normalize::MinMaxReversed => SCORE_MAX - scale(*score - min, max - min),
        };
    }
}

pub(crate) fn refuse(plugin: &'static str, reason: &'static str, final_: bool) -> Option<Refusal> {
    Some(Refusal { plugin, reasons: vec![Cow::Borrowed(reason)], final_ })
}
