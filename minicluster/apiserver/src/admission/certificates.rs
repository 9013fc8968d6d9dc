//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction: who may have what certified.
//!
//! Source: `plugin/pkg/admission/certificates`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use windlass_crd::field::quote;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::{Operation, Plugin, refuse};
use crate::{authn::MASTERS, authz::Attributes, context::Context, object, status::ApiResult};

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// What somebody wants to be certified as.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
}

impl Request {
    /// Reads the base64 of a PEM block that holds a PKCS#10 request.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let pem = STANDARD.decode(text).map_err(|e| e.to_string())?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem)
            .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
        if pem.label != "CERTIFICATE REQUEST" {
            return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
        }
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| e.to_string())?;
        let subject = &request.certification_request_info.subject;
        let text =
            |name: &x509_parser::x509::AttributeTypeAndValue<'_>| name.as_str().unwrap_or("").to_owned();
        Ok(Self {
            common_name: subject.iter_common_name().map(text).last().unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect(),
        })
    }
}

/// A new request says who makes it: the server's word, not the client's.
pub(super) fn stamp(cx: &Context, obj: &mut Value) {
    if !is_request(cx) {
        return;
    }
    let user = &cx.user;
    for (field, value) in [
        ("username", json!(user.name)),
        ("uid", json!(user.uid)),
        ("groups", json!(user.groups)),
        ("extra", json!(user.extra)),
    ] {
        if value == json!("") || value == json!({}) || value == json!([]) {
            object::remove(obj, &["spec", field]);
        } else {
            object::set(obj, &["spec", field], value);
        }
    }
}

fn is_request(cx: &Context) -> bool {
    cx.resource.group == "certificates.k8s.io" && cx.resource.plural == "certificatesigningrequests"
}

/// Judges a write of a CertificateSigningRequest; other kinds pass.
///
/// # Errors
/// 403 in upstream's words.
pub(super) async fn validate(
    cx: &Context,
    op: Operation,
    obj: Option<&Value>,
    old: Option<&Value>,
) -> ApiResult<()> {
    if !is_request(cx) {
        return Ok(());
    }
    let runs = |plugin| cx.api.config.admission.runs(plugin);
    let found = match (op, cx.info.subresource.as_str(), obj, old) {
        (Operation::Create, "", Some(new), _) if runs(Plugin::CertificateSubjectRestriction) => subject(new),
        (Operation::Update, "approval", _, Some(old)) if runs(Plugin::CertificateApproval) => {
            permitted(cx, "approve", old).await
        }
        (Operation::Update, "status", Some(new), Some(old)) if runs(Plugin::CertificateSigning) => {
            let same =
                |field: &str| object::at(new, &["status", field]) == object::at(old, &["status", field]);
            if same("certificate") && same("conditions") { None } else { permitted(cx, "sign", old).await }
        }
        _ => None,
    };
    found.map_or(Ok(()), |why| Err(refuse(cx, obj, why)))
}

/// Nobody becomes a master by a certificate that anybody may approve.
fn subject(new: &Value) -> Option<String> {
    if object::text(new, &["spec", "signerName"]) != CLIENT_SIGNER {
        return None;
    }
    match Request::parse(object::text(new, &["spec", "request"])) {
        Err(why) => Some(format!("failed to parse CSR: {why}")),
        Ok(request) => request
            .organizations
            .iter()
            .any(|group| group == MASTERS)
            .then(|| format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed")),
    }
}

/// Why the user may not approve or sign for the request's signer.
async fn permitted(cx: &Context, verb: &'static str, old: &Value) -> Option<String> {
    let signer = object::text(old, &["spec", "signerName"]);
    let domain = format!("{}/*", signer.split('/').next().unwrap_or(""));
    for name in [signer, domain.as_str()] {
        let asked = Attributes {
            verb,
            group: "certificates.k8s.io",
            version: "*",
            resource: "signers",
            name,
            is_resource: true,
            ..Attributes::default()
        };
        if cx.api.authorizer.decide(&cx.api, &cx.user, &asked).await.is_allowed() {
            return None;
        }
    }
    Some(format!("user not permitted to {verb} requests with signerName {}", quote(signer)))
}
