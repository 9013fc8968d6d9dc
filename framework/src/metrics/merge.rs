//! The metrics of several clusters as one text: each family once, the samples of members with the label `cluster`.

use std::fmt::Write;

/// A family: its lines of comment, and its samples.
#[derive(Default)]
struct Family {
    name: String,
    head: String,
    samples: String,
}

/// Adds the texts of members to that of the hub.
pub(super) fn merge<'a>(hub: &str, members: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut families = Vec::new();
    add(&mut families, hub, None);
    for (cluster, text) in members {
        add(&mut families, &text, Some(cluster));
    }
    let mut out = String::new();
    for Family { head, samples, .. } in families {
        out.push_str(&head);
        out.push_str(&samples);
    }
    out.push_str("# EOF\n");
    out
}

fn add(families: &mut Vec<Family>, text: &str, cluster: Option<&str>) {
    // None yet.
    let mut at = usize::MAX;
    let mut is_new = true;
    for line in text.lines().filter(|line| *line != "# EOF") {
        let Some(comment) = line.strip_prefix("# ") else {
            if let Some(family) = families.get_mut(at) {
                sample(&mut family.samples, line, cluster);
            }
            continue;
        };
        let name = comment.split(' ').nth(1).unwrap_or_default();
        if families.get(at).is_none_or(|family| family.name != name) {
            let known = families.iter().position(|family| family.name == name);
            is_new = known.is_none();
            at = known.unwrap_or(families.len());
            if is_new {
                families.push(Family { name: name.to_owned(), ..Family::default() });
            }
        }
        if is_new {
            families[at].head.push_str(line);
            families[at].head.push('\n');
        }
    }
}

fn sample(out: &mut String, line: &str, cluster: Option<&str>) {
    let Some(cluster) = cluster else {
        out.push_str(line);
        return out.push('\n');
    };
    let cluster = cluster.replace('\\', "\\\\").replace('"', "\\\"");
    let end = line.find([' ', '{']).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let written = match rest.strip_prefix('{') {
        Some(labels) if labels.starts_with('}') => writeln!(out, "{name}{{cluster=\"{cluster}\"{labels}"),
        Some(labels) => writeln!(out, "{name}{{cluster=\"{cluster}\",{labels}"),
        None => writeln!(out, "{name}{{cluster=\"{cluster}\"}}{rest}"),
    };
    // Writing to a string never fails.
    let _ = written;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_said_once() {
        let hub = "# HELP a Letters.\n# TYPE a counter\na_total{x=\"1\"} 2\n# HELP b Other.\n# TYPE b gauge\n# EOF\n";
        let east = "# HELP a Letters.\n# TYPE a counter\na_total{x=\"1\"} 3\n# HELP c New.\n# TYPE c gauge\nc 4\n# EOF\n";
        expect_test::expect![[r#"
            # HELP a Letters.
            # TYPE a counter
            a_total{x="1"} 2
            a_total{cluster="east",x="1"} 3
            # HELP b Other.
            # TYPE b gauge
            # HELP c New.
            # TYPE c gauge
            c{cluster="east"} 4
            # EOF
        "#]]
        .assert_eq(&merge(hub, [("east", east.to_owned())].into_iter()));
    }
}
