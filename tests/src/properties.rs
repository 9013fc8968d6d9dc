//! Properties that hold for any bytes whatever: the targets of `fuzz/`, and of the bounded run that every test run
//! makes of them (`tests/tests/properties.rs`).
//!
//! A property takes bytes, and panics when it does not hold.

mod cel;
mod credentials;
mod patch;
mod quantity;
mod request;
mod schema;
mod selector;
mod server;

use serde_json::Value;
use windlass_crd::{decode, protobuf, schema as schemas};

pub use cel::cel;
pub use credentials::credentials;
pub use patch::{apply, json_patch, merge, strategic};
pub use quantity::quantity;
pub use request::request;
pub use schema::structural;
pub use selector::{fields, labels};

/// How deep request bodies may nest.
const DEPTH_MAX: usize = 64;

/// A property with what to start from.
pub struct Target {
    /// Its name, as in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// The property.
    pub property: fn(&[u8]),
    /// Inputs that reach far.
    pub seeds: &'static [&'static [u8]],
    /// How many inputs the bounded run tries.
    pub runs: u32,
}

const JSON: &[u8] = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"b":"c"}},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"requests":{"cpu":"1.5","memory":1e3}}}],"x":null,"hostNetwork":true},"a":-0,"b":[1,[2.5,[]],"\u00e9\n"],"a":{}}"#;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "body", property: body, seeds: &[JSON, b"[]", b"{\"a\":1,\"a\":2}", b"1e400"], runs: 20_000 },
    Target {
        name: "protobuf_body",
        property: protobuf_body,
        seeds: &[
            b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x10\x0a\x06\x0a\x01x\x22\x01n\x12\x06\x0a\x01k\x12\x01v",
            b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x12\x0a\x03\x0a\x01p\x12\x0b\x0a\x07\x0a\x03tmp\x12\x00\x12\x00",
        ],
        runs: 20_000,
    },
    Target {
        name: "merge",
        property: merge,
        seeds: &[
            b"{\"a\":{\"b\":1,\"c\":[1]},\"d\":2}\n{\"a\":{\"b\":null,\"e\":{\"f\":null}},\"d\":[]}",
            b"[1]\n{\"a\":null}",
        ],
        runs: 20_000,
    },
    Target {
        name: "json_patch",
        property: json_patch,
        seeds: &[
            br#"{"a":[1,2],"b/c":{"d~e":1}}
[{"op":"test","path":"/a/0","value":1},{"op":"add","path":"/a/-","value":3},{"op":"move","from":"/b~1c/d~0e","path":"/f"},{"op":"copy","from":"/a","path":"/g"},{"op":"remove","path":"/a/1"},{"op":"replace","path":"/f","value":null}]"#,
        ],
        runs: 20_000,
    },
    Target { name: "strategic", property: strategic, seeds: PODS, runs: 10_000 },
    Target { name: "apply", property: apply, seeds: PODS, runs: 5_000 },
    Target {
        name: "labels",
        property: labels,
        seeds: &[b"a=b,c!=d,e in (f,g),!h,i,x.y/z notin (1,,2)", b"a in (,)", b"a==b", b"n>1,m<2", b""],
        runs: 20_000,
    },
    Target {
        name: "fields",
        property: fields,
        seeds: &[b"metadata.name=a,spec.nodeName!=b", b"a==b\\,c\\=d\\\\", b""],
        runs: 20_000,
    },
    Target {
        name: "quantity",
        property: quantity,
        seeds: &[
            b"100m", b"1.5Gi", b"1e3", b"-0.0000000001", b"+12E-2", b"9223372036854775807", b"1000Ki", b".5k",
            b"0.1234567891n", b"1E", b"2000000000000000000000000000000000000000000000000000000000000", b"00012.500u",
        ],
        runs: 50_000,
    },
    Target {
        name: "structural",
        property: structural,
        seeds: &[
            br#"{"type":"object","properties":{"spec":{"type":"object","default":{},"properties":{"n":{"type":"integer","default":3,"minimum":1},"l":{"type":"array","items":{"type":"object","properties":{"k":{"type":"string","default":"v"}}}},"any":{"type":"object","x-kubernetes-preserve-unknown-fields":true},"m":{"type":"object","additionalProperties":{"type":"string","nullable":true}},"i":{"x-kubernetes-int-or-string":true}}}}}
{"spec":{"l":[{},{"k":null,"x":1}],"any":{"y":2},"m":{"a":null},"z":1,"i":"5%"},"w":{}}"#,
        ],
        runs: 10_000,
    },
    Target {
        name: "request",
        property: request,
        seeds: &[
            b"\0limit=2&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJhXHUwMDAwIn0",
            b"\0resourceVersion=7&resourceVersionMatch=Exact&labelSelector=a%3Db",
            b"\x01resourceVersion=0&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1&timeoutSeconds=1",
            b"\x02apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: &x {k: v}\n",
            br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","generateName":"b"},"data":{"k":"v"}}"#,
            b"\x04metadata:\n  labels: {a: b}\ndata: {k: w}\n",
            br#"{"data":{"k":null},"metadata":{"finalizers":["a/b"]}}"#,
        ],
        runs: 5_000,
    },
    Target {
        name: "cel",
        property: cel,
        seeds: &[
            b"self.l.all(x, x.size() > 1 && has(self.n) ? self.n == 1 : 'a' in self.l) // z",
            b"[JSONPatch{op: 'add', ?path: object.?x.orValue(b'\\x00'), value: {r'\\d': -1.5e3, 0x1F: 2u}}]",
            b"\"\"\"a\nb\"\"\".matches('[a-z]+') || !!-9223372036854775808 <= object[0][?'k'].`x-y`",
        ],
        runs: 20_000,
    },
    Target {
        name: "credentials",
        property: credentials,
        seeds: &[
            b"\0Basic YTpi",
            b"\x01abcdef.0123456789abcdef",
            b"\x01eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2t1YmVybmV0ZXMuZGVmYXVsdC5zdmMuY2x1c3Rlci5sb2NhbCJ9.AAAA",
            b"\x02YWJj",
            b"\x03system:serviceaccount:kube-system:default",
            b"\x04example.com%2fscopes",
            b"\x05masters",
        ],
        runs: 3_000,
    },
];

const PODS: &[&[u8]] = &[
    br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"},"finalizers":["f/a"]},"spec":{"containers":[{"name":"c","image":"i","env":[{"name":"E","value":"1"}],"ports":[{"containerPort":80,"protocol":"TCP"}]},{"name":"d"}],"volumes":[{"name":"v","emptyDir":{}}],"tolerations":[{"key":"k"}]}}
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":null},"finalizers":["f/b"]},"spec":{"containers":[{"name":"d","$patch":"delete"},{"name":"c","env":[{"name":"F","value":"2"}],"ports":[{"containerPort":81,"protocol":"UDP"}]}],"$setElementOrder/containers":[{"name":"c"}],"volumes":[{"name":"v","$retainKeys":["name"]}],"tolerations":[]}}"#,
];

/// Tries a target on mutations of its seeds, drawn from `seed`.
pub fn explore(target: &Target, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for input in target.seeds {
        (target.property)(input);
    }
    for run in 0..target.runs {
        let mut input = random.choice(target.seeds).map(|s| s.to_vec()).unwrap_or_default();
        for _ in 0..random.u32(1..6) {
            mutate(&mut input, target.seeds, &mut random);
        }
        let held = std::panic::catch_unwind(|| (target.property)(&input));
        assert!(held.is_ok(), "{}: run {run} fails on {:?}", target.name, String::from_utf8_lossy(&input));
    }
}

/// Pieces that parsers trip over.
const PIECES: &[&str] = &[
    "null",
    "{}",
    "[]",
    "\"\"",
    "-1",
    "0",
    "1e309",
    "9223372036854775808",
    "\\",
    "\"",
    "~",
    "/",
    "$patch",
    "=",
    ",",
    "!",
    "(",
    ")",
    " in ",
    "\n",
    "\0",
    "\u{e9}",
    "a",
    "metadata",
    "Ki",
    "e",
    ".",
    "%",
    "&",
    "default",
    ":",
    "- ",
];

fn mutate(input: &mut Vec<u8>, seeds: &[&[u8]], random: &mut fastrand::Rng) {
    let at = random.usize(..=input.len());
    let end = (at + random.usize(..16)).min(input.len());
    match random.u8(..6) {
        0 => drop(input.drain(at..end)),
        1 => {
            let piece = random.choice(PIECES).copied().unwrap_or_default();
            input.splice(at..end, piece.bytes());
        }
        2 => drop(input.splice(at..at, input[at..end].to_vec())),
        3 => {
            let other = random.choice(seeds).copied().unwrap_or_default();
            let from = random.usize(..=other.len());
            let to = (from + random.usize(..32)).min(other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
        _ if input.is_empty() => input.push(random.u8(..)),
        4 => {
            let at = at.min(input.len() - 1);
            input[at] ^= 1 << random.u8(..8);
        }
        _ => {
            let at = at.min(input.len() - 1);
            input[at] = random.u8(b' '..=b'~');
        }
    }
}

/// Two JSON documents, one after the other.
fn two(bytes: &[u8]) -> Option<(Value, Value)> {
    let mut documents = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    Some((documents.next()?.ok()?, documents.next()?.ok()?))
}

/// JSON of a request: what is taken in is what any JSON reader sees, and checking it twice finds nothing new.
pub fn body(bytes: &[u8]) {
    let Ok((value, _)) = decode::parse_json(bytes, DEPTH_MAX) else { return };
    assert_eq!(serde_json::from_slice::<Value>(bytes).ok().as_ref(), Some(&value), "another reader differs");
    let text = serde_json::to_vec(&value).expect("JSON into memory");
    let (again, duplicates) = decode::parse_json(&text, DEPTH_MAX).expect("our own text can be read");
    assert_eq!((&again, duplicates.len()), (&value, 0));

    let schema = schemas::builtin("v1", "Pod").expect("a built-in kind");
    let mut known = value;
    decode::prune_unknown(&mut known, &schema);
    assert_eq!(decode::check(&known, &schema).unknown, Vec::<String>::new(), "{known}");
    if decode::check(&known, &schema).type_error.is_none() {
        decode::canonicalise(&mut known, &schema);
        let once = known.clone();
        decode::canonicalise(&mut known, &schema);
        assert_eq!(once, known);
    }
}

/// Protobuf of a request: what can be decoded is an object that says what it is, and no part of it is forgotten twice.
pub fn protobuf_body(bytes: &[u8]) {
    let Ok(value) = protobuf::decode(bytes, DEPTH_MAX) else { return };
    assert!(value["apiVersion"].is_string() && value["kind"].is_string(), "{value}");
    let text = serde_json::to_vec(&value).expect("JSON into memory");
    let (again, _) = decode::parse_json(&text, 128).expect("it is JSON, and no deeper than allowed");
    assert_eq!(again, value);
}
