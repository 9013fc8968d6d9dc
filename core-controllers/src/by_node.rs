//! An index of pods by the node they are bound to.

use k8s_openapi::api::core::v1::Pod;
use windlass::Index;

use crate::pods;

/// Pods by node name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByNode;

impl Index<Pod> for ByNode {
    type Value = String;

    fn values(&self, pod: &Pod, emit: &mut dyn FnMut(String)) {
        if let Some(node) = pods::node(pod) {
            emit(node.to_owned());
        }
    }

    fn same(&self, _other: &Self) -> bool {
        true
    }
}
