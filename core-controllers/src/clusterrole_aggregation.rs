//! The cluster role aggregation controller: a ClusterRole with an `aggregationRule` holds the rules of all ClusterRoles
//! that its selectors name.
//!
//! It writes nothing but `rules`, by server-side apply. Behaves as upstream's `clusterrole-aggregation-controller`.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use windlass::{Action, Controller, Error, Key, Lister, ManagerBuilder, Reconcile, Request, Scope};
use windlass_crd::selector::LabelSelector;

use crate::Options;

const MANAGER: &str = "clusterrole-aggregation-controller";

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let roles = manager.informers().get::<ClusterRole>(Scope::all()).lister();
    let all = roles.clone();
    let controller = Controller::<ClusterRole>::new("clusterrole_aggregation")
        .workers(options.workers)
        // Who gathers whom may change with any role, and there are few: every change is everybody's.
        .watches::<ClusterRole, _>(Scope::all(), move |_, _| {
            all.all()
                .iter()
                .filter(|role| role.aggregation_rule.is_some())
                .map(|role| Key::of(&**role))
                .collect::<Vec<_>>()
        });
    manager.add(controller.build(Aggregation { roles }));
}

struct Aggregation {
    roles: Lister<ClusterRole>,
}

impl Reconcile<ClusterRole> for Aggregation {
    async fn reconcile(&self, request: Request<ClusterRole>) -> Result<Action, Error> {
        let Some(role) = request.object else { return Ok(Action::Done) };
        let mut all = self.roles.all();
        all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let Some(rules) = gathered(&role, all.iter().map(|role| &**role)) else { return Ok(Action::Done) };
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(Action::Done);
        }
        let patch = Patch::Apply(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": role.metadata.name }, "rules": rules,
        }));
        let params = PatchParams::apply(MANAGER).force();
        request.client.patch_as::<ClusterRole>(&request.key, &params, &patch).await.map(|_| Action::Done)
    }
}

/// The rules of all roles that a role selects, each once, in the order given. `None`: it selects nothing.
fn gathered<'r>(
    role: &ClusterRole,
    all: impl Iterator<Item = &'r ClusterRole> + Clone,
) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        // A selector that makes no sense selects nothing.
        let selector = serde_json::to_value(selector).ok();
        let Ok(selector) = LabelSelector::from_json(selector.as_ref()) else { continue };
        let chosen = all.clone().filter(|other| {
            let labels = other.metadata.labels.clone().unwrap_or_default();
            other.metadata.name != role.metadata.name && selector.matches(&labels)
        });
        for rule in chosen.flat_map(|other| other.rules.as_deref().unwrap_or_default()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, labels: serde_json::Value, more: serde_json::Value) -> ClusterRole {
        let mut role = json!({"metadata": {"name": name, "labels": labels}});
        for (key, value) in more.as_object().into_iter().flatten() {
            role[key] = value.clone();
        }
        serde_json::from_value(role).unwrap()
    }

    #[test]
    fn rules_are_gathered_once_and_never_from_oneself() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let gathers = json!({"aggregationRule": {"clusterRoleSelectors": [
            {"matchLabels": {"to": "x"}}, {"matchExpressions": [{"key": "also", "operator": "Exists"}]}]},
            "rules": [rule("own")]});
        let all = [
            role("a", json!({"to": "x"}), json!({"rules": [rule("get"), rule("list")]})),
            role("b", json!({"also": ""}), json!({"rules": [rule("list"), rule("watch")]})),
            role("c", json!({"to": "y"}), json!({"rules": [rule("delete")]})),
            role("x", json!({"to": "x"}), gathers),
        ];
        let verbs = |role: &ClusterRole| {
            gathered(role, all.iter())
                .map(|rules| rules.iter().map(|rule| rule.verbs[0].clone()).collect::<Vec<_>>())
        };
        assert_eq!(verbs(&all[3]).unwrap(), ["get", "list", "watch"]);
        assert_eq!(verbs(&all[0]), None);
        let nobody = role("n", json!({}), json!({"aggregationRule": {}}));
        assert_eq!(gathered(&nobody, all.iter()), Some(Vec::new()));
    }
}
