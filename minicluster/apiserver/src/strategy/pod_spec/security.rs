//! Security contexts, of pods and of containers, and what an operating system allows.
//!
//! A privileged container is one that a cluster allows: servers here run as with `--allow-privileged`. Source:
//! `validatePodSpecSecurityContext`, `ValidateSecurityContext`, `validateOS` and around.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
};

use super::{
    super::{container::each, internal},
    is_true, one_of, told,
};
use crate::object;

const SYSCTL: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const SYSCTL_MAX: usize = 253;
/// The longest path of a profile, bytes.
const PROFILE_MAX: usize = 4095;
const FOR_LINUX_ONLY: &str = "cannot be set for a windows pod";

fn is_sysctl(name: &str) -> bool {
    let part = |text: &str| {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if word(*a) && word(*z))
            && bytes.iter().all(|b| word(*b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(part)
}

/// A user or a group.
fn id(number: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let most = i64::from(i32::MAX);
    if let Some(id) = number.filter(|id| !(0..=most).contains(id)) {
        errors.push(Error::invalid(path, id, name::range_error(0, most)));
    }
}

/// The security context of a pod.
pub(super) fn of_pod(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(context) = object::at(spec, &["securityContext"]) else { return };
    let path = path.child("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(object::number(context, &[field]), &path.child(field), errors);
    }
    for (i, group) in object::list(context, &["supplementalGroups"]).iter().enumerate() {
        id(group.as_i64(), &path.child("supplementalGroups").index(i), errors);
    }
    if is_true(spec, &["shareProcessNamespace"]) && is_true(spec, &["hostPID"]) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(Error::invalid(path.child("shareProcessNamespace"), true, detail));
    }
    sysctls(spec, context, &path.child("sysctls"), errors);
    one_of(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], &path, errors);
    seccomp(context, &path, errors);
    windows(context, &path, errors);
    app_armor(context, &path, errors);
    one_of(context, "supplementalGroupsPolicy", &["Merge", "Strict"], &path, errors);
    one_of(context, "seLinuxChangePolicy", &["MountOption", "Recursive"], &path, errors);
}

fn sysctls(spec: &Value, context: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in object::list(context, &["sysctls"]).iter().enumerate() {
        let at = path.index(i).child("name");
        let given = object::text(sysctl, &["name"]);
        if given.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if !is_sysctl(given) {
            let detail = format!("must have at most {SYSCTL_MAX} characters and match regex {SYSCTL}");
            errors.push(Error::invalid(&at, given, detail));
        } else if seen.contains(given) {
            errors.push(Error::duplicate(&at, given));
        }
        seen.insert(given);
        let dotted = given.replace('/', ".");
        let of_ipc =
            ["kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"];
        let ipc = of_ipc.contains(&dotted.as_str())
            || dotted.starts_with("kernel.msg")
            || dotted.starts_with("fs.mqueue.");
        let taken = if dotted.starts_with("net.") && is_true(spec, &["hostNetwork"]) {
            Some("hostNetwork")
        } else if ipc && is_true(spec, &["hostIPC"]) {
            Some("hostIPC")
        } else {
            None
        };
        if let Some(field) = taken {
            let detail = format!("may not be specified when '{field}' is true");
            errors.push(Error::invalid(&at, given, detail));
        }
    }
}

/// The security context of a container.
pub(in super::super) fn of_container(spec: &Value, container: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(context) = object::at(container, &["securityContext"]) else { return };
    let path = path.child("securityContext");
    for field in ["runAsUser", "runAsGroup"] {
        id(object::number(context, &[field]), &path.child(field), errors);
    }
    one_of(context, "procMount", &["Default", "Unmasked"], &path, errors);
    let own_users = object::at(spec, &["hostUsers"]) == Some(&Value::Bool(false));
    if !own_users && object::text(context, &["procMount"]) == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        errors.push(Error::invalid(path.child("procMount"), "Unmasked", detail));
    }
    seccomp(context, &path, errors);
    if object::at(context, &["allowPrivilegeEscalation"]) == Some(&Value::Bool(false)) {
        let mut contradicts = |field: &str| {
            let detail = format!("cannot set `allowPrivilegeEscalation` to false and {field}");
            errors.push(internal::invalid(&path, "SecurityContext", context, detail));
        };
        if is_true(context, &["privileged"]) {
            contradicts("`privileged` to true");
        }
        for _ in object::list(context, &["capabilities", "add"]).iter().filter(|cap| *cap == "CAP_SYS_ADMIN")
        {
            contradicts("`capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    windows(context, &path, errors);
    app_armor(context, &path, errors);
}

/// A path that stays below where it starts.
fn descending(given: &str, path: &Path, errors: &mut ErrorList) {
    super::super::volumes::descending(given, path, errors);
}

fn seccomp(context: &Value, path: &Path, errors: &mut ErrorList) {
    const KINDS: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
    let Some(profile) = object::at(context, &["seccompProfile"]) else { return };
    let path = path.child("seccompProfile");
    let kind = object::text(profile, &["type"]);
    if kind.is_empty() {
        errors.push(Error::required(path.child("type"), "type is required when seccompProfile is set"));
    } else if !KINDS.contains(&kind) {
        errors.push(Error::not_supported(path.child("type"), kind, &KINDS));
    }
    let at = path.child("localhostProfile");
    match object::at(profile, &["localhostProfile"]).and_then(Value::as_str) {
        None if kind == "Localhost" => {
            errors.push(Error::required(at, "must be set when seccomp type is Localhost"));
        }
        Some(given) if kind == "Localhost" => descending(given, &at, errors),
        Some(_) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.push(internal::invalid(&at, "SeccompProfile", profile, detail));
        }
        None => {}
    }
}

fn app_armor(context: &Value, path: &Path, errors: &mut ErrorList) {
    const KINDS: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
    const MISSING: &str = "must be set when AppArmor type is Localhost";
    let Some(profile) = object::at(context, &["appArmorProfile"]) else { return };
    let path = path.child("appArmorProfile");
    let at = path.child("localhostProfile");
    let local = object::at(profile, &["localhostProfile"]).and_then(Value::as_str);
    match (object::text(profile, &["type"]), local) {
        ("Localhost", None) => errors.push(Error::required(at, MISSING)),
        ("Localhost", Some(given)) => {
            if given.trim() != given {
                errors.push(Error::invalid(&at, given, "must not be padded with whitespace"));
            } else if given.is_empty() {
                errors.push(Error::required(&at, MISSING));
            }
            if given.len() > PROFILE_MAX {
                errors.push(Error::too_long(&at, PROFILE_MAX));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(given)) => {
            errors.push(Error::invalid(at, given, "can only be set when AppArmor type is Localhost"));
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => {
            errors.push(Error::required(path.child("type"), "type is required when appArmorProfile is set"));
        }
        (kind, _) => errors.push(Error::not_supported(path.child("type"), kind, &KINDS)),
    }
}

/// The largest credential spec, KiB.
const CREDENTIAL_KIB_MAX: usize = 64;
const DOMAIN_MAX: usize = 256;
const USER_MAX: usize = 104;

fn windows(context: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(options) = object::at(context, &["windowsOptions"]) else { return };
    let path = path.child("windowsOptions");
    let text = |field: &str| object::at(options, &[field]).and_then(Value::as_str);
    if let Some(given) = text("gmsaCredentialSpecName") {
        told(name::dns1123_subdomain_faults(given), &path.child("gmsaCredentialSpecName"), given, errors);
    }
    if let Some(given) = text("gmsaCredentialSpec") {
        let at = path.child("gmsaCredentialSpec");
        if given.is_empty() {
            errors.push(Error::invalid(at, given, "gmsaCredentialSpec cannot be an empty string"));
        } else if given.len() > CREDENTIAL_KIB_MAX << 10 {
            let detail = format!("gmsaCredentialSpec size must be under {CREDENTIAL_KIB_MAX} KiB");
            errors.push(Error::invalid(at, given, detail));
        }
    }
    if let Some(given) = text("runAsUserName") {
        let faults = windows_user_faults(given).into_iter().map(|fault| format!("runAsUserName{fault}"));
        told(faults.collect(), &path.child("runAsUserName"), given, errors);
    }
}

fn windows_user_faults(given: &str) -> Vec<String> {
    let alone = |text: &str| vec![text.to_owned()];
    if given.is_empty() {
        return alone(" cannot be an empty string");
    }
    if given.chars().any(|c| c.is_ascii_control()) {
        return alone(" cannot contain control characters");
    }
    let parts: Vec<&str> = given.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return alone(" cannot contain more than one backslash"),
    };
    let mut faults = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_MAX) {
        faults.push(format!("'s Domain length must be under {DOMAIN_MAX} characters"));
    }
    if domain.is_some_and(|domain| !is_net_bios(domain) && !is_windows_dns(domain)) {
        faults.push("'s Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        faults.push("'s User cannot be empty".to_owned());
    } else if user.len() > USER_MAX {
        faults.push(format!("'s User length must not be longer than {USER_MAX} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        faults.push("'s User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        faults.push("'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".to_owned());
    }
    faults
}

fn is_net_bios(domain: &str) -> bool {
    let barred = |c: char| matches!(c, '\\' | '/' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    (1..=15).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(barred)
}

fn is_windows_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// All containers of a pod run as processes of a Windows host, or none.
pub(super) fn host_processes(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const FIELD: [&str; 3] = ["securityContext", "windowsOptions", "hostProcess"];
    let of = |obj: &Value| object::at(obj, &FIELD).and_then(Value::as_bool);
    let (pod, mut all, mut found) = (of(spec), 0, 0);
    each(spec, path, |container, at| {
        all += 1;
        let own = of(container);
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            let at = FIELD.iter().fold(at.clone(), |at, name| at.child(*name));
            errors.push(Error::invalid(at, own, detail));
        }
        found += usize::from(own.or(pod) == Some(true));
    });
    if found == 0 {
        return;
    }
    if found != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(Error::invalid(path, "", detail));
    }
    if !is_true(spec, &["hostNetwork"]) {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(Error::invalid(path.child("hostNetwork"), false, detail));
    }
}

/// Users of their own go with namespaces of their own.
pub(super) fn host_users(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const DETAIL: &str = "when `hostUsers` is false";
    if object::at(spec, &["hostUsers"]) != Some(&Value::Bool(false)) {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if is_true(spec, &[field]) {
            errors.push(Error::forbidden(path.child(shown), DETAIL));
        }
    }
    each(spec, path, |container, at| {
        if !object::list(container, &["volumeDevices"]).is_empty() {
            errors.push(Error::forbidden(at.child("volumeDevices"), DETAIL));
        }
    });
}

/// What a pod for one operating system may not ask for.
pub(super) fn system(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(os) = object::at(spec, &["os"]) else { return };
    match object::text(os, &["name"]) {
        "" => errors.push(Error::required(path.child("os").child("name"), "")),
        "linux" => linux(spec, path, errors),
        "windows" => windows_pod(spec, path, errors),
        other => errors.push(Error::not_supported(path.child("os"), other, &["linux", "windows"])),
    }
}

fn linux(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut check = |obj: &Value, path: &Path| {
        if object::at(obj, &["securityContext", "windowsOptions"]).is_some() {
            let at = path.child("securityContext").child("windowsOptions");
            errors.push(Error::forbidden(at, "windows options cannot be set for a linux pod"));
        }
    };
    check(spec, path);
    each(spec, path, check);
}

fn windows_pod(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const OF_POD: [&[&str]; 15] = [
        &["securityContext", "appArmorProfile"],
        &["securityContext", "seLinuxOptions"],
        &["hostUsers"],
        &["hostPID"],
        &["hostIPC"],
        &["securityContext", "seccompProfile"],
        &["securityContext", "fsGroup"],
        &["securityContext", "fsGroupChangePolicy"],
        &["securityContext", "sysctls"],
        &["shareProcessNamespace"],
        &["securityContext", "runAsUser"],
        &["securityContext", "runAsGroup"],
        &["securityContext", "supplementalGroups"],
        &["securityContext", "supplementalGroupsPolicy"],
        &["securityContext", "seLinuxChangePolicy"],
    ];
    const OF_CONTAINER: [&str; 10] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    for way in OF_POD {
        let set = match object::at(spec, way) {
            // What is no more than said to be off is not set.
            Some(Value::Bool(false)) => matches!(way, ["hostUsers"] | ["shareProcessNamespace"]),
            Some(Value::Array(items)) => !items.is_empty(),
            other => other.is_some(),
        };
        if set {
            let at = way.iter().fold(path.clone(), |at, name| at.child(*name));
            errors.push(Error::forbidden(at, FOR_LINUX_ONLY));
        }
    }
    each(spec, path, |container, at| {
        for field in OF_CONTAINER {
            if object::at(container, &["securityContext", field]).is_some() {
                let at = at.child("securityContext").child(field);
                errors.push(Error::forbidden(at, FOR_LINUX_ONLY));
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use windlass_crd::field;

    fn joined(errors: &[Error]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn containers_say_what_is_wrong() {
        let told = |context: Value| {
            let mut errors = ErrorList::new();
            of_container(&json!({}), &json!({ "securityContext": context }), &field::root("c"), &mut errors);
            joined(&errors)
        };
        let cases = [
            (json!({"privileged": true, "runAsUser": 0, "procMount": "Default"}), ""),
            (
                json!({"runAsUser": -2}),
                "c.securityContext.runAsUser: Invalid value: -2: must be between 0 and 2147483647, inclusive",
            ),
            (
                json!({"procMount": "Unmasked"}),
                "c.securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
            ),
            (
                json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["CAP_SYS_ADMIN"]}}),
                "c.securityContext: Invalid value: {\"Capabilities\":{\"Add\":[\"CAP_SYS_ADMIN\"],\"Drop\":null},\"Privileged\":null,\
                 \"SELinuxOptions\":null,\"WindowsOptions\":null,\"RunAsUser\":null,\"RunAsGroup\":null,\"RunAsNonRoot\":null,\
                 \"ReadOnlyRootFilesystem\":null,\"AllowPrivilegeEscalation\":false,\"ProcMount\":null,\"SeccompProfile\":null,\
                 \"AppArmorProfile\":null}: cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ),
            (
                json!({"seccompProfile": {}}),
                "c.securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set",
            ),
            (
                json!({"seccompProfile": {"type": "Localhost"}}),
                "c.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ),
            (
                json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": " a"}}),
                "c.securityContext.appArmorProfile.localhostProfile: Invalid value: \" a\": must not be padded with whitespace",
            ),
            (
                json!({"windowsOptions": {"runAsUserName": "a\\b\\c"}}),
                "c.securityContext.windowsOptions.runAsUserName: Invalid value: \"a\\\\b\\\\c\": runAsUserName cannot contain more than one backslash",
            ),
            (
                json!({"windowsOptions": {"runAsUserName": "..\\.. "}}),
                "c.securityContext.windowsOptions.runAsUserName: Invalid value: \"..\\\\.. \": runAsUserName's Domain doesn't match the NetBios nor the DNS format; c.securityContext.windowsOptions.runAsUserName: Invalid value: \"..\\\\.. \": runAsUserName's User cannot contain only periods or spaces",
            ),
        ];
        for (context, expected) in cases {
            assert_eq!(told(context.clone()), expected, "{context}");
        }
    }

    #[test]
    fn sysctls_of_the_host_are_not_the_pods() {
        let mut errors = ErrorList::new();
        let spec = json!({"hostNetwork": true, "securityContext": {"sysctls": [
            {"name": "net.core.somaxconn", "value": "1"}, {"name": "kernel.shmmax", "value": "1"}]}});
        of_pod(&spec, &field::root("spec"), &mut errors);
        assert_eq!(
            joined(&errors),
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when 'hostNetwork' is true"
        );
    }

    #[test]
    fn host_processes_are_all_or_none() {
        let mut errors = ErrorList::new();
        let options = json!({"windowsOptions": {"hostProcess": true}});
        let spec = json!({"containers": [{"securityContext": options}, {}]});
        host_processes(&spec, &field::root("spec"), &mut errors);
        assert_eq!(
            joined(&errors),
            "spec: Invalid value: \"\": If pod contains any hostProcess containers then all containers must be HostProcess \
             containers; spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess \
             containers"
        );
    }
}
