//! What a pod of an indexed Job knows of its index: annotation, label, environment, host name, and how often the index
//! has failed before. Pure.

use std::sync::Arc;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
};

use super::{
    facts::{self, FAILURES, IGNORED, INDEX},
    policy,
    view::limit_per_index,
};

const ENV: &str = "JOB_COMPLETION_INDEX";
/// The longest prefix of a name that the server completes.
const PREFIX_MAX: usize = 58;

/// Makes a pod the one of an index.
pub(super) fn give_index(job: &Job, pod: &mut Pod, index: i32, replaced: Option<&Arc<Pod>>) {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    pod.metadata.generate_name = Some(prefix(name, index));
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if limit_per_index(job).is_some() {
        let (counted, ignored) = failures(job, replaced);
        annotations.insert(FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED.to_owned(), ignored.to_string());
        }
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{index}"));
    let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    containers.for_each(tell_index);
}

fn prefix(job: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let room = PREFIX_MAX.saturating_sub(end.len());
    format!("{}{end}", job.get(..room).unwrap_or(job))
}

/// The failures of an index, counted and not, when this pod is replaced.
fn failures(job: &Job, replaced: Option<&Arc<Pod>>) -> (i32, i32) {
    let Some(pod) = replaced else { return (0, 0) };
    let (counted, all) = facts::failures(pod);
    let ignored = all - counted;
    if policy::failure(job, pod).counts() { (counted + 1, ignored) } else { (counted, ignored + 1) }
}

fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|var| var.name == ENV) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    env.push(EnvVar { name: ENV.to_owned(), value: None, value_from: Some(source) });
}
