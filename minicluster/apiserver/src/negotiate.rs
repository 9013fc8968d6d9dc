//! Which representation a client wants: the object, a `Table`, or metadata alone; how it is encoded; what it sends.

use http::{HeaderMap, HeaderValue, header};

use crate::{
    request::Query,
    status::{ApiError, ApiResult},
};

/// What a client is shown of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The object itself.
    Object,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata(List)`.
    Metadata,
}

/// The encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf.
    Protobuf,
}

impl Encoding {
    /// The value of `Content-Type` for a body in this encoding.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        })
    }

    fn of_media_type(name: &str) -> Option<Self> {
        match name {
            "application/json" | "*/*" | "application/*" | "text/*" => Some(Self::Json),
            "application/yaml" | "text/yaml" => Some(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }
}

/// The representation of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// What is shown.
    pub view: View,
    /// How it is written.
    pub encoding: Encoding,
}

/// One clause of an `Accept` header.
struct Clause<'a> {
    media_type: &'a str,
    parameters: &'a str,
}

impl<'a> Clause<'a> {
    fn parameter(&self, name: &str) -> Option<&'a str> {
        let pairs = self.parameters.split(';').filter_map(|p| p.trim().split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.trim()).next()
    }

    /// How much the client likes it, in thousandths.
    fn quality(&self) -> u32 {
        let quality = self.parameter("q").and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
        let thousandths = (quality.clamp(0.0, 1.0) * 1000.0) as u32;
        thousandths
    }

    fn view(&self) -> Option<View> {
        let Some(view) = self.parameter("as") else { return Some(View::Object) };
        let of_meta = self.parameter("g") == Some("meta.k8s.io")
            && matches!(self.parameter("v"), Some("v1" | "v1beta1"));
        match view {
            "Table" if of_meta => Some(View::Table),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if of_meta => Some(View::Metadata),
            _ => None,
        }
    }
}

/// The clauses of `Accept`, the best liked first; none when the client takes anything.
fn accepted(accept: &str) -> Vec<Clause<'_>> {
    let clauses = accept.split(',').map(str::trim).filter(|clause| !clause.is_empty());
    let mut clauses: Vec<Clause<'_>> = clauses
        .map(|clause| {
            let (media_type, parameters) = clause.split_once(';').unwrap_or((clause, ""));
            Clause { media_type: media_type.trim(), parameters }
        })
        .collect();
    clauses.sort_by_key(|clause| std::cmp::Reverse(clause.quality()));
    clauses
}

fn accept(headers: &HeaderMap) -> String {
    let values: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    values.join(",")
}

/// True when the client accepts one of these media types, or anything at all.
pub fn accepts_any(headers: &HeaderMap, media_types: &[&str]) -> bool {
    let accept = accept(headers);
    let mut clauses = accept.split(',').map(|clause| clause.split(';').next().unwrap_or_default().trim());
    accept.is_empty() || clauses.any(|media| media == "*/*" || media_types.contains(&media))
}

/// What an endpoint can show beyond the object in JSON and YAML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The object in protobuf: only built-in kinds have that form. The metadata of all kinds has it, tables never.
    pub protobuf: bool,
    /// Tables, and metadata alone: what is stored can be shown so, what is only answered can not.
    pub views: bool,
}

/// Chooses the first acceptable representation, in the client's order.
///
/// # Errors
/// 406 when nothing of what the client accepts is served.
pub fn form(headers: &HeaderMap, offer: Offer) -> ApiResult<Form> {
    let accept = accept(headers);
    let clauses = accepted(&accept);
    if clauses.is_empty() {
        return Ok(Form { view: View::Object, encoding: Encoding::Json });
    }
    for clause in clauses {
        let (Some(encoding), Some(view)) = (Encoding::of_media_type(clause.media_type), clause.view()) else {
            continue;
        };
        let served = match (encoding, view) {
            (_, View::Table | View::Metadata) if !offer.views => false,
            (Encoding::Protobuf, View::Table) => false,
            (Encoding::Protobuf, View::Object) => offer.protobuf,
            _ => true,
        };
        if served {
            return Ok(Form { view, encoding });
        }
    }
    let protobuf = if offer.protobuf { ", application/vnd.kubernetes.protobuf" } else { "" };
    Err(ApiError::not_acceptable(&format!("application/json, application/yaml{protobuf}")))
}

/// The encoding for answers that are no stored objects, errors among them: what the client likes best, or JSON.
pub fn answer(headers: &HeaderMap) -> Encoding {
    let accept = accept(headers);
    accepted(&accept)
        .iter()
        .find_map(|clause| Encoding::of_media_type(clause.media_type))
        .unwrap_or(Encoding::Json)
}

/// True for clients that a person looks at: `?pretty`, or a program for people that does not say otherwise.
pub fn is_pretty(query: &Query, headers: &HeaderMap) -> bool {
    if let Some(pretty) = query.get("pretty") {
        return !matches!(pretty, "false" | "0");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|program| agent.starts_with(program))
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

    fn chosen(text: &'static str, protobuf: bool) -> Result<(View, Encoding), u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        form(&headers, Offer { protobuf, views: true })
            .map(|form| (form.view, form.encoding))
            .map_err(|e| e.code)
    }

    #[test]
    fn the_first_acceptable_clause_wins() {
        use Encoding::{Json, Protobuf, Yaml};
        use View::{Metadata, Object, Table};
        const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
        for (accept, built_in, custom) in [
            (KUBECTL, Ok((Table, Json)), Ok((Table, Json))),
            (
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
                Ok((Metadata, Json)),
                Ok((Metadata, Json)),
            ),
            (METADATA, Ok((Metadata, Protobuf)), Ok((Metadata, Protobuf))),
            ("application/vnd.kubernetes.protobuf, */*", Ok((Object, Protobuf)), Ok((Object, Json))),
            ("application/vnd.kubernetes.protobuf", Ok((Object, Protobuf)), Err(406)),
            ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", Err(406), Err(406)),
            ("application/json;as=Table;v=v9;g=meta.k8s.io", Err(406), Err(406)),
            ("application/yaml", Ok((Object, Yaml)), Ok((Object, Yaml))),
            ("application/yaml;q=0.1, application/json", Ok((Object, Json)), Ok((Object, Json))),
            ("text/html", Err(406), Err(406)),
            ("", Ok((Object, Json)), Ok((Object, Json))),
        ] {
            assert_eq!((chosen(accept, true), chosen(accept, false)), (built_in, custom), "{accept}");
        }
    }

    #[test]
    fn answers_have_no_table() {
        let mut headers = HeaderMap::new();
        headers
            .insert(header::ACCEPT, HeaderValue::from_static("application/json;as=Table;v=v1;g=meta.k8s.io"));
        let offer = Offer { protobuf: true, views: false };
        assert_eq!(form(&headers, offer).unwrap_err().code, 406);
        headers.append(header::ACCEPT, HeaderValue::from_static("application/json"));
        assert_eq!(form(&headers, offer).unwrap().view, View::Object);
    }

    #[test]
    fn people_get_indented_answers() {
        let asked = |query: &str, agent: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
            is_pretty(&Query::parse(query), &headers)
        };
        assert!(asked("", "curl/8.1") && asked("pretty=true", "kubectl/v1.36") && asked("pretty", "x"));
        assert!(!asked("", "kubectl/v1.36") && !asked("pretty=false", "curl/8.1") && !asked("pretty=0", "x"));
    }
}
