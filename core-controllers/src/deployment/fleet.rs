//! The ReplicaSets of a Deployment while a plan is made: what they are, and what they shall be.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::plan::{self, Update};

/// All sets, the oldest first.
pub(super) struct Fleet {
    pub(super) members: Vec<Member>,
    /// Which of them has the present template.
    pub(super) newest: Option<usize>,
}

pub(super) struct Member {
    /// As the cluster has it; `None` if it is yet to be made.
    pub(super) was: Option<Arc<ReplicaSet>>,
    /// As it shall be.
    pub(super) next: ReplicaSet,
}

impl Member {
    pub(super) fn wanted(&self) -> i32 {
        plan::wanted(&self.next)
    }

    pub(super) fn available(&self) -> i32 {
        self.next.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }

    pub(super) fn is_active(&self) -> bool {
        self.wanted() > 0
    }

    /// Sets how many pods are wanted and notes, for proportional scaling, of how many that is a part.
    pub(super) fn scale(&mut self, deployment: &Deployment, replicas: i32) {
        if let Some(spec) = &mut self.next.spec {
            spec.replicas = Some(replicas);
        }
        super::revision::note_sizes(&mut self.next, deployment);
    }
}

impl Fleet {
    pub(super) fn newest(&self) -> Option<&Member> {
        self.newest.map(|i| &self.members[i])
    }

    pub(super) fn newest_mut(&mut self) -> Option<&mut Member> {
        self.newest.map(|i| &mut self.members[i])
    }

    /// The sets of older templates, the oldest first.
    pub(super) fn old(&self) -> impl Iterator<Item = &Member> {
        let newest = self.newest;
        self.members.iter().enumerate().filter(move |(i, _)| Some(*i) != newest).map(|(_, m)| m)
    }

    pub(super) fn old_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        let newest = self.newest;
        self.members.iter_mut().enumerate().filter(move |(i, _)| Some(*i) != newest).map(|(_, m)| m)
    }

    /// How many pods all sets together want.
    pub(super) fn wanted(&self) -> i32 {
        self.members.iter().map(Member::wanted).sum()
    }

    pub(super) fn available(&self) -> i32 {
        self.members.iter().map(Member::available).sum()
    }

    /// The set to be made, and the sets to be changed.
    pub(super) fn changes(&self) -> (Option<ReplicaSet>, Vec<Update>) {
        let create = self.members.iter().find(|m| m.was.is_none()).map(|m| m.next.clone());
        let changed = |member: &Member| {
            let was = member.was.clone()?;
            (*was != member.next).then(|| Update { was, next: member.next.clone() })
        };
        (create, self.members.iter().filter_map(changed).collect())
    }
}
