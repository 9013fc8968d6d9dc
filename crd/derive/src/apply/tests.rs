//! What is made of the table, and what is told about a kind that is not in it.

use expect_test::{Expect, expect};

use super::*;

fn refused(source: &str, expected: &Expect) {
    let error = expand(source.parse().unwrap()).unwrap_err();
    let (start, end) = (error.span().start(), error.span().end());
    expected.assert_eq(&format!("{}: {error}", &source[start.column..end.column]));
}

#[test]
fn what_is_no_kind_is_pointed_at() {
    refused(
        "core::v1::Pod, apps::v1::Deploymnet",
        &expect!["Deploymnet: Deploymnet is no built-in kind; kinds are named as in apps::v1::Deployment"],
    );
    refused(
        "extensions::v1beta1::Ingress",
        &expect!["Ingress: Ingress is not there: networking::v1::Ingress is"],
    );
    refused(
        "core::v1::{Service, PodSpec}",
        &expect!["PodSpec: PodSpec is no kind that is applied: it has no apiVersion and name"],
    );
    refused(
        "autoscaling::v1::HorizontalPodAutoscaler, autoscaling::v2::HorizontalPodAutoscaler",
        &expect![
            "HorizontalPodAutoscaler: autoscaling.v1.HorizontalPodAutoscaler and autoscaling.v2.HorizontalPodAutoscaler would both be HorizontalPodAutoscalerApply: ask for one of them in another module"
        ],
    );
}

#[test]
fn fields_have_the_names_that_they_have_in_k8s_openapi() {
    let table = [
        ("replicas", "replicas"),
        ("clusterIPs", "cluster_ips"),
        ("clusterIP", "cluster_ip"),
        ("hostPID", "host_pid"),
        ("nonResourceURLs", "non_resource_urls"),
        ("openAPIV3Schema", "open_apiv3_schema"),
        ("podCIDRs", "pod_cidrs"),
        ("x-kubernetes-list-type", "x_kubernetes_list_type"),
        ("type", "type_"),
        ("$ref", "ref_path"),
        ("fsGroup", "fs_group"),
        ("targetWWNs", "target_wwns"),
    ];
    for (json, expected) in table {
        assert_eq!(ident(json).to_string(), expected, "{json}");
    }
}

#[test]
fn a_type_that_two_kinds_reach_is_made_once() {
    let made = expand("apps::v1::{Deployment, StatefulSet}, core::v1::Pod".parse().unwrap()).unwrap();
    let made = made.to_string();
    assert_eq!(made.matches("struct PodSpecApply").count(), 1);
    assert_eq!(made.matches("struct PersistentVolumeClaimApply").count(), 1);
    assert!(!made.contains("struct NodeApply") && !made.contains("ObjectMetaApply"));
}

#[test]
fn every_kind_of_the_table_can_be_asked_for() {
    let facts = Facts::read();
    let kinds: Vec<&Definition> = facts.all().filter(|found| found.is_object()).collect();
    assert!(kinds.len() > 60, "{}", kinds.len());
    for kind in &kinds {
        let made = expand(kind.name.replace('.', "::").parse().unwrap());
        let made = made.unwrap_or_else(|error| panic!("{}: {error}", kind.name));
        assert!(made.to_string().contains(&format!("struct {}Apply", kind.short())), "{}", kind.name);
    }
}
