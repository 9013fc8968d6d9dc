//! A profile: which plugins decide about the pods of one `spec.schedulerName`, in which order and with which weights.
//!
//! Built once, read by every decision. What it is built from is in [`crate::builder`] and [`crate::config`].

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use crate::{
    plugin::{Event, Plugin, Point, Reject},
    plugins::{Builtin, Refusal, TABLE},
    pod::PodInfo,
};

/// The name of the profile that every pod asks for that names none.
pub const DEFAULT_NAME: &str = "default-scheduler";

/// A plugin, of the table or of one's own.
#[derive(Clone)]
pub(crate) enum Part {
    Builtin(&'static Builtin),
    Own(Arc<dyn Plugin>),
}

impl Part {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Builtin(builtin) => builtin.name,
            Self::Own(plugin) => plugin.name(),
        }
    }

    pub(crate) fn has(&self, point: Point) -> bool {
        match self {
            Self::Builtin(builtin) => builtin.has(point),
            Self::Own(_) => true,
        }
    }

    /// How much its score counts when nobody says.
    pub(crate) fn weight(&self) -> i64 {
        match self {
            Self::Builtin(builtin) => builtin.weight.max(1),
            Self::Own(_) => 1,
        }
    }
}

/// A plugin at one point.
#[derive(Clone)]
pub(crate) struct Enabled {
    pub(crate) part: Part,
    /// How much its score counts.
    pub(crate) weight: i64,
}

/// Which plugins decide, where.
#[derive(Clone)]
pub struct Profile {
    name: Arc<str>,
    percent: Option<u32>,
    points: [Vec<Enabled>; Point::ALL.len()],
    /// All plugins of one's own, each once.
    owned: Vec<Arc<dyn Plugin>>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Profile");
        out.field("name", &self.name);
        for point in Point::ALL {
            out.field(&point.to_string(), &self.plugins(point));
        }
        out.finish()
    }
}

impl Profile {
    pub(crate) fn new(name: &str, percent: Option<u32>, points: [Vec<Enabled>; Point::ALL.len()]) -> Self {
        let mut owned: Vec<Arc<dyn Plugin>> = Vec::new();
        for enabled in points.iter().flatten() {
            if let Part::Own(plugin) = &enabled.part
                && owned.iter().all(|known| known.name() != plugin.name())
            {
                owned.push(Arc::clone(plugin));
            }
        }
        Self { name: name.into(), percent, points, owned }
    }

    /// The built-in plugins with upstream's weights, for `default-scheduler`.
    pub fn standard() -> &'static Self {
        static STANDARD: LazyLock<Profile> = LazyLock::new(|| {
            let points = Point::ALL.map(|point| {
                let rows = TABLE.iter().filter(|row| row.has(point)).map(Part::Builtin);
                rows.map(|part| Enabled { weight: part.weight(), part }).collect()
            });
            Profile::new(DEFAULT_NAME, None, points)
        });
        &STANDARD
    }

    /// Whose pods it decides about.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many of the nodes are scored at least, in percent; `None` for what suits the size of the cluster.
    pub fn percentage_of_nodes_to_score(&self) -> Option<u32> {
        self.percent
    }

    /// The plugins that are asked at a point, in order, with the weights of their scores.
    pub fn plugins(&self, point: Point) -> Vec<(&'static str, i64)> {
        self.at(point).iter().map(|enabled| (enabled.part.name(), enabled.weight)).collect()
    }

    pub(crate) fn at(&self, point: Point) -> &[Enabled] {
        &self.points[point as usize]
    }

    pub(crate) fn own(&self, point: Point) -> impl DoubleEndedIterator<Item = &Arc<dyn Plugin>> {
        self.at(point).iter().filter_map(|enabled| match &enabled.part {
            Part::Own(plugin) => Some(plugin),
            Part::Builtin(_) => None,
        })
    }

    /// All plugins of one's own, each once.
    pub(crate) fn owned(&self) -> &[Arc<dyn Plugin>] {
        &self.owned
    }

    /// What the queue is sorted by.
    pub(crate) fn rank(&self, pod: &PodInfo) -> i64 {
        self.own(Point::QueueSort).find_map(|plugin| plugin.rank(pod)).unwrap_or(-i64::from(pod.priority()))
    }

    /// Who holds a pod back from being scheduled at all.
    pub(crate) fn held_by(&self, pod: &PodInfo) -> Option<Refusal> {
        self.at(Point::PreEnqueue).iter().find_map(|enabled| match &enabled.part {
            Part::Builtin(gates) if !pod.gates().is_empty() => {
                Some(Refusal::of(gates.name, Reject::because("it has scheduling gates").unresolvable()))
            }
            Part::Builtin(_) => None,
            Part::Own(plugin) => plugin.pre_enqueue(pod).err().map(|no| Refusal::of(plugin.name(), no)),
        })
    }

    /// True when a change may help a pod that these plugins refused. Where none did, there was no node, or the decision
    /// failed: any change may help.
    pub(crate) fn helps(&self, pod: &PodInfo, refused_by: &[&'static str], event: &Event<'_>) -> bool {
        let builtin = |row: &Builtin| refused_by.contains(&row.name) && row.woken_by.contains(&event.change);
        let own = |plugin: &Arc<dyn Plugin>| {
            refused_by.contains(&plugin.name())
                && plugin.woken_by().contains(&event.change)
                && plugin.hint(pod, event)
        };
        refused_by.is_empty() || TABLE.iter().any(builtin) || self.owned.iter().any(own)
    }
}
