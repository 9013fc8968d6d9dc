//! Which provider seals what, and which may have sealed it before.
//!
//! Upstream's form of a stored value is the provider's prefix, the key's name, and what the key sealed:
//! `k8s:enc:aescbc:v1:key1:…`. Source: `k8s.io/apiserver/pkg/storage/value/transformer.go`.

use std::{collections::BTreeMap, sync::Arc};

use minicluster_store::{Opened, Seal, Sealed};

use crate::{
    config::{self, Configuration},
    keys::Cipher,
    kms::Kms,
    seals::Seals,
};

/// The mark of everything sealed.
const MARK: &[u8] = b"k8s:enc:";

/// The rules of one configuration file.
pub(crate) struct Rules {
    /// By resource and group; either may be `*`.
    chains: BTreeMap<(String, String), Arc<Chain>>,
    pub(crate) plugins: Vec<Arc<Kms>>,
}

/// The providers for one resource: the first seals, all open.
#[derive(Default)]
struct Chain(Vec<Arc<Provider>>);

enum Provider {
    Identity,
    Keys { prefix: String, missing: &'static str, keys: Vec<Named> },
    Kms(Arc<Kms>),
}

struct Named {
    prefix: String,
    seal: Seal,
    cipher: Cipher,
}

impl Rules {
    /// Turns a checked configuration into rules.
    pub(crate) fn new(config: &Configuration, seals: &Arc<Seals>) -> Result<Self, String> {
        let mut chains: BTreeMap<(String, String), Chain> = BTreeMap::new();
        let mut plugins = Vec::new();
        for part in &config.resources {
            let providers: Vec<Arc<Provider>> = part
                .providers
                .iter()
                .map(|given| provider(given, seals).map(Arc::new))
                .collect::<Result<_, _>>()?;
            plugins.extend(providers.iter().filter_map(|p| match &**p {
                Provider::Kms(kms) => Some(Arc::clone(kms)),
                _ => None,
            }));
            for name in &part.resources {
                let (resource, group) = config::split(name);
                for (mask, text) in [(("*", group), format!("*.{group}")), (("*", "*"), "*.*".to_owned())] {
                    if chains.contains_key(&(mask.0.to_owned(), mask.1.to_owned())) {
                        return Err(format!("resource {name:?} is masked by earlier rule {text:?}"));
                    }
                }
                let chain = chains.entry((resource.to_owned(), group.to_owned())).or_default();
                chain.0.extend(providers.iter().cloned());
            }
        }
        Ok(Self { chains: chains.into_iter().map(|(key, chain)| (key, Arc::new(chain))).collect(), plugins })
    }

    /// The providers for a resource; `None`: nothing is said of it, so it is kept as it is.
    fn chain(&self, resource: &str, group: &str) -> Option<&Chain> {
        [(resource, group), ("*", group), ("*", "*")]
            .into_iter()
            .find_map(|(resource, group)| self.chains.get(&(resource.to_owned(), group.to_owned())))
            .map(|chain| &**chain)
    }

    pub(crate) fn check(&self, resource: &str, group: &str) -> Result<(), String> {
        match self.chain(resource, group).and_then(|chain| chain.0.first()).map(|first| &**first) {
            Some(Provider::Kms(kms)) => kms.check(),
            _ => Ok(()),
        }
    }

    pub(crate) fn seal(
        &self,
        resource: &str,
        group: &str,
        key: &str,
        plain: &[u8],
    ) -> Result<Sealed, String> {
        let first = self.chain(resource, group).and_then(|chain| chain.0.first());
        let (prefix, name, (bytes, seal)) = match first.map(|first| &**first) {
            None | Some(Provider::Identity) => return Ok(Sealed { bytes: None, seal: 0 }),
            Some(Provider::Keys { prefix, keys, .. }) => {
                let first = keys.first().ok_or("the provider has no keys")?;
                let sealed = first.cipher.seal(plain, key.as_bytes())?;
                (prefix.as_str(), first.prefix.as_str(), (sealed, first.seal))
            }
            Some(Provider::Kms(kms)) => (kms.prefix.as_str(), "", kms.seal(plain, key.as_bytes())?),
        };
        Ok(Sealed { bytes: Some([prefix.as_bytes(), name.as_bytes(), &bytes].concat()), seal })
    }

    pub(crate) fn open(
        &self,
        resource: &str,
        group: &str,
        key: &str,
        stored: &[u8],
    ) -> Result<Opened, String> {
        let identity = Chain(vec![Arc::new(Provider::Identity)]);
        let mut errors = Vec::new();
        for provider in &self.chain(resource, group).unwrap_or(&identity).0 {
            match provider.open(key.as_bytes(), stored) {
                Some(Ok(opened)) => return Ok(opened),
                Some(Err(error)) => errors.push(error),
                None => {}
            }
        }
        match errors.as_slice() {
            [] if stored.starts_with(MARK) && self.chain(resource, group).is_none() => {
                Err("identity transformer tried to read encrypted data".to_owned())
            }
            [] => Err("no matching prefix found".to_owned()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    /// What a value would be sealed with today.
    pub(crate) fn current(&self, resource: &str, group: &str) -> Seal {
        match self.chain(resource, group).and_then(|chain| chain.0.first()).map(|first| &**first) {
            None | Some(Provider::Identity) => 0,
            Some(Provider::Keys { keys, .. }) => keys.first().map_or(0, |first| first.seal),
            Some(Provider::Kms(kms)) => kms.current(),
        }
    }
}

fn provider(given: &config::Provider, seals: &Arc<Seals>) -> Result<Provider, String> {
    if let Some(kms) = &given.kms {
        return Ok(Provider::Kms(Kms::new(kms, seals)));
    }
    let Some((kind, keys)) = given.keys() else { return Ok(Provider::Identity) };
    let prefix = format!("k8s:enc:{kind}:v1:");
    let missing = match kind {
        "secretbox" => "no matching key was found for the provided Secretbox transformer",
        _ => "no matching key was found for the provided AES transformer",
    };
    let named = keys.keys.iter().map(|key| {
        let cipher = Cipher::new(kind, &key.bytes())
            .ok_or_else(|| format!("error while creating cipher for named key {}", key.name))?;
        let name = format!("{}:", key.name);
        Ok(Named { seal: seals.number(&format!("{prefix}{name}")), prefix: name, cipher })
    });
    Ok(Provider::Keys { missing, keys: named.collect::<Result<_, String>>()?, prefix })
}

impl Provider {
    /// `None`: this provider has nothing to do with it.
    fn open(&self, context: &[u8], stored: &[u8]) -> Option<Result<Opened, String>> {
        match self {
            Self::Identity => (!stored.starts_with(MARK)).then_some(Ok(Opened { bytes: None, seal: 0 })),
            Self::Kms(kms) => {
                let rest = stored.strip_prefix(kms.prefix.as_bytes())?;
                Some(kms.open(rest, context).map(|(bytes, seal)| Opened { bytes: Some(bytes), seal }))
            }
            Self::Keys { prefix, missing, keys } => {
                let rest = stored.strip_prefix(prefix.as_bytes())?;
                let mut last = Err((*missing).to_owned());
                for named in keys {
                    let Some(sealed) = rest.strip_prefix(named.prefix.as_bytes()) else { continue };
                    last = named
                        .cipher
                        .open(sealed, context)
                        .map(|bytes| Opened { bytes: Some(bytes), seal: named.seal });
                    if last.is_ok() {
                        break;
                    }
                }
                Some(last)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";

    fn rules(seals: &Arc<Seals>, parts: &str) -> Result<Rules, String> {
        Rules::new(&config::parse(&format!("{HEAD}{parts}"), false)?, seals)
    }

    fn key(name: &str, byte: u8) -> String {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        format!("{{name: {name}, secret: {}}}", STANDARD.encode([byte; 32]))
    }

    #[test]
    fn the_first_provider_seals_and_all_open() {
        let seals = Arc::new(Seals::default());
        let old = rules(
            &seals,
            &format!("- resources: [secrets]\n  providers: [{{aescbc: {{keys: [{}]}}}}]", key("k1", 1)),
        );
        let both = format!("{}, {}", key("k2", 2), key("k1", 1));
        let new = rules(
            &seals,
            &format!(
                "- resources: [secrets]\n  providers: [{{aescbc: {{keys: [{both}]}}}}, {{identity: {{}}}}]"
            ),
        );
        let away = rules(
            &seals,
            &format!(
                "- resources: [secrets]\n  providers: [{{identity: {{}}}}, {{aescbc: {{keys: [{both}]}}}}]"
            ),
        );
        let (old, new, away) = (old.unwrap(), new.unwrap(), away.unwrap());
        let sealed = old.seal("secrets", "", "/registry/secrets/d/a", b"{}").unwrap();
        let bytes = sealed.bytes.unwrap();
        assert!(bytes.starts_with(b"k8s:enc:aescbc:v1:k1:"));
        assert!(old.seal("pods", "", "/registry/pods/d/a", b"{}").unwrap().bytes.is_none());
        let opened = new.open("secrets", "", "/registry/secrets/d/a", &bytes).unwrap();
        assert_eq!(opened.bytes.as_deref(), Some(&b"{}"[..]));
        assert_ne!(opened.seal, new.current("secrets", ""), "it is due for a write");
        assert_eq!(opened.seal, old.current("secrets", ""));
        let plain = new.open("secrets", "", "/registry/secrets/d/a", b"{}").unwrap();
        assert!(plain.bytes.is_none() && plain.seal == 0);
        let opened = away.open("secrets", "", "/registry/secrets/d/a", &bytes).unwrap();
        assert_eq!((opened.bytes.as_deref(), away.current("secrets", "")), (Some(&b"{}"[..]), 0));
    }

    #[test]
    fn faults_are_upstreams() {
        let seals = Arc::new(Seals::default());
        let with = |keys: &str| {
            rules(&seals, &format!("- resources: [secrets]\n  providers: [{{aescbc: {{keys: [{keys}]}}}}]"))
                .unwrap()
        };
        let sealed = with(&key("k1", 1)).seal("secrets", "", "/k", b"{}").unwrap().bytes.unwrap();
        let told =
            |rules: Rules, resource: &str, stored: &[u8]| rules.open(resource, "", "/k", stored).unwrap_err();
        assert!(
            with(&key("k1", 3)).open("secrets", "", "/k", &sealed).is_err(),
            "another key of the same name"
        );
        let lines = [
            told(with(&key("k2", 1)), "secrets", &sealed),
            told(with(&key("k1", 1)), "pods", &sealed),
            told(with(&key("k1", 1)), "secrets", b"{}"),
            told(with(&key("k1", 1)), "secrets", b"k8s:enc:secretbox:v1:k1:x"),
        ];
        expect![[r#"
            no matching key was found for the provided AES transformer
            identity transformer tried to read encrypted data
            no matching prefix found
            no matching prefix found"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn a_wildcard_covers_what_nothing_names_more_closely() {
        let seals = Arc::new(Seals::default());
        let part = |resources: &str, name: &str| {
            format!(
                "- resources: [{resources}]\n  providers: [{{secretbox: {{keys: [{}]}}}}]\n",
                key(name, 1)
            )
        };
        let all =
            [part("deployments.apps", "a"), part("'*.apps'", "b"), part("'*.'", "c"), part("'*.*'", "d")]
                .concat();
        let all = rules(&seals, &all).unwrap();
        let name = |resource: &str, group: &str| {
            let bytes = all.seal(resource, group, "/k", b"{}").unwrap().bytes.unwrap();
            String::from_utf8_lossy(&bytes).split(':').nth(4).unwrap().to_owned()
        };
        for (resource, group, key) in [
            ("deployments", "apps", "a"),
            ("daemonsets", "apps", "b"),
            ("pods", "", "c"),
            ("jobs", "batch", "d"),
        ] {
            assert_eq!(name(resource, group), key, "{resource}.{group}");
        }
        let masked = [part("'*.*'", "a"), part("secrets", "b")].concat();
        let error = rules(&seals, &masked).err();
        assert_eq!(error.as_deref(), Some("resource \"secrets\" is masked by earlier rule \"*.*\""));
    }
}
