//! The options of requests, read from the query and checked before anything else is done with it.
//!
//! Source: `k8s.io/apimachinery/pkg/apis/meta/{v1,internalversion}/validation`, and the errors of Go's `strconv`, which
//! clients are shown as they are.

use serde_json::json;
use windlass_crd::field::{self, Error, ErrorList, quote};

use crate::{
    request::Query,
    status::{ApiError, ApiResult},
};

/// The group of all options.
const GROUP: &str = "meta.k8s.io";

/// The longest name of a field manager, in bytes.
const FIELD_MANAGER_MAX: usize = 128;

/// 422 of options that break their rules.
pub(crate) fn refuse(kind: &str, errors: &[Error]) -> ApiResult<()> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_of(kind, GROUP, "", errors)) }
}

/// Checks the options of a create or an update.
///
/// # Errors
/// 422.
pub(crate) fn check_write(query: &Query, kind: &str) -> ApiResult<()> {
    refuse(kind, &write_errors(query))
}

/// Checks the options of a patch.
///
/// # Errors
/// 422.
pub(crate) fn check_patch(query: &Query, applies: bool) -> ApiResult<()> {
    let mut errors = ErrorList::new();
    if applies && query.get("fieldManager").unwrap_or_default().is_empty() {
        errors.push(Error::required(field::root("fieldManager"), "is required for apply patch"));
    }
    if !applies && query.get("force").is_some() {
        errors.push(Error::forbidden(field::root("force"), "may not be specified for non-apply patch"));
    }
    errors.extend(write_errors(query));
    refuse("PatchOptions", &errors)
}

fn write_errors(query: &Query) -> ErrorList {
    let mut errors = field_manager_errors(query.get("fieldManager").unwrap_or_default());
    let dry: Vec<&str> = query.all("dryRun").collect();
    errors.extend(dry_run_errors(&dry));
    let validation = query.get("fieldValidation").unwrap_or_default();
    const VALIDATIONS: [&str; 4] = ["", "Ignore", "Strict", "Warn"];
    if !VALIDATIONS.contains(&validation) {
        errors.push(Error::not_supported(field::root("fieldValidation"), validation, &VALIDATIONS));
    }
    errors
}

/// What is wrong with `dryRun`.
pub(crate) fn dry_run_errors(values: &[&str]) -> ErrorList {
    if values.iter().all(|value| *value == "All") {
        return ErrorList::new();
    }
    vec![Error::not_supported(field::root("dryRun"), json!(values), &["All"])]
}

fn field_manager_errors(name: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    if name.len() > FIELD_MANAGER_MAX {
        errors.push(Error::too_long(field::root("fieldManager"), FIELD_MANAGER_MAX));
    }
    for (at, c) in name.char_indices().filter(|(_, c)| !is_printable(*c)) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.push(Error::invalid(field::root("fieldManager"), name, why));
    }
    errors
}

/// Letters, marks, numbers, symbols and the plain space.
fn is_printable(c: char) -> bool {
    c == ' ' || !(c.is_control() || c.is_whitespace())
}

/// A number of the query, as Go reads one.
///
/// # Errors
/// 400.
pub(crate) fn number(query: &Query, key: &str) -> ApiResult<Option<i64>> {
    let Some(text) = query.get(key).filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| ApiError::bad_request(number_fault("ParseInt", text)))
}

/// Why Go's `strconv` cannot read a number.
pub(crate) fn number_fault(function: &str, text: &str) -> String {
    let digits = text.strip_prefix(['-', '+']).filter(|_| function == "ParseInt").unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let why = if is_number { "value out of range" } else { "invalid syntax" };
    format!("strconv.{function}: parsing {}: {why}", quote(text))
}

/// Checks what a list, a watch or the deletion of a collection is asked to begin with.
///
/// # Errors
/// 400 for numbers that are none, 422.
pub(crate) fn check_list(query: &Query, watches: bool) -> ApiResult<()> {
    number(query, "timeoutSeconds")?;
    number(query, "limit")?;
    refuse("ListOptions", &if watches { watch_errors(query) } else { list_errors(query) })
}

fn rule_errors(query: &Query, rule: &str, allowed: &[&str]) -> ErrorList {
    let path = field::root("resourceVersionMatch");
    let mut errors = ErrorList::new();
    if !allowed.contains(&rule) {
        errors.push(Error::not_supported(&path, rule, allowed));
    }
    if !query.get("continue").unwrap_or_default().is_empty() {
        errors.push(Error::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
    }
    errors
}

fn list_errors(query: &Query) -> ErrorList {
    let path = field::root("resourceVersionMatch");
    let mut errors = ErrorList::new();
    let revision = query.get("resourceVersion").unwrap_or_default();
    if let Some(rule) = query.get("resourceVersionMatch").filter(|rule| !rule.is_empty()) {
        if revision.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(Error::forbidden(&path, why));
        }
        let mut faults = rule_errors(query, rule, &["Exact", "NotOlderThan", ""]);
        faults.reverse();
        errors.extend(faults);
        if rule == "Exact" && revision == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(Error::forbidden(&path, why));
        }
    }
    if query.get("sendInitialEvents").is_some() {
        let path = field::root("sendInitialEvents");
        errors.push(Error::forbidden(path, "sendInitialEvents is forbidden for list"));
    }
    errors
}

fn watch_errors(query: &Query) -> ErrorList {
    let path = field::root("resourceVersionMatch");
    let mut errors = ErrorList::new();
    let rule = query.get("resourceVersionMatch").unwrap_or_default();
    let wants_state = query.get("sendInitialEvents").is_some();
    if wants_state && rule != "NotOlderThan" {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(Error::forbidden(&path, why));
    }
    if rule.is_empty() {
        return errors;
    }
    if !wants_state {
        let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        errors.push(Error::forbidden(&path, why));
    }
    errors.extend(rule_errors(query, rule, &["NotOlderThan"]));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(result: ApiResult<()>) -> String {
        result.map_or_else(|error| format!("{} {}", error.code, error.message), |()| "fine".to_owned())
    }

    #[test]
    fn options_of_writes_are_checked() {
        let long = format!("fieldManager={}", "x".repeat(129));
        for (query, wanted) in [
            ("fieldManager=me&dryRun=All&dryRun=All&fieldValidation=Warn", "fine"),
            (
                long.as_str(),
                "422 CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes",
            ),
            (
                "fieldManager=a%0Ab",
                "422 CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\nb\": invalid \
                 character U+000A (at position 1)",
            ),
            (
                "dryRun=All&dryRun=x",
                "422 CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"All\",\"x\"]: supported \
                 values: \"All\"",
            ),
        ] {
            assert_eq!(said(check_write(&Query::parse(query), "CreateOptions")), wanted, "{query}");
        }
        assert_eq!(said(check_patch(&Query::parse("force=true&fieldManager=x"), true)), "fine");
        let both = said(check_patch(&Query::parse("force=true&fieldValidation=x"), false));
        assert!(
            both.starts_with("422 PatchOptions.meta.k8s.io \"\" is invalid: [force: Forbidden: "),
            "{both}"
        );
    }

    #[test]
    fn options_of_lists_are_checked() {
        for (query, watches, wanted) in [
            ("limit=5&timeoutSeconds=3", false, "fine"),
            ("limit=x", false, "400 strconv.ParseInt: parsing \"x\": invalid syntax"),
            (
                "limit=99999999999999999999",
                true,
                "400 strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
            ("resourceVersion=5&resourceVersionMatch=Exact", false, "fine"),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true, "fine"),
            (
                "sendInitialEvents=true",
                false,
                "422 ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is \
                 forbidden for list",
            ),
        ] {
            assert_eq!(said(check_list(&Query::parse(query), watches)), wanted, "{query}");
        }
    }
}
