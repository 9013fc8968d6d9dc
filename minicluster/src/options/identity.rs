//! Flags that say who is who, and who may do what, under kube-apiserver's names.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use minicluster_apiserver::{authn, authz, files::duration, token};

/// Authentication and authorization.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API server: who is who, and who may do what")]
pub struct IdentityOptions {
    /// Who decides, in this order: AlwaysAllow, AlwaysDeny, ABAC, Webhook, RBAC, Node [default: Node,RBAC]
    #[arg(long, value_delimiter = ',', value_name = "MODE,...")]
    pub authorization_mode: Vec<authz::Mode>,
    /// The policies of mode ABAC, one a line
    #[arg(long, value_name = "FILE")]
    pub authorization_policy_file: Option<PathBuf>,
    /// The server of mode Webhook, as a kubeconfig
    #[arg(long, value_name = "FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// The version of the SubjectAccessReviews sent to it [default: v1beta1]
    #[arg(long, value_name = "VERSION")]
    pub authorization_webhook_version: Option<String>,
    /// How long it is believed when it allows something [default: 5m0s]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub authorization_webhook_cache_authorized_ttl: Option<Duration>,
    /// How long it is believed when it does not [default: 30s]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub authorization_webhook_cache_unauthorized_ttl: Option<Duration>,
    /// An AuthorizationConfiguration, instead of the flags above
    #[arg(long, value_name = "FILE")]
    pub authorization_config: Option<PathBuf>,

    /// Client certificates issued by these CAs are believed, beside those of the cluster's own
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// Tokens with their users: token,user,uid,"group,group"
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Believe the tokens in Secrets of type bootstrap.kubernetes.io/token in kube-system
    #[arg(long)]
    pub enable_bootstrap_token_auth: bool,
    /// Let requests without credentials through, as system:anonymous
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub anonymous_auth: Option<bool>,
    /// An AuthenticationConfiguration: issuers of JSON Web Tokens, and who may be anonymous
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// A server that knows tokens, as a kubeconfig
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// The version of the TokenReviews sent to it
    #[arg(long, default_value = "v1beta1", value_name = "VERSION")]
    pub authentication_token_webhook_version: String,
    /// How long it is believed
    #[arg(long, default_value = "2m0s", value_parser = duration, value_name = "DURATION")]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// The audiences that mean this server [default: the issuer of service account tokens]
    #[arg(long, value_delimiter = ',', value_name = "AUDIENCE,...")]
    pub api_audiences: Vec<String>,
    /// Keys that verify service account tokens, PEM of RSA or ECDSA, private or public; may be given several times
    /// [default: the key that signs]
    #[arg(long, value_name = "FILE")]
    pub service_account_key_file: Vec<PathBuf>,
    /// The key that signs service account tokens [default: one of the cluster's own]
    #[arg(long, value_name = "FILE")]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Who issues service account tokens; given several times, the first issues and all are accepted
    /// [default: https://kubernetes.default.svc.DOMAIN]
    #[arg(long, value_name = "ISSUER")]
    pub service_account_issuer: Vec<String>,
    /// Where others find the keys of service account tokens [default: below the issuer]
    #[arg(long, default_value = "", value_name = "URI", hide_default_value = true)]
    pub service_account_jwks_uri: String,
    /// The longest life of a service account token [default: whatever is asked for]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub service_account_max_token_expiration: Option<Duration>,

    /// Front proxies with certificates of these CAs are believed
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// The common names that those certificates may have [default: any]
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers in which a front proxy names the user
    #[arg(long, value_delimiter = ',', value_name = "HEADER,...")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers with the user's uid
    #[arg(long, value_delimiter = ',', value_name = "HEADER,...")]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers with the user's groups
    #[arg(long, value_delimiter = ',', value_name = "HEADER,...")]
    pub requestheader_group_headers: Vec<String>,
    /// What headers with more about the user begin with
    #[arg(long, value_delimiter = ',', value_name = "PREFIX,...")]
    pub requestheader_extra_headers_prefix: Vec<String>,

    /// An OpenID Connect issuer
    #[arg(long, default_value = "", value_name = "URL", hide_default_value = true)]
    pub oidc_issuer_url: String,
    /// The audience of its tokens
    #[arg(long, default_value = "", value_name = "ID", hide_default_value = true)]
    pub oidc_client_id: String,
    /// The CAs that vouch for it [default: those of the host]
    #[arg(long, value_name = "FILE")]
    pub oidc_ca_file: Option<PathBuf>,
    /// The claim with the user's name
    #[arg(long, default_value = "sub", value_name = "CLAIM")]
    pub oidc_username_claim: String,
    /// What is put before the name; - for nothing [default: ISSUER#, for the claim email nothing]
    #[arg(long, default_value = "", value_name = "PREFIX", hide_default_value = true)]
    pub oidc_username_prefix: String,
    /// The claim with the user's groups
    #[arg(long, default_value = "", value_name = "CLAIM", hide_default_value = true)]
    pub oidc_groups_claim: String,
    /// What is put before each group
    #[arg(long, default_value = "", value_name = "PREFIX", hide_default_value = true)]
    pub oidc_groups_prefix: String,
    /// The algorithms it may sign with
    #[arg(long, default_value = "RS256", value_delimiter = ',', value_name = "ALG,...")]
    pub oidc_signing_algs: Vec<String>,
    /// A claim that has to have this value; may be given several times
    #[arg(long, value_parser = pair, value_name = "CLAIM=VALUE")]
    pub oidc_required_claim: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a claim and its value with = between them")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl IdentityOptions {
    /// What is wrong with the flags taken together, in one sentence.
    ///
    /// # Errors
    /// That sentence.
    pub fn check(&self) -> Result<(), String> {
        let others = !self.authorization_mode.is_empty()
            || self.authorization_webhook_config_file.is_some()
            || self.authorization_webhook_version.is_some()
            || self.authorization_webhook_cache_authorized_ttl.is_some()
            || self.authorization_webhook_cache_unauthorized_ttl.is_some();
        if self.authorization_config.is_some() && others {
            return Err("--authorization-config can not be specified when --authorization-mode or \
                        --authorization-webhook-* flags are defined"
                .to_owned());
        }
        self.check_accounts()?;
        if self.requestheader_client_ca_file.is_some() && self.requestheader_username_headers.is_empty() {
            return Err("--requestheader-client-ca-file needs --requestheader-username-headers".to_owned());
        }
        let headers = [
            &self.requestheader_username_headers,
            &self.requestheader_uid_headers,
            &self.requestheader_group_headers,
            &self.requestheader_extra_headers_prefix,
        ];
        if headers.into_iter().flatten().any(|name| name.trim().is_empty()) {
            return Err("--requestheader-*: empty header \"\"".to_owned());
        }
        Ok(())
    }

    fn check_accounts(&self) -> Result<(), String> {
        let mut seen: Vec<&str> = Vec::new();
        for issuer in &self.service_account_issuer {
            if issuer.is_empty() {
                return Err("service-account-issuer should not be an empty string".to_owned());
            }
            if seen.contains(&issuer.as_str()) {
                return Err(format!("service-account-issuer \"{issuer}\" is already specified"));
            }
            seen.push(issuer);
        }
        if self.service_account_signing_key_file.is_some() && self.service_account_key_file.is_empty() {
            return Err(
                "--service-account-key-file must be specified when --service-account-signing-key-file is"
                    .to_owned(),
            );
        }
        let uri = &self.service_account_jwks_uri;
        if !uri.is_empty() && !uri.starts_with("https://") {
            return Err(format!("service-account-jwks-uri requires https scheme, parsed as: {uri}"));
        }
        Ok(())
    }

    /// The keys of service account tokens.
    pub fn token_keys(&self) -> token::Settings {
        token::Settings {
            signing_key_file: self.service_account_signing_key_file.clone(),
            key_files: self.service_account_key_file.clone(),
            more_issuers: self.service_account_issuer.iter().skip(1).cloned().collect(),
            jwks_uri: self.service_account_jwks_uri.clone(),
        }
    }

    /// Who may do what.
    pub fn authorization(&self) -> authz::Settings {
        let standard = authz::Settings::default();
        let webhook = authz::WebhookSettings::default();
        authz::Settings {
            modes: if self.authorization_mode.is_empty() {
                standard.modes
            } else {
                self.authorization_mode.clone()
            },
            policy_file: self.authorization_policy_file.clone(),
            webhook: authz::WebhookSettings {
                config_file: self.authorization_webhook_config_file.clone(),
                version: self.authorization_webhook_version.clone().unwrap_or(webhook.version),
                authorized_ttl: self
                    .authorization_webhook_cache_authorized_ttl
                    .unwrap_or(webhook.authorized_ttl),
                unauthorized_ttl: self
                    .authorization_webhook_cache_unauthorized_ttl
                    .unwrap_or(webhook.unauthorized_ttl),
            },
            config_file: self.authorization_config.clone(),
        }
    }

    /// Who is who.
    pub fn authentication(&self) -> authn::Settings {
        authn::Settings {
            client_ca_file: self.client_ca_file.clone(),
            request_header: authn::RequestHeader {
                ca_file: self.requestheader_client_ca_file.clone(),
                allowed_names: self.requestheader_allowed_names.clone(),
                username_headers: self.requestheader_username_headers.clone(),
                uid_headers: self.requestheader_uid_headers.clone(),
                group_headers: self.requestheader_group_headers.clone(),
                extra_prefixes: self.requestheader_extra_headers_prefix.clone(),
            },
            token_file: self.token_auth_file.clone(),
            bootstrap_tokens: self.enable_bootstrap_token_auth,
            anonymous: self.anonymous_auth,
            oidc: authn::Oidc {
                issuer_url: self.oidc_issuer_url.clone(),
                client_id: self.oidc_client_id.clone(),
                ca_file: self.oidc_ca_file.clone(),
                username_claim: self.oidc_username_claim.clone(),
                username_prefix: self.oidc_username_prefix.clone(),
                groups_claim: self.oidc_groups_claim.clone(),
                groups_prefix: self.oidc_groups_prefix.clone(),
                signing_algs: self.oidc_signing_algs.clone(),
                required_claims: self.oidc_required_claim.iter().cloned().collect(),
            },
            config_file: self.authentication_config.clone(),
            webhook: authn::WebhookSettings {
                config_file: self.authentication_token_webhook_config_file.clone(),
                version: self.authentication_token_webhook_version.clone(),
                cache_ttl: self.authentication_token_webhook_cache_ttl,
            },
            api_audiences: self.api_audiences.clone(),
        }
    }

    /// The longest life of a service account token, in seconds; 0 for any.
    pub fn token_seconds_max(&self) -> i64 {
        let most = self.service_account_max_token_expiration.unwrap_or_default();
        i64::try_from(most.as_secs()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        identity: IdentityOptions,
    }

    fn parse(words: &[&str]) -> Result<IdentityOptions, String> {
        let words = std::iter::once("x").chain(words.iter().copied());
        let line = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        line.identity.check().map(|()| line.identity)
    }

    #[test]
    fn flags_become_settings() {
        let standard = parse(&[]).unwrap();
        assert_eq!(standard.authorization().modes, [authz::Mode::Node, authz::Mode::Rbac]);
        assert_eq!((standard.authentication().anonymous, standard.token_seconds_max()), (None, 0));
        let all = parse(&[
            "--authorization-mode=Node,RBAC,Webhook",
            "--authorization-webhook-cache-authorized-ttl=1m30s",
            "--anonymous-auth=false",
            "--requestheader-username-headers=X-Remote-User,X-Other",
            "--oidc-required-claim=a=b",
            "--service-account-key-file=/a",
            "--service-account-key-file=/b",
            "--service-account-signing-key-file=/c",
            "--service-account-issuer=https://new",
            "--service-account-issuer=https://old",
            "--service-account-max-token-expiration=24h",
        ])
        .unwrap();
        assert_eq!(all.authorization().modes.len(), 3);
        assert_eq!(all.authorization().webhook.authorized_ttl, Duration::from_secs(90));
        let authentication = all.authentication();
        assert_eq!(authentication.anonymous, Some(false));
        assert_eq!(authentication.request_header.username_headers.len(), 2);
        assert_eq!(authentication.oidc.required_claims["a"], "b");
        assert_eq!(all.token_seconds_max(), 86_400);
        let keys = all.token_keys();
        assert_eq!((keys.key_files.len(), keys.more_issuers), (2, vec!["https://old".to_owned()]));
        for (words, why) in [
            (
                vec!["--service-account-signing-key-file=/c"],
                "--service-account-key-file must be specified when --service-account-signing-key-file is",
            ),
            (
                vec!["--service-account-issuer=a", "--service-account-issuer=a"],
                "service-account-issuer \"a\" is already specified",
            ),
            (
                vec!["--service-account-jwks-uri=http://a"],
                "service-account-jwks-uri requires https scheme, parsed as: http://a",
            ),
        ] {
            assert_eq!(parse(&words).unwrap_err(), why);
        }
        assert_eq!(parse(&["--anonymous-auth"]).unwrap().anonymous_auth, Some(true));
    }

    #[test]
    fn flags_that_do_not_fit_are_refused() {
        for (words, why) in [
            (&["--authorization-mode=rbac"][..], "authorization-mode \"rbac\" is not a valid mode"),
            (
                &["--authorization-config=f", "--authorization-mode=RBAC"],
                "--authorization-config can not be specified",
            ),
            (&["--requestheader-client-ca-file=f"], "needs --requestheader-username-headers"),
            (&["--oidc-required-claim=a"], "with = between them"),
            (&["--authentication-token-webhook-cache-ttl=2"], "time: invalid duration \"2\""),
        ] {
            let error = parse(words).err().unwrap();
            assert!(error.contains(why), "{error}");
        }
    }
}
