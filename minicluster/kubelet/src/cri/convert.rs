//! CRI messages to and from the kubelet's own words. Pure.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use k8s_cri::v1 as pb;

use crate::runtime::{
    Container, ContainerConfig, ContainerState, ContainerStats, Dns, Image, Mount, NamespaceMode, Namespaces,
    PortMapping, Profile, Propagation, Protocol, RegistryAuth, Resources, RuntimeError, RuntimeInfo, Sandbox,
    SandboxConfig, Security,
};

pub(super) fn error(status: &tonic::Status) -> RuntimeError {
    let message = status.message().to_owned();
    let code = match status.code() {
        tonic::Code::NotFound => return RuntimeError::NotFound(message),
        tonic::Code::Unavailable => return RuntimeError::Unavailable(message),
        tonic::Code::DeadlineExceeded => return RuntimeError::Timeout(message),
        tonic::Code::Unimplemented => "Unimplemented",
        tonic::Code::InvalidArgument => "InvalidArgument",
        tonic::Code::AlreadyExists => "AlreadyExists",
        tonic::Code::FailedPrecondition => "FailedPrecondition",
        tonic::Code::PermissionDenied => "PermissionDenied",
        tonic::Code::Unauthenticated => "Unauthenticated",
        tonic::Code::ResourceExhausted => "ResourceExhausted",
        tonic::Code::Internal => "Internal",
        tonic::Code::Cancelled => "Canceled",
        tonic::Code::Aborted => "Aborted",
        _ => "Unknown",
    };
    RuntimeError::Failed { code, message }
}

pub(super) fn info(version: pb::VersionResponse, status: &pb::RuntimeStatus) -> RuntimeInfo {
    let why = |kind: &str| {
        let found = status.conditions.iter().find(|c| c.r#type == kind);
        found.filter(|c| !c.status).map(|c| format!("{}: {}", c.reason, c.message))
    };
    RuntimeInfo {
        name: version.runtime_name,
        version: version.runtime_version,
        not_ready: why("RuntimeReady"),
        network_not_ready: why("NetworkReady"),
    }
}

fn ordered(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

fn unordered(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn time(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Zero means "not yet" on this wire.
fn moment(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| time(nanos))
}

pub(super) fn sandbox(s: pb::PodSandboxStatus) -> Sandbox {
    let network = s.network.unwrap_or_default();
    let ips = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|i| i.ip));
    let options = s.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
    Sandbox {
        id: s.id,
        attempt: s.metadata.map_or(0, |m| m.attempt),
        ready: s.state == pb::PodSandboxState::SandboxReady as i32,
        created_at: time(s.created_at),
        ips: ips.filter(|ip| !ip.is_empty()).collect(),
        host_network: options.is_some_and(|o| o.network == pb::NamespaceMode::Node as i32),
        labels: ordered(s.labels),
        annotations: ordered(s.annotations),
    }
}

pub(super) fn container(s: pb::ContainerStatus, sandbox_id: String) -> Container {
    let metadata = s.metadata.unwrap_or_default();
    let state = match pb::ContainerState::try_from(s.state) {
        Ok(pb::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(pb::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(pb::ContainerState::ContainerExited) => ContainerState::Exited,
        _ => ContainerState::Unknown,
    };
    let image_id = if s.image_ref.is_empty() { s.image_id } else { s.image_ref };
    Container {
        id: s.id,
        sandbox_id,
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        created_at: time(s.created_at),
        started_at: moment(s.started_at),
        finished_at: moment(s.finished_at),
        exit_code: s.exit_code,
        reason: s.reason,
        message: s.message,
        image: s
            .image
            .map(|i| if i.user_specified_image.is_empty() { i.image } else { i.user_specified_image })
            .unwrap_or_default(),
        image_id,
        labels: ordered(s.labels),
        annotations: ordered(s.annotations),
        log_path: s.log_path,
        resources: s.resources.and_then(|r| r.linux).map(|l| Resources {
            cpu_period: l.cpu_period,
            cpu_quota: l.cpu_quota,
            cpu_shares: l.cpu_shares,
            memory_limit: l.memory_limit_in_bytes,
            oom_score_adj: l.oom_score_adj,
        }),
        mounts: s
            .mounts
            .into_iter()
            .map(|m| Mount {
                container_path: m.container_path,
                host_path: m.host_path,
                readonly: m.readonly,
                propagation: Propagation::Private,
            })
            .collect(),
    }
}

pub(super) fn image_spec(name: &str) -> pb::ImageSpec {
    pb::ImageSpec { image: name.to_owned(), user_specified_image: name.to_owned(), ..Default::default() }
}

pub(super) fn image(i: pb::Image) -> Image {
    Image {
        id: i.id,
        tags: i.repo_tags,
        digests: i.repo_digests,
        size: i.size,
        uid: i.uid.map(|u| u.value),
        username: i.username,
        pinned: i.pinned,
    }
}

pub(super) fn auth(a: &RegistryAuth) -> pb::AuthConfig {
    pb::AuthConfig {
        username: a.username.clone(),
        password: a.password.clone(),
        server_address: a.server.clone(),
        identity_token: a.identity_token.clone(),
        ..Default::default()
    }
}

pub(super) fn stats(s: pb::ContainerStats) -> Option<ContainerStats> {
    let attributes = s.attributes?;
    let value = |v: Option<pb::UInt64Value>| v.map_or(0, |v| v.value);
    let (cpu, memory, layer) =
        (s.cpu.unwrap_or_default(), s.memory.unwrap_or_default(), s.writable_layer.unwrap_or_default());
    Some(ContainerStats {
        id: attributes.id,
        labels: ordered(attributes.labels),
        at: time(cpu.timestamp),
        cpu_nanos: value(cpu.usage_core_nano_seconds),
        working_set: value(memory.working_set_bytes),
        memory: value(memory.usage_bytes),
        rss: value(memory.rss_bytes),
        layer_bytes: value(layer.used_bytes),
        layer_inodes: value(layer.inodes_used),
    })
}

pub(super) fn resources(r: &Resources) -> pb::LinuxContainerResources {
    pb::LinuxContainerResources {
        cpu_period: r.cpu_period,
        cpu_quota: r.cpu_quota,
        cpu_shares: r.cpu_shares,
        memory_limit_in_bytes: r.memory_limit,
        oom_score_adj: r.oom_score_adj,
        ..Default::default()
    }
}

fn namespaces(n: &Namespaces) -> pb::NamespaceOption {
    let mode = |m: NamespaceMode| match m {
        NamespaceMode::Pod => pb::NamespaceMode::Pod,
        NamespaceMode::Container => pb::NamespaceMode::Container,
        NamespaceMode::Node => pb::NamespaceMode::Node,
        NamespaceMode::Target => pb::NamespaceMode::Target,
    } as i32;
    pb::NamespaceOption {
        network: mode(n.network),
        pid: mode(n.pid),
        ipc: mode(n.ipc),
        target_id: n.target.clone(),
        userns_options: None,
    }
}

fn profile(p: &Profile) -> pb::SecurityProfile {
    use pb::security_profile::ProfileType;
    let (kind, name) = match p {
        Profile::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        Profile::Unconfined => (ProfileType::Unconfined, String::new()),
        Profile::Localhost(name) => (ProfileType::Localhost, name.clone()),
    };
    pb::SecurityProfile { profile_type: kind as i32, localhost_ref: name }
}

fn id(value: Option<i64>) -> Option<pb::Int64Value> {
    value.map(|value| pb::Int64Value { value })
}

fn groups_policy(s: &Security) -> i32 {
    match s.strict_groups {
        true => pb::SupplementalGroupsPolicy::Strict as i32,
        false => pb::SupplementalGroupsPolicy::Merge as i32,
    }
}

fn sandbox_security(s: &Security) -> pb::LinuxSandboxSecurityContext {
    pb::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(&s.namespaces)),
        run_as_user: id(s.run_as_user),
        run_as_group: id(s.run_as_group),
        readonly_rootfs: s.readonly_rootfs,
        supplemental_groups: s.supplemental_groups.clone(),
        supplemental_groups_policy: groups_policy(s),
        privileged: s.privileged,
        seccomp: Some(profile(&s.seccomp)),
        ..Default::default()
    }
}

fn container_security(s: &Security) -> pb::LinuxContainerSecurityContext {
    pb::LinuxContainerSecurityContext {
        capabilities: Some(pb::Capability {
            add_capabilities: s.add_capabilities.clone(),
            drop_capabilities: s.drop_capabilities.clone(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: s.privileged,
        namespace_options: Some(namespaces(&s.namespaces)),
        run_as_user: id(s.run_as_user),
        run_as_group: id(s.run_as_group),
        run_as_username: s.run_as_username.clone(),
        readonly_rootfs: s.readonly_rootfs,
        supplemental_groups: s.supplemental_groups.clone(),
        supplemental_groups_policy: groups_policy(s),
        no_new_privs: s.no_new_privs,
        masked_paths: s.masked_paths.clone(),
        readonly_paths: s.readonly_paths.clone(),
        seccomp: Some(profile(&s.seccomp)),
        apparmor: s.apparmor.as_ref().map(profile),
        ..Default::default()
    }
}

fn dns(d: &Dns) -> pb::DnsConfig {
    pb::DnsConfig { servers: d.servers.clone(), searches: d.searches.clone(), options: d.options.clone() }
}

fn port(p: &PortMapping) -> pb::PortMapping {
    let protocol = match p.protocol {
        Protocol::Tcp => pb::Protocol::Tcp,
        Protocol::Udp => pb::Protocol::Udp,
        Protocol::Sctp => pb::Protocol::Sctp,
    };
    pb::PortMapping {
        protocol: protocol as i32,
        container_port: p.container_port,
        host_port: p.host_port,
        host_ip: p.host_ip.clone(),
    }
}

pub(super) fn sandbox_config(c: &SandboxConfig) -> pb::PodSandboxConfig {
    pb::PodSandboxConfig {
        metadata: Some(pb::PodSandboxMetadata {
            name: c.name.clone(),
            uid: c.uid.clone(),
            namespace: c.namespace.clone(),
            attempt: c.attempt,
        }),
        hostname: c.hostname.clone(),
        log_directory: c.log_directory.clone(),
        dns_config: c.dns.as_ref().map(dns),
        port_mappings: c.ports.iter().map(port).collect(),
        labels: unordered(&c.labels),
        annotations: unordered(&c.annotations),
        linux: Some(pb::LinuxPodSandboxConfig {
            cgroup_parent: c.cgroup_parent.clone(),
            security_context: Some(sandbox_security(&c.security)),
            sysctls: unordered(&c.sysctls),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn mount(m: &Mount) -> pb::Mount {
    let propagation = match m.propagation {
        Propagation::Private => pb::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => pb::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => pb::MountPropagation::PropagationBidirectional,
    };
    pb::Mount {
        container_path: m.container_path.clone(),
        host_path: m.host_path.clone(),
        readonly: m.readonly,
        propagation: propagation as i32,
        ..Default::default()
    }
}

pub(super) fn container_config(c: &ContainerConfig) -> pb::ContainerConfig {
    let image = pb::ImageSpec {
        image: c.image.clone(),
        user_specified_image: c.user_image.clone(),
        ..Default::default()
    };
    pb::ContainerConfig {
        metadata: Some(pb::ContainerMetadata { name: c.name.clone(), attempt: c.attempt }),
        image: Some(image),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        envs: c.env.iter().map(|(k, v)| pb::KeyValue { key: k.clone(), value: v.clone() }).collect(),
        mounts: c.mounts.iter().map(mount).collect(),
        labels: unordered(&c.labels),
        annotations: unordered(&c.annotations),
        log_path: c.log_path.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        linux: Some(pb::LinuxContainerConfig {
            resources: Some(resources(&c.resources)),
            security_context: Some(container_security(&c.security)),
        }),
        ..Default::default()
    }
}
