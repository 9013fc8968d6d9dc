//! Which namespaces an operator watches: what its arguments say, else what the environment says, else what its code says.

use crate::Description;

/// The variable that operators of every framework read.
pub(super) const VARIABLE: &str = "WATCH_NAMESPACE";
const FLAG: &str = "--watch-namespace";

/// The most namespaces that are watched one by one; each is a watch for each kind.
const NAMESPACES_MAX: usize = 256;
/// The longest name of a namespace.
const NAME_MAX: usize = 63;

/// The namespaces in order, each once; none means all of them.
///
/// # Errors
/// A sentence that says which name is none, and who gave it.
pub(super) fn chosen(
    flag: Option<&str>,
    environment: Option<&str>,
    code: &[String],
) -> Result<Vec<String>, String> {
    let (from, mut names) = match (flag, environment) {
        (Some(text), _) => (FLAG, split(text)),
        (None, Some(text)) => (VARIABLE, split(text)),
        (None, None) => ("watch_namespaces", code.to_vec()),
    };
    names.sort();
    names.dedup();
    if let Some(wrong) = names.iter().find(|name| !is_name(name)) {
        return Err(format!(
            "{from} names the namespace {wrong:?}, which is none: names have lower-case letters, digits and '-' alone, \
             begin and end with a letter or digit, and have {NAME_MAX} characters at most"
        ));
    }
    if names.len() > NAMESPACES_MAX {
        let many = names.len();
        return Err(format!(
            "{from} names {many} namespaces, and {NAMESPACES_MAX} are watched one by one at most: name none to watch all"
        ));
    }
    Ok(names)
}

impl Description {
    /// The same operator where it watches these namespaces, as `--watch-namespace` names them: its rights, and what is
    /// made to run it, follow.
    ///
    /// # Errors
    /// A sentence that says which name is none.
    pub fn watching(mut self, namespaces: &str) -> Result<Self, String> {
        self.watch_namespaces = chosen(Some(namespaces), None, &[])?;
        Ok(self)
    }
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Whether a namespace can have this name (RFC 1123).
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= NAME_MAX
        && name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|c| plain(c) || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &[&str]) -> Vec<String> {
        text.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn arguments_come_before_the_environment_and_the_code() {
        let code = || names(&["c"]);
        assert_eq!(chosen(Some("b, a,b"), Some("x"), &code()), Ok(names(&["a", "b"])));
        assert_eq!(chosen(None, Some("x"), &code()), Ok(names(&["x"])));
        assert_eq!(chosen(None, None, &code()), Ok(code()));
        // Said, and empty: all of them.
        assert_eq!(chosen(Some(""), Some("x"), &code()), Ok(vec![]));
        assert_eq!(chosen(None, Some(""), &code()), Ok(vec![]));
    }

    #[test]
    fn a_name_that_is_none_is_told_with_who_gave_it() {
        let sentence = |from: &str, name: &str| {
            format!(
                "{from} names the namespace {name:?}, which is none: names have lower-case letters, digits and '-' \
                 alone, begin and end with a letter or digit, and have 63 characters at most"
            )
        };
        assert_eq!(chosen(None, Some("a,My_NS"), &[]), Err(sentence("WATCH_NAMESPACE", "My_NS")));
        assert_eq!(chosen(Some("-a"), None, &[]), Err(sentence("--watch-namespace", "-a")));
        assert_eq!(chosen(None, None, &names(&["*"])), Err(sentence("watch_namespaces", "*")));
        let long = "a".repeat(64);
        assert_eq!(chosen(Some(&long), None, &[]), Err(sentence("--watch-namespace", &long)));
        let many = (0..257).map(|n| format!("n{n}")).collect::<Vec<_>>().join(",");
        assert_eq!(
            chosen(Some(&many), None, &[]),
            Err("--watch-namespace names 257 namespaces, and 256 are watched one by one at most: name none to watch all".to_owned())
        );
    }
}
