//! What a process asks of the API: the rules that its service account needs.
//!
//! Nobody writes them down: a controller needs what it was told to watch, to own and to write, and [`Rules`] is the sum
//! of that. It becomes RBAC in [`crate::Description`], and a manager that was made with [`crate::Manager::guarded`] holds
//! every request to it, so that what was forgotten is found in a test.

use std::{any::TypeId, collections::BTreeMap, fmt, ops::BitOr};

use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::core::ClusterResourceScope;
use serde::{Deserialize, Serialize};

use crate::{Key, Object, Scope, scope};

/// A set of API verbs.
///
/// ```
/// use windlass::Verbs;
///
/// assert_eq!((Verbs::GET | Verbs::APPLY).to_string(), "get, create, patch");
/// assert!(Verbs::ALL.contains(Verbs::READ));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verbs(u8);

/// Verbs by bit, in the order in which RBAC lists them.
const NAMES: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

impl Verbs {
    /// Read one.
    pub const GET: Self = Self(1);
    /// Read many.
    pub const LIST: Self = Self(1 << 1);
    /// Be told of changes.
    pub const WATCH: Self = Self(1 << 2);
    /// Make one.
    pub const CREATE: Self = Self(1 << 3);
    /// Replace one.
    pub const UPDATE: Self = Self(1 << 4);
    /// Change one.
    pub const PATCH: Self = Self(1 << 5);
    /// Delete one.
    pub const DELETE: Self = Self(1 << 6);
    /// Delete many.
    pub const DELETE_COLLECTION: Self = Self(1 << 7);
    /// What a cache does: get, list and watch.
    pub const READ: Self = Self(0b0000_0111);
    /// What server-side apply does: patch, and create what is not there.
    pub const APPLY: Self = Self(0b0010_1000);
    /// Read and write, one at a time.
    pub const ALL: Self = Self(0b0111_1111);

    /// Whether all of `other` are in this set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of the verbs.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| name)
    }

    /// The verb of this name alone; `None` for a name that is none of the eight.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().position(|known| *known == name).map(|bit| Self(1 << bit))
    }
}

impl BitOr for Verbs {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(", "))
    }
}

/// Where a rule holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// In the whole cluster.
    Everywhere,
    /// In the namespaces that the process watches: in the whole cluster, unless some were chosen when it started. What is
    /// said of kinds with a namespace, and of no namespace, is said of this.
    Watched,
    /// In the namespace that the process itself lives in.
    Own,
    /// In this namespace.
    Namespace(String),
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct About {
    place: Place,
    group: String,
    /// `pods`, or `pods/status`.
    resource: String,
    /// Only this object.
    name: Option<String>,
}

/// What a process asks of the API. Rules only add up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Line>", into = "Vec<Line>")]
pub struct Rules(BTreeMap<About, Verbs>);

impl Rules {
    /// Allows verbs on a kind, in the namespaces of a scope.
    pub fn allow<K: Object>(&mut self, scope: &Scope, verbs: Verbs)
    where
        K::DynamicType: Default,
    {
        self.allow_sub::<K>(scope, "", verbs);
    }

    /// Allows verbs on a subresource of a kind, such as `status`, in the namespaces of a scope.
    pub fn allow_sub<K: Object>(&mut self, scope: &Scope, sub: &str, verbs: Verbs)
    where
        K::DynamicType: Default,
    {
        self.allow_kind::<K>(&K::DynamicType::default(), scope, sub, verbs);
    }

    pub(crate) fn allow_kind<K: Object>(
        &mut self,
        kind: &K::DynamicType,
        scope: &Scope,
        sub: &str,
        verbs: Verbs,
    ) {
        let (group, plural) = (K::group(kind), K::plural(kind));
        let resource = if sub.is_empty() { plural.into_owned() } else { format!("{plural}/{sub}") };
        let cluster = TypeId::of::<K::Scope>() == TypeId::of::<ClusterResourceScope>();
        // Nobody knows of a kind known at run time alone whether its objects have a namespace.
        let anywhere = cluster || (scope.namespaces.is_empty() && !scope::is_narrowed::<K>());
        for place in if anywhere { vec![Place::Everywhere] } else { Place::of(scope) } {
            self.allow_resource(place, &group, &resource, verbs);
        }
    }

    /// Allows verbs on a resource known by name, such as `pods` or `pods/eviction` of the group `""`; `*` is any.
    pub fn allow_resource(&mut self, place: Place, group: &str, resource: &str, verbs: Verbs) {
        self.add(About { place, group: group.to_owned(), resource: resource.to_owned(), name: None }, verbs);
    }

    /// Allows verbs on one object of a resource. Creating cannot be held to a name.
    pub fn allow_named(&mut self, place: Place, group: &str, resource: &str, name: &str, verbs: Verbs) {
        let name = Some(name.to_owned());
        self.add(About { place, group: group.to_owned(), resource: resource.to_owned(), name }, verbs);
    }

    /// Allows what others allow, too.
    pub fn extend(&mut self, others: &Self) {
        for (about, verbs) in &others.0 {
            self.add(about.clone(), *verbs);
        }
    }

    /// What is needed to record events about objects of a scope.
    pub(crate) fn allow_events(&mut self, places: Vec<Place>) {
        for place in places {
            self.allow_resource(place, "", "events", Verbs::CREATE | Verbs::PATCH);
        }
    }

    /// What is needed to hold a lease.
    pub(crate) fn allow_lease(&mut self, name: &str) {
        let group = "coordination.k8s.io";
        self.allow_resource(Place::Own, group, "leases", Verbs::CREATE);
        self.allow_named(Place::Own, group, "leases", name, Verbs::GET | Verbs::UPDATE);
        self.allow_events(vec![Place::Own]);
    }

    fn add(&mut self, about: About, verbs: Verbs) {
        let known = self.0.entry(about).or_default();
        *known = *known | verbs;
    }

    /// The verbs that are allowed on a resource in a namespace, or on the whole cluster when there is none.
    #[must_use]
    pub fn verbs(&self, namespace: Option<&str>, group: &str, resource: &str, name: Option<&str>) -> Verbs {
        let is = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        let holds = |about: &About| {
            let here = match &about.place {
                Place::Everywhere | Place::Watched => true,
                Place::Namespace(only) => namespace == Some(only.as_str()),
                Place::Own => false,
            };
            let named = about.name.is_none() || about.name.as_deref() == name;
            here && named && is(&about.group, group) && is(&about.resource, resource)
        };
        self.0.iter().filter(|(about, _)| holds(about)).fold(Verbs::default(), |all, (_, verbs)| all | *verbs)
    }

    /// The same rules with the process's own namespace by its name.
    #[must_use]
    pub fn at_home(&self, own: &str) -> Self {
        let mut rules = Self::default();
        for (about, verbs) in &self.0 {
            let place = match &about.place {
                Place::Own => Place::Namespace(own.to_owned()),
                other => other.clone(),
            };
            rules.add(About { place, ..about.clone() }, *verbs);
        }
        rules
    }

    /// The same rules for a process that watches these namespaces, or the whole cluster when there are none.
    #[must_use]
    pub fn within(&self, watched: &[String]) -> Self {
        let mut rules = Self::default();
        for (about, verbs) in &self.0 {
            let places = match &about.place {
                Place::Watched if watched.is_empty() => vec![Place::Everywhere],
                Place::Watched => watched.iter().cloned().map(Place::Namespace).collect(),
                other => vec![other.clone()],
            };
            for place in places {
                rules.add(About { place, ..about.clone() }, *verbs);
            }
        }
        rules
    }

    /// The places that there are rules for.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = self.0.keys().map(|about| about.place.clone()).collect();
        places.dedup();
        places
    }

    /// The rules of a place as RBAC states them: resources of one group that allow the same are one rule. What is
    /// allowed everywhere is not repeated for a namespace.
    #[must_use]
    pub fn policy(&self, place: &Place) -> Vec<PolicyRule> {
        let mut merged: BTreeMap<(&str, Option<&str>, Verbs), Vec<String>> = BTreeMap::new();
        for (about, verbs) in self.0.iter().filter(|(about, _)| about.place == *place) {
            let anywhere = About { place: Place::Everywhere, ..about.clone() };
            let implied = *place != Place::Everywhere
                && self.0.get(&anywhere).is_some_and(|everywhere| everywhere.contains(*verbs));
            if !implied {
                let id = (about.group.as_str(), about.name.as_deref(), *verbs);
                merged.entry(id).or_default().push(about.resource.clone());
            }
        }
        let rule =
            |((group, name, verbs), resources): ((&str, Option<&str>, Verbs), Vec<String>)| PolicyRule {
                api_groups: Some(vec![group.to_owned()]),
                resource_names: name.map(|name| vec![name.to_owned()]),
                resources: Some(resources),
                verbs: verbs.names().map(str::to_owned).collect(),
                non_resource_urls: None,
            };
        let mut rules: Vec<PolicyRule> = merged.into_iter().map(rule).collect();
        rules.sort_by(|a, b| (&a.api_groups, &a.resources).cmp(&(&b.api_groups, &b.resources)));
        rules
    }
}

impl Place {
    /// The namespaces of a scope.
    pub(crate) fn of(scope: &Scope) -> Vec<Self> {
        match &scope.namespaces[..] {
            [] => vec![Self::Watched],
            some => some.iter().cloned().map(Self::Namespace).collect(),
        }
    }

    /// Where events about a kind's objects in a scope are: beside the object, or in `default` when it has no namespace.
    pub(crate) fn of_events<K: Object>(scope: &Scope) -> Vec<Self>
    where
        K::DynamicType: Default,
    {
        match Key::for_kind::<K>(Some("a"), "a").namespace() {
            Some(_) => Self::of(scope),
            None => vec![Self::Namespace("default".to_owned())],
        }
    }
}

/// A rule as it is written down.
#[derive(Clone, Serialize, Deserialize)]
struct Line {
    place: Place,
    group: String,
    resource: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    verbs: Vec<String>,
}

impl From<Vec<Line>> for Rules {
    fn from(lines: Vec<Line>) -> Self {
        let mut rules = Self::default();
        for Line { place, group, resource, name, verbs } in lines {
            let verbs = verbs.iter().filter_map(|v| Verbs::named(v)).fold(Verbs::default(), BitOr::bitor);
            rules.add(About { place, group, resource, name }, verbs);
        }
        rules
    }
}

impl From<Rules> for Vec<Line> {
    fn from(rules: Rules) -> Self {
        let line = |(About { place, group, resource, name }, verbs): (About, Verbs)| Line {
            place,
            group,
            resource,
            name,
            verbs: verbs.names().map(str::to_owned).collect(),
        };
        rules.0.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};

    use super::*;

    fn rules() -> Rules {
        let (all, mut rules) = (Scope::all(), Rules::default());
        rules.allow::<Pod>(&all, Verbs::READ);
        rules.allow::<ConfigMap>(&all, Verbs::READ);
        rules.allow_sub::<Pod>(&all, "eviction", Verbs::CREATE);
        rules.allow::<Secret>(&Scope::namespace("vault"), Verbs::GET);
        rules.allow::<ConfigMap>(&Scope::namespace("vault"), Verbs::GET);
        // A scope of namespaces does not hold for what has none.
        rules.allow::<Node>(&Scope::namespace("vault"), Verbs::PATCH);
        rules.allow_lease("boats");
        rules
    }

    fn text(rules: &[PolicyRule]) -> Vec<String> {
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default().join(",");
        let line = |r: &PolicyRule| {
            let what = format!("{}/{}", list(&r.api_groups), list(&r.resources));
            format!("{what} {} {}", list(&r.resource_names), r.verbs.join(","))
        };
        rules.iter().map(line).collect()
    }

    #[test]
    fn rules_add_up_to_policies() {
        let rules = rules().within(&[]);
        assert_eq!(
            text(&rules.policy(&Place::Everywhere)),
            ["/configmaps,pods  get,list,watch", "/nodes  patch", "/pods/eviction  create"]
        );
        assert_eq!(text(&rules.policy(&Place::Namespace("vault".into()))), ["/secrets  get"]);
        assert_eq!(
            text(&rules.policy(&Place::Own)),
            [
                "/events  create,patch",
                "coordination.k8s.io/leases  create",
                "coordination.k8s.io/leases boats get,update"
            ]
        );
    }

    #[test]
    fn namespaces_that_are_watched_take_the_place_of_the_cluster() {
        let rules = rules().within(&["a".to_owned(), "vault".to_owned()]);
        assert_eq!(text(&rules.policy(&Place::Everywhere)), ["/nodes  patch"], "nodes have no namespace");
        let pods = ["/configmaps,pods  get,list,watch", "/pods/eviction  create"];
        assert_eq!(text(&rules.policy(&Place::Namespace("a".into()))), pods);
        // What was asked for there by name adds up with it.
        let vault = ["/configmaps,pods  get,list,watch", "/pods/eviction  create", "/secrets  get"];
        assert_eq!(text(&rules.policy(&Place::Namespace("vault".into()))), vault);
        assert_eq!(rules.verbs(Some("b"), "", "pods", None), Verbs::default());
        assert_eq!(rules.verbs(None, "", "pods", None), Verbs::default(), "a list of all namespaces");
    }

    #[test]
    fn verbs_are_allowed_where_a_rule_holds() {
        let rules = rules().at_home("sea");
        let verbs = |ns, group, resource, name| rules.verbs(ns, group, resource, name).to_string();
        assert_eq!(verbs(Some("a"), "", "pods", Some("p")), "get, list, watch");
        assert_eq!(verbs(Some("a"), "", "secrets", None), "");
        assert_eq!(verbs(Some("vault"), "", "secrets", None), "get");
        assert_eq!(verbs(None, "", "secrets", None), "", "a list of all namespaces");
        assert_eq!(verbs(None, "", "nodes", Some("n")), "patch");
        let lease = |ns, name| verbs(Some(ns), "coordination.k8s.io", "leases", Some(name));
        assert_eq!(lease("sea", "boats"), "get, create, update");
        assert_eq!((lease("sea", "others"), lease("lake", "boats")), ("create".into(), String::new()));
    }

    #[test]
    fn rules_are_read_as_they_were_written() {
        let text = serde_json::to_string(&rules()).unwrap();
        assert_eq!(serde_json::from_str::<Rules>(&text).unwrap(), rules());
    }
}
