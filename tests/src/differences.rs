//! Requests whose answers from upstream's API server are on record, and what ours answers.
//!
//! `tests/differences/NAME.http` holds the requests in order: a line `# what it shows`, then `METHOD /path`, headers, a
//! body; a blank line ends each. `{{rv}}` and `{{uid}}` stand for those of the last object that was answered.
//! `NAME.jsonl` holds upstream's answers, a line each, with what differs from run to run (uids, revisions, times,
//! addresses that were given out) blotted out.

use std::{cell::RefCell, collections::BTreeSet, fmt::Write as _, sync::LazyLock, time::Duration};

use http::{Request, StatusCode, header, response};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use regex::Regex;
use serde_json::{Map, Value, json};

/// Headers of answers that clients act on.
const HEADERS: [&str; 5] = ["allow", "content-type", "location", "retry-after", "warning"];

/// One request of a scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// What it shows.
    pub title: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

/// Reads a scenario.
///
/// # Panics
/// When a stanza has no request line: the file is wrong.
pub fn parse(text: &str) -> Vec<Asked> {
    text.split("\n\n").filter(|stanza| !stanza.trim().is_empty()).map(stanza).collect()
}

fn stanza(text: &str) -> Asked {
    let mut asked = Asked::default();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if asked.method.is_empty() {
            if let Some(title) = line.strip_prefix('#') {
                asked.title.push_str(title.trim());
                continue;
            }
            let (method, path) = line.split_once(' ').unwrap_or_else(|| panic!("no request line: {line:?}"));
            (asked.method, asked.path) = (method.to_owned(), path.to_owned());
        } else if let Some((name, value)) =
            line.split_once(": ").filter(|(name, _)| asked.body.is_empty() && !name.contains(['{', '[', '"']))
        {
            asked.headers.push((name.to_owned(), value.to_owned()));
        } else {
            asked.body.push_str(line);
            asked.body.push('\n');
        }
    }
    asked
}

/// How often a request titled `until served` is sent until its kind is there.
const SERVED_TRIES: usize = 100;

async fn send(client: &Client, asked: &Asked, fill: impl Fn(&str) -> String) -> (response::Parts, String) {
    let mut request = Request::builder().method(asked.method.as_str()).uri(fill(&asked.path));
    for (name, value) in &asked.headers {
        request = request.header(name, value);
    }
    let names_type = asked.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if !asked.body.is_empty() && !names_type {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = Body::from(fill(asked.body.trim_end()).into_bytes());
    let response = client.send(request.body(body).expect("a request")).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let text = String::from_utf8_lossy(&body.collect().await.expect("a body").to_bytes()).into_owned();
    (parts, text)
}

/// Sends the requests one after another and returns the answers, blotted.
///
/// # Panics
/// When the server cannot be reached.
pub async fn answers(client: &Client, scenario: &[Asked]) -> Vec<Value> {
    let mut answers = Vec::with_capacity(scenario.len());
    let (mut revision, mut uid) = (String::new(), String::new());
    for asked in scenario {
        let fill = &|text: &str| text.replace("{{rv}}", &revision).replace("{{uid}}", &uid);
        let (mut parts, mut text) = send(client, asked, fill).await;
        for _ in 0..SERVED_TRIES {
            if parts.status != StatusCode::NOT_FOUND || !asked.title.starts_with("until served") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            (parts, text) = send(client, asked, fill).await;
        }
        let object: Option<Value> = serde_json::from_str(&text).ok();
        if let Some(metadata) = object.as_ref().map(|o| &o["metadata"]).filter(|m| m["uid"].is_string()) {
            revision = metadata["resourceVersion"].as_str().unwrap_or_default().to_owned();
            uid = metadata["uid"].as_str().unwrap_or_default().to_owned();
        }
        let mut headers = Map::new();
        for name in HEADERS {
            let values: Vec<&str> =
                parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            if !values.is_empty() {
                headers.insert(name.to_owned(), values.join("\n").into());
            }
        }
        let answer = json!({
            "status": parts.status.as_u16(), "headers": headers, "body": object.unwrap_or_else(|| text.into()),
        });
        answers.push(blotted(&answer));
    }
    answers
}

/// The answer without what differs from run to run. What is blotted already stays as it is.
pub fn blotted(answer: &Value) -> Value {
    static BLOTS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
            (r#"(resourceVersion\\*":? ?\\*")[1-9]\d*"#, "${1}RV"),
            (r#"(resourceVersion: \\")\d+"#, "${1}RV"),
            (r"(, current: |the ResourceVersion in record \()\d+", "${1}RV"),
            (r#""serverAddress":"[^"]*""#, r#""serverAddress":"ADDRESS""#),
            (r#""continue":"[^"]+""#, r#""continue":"TOKEN""#),
            (r"10\.96\.\d+\.\d+", "IP"),
            (r#""nodePort":\d+"#, r#""nodePort":30000"#),
            (r"\b(generated-|Bad_)[bcdfghjklmnpqrstvwxz2456789]{5}\b", "${1}SUFFIX"),
            (r"\bkube-api-access-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "kube-api-access-SUFFIX"),
            // The recorded build mounts a second authority for its own distribution, which Kubernetes has not.
            (
                r#",\{"configMap":\{"items":\[\{"key":"service-ca.crt","path":"service-ca.crt"\}\],"name":"openshift-service-ca.crt"\}\}"#,
                "",
            ),
            // Line numbers in a pod's difference count the lines of that mount.
            (r"@@ -\d+,\d+ \+\d+,\d+ @@", "@@ @@"),
            (r#""token":"[^"]+""#, r#""token":"TOKEN""#),
            (r#""authentication.kubernetes.io/credential-id":\["[^"]+"\]"#, r#""credential-id":[]"#),
        ]
        .map(|(pattern, blot)| (Regex::new(pattern).expect("a pattern"), blot))
        .to_vec()
    });
    static AGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#""\d+(s|ms|m\d*s?)""#).expect("a pattern"));
    let mut text = answer.to_string();
    for (pattern, blot) in BLOTS.iter() {
        text = pattern.replace_all(&text, *blot).into_owned();
    }
    if answer["body"]["kind"] == "Table" {
        text = AGE.replace_all(&text, "\"AGE\"").into_owned();
    }
    let mut answer = serde_json::from_str(&text).expect("blots keep JSON whole");
    sort_owners(&mut answer);
    order_causes(&mut answer);
    answer
}

/// Puts owners of fields in the order of their names: they are sorted by the second in which they wrote.
fn sort_owners(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(owners)) = map.get_mut("managedFields") {
                owners.sort_by_key(|owner| {
                    ["operation", "manager", "apiVersion", "subresource"].map(|key| owner[key].to_string())
                });
            }
            map.values_mut().for_each(sort_owners);
        }
        Value::Array(items) => items.iter_mut().for_each(sort_owners),
        _ => {}
    }
}

/// Go walks maps in an order of its own each time: causes at keys of one map stand in the order of the keys here, and
/// the message after them.
fn order_causes(answer: &mut Value) {
    let Some(causes) = answer.pointer_mut("/body/details/causes").and_then(Value::as_array_mut) else {
        return;
    };
    let text = |cause: &Value, field: &str| cause[field].as_str().unwrap_or_default().to_owned();
    let said = |causes: &[Value]| {
        let all: Vec<String> =
            causes.iter().map(|c| format!("{}: {}", text(c, "field"), text(c, "message"))).collect();
        format!("[{}]", all.join(", "))
    };
    // The map that a cause is at a key of, or of which a whole is compared with another.
    let map = |cause: &Value| {
        let field = text(cause, "field");
        match field.rsplit_once('[') {
            Some((map, key)) if !key.starts_with(|c: char| c.is_ascii_digit()) => map.to_owned(),
            _ => field,
        }
    };
    let before = said(causes);
    for group in causes.chunk_by_mut(|a, b| map(a) == map(b)) {
        if group.iter().any(|cause| text(cause, "field").ends_with(']')) {
            group.sort_by_key(|cause| text(cause, "field"));
        }
    }
    let after = said(causes);
    if let Some(Value::String(message)) = answer.pointer_mut("/body/message") {
        *message = message.replace(&before, &after);
    }
}

/// Where two answers differ, a line for each place.
pub fn differences(recorded: &Value, ours: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", recorded, ours, &mut found);
    found
}

fn compare(at: &str, recorded: &Value, ours: &Value, found: &mut Vec<String>) {
    match (recorded, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                compare(&format!("{at}/{key}"), value, b.get(key).unwrap_or(&Value::Null), found);
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                compare(&format!("{at}/{key}"), &Value::Null, value, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{at}/{i}"), a, b, found);
            }
        }
        _ if recorded == ours => {}
        _ => found.push(format!("{at}: upstream {recorded}, here {ours}")),
    }
}

/// Differences that are known: `scenario: title: path -- why`, a line each.
#[derive(Debug, Default)]
pub struct Known {
    places: Vec<String>,
    seen: RefCell<BTreeSet<usize>>,
}

impl Known {
    /// Reads the list.
    ///
    /// # Panics
    /// When a line has no reason.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let places = lines.map(|line| {
            let (place, _) = line.split_once(" -- ").unwrap_or_else(|| panic!("no reason: {line}"));
            place.to_owned()
        });
        Self { places: places.collect(), seen: RefCell::default() }
    }

    /// True when a difference at this place of this answer is known.
    fn has(&self, place: &str) -> bool {
        let found = self.places.iter().position(|known| matches(known, place));
        self.seen.borrow_mut().extend(found);
        found.is_some()
    }

    /// The lines that nothing was found for: what they tell of is no more.
    pub fn outlived(&self) -> Vec<&str> {
        let seen = self.seen.borrow();
        let lines = self.places.iter().enumerate().filter(|(i, _)| !seen.contains(i));
        lines.map(|(_, place)| place.as_str()).collect()
    }
}

/// True when a pattern, in which `*` stands for any text, covers the whole place.
fn matches(pattern: &str, place: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == place };
    let Some(mut tail) = place.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = tail.find(part) else { return false };
        tail = &tail[at + part.len()..];
    }
    tail.ends_with(last)
}

/// A report of all differences of a scenario that are not meant; empty when there is none.
///
/// # Panics
/// When the record has another length than the scenario: it is to be made anew.
pub fn report(name: &str, scenario: &[Asked], recorded: &[Value], ours: &[Value], known: &Known) -> String {
    assert_eq!(recorded.len(), scenario.len(), "{name}: the record is of another scenario");
    let mut report = String::new();
    for ((asked, recorded), ours) in scenario.iter().zip(recorded).zip(ours) {
        // Records may be older than the newest blot.
        let found = differences(&blotted(recorded), ours);
        let unknown: Vec<&String> = found
            .iter()
            .filter(|line| {
                let path = line.split(": ").next().unwrap_or_default();
                !known.has(&format!("{name}: {}: {path}", asked.title))
            })
            .collect();
        if unknown.is_empty() {
            continue;
        }
        let _ = writeln!(report, "{name}: {} ({} {})", asked.title, asked.method, asked.path);
        for line in unknown {
            let _ = writeln!(report, "    {line}");
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_has_titles_headers_and_bodies() {
        let read = parse("# one\nPOST /a?b=c\nAccept: x/y\n{\"a\": 1}\n\n# two\nGET /b\n");
        assert_eq!((read.len(), read[0].title.as_str(), read[0].body.as_str()), (2, "one", "{\"a\": 1}\n"));
        assert_eq!(read[0].headers, [("Accept".to_owned(), "x/y".to_owned())]);
    }

    #[test]
    fn differences_are_told_by_their_place() {
        let (a, b) = (json!({"x": [1, 2], "y": "a"}), json!({"x": [1, 3], "z": 1}));
        assert_eq!(
            differences(&a, &b),
            ["/x/1: upstream 2, here 3", "/y: upstream \"a\", here null", "/z: upstream null, here 1"]
        );
    }

    #[test]
    fn what_changes_from_run_to_run_is_blotted() {
        let answer = json!({"body": {"metadata": {"resourceVersion": "12", "creationTimestamp": "2026-01-01T00:00:00Z"}}});
        assert_eq!(
            blotted(&answer)["body"]["metadata"],
            json!({"resourceVersion": "RV", "creationTimestamp": "TIME"})
        );
    }

    #[test]
    fn known_differences_have_a_reason() {
        let known = Known::parse("# comment\na: one: /x* -- since\n*: /*/y -- everywhere\n");
        assert!(known.has("a: one: /x/1") && !known.has("a: two: /x/1"));
        assert!(known.has("b: two: /1/2/y") && !known.has("b: two: /y"));
        assert_eq!(known.outlived(), Vec::<&str>::new());
        assert_eq!(Known::parse("a: b: /c -- d\n").outlived(), ["a: b: /c"]);
    }
}
