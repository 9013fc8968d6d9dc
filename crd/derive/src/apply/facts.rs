//! The table of the built-in types, `schema/builtin.txt` of `windlass-crd`, as far as twins need it.

use std::collections::BTreeMap;

const FACTS: &str = include_str!("../../../src/schema/builtin.txt");

/// Kinds that live in no namespace.
const CLUSTER: &[&str] = &[
    "APIService",
    "CSIDriver",
    "CSINode",
    "CertificateSigningRequest",
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterTrustBundle",
    "ComponentStatus",
    "CustomResourceDefinition",
    "DeviceClass",
    "DeviceTaintRule",
    "FlowSchema",
    "IPAddress",
    "IngressClass",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "ResourcePoolStatusRequest",
    "ResourceSlice",
    "RuntimeClass",
    "SelfSubjectAccessReview",
    "SelfSubjectReview",
    "SelfSubjectRulesReview",
    "ServiceCIDR",
    "StorageClass",
    "StorageVersion",
    "StorageVersionMigration",
    "SubjectAccessReview",
    "TokenReview",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "VolumeAttachment",
    "VolumeAttributesClass",
];

/// What a field holds.
pub(super) enum Type<'a> {
    /// A value without parts.
    Plain(&'a str),
    Definition(&'a str),
    List(Box<Self>),
    Map(Box<Self>),
}

pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) type_: Type<'static>,
}

/// One type.
pub(super) struct Definition {
    /// Such as `apps.v1.Deployment`.
    pub(super) name: &'static str,
    /// Group, version and kind of a kind.
    kind: Option<&'static str>,
    pub(super) fields: Vec<Field>,
}

impl Definition {
    /// Such as `Deployment`.
    pub(super) fn short(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// Whether it is a kind whose objects have names.
    pub(super) fn is_object(&self) -> bool {
        let named = |field: &Field| matches!(field.type_, Type::Definition("meta.v1.ObjectMeta"));
        self.kind.is_some() && self.fields.iter().any(|field| field.name == "metadata" && named(field))
    }

    pub(super) fn is_namespaced(&self) -> bool {
        !CLUSTER.contains(&self.short())
    }

    /// Such as `apps/v1`.
    pub(super) fn api_version(&self) -> &'static str {
        let version = self.kind.and_then(|kind| kind.rsplit_once('/')).map_or("", |(version, _)| version);
        version.trim_start_matches('/')
    }
}

/// All types.
pub(super) struct Facts(BTreeMap<&'static str, Definition>);

impl Facts {
    pub(super) fn read() -> Self {
        let mut all: Vec<Definition> = Vec::new();
        for line in FACTS.lines().filter(|line| !line.starts_with('#')) {
            let Some(field) = line.strip_prefix(' ') else {
                let mut words = line.split(' ');
                let name = words.next().unwrap_or_default();
                let kind = words.find(|word| word.contains('/'));
                all.push(Definition { name, kind, fields: Vec::new() });
                continue;
            };
            let mut words = field.split(' ');
            let (Some(name), Some(type_), Some(last)) = (words.next(), words.next(), all.last_mut()) else {
                continue;
            };
            last.fields.push(Field { name: name.trim_end_matches('!'), type_: type_of(type_) });
        }
        Self(all.into_iter().map(|definition| (definition.name, definition)).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Definition> {
        self.0.get(name)
    }

    /// Kinds of this name, in whatever group.
    pub(super) fn named(&self, short: &str) -> impl Iterator<Item = &'static str> {
        self.0
            .values()
            .filter(move |found| found.is_object() && found.short() == short)
            .map(|found| found.name)
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Definition> {
        self.0.values()
    }
}

fn type_of(word: &'static str) -> Type<'static> {
    if let Some(of) = word.strip_prefix("[]") {
        return Type::List(Box::new(type_of(of)));
    }
    if let Some(of) = word.strip_prefix("{}") {
        return Type::Map(Box::new(type_of(of)));
    }
    match word.contains('.') {
        true => Type::Definition(word),
        false => Type::Plain(word),
    }
}
