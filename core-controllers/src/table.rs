//! All controllers, under upstream's names, and which of them run.

use windlass::ManagerBuilder;

use crate::{
    Options, clusterrole_aggregation, cronjob, daemonset, deployment, disruption_budget, endpoints,
    endpointslice, endpointslice_mirroring, garbage, job, namespace, node_lifecycle, pod_gc, protection,
    replicaset, resource_quota, root_ca, service_account, statefulset, taint_eviction, ttl_after_finished,
};

/// A controller that can be chosen by name.
#[derive(Clone, Copy)]
pub struct Entry {
    /// As in `kube-controller-manager --controllers`.
    pub name: &'static str,
    /// Older or shorter names that mean the same.
    pub aliases: &'static [&'static str],
    /// Adds it to a manager.
    pub register: fn(&mut ManagerBuilder, &Options),
}

/// Every controller. Those that much depends on come first.
pub const ALL: &[Entry] = &[
    Entry {
        name: "serviceaccount-controller",
        aliases: &["serviceaccount"],
        register: service_account::register,
    },
    Entry {
        name: "root-ca-certificate-publisher-controller",
        aliases: &["root-ca-cert-publisher", "root-ca"],
        register: root_ca::register,
    },
    Entry {
        name: "clusterrole-aggregation-controller",
        aliases: &["clusterrole-aggregation"],
        register: clusterrole_aggregation::register,
    },
    Entry { name: "namespace-controller", aliases: &["namespace"], register: namespace::register },
    Entry { name: "deployment-controller", aliases: &["deployment"], register: deployment::register },
    Entry { name: "replicaset-controller", aliases: &["replicaset"], register: replicaset::register },
    Entry {
        name: "replicationcontroller-controller",
        aliases: &["replicationcontroller"],
        register: replicaset::register_replication,
    },
    Entry { name: "daemonset-controller", aliases: &["daemonset"], register: daemonset::register },
    Entry { name: "job-controller", aliases: &["job"], register: job::register },
    Entry { name: "cronjob-controller", aliases: &["cronjob"], register: cronjob::register },
    Entry {
        name: "ttl-after-finished-controller",
        aliases: &["ttl-after-finished"],
        register: ttl_after_finished::register,
    },
    Entry { name: "statefulset-controller", aliases: &["statefulset"], register: statefulset::register },
    Entry {
        name: "endpointslice-controller",
        aliases: &["endpointslice"],
        register: endpointslice::register,
    },
    Entry {
        name: "endpoints-controller",
        aliases: &["endpoint", "endpoints"],
        register: endpoints::register,
    },
    Entry {
        name: "endpointslice-mirroring-controller",
        aliases: &["endpointslicemirroring"],
        register: endpointslice_mirroring::register,
    },
    Entry {
        name: "garbage-collector-controller",
        aliases: &["garbagecollector", "garbage-collector"],
        register: garbage::register,
    },
    Entry {
        name: "node-lifecycle-controller",
        aliases: &["nodelifecycle", "node-lifecycle"],
        register: node_lifecycle::register,
    },
    Entry {
        name: "taint-eviction-controller",
        aliases: &["taint-eviction"],
        register: taint_eviction::register,
    },
    Entry {
        name: "resourcequota-controller",
        aliases: &["resourcequota"],
        register: resource_quota::register,
    },
    Entry {
        name: "persistentvolumeclaim-protection-controller",
        aliases: &["pvc-protection"],
        register: protection::register_claims,
    },
    Entry {
        name: "persistentvolume-protection-controller",
        aliases: &["pv-protection"],
        register: protection::register_volumes,
    },
    Entry {
        name: "volumeattributesclass-protection-controller",
        aliases: &["vac-protection"],
        register: protection::register_classes,
    },
    Entry { name: "disruption-controller", aliases: &["disruption"], register: disruption_budget::register },
    Entry { name: "pod-garbage-collector-controller", aliases: &["podgc"], register: pod_gc::register },
];

/// A name in `--controllers` that nothing has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name:?} is no controller; known are: {}", known.join(", "))]
pub struct Unknown {
    /// The name.
    pub name: String,
    /// All names there are.
    pub known: Vec<&'static str>,
}

/// Which controllers a list such as `*,-endpoints-controller` means: `*` is all, a name adds one, `-name` takes one
/// away, whatever the order.
pub fn select(list: &[String]) -> Result<Vec<Entry>, Unknown> {
    let list: Vec<&str> = list.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    let is = |entry: &Entry, name: &str| entry.name == name || entry.aliases.contains(&name);
    for name in list.iter().map(|name| name.trim_start_matches('-')).filter(|name| *name != "*") {
        if !ALL.iter().any(|entry| is(entry, name)) {
            let known = ALL.iter().map(|entry| entry.name).collect();
            return Err(Unknown { name: name.to_owned(), known });
        }
    }
    let has = |entry: &Entry| {
        let taken = list.iter().filter_map(|name| name.strip_prefix('-')).any(|name| is(entry, name));
        let given = list.iter().any(|name| *name == "*" || is(entry, name));
        given && !taken
    };
    Ok(ALL.iter().filter(|entry| has(entry)).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(list: &str) -> Result<Vec<&'static str>, Unknown> {
        let list: Vec<String> = list.split(',').map(str::to_owned).collect();
        Ok(select(&list)?.iter().map(|entry| entry.name).collect())
    }

    #[test]
    fn names_add_and_take_away() {
        assert_eq!(selected("*").unwrap().len(), ALL.len());
        assert_eq!(
            selected("deployment, replicaset-controller").unwrap(),
            ["deployment-controller", "replicaset-controller"]
        );
        assert!(!selected("-endpoints-controller,*").unwrap().contains(&"endpoints-controller"));
        assert!(selected("").unwrap().is_empty());
        assert_eq!(selected("*,-frobnicator").unwrap_err().name, "frobnicator");
    }
}
