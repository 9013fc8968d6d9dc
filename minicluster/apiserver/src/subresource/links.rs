//! Links of pages that come through the `proxy` subresource: those that stay on the page's host are led through the
//! proxy too. Source: `k8s.io/apimachinery/pkg/util/proxy/transport.go`.

use html5gum::{
    Tokenizer,
    emitters::callback::{CallbackEmitter, CallbackEvent},
};

/// Attributes that hold links, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where a page was fetched, and under which path the proxy shows it.
#[derive(Debug)]
pub(super) struct Page<'a> {
    /// `/api/v1/namespaces/NAMESPACE/pods/NAME/proxy`, without a slash at the end.
    pub(super) prefix: &'a str,
    /// The hosts that mean the page's own: the backend's, and the one that the client asked for.
    pub(super) hosts: [&'a str; 2],
}

impl Page<'_> {
    /// A link as it has to be for the proxy's client.
    pub(super) fn link(&self, link: &str) -> String {
        let (host, path) =
            match link.split_once("://").map(|(_, rest)| rest).or_else(|| link.strip_prefix("//")) {
                Some(rest) => rest.find('/').map_or((rest, ""), |at| rest.split_at(at)),
                None => ("", link),
            };
        let elsewhere = !host.is_empty() && !self.hosts.contains(&host);
        if elsewhere || !path.starts_with('/') || path.starts_with(self.prefix) {
            return link.to_owned();
        }
        format!("{}{path}", self.prefix)
    }

    /// A page with its links led through the proxy; everything else stays as it is, to the byte.
    pub(super) fn rewrite(&self, html: &str) -> String {
        let (mut known, mut is_link): (&[&str], bool) = (&[], false);
        let mut emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, span: html5gum::Span<usize>| {
            match event {
                CallbackEvent::OpenStartTag { name } => {
                    known =
                        LINKS.iter().find(|(tag, _)| tag.as_bytes() == name).map_or(&[], |(_, names)| names);
                }
                CallbackEvent::AttributeName { name } => {
                    is_link = known.iter().any(|known| known.as_bytes() == name);
                }
                CallbackEvent::AttributeValue { value } if is_link => {
                    return Some((span, String::from_utf8_lossy(value).into_owned()));
                }
                _ => {}
            }
            None
        });
        emitter.naively_switch_states(true);
        let (mut out, mut done) = (String::with_capacity(html.len()), 0);
        for (span, value) in Tokenizer::new_with_emitter(html, emitter).flatten() {
            let linked = self.link(&value);
            if linked != value
                && let Some(before) = html.get(done..span.start)
            {
                out.push_str(before);
                out.push_str(&linked.replace('&', "&amp;").replace('"', "&#34;").replace('\'', "&#39;"));
                done = span.end;
            }
        }
        out.push_str(html.get(done..).unwrap_or_default());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Page<'_> = Page { prefix: "/p/proxy", hosts: ["10.0.0.1:80", "cluster"] };

    #[test]
    fn links_to_the_same_host_go_through_the_proxy() {
        let cases = [
            ("/a", "/p/proxy/a"),
            ("/a/?q=1#x", "/p/proxy/a/?q=1#x"),
            ("a/b", "a/b"),
            ("#top", "#top"),
            ("/p/proxy/a", "/p/proxy/a"),
            ("http://10.0.0.1:80/a", "/p/proxy/a"),
            ("https://cluster/a", "/p/proxy/a"),
            ("//elsewhere/a", "//elsewhere/a"),
            ("http://elsewhere/a", "http://elsewhere/a"),
            ("mailto:a@b", "mailto:a@b"),
        ];
        for (link, expected) in cases {
            assert_eq!(PAGE.link(link), expected, "{link}");
        }
    }

    #[test]
    fn only_links_of_a_page_change() {
        let page = "<!doctype html>\n<A HREF=\"/x?a=1&amp;b=2\">/x</a><img src='/y' alt='/y'><p href=/z>\
                    <script src=/s.js>var a = '<a href=\"/no\">';</script><!-- <a href=\"/no\"> --><a href=rel>ä";
        let expected = "<!doctype html>\n<A HREF=\"/p/proxy/x?a=1&amp;b=2\">/x</a><img src='/p/proxy/y' alt='/y'>\
                        <p href=/z><script src=/p/proxy/s.js>var a = '<a href=\"/no\">';</script>\
                        <!-- <a href=\"/no\"> --><a href=rel>ä";
        assert_eq!(PAGE.rewrite(page), expected);
    }
}
