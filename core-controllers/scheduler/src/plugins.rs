//! The plugins: one table with upstream's names, order and weights. A plugin is a function of a pod and a node.

pub mod inter_pod_affinity;
mod node;
mod resources;
pub mod topology_spread;

use std::borrow::Cow;

use crate::{cycle::Cycle, snapshot::Index};

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

/// A filter: `None` passes.
pub type Filter = fn(&Cycle<'_>, Index) -> Option<Refusal>;

/// A score, the higher the better; any range when the plugin normalises.
pub type Score = fn(&Cycle<'_>, Index) -> i64;

/// How raw scores become scores from 0 to [`SCORE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// One row of the table.
pub struct Plugin {
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

use Change::{NodeAdded, NodeUpdated, PodAssigned, PodGone};

/// All plugins, in the order in which filters run.
pub const TABLE: &[Plugin] = &[
    Plugin {
        name: "NodeUnschedulable",
        filter: Some(node::unschedulable),
        score: None,
        weight: 0,
        woken_by: &[NodeAdded, NodeUpdated],
    },
    Plugin { name: "NodeName", filter: Some(node::name), score: None, weight: 0, woken_by: &[NodeAdded] },
    Plugin {
        name: "TaintToleration",
        filter: Some(node::taints),
        score: Some((node::prefer_no_taints, Normalize::Reversed)),
        weight: 3,
        woken_by: &[NodeAdded, NodeUpdated],
    },
    Plugin {
        name: "NodeAffinity",
        filter: Some(node::affinity),
        score: Some((node::preferred, Normalize::Proportional)),
        weight: 2,
        woken_by: &[NodeAdded, NodeUpdated],
    },
    Plugin {
        name: "NodePorts",
        filter: Some(node::ports),
        score: None,
        weight: 0,
        woken_by: &[NodeAdded, PodGone],
    },
    Plugin {
        name: "NodeResourcesFit",
        filter: Some(resources::fit),
        score: Some((resources::least_allocated, Normalize::None)),
        weight: 1,
        woken_by: &[NodeAdded, NodeUpdated, PodGone],
    },
    Plugin {
        name: "PodTopologySpread",
        filter: Some(topology_spread::filter),
        score: Some((topology_spread::score, Normalize::MinMaxReversed)),
        weight: 2,
        woken_by: &[NodeAdded, NodeUpdated, PodAssigned, PodGone],
    },
    Plugin {
        name: "InterPodAffinity",
        filter: Some(inter_pod_affinity::filter),
        score: Some((inter_pod_affinity::score, Normalize::MinMax)),
        weight: 2,
        woken_by: &[NodeAdded, NodeUpdated, PodAssigned, PodGone],
    },
    Plugin {
        name: "NodeResourcesBalancedAllocation",
        filter: None,
        score: Some((resources::balanced, Normalize::None)),
        weight: 1,
        woken_by: &[],
    },
    Plugin {
        name: "ImageLocality",
        filter: None,
        score: Some((node::images, Normalize::None)),
        weight: 1,
        woken_by: &[],
    },
];

/// True when a change may help a pod that these plugins refused. Where none did, there was no node, or the decision
/// failed: any change may help.
pub fn helps(change: Change, refused_by: &[&'static str]) -> bool {
    refused_by.is_empty()
        || TABLE.iter().any(|p| refused_by.contains(&p.name) && p.woken_by.contains(&change))
}

/// Turns raw scores into scores from 0 to [`SCORE_MAX`].
pub fn normalize(how: Normalize, scores: &mut [i64]) {
    let (Some(&min), Some(&max)) = (scores.iter().min(), scores.iter().max()) else { return };
    let scale = |n: i64, range: i64| if range == 0 { 0 } else { n * SCORE_MAX / range };
    for score in scores.iter_mut() {
        *score = match how {
            Normalize::None => *score,
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
