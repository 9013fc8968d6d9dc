//! The rolling update: node by node the old pod goes before the new one comes, as many at a time as may be unavailable;
//! or, in a set that surges, the new one comes first, on as many nodes at a time as may have two. Pure.

use std::sync::Arc;

use k8s_openapi::{
    api::{apps::v1::DaemonSet, core::v1::Pod},
    apimachinery::pkg::util::intstr::IntOrString as ApiIntOrString,
};
use windlass_crd::int_or_string::{IntOrString, Round};

use super::{fit::Fit, plan::View};
use crate::pods;

/// Whether pods are replaced without anybody deleting them.
pub(super) fn rolls(set: &DaemonSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

/// Whether a node may have an old and a new pod for a while.
pub(super) fn surges(set: &DaemonSet) -> bool {
    rolls(set) && bounds(set, 100).0 > 0
}

/// How many nodes may have two pods, and how many may have none that serves.
fn bounds(set: &DaemonSet, wanted: usize) -> (usize, usize) {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let total = i64::try_from(wanted).unwrap_or(i64::MAX);
    let share = |value: Option<&ApiIntOrString>, default: i32| {
        let value = match value {
            Some(ApiIntOrString::Int(number)) => IntOrString::Int(*number),
            Some(ApiIntOrString::String(text)) => IntOrString::String(text.clone()),
            None => IntOrString::Int(default),
        };
        usize::try_from(value.scaled(total, Round::Up).unwrap_or(0)).unwrap_or(0)
    };
    let surge = share(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
    let unavailable = share(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), 1);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// The pod of the present template and the one before it that a node has.
enum Node<'p> {
    New(&'p Arc<Pod>),
    Old(&'p Arc<Pod>),
    Both {
        new: &'p Arc<Pod>,
        old: &'p Arc<Pod>,
    },
    Neither,
    /// More of one kind than one: that is put right first.
    Crowded,
}

fn look<'p>(view: &View<'p>, node: &str) -> Node<'p> {
    let staying = view.pods_on(node).iter().copied().filter(|pod| !pods::is_terminating(pod));
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = staying.partition(|pod| view.is_new(pod));
    match (new.as_slice(), old.as_slice()) {
        ([], []) => Node::Neither,
        ([new], []) => Node::New(new),
        ([], [old]) => Node::Old(old),
        ([new], [old]) => Node::Both { new, old },
        _ => Node::Crowded,
    }
}

/// The nodes that get a new pod, and the old pods that go.
pub(super) fn roll(view: &View<'_>) -> (Vec<String>, Vec<Arc<Pod>>) {
    let wanted = view.nodes.values().filter(|fit| **fit == Fit::Wanted).count();
    let (surge, unavailable) = bounds(view.set, wanted);
    if surge == 0 { (Vec::new(), replace(view, unavailable)) } else { surged(view, surge, wanted) }
}

fn replace(view: &View<'_>, most: usize) -> Vec<Arc<Pod>> {
    let (mut ill, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
    for node in view.by_node.keys() {
        match look(view, node) {
            Node::Neither | Node::Both { .. } | Node::Crowded => ill += 1,
            Node::New(pod) => ill += usize::from(!view.is_available(pod)),
            // What serves nobody is replaced at no cost.
            Node::Old(pod) if !view.is_available(pod) => {
                broken.push(pod.clone());
                ill += 1;
            }
            Node::Old(pod) => candidates.push(pod.clone()),
        }
    }
    candidates.truncate(most.saturating_sub(ill));
    broken.extend(candidates);
    broken
}

fn surged(view: &View<'_>, most: usize, wanted: usize) -> (Vec<String>, Vec<Arc<Pod>>) {
    let (mut surging, mut serving) = (0, 0);
    let (mut gone, mut spared) = (Vec::new(), Vec::new());
    let (mut broken, mut candidates) = (Vec::new(), Vec::new());
    for node in view.by_node.keys() {
        let look = look(view, node);
        if let Node::New(pod) | Node::Old(pod) | Node::Both { old: pod, .. } = look {
            serving += usize::from(view.is_available(pod));
        }
        match look {
            Node::Crowded => surging += 1,
            Node::Neither | Node::New(_) => {}
            Node::Both { new, old } if view.is_available(new) => gone.push(Arc::clone(old)),
            Node::Both { .. } => surging += 1,
            // A node that is only spared gets no new pod: the old one goes, but not while it is needed.
            Node::Old(pod) if view.nodes.get(node) != Some(&Fit::Wanted) => {
                let list = if view.is_available(pod) { &mut spared } else { &mut gone };
                list.push(Arc::clone(pod));
            }
            Node::Old(pod) if !view.is_available(pod) => broken.push((*node).to_owned()),
            Node::Old(_) => candidates.push((*node).to_owned()),
        }
    }
    gone.extend(spared.into_iter().take(usize::saturating_sub(serving, wanted)));
    candidates.truncate(most.saturating_sub(surging));
    broken.extend(candidates);
    (broken, gone)
}
