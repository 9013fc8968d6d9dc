//! Profiles, from Rust and from `KubeSchedulerConfiguration`: what runs where, what is refused, and what plugins decide.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Deserialize;
use serde_json::json;
use windlass::random::Source;
use windlass_scheduler::{
    Change, Configuration, Cycle, Decision, Index, Normalize, Plugin, PodInfo, Point, PreFilter, Reject,
    Scheduler, Snapshot, State,
};

/// Keeps pods with the label `rack` to that rack, with so many pods a rack at most, and likes racks by their letter.
struct Racks {
    max: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RacksArgs {
    max: usize,
}

/// How many pods are in each rack.
struct Taken(BTreeMap<String, usize>);

impl Plugin for Racks {
    fn name(&self) -> &'static str {
        "Racks"
    }

    fn woken_by(&self) -> &'static [Change] {
        &[Change::PodGone]
    }

    fn pre_filter(&self, cycle: &Cycle<'_>, state: &mut State) -> Result<PreFilter, Reject> {
        let Some(wanted) = cycle.pod.labels().get("rack") else { return Ok(PreFilter::Skip) };
        if wanted == "none" {
            return Err(Reject::because("there is no such rack").unresolvable());
        }
        let mut taken = BTreeMap::new();
        for at in 0..cycle.snapshot.len() {
            let rack = cycle.snapshot.label(at, "rack").unwrap_or_default().to_owned();
            *taken.entry(rack).or_default() += cycle.snapshot.pods[at].len();
        }
        state.put(Taken(taken));
        if wanted == "any" {
            return Ok(PreFilter::All);
        }
        let inside = |at: &Index| cycle.snapshot.label(*at, "rack") == Some(wanted.as_str());
        Ok(PreFilter::Only((0..cycle.snapshot.len()).filter(inside).collect()))
    }

    fn filter(&self, cycle: &Cycle<'_>, at: Index) -> Result<(), Reject> {
        let taken = &cycle.state::<Taken>().expect("kept before").0;
        match cycle.snapshot.label(at, "rack").and_then(|rack| taken.get(rack)) {
            Some(taken) if *taken >= self.max => Err(Reject::because("node(s) in full racks")),
            _ => Ok(()),
        }
    }

    fn score(&self, cycle: &Cycle<'_>, at: Index) -> i64 {
        cycle.snapshot.label(at, "rack").map_or(0, |rack| rack.bytes().map(i64::from).sum())
    }

    fn normalize(&self) -> Normalize {
        Normalize::MinMax
    }
}

fn snapshot(nodes: &[(&str, &str)], running: &[(&str, &str)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (name, rack) in nodes {
        let node = json!({"metadata": {"name": name, "labels": {"rack": rack}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}});
        snapshot.set_node(Arc::new(serde_json::from_value::<Node>(node).unwrap()));
    }
    for (name, node) in running {
        snapshot.set_pod(pod(name, "any"), node);
    }
    snapshot
}

fn pod(name: &str, rack: &str) -> Arc<PodInfo> {
    let labels = if rack.is_empty() { json!({}) } else { json!({"rack": rack}) };
    let pod = json!({"metadata": {"name": name, "uid": name, "labels": labels},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]}});
    PodInfo::new(Arc::new(serde_json::from_value::<Pod>(pod).unwrap()))
}

fn decided(scheduler: &Scheduler, profile: &str, pod: &PodInfo, snapshot: &Snapshot) -> String {
    let profile = scheduler.profile(profile).unwrap();
    match profile.decide(pod, snapshot, &mut 0, &Source::seeded(1)) {
        Decision::Node(at) => snapshot.names[at].to_string(),
        Decision::Unschedulable(refusals) => format!("{} {:?}", refusals.message(), refusals.plugins()),
    }
}

#[test]
fn a_plugin_decides_beside_the_built_in_ones() {
    let scheduler =
        Scheduler::builder().profile("racks").plugin(Racks { max: 2 }).weight("Racks", 10).build().unwrap();
    let nodes = snapshot(&[("a1", "a"), ("a2", "a"), ("b1", "b")], &[("x", "a1"), ("y", "a2")]);
    let check = |rack: &str, expected: Expect| {
        expected.assert_eq(&decided(&scheduler, "racks", &pod("p", rack), &nodes));
    };
    // Its score outweighs that b1 is as empty.
    check("any", expect!["b1"]);
    check("b", expect!["b1"]);
    check(
        "a",
        expect![[
            r#"0/3 nodes are available: 1 node(s) didn't satisfy plugin(s) [Racks], 2 node(s) in full racks. ["Racks"]"#
        ]],
    );
    check("none", expect![[r#"0/3 nodes are available: there is no such rack. ["Racks"]"#]]);
    // Skipped: the filter that needs what was not kept is not asked.
    check("", expect!["b1"]);
    let profile = scheduler.profile("racks").unwrap();
    expect![[r#"
        a1 refuses it by Racks: node(s) in full racks
        a2 refuses it by Racks: node(s) in full racks
        b1 refuses it by Racks: node(s) didn't satisfy plugin(s) [Racks]"#]]
    .assert_eq(&profile.explain(&pod("p", "a"), &nodes).join("\n"));
    assert!(scheduler.profile("default-scheduler").is_none());
}

fn configured(yaml: &str) -> Result<Scheduler, String> {
    let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    let config = Configuration::from_yaml(&format!("{head}{yaml}")).map_err(|error| error.to_string())?;
    let builder = Scheduler::builder()
        .register("Racks", |args: RacksArgs| match args.max {
            0 => Err("max is 0, and no pod would run"),
            max => Ok(Racks { max }),
        })
        .register("Other", |_: BTreeMap<String, String>| Ok::<_, Infallible>(Other));
    builder.configuration(&config).build().map_err(|error| error.to_string())
}

struct Other;

impl Plugin for Other {
    fn name(&self) -> &'static str {
        "Other"
    }
}

#[test]
fn a_configuration_says_what_runs_where() {
    let scheduler = configured(
        "
percentageOfNodesToScore: 30
leaderElection: {leaderElect: true}
profiles:
- schedulerName: first
  percentageOfNodesToScore: 70
  plugins:
    multiPoint:
      enabled: [{name: Racks}, {name: NodeAffinity, weight: 7}]
      disabled: [{name: ImageLocality}, {name: VolumeBinding}]
    score:
      disabled: [{name: NodeResourcesFit}]
      enabled: [{name: Racks, weight: 4}]
    postFilter:
      disabled: [{name: '*'}]
  pluginConfig:
  - name: Racks
    args: {max: 1}
- schedulerName: second
  plugins:
    multiPoint:
      disabled: [{name: '*'}]
      enabled: [{name: DefaultBinder}, {name: NodeResourcesFit}]
    filter:
      enabled: [{name: Other}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      scoringStrategy: {type: MostAllocated}
",
    )
    .unwrap();
    let first = scheduler.profile("first").unwrap();
    let names = |point| first.plugins(point).into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ");
    expect!["NodeUnschedulable NodeName TaintToleration NodeAffinity NodePorts NodeResourcesFit PodTopologySpread InterPodAffinity Racks"]
        .assert_eq(&names(Point::Filter));
    // What is said about one point of what runs anyway comes first there.
    expect![[r#"[("Racks", 4), ("TaintToleration", 3), ("NodeAffinity", 7), ("PodTopologySpread", 2), ("InterPodAffinity", 2), ("NodeResourcesBalancedAllocation", 1)]"#]]
        .assert_eq(&format!("{:?}", first.plugins(Point::Score)));
    assert_eq!(names(Point::PostFilter), "");
    assert_eq!(first.percentage_of_nodes_to_score(), Some(70));
    let second = scheduler.profile("second").unwrap();
    assert_eq!(second.percentage_of_nodes_to_score(), Some(30));
    assert_eq!(second.plugins(Point::Filter), [("NodeResourcesFit", 1), ("Other", 1)]);
    assert_eq!(second.plugins(Point::Reserve), []);

    let nodes = snapshot(&[("a1", "a"), ("b1", "b")], &[("x", "b1")]);
    assert_eq!(decided(&scheduler, "second", &pod("p", "any"), &nodes), "b1", "the fuller one");
    assert_eq!(decided(&scheduler, "first", &pod("p", "any"), &nodes), "a1", "the rack b is full");
}

#[test]
fn what_makes_no_sense_is_told_in_one_sentence() {
    let profile = |rest: &str| format!("profiles:\n- schedulerName: p\n{rest}");
    let multi = |rest: &str| profile(&format!("  plugins: {{multiPoint: {{enabled: [{rest}]}}}}\n"));
    let table = [
        (
            multi("{name: Rakcs}"),
            "the profile p names the plugin \"Rakcs\", which there is not; there are: DefaultBinder,",
        ),
        (
            multi("{name: VolumeBinding}"),
            "the profile p asks for the plugin VolumeBinding, which is not built here",
        ),
        (multi("{name: Racks}"), "the profile p, arguments of Racks: missing field `max`"),
        (
            multi("{name: Racks}") + "  pluginConfig: [{name: Racks, args: {max: 0}}]",
            "the profile p, arguments of Racks: max is 0, and no pod would run",
        ),
        (
            profile("  pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 5}}]"),
            "the profile p, arguments of InterPodAffinity: hardPodAffinityWeight 5 is not understood here",
        ),
        (
            profile("  plugins: {score: {enabled: [{name: NodeName}]}}"),
            "the profile p enables NodeName at Score, where it does nothing",
        ),
        (profile("- schedulerName: p"), "the profile p is there twice"),
        (
            profile("  plugins: {bind: {disabled: [{name: DefaultBinder}]}}"),
            "the profile p has no plugin that binds",
        ),
        (
            profile("  percentageOfNodesToScore: 101"),
            "the profile p scores more than 100 percent of the nodes",
        ),
        (
            "extenders: [{urlPrefix: 'http://x'}]".to_owned(),
            "extenders are not asked: a plugin can do what they do",
        ),
        ("podMaxBackoffSeconds: 0".to_owned(), "the first wait, 1s, is longer than none"),
        (profile("  plugin: {}"), "the scheduler's configuration cannot be read: "),
    ];
    for (yaml, why) in table {
        let error = configured(&yaml).unwrap_err();
        assert!(error.starts_with(why), "{yaml}\n{error}");
    }
    let old = "apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n";
    let error = Configuration::from_yaml(old).unwrap_err().to_string();
    assert!(
        error.ends_with("and not kubescheduler.config.k8s.io/v1beta3 KubeSchedulerConfiguration"),
        "{error}"
    );
    let twice = Scheduler::builder().plugin(Racks { max: 1 }).plugin(Racks { max: 2 }).build().unwrap_err();
    assert_eq!(twice.to_string(), "the plugin Racks in the profile default-scheduler is there twice");
}
