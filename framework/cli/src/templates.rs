//! The templates, as they are in the repository's folder `templates`: whole projects, of whose names a new project's are
//! made.

use std::collections::BTreeSet;

/// Every file of every template: its path, and its text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// The names of the templates.
pub(crate) fn names() -> BTreeSet<&'static str> {
    FILES.iter().filter_map(|(path, _)| Some(path.split_once('/')?.0)).collect()
}

/// What `--help` says about them: each begins its README.md with a sentence about itself.
pub(crate) fn help() -> String {
    let about = |name: &str| {
        let readme = files(name).find(|(path, _)| *path == "README.md");
        let first = readme.and_then(|(_, text)| text.lines().find(|line| line.starts_with("An operator")));
        let words = first.unwrap_or_default().trim_start_matches("An operator on Windlass");
        let words = words.trim_start_matches([',', ' ']).trim_end_matches(['.', ':']);
        if words.is_empty() { name.to_owned() } else { format!("{name} ({words})") }
    };
    let all: Vec<String> = names().into_iter().map(about).collect();
    format!("What it starts from: {}", all.join(", "))
}

/// The files of one template: their paths in it, and their texts.
pub(crate) fn files(template: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().filter_map(move |(path, text)| {
        let (name, inside) = path.split_once('/')?;
        (name == template).then_some((inside, *text))
    })
}
