//! The Node authorizer: a kubelet reads what its pods need, and nothing of other nodes.
//!
//! What a kubelet may write is narrowed further by NodeRestriction in admission, which sees objects. Source:
//! `plugin/pkg/auth/authorizer/node/node_authorizer.go`.

use std::sync::LazyLock;

use minicluster_store::Store;

use super::{
    Attributes, Rule, Verdict,
    graph::{Graph, Kind, PREFIXES},
};
use crate::{authn::Identity, bootstrap, view::Live};

const NODES: &str = "system:nodes";
const USER_PREFIX: &str = "system:node:";

/// What every node may do, whichever it is: the rules of the role `system:node`.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| bootstrap::rules_of("system:node"));

/// The name of the node that a user is, which may be empty; `None` for others.
pub(crate) fn name_of(user: &Identity) -> Option<&str> {
    user.name.strip_prefix(USER_PREFIX).filter(|_| user.is_in(NODES))
}

/// The authorizer.
pub(super) struct Node {
    graph: Live<Graph>,
}

impl Node {
    pub(super) fn new(store: &Store) -> Self {
        Self { graph: Live::new(store, PREFIXES) }
    }

    pub(super) fn ask(&self, user: &Identity, asked: &Attributes<'_>) -> Verdict {
        let Some(node) = name_of(user) else { return Verdict::no_opinion("") };
        if node.is_empty() {
            return Verdict::no_opinion(format!("unknown node for user \"{}\"", user.name));
        }
        let refused = match self.judge(node, asked) {
            Judged::Allowed => return Verdict::allow(""),
            Judged::Refused(why) => why,
            Judged::ByRules if RULES.iter().any(|rule| rule.allows(asked)) => return Verdict::allow(""),
            Judged::ByRules => String::new(),
        };
        Verdict::no_opinion(refused)
    }

    fn judge(&self, node: &str, asked: &Attributes<'_>) -> Judged {
        if !asked.is_resource {
            return Judged::ByRules;
        }
        match (asked.group, asked.resource) {
            ("", "secrets") => self.read_named(node, Kind::Secret, asked),
            ("", "configmaps") => self.read_named(node, Kind::ConfigMap, asked),
            ("", "persistentvolumeclaims") if asked.subresource == "status" => match asked.verb {
                "update" | "patch" => self.related(node, Kind::Claim, asked),
                _ => refuse("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims") => self.get(node, Kind::Claim, asked),
            ("", "persistentvolumes") => self.get(node, Kind::Volume, asked),
            ("resource.k8s.io", "resourceclaims") => self.get(node, Kind::ResourceClaim, asked),
            ("storage.k8s.io", "volumeattachments") => self.get(node, Kind::Attachment, asked),
            ("", "serviceaccounts") => self.service_account(node, asked),
            ("coordination.k8s.io", "leases") => lease(node, asked),
            ("storage.k8s.io", "csinodes") => csi_node(node, asked),
            ("resource.k8s.io", "resourceslices") => self.slice(node, asked),
            ("", "nodes") => own_node(node, asked),
            ("", "pods") => self.pod(node, asked),
            _ => Judged::ByRules,
        }
    }

    fn related(&self, node: &str, kind: Kind, asked: &Attributes<'_>) -> Judged {
        if asked.name.is_empty() {
            return refuse("No Object name found");
        }
        match self.graph.get().relates(node, kind, asked.namespace, asked.name) {
            true => Judged::Allowed,
            false => refuse(format!("no relationship found between node '{node}' and this object")),
        }
    }

    fn get(&self, node: &str, kind: Kind, asked: &Attributes<'_>) -> Judged {
        if asked.verb != "get" {
            return refuse("can only get individual resources of this type");
        }
        if !asked.subresource.is_empty() {
            return refuse("cannot get subresource");
        }
        self.related(node, kind, asked)
    }

    /// `get`, and `list` and `watch` of a single object, as kubelets follow secrets.
    fn read_named(&self, node: &str, kind: Kind, asked: &Attributes<'_>) -> Judged {
        if !asked.is_read_only() {
            return refuse("can only read resources of this type");
        }
        if !asked.subresource.is_empty() {
            return refuse("cannot read subresource");
        }
        if asked.namespace.is_empty() {
            return refuse("can only read namespaced object of this type");
        }
        self.related(node, kind, asked)
    }

    fn service_account(&self, node: &str, asked: &Attributes<'_>) -> Judged {
        if asked.verb == "get" && asked.subresource.is_empty() {
            return self.read_named(node, Kind::ServiceAccount, asked);
        }
        if asked.verb != "create" || asked.name.is_empty() {
            return refuse("can only create tokens for individual service accounts");
        }
        if asked.subresource != "token" {
            return refuse("can only create token subresource of serviceaccount");
        }
        self.related(node, Kind::ServiceAccount, asked)
    }

    fn slice(&self, node: &str, asked: &Attributes<'_>) -> Judged {
        if !asked.subresource.is_empty() {
            return refuse("cannot authorize ResourceSlice subresources");
        }
        match asked.verb {
            // Admission sees the new object and compares its node.
            "create" => Judged::Allowed,
            "get" | "update" | "patch" | "delete" => self.related(node, Kind::Slice, asked),
            "watch" | "list" | "deletecollection" if selects(asked, "spec.nodeName", node) => Judged::Allowed,
            "watch" | "list" | "deletecollection" => {
                refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                 delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, asked: &Attributes<'_>) -> Judged {
        match (asked.subresource, asked.verb) {
            ("", "get") => self.get(node, Kind::Pod, asked),
            ("", "list" | "watch") if selects(asked, "spec.nodeName", node) => Judged::Allowed,
            ("", "list" | "watch") if !asked.name.is_empty() => self.related(node, Kind::Pod, asked),
            ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
            // Which of them is for admission to say.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                Judged::Allowed
            }
            _ => refuse(""),
        }
    }
}

/// What is known before the static rules.
enum Judged {
    Allowed,
    Refused(String),
    ByRules,
}

fn refuse(why: impl Into<String>) -> Judged {
    Judged::Refused(why.into())
}

fn selects(asked: &Attributes<'_>, field: &str, value: &str) -> bool {
    asked.fields.iter().any(|term| term.equal && term.field == field && term.value == value)
}

fn lease(node: &str, asked: &Attributes<'_>) -> Judged {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != "kube-node-lease" {
        return refuse("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if asked.verb != "create" && asked.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Judged::Allowed
}

fn csi_node(node: &str, asked: &Attributes<'_>) -> Judged {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !asked.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if asked.verb != "create" && asked.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Judged::Allowed
}

fn own_node(node: &str, asked: &Attributes<'_>) -> Judged {
    match (asked.subresource, asked.verb, asked.name) {
        ("", "create" | "update" | "patch", _) | ("status", "update" | "patch", _) => Judged::Allowed,
        ("", "get" | "list" | "watch", name) if name == node => Judged::Allowed,
        ("", "get" | "list" | "watch", "") => {
            refuse(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch", name) => {
            refuse(format!("node '{node}' cannot read '{name}', only its own Node object"))
        }
        _ => refuse(""),
    }
}
