//! `KubeSchedulerConfiguration` (`kubescheduler.config.k8s.io/v1`): profiles, plugins, weights and arguments, from YAML.
//!
//! What says how a process connects, leads and serves (`clientConnection`, `leaderElection` and the like) is read and left
//! alone: that is the program's business here. Upstream: `pkg/scheduler/apis/config`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{builder::ConfigError, plugin::Point};

const VERSION: (&str, &str) = ("kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration");

/// A configuration of the scheduler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    /// `kubescheduler.config.k8s.io/v1`.
    pub api_version: String,
    /// `KubeSchedulerConfiguration`.
    pub kind: String,
    /// A profile for each `spec.schedulerName`.
    #[serde(default)]
    pub profiles: Vec<ProfileConfig>,
    /// How many of the nodes are scored at least, in percent.
    #[serde(default)]
    pub percentage_of_nodes_to_score: Option<u32>,
    /// The first wait after a failure, in seconds.
    #[serde(default)]
    pub pod_initial_backoff_seconds: Option<u64>,
    /// The longest wait after a failure, in seconds.
    #[serde(default)]
    pub pod_max_backoff_seconds: Option<u64>,
    /// Schedulers that are asked over HTTP; there must be none.
    #[serde(default)]
    pub extenders: Vec<Value>,
    /// Decisions are made one after the other.
    #[serde(default)]
    pub parallelism: Option<Value>,
    /// Left alone.
    #[serde(default)]
    pub client_connection: Option<Value>,
    /// Left alone.
    #[serde(default)]
    pub leader_election: Option<Value>,
    /// Left alone.
    #[serde(default)]
    pub enable_profiling: Option<Value>,
    /// Left alone.
    #[serde(default)]
    pub enable_contention_profiling: Option<Value>,
    /// Left alone.
    #[serde(default)]
    pub delay_cache_until_active: Option<Value>,
}

/// One profile of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProfileConfig {
    /// Whose pods; `default-scheduler` when empty.
    #[serde(default)]
    pub scheduler_name: String,
    /// Instead of the configuration's.
    #[serde(default)]
    pub percentage_of_nodes_to_score: Option<u32>,
    /// What differs from the plugins that run without a word.
    #[serde(default)]
    pub plugins: Plugins,
    /// The arguments of plugins.
    #[serde(default)]
    pub plugin_config: Vec<PluginConfig>,
}

/// The arguments of one plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// Whose.
    pub name: String,
    /// What it is given.
    #[serde(default)]
    pub args: Value,
}

/// Which plugins run where, beyond what runs without a word.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<PluginPoint, PluginSet>", into = "BTreeMap<PluginPoint, PluginSet>")]
pub struct Plugins {
    /// At every point that they have something to do at.
    pub multi_point: PluginSet,
    /// At one point.
    pub points: BTreeMap<Point, PluginSet>,
}

/// Plugins to run, and plugins not to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginSet {
    /// After those that run without a word, or, where they are of those, in their place.
    #[serde(default)]
    pub enabled: Vec<PluginName>,
    /// Of those that run without a word; `*` for all.
    #[serde(default)]
    pub disabled: Vec<PluginName>,
}

/// A plugin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginName {
    /// Its name.
    pub name: String,
    /// How much its score counts; its own weight when 0.
    #[serde(default)]
    pub weight: i64,
}

impl PluginSet {
    pub(crate) fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|plugin| plugin.name == name || plugin.name == "*")
    }

    pub(crate) fn enabled(&self, name: &str) -> Option<&PluginName> {
        self.enabled.iter().find(|plugin| plugin.name == name)
    }
}

/// The fields of `plugins`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum PluginPoint {
    MultiPoint,
    PreEnqueue,
    QueueSort,
    PreFilter,
    Filter,
    PostFilter,
    PreScore,
    Score,
    Reserve,
    Permit,
    PreBind,
    Bind,
    PostBind,
}

/// The fields of the points, in the order of [`Point::ALL`].
const POINTS: [PluginPoint; Point::ALL.len()] = {
    use PluginPoint::{
        Bind, Filter, Permit, PostBind, PostFilter, PreBind, PreEnqueue, PreFilter, PreScore, QueueSort,
        Reserve, Score,
    };
    [
        PreEnqueue, QueueSort, PreFilter, Filter, PostFilter, PreScore, Score, Reserve, Permit, PreBind,
        Bind, PostBind,
    ]
};

impl From<BTreeMap<PluginPoint, PluginSet>> for Plugins {
    fn from(mut sets: BTreeMap<PluginPoint, PluginSet>) -> Self {
        let multi_point = sets.remove(&PluginPoint::MultiPoint).unwrap_or_default();
        let pairs = Point::ALL.into_iter().zip(POINTS);
        Self {
            multi_point,
            points: pairs.filter_map(|(point, field)| Some((point, sets.remove(&field)?))).collect(),
        }
    }
}

impl From<Plugins> for BTreeMap<PluginPoint, PluginSet> {
    fn from(plugins: Plugins) -> Self {
        let points = plugins.points.into_iter().map(|(point, set)| (POINTS[point as usize], set));
        points.chain([(PluginPoint::MultiPoint, plugins.multi_point)]).collect()
    }
}

impl Configuration {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When it is none, or has a field that there is not.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let read: Self =
            serde_saphyr::from_str(text).map_err(|error| ConfigError::Unreadable(error.to_string()))?;
        let version = (read.api_version.as_str(), read.kind.as_str());
        if version != VERSION {
            return Err(ConfigError::Version(format!("{} {}", version.0, version.1)));
        }
        Ok(read)
    }
}
