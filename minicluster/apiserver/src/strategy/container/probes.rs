//! Probes and hooks of containers: what they call, and how often.
//!
//! Source: `validateProbe`, `validateHandler`, `validateLifecycle`.

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
};

use super::super::pod_spec::{not_negative, told};
use crate::object;

pub(super) fn all(container: &Value, path: &Path, errors: &mut ErrorList) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = object::at(container, &[field]) else { continue };
        let at = path.child(field);
        handler(probe, None, &at, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
        for number in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            not_negative(probe, number, &at, errors);
        }
        let grace = object::number(probe, &["terminationGracePeriodSeconds"]);
        let at_grace = at.child("terminationGracePeriodSeconds");
        if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
            errors.push(Error::invalid(&at_grace, seconds, "must be greater than 0"));
        }
        let success = object::number(probe, &["successThreshold"]).unwrap_or(0);
        if field == "readinessProbe" {
            errors.extend(
                grace.map(|seconds| Error::invalid(at_grace, seconds, "must not be set for readinessProbes")),
            );
        } else if success != 1 {
            errors.push(Error::invalid(at.child("successThreshold"), success, "must be 1"));
        }
    }
}

pub(super) fn lifecycle(spec: &Value, container: &Value, path: &Path, errors: &mut ErrorList) {
    let grace = object::number(spec, &["terminationGracePeriodSeconds"]);
    let path = path.child("lifecycle");
    for hook in ["postStart", "preStop"] {
        if let Some(value) = object::at(container, &["lifecycle", hook]) {
            handler(value, grace, &path.child(hook), &["exec", "httpGet", "tcpSocket", "sleep"], errors);
        }
    }
    if object::at(container, &["lifecycle", "stopSignal"]).is_some() && object::at(spec, &["os"]).is_none() {
        let detail = "may not be set for containers with empty `spec.os.name`";
        errors.push(Error::forbidden(path.child("stopSignal"), detail));
    }
}

/// Of the ways to call a container, the first is checked and the rest are too many.
fn handler(value: &Value, grace: Option<i64>, path: &Path, kinds: &[&'static str], errors: &mut ErrorList) {
    let mut found = false;
    for kind in kinds {
        let Some(action) = object::at(value, &[kind]) else { continue };
        let at = path.child(*kind);
        if found {
            errors.push(Error::forbidden(at, "may not specify more than 1 handler type"));
            continue;
        }
        found = true;
        match *kind {
            "exec" => {
                if object::list(action, &["command"]).is_empty() {
                    errors.push(Error::required(at.child("command"), ""));
                }
            }
            "httpGet" => http_get(action, &at, errors),
            "sleep" => sleep(action, grace, &at, errors),
            _ => handler_port(action.get("port"), &at.child("port"), errors),
        }
    }
    if !found {
        errors.push(Error::required(path, "must specify a handler type"));
    }
}

fn http_get(action: &Value, path: &Path, errors: &mut ErrorList) {
    const SCHEMES: [&str; 2] = ["HTTP", "HTTPS"];
    if object::text(action, &["path"]).is_empty() {
        errors.push(Error::required(path.child("path"), ""));
    }
    handler_port(action.get("port"), &path.child("port"), errors);
    let scheme = object::text(action, &["scheme"]);
    if !SCHEMES.contains(&scheme) {
        errors.push(Error::not_supported(path.child("scheme"), scheme, &SCHEMES));
    }
    for header in object::list(action, &["httpHeaders"]) {
        let given = object::text(header, &["name"]);
        if let Err(why) = name::http_header_name(given) {
            errors.push(Error::invalid(path.child("httpHeaders"), given, why));
        }
    }
}

fn sleep(action: &Value, grace: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let Some(grace) = grace else { return };
    let seconds = object::number(action, &["seconds"]).unwrap_or(0);
    if !(0..=grace).contains(&seconds) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(Error::invalid(path, seconds, detail));
    }
}

/// A port by number or by name.
pub(crate) fn handler_port(port: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    match port {
        Some(Value::String(text)) => told(name::port_name_faults(text), path, text, errors),
        other => {
            let number = other.and_then(Value::as_i64).unwrap_or(0);
            if let Err(why) = name::port_number(number) {
                errors.push(Error::invalid(path, number, why));
            }
        }
    }
}
