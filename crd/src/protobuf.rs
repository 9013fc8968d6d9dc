//! Kubernetes' protobuf encoding of built-in kinds, and JSON: each made from the other.
//!
//! Typed clients, kubectl's `create` family and upstream's own components among them, speak this encoding. Both ways
//! are driven by one table of tags; a field that the table does not know is skipped, as protobuf demands. Every length,
//! depth and count that comes from the network is checked before it is believed.
//!
//! Source: `k8s.io/apimachinery/pkg/runtime/serializer/protobuf` for the envelope.

mod decode;
mod encode;
mod order;
mod table;
pub(crate) mod wire;

use std::convert::Infallible;

use serde::de::DeserializeSeed as _;
use serde_json::{Map, Value};

use decode::{Reader, Wire, utf8};
pub use order::{field_in_order, in_order, metadata_in_order};
use table::Id;

/// The four bytes before every message.
const MAGIC: &[u8] = b"k8s\0";

/// The message of a schema within a definition.
const SCHEMA: &str = "apiextensions.v1.JSONSchemaProps";

/// Why bytes cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The envelope is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The bytes end early or a length is wrong.
    #[error("proto: unexpected EOF")]
    Truncated,
    /// The bytes are no protobuf.
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    /// Messages are nested too deeply.
    #[error("proto: message nested deeper than {0}")]
    TooDeep(usize),
    /// Text is not UTF-8, or embedded JSON is none.
    #[error("proto: {0}")]
    Content(&'static str),
    /// No message definition for the kind.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\" in scheme")]
    UnknownKind {
        /// The kind.
        kind: String,
        /// The group and version.
        api_version: String,
    },
}

type Result<T> = std::result::Result<T, DecodeError>;

/// Why an object has no protobuf.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// No message definition for the kind.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\" in scheme")]
    UnknownKind {
        /// The kind.
        kind: String,
        /// The group and version.
        api_version: String,
    },
    /// The JSON is none, or does not fit the kind.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Decodes an enveloped object.
///
/// # Errors
/// [`DecodeError`]; whatever the bytes are, it never panics and never allocates more than a small multiple of them.
pub fn decode(bytes: &[u8], max_depth: usize) -> Result<Value> {
    let body = bytes.strip_prefix(MAGIC).ok_or(DecodeError::NoMagic)?;
    let mut api_version = String::new();
    let mut kind = String::new();
    let mut raw: &[u8] = &[];
    let mut reader = Reader(body);
    while let Some((tag, wire)) = reader.tag()? {
        match (tag, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut reader = Reader(meta);
                while let Some((tag, wire)) = reader.tag()? {
                    match (tag, wire) {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?.to_owned(),
                        (2, Wire::Bytes(text)) => kind = utf8(text)?.to_owned(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let id = definition(&api_version, &kind)
        .ok_or_else(|| DecodeError::UnknownKind { kind: kind.clone(), api_version: api_version.clone() })?;
    let mut object = Map::new();
    decode::message(id, raw, max_depth, &mut object)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

/// The message that stands for a kind: `("apps/v1", "Deployment")` is `apps.v1.Deployment`.
fn definition(api_version: &str, kind: &str) -> Option<Id> {
    const META: [&str; 10] = [
        "APIGroup",
        "APIGroupList",
        "APIResourceList",
        "APIVersions",
        "CreateOptions",
        "DeleteOptions",
        "ListOptions",
        "PatchOptions",
        "Status",
        "UpdateOptions",
    ];
    if META.contains(&kind) {
        return table::find(&format!("meta.v1.{kind}"));
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    table::find(&format!("{}.{version}.{kind}", group.split('.').next()?))
}

/// True when objects of the kind can be encoded.
pub fn is_known(api_version: &str, kind: &str) -> bool {
    definition(api_version, kind).is_some()
}

/// The message type of one kind, looked up once for many objects.
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'a> {
    api_version: &'a str,
    kind: &'a str,
    id: Id,
}

impl<'a> Encoder<'a> {
    /// The encoder of a kind.
    ///
    /// # Errors
    /// [`EncodeError::UnknownKind`].
    pub fn new(api_version: &'a str, kind: &'a str) -> std::result::Result<Self, EncodeError> {
        let unknown =
            || EncodeError::UnknownKind { kind: kind.to_owned(), api_version: api_version.to_owned() };
        let id = definition(api_version, kind).ok_or_else(unknown)?;
        Ok(Self { api_version, kind, id })
    }

    /// Appends an object in its envelope, as it stands alone.
    ///
    /// # Errors
    /// [`EncodeError::Json`].
    pub fn enveloped(&self, json: &[u8], out: &mut Vec<u8>) -> std::result::Result<(), EncodeError> {
        self.envelope(out);
        wire::nested(out, 2, |out| self.bare(json, out))
    }

    /// Appends the magic and the type, which stand before the object.
    fn envelope(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        let Ok(()) = wire::nested::<Infallible>(out, 1, |out| {
            wire::bytes(out, 1, self.api_version.as_bytes());
            wire::bytes(out, 2, self.kind.as_bytes());
            Ok(())
        });
    }

    /// Appends an object as it stands in a list.
    ///
    /// # Errors
    /// [`EncodeError::Json`].
    pub fn bare(&self, json: &[u8], out: &mut Vec<u8>) -> std::result::Result<(), EncodeError> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        encode::Message { id: self.id, out }.deserialize(&mut reader)?;
        Ok(reader.end()?)
    }

    /// Begins a list of objects: what stands before the items, whose encoded length (each with [`item_len`]) is known.
    ///
    /// # Errors
    /// [`EncodeError::Json`] when `metadata` is none.
    pub fn list_head(&self, metadata: &Value, items_len: usize) -> std::result::Result<Vec<u8>, EncodeError> {
        let mut head = Vec::new();
        self.bare(serde_json::json!({ "metadata": metadata }).to_string().as_bytes(), &mut head)?;
        let mut out = Vec::new();
        self.envelope(&mut out);
        wire::length(&mut out, 2, head.len() + items_len);
        out.extend_from_slice(&head);
        Ok(out)
    }
}

/// The bytes that an item of a list takes, with what stands before it.
pub fn item_len(item: usize) -> usize {
    let mut head = Vec::new();
    wire::length(&mut head, 2, item);
    head.len() + item
}

/// Appends an item of a list.
pub fn item(out: &mut Vec<u8>, item: &[u8]) {
    wire::bytes(out, 2, item);
}

/// Appends a `WatchEvent` around an enveloped object, with the frame's length before it.
pub fn watch_frame(out: &mut Vec<u8>, kind: &str, object: &[u8]) {
    let mut event = Vec::with_capacity(object.len() + 32);
    wire::bytes(&mut event, 1, kind.as_bytes());
    let Ok(()) = wire::nested::<Infallible>(&mut event, 2, |out| {
        wire::bytes(out, 1, object);
        Ok(())
    });
    out.extend_from_slice(&u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&event);
}

/// Encodes an object that says its own kind.
///
/// # Errors
/// [`EncodeError`].
pub fn encode(json: &[u8]) -> std::result::Result<Vec<u8>, EncodeError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    #[derive(Default)]
    struct Type<'a> {
        #[serde(borrow)]
        api_version: std::borrow::Cow<'a, str>,
        #[serde(borrow)]
        kind: std::borrow::Cow<'a, str>,
    }
    let head: Type<'_> = serde_json::from_slice(json)?;
    let mut out = Vec::with_capacity(json.len());
    Encoder::new(&head.api_version, &head.kind)?.enveloped(json, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(tag: u64, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![u8::try_from(tag << 3 | 2).unwrap(), u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn a_config_map_reads_as_its_json() {
        let data = [field(1, b"k"), field(2, b"v")].concat();
        let binary = [field(1, b"b"), field(2, &[0, 255])].concat();
        let time = [8, 10, 16, 0];
        let meta = [field(1, b"x"), field(8, &time), field(4, b"")].concat();
        let raw = [field(1, &meta), field(2, &data), field(3, &binary)].concat();
        assert_eq!(
            decode(&envelope("v1", "ConfigMap", &raw), 64),
            Ok(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"}, "binaryData": {"b": "AP8="},
                "metadata": {"name": "x", "creationTimestamp": "1970-01-01T00:00:10Z"},
            }))
        );
    }

    #[test]
    fn inlined_messages_and_special_values_take_their_json_form() {
        // A service port with an int-or-string target; a volume, whose source is inlined.
        let target = [8, 1, 26, 3, b'w', b'e', b'b'];
        let port = [vec![24, 80], field(4, &target)].concat();
        let spec = field(1, &port);
        let service = decode(&envelope("v1", "Service", &field(2, &spec)), 64).unwrap();
        assert_eq!(service["spec"]["ports"], json!([{"port": 80, "targetPort": "web"}]));
        let source = field(2, &field(1, b"Memory"));
        let volume = [field(1, b"tmp"), field(2, &source)].concat();
        let pod = decode(&envelope("v1", "Pod", &field(2, &field(1, &volume))), 64).unwrap();
        assert_eq!(pod["spec"]["volumes"], json!([{"name": "tmp", "emptyDir": {"medium": "Memory"}}]));
    }

    #[test]
    fn zeros_stay_where_they_say_something() {
        // Port 80 by the number, with a node port of 0 that Go writes for "none".
        let port = [24, 80, 40, 0];
        let spec = [field(1, &port), vec![104, 0]].concat();
        let service = decode(&envelope("v1", "Service", &field(2, &spec)), 64).unwrap();
        assert_eq!(service["spec"], json!({"ports": [{"port": 80}]}));
        // "" is a storage class: none at all.
        let claim = decode(&envelope("v1", "PersistentVolumeClaim", &field(2, &field(5, b""))), 64).unwrap();
        assert_eq!(claim["spec"], json!({"storageClassName": ""}));
        let deployment =
            decode(&envelope("apps/v1", "Deployment", &field(2, &[8, 0, 40, 0, 56, 0])), 64).unwrap();
        assert_eq!(deployment["spec"], json!({"replicas": 0}));
    }

    #[test]
    fn whatever_the_bytes_are_the_answer_is_an_error_and_no_panic() {
        assert_eq!(decode(b"{}", 64), Err(DecodeError::NoMagic));
        assert_eq!(decode(b"k8s\0\x0a\xff", 64), Err(DecodeError::Truncated));
        let whole = envelope("v1", "ConfigMap", &field(2, &[field(1, b"k"), field(2, b"v")].concat()));
        for end in 4..whole.len() {
            let _ = decode(&whole[..end], 64);
        }
        assert!(matches!(decode(&envelope("v1", "Nonsense", b""), 64), Err(DecodeError::UnknownKind { .. })));
    }

    /// An object of JSON that shows every special form, and what comes back of it.
    fn there_and_back(object: Value) {
        let bytes = encode(&serde_json::to_vec(&object).unwrap()).unwrap();
        assert_eq!(decode(&bytes, 64), Ok(object));
    }

    #[test]
    fn what_is_encoded_reads_as_it_was() {
        there_and_back(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "a", "labels": {"x": "", "y": "z"}, "creationTimestamp": "2026-01-02T03:04:05Z",
                "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {"f:nodeName": {}}}}],
            },
            "spec": {
                "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c", "defaultMode": 0}}],
                "containers": [{
                    "name": "a", "image": "i", "tty": true,
                    "resources": {"limits": {"cpu": "100m"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 3},
                    "readinessProbe": {"tcpSocket": {"port": 80}},
                }],
                "terminationGracePeriodSeconds": 0,
            },
            "status": {"startTime": "2026-01-02T03:04:05Z"},
        }));
        there_and_back(json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "a"},
            "spec": {"versions": [{"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {
                "type": "object", "maximum": 1.5, "default": {"a": [1, 2.5, null]},
                "properties": {"a": {"type": "array", "items": {"type": "string"}}},
                "additionalProperties": {"type": "integer"}, "enum": [1, "x"],
            }}}]},
        }));
        there_and_back(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"},
            "spec": {"renewTime": "2026-01-02T03:04:05.000006Z", "leaseTransitions": -1},
        }));
        there_and_back(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "a"},
            "spec": {"matchConstraints": {"resourceRules": [{
                "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
            }]}},
        }));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let encode = |object: Value| encode(object.to_string().as_bytes()).map_err(|e| e.to_string());
        let unknown = encode(json!({"apiVersion": "v1", "kind": "Nothing"})).unwrap_err();
        assert_eq!(unknown, "no kind \"Nothing\" is registered for version \"v1\" in scheme");
        assert!(encode(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": 1}})).is_err());
        assert!(encode(json!({"apiVersion": "v1", "kind": "Pod", "spec": []})).is_err());
        assert!(encode(json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "%"}})).is_err());
    }

    #[test]
    fn a_list_and_a_frame_hold_their_objects() {
        let items = ["a", "b"].map(|name| {
            let mut out = Vec::new();
            let object = json!({"metadata": {"name": name}, "data": {"k": "v".repeat(200)}});
            Encoder::new("v1", "ConfigMap").unwrap().bare(object.to_string().as_bytes(), &mut out).unwrap();
            out
        });
        let len = items.iter().map(|item| item_len(item.len())).sum();
        let list = Encoder::new("v1", "ConfigMapList").unwrap();
        let mut bytes = list.list_head(&json!({"resourceVersion": "7"}), len).unwrap();
        items.iter().for_each(|i| item(&mut bytes, i));
        let read = decode(&bytes, 64).unwrap();
        assert_eq!(
            (&read["kind"], &read["metadata"]["resourceVersion"]),
            (&json!("ConfigMapList"), &json!("7"))
        );
        assert_eq!(read["items"][1]["metadata"]["name"], "b");

        let mut frame = Vec::new();
        watch_frame(&mut frame, "ADDED", &bytes);
        let (len, event) = frame.split_at(4);
        assert_eq!(u32::from_be_bytes(len.try_into().unwrap()) as usize, event.len());
        let mut reader = Reader(event);
        assert!(matches!(reader.tag(), Ok(Some((1, Wire::Bytes(b"ADDED"))))));
        assert!(matches!(reader.tag(), Ok(Some((2, Wire::Bytes(_))))));
    }
}
