//! The alphabet soup of Kubernetes names: which strings may name what.
//!
//! Each function answers `Ok` or upstream's own text of what is wrong; several faults are joined with `; ` by
//! [`all`]-style callers only where upstream reports them apart. Nothing here knows which field it checks.

/// What upstream says about a bad name. Several texts where upstream reports several faults.
pub type Faults = Vec<String>;

/// The longest DNS label.
pub const LABEL_MAX: usize = 63;
/// The longest DNS subdomain.
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// The text for a value that misses its pattern.
#[must_use]
pub fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let mut out = format!("{message} (e.g. ");
    for (i, example) in examples.iter().enumerate() {
        if i > 0 {
            out.push_str(" or ");
        }
        out.push_str(&format!("'{example}', "));
    }
    out.push_str(&format!("regex used for validation is '{pattern}')"));
    out
}

/// The text for a value longer than its bound.
#[must_use]
pub fn max_len_error(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// The text for a number outside its bounds.
#[must_use]
pub fn range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// The text for an empty value.
pub const EMPTY_ERROR: &str = "must be non-empty";

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// `[first]([-middle]*[last])?` on bytes.
fn shaped(text: &str, first: fn(u8) -> bool, middle: fn(u8) -> bool, last: fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [one] => first(*one),
        [a, inner @ .., z] => first(*a) && last(*z) && inner.iter().all(|b| middle(*b)),
    }
}

fn is_label(text: &str) -> bool {
    shaped(text, lower_alnum, |b| lower_alnum(b) || b == b'-', lower_alnum)
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn joined(faults: &[String]) -> Result<(), String> {
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

/// Faults of an RFC 1123 label: Pod containers, Namespaces, Services since 1.34's relaxation, port names' cousins.
#[must_use]
pub fn dns1123_label_faults(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > LABEL_MAX {
        faults.push(max_len_error(LABEL_MAX));
    }
    if !is_label(value) {
        faults.push(if is_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                 start and end with an alphanumeric character",
                LABEL_FMT,
                &["my-name", "123-abc"],
            )
        });
    }
    faults
}

/// Faults of an RFC 1123 subdomain: the name of most objects.
#[must_use]
pub fn dns1123_subdomain_faults(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_len_error(SUBDOMAIN_MAX));
    }
    if !is_subdomain(value) {
        faults.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            SUBDOMAIN_FMT,
            &["example.com"],
        ));
    }
    faults
}

/// Faults of an RFC 1035 label: the name of a Service.
#[must_use]
pub fn dns1035_label_faults(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > LABEL_MAX {
        faults.push(max_len_error(LABEL_MAX));
    }
    if !shaped(value, |b| b.is_ascii_lowercase(), |b| lower_alnum(b) || b == b'-', lower_alnum) {
        faults.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    faults
}

/// An RFC 1123 label.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn dns1123_label(value: &str) -> Result<(), String> {
    joined(&dns1123_label_faults(value))
}

/// An RFC 1123 subdomain.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn dns1123_subdomain(value: &str) -> Result<(), String> {
    joined(&dns1123_subdomain_faults(value))
}

/// An RFC 1035 label.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn dns1035_label(value: &str) -> Result<(), String> {
    joined(&dns1035_label_faults(value))
}

/// A wildcard subdomain of an Ingress host: `*.example.com`.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn wildcard_dns1123_subdomain(value: &str) -> Result<(), String> {
    let mut faults = Faults::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_len_error(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        faults.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
             consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{SUBDOMAIN_FMT}"),
            &["*.example.com"],
        ));
    }
    joined(&faults)
}

fn qualified_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')
}

fn is_qualified_part(text: &str) -> bool {
    shaped(text, |b| b.is_ascii_alphanumeric(), qualified_byte, |b| b.is_ascii_alphanumeric())
}

const QUALIFIED_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MSG: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// Faults of a qualified name, `prefix/name`: label keys, annotation keys, finalizers, resource names.
#[must_use]
pub fn qualified_name_faults(value: &str) -> Faults {
    let mut faults = Faults::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push(format!("prefix part {EMPTY_ERROR}"));
            } else {
                faults
                    .extend(dns1123_subdomain_faults(prefix).into_iter().map(|f| format!("prefix part {f}")));
            }
            *name
        }
        _ => {
            let text = regex_error(QUALIFIED_MSG, QUALIFIED_FMT, &["MyName", "my.name", "123-abc"]);
            faults.push(format!(
                "a valid label key {text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
            return faults;
        }
    };
    if name.is_empty() {
        faults.push(format!("name part {EMPTY_ERROR}"));
    } else if name.len() > LABEL_MAX {
        faults.push(format!("name part {}", max_len_error(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        let text = regex_error(QUALIFIED_MSG, QUALIFIED_FMT, &["MyName", "my.name", "123-abc"]);
        faults.push(format!("name part {text}"));
    }
    faults
}

/// A qualified name.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn qualified_name(value: &str) -> Result<(), String> {
    joined(&qualified_name_faults(value))
}

/// The key of a label: a qualified name.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn label_key(value: &str) -> Result<(), String> {
    qualified_name(value)
}

/// Faults of the value of a label.
#[must_use]
pub fn label_value_faults(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > LABEL_MAX {
        faults.push(max_len_error(LABEL_MAX));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        faults.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    faults
}

/// The value of a label.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn label_value(value: &str) -> Result<(), String> {
    joined(&label_value_faults(value))
}

/// The name of an environment variable: any printable ASCII but `=`.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn env_name(value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err(format!("environment variable name {EMPTY_ERROR}"));
    }
    if value.bytes().any(|b| !(0x20..0x7f).contains(&b) || b == b'=') {
        return Err("a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned());
    }
    Ok(())
}

/// A C identifier.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn c_identifier(value: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !value.is_empty() && value.bytes().all(word) && !value.as_bytes()[0].is_ascii_digit() {
        return Ok(());
    }
    Err(regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
         characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    ))
}

/// The key of a ConfigMap or a Secret: safe as a file name.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn config_map_key(value: &str) -> Result<(), String> {
    let mut faults = Faults::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_len_error(SUBDOMAIN_MAX));
    }
    if value.is_empty() || !value.bytes().all(qualified_byte) {
        faults.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    faults.extend(file_name_faults(value));
    joined(&faults)
}

fn file_name_faults(value: &str) -> Faults {
    match value {
        "." => vec!["must not be '.'".to_owned()],
        ".." => vec!["must not be '..'".to_owned()],
        _ if value.starts_with("..") => vec!["must not start with '..'".to_owned()],
        _ => Faults::new(),
    }
}

/// A name that stands as one segment of a URL path: RBAC objects.
#[must_use]
pub fn path_segment_faults(value: &str) -> Faults {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ['/', '%'].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// Faults of an IANA service name: the name of a port.
#[must_use]
pub fn port_name_faults(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > 15 {
        faults.push(max_len_error(15));
    }
    if value.is_empty() || !value.bytes().all(|b| lower_alnum(b) || b == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// An IANA service name.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn port_name(value: &str) -> Result<(), String> {
    joined(&port_name_faults(value))
}

/// A port number, 1 to 65535.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn port_number(value: i64) -> Result<(), String> {
    if (1..=65535).contains(&value) { Ok(()) } else { Err(range_error(1, 65535)) }
}

/// The name of an HTTP header.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn http_header_name(value: &str) -> Result<(), String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Ok(());
    }
    Err(regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    ))
}

/// A percentage: `25%`.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn percent(value: &str) -> Result<(), String> {
    let digits = value.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    Err(regex_error(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    ))
}

/// An IP address.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn ip(value: &str) -> Result<(), String> {
    joined(&crate::address::ip_faults(value))
}

/// Faults of a DNS name as resolvers are given them, underscores and all.
#[must_use]
pub fn dns_name_with_underscores_faults(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_len_error(SUBDOMAIN_MAX));
    }
    let label = |label: &str| {
        let inner = label.strip_prefix('_').unwrap_or(label);
        shaped(inner, lower_alnum, |b| lower_alnum(b) || matches!(b, b'-' | b'_'), lower_alnum)
    };
    if !value.split('.').all(label) {
        faults.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and \
             must start and end with an alphanumeric character",
            "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for good in ["a", "a-b", "0", "123-abc", &"a".repeat(63)] {
            assert_eq!(dns1123_label(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "ä", &"a".repeat(64)] {
            assert!(dns1123_label(bad).is_err(), "{bad}");
        }
        assert_eq!(dns1123_label("a.b"), Err("must not contain dots".to_owned()));
        assert_eq!(
            dns1123_label("A").unwrap_err(),
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        );
        assert!(dns1035_label("1a").is_err());
        assert_eq!(dns1035_label("a1-b"), Ok(()));
    }

    #[test]
    fn subdomains_and_qualified_names() {
        for good in ["a", "a.b", "a-b.c-d", "1.2"] {
            assert_eq!(dns1123_subdomain(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "a..b", "a.", "A.b"] {
            assert!(dns1123_subdomain(bad).is_err(), "{bad}");
        }
        for good in ["a", "A_b.c", "example.com/Name", "1"] {
            assert_eq!(qualified_name(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "Ex.com/a", "-a", &"a".repeat(64)] {
            assert!(qualified_name(bad).is_err(), "{bad}");
        }
        assert_eq!(
            qualified_name_faults("example.com/"),
            vec![
                "name part must be non-empty".to_owned(),
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                 alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                    .to_owned()
            ]
        );
    }

    #[test]
    fn values_ports_and_keys() {
        assert_eq!(label_value(""), Ok(()));
        assert!(label_value("a b").is_err());
        assert_eq!(label_value(&"a".repeat(64)), Err("must be no more than 63 bytes".to_owned()));
        assert_eq!(port_name("http"), Ok(()));
        assert_eq!(port_name_faults("123"), vec!["must contain at least one letter (a-z)".to_owned()]);
        assert_eq!(port_name_faults("a--b"), vec!["must not contain consecutive hyphens".to_owned()]);
        assert_eq!(port_number(0), Err("must be between 1 and 65535, inclusive".to_owned()));
        assert_eq!(config_map_key("..a"), Err("must not start with '..'".to_owned()));
        assert_eq!(config_map_key("a.b_c-D"), Ok(()));
        assert!(config_map_key("a/b").is_err());
        assert_eq!(env_name("a b"), Ok(()));
        assert!(env_name("a=b").is_err());
        assert_eq!(path_segment_faults("a/b%"), vec!["may not contain '/'", "may not contain '%'"]);
        assert_eq!(percent("25%"), Ok(()));
        assert!(percent("x%").is_err());
    }
}
