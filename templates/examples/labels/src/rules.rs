//! What a standard makes of an object, and of the numbers. Pure: nothing here reads or writes anything.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::{ApiResource, ObjectMeta};

use crate::{Standard, Usage, Violation};

/// The annotation that takes an object out, and says why.
pub const EXEMPT: &str = "labels.dev/exempt";

/// What a standard makes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is not about this object.
    Foreign,
    /// It would be, but for a reason that somebody gave.
    Exempt,
    /// There is nothing to inherit.
    Orphan,
    /// It carries its namespace's value.
    Carries,
    /// It has to be given this value.
    Lacks(String),
}

/// The labels of each namespace.
pub type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// Whether a name fits a pattern, in which `*` is any text.
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

/// Whether a standard is about a kind.
pub(crate) fn covers(standard: &Standard, kind: &ApiResource) -> bool {
    let name = name(kind);
    standard.spec.kinds.iter().any(|pattern| matches(pattern, &name))
}

/// What a standard makes of an object.
pub fn judge(
    standard: &Standard,
    kind: &ApiResource,
    object: &ObjectMeta,
    namespaces: &Namespaces,
) -> Verdict {
    let Some(namespace) = &object.namespace else {
        return Verdict::Foreign;
    };
    let spec = &standard.spec;
    if !covers(standard, kind)
        || object.deletion_timestamp.is_some()
        || spec
            .exempt_namespaces
            .iter()
            .any(|pattern| matches(pattern, namespace))
    {
        return Verdict::Foreign;
    }
    let reason = object
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(EXEMPT));
    if reason.is_some_and(|reason| !reason.trim().is_empty()) {
        return Verdict::Exempt;
    }
    let Some(wanted) = namespaces
        .get(namespace)
        .and_then(|labels| labels.get(&spec.label))
    else {
        return Verdict::Orphan;
    };
    match object.labels.as_ref().and_then(|labels| labels.get(&spec.label)) {
        Some(value) if value == wanted => Verdict::Carries,
        _ => Verdict::Lacks(wanted.clone()),
    }
}

/// What was counted of all objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) objects: i64,
    pub(crate) exempt: i64,
    pub(crate) lacking: i64,
    /// By namespace and kind.
    pub(crate) by_place: BTreeMap<(String, String), i64>,
    /// Namespaces with objects that have nothing to inherit.
    pub(crate) orphans: BTreeSet<String>,
}

impl Counts {
    pub(crate) fn add(&mut self, namespace: &str, kind: &str, verdict: &Verdict) {
        match verdict {
            Verdict::Foreign => return,
            Verdict::Exempt => {
                self.exempt += 1;
                return;
            }
            Verdict::Orphan => {
                self.orphans.insert(namespace.to_owned());
            }
            Verdict::Carries => {}
            Verdict::Lacks(_) => self.lacking += 1,
        }
        self.objects += 1;
        *self
            .by_place
            .entry((namespace.to_owned(), kind.to_owned()))
            .or_default() += 1;
    }

    pub(crate) fn usage(&self, standard: &Standard) -> Vec<Usage> {
        let limit = |kind: &str| {
            standard
                .spec
                .quotas
                .iter()
                .find(|quota| quota.kind == kind)
                .map(|q| q.limit)
        };
        let usage = |((namespace, kind), objects): (&(String, String), &i64)| {
            Some(Usage {
                namespace: namespace.clone(),
                kind: kind.clone(),
                objects: *objects,
                limit: limit(kind)?,
            })
        };
        self.by_place.iter().filter_map(usage).collect()
    }

    pub(crate) fn violations(&self, standard: &Standard) -> Vec<Violation> {
        let orphan = |namespace: &String| Violation {
            namespace: namespace.clone(),
            reason: "NoLabel".to_owned(),
            message: format!("the namespace {namespace} has no label {}", standard.spec.label),
        };
        let over = |usage: &Usage| Violation {
            namespace: usage.namespace.clone(),
            reason: "OverQuota".to_owned(),
            message: format!(
                "{} has {} {}, and {} are allowed",
                usage.namespace, usage.objects, usage.kind, usage.limit
            ),
        };
        let usage = self.usage(standard);
        let mut all: Vec<Violation> = self.orphans.iter().map(orphan).collect();
        all.extend(usage.iter().filter(|usage| usage.objects > usage.limit).map(over));
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use kube::api::GroupVersionKind;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_inherits_unless_it_is_exempt() {
        let spec = json!({ "label": "cost", "kinds": ["config*"], "exemptNamespaces": ["kube-*"] });
        let standard = Standard::new("main", serde_json::from_value(spec).unwrap());
        let namespaces: Namespaces = serde_json::from_value(
            json!({ "shop": { "cost": "a" }, "bare": {}, "kube-system": { "cost": "k" } }),
        )
        .unwrap();
        let maps = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap"));
        let pods = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
        let lacks = || Verdict::Lacks("a".to_owned());
        let table = [
            (&maps, json!({ "namespace": "shop" }), lacks()),
            (
                &maps,
                json!({ "namespace": "shop", "labels": { "cost": "b" } }),
                lacks(),
            ),
            (
                &maps,
                json!({ "namespace": "shop", "labels": { "cost": "a" } }),
                Verdict::Carries,
            ),
            (
                &maps,
                json!({ "namespace": "shop", "annotations": { EXEMPT: "shared" } }),
                Verdict::Exempt,
            ),
            (
                &maps,
                json!({ "namespace": "shop", "annotations": { EXEMPT: " " } }),
                lacks(),
            ),
            (&maps, json!({ "namespace": "bare" }), Verdict::Orphan),
            (&maps, json!({ "namespace": "kube-system" }), Verdict::Foreign),
            (&maps, json!({}), Verdict::Foreign),
            (&pods, json!({ "namespace": "shop" }), Verdict::Foreign),
        ];
        for (kind, meta, expected) in table {
            let object: ObjectMeta = serde_json::from_value(meta).unwrap();
            assert_eq!(
                judge(&standard, kind, &object, &namespaces),
                expected,
                "{object:?}"
            );
        }
    }
}
