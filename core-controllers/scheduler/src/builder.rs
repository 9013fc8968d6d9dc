//! How a scheduler is put together: profiles, plugins and their weights, from Rust or from a configuration.
//!
//! What a configuration means follows upstream (`pkg/scheduler/framework/runtime`): plugins that run without a word first,
//! in their order and with what is said about them, then those that are named, at all points; what is said about one point
//! stands over what is said about all.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use windlass::BoxError;

use crate::{
    config::{Configuration, PluginName, PluginSet, Plugins},
    plugin::{Plugin, Point},
    plugins::{MOST_ALLOCATED, TABLE},
    profile::{DEFAULT_NAME, Enabled, Part, Profile},
    queue::Backoffs,
    run::Scheduler,
};

/// Upstream's plugins that are not built here: running without them is no fault, asking for them is.
const NOT_BUILT: [&str; 8] = [
    "VolumeRestrictions",
    "NodeVolumeLimits",
    "VolumeBinding",
    "VolumeZone",
    "DynamicResources",
    "GangScheduling",
    "NodeDeclaredFeatures",
    "DeferredPodScheduling",
];

/// Why a scheduler cannot be put together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is no YAML, or has a field that there is not.
    #[error("the scheduler's configuration cannot be read: {0}")]
    Unreadable(String),
    /// It is another version or kind.
    #[error(
        "the scheduler's configuration has to be kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration, and not {0}"
    )]
    Version(String),
    /// Nobody knows the plugin.
    #[error("the profile {profile} names the plugin {plugin:?}, which there is not; there are: {known}")]
    Unknown {
        /// The profile.
        profile: String,
        /// The plugin.
        plugin: String,
        /// Those that there are.
        known: String,
    },
    /// It is upstream's, and not built here.
    #[error("the profile {profile} asks for the plugin {plugin}, which is not built here")]
    NotBuilt {
        /// The profile.
        profile: String,
        /// The plugin.
        plugin: String,
    },
    /// It does nothing at that point.
    #[error("the profile {profile} enables {plugin} at {point}, where it does nothing")]
    Point {
        /// The profile.
        profile: String,
        /// The plugin.
        plugin: String,
        /// The point.
        point: Point,
    },
    /// Its arguments make no sense to it.
    #[error("the profile {profile}, arguments of {plugin}: {why}")]
    Args {
        /// The profile.
        profile: String,
        /// The plugin.
        plugin: String,
        /// What is wrong.
        why: String,
    },
    /// Something is there more than once.
    #[error("{0} is there twice")]
    Twice(String),
    /// Something cannot be.
    #[error("{0}")]
    Invalid(String),
}

type Make = Box<dyn Fn(Value) -> Result<Arc<dyn Plugin>, String> + Send + Sync>;

/// Puts a scheduler together. What is said about plugins is about the profile named last, or about `default-scheduler` when
/// none was.
#[derive(Default)]
#[must_use]
pub struct Builder {
    makers: BTreeMap<String, Make>,
    drafts: Vec<Draft>,
    backoffs: Backoffs,
    error: Option<ConfigError>,
}

#[derive(Default)]
struct Draft {
    name: String,
    percent: Option<u32>,
    own: Vec<Arc<dyn Plugin>>,
    plugins: Plugins,
    args: BTreeMap<String, Value>,
}

impl Builder {
    /// Begins a profile, for the pods of this `spec.schedulerName`.
    pub fn profile(mut self, name: &str) -> Self {
        self.drafts.push(Draft { name: name.to_owned(), ..Draft::default() });
        self
    }

    fn draft(&mut self) -> &mut Draft {
        if self.drafts.is_empty() {
            self.drafts.push(Draft { name: DEFAULT_NAME.to_owned(), ..Draft::default() });
        }
        self.drafts.last_mut().expect("one was pushed")
    }

    /// Runs a plugin, after the built-in ones.
    pub fn plugin(mut self, plugin: impl Plugin) -> Self {
        let draft = self.draft();
        let name = plugin.name().to_owned();
        draft.own.push(Arc::new(plugin));
        draft.plugins.multi_point.enabled.push(PluginName { name, weight: 0 });
        self
    }

    /// Does without a plugin; `*` for all that were not added.
    pub fn without(mut self, name: &str) -> Self {
        let set = &mut self.draft().plugins.multi_point;
        set.disabled.push(PluginName { name: name.to_owned(), weight: 0 });
        self
    }

    /// Says how much a plugin's score counts; 1 for most.
    pub fn weight(mut self, name: &str, weight: i64) -> Self {
        let set = &mut self.draft().plugins.multi_point;
        match set.enabled.iter_mut().find(|plugin| plugin.name == name) {
            Some(plugin) => plugin.weight = weight,
            None => set.enabled.push(PluginName { name: name.to_owned(), weight }),
        }
        self
    }

    /// Scores at least this share of the nodes, in percent, of clusters of more than a hundred.
    pub fn percentage_of_nodes_to_score(mut self, percent: u32) -> Self {
        self.draft().percent = Some(percent);
        self
    }

    /// Makes a plugin known by name, so that a configuration can ask for it: once for each profile that does, with its
    /// `pluginConfig` as `A` (an empty object when there is none).
    pub fn register<A, P, E>(
        mut self,
        name: &str,
        make: impl Fn(A) -> Result<P, E> + Send + Sync + 'static,
    ) -> Self
    where
        A: DeserializeOwned,
        P: Plugin,
        E: Into<BoxError>,
    {
        let make: Make = Box::new(move |args| {
            let args = serde_json::from_value(args).map_err(|error| error.to_string())?;
            let plugin = make(args).map_err(|error| windlass::sentence(error.into().as_ref()))?;
            Ok(Arc::new(plugin))
        });
        if self.makers.insert(name.to_owned(), make).is_some() {
            self.error.get_or_insert(ConfigError::Twice(format!("the plugin {name}")));
        }
        self
    }

    /// Adds the profiles of a configuration; without any it is about `default-scheduler`.
    pub fn configuration(mut self, config: &Configuration) -> Self {
        if !config.extenders.is_empty() {
            let why = "extenders are not asked: a plugin can do what they do".to_owned();
            self.error.get_or_insert(ConfigError::Invalid(why));
        }
        let seconds = |seconds: Option<u64>, or| seconds.map_or(or, Duration::from_secs);
        self.backoffs = Backoffs {
            first: seconds(config.pod_initial_backoff_seconds, self.backoffs.first),
            max: seconds(config.pod_max_backoff_seconds, self.backoffs.max),
        };
        for profile in &config.profiles {
            let named = Some(profile.scheduler_name.as_str()).filter(|name| !name.is_empty());
            let mut draft = Draft {
                name: named.unwrap_or(DEFAULT_NAME).to_owned(),
                percent: profile.percentage_of_nodes_to_score.or(config.percentage_of_nodes_to_score),
                plugins: profile.plugins.clone(),
                ..Draft::default()
            };
            for plugin in &profile.plugin_config {
                if draft.args.insert(plugin.name.clone(), plugin.args.clone()).is_some() {
                    let what = format!("the pluginConfig of {} in the profile {}", plugin.name, draft.name);
                    self.error.get_or_insert(ConfigError::Twice(what));
                }
            }
            self.drafts.push(draft);
        }
        if config.profiles.is_empty() {
            self.draft().percent = config.percentage_of_nodes_to_score;
        }
        self
    }

    /// The scheduler.
    ///
    /// # Errors
    /// When a plugin is not known or refuses its arguments, or something is said twice.
    pub fn build(mut self) -> Result<Scheduler, ConfigError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let Backoffs { first, max } = self.backoffs;
        if first.is_zero() || max < first {
            let why = format!(
                "the first wait, {first:?}, is longer than none and no longer than the longest, {max:?}"
            );
            return Err(ConfigError::Invalid(why));
        }
        self.draft();
        let mut profiles = BTreeMap::new();
        for draft in &self.drafts {
            if profiles.insert(draft.name.clone(), Arc::new(draft.built(&self.makers)?)).is_some() {
                return Err(ConfigError::Twice(format!("the profile {}", draft.name)));
            }
        }
        Ok(Scheduler::of(profiles, self.backoffs))
    }
}

impl Draft {
    fn built(&self, makers: &BTreeMap<String, Make>) -> Result<Profile, ConfigError> {
        if self.percent.is_some_and(|percent| percent > 100) {
            let why = format!("the profile {} scores more than 100 percent of the nodes", self.name);
            return Err(ConfigError::Invalid(why));
        }
        for (i, plugin) in self.own.iter().enumerate() {
            let taken = TABLE.iter().any(|row| row.name == plugin.name());
            if taken || self.own[..i].iter().any(|other| other.name() == plugin.name()) {
                let what = format!("the plugin {} in the profile {}", plugin.name(), self.name);
                return Err(ConfigError::Twice(what));
            }
        }
        let parts = self.parts(makers)?;
        let multi = &self.plugins.multi_point;
        // At all points: those of the table that are not disabled, then those that are named.
        let mut everywhere: Vec<Enabled> = Vec::new();
        let named = multi.enabled.iter().map(|plugin| plugin.name.as_str());
        for name in TABLE.iter().map(|row| row.name).chain(named) {
            let asked = multi.enabled(name);
            if asked.is_none() && multi.disables(name) || everywhere.iter().any(|e| e.part.name() == name) {
                continue;
            }
            everywhere.push(enabled(&parts[name], asked));
        }
        let mut points = Point::ALL.map(|_| Vec::new());
        for point in Point::ALL {
            let none = PluginSet::default();
            let set = self.plugins.points.get(&point).unwrap_or(&none);
            let all = everywhere.iter().filter(|e| e.part.has(point));
            let here = &mut points[point as usize];
            // What is said about this point of one that runs anyway comes first, as upstream has it.
            let (mut first, mut last) = (Vec::new(), Vec::new());
            for asked in &set.enabled {
                let part = &parts[asked.name.as_str()];
                if !part.has(point) && !matches!(point, Point::PreFilter | Point::PreScore | Point::Reserve) {
                    let (profile, plugin) = (self.name.clone(), asked.name.clone());
                    return Err(ConfigError::Point { profile, plugin, point });
                }
                let anyway = everywhere.iter().any(|e| e.part.name() == asked.name);
                if anyway { &mut first } else { &mut last }.push(enabled(part, Some(asked)));
            }
            let again = |e: &Enabled| set.enabled(e.part.name()).is_some() || set.disables(e.part.name());
            here.append(&mut first);
            here.extend(all.filter(|e| !again(e)).cloned());
            here.append(&mut last);
            here.retain(|e: &Enabled| e.part.has(point));
        }
        if points[Point::Bind as usize].is_empty() {
            return Err(ConfigError::Invalid(format!("the profile {} has no plugin that binds", self.name)));
        }
        Ok(Profile::new(&self.name, self.percent.filter(|percent| *percent > 0), points))
    }

    /// Every plugin that is named, made with its arguments.
    fn parts(&self, makers: &BTreeMap<String, Make>) -> Result<BTreeMap<String, Part>, ConfigError> {
        let mut parts: BTreeMap<String, Part> =
            TABLE.iter().map(|row| (row.name.to_owned(), Part::Builtin(row))).collect();
        for plugin in &self.own {
            parts.insert(plugin.name().to_owned(), Part::Own(Arc::clone(plugin)));
        }
        let wrong = |plugin: &str, why| ConfigError::Args {
            profile: self.name.clone(),
            plugin: plugin.to_owned(),
            why,
        };
        let sets = || [&self.plugins.multi_point].into_iter().chain(self.plugins.points.values());
        let enabled = || sets().flat_map(|set| &set.enabled).map(|plugin| plugin.name.as_str());
        for name in enabled() {
            if let (false, Some(make)) = (parts.contains_key(name), makers.get(name)) {
                let args = bare(self.args.get(name));
                let plugin = make(args).map_err(|why| wrong(name, why))?;
                if plugin.name() != name {
                    let why = format!("it is registered as {name} and calls itself {}", plugin.name());
                    return Err(ConfigError::Invalid(why));
                }
                parts.insert(name.to_owned(), Part::Own(plugin));
            }
            if NOT_BUILT.contains(&name) {
                let (profile, plugin) = (self.name.clone(), name.to_owned());
                return Err(ConfigError::NotBuilt { profile, plugin });
            }
        }
        let disabled = sets().flat_map(|set| &set.disabled).map(|plugin| plugin.name.as_str());
        let spoken_of = enabled().chain(disabled).chain(self.args.keys().map(String::as_str));
        let known = |name: &str| {
            name == "*" || parts.contains_key(name) || makers.contains_key(name) || NOT_BUILT.contains(&name)
        };
        if let Some(plugin) = spoken_of.filter(|name| !known(name)).min() {
            let mut all: Vec<&str> = parts.keys().chain(makers.keys()).map(String::as_str).collect();
            all.sort_unstable();
            all.dedup();
            let (profile, plugin, known) = (self.name.clone(), plugin.to_owned(), all.join(", "));
            return Err(ConfigError::Unknown { profile, plugin, known });
        }
        for (name, args) in &self.args {
            if let Some(Part::Builtin(_)) = parts.get(name)
                && let Some(other) = builtin(name, &bare(Some(args))).map_err(|why| wrong(name, why))?
            {
                parts.insert(name.clone(), other);
            }
        }
        Ok(parts)
    }
}

fn enabled(part: &Part, asked: Option<&PluginName>) -> Enabled {
    let weight = asked.map(|plugin| plugin.weight).filter(|weight| *weight > 0);
    Enabled { weight: weight.unwrap_or_else(|| part.weight()), part: part.clone() }
}

/// Arguments without what says whose they are.
fn bare(args: Option<&Value>) -> Value {
    let mut args = args.cloned().unwrap_or_default();
    if args.is_null() {
        args = json!({});
    }
    if let Some(args) = args.as_object_mut() {
        args.remove("apiVersion");
        args.remove("kind");
    }
    args
}

/// A built-in plugin with arguments. Most take only those that upstream has without a word.
fn builtin(name: &str, args: &Value) -> Result<Option<Part>, String> {
    let resources = json!([{"name": "cpu", "weight": 1}, {"name": "memory", "weight": 1}]);
    let defaults = match name {
        "DefaultPreemption" => json!({"minCandidateNodesPercentage": 10, "minCandidateNodesAbsolute": 100}),
        "InterPodAffinity" => {
            json!({"hardPodAffinityWeight": 1, "ignorePreferredTermsOfExistingPods": false})
        }
        "PodTopologySpread" => json!({"defaultingType": "System"}),
        "NodeResourcesBalancedAllocation" => json!({"resources": resources}),
        "NodeResourcesFit" => json!({"scoringStrategy": {"type": "LeastAllocated", "resources": resources}}),
        _ => json!({}),
    };
    let most = name == "NodeResourcesFit" && args["scoringStrategy"]["type"] == "MostAllocated";
    let mut args = args.clone();
    if most {
        args["scoringStrategy"]["type"] = "LeastAllocated".into();
    }
    if name == "NodeResourcesFit"
        && args["scoringStrategy"]["resources"].is_null()
        && args["scoringStrategy"].is_object()
    {
        args["scoringStrategy"]["resources"] = resources;
    }
    let fields = args.as_object().ok_or("they are no object")?;
    if let Some((field, value)) =
        fields.iter().find(|(field, value)| !value.is_null() && defaults.get(*field) != Some(*value))
    {
        return Err(format!("{field} {value} is not understood here"));
    }
    Ok(most.then_some(Part::Builtin(&MOST_ALLOCATED)))
}
