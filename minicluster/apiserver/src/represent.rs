//! The last station of a response: handlers answer in JSON, here it becomes what the client asked for.
//!
//! Lists and watches in protobuf are written as such where they are made, since they are streams; they pass untouched,
//! as does what has no protobuf form: `/version`, OpenAPI, custom objects.

use http::{HeaderMap, Response, header};
use http_body_util::BodyExt;
use serde::Serialize;
use serde_json::Value;
use windlass_crd::protobuf;

use crate::{
    body::{self, Body},
    negotiate::{self, Encoding},
    request::Query,
    yaml::emit,
};

/// What a client asked for.
#[derive(Clone, Copy, Debug)]
pub struct Representation {
    encoding: Encoding,
    pretty: bool,
}

impl Representation {
    /// Reads the wish of a request.
    pub fn asked(headers: &HeaderMap, query: &Query) -> Self {
        Self { encoding: negotiate::answer(headers), pretty: negotiate::is_pretty(query, headers) }
    }

    /// The response as the client wants it.
    pub async fn of(self, response: Response<Body>) -> Response<Body> {
        let plain = self.encoding == Encoding::Json && !self.pretty;
        if plain || response.headers().get(header::CONTENT_TYPE) != Some(&body::JSON) {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        let Ok(json) = body.collect().await else { return Response::from_parts(parts, body::empty()) };
        let json = json.to_bytes();
        let converted = match self.encoding {
            Encoding::Protobuf => protobuf::encode(&json).ok(),
            Encoding::Yaml => yaml(&json),
            Encoding::Json => indented(&json),
        };
        let Some(bytes) = converted else { return Response::from_parts(parts, body::full(json)) };
        parts.headers.insert(header::CONTENT_TYPE, self.encoding.content_type());
        // What was said of the length is true no longer.
        parts.headers.remove(header::CONTENT_LENGTH);
        Response::from_parts(parts, body::full(bytes))
    }
}

fn yaml(json: &[u8]) -> Option<Vec<u8>> {
    let value: Value = serde_json::from_slice(json).ok()?;
    Some(emit::emit(&value).into_bytes())
}

/// Two spaces a level, as upstream.
fn indented(json: &[u8]) -> Option<Vec<u8>> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let mut out = Vec::with_capacity(json.len() * 2);
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"  ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)).ok()?;
    out.push(b'\n');
    Some(out)
}
