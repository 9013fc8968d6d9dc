//! The texts of what is added, as they are in `framework/cli/parts`: whole files, of whose names those of the new part are
//! made.

use super::project::Project;
use crate::name;

pub(super) const KIND: &str = include_str!("../../parts/kind.rs");
pub(super) const SAMPLE: &str = include_str!("../../parts/sample.yaml");
pub(super) const CONTROLLER: &str = include_str!("../../parts/controller.rs");
pub(super) const CONTROLLER_TEST: &str = include_str!("../../parts/controller_test.rs");
pub(super) const HOOKS: &str = include_str!("../../parts/hooks.rs");
pub(super) const HOOKS_TEST: &str = include_str!("../../parts/hooks_test.rs");
pub(super) const WEBHOOKS: &str = include_str!("../../parts/webhooks.rs");

/// What the texts are about.
pub(super) struct Part<'a> {
    pub(super) kind: &'a str,
    pub(super) group: &'a str,
    pub(super) version: &'a str,
    pub(super) project: &'a Project,
}

impl Part<'_> {
    /// `guest_book`.
    pub(super) fn module(&self) -> String {
        name::words(self.kind).join("_")
    }

    pub(super) fn render(&self, text: &str) -> String {
        let table = [
            ("part_kind", self.module()),
            ("part-kind", name::words(self.kind).join("-")),
            ("PartKind", self.kind.to_owned()),
            ("part_crate", self.project.library.clone()),
            ("part-operator", self.project.operator()),
            ("part.group", self.group.to_owned()),
            ("part-version", self.version.to_owned()),
        ];
        table.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }
}
