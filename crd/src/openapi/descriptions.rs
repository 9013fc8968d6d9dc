//! Descriptions of built-in definitions, from the documentation of k8s-openapi's types.
//!
//! They are made for one document at a time and dropped with it: a server that nobody asks for documentation holds
//! none of it.

use std::collections::BTreeMap;

use k8s_openapi as k8s;
use schemars::SchemaGenerator;
use serde_json::Value;

use super::Row;

/// The described definitions that the groups of the rows reach, by full name.
pub(super) fn of(rows: &[Row]) -> BTreeMap<String, Value> {
    let mut generator = SchemaGenerator::default();
    for (group, version, describe) in GROUPS {
        if rows.iter().any(|row| row.custom.is_none() && row.group == *group && row.version == *version) {
            describe(&mut generator);
        }
    }
    META(&mut generator);
    generator.take_definitions(false).into_iter().collect()
}

type Describe = fn(&mut SchemaGenerator);

macro_rules! types {
    ($($ty:ty),* $(,)?) => {
        |generator| { $( generator.subschema_for::<$ty>(); )* }
    };
}

const META: Describe = types![
    k8s::apimachinery::pkg::apis::meta::v1::APIGroup,
    k8s::apimachinery::pkg::apis::meta::v1::APIVersions,
    k8s::apimachinery::pkg::apis::meta::v1::DeleteOptions,
    k8s::apimachinery::pkg::apis::meta::v1::ListMeta,
    k8s::apimachinery::pkg::apis::meta::v1::MicroTime,
    k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    k8s::apimachinery::pkg::apis::meta::v1::Status,
    k8s::apimachinery::pkg::apis::meta::v1::Time,
];

#[rustfmt::skip]
const GROUPS: &[(&str, &str, Describe)] = &[
    ("", "v1", types![
        k8s::api::core::v1::Binding,
        k8s::api::core::v1::ComponentStatus,
        k8s::api::core::v1::ConfigMap,
        k8s::api::core::v1::Endpoints,
        k8s::api::core::v1::Event,
        k8s::api::core::v1::LimitRange,
        k8s::api::core::v1::Namespace,
        k8s::api::core::v1::Node,
        k8s::api::core::v1::PersistentVolume,
        k8s::api::core::v1::PersistentVolumeClaim,
        k8s::api::core::v1::Pod,
        k8s::api::core::v1::PodTemplate,
        k8s::api::core::v1::ReplicationController,
        k8s::api::core::v1::ResourceQuota,
        k8s::api::core::v1::Secret,
        k8s::api::core::v1::Service,
        k8s::api::core::v1::ServiceAccount,
    ]),
    ("admissionregistration.k8s.io", "v1", types![
        k8s::api::admissionregistration::v1::MutatingAdmissionPolicy,
        k8s::api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
        k8s::api::admissionregistration::v1::MutatingWebhookConfiguration,
        k8s::api::admissionregistration::v1::ValidatingAdmissionPolicy,
        k8s::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        k8s::api::admissionregistration::v1::ValidatingWebhookConfiguration,
    ]),
    ("apiextensions.k8s.io", "v1", types![
        k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    ]),
    ("apiregistration.k8s.io", "v1", types![
        k8s::kube_aggregator::pkg::apis::apiregistration::v1::APIService,
    ]),
    ("apps", "v1", types![
        k8s::api::apps::v1::ControllerRevision,
        k8s::api::apps::v1::DaemonSet,
        k8s::api::apps::v1::Deployment,
        k8s::api::apps::v1::ReplicaSet,
        k8s::api::apps::v1::StatefulSet,
    ]),
    ("authentication.k8s.io", "v1", types![
        k8s::api::authentication::v1::SelfSubjectReview,
        k8s::api::authentication::v1::TokenRequest,
        k8s::api::authentication::v1::TokenReview,
    ]),
    ("authorization.k8s.io", "v1", types![
        k8s::api::authorization::v1::LocalSubjectAccessReview,
        k8s::api::authorization::v1::SelfSubjectAccessReview,
        k8s::api::authorization::v1::SelfSubjectRulesReview,
        k8s::api::authorization::v1::SubjectAccessReview,
    ]),
    ("autoscaling", "v1", types![
        k8s::api::autoscaling::v1::HorizontalPodAutoscaler,
        k8s::api::autoscaling::v1::Scale,
    ]),
    ("autoscaling", "v2", types![
        k8s::api::autoscaling::v2::HorizontalPodAutoscaler,
    ]),
    ("batch", "v1", types![
        k8s::api::batch::v1::CronJob,
        k8s::api::batch::v1::Job,
    ]),
    ("certificates.k8s.io", "v1", types![
        k8s::api::certificates::v1::CertificateSigningRequest,
    ]),
    ("coordination.k8s.io", "v1", types![
        k8s::api::coordination::v1::Lease,
    ]),
    ("discovery.k8s.io", "v1", types![
        k8s::api::discovery::v1::EndpointSlice,
    ]),
    ("events.k8s.io", "v1", types![
        k8s::api::events::v1::Event,
    ]),
    ("flowcontrol.apiserver.k8s.io", "v1", types![
        k8s::api::flowcontrol::v1::FlowSchema,
        k8s::api::flowcontrol::v1::PriorityLevelConfiguration,
    ]),
    ("networking.k8s.io", "v1", types![
        k8s::api::networking::v1::IPAddress,
        k8s::api::networking::v1::Ingress,
        k8s::api::networking::v1::IngressClass,
        k8s::api::networking::v1::NetworkPolicy,
        k8s::api::networking::v1::ServiceCIDR,
    ]),
    ("node.k8s.io", "v1", types![
        k8s::api::node::v1::RuntimeClass,
    ]),
    ("policy", "v1", types![
        k8s::api::policy::v1::Eviction,
        k8s::api::policy::v1::PodDisruptionBudget,
    ]),
    ("rbac.authorization.k8s.io", "v1", types![
        k8s::api::rbac::v1::ClusterRole,
        k8s::api::rbac::v1::ClusterRoleBinding,
        k8s::api::rbac::v1::Role,
        k8s::api::rbac::v1::RoleBinding,
    ]),
    ("resource.k8s.io", "v1", types![
        k8s::api::resource::v1::DeviceClass,
        k8s::api::resource::v1::ResourceClaim,
        k8s::api::resource::v1::ResourceClaimTemplate,
        k8s::api::resource::v1::ResourceSlice,
    ]),
    ("scheduling.k8s.io", "v1", types![
        k8s::api::scheduling::v1::PriorityClass,
    ]),
    ("storage.k8s.io", "v1", types![
        k8s::api::storage::v1::CSIDriver,
        k8s::api::storage::v1::CSINode,
        k8s::api::storage::v1::CSIStorageCapacity,
        k8s::api::storage::v1::StorageClass,
        k8s::api::storage::v1::VolumeAttachment,
        k8s::api::storage::v1::VolumeAttributesClass,
    ]),
];
