//! The operator's webhooks: one server, which every replica runs.

use windlass::{
    ManagerBuilder,
    webhook::{Certificates, Hook, Webhooks},
};

use crate::part_kind_webhooks;

/// Adds the server, with all hooks.
pub(crate) fn add(manager: &mut ManagerBuilder) {
    let webhooks = Webhooks::new("part-operator-webhooks", Certificates::self_signed())
        .mutate(part_kind_webhooks::Defaults, Hook::default())
        .validate(part_kind_webhooks::Rules, Hook::default());
    manager.add(webhooks);
}
