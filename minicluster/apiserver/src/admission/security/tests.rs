//! Checks and levels as tables.

use serde_json::json;

use super::*;

fn mode(text: &str) -> Mode {
    let (level, version) = text.split_once(':').unwrap();
    Mode { level: Level::parse(level).unwrap(), version: parse_version(version).unwrap() }
}

fn found(at: &str, spec: Value) -> String {
    details(&checks::run(
        &mode(at),
        &json!({"metadata": {"annotations": {
        "container.apparmor.security.beta.kubernetes.io/a": "runtime/default"}}, "spec": spec}),
    ))
    .unwrap_or_default()
}

fn containers(contexts: &[Value]) -> Value {
    let names = ["a", "b", "c"];
    let all: Vec<Value> = contexts
        .iter()
        .zip(names)
        .map(|(context, name)| json!({"name": name, "securityContext": context}))
        .collect();
    json!({"containers": all})
}

#[test]
fn findings_are_told_in_upstreams_words() {
    let one = |context: Value| containers(&[context]);
    let base = "baseline:latest";
    let cases = [
        (base, one(json!({})), ""),
        (
            base,
            one(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            base,
            json!({"hostNetwork": true, "hostIPC": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
            "host namespaces (hostNetwork=true, hostIPC=true), hostPath volumes (volume \"v\")",
        ),
        (
            base,
            containers(&[
                json!({"capabilities": {"add": ["NET_RAW", "KILL"]}}),
                json!({"capabilities": {"add": ["BPF"]}}),
            ]),
            "non-default capabilities (containers \"a\", \"b\" must not include \"BPF\", \"NET_RAW\" in \
             securityContext.capabilities.add)",
        ),
        (
            base,
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 8080}]}]}),
            "hostPort (container \"a\" uses hostPorts 80, 8080)",
        ),
        (
            base,
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "h"}}}]}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
        ),
        (
            "baseline:v1.33",
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "h"}}}]}),
            "",
        ),
        (
            base,
            one(json!({"procMount": "Unmasked"})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            base,
            json!({"hostUsers": false, "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]}),
            "",
        ),
        (
            base,
            json!({"securityContext": {"seLinuxOptions": {"type": "x", "user": "u"}}, "containers": [
                {"name": "a", "securityContext": {"seLinuxOptions": {"role": "r"}}}]}),
            "seLinuxOptions (pod and container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not \
             be set; role may not be set)",
        ),
        (
            "baseline:v1.30",
            one(json!({"seLinuxOptions": {"type": "container_engine_t"}})),
            "seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"container_engine_t\")",
        ),
        (base, one(json!({"seLinuxOptions": {"type": "container_engine_t"}})), ""),
        (
            base,
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            base,
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}, {"name": "kernel.msgmax"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            "baseline:v1.31",
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}),
            "forbidden sysctls (net.ipv4.tcp_rmem)",
        ),
        (
            base,
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            base,
            one(json!({"appArmorProfile": {"type": "Unconfined"}})),
            "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            "restricted:latest",
            one(json!({})),
            "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot \
             != true (pod or container \"a\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \
             \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        ),
        (
            "restricted:v1.0",
            one(json!({})),
            "runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)",
        ),
        (
            "restricted:latest",
            json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]}),
            "",
        ),
        (
            "restricted:v1.23",
            json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"], "add": ["KILL"]}}}]}),
            "unrestricted capabilities (container \"a\" must not include \"KILL\" in securityContext.capabilities.add), \
             runAsUser=0 (pod must not set runAsUser=0)",
        ),
        (
            "restricted:v1.18",
            json!({"volumes": [{"name": "h", "hostPath": {}}, {"name": "n", "nfs": {}}, {"name": "e", "emptyDir": {}}],
                "securityContext": {"runAsNonRoot": true}}),
            "restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        ("privileged:latest", one(json!({"privileged": true})), ""),
    ];
    for (at, spec, expected) in cases {
        assert_eq!(found(at, spec.clone()), expected, "{at} {spec}");
    }
}

#[test]
fn annotations_spoke_for_profiles_once() {
    let pod = json!({"metadata": {"annotations": {
            "container.apparmor.security.beta.kubernetes.io/a": "unconfined",
            "container.seccomp.security.alpha.kubernetes.io/a": "unconfined",
            "seccomp.security.alpha.kubernetes.io/pod": "localhost/x"}},
        "spec": {"containers": [{"name": "a"}]}});
    let told = details(&checks::run(&mode("baseline:v1.18"), &pod)).unwrap();
    assert_eq!(
        told,
        "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
         \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\"), seccompProfile (forbidden annotation \
         container.seccomp.security.alpha.kubernetes.io/a=\"unconfined\")"
    );
}

#[test]
fn labels_choose_levels() {
    let read = |labels: Value| {
        let prefixed: serde_json::Map<String, Value> =
            labels.as_object().unwrap().iter().map(|(k, v)| (format!("{PREFIX}{k}"), v.clone())).collect();
        let (policy, errors) = Policy::of_labels(Some(&Value::Object(prefixed)), &Policy::default());
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        format!("{} {} {} {}", policy.enforce, policy.audit, policy.warn, errors.join("; ")).trim().to_owned()
    };
    let cases = [
        (json!({}), "privileged:latest privileged:latest privileged:latest"),
        (
            json!({"enforce": "baseline", "enforce-version": "v1.20"}),
            "baseline:v1.20 privileged:latest baseline:v1.20",
        ),
        (
            json!({"enforce": "restricted", "warn": "baseline", "audit": "restricted", "audit-version": "v1.30"}),
            "restricted:latest restricted:v1.30 baseline:latest",
        ),
        (
            json!({"enforce": "odd", "warn-version": "v01"}),
            "restricted:latest privileged:latest privileged:latest \
             metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"odd\": must be one of privileged, \
             baseline, restricted; metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v01\": must \
             be \"latest\" or \"v1.x\"",
        ),
    ];
    for (labels, expected) in cases {
        assert_eq!(read(labels.clone()), expected, "{labels}");
    }
}

#[test]
fn only_other_images_are_looked_at_again() {
    let pod = |image: &str, ephemeral: &[&str]| {
        let ephemeral: Vec<Value> =
            ephemeral.iter().map(|name| json!({"name": name, "image": "i"})).collect();
        json!({"spec": {"containers": [{"name": "a", "image": image}], "ephemeralContainers": ephemeral}})
    };
    assert!(!is_significant(&pod("x", &[]), &pod("x", &[])));
    assert!(is_significant(&pod("y", &[]), &pod("x", &[])));
    assert!(is_significant(&pod("x", &["e"]), &pod("x", &[])));
    assert!(!is_significant(&pod("x", &["e"]), &pod("x", &["e"])));
}
