//! Which representation a client wants: the object, a `Table`, or metadata alone; and what it sends.

use http::{HeaderMap, header};

use crate::status::{ApiError, ApiResult};

/// The representation of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object itself, as JSON.
    Object,
    /// The object itself, as YAML.
    Yaml,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata(List)`.
    Metadata,
}

/// Chooses the first acceptable representation, in the client's order.
///
/// # Errors
/// 406 when nothing of what the client accepts is served.
pub fn form(headers: &HeaderMap, supports_views: bool) -> ApiResult<Form> {
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let accept = accept.join(",");
    if accept.trim().is_empty() {
        return Ok(Form::Object);
    }
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
        let param = |name: &str| {
            clause
                .split(';')
                .skip(1)
                .filter_map(|p| p.trim().split_once('='))
                .find(|(k, _)| *k == name)
                .map(|(_, v)| v)
        };
        match media {
            "application/json" | "*/*" | "application/*" | "text/*" => {}
            "application/yaml" | "text/yaml" => return Ok(Form::Yaml),
            _ => continue,
        }
        let Some(view) = param("as") else { return Ok(Form::Object) };
        let group_matches = param("g") == Some("meta.k8s.io") && matches!(param("v"), Some("v1" | "v1beta1"));
        match view {
            "Table" if group_matches && supports_views => return Ok(Form::Table),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if group_matches && supports_views => {
                return Ok(Form::Metadata);
            }
            _ => {}
        }
    }
    Err(ApiError::not_acceptable("application/json, application/yaml"))
}

/// The encoding of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf.
    Protobuf,
}

/// The encoding that `Content-Type` names; JSON when it names none.
///
/// # Errors
/// 415 for anything else.
pub fn encoding(headers: &HeaderMap) -> ApiResult<Encoding> {
    match media_type(headers) {
        "" | "application/json" | "*/*" => Ok(Encoding::Json),
        "application/yaml" | "text/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        _ => Err(ApiError::unsupported_media_type(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// The media type of the body without its parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .map_or("", |v| v.split(';').next().unwrap_or("").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &'static str) -> Result<Form, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        form(&headers, true).map_err(|e| e.code)
    }

    #[test]
    fn the_first_acceptable_clause_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl), Ok(Form::Table));
        assert_eq!(
            accept("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
            Ok(Form::Metadata)
        );
        assert_eq!(accept("application/vnd.kubernetes.protobuf, */*"), Ok(Form::Object));
        assert_eq!(accept("application/vnd.kubernetes.protobuf"), Err(406));
        assert_eq!(accept("application/json;as=Table;v=v9;g=meta.k8s.io"), Err(406));
        assert_eq!(accept("application/yaml"), Ok(Form::Yaml));
    }
}
