//! What one object lacks. Pure: nothing here reads or writes anything.
//!
//! An object that a policy writes to carries a mark besides: an annotation of the policy's name whose value lists what it
//! was given. So a policy knows what it once wrote without reading `managedFields`, and a shorter list is noticed.

use std::{borrow::Cow, collections::BTreeMap};

use kube::{
    ResourceExt,
    api::{ApiResource, ObjectMeta},
    core::{Selector, SelectorExt},
};

use crate::TemplateName;

/// What an object is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations, with the mark.
    pub annotations: BTreeMap<String, String>,
}

/// What a policy makes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is none of its business.
    Foreign,
    /// It carries all of it. `yields` names the label or annotation that an older policy decides about.
    Carries { yields: Option<String> },
    /// It has to be given this.
    Lacks {
        carried: Carried,
        yields: Option<String>,
    },
    /// It was given something once, and is selected no longer.
    Released,
}

/// The annotation that says what a policy gave to an object.
pub fn mark(policy: &TemplateName) -> String {
    format!("templatename.example.com/{}", policy.name_any())
}

/// Whether the name of a resource fits a pattern, in which `*` is any text.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(name) = name.strip_prefix(start) else {
        return false;
    };
    (0..=name.len()).any(|at| name.is_char_boundary(at) && matches(rest, &name[at..]))
}

/// Such as `configmaps` or `deployments.apps`.
pub(crate) fn name(kind: &ApiResource) -> String {
    match kind.group.as_str() {
        "" => kind.plural.clone(),
        group => format!("{}.{group}", kind.plural),
    }
}

/// What a policy makes of an object, beside the policies that there are.
pub fn judge(
    policy: &TemplateName,
    all: &[impl AsRef<TemplateName>],
    kind: &ApiResource,
    object: &ObjectMeta,
) -> Verdict {
    let mark = mark(policy);
    let marked = object
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(&mark));
    if !selects(policy, kind, object) {
        return if marked {
            Verdict::Released
        } else {
            Verdict::Foreign
        };
    }
    let older: Vec<&TemplateName> = all
        .iter()
        .map(AsRef::as_ref)
        .filter(|p| is_older(p, policy) && selects(p, kind, object))
        .collect();
    let (carried, yields) = carried(policy, &older, mark);
    if has(&object.labels, &carried.labels) && has(&object.annotations, &carried.annotations) {
        return Verdict::Carries { yields };
    }
    Verdict::Lacks { carried, yields }
}

/// What a policy gives to an object that these older ones select, too.
fn carried(policy: &TemplateName, older: &[&TemplateName], mark: String) -> (Carried, Option<String>) {
    let mut carried = Carried {
        labels: policy.spec.labels.clone(),
        annotations: policy.spec.annotations.clone(),
    };
    let mut yields = None;
    let mut give_way = |key: &str, mine: &str, theirs: Option<&String>| {
        let differs = theirs.is_some_and(|theirs| theirs != mine);
        if differs && yields.is_none() {
            yields = Some(key.to_owned());
        }
        !differs
    };
    for other in older {
        carried
            .labels
            .retain(|key, mine| give_way(key, mine, other.spec.labels.get(key)));
        carried
            .annotations
            .retain(|key, mine| give_way(key, mine, other.spec.annotations.get(key)));
    }
    let given: Vec<Cow<'_, str>> = (carried.labels.keys().map(|key| Cow::from(key.as_str())))
        .chain(
            carried
                .annotations
                .keys()
                .map(|key| Cow::from(format!("annotation {key}"))),
        )
        .collect();
    let given = given.join(", ");
    carried.annotations.insert(mark, given);
    (carried, yields)
}

/// A policy that is on its way out selects nothing; neither does one whose selector makes no sense.
pub(crate) fn selects(policy: &TemplateName, kind: &ApiResource, object: &ObjectMeta) -> bool {
    let name = name(kind);
    if policy.metadata.deletion_timestamp.is_some()
        || object.deletion_timestamp.is_some()
        || !policy.spec.kinds.iter().any(|pattern| matches(pattern, &name))
    {
        return false;
    }
    let none = BTreeMap::new();
    match policy.spec.selector.clone().map(Selector::try_from) {
        None => true,
        Some(Ok(selector)) => selector.matches(object.labels.as_ref().unwrap_or(&none)),
        Some(Err(_)) => false,
    }
}

fn is_older(one: &TemplateName, other: &TemplateName) -> bool {
    let age = |policy: &TemplateName| (policy.creation_timestamp(), policy.name_any());
    age(one) < age(other)
}

fn has(there: &Option<BTreeMap<String, String>>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| there.as_ref().and_then(|there| there.get(key)) == Some(value))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::api::GroupVersionKind;
    use serde_json::json;

    use super::*;

    fn policy(name: &str, spec: serde_json::Value) -> Arc<TemplateName> {
        Arc::new(TemplateName::new(name, serde_json::from_value(spec).unwrap()))
    }

    fn object(labels: serde_json::Value, annotations: serde_json::Value) -> ObjectMeta {
        serde_json::from_value(json!({ "name": "cart", "labels": labels, "annotations": annotations }))
            .unwrap()
    }

    #[test]
    fn patterns_are_about_whole_names() {
        let table = [
            ("configmaps", "configmaps", true),
            ("configmaps", "configmaps.shop", false),
            ("*.apps", "deployments.apps", true),
            ("*.apps", "apps", false),
            ("*", "configmaps", true),
            ("d*s.*", "daemonsets.apps", true),
            ("d*s.*", "deployment", false),
            ("", "configmaps", false),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn an_object_is_judged_by_what_it_carries() {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "Deployment"));
        let main = policy(
            "main",
            json!({ "kinds": ["*.apps"], "selector": { "matchLabels": { "app": "shop" } }, "labels": { "team": "a" } }),
        );
        let all = [main.clone()];
        let mark = mark(&main);
        let marked = json!({ (mark.as_str()): "team" });
        let longer = json!({ (mark.as_str()): "old, team" });
        let given = || Carried {
            labels: [("team".to_owned(), "a".to_owned())].into(),
            annotations: [(mark.clone(), "team".to_owned())].into(),
        };
        let lacks = || Verdict::Lacks {
            carried: given(),
            yields: None,
        };
        let table = [
            (json!({}), json!({}), Verdict::Foreign),
            (json!({}), marked.clone(), Verdict::Released),
            (json!({ "app": "shop" }), json!({}), lacks()),
            (json!({ "app": "shop", "team": "b" }), marked.clone(), lacks()),
            (json!({ "app": "shop", "team": "a" }), longer, lacks()),
            (
                json!({ "app": "shop", "team": "a" }),
                marked,
                Verdict::Carries { yields: None },
            ),
        ];
        for (labels, annotations, expected) in table {
            let object = object(labels, annotations);
            assert_eq!(judge(&main, &all, &kind, &object), expected, "{object:?}");
        }
    }

    #[test]
    fn the_older_policy_has_its_way() {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap"));
        let first = policy(
            "a",
            json!({ "kinds": ["*"], "labels": { "team": "a", "tier": "1" } }),
        );
        let second = policy(
            "b",
            json!({ "kinds": ["*"], "labels": { "team": "b", "tier": "1", "own": "x" } }),
        );
        let all = [second.clone(), first.clone()];
        let object = object(json!({}), json!({}));
        let given = |policy: &TemplateName| match judge(policy, &all, &kind, &object) {
            Verdict::Lacks { carried, yields } => (Vec::from_iter(carried.labels), yields),
            other => panic!("{other:?}"),
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(given(&first), (vec![pair("team", "a"), pair("tier", "1")], None));
        assert_eq!(
            given(&second),
            (vec![pair("own", "x"), pair("tier", "1")], Some("team".to_owned()))
        );
    }
}
