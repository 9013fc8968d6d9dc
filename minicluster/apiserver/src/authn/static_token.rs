//! Tokens in a file: `token,user,uid,"group,group"`, one a line.
//!
//! Source: `k8s.io/apiserver/pkg/authentication/token/tokenfile`.

use std::{collections::HashMap, path::Path};

use ring::digest::{SHA256, digest};

use super::Identity;
use crate::files;

/// The most tokens of a file.
const TOKENS_MAX: usize = 10_000;

/// The tokens, by their digests: looking one up tells nothing by its time.
pub(super) struct Tokens(HashMap<Vec<u8>, Identity>);

fn key(token: &str) -> Vec<u8> {
    digest(&SHA256, token.as_bytes()).as_ref().to_vec()
}

impl Tokens {
    /// Reads a file.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        Self::parse(&files::read(path)?, &path.display().to_string())
    }

    fn parse(text: &str, shown: &str) -> Result<Self, String> {
        let mut tokens = HashMap::new();
        for (i, record) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let fields =
                fields(record).map_err(|why| format!("token file '{shown}', line {}: {why}", i + 1))?;
            let [token, name, uid, more @ ..] = fields.as_slice() else {
                return Err(format!(
                    "token file '{shown}' must have at least 3 columns (token, user name, user uid), found {}",
                    fields.len()
                ));
            };
            if token.is_empty() {
                tracing::warn!(
                    "empty token has been found in token file '{shown}', record number '{}'",
                    i + 1
                );
                continue;
            }
            if tokens.len() == TOKENS_MAX {
                return Err(format!("token file '{shown}' has more than {TOKENS_MAX} tokens"));
            }
            let groups =
                more.first().map_or_else(Vec::new, |groups| groups.split(',').map(str::to_owned).collect());
            let user = Identity { name: name.clone(), uid: uid.clone(), groups, ..Identity::default() };
            if tokens.insert(key(token), user).is_some() {
                tracing::warn!(
                    "duplicate token has been found in token file '{shown}', record number '{}'",
                    i + 1
                );
            }
        }
        Ok(Self(tokens))
    }

    /// Whose a token is.
    pub(super) fn ask(&self, token: &str) -> Option<Identity> {
        self.0.get(&key(token)).cloned()
    }
}

/// The fields of a record; one in quotes may hold commas, and quotes twice.
fn fields(record: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = record.trim_end_matches('\r');
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let bare = &rest[..end];
                if bare.contains('"') {
                    return Err("bare \" in non-quoted field");
                }
                (bare.to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(fields),
            None => return Err("extraneous or missing \" in quoted-field"),
        }
    }
}

fn quoted_field(text: &str) -> Result<(String, &str), &'static str> {
    let (mut field, mut rest) = (String::new(), text);
    loop {
        let end = rest.find('"').ok_or("extraneous or missing \" in quoted-field")?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_their_users() {
        let tokens = Tokens::parse("abc,ann,1,\"dev,ops\"\n\n,nobody,2\ndef,bob,2\n", "f").unwrap();
        let ann = tokens.ask("abc").unwrap();
        assert_eq!(
            (ann.name.as_str(), ann.uid.as_str(), ann.groups),
            ("ann", "1", vec!["dev".into(), "ops".into()])
        );
        assert!(tokens.ask("def").unwrap().groups.is_empty());
        assert!(tokens.ask("").is_none() && tokens.ask("ab").is_none());
        for (text, why) in [
            ("a,b", "must have at least 3 columns (token, user name, user uid), found 2"),
            ("a,b,c,\"d", "line 1: extraneous or missing"),
            ("a,b\"c,d", "line 1: bare"),
        ] {
            let error = Tokens::parse(text, "f").err().unwrap();
            assert!(error.contains(why), "{error}");
        }
    }
}
