//! The templates, as they are in the repository's folder `templates`: whole projects, of whose names a new project's are
//! made.

use std::collections::BTreeSet;

/// Every file of every template: its path, and its text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// The names of the templates.
pub(crate) fn names() -> BTreeSet<&'static str> {
    FILES.iter().filter_map(|(path, _)| Some(path.split_once('/')?.0)).collect()
}

/// The files of one template: their paths in it, and their texts.
pub(crate) fn files(template: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().filter_map(move |(path, text)| {
        let (name, inside) = path.split_once('/')?;
        (name == template).then_some((inside, *text))
    })
}
