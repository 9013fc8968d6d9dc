//! What a request asks for, read from its method, path and query alone.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`.

use std::{borrow::Cow, collections::BTreeMap};

use http::Method;
use percent_encoding::percent_decode_str;
use windlass_crd::{
    name,
    selector::{FieldRequirement, FieldSelector, LabelSelector, Requirement},
};

/// The attributes that authentication, authorization, admission and the handlers go by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// True for `/api/v1/…` and `/apis/group/version/…`.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the lower-case method
    /// for other paths.
    pub verb: &'static str,
    /// The decoded path.
    pub path: String,
    /// The API group, empty for the core group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The namespace, empty for none.
    pub namespace: String,
    /// The plural name of the resource.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The object's name, or empty.
    pub name: String,
    /// What follows a `proxy` subresource.
    pub rest: String,
    /// The field selector of a list, a watch or the deletion of a collection; empty when it does not parse.
    pub fields: Vec<FieldRequirement>,
    /// The label selector, likewise.
    pub labels: Vec<Requirement>,
}

/// Query parameters, decoded; a parameter may repeat.
#[derive(Debug, Clone, Default)]
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    /// Parses `a=b&c=d`.
    pub fn parse(query: &str) -> Self {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            map.entry(decode(key)).or_default().push(decode(value));
        }
        Self(map)
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|v| v.first()).map(String::as_str)
    }

    /// All values of a parameter.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// True for `true`, `1` and, as in upstream, any other non-empty value that is not false.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| !matches!(v, "false" | "0" | "F" | "f" | "False" | "FALSE"))
    }
}

fn decode(text: &str) -> String {
    let spaced: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// Subresources of namespaces, which look like namespaced resources without a name.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads method, path and query.
    pub fn new(method: &Method, path: &str, query: &Query) -> Self {
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let parts: Vec<&str> = decoded.split('/').filter(|p| !p.is_empty()).collect();
        let mut info = Self { path: decoded.to_string(), verb: method_verb(method), ..Self::default() };
        let rest: &[&str] = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        let watch_path = rest[0] == "watch" && rest.len() > 1;
        let rest = if watch_path { &rest[1..] } else { rest };
        info.read_resource(rest);
        info.verb = info.resource_verb(method, query, watch_path);
        if !watch_path && matches!(info.verb, "list" | "watch" | "deletecollection") {
            info.read_selectors(query);
        }
        info
    }

    /// What the request is limited to counts when it is authorized: reading one object by its name is less than reading
    /// all.
    fn read_selectors(&mut self, query: &Query) {
        let fields =
            query.get("fieldSelector").and_then(|text| FieldSelector::parse(text).ok()).unwrap_or_default();
        if self.name.is_empty()
            && self.verb != "deletecollection"
            && let Some(one) = fields.exact("metadata.name")
            && name::path_segment_faults(one).is_empty()
        {
            self.name = one.to_owned();
        }
        self.fields = fields.requirements().to_vec();
        let labels =
            query.get("labelSelector").and_then(|text| LabelSelector::parse(text).ok()).unwrap_or_default();
        self.labels = labels.requirements().to_vec();
    }

    fn read_resource(&mut self, parts: &[&str]) {
        let own = |text: Option<&&str>| text.map_or_else(String::new, |t| (*t).to_owned());
        let parts = match parts {
            ["namespaces", namespace, rest @ ..] => {
                self.namespace = (*namespace).to_owned();
                match rest {
                    [] => parts,
                    [sub, ..] if NAMESPACE_SUBRESOURCES.contains(sub) => parts,
                    _ => rest,
                }
            }
            _ => parts,
        };
        self.resource = own(parts.first());
        self.name = own(parts.get(1));
        self.subresource = own(parts.get(2));
        if parts.len() > 3 {
            self.rest = parts[3..].join("/");
        }
        if self.resource == "namespaces" {
            self.namespace = self.name.clone();
        }
    }

    fn resource_verb(&self, method: &Method, query: &Query, watch_path: bool) -> &'static str {
        if watch_path {
            return "watch";
        }
        match *method {
            Method::GET | Method::HEAD if !self.name.is_empty() && !query.flag("watch") => "get",
            // A watch of one object by name is what old clients ask for; new ones use a field selector.
            Method::GET | Method::HEAD if query.flag("watch") => "watch",
            Method::GET | Method::HEAD => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if self.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ => method_verb(method),
        }
    }

    /// `pods` or `pods/log`.
    pub fn resource_and_sub(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: Method, url: &str) -> String {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let i = RequestInfo::new(&method, path, &Query::parse(query));
        let group = if i.group.is_empty() { String::new() } else { format!("{}/", i.group) };
        match i.is_resource {
            false => format!("{} {}", i.verb, i.path),
            true => format!(
                "{} {group}{} ns={} name={} rest={}",
                i.verb,
                i.resource_and_sub(),
                i.namespace,
                i.name,
                i.rest
            ),
        }
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        for (method, url, expected) in [
            (Method::GET, "/api/v1/pods", "list pods ns= name= rest="),
            (Method::GET, "/api/v1/namespaces/d/pods?watch=1", "watch pods ns=d name= rest="),
            (Method::GET, "/api/v1/watch/namespaces/d/pods", "watch pods ns=d name= rest="),
            (Method::GET, "/api/v1/pods?fieldSelector=metadata.name%3Da", "list pods ns= name=a rest="),
            (Method::GET, "/api/v1/pods?fieldSelector=metadata.name!%3Da", "list pods ns= name= rest="),
            (
                Method::DELETE,
                "/api/v1/pods?fieldSelector=metadata.name%3Da",
                "deletecollection pods ns= name= rest=",
            ),
            (Method::GET, "/api/v1/namespaces/d/pods/a", "get pods ns=d name=a rest="),
            (Method::GET, "/api/v1/namespaces/d", "get namespaces ns=d name=d rest="),
            (Method::GET, "/api/v1/namespaces", "list namespaces ns= name= rest="),
            (Method::PUT, "/api/v1/namespaces/d/finalize", "update namespaces/finalize ns=d name=d rest="),
            (Method::DELETE, "/api/v1/namespaces/d/pods", "deletecollection pods ns=d name= rest="),
            (Method::POST, "/api/v1/namespaces/d/pods/a/exec", "create pods/exec ns=d name=a rest="),
            (
                Method::GET,
                "/api/v1/namespaces/d/services/http:s:80/proxy/a/b",
                "get services/proxy ns=d name=http:s:80 rest=a/b",
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/d/deployments/x/scale",
                "patch apps/deployments/scale ns=d name=x rest=",
            ),
            (Method::GET, "/apis/apps/v1", "get /apis/apps/v1"),
            (Method::GET, "/api", "get /api"),
            (Method::GET, "/healthz", "get /healthz"),
            (Method::POST, "/api/v1/namespaces/a%20b/pods", "create pods ns=a b name= rest="),
        ] {
            assert_eq!(read(method, url), expected, "{url}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let q = Query::parse("labelSelector=a%3Db%2Cc+in+(d)&watch&command=ls&command=-l&x=false");
        assert_eq!(q.get("labelSelector"), Some("a=b,c in (d)"));
        assert!(q.flag("watch") && !q.flag("x") && !q.flag("y"));
        assert_eq!(q.all("command").collect::<Vec<_>>(), ["ls", "-l"]);
    }
}
