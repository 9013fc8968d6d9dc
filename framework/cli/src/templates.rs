//! The templates, as they are in the repository's folder `templates`: whole projects, of whose names a new project's are
//! made.

use std::collections::BTreeSet;

/// Every file of every template: its path, and its text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// The names of the templates.
pub(crate) fn names() -> BTreeSet<&'static str> {
    FILES.iter().filter_map(|(path, _)| Some(path.split_once('/')?.0)).collect()
}

/// What is special about a template, for `--help`.
fn about(name: &str) -> &'static str {
    match name {
        "basic" => "a kind and its controller",
        "dynamic" => "policies about objects of kinds that are known at run time alone",
        "webhook" => "hooks that fill in defaults and judge, and a policy",
        "multi-version" => "a kind in three versions, and their conversion",
        "scheduler-plugin" => "a scheduler with a plugin of its own",
        _ => "",
    }
}

/// What `--help` says about the templates.
pub(crate) fn help() -> String {
    let all: Vec<String> = names().into_iter().map(|name| format!("{name}: {}", about(name))).collect();
    format!("What it starts from: {}", all.join("; "))
}

/// The files of one template: their paths in it, and their texts.
pub(crate) fn files(template: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().filter_map(move |(path, text)| {
        let (name, inside) = path.split_once('/')?;
        (name == template).then_some((inside, *text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_has_a_word_for_each() {
        assert!(names().contains("basic"));
        assert!(names().into_iter().all(|name| !about(name).is_empty()), "{}", help());
    }
}
