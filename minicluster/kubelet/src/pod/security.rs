//! The effective security settings of a sandbox and of its containers: the container's own word over the pod's.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext,
};

use super::{Role, host_network};
use crate::runtime::{Image, NamespaceMode, Namespaces, PodView, Profile, Security};

/// Paths a container must not see, unless `procMount: Unmasked`.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// Paths a container must not write.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Why a container may not run as it is; the text is the message of `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RunAsError {
    /// `runAsNonRoot` and user 0.
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    RootUser {
        /// Pod, as in messages.
        pod: String,
        /// Container name.
        container: String,
    },
    /// `runAsNonRoot` and an image that runs as root.
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    RootImage {
        /// Pod, as in messages.
        pod: String,
        /// Container name.
        container: String,
    },
    /// `runAsNonRoot` and an image with a user name that cannot be judged.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    UnknownUser {
        /// The image's user.
        user: String,
        /// Pod, as in messages.
        pod: String,
        /// Container name.
        container: String,
    },
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref()?.security_context.as_ref()
}

/// The namespaces all containers of a pod share.
pub fn namespaces(pod: &Pod) -> Namespaces {
    let spec = pod.spec.as_ref();
    let host_pid = spec.and_then(|s| s.host_pid).unwrap_or_default();
    let shared_pid = spec.and_then(|s| s.share_process_namespace).unwrap_or_default();
    let host_ipc = spec.and_then(|s| s.host_ipc).unwrap_or_default();
    let node_or_pod = |node: bool| if node { NamespaceMode::Node } else { NamespaceMode::Pod };
    Namespaces {
        network: node_or_pod(host_network(pod)),
        pid: match (host_pid, shared_pid) {
            (true, _) => NamespaceMode::Node,
            (_, true) => NamespaceMode::Pod,
            _ => NamespaceMode::Container,
        },
        ipc: node_or_pod(host_ipc),
        target: String::new(),
    }
}

fn seccomp(profile: &SeccompProfile) -> Profile {
    match profile.type_.as_str() {
        "RuntimeDefault" => Profile::RuntimeDefault,
        "Localhost" => Profile::Localhost(profile.localhost_profile.clone().unwrap_or_default()),
        _ => Profile::Unconfined,
    }
}

fn apparmor(profile: &AppArmorProfile) -> Profile {
    match profile.type_.as_str() {
        "RuntimeDefault" => Profile::RuntimeDefault,
        "Localhost" => Profile::Localhost(profile.localhost_profile.clone().unwrap_or_default()),
        _ => Profile::Unconfined,
    }
}

/// The settings of the pause process.
pub fn of_sandbox(pod: &Pod) -> Security {
    let context = pod_context(pod);
    let privileged =
        |c: &Container| c.security_context.as_ref().and_then(|s| s.privileged).unwrap_or_default();
    let spec = pod.spec.as_ref();
    let mut all =
        spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    Security {
        privileged: all.any(privileged),
        namespaces: namespaces(pod),
        run_as_user: context.and_then(|c| c.run_as_user),
        run_as_group: context.and_then(|c| c.run_as_group),
        supplemental_groups: groups(context),
        strict_groups: strict_groups(context),
        // The pause process gets the runtime's profile unless the pod says otherwise.
        seccomp: context.and_then(|c| c.seccomp_profile.as_ref()).map_or(Profile::RuntimeDefault, seccomp),
        ..Security::default()
    }
}

fn groups(context: Option<&PodSecurityContext>) -> Vec<i64> {
    let Some(context) = context else { return Vec::new() };
    context.supplemental_groups.iter().flatten().copied().chain(context.fs_group).collect()
}

fn strict_groups(context: Option<&PodSecurityContext>) -> bool {
    context.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict")
}

/// The settings of one container, judged against the user its image asks for.
pub fn of_container(
    pod: &Pod,
    role: Role,
    container: &Container,
    image: &Image,
    view: &PodView,
) -> Result<Security, RunAsError> {
    let context = pod_context(pod);
    let own = container.security_context.as_ref();
    let run_as_user = own.and_then(|s| s.run_as_user).or_else(|| context.and_then(|c| c.run_as_user));
    non_root(pod, container, run_as_user, image)?;
    let privileged = own.and_then(|s| s.privileged).unwrap_or_default();
    let unmasked = privileged || own.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let capability = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let capabilities = own.and_then(|s| s.capabilities.as_ref());
    let seccomp_profile = own
        .and_then(|s| s.seccomp_profile.as_ref())
        .or_else(|| context.and_then(|c| c.seccomp_profile.as_ref()));
    let apparmor_profile = own
        .and_then(|s| s.app_armor_profile.as_ref())
        .or_else(|| context.and_then(|c| c.app_armor_profile.as_ref()));
    Ok(Security {
        privileged,
        namespaces: container_namespaces(pod, role, container, view),
        run_as_user: run_as_user.or(if image.username.is_empty() { image.uid } else { None }),
        run_as_group: own.and_then(|s| s.run_as_group).or_else(|| context.and_then(|c| c.run_as_group)),
        run_as_username: if run_as_user.is_none() { image.username.clone() } else { String::new() },
        supplemental_groups: groups(context),
        strict_groups: strict_groups(context),
        readonly_rootfs: own.and_then(|s| s.read_only_root_filesystem).unwrap_or_default(),
        no_new_privs: no_new_privs(own),
        add_capabilities: capability(capabilities.and_then(|c| c.add.as_ref())),
        drop_capabilities: capability(capabilities.and_then(|c| c.drop.as_ref())),
        seccomp: if privileged {
            Profile::Unconfined
        } else {
            seccomp_profile.map_or(Profile::Unconfined, seccomp)
        },
        apparmor: apparmor_profile.map(apparmor),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READONLY),
    })
}

/// Set only by an explicit `allowPrivilegeEscalation: false`.
fn no_new_privs(own: Option<&SecurityContext>) -> bool {
    own.and_then(|s| s.allow_privilege_escalation) == Some(false)
}

fn container_namespaces(pod: &Pod, role: Role, container: &Container, view: &PodView) -> Namespaces {
    let mut namespaces = namespaces(pod);
    if role != Role::Ephemeral {
        return namespaces;
    }
    let all = pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_ref());
    let target = all
        .into_iter()
        .flatten()
        .find(|e| e.name == container.name)
        .and_then(|e| e.target_container_name.as_deref())
        .and_then(|name| view.newest(name));
    if let Some(target) = target
        && namespaces.pid == NamespaceMode::Container
    {
        namespaces.pid = NamespaceMode::Target;
        namespaces.target = target.id.clone();
    }
    namespaces
}

fn non_root(pod: &Pod, container: &Container, user: Option<i64>, image: &Image) -> Result<(), RunAsError> {
    let own = container.security_context.as_ref().and_then(|s| s.run_as_non_root);
    if !own.or_else(|| pod_context(pod).and_then(|c| c.run_as_non_root)).unwrap_or_default() {
        return Ok(());
    }
    let (pod, container) = (super::full_name(pod), container.name.clone());
    match (user, image.uid, image.username.as_str()) {
        (Some(0), ..) => Err(RunAsError::RootUser { pod, container }),
        (None, Some(0) | None, "") => Err(RunAsError::RootImage { pod, container }),
        (Some(_), ..) | (None, Some(_), "") => Ok(()),
        (None, _, name) => match name.parse::<i64>() {
            Ok(0) => Err(RunAsError::RootImage { pod, container }),
            Ok(_) => Ok(()),
            Err(_) => Err(RunAsError::UnknownUser { user: name.to_owned(), pod, container }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(context: &str) -> Pod {
        let text = format!(
            r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u"}},
                 "spec":{{"securityContext":{{"runAsUser":7,"fsGroup":9,"supplementalGroups":[8]}},
                 "containers":[{{"name":"c","securityContext":{context}}}]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn settings(context: &str, image: &Image) -> Result<Security, RunAsError> {
        let pod = pod(context);
        let c = &pod.spec.as_ref().unwrap().containers[0];
        of_container(&pod, Role::App, c, image, &PodView::default())
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let got =
            settings(r#"{"runAsGroup":3,"allowPrivilegeEscalation":false}"#, &Image::default()).unwrap();
        assert_eq!((got.run_as_user, got.run_as_group, got.no_new_privs), (Some(7), Some(3), true));
        assert_eq!(got.supplemental_groups, [8, 9]);
        assert_eq!(got.namespaces.pid, NamespaceMode::Container);
        assert!(!got.masked_paths.is_empty());
    }

    #[test]
    fn non_root_is_judged_by_user_then_by_image() {
        let root = settings(r#"{"runAsNonRoot":true,"runAsUser":0}"#, &Image::default());
        assert!(matches!(root, Err(RunAsError::RootUser { .. })));
        assert!(settings(r#"{"runAsNonRoot":true}"#, &Image::default()).is_ok(), "the pod's user is 7");
    }
}
