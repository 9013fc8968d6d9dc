//! The environment of a container: services, `envFrom`, `env`, references to fields and resources, `$(VAR)`.
//!
//! Pure over [`Objects`], the kubelet's cached view of ConfigMaps, Secrets and Services.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::amount::{self, Amounts};
use super::container;

/// What pods may refer to.
pub trait Objects: Send + Sync {
    /// A ConfigMap, when it exists.
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>>;
    /// A Secret, when it exists.
    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>>;
    /// The services of a namespace, ordered by name.
    fn services(&self, namespace: &str) -> Vec<Arc<Service>>;
}

/// Why an environment cannot be built; the text is the message of `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    /// No such object.
    #[error("{kind} \"{name}\" not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// No such key in the object.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The key.
        key: String,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// A field reference that names no field.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// A resource reference that names no container or resource.
    #[error("{0}")]
    Resource(String),
}

/// Facts of the node that references may ask for.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// Addresses of the node.
    pub host_ips: Vec<String>,
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// What pods may use of the node: the default of a container's limits.
    pub allocatable: Amounts,
}

/// The whole environment in order, later entries not overriding earlier names twice.
pub fn environment(
    pod: &Pod,
    spec: &Container,
    facts: &NodeFacts,
    objects: &dyn Objects,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let services = service_variables(pod, objects);
    let mut result = Variables::default();
    for source in spec.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(from) = &source.config_map_ref {
            let optional = from.optional.unwrap_or_default();
            match objects.config_map(namespace, &from.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        result.set(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if optional => {}
                None => return Err(EnvError::Missing { kind: "configmap", name: from.name.clone() }),
            }
        }
        if let Some(from) = &source.secret_ref {
            let optional = from.optional.unwrap_or_default();
            match objects.secret(namespace, &from.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        result.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if optional => {}
                None => return Err(EnvError::Missing { kind: "secret", name: from.name.clone() }),
            }
        }
    }
    for var in spec.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => {
                expand(text, |name| result.get(name).or_else(|| services.get(name).map(String::as_str)))
            }
            (_, Some(from)) => match referred(pod, spec, from, facts, objects)? {
                Some(value) => value,
                None => continue,
            },
            _ => String::new(),
        };
        result.set(var.name.clone(), value);
    }
    for (name, value) in services {
        if result.get(&name).is_none() {
            result.set(name, value);
        }
    }
    Ok(result.list)
}

/// Ordered names and values; setting a name again replaces its value in place.
#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    at: BTreeMap<String, usize>,
}

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.at.get(name).map(|i| self.list[*i].1.as_str())
    }

    fn set(&mut self, name: String, value: String) {
        match self.at.get(&name) {
            Some(i) => self.list[*i].1 = value,
            None => {
                self.at.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }
}

/// Replaces `$(NAME)`; `$$` stands for one dollar; a name that is not known stays as written.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.as_bytes().first() {
            Some(b'$') => {
                out.push('$');
                rest = &rest[1..];
            }
            Some(b'(') => match rest.find(')') {
                Some(end) => {
                    let name = &rest[1..end];
                    match lookup(name) {
                        Some(value) => out.push_str(value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = &rest[end + 1..];
                }
                None => out.push('$'),
            },
            _ => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

fn referred(
    pod: &Pod,
    spec: &Container,
    from: &EnvVarSource,
    facts: &NodeFacts,
    objects: &dyn Objects,
) -> Result<Option<String>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    if let Some(field) = &from.field_ref {
        return self::field(pod, field, facts).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return self::resource(pod, Some(spec), resource, facts).map(Some);
    }
    let (kind, lower, name, key, optional, value) = if let Some(r) = &from.config_map_key_ref {
        let found = objects.config_map(namespace, &r.name);
        let value = found.as_ref().map(|m| m.data.as_ref().and_then(|d| d.get(&r.key)).cloned());
        ("ConfigMap", "configmap", &r.name, &r.key, r.optional, value)
    } else if let Some(r) = &from.secret_key_ref {
        let found = objects.secret(namespace, &r.name);
        let text = |s: &Arc<Secret>| {
            let bytes = s.data.as_ref()?.get(&r.key)?;
            Some(String::from_utf8_lossy(&bytes.0).into_owned())
        };
        ("Secret", "secret", &r.name, &r.key, r.optional, found.as_ref().map(text))
    } else {
        return Ok(None);
    };
    match value {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional.unwrap_or_default() => Ok(None),
        None => Err(EnvError::Missing { kind: lower, name: name.clone() }),
        Some(None) => Err(EnvError::MissingKey {
            kind,
            key: key.clone(),
            namespace: namespace.to_owned(),
            name: name.clone(),
        }),
    }
}

/// The value of a field of the pod, as the downward API gives it.
pub fn field(pod: &Pod, selector: &ObjectFieldSelector, facts: &NodeFacts) -> Result<String, EnvError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let path = selector.field_path.as_str();
    if let Some((map, key)) = subscript(path) {
        let values = if map == "metadata.labels" { &meta.labels } else { &meta.annotations };
        return Ok(values.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(EnvError::Field(path.to_owned())),
    })
}

/// `metadata.labels['key']` as map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    let key = rest.strip_suffix("']")?;
    matches!(map, "metadata.labels" | "metadata.annotations").then_some((map, key))
}

/// `key="value"` lines, ordered by key.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let quoted = |v: &str| serde_json::to_string(v).unwrap_or_default();
    let lines: Vec<_> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quoted(v))).collect();
    lines.join("\n")
}

/// The value of a container's request or limit in units of the divisor, rounded up.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &NodeFacts,
) -> Result<String, EnvError> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let found = named.and_then(|n| container(pod, n)).map(|(_, c)| c);
    let spec = match (&found, own, named) {
        (Some(c), ..) => &**c,
        (None, Some(own), None) => own,
        _ => return Err(EnvError::Resource(format!("container {} not found", named.unwrap_or_default()))),
    };
    let (list, name) = selector.resource.split_once('.').ok_or_else(|| {
        EnvError::Resource(format!("unsupported container resource : {}", selector.resource))
    })?;
    let resources = spec.resources.as_ref();
    let asked = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => {
            return Err(EnvError::Resource(format!(
                "unsupported container resource : {}",
                selector.resource
            )));
        }
    };
    let zero = Quantity("0".into());
    let amount = asked.and_then(|a| a.get(name));
    let amount = match (list, amount) {
        (_, Some(q)) => q,
        // Without a limit of its own a container may use what the node offers.
        ("limits", None) => facts.allocatable.get(name).unwrap_or(&zero),
        _ => &zero,
    };
    let scale: fn(&Quantity) -> i64 = if name == "cpu" { amount::milli } else { amount::value };
    let divisor = selector.divisor.as_ref().map_or(0, scale);
    let divisor = if divisor == 0 { scale(&Quantity("1".into())) } else { divisor };
    let value = scale(amount);
    Ok((value / divisor + i64::from(value % divisor > 0)).to_string())
}

/// Variables of the services a pod sees: those of its namespace when it wants links, and the API server's always.
fn service_variables(pod: &Pod, objects: &dyn Objects) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let is_api = |s: &Service| s.metadata.name.as_deref() == Some("kubernetes");
    for s in objects.services("default").iter().filter(|s| is_api(s)) {
        variables_of(s, &mut out);
    }
    if links {
        for s in objects.services(namespace) {
            variables_of(&s, &mut out);
        }
    }
    out
}

fn variables_of(service: &Service, out: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let Some(ports) = spec.ports.as_ref().filter(|p| !p.is_empty()) else { return };
    let upper = |s: &str| s.to_uppercase().replace('-', "_");
    let name = upper(service.metadata.name.as_deref().unwrap_or_default());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let url = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        (protocol.to_owned(), format!("{}://{host}:{}", protocol.to_lowercase(), port.port))
    };
    out.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
    out.insert(format!("{name}_SERVICE_PORT"), ports[0].port.to_string());
    out.insert(format!("{name}_PORT"), url(&ports[0]).1);
    for port in ports {
        let (protocol, url) = url(port);
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            out.insert(format!("{name}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string());
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        out.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        out.insert(format!("{prefix}_PORT"), port.port.to_string());
        out.insert(format!("{prefix}_ADDR"), ip.to_owned());
        out.insert(prefix, url);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    struct Fixture;

    impl Objects for Fixture {
        fn config_map(&self, _: &str, name: &str) -> Option<Arc<ConfigMap>> {
            let text = r#"{"data":{"color":"red","size":"big"}}"#;
            (name == "cm").then(|| Arc::new(serde_json::from_str(text).unwrap()))
        }
        fn secret(&self, _: &str, name: &str) -> Option<Arc<Secret>> {
            let text = r#"{"data":{"key":"aHVzaA=="}}"#;
            (name == "s").then(|| Arc::new(serde_json::from_str(text).unwrap()))
        }
        fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
            let text = r#"{"metadata":{"name":"my-db"},"spec":{"clusterIP":"10.96.0.7",
                "ports":[{"name":"sql-main","port":5432,"protocol":"TCP"}]}}"#;
            if namespace == "shop" { vec![Arc::new(serde_json::from_str(text).unwrap())] } else { vec![] }
        }
    }

    fn shown(container: &str) -> String {
        let pod: Pod = serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p","namespace":"shop","labels":{{"a":"b\"c"}}}},
                "spec":{{"nodeName":"n1","containers":[{container}]}}}}"#
        ))
        .unwrap();
        let facts = NodeFacts {
            host_ips: vec!["192.0.2.1".into()],
            pod_ips: vec!["10.244.0.9".into(), "fd00::9".into()],
            allocatable: [("cpu".to_owned(), Quantity("4".into()))].into(),
        };
        match environment(&pod, &pod.spec.as_ref().unwrap().containers[0], &facts, &Fixture) {
            Ok(list) => list.iter().map(|(k, v)| format!("{k}={v}\n")).collect(),
            Err(e) => format!("error: {e}"),
        }
    }

    #[test]
    fn an_environment_of_every_kind() {
        let text = shown(
            r#"{"name":"c","resources":{"requests":{"cpu":"1500m","memory":"64Mi"}},
            "envFrom":[{"prefix":"p-","configMapRef":{"name":"cm"}},{"secretRef":{"name":"none","optional":true}}],
            "env":[{"name":"A","value":"x$(p-color)-$(MY_DB_SERVICE_HOST)-$(NONE)-$$(A)"},
                   {"name":"B","valueFrom":{"secretKeyRef":{"name":"s","key":"key"}}},
                   {"name":"IPS","valueFrom":{"fieldRef":{"fieldPath":"status.podIPs"}}},
                   {"name":"LABEL","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['a']"}}},
                   {"name":"CPU","valueFrom":{"resourceFieldRef":{"resource":"requests.cpu"}}},
                   {"name":"CPU_LIMIT","valueFrom":{"resourceFieldRef":{"resource":"limits.cpu"}}},
                   {"name":"MEM","valueFrom":{"resourceFieldRef":{"resource":"requests.memory","divisor":"1Mi"}}},
                   {"name":"A2","value":"$(B)"}]}"#,
        );
        expect![[r#"
            p-color=red
            p-size=big
            A=xred-10.96.0.7-$(NONE)-$(A)
            B=hush
            IPS=10.244.0.9,fd00::9
            LABEL=b"c
            CPU=2
            CPU_LIMIT=4
            MEM=64
            A2=hush
            MY_DB_PORT=tcp://10.96.0.7:5432
            MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432
            MY_DB_PORT_5432_TCP_ADDR=10.96.0.7
            MY_DB_PORT_5432_TCP_PORT=5432
            MY_DB_PORT_5432_TCP_PROTO=tcp
            MY_DB_SERVICE_HOST=10.96.0.7
            MY_DB_SERVICE_PORT=5432
            MY_DB_SERVICE_PORT_SQL_MAIN=5432
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn what_is_missing_is_named() {
        let errors = [
            r#"{"name":"c","envFrom":[{"configMapRef":{"name":"gone"}}]}"#,
            r#"{"name":"c","env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"s","key":"no"}}}]}"#,
            r#"{"name":"c","env":[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"spec.nope"}}}]}"#,
        ]
        .map(shown)
        .join("\n");
        expect![[r#"
            error: configmap "gone" not found
            error: couldn't find key no in Secret shop/s
            error: unsupported fieldPath: spec.nope"#]]
        .assert_eq(&errors);
    }
}
