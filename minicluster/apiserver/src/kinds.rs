//! The built-in kinds of Kubernetes v1.36: every GA group and version, one line a kind.
//!
//! Source: upstream's published API discovery and `pkg/registry/*/storage_*.go` for storage keys.

use std::sync::{Arc, OnceLock};

use crate::{
    events,
    registry::{Convert, METADATA, Resource, Subresource, Table, Text, Verbs},
    strategy::{
        Plain, Strategy, access, apps, autoscaler, batch, core as plain, definition, event, listed,
        namespace, node, pod, quota, service,
    },
};

/// A row being written.
struct Row(Resource);

fn kind(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Row {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Row(Resource {
        group: group.into(),
        version: version.into(),
        plural: plural.into(),
        singular: kind.to_lowercase().into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: Verbs::ALL,
        subresources: Vec::new(),
        prefix: format!("/registry/{plural}/"),
        storage_version: api_version,
        convert: None,
        generation: false,
        status_keeps: &[],
        deprecation: None,
        strategy: Arc::new(Plain),
        custom: None,
        schema: OnceLock::new(),
    })
}

impl Row {
    fn short(mut self, names: &[&'static str]) -> Self {
        self.0.short_names = names.iter().map(|n| Text::Borrowed(n)).collect();
        self
    }

    fn all(mut self) -> Self {
        self.0.categories = vec!["all".into()];
        self
    }

    fn category(mut self, name: &'static str) -> Self {
        self.0.categories = vec![name.into()];
        self
    }

    fn cluster(mut self) -> Self {
        self.0.namespaced = false;
        self
    }

    fn verbs(mut self, verbs: Verbs) -> Self {
        self.0.verbs = verbs;
        self
    }

    fn generation(mut self) -> Self {
        self.0.generation = true;
        self
    }

    fn deprecated(mut self, warning: &'static str) -> Self {
        self.0.deprecation = Some(warning.to_owned());
        self
    }

    fn stored_at(mut self, prefix: &'static str) -> Self {
        self.0.prefix = format!("/registry/{prefix}/");
        self
    }

    fn stored_as(mut self, api_version: &'static str, convert: Convert) -> Self {
        self.0.storage_version = api_version.to_owned();
        self.0.convert = Some(convert);
        self
    }

    fn converts(mut self, convert: Convert) -> Self {
        self.0.convert = Some(convert);
        self
    }

    fn sub(mut self, name: &'static str, verbs: Verbs) -> Self {
        let kind = self.0.kind.clone();
        self.0.subresources.push(Subresource { name, kind, group_version: None, verbs });
        self
    }

    fn sub_kind(
        mut self,
        name: &'static str,
        verbs: Verbs,
        group: &'static str,
        version: &'static str,
        kind: &'static str,
    ) -> Self {
        let group_version = Some((group, version));
        self.0.subresources.push(Subresource { name, kind: kind.into(), group_version, verbs });
        self
    }

    /// What of the metadata a status write leaves alone.
    fn status_keeps(mut self, fields: &'static [&'static str]) -> Self {
        self.0.status_keeps = fields;
        self
    }

    fn status(self) -> Self {
        self.sub("status", Verbs::GET_PATCH_UPDATE)
    }

    fn scale(self) -> Self {
        self.sub_kind("scale", Verbs::GET_PATCH_UPDATE, "autoscaling", "v1", "Scale")
    }

    fn by(mut self, strategy: impl Strategy) -> Self {
        self.0.strategy = Arc::new(strategy);
        self
    }
}

/// The table of built-in kinds.
pub fn table() -> Table {
    let rows = [core(), workloads(), networking(), storage(), policy_and_access(), extension(), other()];
    Table::new(rows.into_iter().flatten().map(|Row(resource)| Arc::new(resource)))
}

fn core() -> Vec<Row> {
    let v1 = |k, p| kind("", "v1", k, p);
    vec![
        v1("Binding", "bindings").verbs(Verbs::CREATE),
        v1("ConfigMap", "configmaps").short(&["cm"]).by(plain::ConfigMap),
        v1("Endpoints", "endpoints")
            .short(&["ep"])
            .stored_at("services/endpoints")
            .deprecated("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
            .by(plain::Endpoints),
        v1("Event", "events").short(&["ev"]).converts(events::convert()).by(event::Event),
        v1("LimitRange", "limitranges").short(&["limits"]).by(listed::LIMIT_RANGE),
        v1("Namespace", "namespaces")
            .short(&["ns"])
            .cluster()
            .verbs(Verbs::NO_COLLECTION)
            .status()
            .sub("finalize", Verbs::UPDATE)
            .by(namespace::Namespace),
        v1("Node", "nodes")
            .short(&["no"])
            .cluster()
            .stored_at("minions")
            .status()
            .sub_kind("proxy", Verbs::PROXY, "", "v1", "NodeProxyOptions")
            .by(node::Node),
        v1("PersistentVolume", "persistentvolumes")
            .short(&["pv"])
            .cluster()
            .status()
            .by(listed::PERSISTENT_VOLUME),
        v1("PersistentVolumeClaim", "persistentvolumeclaims")
            .short(&["pvc"])
            .status()
            .by(listed::PERSISTENT_VOLUME_CLAIM),
        v1("Pod", "pods")
            .short(&["po"])
            .all()
            .generation()
            .status()
            .sub("ephemeralcontainers", Verbs::GET_PATCH_UPDATE)
            .sub("resize", Verbs::GET_PATCH_UPDATE)
            .sub_kind("attach", Verbs::CONNECT, "", "v1", "PodAttachOptions")
            .sub_kind("binding", Verbs::CREATE, "", "v1", "Binding")
            .sub_kind("eviction", Verbs::CREATE, "policy", "v1", "Eviction")
            .sub_kind("exec", Verbs::CONNECT, "", "v1", "PodExecOptions")
            .sub("log", Verbs::GET)
            .sub_kind("portforward", Verbs::CONNECT, "", "v1", "PodPortForwardOptions")
            .sub_kind("proxy", Verbs::PROXY, "", "v1", "PodProxyOptions")
            .status_keeps(METADATA)
            .by(pod::Pod),
        v1("PodTemplate", "podtemplates").generation().by(pod::PodTemplate),
        v1("ReplicationController", "replicationcontrollers")
            .short(&["rc"])
            .all()
            .generation()
            .stored_at("controllers")
            .status()
            .scale()
            .by(apps::ReplicationController),
        v1("ResourceQuota", "resourcequotas").short(&["quota"]).status().by(quota::ResourceQuota),
        v1("Secret", "secrets").by(plain::Secret),
        v1("Service", "services")
            .short(&["svc"])
            .all()
            .stored_at("services/specs")
            .status()
            .sub_kind("proxy", Verbs::PROXY, "", "v1", "ServiceProxyOptions")
            .by(service::Service),
        v1("ServiceAccount", "serviceaccounts")
            .short(&["sa"])
            .sub_kind("token", Verbs::CREATE, "authentication.k8s.io", "v1", "TokenRequest")
            .by(plain::ServiceAccount),
    ]
}

fn workloads() -> Vec<Row> {
    let app = |k, p| kind("apps", "v1", k, p);
    let job = |k, p| kind("batch", "v1", k, p);
    vec![
        app("ControllerRevision", "controllerrevisions").by(apps::ControllerRevision),
        app("DaemonSet", "daemonsets").short(&["ds"]).all().generation().status().by(apps::DaemonSet),
        app("Deployment", "deployments")
            .short(&["deploy"])
            .all()
            .generation()
            .status()
            .scale()
            .status_keeps(&["labels"])
            .by(apps::Deployment),
        app("ReplicaSet", "replicasets")
            .short(&["rs"])
            .all()
            .generation()
            .status()
            .scale()
            .by(apps::ReplicaSet),
        app("StatefulSet", "statefulsets")
            .short(&["sts"])
            .all()
            .generation()
            .status()
            .scale()
            .by(apps::StatefulSet),
        job("CronJob", "cronjobs").short(&["cj"]).all().generation().status().by(batch::CronJob),
        job("Job", "jobs").all().generation().status().by(batch::Job),
        kind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .short(&["hpa"])
            .all()
            .converts(crate::autoscaling::convert())
            .status()
            .by(autoscaler::AUTOSCALER),
        kind("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .short(&["hpa"])
            .all()
            .stored_as("autoscaling/v2", crate::autoscaling::convert())
            .status()
            .by(autoscaler::AUTOSCALER),
    ]
}

fn networking() -> Vec<Row> {
    let net = |k, p| kind("networking.k8s.io", "v1", k, p);
    vec![
        kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
            .generation()
            .by(plain::EndpointSlice),
        net("Ingress", "ingresses")
            .short(&["ing"])
            .generation()
            .stored_at("ingress")
            .status()
            .by(listed::INGRESS),
        net("IngressClass", "ingressclasses").cluster().generation().by(listed::INGRESS_CLASS),
        net("IPAddress", "ipaddresses").short(&["ip"]).cluster().by(listed::IP_ADDRESS),
        net("NetworkPolicy", "networkpolicies").short(&["netpol"]).generation().by(listed::NETWORK_POLICY),
        net("ServiceCIDR", "servicecidrs").cluster().status().status_keeps(METADATA).by(listed::SERVICE_CIDR),
    ]
}

fn storage() -> Vec<Row> {
    let storage = |k, p| kind("storage.k8s.io", "v1", k, p);
    vec![
        storage("CSIDriver", "csidrivers").cluster().by(listed::CSI_DRIVER),
        storage("CSINode", "csinodes").cluster().by(listed::CSI_NODE),
        storage("CSIStorageCapacity", "csistoragecapacities").by(listed::CSI_STORAGE_CAPACITY),
        storage("StorageClass", "storageclasses").short(&["sc"]).cluster().by(listed::STORAGE_CLASS),
        storage("VolumeAttachment", "volumeattachments")
            .cluster()
            .status()
            .status_keeps(METADATA)
            .by(listed::VOLUME_ATTACHMENT),
        storage("VolumeAttributesClass", "volumeattributesclasses")
            .short(&["vac"])
            .cluster()
            .by(listed::VOLUME_ATTRIBUTES_CLASS),
    ]
}

fn policy_and_access() -> Vec<Row> {
    let rbac = |k, p| kind("rbac.authorization.k8s.io", "v1", k, p);
    let authz = |k, p| kind("authorization.k8s.io", "v1", k, p).cluster().verbs(Verbs::CREATE);
    let authn = |k, p| kind("authentication.k8s.io", "v1", k, p).cluster().verbs(Verbs::CREATE);
    vec![
        kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .short(&["pdb"])
            .generation()
            .status()
            .by(listed::POD_DISRUPTION_BUDGET),
        rbac("ClusterRole", "clusterroles").cluster().by(access::Role),
        rbac("ClusterRoleBinding", "clusterrolebindings").cluster().by(access::Binding),
        rbac("Role", "roles").by(access::Role),
        rbac("RoleBinding", "rolebindings").by(access::Binding),
        authn("SelfSubjectReview", "selfsubjectreviews"),
        authn("TokenReview", "tokenreviews"),
        kind("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews")
            .verbs(Verbs::CREATE),
        authz("SelfSubjectAccessReview", "selfsubjectaccessreviews"),
        authz("SelfSubjectRulesReview", "selfsubjectrulesreviews"),
        authz("SubjectAccessReview", "subjectaccessreviews"),
        kind("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
            .short(&["csr"])
            .cluster()
            .status()
            .sub("approval", Verbs::GET_PATCH_UPDATE)
            .by(listed::CERTIFICATE_SIGNING_REQUEST),
    ]
}

fn extension() -> Vec<Row> {
    let admission = |k, p| {
        kind("admissionregistration.k8s.io", "v1", k, p).cluster().generation().category("api-extensions")
    };
    vec![
        admission("MutatingAdmissionPolicy", "mutatingadmissionpolicies").by(listed::MUTATING_POLICY),
        admission("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
            .by(listed::MUTATING_BINDING),
        admission("MutatingWebhookConfiguration", "mutatingwebhookconfigurations").by(listed::WEBHOOKS),
        admission("ValidatingAdmissionPolicy", "validatingadmissionpolicies")
            .status()
            .status_keeps(METADATA)
            .by(listed::VALIDATING_POLICY),
        admission("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
            .by(listed::VALIDATING_BINDING),
        admission("ValidatingWebhookConfiguration", "validatingwebhookconfigurations").by(listed::WEBHOOKS),
        kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
            .short(&["crd", "crds"])
            .category("api-extensions")
            .cluster()
            .generation()
            .stored_at("apiextensions.k8s.io/customresourcedefinitions")
            .status()
            .by(definition::CustomResourceDefinition),
        kind("apiregistration.k8s.io", "v1", "APIService", "apiservices")
            .category("api-extensions")
            .cluster()
            .stored_at("apiregistration.k8s.io/apiservices")
            .status()
            .by(listed::API_SERVICE),
    ]
}

fn other() -> Vec<Row> {
    let flow = |k, p| {
        kind("flowcontrol.apiserver.k8s.io", "v1", k, p)
            .cluster()
            .generation()
            .status()
            .status_keeps(METADATA)
    };
    let resource = |k, p| kind("resource.k8s.io", "v1", k, p);
    vec![
        kind("coordination.k8s.io", "v1", "Lease", "leases").by(plain::Lease),
        kind("events.k8s.io", "v1", "Event", "events")
            .short(&["ev"])
            .stored_as("v1", events::convert())
            .by(event::Event),
        flow("FlowSchema", "flowschemas").by(listed::FLOW_SCHEMA),
        flow("PriorityLevelConfiguration", "prioritylevelconfigurations").by(listed::PRIORITY_LEVEL),
        kind("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").cluster().by(listed::RUNTIME_CLASS),
        resource("DeviceClass", "deviceclasses").cluster().generation().by(listed::DEVICE_CLASS),
        resource("ResourceClaim", "resourceclaims")
            .status()
            .status_keeps(METADATA)
            .by(listed::RESOURCE_CLAIM),
        resource("ResourceClaimTemplate", "resourceclaimtemplates").by(listed::RESOURCE_CLAIM_TEMPLATE),
        resource("ResourceSlice", "resourceslices").cluster().generation().by(listed::RESOURCE_SLICE),
        kind("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
            .short(&["pc"])
            .cluster()
            .generation()
            .by(plain::PriorityClass),
    ]
}
