//! Kinds that need no more than defaults and columns: networking, storage, policy, extension and resource kinds.
//!
//! Source: `pkg/printers/internalversion/printers.go` for columns, `pkg/apis/*/*/defaults.go` for defaults.

use serde_json::{Value, json};
use windlass_crd::field::{self, ErrorList};

use super::{
    Column, Field, Strategy, checks, columns, internal, limits, networking, policy,
    rules::{self, Rule},
    storage,
};
use crate::{object, table};

/// A kind as a few functions.
pub(crate) struct Listed {
    columns: fn() -> Vec<Column>,
    default: fn(&mut Value),
    validate: fn(&Value) -> ErrorList,
    update: fn(&Value, &Value) -> ErrorList,
    change: Option<fn(&Value, &Value) -> ErrorList>,
    status: fn(&Value, &Value) -> ErrorList,
    on_create: fn(&mut Value),
    fields: &'static [Field],
    name: fn(&str) -> Result<(), String>,
    rules: &'static [Rule],
}

impl Listed {
    /// A kind with these columns.
    pub(super) const fn new(columns: fn() -> Vec<Column>) -> Self {
        Self {
            columns,
            default: |_| {},
            validate: |_| ErrorList::new(),
            update: |_, _| ErrorList::new(),
            change: None,
            status: |_, _| ErrorList::new(),
            on_create: |_| {},
            fields: &[],
            name: windlass_crd::name::dns1123_subdomain,
            rules: &[],
        }
    }

    /// With these defaults.
    pub(super) const fn defaults(self, default: fn(&mut Value)) -> Self {
        Self { default, ..self }
    }

    /// With these checks.
    pub(super) const fn checks(self, validate: fn(&Value) -> ErrorList) -> Self {
        Self { validate, ..self }
    }

    /// With these checks of what changed from the old object.
    const fn keeps(self, update: fn(&Value, &Value) -> ErrorList) -> Self {
        Self { update, ..self }
    }

    /// With these checks of a change, instead of those of a new object.
    pub(super) const fn changes(self, change: fn(&Value, &Value) -> ErrorList) -> Self {
        Self { change: Some(change), ..self }
    }

    /// With these checks of a new status.
    pub(super) const fn status(self, status: fn(&Value, &Value) -> ErrorList) -> Self {
        Self { status, ..self }
    }

    /// With these rules for what it is, and for what stays.
    const fn rules(self, rules: &'static [Rule]) -> Self {
        Self { rules, ..self }
    }

    /// With these fields for field selectors.
    const fn selects(self, fields: &'static [Field]) -> Self {
        Self { fields, ..self }
    }

    /// With names that pass this.
    const fn named(self, name: fn(&str) -> Result<(), String>) -> Self {
        Self { name, ..self }
    }

    const fn begins(self, on_create: fn(&mut Value)) -> Self {
        Self { on_create, ..self }
    }
}

impl Strategy for Listed {
    fn fields(&self) -> &'static [Field] {
        self.fields
    }

    fn check_name(&self, name: &str) -> Result<(), String> {
        (self.name)(name)
    }

    fn default(&self, obj: &mut Value) {
        (self.default)(obj);
    }

    fn prepare_create(&self, obj: &mut Value) {
        (self.on_create)(obj);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = rules::faults(self.rules, obj);
        errors.extend((self.validate)(obj));
        errors
    }

    fn validate_update(&self, part: super::Part, obj: &Value, old: &Value) -> ErrorList {
        match part {
            super::Part::Main => {}
            super::Part::Status => return (self.status)(obj, old),
            _ => return ErrorList::new(),
        }
        if let Some(change) = self.change {
            return change(obj, old);
        }
        let mut errors = rules::changes(self.rules, obj, old);
        errors.extend(self.validate(obj));
        errors.extend((self.update)(obj, old));
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        Some((self.columns)())
    }
}

fn flag(name: &str, path: &'static [&'static str]) -> Column {
    Column::new(name, move |obj| (object::at(obj, path) == Some(&Value::Bool(true))).into()).typed("boolean")
}

fn or_unset(name: &str, path: &'static [&'static str]) -> Column {
    Column::new(name, move |obj| match object::at(obj, path) {
        None => "<unset>".into(),
        Some(Value::String(text)) if text.is_empty() => "<unset>".into(),
        Some(Value::String(text)) => text.as_str().into(),
        Some(other) => other.to_string().into(),
    })
}

/// `RWO,ROX`: how upstream shortens access modes, each once.
fn access_modes(modes: &[Value]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let found =
        short.into_iter().filter(|(long, _)| modes.iter().any(|mode| mode == long)).map(|(_, short)| short);
    found.collect::<Vec<_>>().join(",")
}

/// Ingress.
pub(crate) const INGRESS: Listed = Listed::new(|| {
    let hosts = |obj: &Value| {
        let all: Vec<&str> =
            object::list(obj, &["spec", "rules"]).iter().map(|rule| object::text(rule, &["host"])).collect();
        let named: Vec<&str> = all.iter().copied().filter(|host| !host.is_empty()).collect();
        match named.as_slice() {
            [] => "*".to_owned(),
            [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
            some => some.join(","),
        }
    };
    let address = |obj: &Value| {
        let all = object::list(obj, &["status", "loadBalancer", "ingress"]).iter();
        let texts: Vec<&str> = all
            .map(|one| match object::text(one, &["ip"]) {
                "" => object::text(one, &["hostname"]),
                ip => ip,
            })
            .collect();
        texts.join(",")
    };
    let ports = |obj: &Value| {
        (if object::list(obj, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" }).to_owned()
    };
    vec![
        columns::text_or_none("Class", &["spec", "ingressClassName"]),
        columns::made("Hosts", hosts),
        columns::made("Address", address),
        columns::made("Ports", ports),
        columns::age(),
    ]
})
.begins(|obj| object::set(obj, &["status"], json!({"loadBalancer": {}})))
.checks(networking::new_ingress)
.changes(|obj, _| networking::ingress(obj))
.status(networking::ingress_status);

/// IngressClass.
pub(crate) const INGRESS_CLASS: Listed = Listed::new(|| {
    let parameters = |obj: &Value| {
        let Some(reference) = object::at(obj, &["spec", "parameters"]) else { return "<none>".to_owned() };
        let (group, kind) = (object::text(reference, &["apiGroup"]), object::text(reference, &["kind"]));
        let dot = if group.is_empty() { String::new() } else { format!(".{group}") };
        format!("{kind}{dot}/{}", object::text(reference, &["name"]))
    };
    vec![
        columns::text("Controller", &["spec", "controller"]),
        columns::made("Parameters", parameters),
        columns::age(),
    ]
})
.checks(networking::ingress_class)
.rules(rules::INGRESS_CLASS);

/// NetworkPolicy.
pub(crate) const NETWORK_POLICY: Listed = Listed::new(|| {
    vec![
        columns::made("Pod-Selector", |o| columns::selector(object::at(o, &["spec", "podSelector"]))),
        columns::age(),
    ]
})
.defaults(|obj| {
    if !object::list(obj, &["spec", "policyTypes"]).is_empty() || object::at(obj, &["spec"]).is_none() {
        return;
    }
    let egress = !object::list(obj, &["spec", "egress"]).is_empty();
    let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    object::set(obj, &["spec", "policyTypes"], types);
})
.checks(|obj| networking::network_policy(obj, None))
.changes(|obj, old| networking::network_policy(obj, Some(old)));

/// IPAddress.
pub(crate) const IP_ADDRESS: Listed = Listed::new(|| {
    let parent = |obj: &Value| {
        let text = |field: &str| object::text(obj, &["spec", "parentRef", field]).to_owned();
        let parts = [text("resource"), text("group"), text("namespace"), text("name")];
        let dotted: Vec<&str> =
            parts[..2].iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        let rest: Vec<&str> = parts[2..].iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        format!("{}/{}", dotted.join("."), rest.join("/"))
    };
    vec![columns::made("ParentRef", parent), columns::age()]
})
.named(|name| match windlass_crd::address::canonical_ip_faults(name) {
    faults if faults.is_empty() => Ok(()),
    faults => Err(faults.join("; ")),
})
.checks(networking::ip_address)
.changes(networking::ip_address_update);

/// ServiceCIDR.
pub(crate) const SERVICE_CIDR: Listed = Listed::new(|| {
    let cidrs = |obj: &Value| {
        let all: Vec<&str> = object::list(obj, &["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
        all.join(",")
    };
    vec![columns::made("CIDRs", cidrs), columns::age()]
})
.checks(networking::service_cidr)
.changes(networking::service_cidr_update);

fn terminating_or(obj: &Value, phase: &str) -> String {
    if object::is_deleting(obj) { "Terminating".to_owned() } else { phase.to_owned() }
}

/// PersistentVolume.
pub(crate) const PERSISTENT_VOLUME: Listed = Listed::new(|| {
    let claim = |obj: &Value| match object::at(obj, &["spec", "claimRef"]) {
        Some(claim) => format!("{}/{}", object::text(claim, &["namespace"]), object::text(claim, &["name"])),
        None => String::new(),
    };
    vec![
        columns::text("Capacity", &["spec", "capacity", "storage"]),
        columns::made("Access Modes", |o| access_modes(object::list(o, &["spec", "accessModes"]))),
        columns::text("Reclaim Policy", &["spec", "persistentVolumeReclaimPolicy"]),
        columns::made("Status", |o| terminating_or(o, object::text(o, &["status", "phase"]))),
        columns::made("Claim", claim),
        columns::text("StorageClass", &["spec", "storageClassName"]),
        or_unset("VolumeAttributesClass", &["spec", "volumeAttributesClassName"]),
        columns::text("Reason", &["status", "reason"]),
        columns::age(),
        or_unset("VolumeMode", &["spec", "volumeMode"]).wide(),
    ]
})
.begins(|obj| {
    let status = json!({"phase": "Pending", "lastPhaseTransitionTime": object::now()});
    object::set(obj, &["status"], status);
})
.checks(storage::volume)
.keeps(storage::volume_update);

/// PersistentVolumeClaim.
pub(crate) const PERSISTENT_VOLUME_CLAIM: Listed = Listed::new(|| {
    let bound = |obj: &Value| !object::text(obj, &["spec", "volumeName"]).is_empty();
    let capacity = move |obj: &Value| {
        let text = object::text(obj, &["status", "capacity", "storage"]);
        Value::from(if bound(obj) { text } else { "" })
    };
    let modes = move |obj: &Value| {
        let text = access_modes(object::list(obj, &["status", "accessModes"]));
        Value::from(if bound(obj) { text } else { String::new() })
    };
    vec![
        columns::made("Status", |o| terminating_or(o, object::text(o, &["status", "phase"]))),
        columns::text("Volume", &["spec", "volumeName"]),
        Column::new("Capacity", capacity),
        Column::new("Access Modes", modes),
        columns::text("StorageClass", &["spec", "storageClassName"]),
        or_unset("VolumeAttributesClass", &["spec", "volumeAttributesClassName"]),
        columns::age(),
        or_unset("VolumeMode", &["spec", "volumeMode"]).wide(),
    ]
})
.begins(|obj| object::set(obj, &["status"], json!({"phase": "Pending"})))
.checks(storage::claim)
.keeps(storage::claim_update)
.status(storage::claim_status);

/// StorageClass.
pub(crate) const STORAGE_CLASS: Listed = Listed::new(|| {
    let name = |obj: &Value| {
        let default =
            object::text(obj, &["metadata", "annotations", "storageclass.kubernetes.io/is-default-class"]);
        let mark = if default == "true" { " (default)" } else { "" };
        format!("{}{mark}", object::name(obj))
    };
    vec![
        Column { format: "name", ..columns::made("Name", name) },
        columns::text("Provisioner", &["provisioner"]),
        columns::text("ReclaimPolicy", &["reclaimPolicy"]),
        columns::text("VolumeBindingMode", &["volumeBindingMode"]),
        flag("AllowVolumeExpansion", &["allowVolumeExpansion"]).typed("string"),
        columns::age(),
    ]
})
.checks(storage::kinds::storage_class)
.keeps(storage::kinds::storage_class_update);

/// VolumeAttributesClass.
pub(crate) const VOLUME_ATTRIBUTES_CLASS: Listed =
    Listed::new(|| vec![columns::text("DriverName", &["driverName"]), columns::age()])
        .checks(storage::kinds::attributes_class)
        .rules(rules::VOLUME_ATTRIBUTES_CLASS);

/// VolumeAttachment.
pub(crate) const VOLUME_ATTACHMENT: Listed = Listed::new(|| {
    vec![
        Column { format: "name", ..columns::text("Attacher", &["spec", "attacher"]) },
        columns::text("PV", &["spec", "source", "persistentVolumeName"]),
        columns::text("Node", &["spec", "nodeName"]),
        flag("Attached", &["status", "attached"]),
        columns::age(),
    ]
})
.checks(storage::kinds::attachment)
.keeps(storage::kinds::attachment_update);

/// CSIDriver.
pub(crate) const CSI_DRIVER: Listed = Listed::new(|| {
    let modes = |obj: &Value| {
        let all: Vec<&str> =
            object::list(obj, &["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
        columns::or_none(&all.join(","))
    };
    let audiences = |obj: &Value| {
        let all: Vec<&str> = object::list(obj, &["spec", "tokenRequests"])
            .iter()
            .map(|t| object::text(t, &["audience"]))
            .collect();
        if all.is_empty() { "<unset>".to_owned() } else { all.join(",") }
    };
    vec![
        flag("AttachRequired", &["spec", "attachRequired"]),
        flag("PodInfoOnMount", &["spec", "podInfoOnMount"]),
        flag("StorageCapacity", &["spec", "storageCapacity"]),
        columns::made("TokenRequests", audiences),
        flag("RequiresRepublish", &["spec", "requiresRepublish"]),
        columns::made("Modes", modes),
        columns::age(),
    ]
})
.checks(storage::kinds::driver)
.keeps(storage::kinds::driver_update);

/// CSINode.
pub(crate) const CSI_NODE: Listed =
    Listed::new(|| vec![columns::count("Drivers", &["spec", "drivers"]), columns::age()])
        .checks(storage::kinds::node)
        .keeps(storage::kinds::node_update);

/// CSIStorageCapacity, which upstream has no columns for.
pub(crate) const CSI_STORAGE_CAPACITY: Listed = Listed::new(|| vec![table::created_at()])
    .checks(storage::kinds::capacity)
    .keeps(storage::kinds::capacity_update);

/// PodDisruptionBudget.
pub(crate) const POD_DISRUPTION_BUDGET: Listed = Listed::new(|| {
    let value = |path: &'static [&'static str]| {
        move |obj: &Value| match object::at(obj, path) {
            Some(Value::String(text)) => text.as_str().into(),
            Some(other) => other.to_string().into(),
            None => Value::from("N/A"),
        }
    };
    vec![
        Column::new("Min Available", value(&["spec", "minAvailable"])),
        Column::new("Max Unavailable", value(&["spec", "maxUnavailable"])),
        columns::number("Allowed Disruptions", &["status", "disruptionsAllowed"]),
        columns::age(),
    ]
})
.checks(checks::budget)
.status(checks::budget_status)
.named(super::access::path_segment);

/// LimitRange.
pub(crate) const LIMIT_RANGE: Listed =
    Listed::new(|| vec![table::created_at()]).defaults(checks::default_limits).checks(limits::validate);

/// CertificateSigningRequest.
pub(crate) const CERTIFICATE_SIGNING_REQUEST: Listed = Listed::new(|| {
    let duration = |obj: &Value| match object::number(obj, &["spec", "expirationSeconds"]) {
        Some(seconds) => table::human_duration(seconds),
        None => "<none>".to_owned(),
    };
    let condition = |obj: &Value| {
        let conditions = object::list(obj, &["status", "conditions"]);
        let has = |kind: &str| conditions.iter().any(|c| object::text(c, &["type"]) == kind);
        let mut words = Vec::new();
        if has("Denied") {
            words.push("Denied");
        } else if has("Approved") {
            words.push("Approved");
        } else {
            words.push("Pending");
        }
        if has("Failed") {
            words.push("Failed");
        }
        if !object::text(obj, &["status", "certificate"]).is_empty() {
            words.push("Issued");
        }
        words.join(",")
    };
    vec![
        columns::age(),
        columns::text("SignerName", &["spec", "signerName"]),
        columns::text("Requestor", &["spec", "username"]),
        columns::made("RequestedDuration", duration),
        columns::made("Condition", condition),
    ]
})
.checks(checks::signing_request)
.named(|_| Ok(()))
.selects(&[("spec.signerName", |o| object::text(o, &["spec", "signerName"]).to_owned())]);

/// MutatingWebhookConfiguration and ValidatingWebhookConfiguration.
pub(crate) const WEBHOOKS: Listed =
    Listed::new(|| vec![columns::count("Webhooks", &["webhooks"]), columns::age()])
        .checks(policy::webhooks)
        .rules(rules::WEBHOOKS);

fn policy_columns(rules: &'static str) -> Vec<Column> {
    let kind = |obj: &Value| match object::at(obj, &["spec", "paramKind"]) {
        Some(kind) => format!("{}/{}", object::text(kind, &["apiVersion"]), object::text(kind, &["kind"])),
        None => "<unset>".to_owned(),
    };
    let heading = if rules == "validations" { "Validations" } else { "Mutations" };
    let count = move |obj: &Value| object::list(obj, &["spec", rules]).len().into();
    vec![Column::new(heading, count).typed("integer"), columns::made("ParamKind", kind), columns::age()]
}

/// ValidatingAdmissionPolicy.
pub(crate) const VALIDATING_POLICY: Listed =
    Listed::new(|| policy_columns("validations")).checks(policy::validating);
/// MutatingAdmissionPolicy.
pub(crate) const MUTATING_POLICY: Listed =
    Listed::new(|| policy_columns("mutations")).checks(policy::mutating);

fn binding_columns() -> Vec<Column> {
    let parameters = |obj: &Value| {
        let Some(reference) = object::at(obj, &["spec", "paramRef"]) else { return "<unset>".to_owned() };
        let (namespace, name) = (object::text(reference, &["namespace"]), object::text(reference, &["name"]));
        match (namespace, name) {
            (_, "") => "*".to_owned(),
            ("", name) => name.to_owned(),
            (namespace, name) => format!("{namespace}/{name}"),
        }
    };
    vec![
        columns::text("PolicyName", &["spec", "policyName"]),
        columns::made("ParamRef", parameters),
        columns::age(),
    ]
}

/// ValidatingAdmissionPolicyBinding.
pub(crate) const VALIDATING_BINDING: Listed = Listed::new(binding_columns).checks(policy::validating_binding);
/// MutatingAdmissionPolicyBinding.
pub(crate) const MUTATING_BINDING: Listed = Listed::new(binding_columns).checks(policy::mutating_binding);

/// APIService.
pub(crate) const API_SERVICE: Listed = Listed::new(|| {
    let service = |obj: &Value| match object::at(obj, &["spec", "service"]) {
        Some(service) => {
            format!("{}/{}", object::text(service, &["namespace"]), object::text(service, &["name"]))
        }
        None => "Local".to_owned(),
    };
    let available = |obj: &Value| {
        let conditions = object::list(obj, &["status", "conditions"]);
        let Some(found) = conditions.iter().find(|c| object::text(c, &["type"]) == "Available") else {
            return "Unknown".to_owned();
        };
        match object::text(found, &["status"]) {
            "True" => "True".to_owned(),
            status => format!("{status} ({})", object::text(found, &["reason"])),
        }
    };
    vec![columns::made("Service", service), columns::made("Available", available), columns::age()]
});

/// RuntimeClass.
pub(crate) const RUNTIME_CLASS: Listed =
    Listed::new(|| vec![columns::text("Handler", &["handler"]), columns::age()])
        .checks(checks::runtime_class)
        .keeps(checks::runtime_class_update);

/// FlowSchema.
pub(crate) const FLOW_SCHEMA: Listed = Listed::new(|| {
    let missing = |obj: &Value| {
        let conditions = object::list(obj, &["status", "conditions"]);
        let dangling = conditions.iter().find(|c| object::text(c, &["type"]) == "Dangling");
        dangling.map_or("?", |c| object::text(c, &["status"])).to_owned()
    };
    vec![
        columns::text("PriorityLevel", &["spec", "priorityLevelConfiguration", "name"]),
        columns::number("MatchingPrecedence", &["spec", "matchingPrecedence"]).typed("string"),
        columns::text_or_none("DistinguisherMethod", &["spec", "distinguisherMethod", "type"]),
        columns::age(),
        columns::made("MissingPL", missing),
    ]
})
.defaults(|obj| {
    if object::number(obj, &["spec", "matchingPrecedence"]).is_none_or(|given| given == 0) {
        object::set(obj, &["spec", "matchingPrecedence"], 1000);
    }
})
.rules(rules::FLOW_SCHEMA);

/// PriorityLevelConfiguration.
pub(crate) const PRIORITY_LEVEL: Listed = Listed::new(|| {
    vec![
        columns::text("Type", &["spec", "type"]),
        or_none_number("NominalConcurrencyShares", &["spec", "limited", "nominalConcurrencyShares"]),
        or_none_number("Queues", &["spec", "limited", "limitResponse", "queuing", "queues"]),
        or_none_number("HandSize", &["spec", "limited", "limitResponse", "queuing", "handSize"]),
        or_none_number(
            "QueueLengthLimit",
            &["spec", "limited", "limitResponse", "queuing", "queueLengthLimit"],
        ),
        columns::age(),
    ]
})
.rules(rules::PRIORITY_LEVEL);

fn or_none_number(name: &str, path: &'static [&'static str]) -> Column {
    Column::new(name, move |obj| object::number(obj, path).map_or("<none>".into(), Value::from))
}

/// DeviceClass.
pub(crate) const DEVICE_CLASS: Listed = Listed::new(|| vec![columns::age()]).rules(rules::DEVICE_CLASS);

/// How many devices a request asks for, when it does not say.
fn default_requests(obj: &mut Value, path: &str) {
    let Some(requests) = obj.pointer_mut(path).and_then(Value::as_array_mut) else { return };
    for request in requests {
        if let Some(exactly) = request.get_mut("exactly") {
            default_allocation(exactly);
        }
        for choice in request.get_mut("firstAvailable").and_then(Value::as_array_mut).into_iter().flatten() {
            default_allocation(choice);
        }
    }
}

fn default_allocation(request: &mut Value) {
    if object::text(request, &["allocationMode"]).is_empty() {
        object::set(request, &["allocationMode"], "ExactCount");
    }
    let exact = object::text(request, &["allocationMode"]) == "ExactCount";
    if exact && object::number(request, &["count"]).unwrap_or(0) == 0 {
        object::set(request, &["count"], 1);
    }
}

/// ResourceClaim.
pub(crate) const RESOURCE_CLAIM: Listed = Listed::new(|| {
    let state = |obj: &Value| {
        let mut words = Vec::new();
        if object::is_deleting(obj) {
            words.push("deleted");
        }
        if object::at(obj, &["status", "allocation"]).is_none() {
            if words.is_empty() {
                words.push("pending");
            }
        } else {
            words.push("allocated");
            if !object::list(obj, &["status", "reservedFor"]).is_empty() {
                words.push("reserved");
            }
        }
        words.join(",")
    };
    vec![columns::made("State", state), columns::age()]
})
.defaults(|obj| default_requests(obj, "/spec/devices/requests"))
.rules(rules::RESOURCE_CLAIM)
.changes(|obj, old| spec_stays("ResourceClaimSpec", obj, old));

/// ResourceClaimTemplate.
pub(crate) const RESOURCE_CLAIM_TEMPLATE: Listed = Listed::new(|| vec![columns::age()])
    .defaults(|obj| default_requests(obj, "/spec/spec/devices/requests"))
    .rules(rules::RESOURCE_CLAIM_TEMPLATE)
    .changes(|obj, old| spec_stays("ResourceClaimTemplateSpec", obj, old));

/// Of a change to what cannot change nothing else is asked.
fn spec_stays(kind: &'static str, obj: &Value, old: &Value) -> ErrorList {
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    if Some(spec) == old.get("spec") {
        return ErrorList::new();
    }
    vec![internal::invalid(&field::root("spec"), kind, spec, "field is immutable")]
}

/// ResourceSlice.
pub(crate) const RESOURCE_SLICE: Listed = Listed::new(|| {
    vec![
        columns::text("Node", &["spec", "nodeName"]),
        columns::text("Driver", &["spec", "driver"]),
        columns::text("Pool", &["spec", "pool", "name"]),
        columns::age(),
    ]
})
.selects(&[
    ("spec.nodeName", |o| object::text(o, &["spec", "nodeName"]).to_owned()),
    ("spec.driver", |o| object::text(o, &["spec", "driver"]).to_owned()),
])
.rules(rules::RESOURCE_SLICE);

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(kind: &Listed, obj: &Value) -> Vec<Value> {
        let columns = (kind.columns)().into_iter().filter(|c| c.name != "Age");
        columns.map(|c| (c.cell)(obj)).collect()
    }

    #[test]
    fn cells_are_upstreams() {
        let claim = json!({"spec": {"volumeName": "pv1", "storageClassName": "fast", "volumeMode": "Filesystem"},
            "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "capacity": {"storage": "1Gi"}}});
        assert_eq!(
            cells(&PERSISTENT_VOLUME_CLAIM, &claim),
            ["Bound", "pv1", "1Gi", "RWO,ROX", "fast", "<unset>", "Filesystem"].map(Value::from)
        );
        let budget = json!({"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}});
        assert_eq!(cells(&POD_DISRUPTION_BUDGET, &budget), [json!("50%"), json!("N/A"), json!(1)]);
        let ingress = json!({"spec": {"rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {"host": "d"}], "tls": [{}]}});
        assert_eq!(
            cells(&INGRESS, &ingress),
            ["<none>", "a,b,c + 1 more...", "", "80, 443"].map(Value::from)
        );
    }

    #[test]
    fn network_policies_default_their_types() {
        let mut policy = json!({"spec": {"egress": [{}]}});
        NETWORK_POLICY.default(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    }
}
