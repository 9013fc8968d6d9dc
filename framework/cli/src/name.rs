//! The names of a new project, all from one: its package, its module, its kind and the kind's plural.

use anyhow::{bail, ensure};

/// The longest name: a label of DNS, with room for what Kubernetes appends to the names of pods.
const LONGEST: usize = 40;

/// Names that a package cannot have: Rust's words, and crates that every project uses.
const TAKEN: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "k8s-openapi",
    "kube",
    "let",
    "loop",
    "macro",
    "match",
    "minicluster",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "schemars",
    "self",
    "serde",
    "serde-json",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "tokio",
    "tracing-subscriber",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "windlass",
    "yield",
    "target",
    "deps",
    "build",
    "examples",
    "incremental",
];

/// Kinds that the templates use already.
const TAKEN_KINDS: &[&str] = &[
    "Action",
    "Api",
    "Arc",
    "Asked",
    "BTreeMap",
    "Body",
    "Box",
    "Budget",
    "Builder",
    "Certificates",
    "Client",
    "Clone",
    "Condition",
    "ConfigMap",
    "Container",
    "Controller",
    "CustomResource",
    "CustomResourceDefinition",
    "Debug",
    "Default",
    "Defaults",
    "Denied",
    "Deployment",
    "DeploymentSpec",
    "Deserialize",
    "Duration",
    "Eq",
    "Err",
    "Error",
    "EventType",
    "Faults",
    "Hook",
    "Identity",
    "Informer",
    "Informers",
    "Instant",
    "IntOrString",
    "Key",
    "Kind",
    "LabelSelector",
    "ManagerBuilder",
    "Mutate",
    "Mutex",
    "Namespace",
    "Namespaces",
    "None",
    "ObjectMeta",
    "Ok",
    "Operator",
    "Option",
    "Ord",
    "Patch",
    "Pod",
    "PodSpec",
    "Policy",
    "Reconcile",
    "Reconciler",
    "Request",
    "Result",
    "Review",
    "Rollout",
    "Rules",
    "RunningOperator",
    "Schema",
    "Scope",
    "Secret",
    "Self",
    "Send",
    "Serialize",
    "Service",
    "Some",
    "Source",
    "Status",
    "String",
    "Sync",
    "TestCluster",
    "Validate",
    "Value",
    "Vec",
    "Verdict",
    "Webhooks",
    "World",
];

/// What a project is called, in every form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// `guest-book`: the package, the program, and its objects in a cluster.
    pub(crate) kebab: String,
    /// `guest_book`: the module.
    pub(crate) snake: String,
    /// `GuestBook`.
    pub(crate) kind: String,
    /// `guestbooks`, as the derive forms it.
    pub(crate) plural: String,
    /// `example.com`.
    pub(crate) group: String,
}

impl Names {
    /// The names of a project.
    ///
    /// # Errors
    /// A sentence that says which name cannot be used, and why.
    pub(crate) fn new(name: &str, kind: Option<&str>, group: &str) -> anyhow::Result<Self> {
        check(name)?;
        let kind = kind.map_or_else(|| kind_of(name), str::to_owned);
        check_kind_shape(&kind)?;
        ensure!(!TAKEN_KINDS.contains(&kind.as_str()), "the kind {kind} is taken; --kind names another");
        check_group(group)?;
        Ok(Self {
            kebab: name.to_owned(),
            snake: name.replace('-', "_"),
            plural: plural(&kind.to_lowercase()),
            kind,
            group: group.to_owned(),
        })
    }

    /// A template's text with these names in the place of the template's.
    pub(crate) fn render(&self, text: &str) -> String {
        let words = self.kebab.replace('-', " ");
        let table = [
            ("templatenames", &self.plural),
            ("template-name", &self.kebab),
            ("template_name", &self.snake),
            ("TemplateName", &self.kind),
            ("templatename", &self.kind.to_lowercase()),
            ("template name", &words),
            ("example.com", &self.group),
        ];
        table.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }
}

/// Whether a project can have a kind of this name.
///
/// # Errors
/// A sentence that says why not.
pub(crate) fn check_kind(kind: &str) -> anyhow::Result<()> {
    check_kind_shape(kind)?;
    let module = words(kind).join("_");
    let taken = TAKEN_KINDS.contains(&kind) || TAKEN.contains(&module.replace('_', "-").as_str());
    ensure!(!taken && module != "lib" && module != "main", "the name {kind} is taken already");
    Ok(())
}

fn check_kind_shape(kind: &str) -> anyhow::Result<()> {
    let letters = kind.chars().all(|c| c.is_ascii_alphanumeric());
    let begins = kind.starts_with(|c: char| c.is_ascii_uppercase());
    ensure!(letters && begins && kind.len() <= LONGEST, "{kind:?} is no kind: it is written as in GuestBook");
    Ok(())
}

/// Whether this is a group.
///
/// # Errors
/// A sentence that says that it is not.
pub(crate) fn check_group(group: &str) -> anyhow::Result<()> {
    let labels: Vec<&str> = group.split('.').collect();
    let good = labels.len() > 1 && labels.iter().all(|label| is_label(label)) && group.len() <= 253;
    ensure!(good, "{group:?} is no group: it is a domain, as in example.com");
    Ok(())
}

/// The words of a kind: `guest` and `book` of `GuestBook`, `http` and `route` of `HTTPRoute`.
pub(crate) fn words(kind: &str) -> Vec<String> {
    let letters: Vec<char> = kind.chars().collect();
    let mut words: Vec<String> = Vec::new();
    for (at, letter) in letters.iter().enumerate() {
        let after_lower = at > 0 && !letters[at - 1].is_ascii_uppercase();
        let before_lower = letters.get(at + 1).is_some_and(char::is_ascii_lowercase);
        let begins = at == 0 || letter.is_ascii_uppercase() && (after_lower || before_lower);
        match words.last_mut() {
            Some(word) if !begins => word.push(letter.to_ascii_lowercase()),
            _ => words.push(letter.to_ascii_lowercase().to_string()),
        }
    }
    words
}

fn check(name: &str) -> anyhow::Result<()> {
    if !is_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.contains("--") {
        bail!(
            "{name:?} is no name for an operator: it is written as in guest-book, and begins with a letter"
        );
    }
    ensure!(name.len() <= LONGEST, "{name:?} is longer than {LONGEST} letters");
    ensure!(!TAKEN.contains(&name), "{name:?} is a name that Rust or a crate has already");
    Ok(())
}

/// Whether this is a label of DNS.
fn is_label(text: &str) -> bool {
    let inner = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    inner && !text.is_empty() && text.len() <= 63 && !text.starts_with('-') && !text.ends_with('-')
}

/// `guest-book-operator` is about the kind `GuestBook`.
fn kind_of(name: &str) -> String {
    let about = name.strip_suffix("-operator").or_else(|| name.strip_suffix("-controller")).unwrap_or(name);
    let upper = |word: &str| word[..1].to_uppercase() + &word[1..];
    about.split('-').map(upper).collect()
}

/// English, as far as kube's derive speaks it.
fn plural(word: &str) -> String {
    let before_y = word.strip_suffix('y').filter(|rest| !rest.ends_with(['a', 'e', 'i', 'o', 'u']));
    if let Some(rest) = before_y.filter(|rest| !rest.is_empty()) {
        return format!("{rest}ies");
    }
    let hisses = ["s", "x", "z", "ch", "sh"].iter().any(|end| word.ends_with(end));
    format!("{word}{}", if hisses { "es" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_follow_from_one() {
        let names = |name| {
            let n = Names::new(name, None, "example.com").unwrap();
            format!("{} {} {} {}", n.kebab, n.snake, n.kind, n.plural)
        };
        assert_eq!(names("guestbook"), "guestbook guestbook Guestbook guestbooks");
        assert_eq!(
            names("guest-book-operator"),
            "guest-book-operator guest_book_operator GuestBook guestbooks"
        );
        assert_eq!(names("box2-fox"), "box2-fox box2_fox Box2Fox box2foxes");
        assert_eq!(names("remedy"), "remedy remedy Remedy remedies");
        assert_eq!(names("relay"), "relay relay Relay relays");
    }

    #[test]
    fn a_kind_falls_into_words() {
        let table = [
            ("GuestBook", "guest book"),
            ("HTTPRoute", "http route"),
            ("Box2Fox", "box2 fox"),
            ("DaemonSetURL", "daemon set url"),
            ("A", "a"),
        ];
        for (kind, expected) in table {
            assert_eq!(words(kind).join(" "), expected);
        }
        assert_eq!(check_kind("Pod").unwrap_err().to_string(), "the name Pod is taken already");
        assert_eq!(check_kind("Match").unwrap_err().to_string(), "the name Match is taken already");
        assert_eq!(
            check_kind("page").unwrap_err().to_string(),
            "\"page\" is no kind: it is written as in GuestBook"
        );
    }

    #[test]
    fn bad_names_are_told_why() {
        let shape = "is no name for an operator: it is written as in guest-book, and begins with a letter";
        let table = [
            ("", format!("\"\" {shape}")),
            ("Guestbook", format!("\"Guestbook\" {shape}")),
            ("guest_book", format!("\"guest_book\" {shape}")),
            ("../up", format!("\"../up\" {shape}")),
            ("-a", format!("\"-a\" {shape}")),
            ("a--b", format!("\"a--b\" {shape}")),
            ("1a", format!("\"1a\" {shape}")),
            ("süß", format!("\"süß\" {shape}")),
            ("kube", "\"kube\" is a name that Rust or a crate has already".to_owned()),
            ("deployment", "the kind Deployment is taken; --kind names another".to_owned()),
            (
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                format!("{:?} is longer than 40 letters", "a".repeat(41)),
            ),
        ];
        for (name, sentence) in table {
            assert_eq!(Names::new(name, None, "example.com").unwrap_err().to_string(), sentence);
        }
        let group = |group| Names::new("a", None, group).unwrap_err().to_string();
        assert_eq!(group("example"), "\"example\" is no group: it is a domain, as in example.com");
        assert_eq!(group("a..b"), "\"a..b\" is no group: it is a domain, as in example.com");
        let kind = Names::new("a", Some("guest"), "a.b").unwrap_err().to_string();
        assert_eq!(kind, "\"guest\" is no kind: it is written as in GuestBook");
    }
}
