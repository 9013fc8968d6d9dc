//! The checks of each level, by version. Pure. Source: `k8s.io/pod-security-admission/policy`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Level, Mode};
use crate::object;

/// The version in which a check last changed; later ones are as this.
const NEWEST: u32 = 35;

/// What a check finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// What is wrong, in a few words.
    pub(super) reason: String,
    /// Who does it.
    pub(super) detail: String,
}

type Run = fn(&Value) -> Option<Finding>;

struct Check {
    id: &'static str,
    level: Level,
    /// From which minor version on it is done how.
    versions: &'static [(u32, Run)],
    /// The baseline check that it stands in for.
    instead_of: &'static str,
}

const fn baseline(id: &'static str, versions: &'static [(u32, Run)]) -> Check {
    Check { id, level: Level::Baseline, versions, instead_of: "" }
}

const fn restricted(id: &'static str, instead_of: &'static str, versions: &'static [(u32, Run)]) -> Check {
    Check { id, level: Level::Restricted, versions, instead_of }
}

/// In the order in which their findings are told.
const CHECKS: [Check; 19] = [
    baseline("appArmorProfile", &[(0, app_armor)]),
    baseline("capabilities_baseline", &[(0, capabilities_baseline)]),
    baseline("hostNamespaces", &[(0, host_namespaces)]),
    baseline("hostPathVolumes", &[(0, host_paths)]),
    baseline("hostPorts", &[(0, host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, host_probes)]),
    baseline("privileged", &[(0, privileged)]),
    baseline("procMount", &[(0, proc_mount), (35, |pod| in_user_namespace(pod, proc_mount))]),
    baseline(
        "seLinuxOptions",
        &[(0, |pod| se_linux(pod, &SE_TYPES[..4])), (31, |pod| se_linux(pod, &SE_TYPES))],
    ),
    baseline("seccompProfile_baseline", &[(0, seccomp_annotations), (19, seccomp_baseline)]),
    baseline(
        "sysctls",
        &[
            (0, |pod| sysctls(pod, 5)),
            (27, |pod| sysctls(pod, 6)),
            (29, |pod| sysctls(pod, 10)),
            (32, |pod| sysctls(pod, 12)),
        ],
    ),
    baseline("windowsHostProcess", &[(0, host_process)]),
    restricted("allowPrivilegeEscalation", "", &[(8, escalation), (25, |pod| on_linux(pod, escalation))]),
    restricted(
        "capabilities_restricted",
        "capabilities_baseline",
        &[(22, capabilities_restricted), (25, |pod| on_linux(pod, capabilities_restricted))],
    ),
    restricted("procMount_restricted", "procMount", &[(35, proc_mount)]),
    restricted("restrictedVolumes", "hostPathVolumes", &[(0, volumes)]),
    restricted("runAsNonRoot", "", &[(0, non_root), (35, |pod| in_user_namespace(pod, non_root))]),
    restricted("runAsUser", "", &[(23, user), (35, |pod| in_user_namespace(pod, user))]),
    restricted(
        "seccompProfile_restricted",
        "seccompProfile_baseline",
        &[(19, seccomp_restricted), (25, |pod| on_linux(pod, seccomp_restricted))],
    ),
];

/// Everything that a level has against a pod, or a template of one.
pub(super) fn run(mode: &Mode, pod: &Value) -> Vec<Finding> {
    if mode.level == Level::Privileged {
        return Vec::new();
    }
    let version = mode.version.map_or(NEWEST, |version| version.min(NEWEST));
    let current =
        |check: &Check| check.versions.iter().rfind(|(from, _)| *from <= version).map(|(_, run)| *run);
    let active = || CHECKS.iter().filter(|check| check.level <= mode.level && current(check).is_some());
    let replaced: Vec<&str> = active().map(|check| check.instead_of).collect();
    active().filter(|check| !replaced.contains(&check.id)).filter_map(|check| current(check)?(pod)).collect()
}

fn on_linux(pod: &Value, run: Run) -> Option<Finding> {
    if object::text(pod, &["spec", "os", "name"]) == "windows" { None } else { run(pod) }
}

/// A pod with users of its own may be root among them.
fn in_user_namespace(pod: &Value, run: Run) -> Option<Finding> {
    if object::at(pod, &["spec", "hostUsers"]) == Some(&Value::Bool(false)) { None } else { run(pod) }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(move |list| object::list(pod, &["spec", list]))
}

/// A field of the security context of a pod or a container.
fn context<'v>(holder: &'v Value, path: &[&str]) -> Option<&'v Value> {
    object::at(object::at(holder, &["securityContext"])?, path)
}

fn of_pod<'v>(pod: &'v Value, path: &[&str]) -> Option<&'v Value> {
    context(object::at(pod, &["spec"])?, path)
}

fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

fn plural<'t>(one: &'t str, many: &'t str, count: usize) -> &'t str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
fn named(bad: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", bad.len()), quoted(bad))
}

fn name(container: &Value) -> &str {
    object::text(container, &["name"])
}

/// The pod and the containers for which something holds, as `pod and containers "a", "b"`.
fn setters(pod: &Value, mut is_bad: impl FnMut(&Value) -> bool) -> Option<String> {
    let mut all = Vec::new();
    if object::at(pod, &["spec"]).is_some_and(&mut is_bad) {
        all.push("pod".to_owned());
    }
    let bad: Vec<&str> = containers(pod).filter(|container| is_bad(container)).map(name).collect();
    if !bad.is_empty() {
        all.push(named(&bad));
    }
    (!all.is_empty()).then(|| all.join(" and "))
}

fn finding(reason: &str, detail: String) -> Option<Finding> {
    Some(Finding { reason: reason.to_owned(), detail })
}

fn app_armor(pod: &Value) -> Option<Finding> {
    let mut values = BTreeSet::new();
    let found = setters(pod, |holder| {
        let kind = context(holder, &["appArmorProfile"]).map(|profile| object::text(profile, &["type"]));
        let bad = kind.filter(|kind| !matches!(*kind, "RuntimeDefault" | "Localhost"));
        values.extend(bad.map(str::to_owned));
        bad.is_some()
    });
    let is_allowed =
        |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let annotations = object::at(pod, &["metadata", "annotations"]).and_then(Value::as_object);
    let bad: BTreeSet<String> = annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
        .filter(|(_, value)| !is_allowed(value))
        .map(|(key, value)| format!("{key}={}", windlass_crd::field::quote(value)))
        .collect();
    let by_annotation = (!bad.is_empty()).then(|| plural("annotation", "annotations", bad.len()).to_owned());
    let found: Vec<String> = found.into_iter().chain(by_annotation).collect();
    if found.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(bad).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    let told = found.join(" and ");
    finding(reason, format!("{told} must not set AppArmor profile type to {}", quoted(&values)))
}

fn capabilities<'v>(container: &'v Value, list: &str) -> impl Iterator<Item = &'v str> + use<'v> {
    let all = context(container, &["capabilities", list]).and_then(Value::as_array);
    all.into_iter().flatten().filter_map(Value::as_str)
}

/// The containers that add what they may not, and what that is.
fn added<'v>(pod: &'v Value, allowed: &[&str]) -> (Vec<&'v str>, BTreeSet<&'v str>) {
    let mut forbidden = BTreeSet::new();
    let bad = containers(pod).filter(|container| {
        let before: Vec<&str> = capabilities(container, "add").filter(|c| !allowed.contains(c)).collect();
        forbidden.extend(before.iter().copied());
        !before.is_empty()
    });
    let bad = bad.map(name).collect();
    (bad, forbidden)
}

fn capabilities_baseline(pod: &Value) -> Option<Finding> {
    const DEFAULT: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let (bad, forbidden) = added(pod, &DEFAULT);
    if bad.is_empty() {
        return None;
    }
    let detail =
        format!("{} must not include {} in securityContext.capabilities.add", named(&bad), quoted(forbidden));
    finding("non-default capabilities", detail)
}

fn capabilities_restricted(pod: &Value) -> Option<Finding> {
    let keeps = |container: &&Value| !capabilities(container, "drop").any(|c| c == "ALL");
    let keeping: Vec<&str> = containers(pod).filter(keeps).map(name).collect();
    let (adding, forbidden) = added(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&adding),
            quoted(forbidden)
        ));
    }
    if details.is_empty() { None } else { finding("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: &Value) -> Option<Finding> {
    let shares = |field: &&str| object::at(pod, &["spec", field]) == Some(&Value::Bool(true));
    let all = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(shares);
    let all: Vec<String> = all.map(|field| format!("{field}=true")).collect();
    if all.is_empty() { None } else { finding("host namespaces", all.join(", ")) }
}

fn host_paths(pod: &Value) -> Option<Finding> {
    let volumes = object::list(pod, &["spec", "volumes"]).iter();
    let bad: Vec<&str> = volumes.filter(|v| object::at(v, &["hostPath"]).is_some()).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    finding("hostPath volumes", format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad)))
}

fn host_ports(pod: &Value) -> Option<Finding> {
    let mut ports = BTreeSet::new();
    let bad = containers(pod).filter(|container| {
        let given = object::list(container, &["ports"]).iter();
        let given: Vec<i64> =
            given.filter_map(|port| object::number(port, &["hostPort"])).filter(|port| *port != 0).collect();
        ports.extend(given.iter().map(ToString::to_string));
        !given.is_empty()
    });
    let bad: Vec<&str> = bad.map(name).collect();
    if bad.is_empty() {
        return None;
    }
    let ports: Vec<String> = ports.into_iter().collect();
    let (uses, what) = (plural("uses", "use", bad.len()), plural("hostPort", "hostPorts", ports.len()));
    finding("hostPort", format!("{} {uses} {what} {}", named(&bad), ports.join(", ")))
}

fn host_probes(pod: &Value) -> Option<Finding> {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let (mut bad, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for container in containers(pod) {
        for handler in HANDLERS.iter().filter_map(|path| object::at(container, path)) {
            for host in ["httpGet", "tcpSocket"].map(|kind| object::text(handler, &[kind, "host"])) {
                if !host.is_empty() {
                    bad.insert(name(container));
                    hosts.insert(host);
                }
            }
        }
    }
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<&str> = bad.into_iter().collect();
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    let uses = plural("uses", "use", bad.len());
    finding("probe or lifecycle host", format!("{} {uses} {what} {}", named(&bad), quoted(hosts)))
}

fn privileged(pod: &Value) -> Option<Finding> {
    let is_privileged = |container: &&Value| context(container, &["privileged"]) == Some(&Value::Bool(true));
    let bad: Vec<&str> = containers(pod).filter(is_privileged).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    finding("privileged", format!("{} must not set securityContext.privileged=true", named(&bad)))
}

fn proc_mount(pod: &Value) -> Option<Finding> {
    let mut kinds = BTreeSet::new();
    let bad = containers(pod).filter(|container| {
        let kind = context(container, &["procMount"]).and_then(Value::as_str).filter(|k| *k != "Default");
        kinds.extend(kind);
        kind.is_some()
    });
    let bad: Vec<&str> = bad.map(name).collect();
    if bad.is_empty() {
        return None;
    }
    finding(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", named(&bad), quoted(kinds)),
    )
}

const SE_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn se_linux(pod: &Value, allowed: &[&str]) -> Option<Finding> {
    let (mut types, mut sets_user, mut sets_role) = (BTreeSet::new(), false, false);
    let found = setters(pod, |holder| {
        let Some(options) = context(holder, &["seLinuxOptions"]) else { return false };
        let kind = object::text(options, &["type"]);
        let bad_type = !allowed.contains(&kind);
        if bad_type {
            types.insert(kind.to_owned());
        }
        let sets = |field: &str| !object::text(options, &[field]).is_empty();
        sets_user |= sets("user");
        sets_role |= sets("role");
        bad_type || sets("user") || sets("role")
    })?;
    let mut bad = Vec::new();
    if !types.is_empty() {
        bad.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    bad.extend(sets_user.then(|| "user may not be set".to_owned()));
    bad.extend(sets_role.then(|| "role may not be set".to_owned()));
    let bad = bad.join("; ");
    finding("seLinuxOptions", format!("{found} set forbidden securityContext.seLinuxOptions: {bad}"))
}

fn seccomp_annotations(pod: &Value) -> Option<Finding> {
    let is_allowed = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let keys = containers(pod)
        .map(|container| format!("container.seccomp.security.alpha.kubernetes.io/{}", name(container)))
        .chain(["seccomp.security.alpha.kubernetes.io/pod".to_owned()]);
    let bad: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = object::at(pod, &["metadata", "annotations", &key])?.as_str()?;
            (!is_allowed(value)).then(|| format!("{key}={}", windlass_crd::field::quote(value)))
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", bad.len());
    let bad: Vec<String> = bad.into_iter().collect();
    finding("seccompProfile", format!("forbidden {what} {}", bad.join(", ")))
}

/// The type of a seccomp profile, if there is one.
fn seccomp(holder: &Value) -> Option<&str> {
    context(holder, &["seccompProfile"]).map(|profile| object::text(profile, &["type"]))
}

fn seccomp_baseline(pod: &Value) -> Option<Finding> {
    let mut values = BTreeSet::new();
    let found = setters(pod, |holder| {
        let bad = seccomp(holder).filter(|kind| !matches!(*kind, "RuntimeDefault" | "Localhost"));
        values.extend(bad.map(str::to_owned));
        bad.is_some()
    })?;
    let values = quoted(values);
    finding("seccompProfile", format!("{found} must not set securityContext.seccompProfile.type to {values}"))
}

fn seccomp_restricted(pod: &Value) -> Option<Finding> {
    if let Some(found) = seccomp_baseline(pod) {
        return Some(found);
    }
    if object::at(pod, &["spec"]).and_then(seccomp).is_some() {
        return None;
    }
    let bad: Vec<&str> = containers(pod).filter(|c| seccomp(c).is_none()).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        named(&bad)
    );
    finding("seccompProfile", detail)
}

const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// `known`: how many of the list that version took for safe.
fn sysctls(pod: &Value, known: usize) -> Option<Finding> {
    let all = of_pod(pod, &["sysctls"]).and_then(Value::as_array).into_iter().flatten();
    let bad: Vec<&str> = all.map(name).filter(|name| !SYSCTLS[..known].contains(name)).collect();
    if bad.is_empty() { None } else { finding("forbidden sysctls", bad.join(", ")) }
}

fn host_process(pod: &Value) -> Option<Finding> {
    let is_host =
        |holder: &Value| context(holder, &["windowsOptions", "hostProcess"]) == Some(&Value::Bool(true));
    let found = setters(pod, is_host)?;
    finding("hostProcess", format!("{found} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn escalation(pod: &Value) -> Option<Finding> {
    let may = |c: &&Value| context(c, &["allowPrivilegeEscalation"]) != Some(&Value::Bool(false));
    let bad: Vec<&str> = containers(pod).filter(may).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&bad));
    finding("allowPrivilegeEscalation != false", detail)
}

fn volumes(pod: &Value) -> Option<Finding> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    const OTHERS: [&str; 21] = [
        "hostPath",
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "gitRepo",
        "nfs",
        "iscsi",
        "glusterfs",
        "rbd",
        "flexVolume",
        "cinder",
        "cephfs",
        "flocker",
        "fc",
        "azureFile",
        "vsphereVolume",
        "quobyte",
        "azureDisk",
        "photonPersistentDisk",
        "portworxVolume",
        "scaleIO",
        "storageos",
    ];
    let mut kinds = BTreeSet::new();
    let mut bad = Vec::new();
    for volume in object::list(pod, &["spec", "volumes"]) {
        let has = |kind: &&&str| object::at(volume, &[kind]).is_some();
        if ALLOWED.iter().find(has).is_none() {
            bad.push(name(volume));
            kinds.insert(OTHERS.iter().find(has).copied().unwrap_or("unknown"));
        }
    }
    if bad.is_empty() {
        return None;
    }
    let (volumes, uses) = (plural("volume", "volumes", bad.len()), plural("uses", "use", bad.len()));
    let what = plural("restricted volume type", "restricted volume types", kinds.len());
    finding("restricted volume types", format!("{volumes} {} {uses} {what} {}", quoted(&bad), quoted(kinds)))
}

fn non_root(pod: &Value) -> Option<Finding> {
    const REASON: &str = "runAsNonRoot != true";
    let flag = |holder: &Value| context(holder, &["runAsNonRoot"]).and_then(Value::as_bool);
    if let Some(found) = setters(pod, |holder| flag(holder) == Some(false)) {
        return finding(REASON, format!("{found} must not set securityContext.runAsNonRoot=false"));
    }
    if object::at(pod, &["spec"]).and_then(flag) == Some(true) {
        return None;
    }
    let bad: Vec<&str> = containers(pod).filter(|c| flag(c).is_none()).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    finding(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&bad)))
}

fn user(pod: &Value) -> Option<Finding> {
    let is_root = |holder: &Value| context(holder, &["runAsUser"]).and_then(Value::as_i64) == Some(0);
    let found = setters(pod, is_root)?;
    finding("runAsUser=0", format!("{found} must not set runAsUser=0"))
}
