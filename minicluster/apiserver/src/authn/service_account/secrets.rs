//! Secrets of type `kubernetes.io/service-account-token`: filled with a token, taken away with their account.
//!
//! Upstream's controller manager does this with a copy of the key; here the key never leaves the server, so the server
//! does it. Source: `pkg/controller/serviceaccount/tokens_controller.go`.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minicluster_store::EventKind;
use serde_json::Value;

use super::{LEGACY_ISSUER, LegacyClaims, find};
use crate::{
    api::Api,
    bootstrap::own_context,
    delete, object,
    status::ApiResult,
    strategy::Part,
    view,
    write::{self, Change},
};

const SECRETS: &str = "/registry/secrets/";
const ACCOUNTS: &str = "/registry/serviceaccounts/";
const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// When a Secret that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Fills and removes Secrets, for ever.
pub(crate) async fn run(api: &Arc<Api>) {
    loop {
        let snapshot = api.store.snapshot();
        let watches =
            (api.store.watch(SECRETS, snapshot.revision()), api.store.watch(ACCOUNTS, snapshot.revision()));
        let (Ok(mut secrets), Ok(mut accounts)) = watches else { continue };
        let mut failed = false;
        for (_, secret) in view::objects(&snapshot, SECRETS) {
            failed |= settle(api, &secret).await.is_err();
        }
        while !failed {
            let (events, of_accounts) = tokio::select! {
                biased;
                events = accounts.next() => (events, true),
                events = secrets.next() => (events, false),
            };
            // Slower than the store remembers: the next turn looks at everything.
            let Ok(events) = events else { break };
            for event in events {
                let Ok(obj) = serde_json::from_slice::<Value>(&event.entry.value) else { continue };
                let settled = match (of_accounts, event.kind) {
                    (true, EventKind::Delete) => of_account(api, &obj).await,
                    (false, EventKind::Put) => settle(api, &obj).await,
                    _ => Ok(()),
                };
                failed |= settled.is_err();
            }
        }
        if failed {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// All Secrets of an account that is gone.
async fn of_account(api: &Arc<Api>, account: &Value) -> ApiResult<()> {
    let snapshot = api.store.snapshot();
    let prefix = format!("{SECRETS}{}/", object::namespace(account));
    for (_, secret) in view::objects(&snapshot, &prefix) {
        if object::text(&secret, &["metadata", "annotations", ACCOUNT_NAME]) == object::name(account) {
            settle(api, &secret).await?;
        }
    }
    Ok(())
}

async fn settle(api: &Arc<Api>, secret: &Value) -> ApiResult<()> {
    let name = object::text(secret, &["metadata", "annotations", ACCOUNT_NAME]);
    if object::text(secret, &["type"]) != TYPE || name.is_empty() || object::is_deleting(secret) {
        return Ok(());
    }
    let namespace = object::namespace(secret);
    let uid = object::text(secret, &["metadata", "annotations", ACCOUNT_UID]);
    let account = find(api, "serviceaccounts", namespace, name);
    let settled = match account.filter(|account| uid.is_empty() || uid == object::uid(account)) {
        Some(account) => fill(api, secret, &account).await,
        None => {
            let cx = own_context(api, "delete", "", "v1", "secrets", secret);
            delete::background(&cx, namespace, object::name(secret)).await
        }
    };
    if let Err(error) = &settled
        && error.reason != "NotFound"
    {
        tracing::warn!(namespace, secret = object::name(secret), %error, "a token could not be kept; trying again");
        return settled;
    }
    Ok(())
}

/// What is missing in a Secret of an account. `None`: nothing.
fn filled(api: &Api, secret: &Value, account: &Value) -> Option<Value> {
    let mut new = secret.clone();
    let namespace = object::namespace(secret);
    let encoded = |text: &str| STANDARD.encode(text);
    for (key, value) in [("ca.crt", api.config.ca_pem.as_str()), ("namespace", namespace)] {
        if object::text(secret, &["data", key]) != encoded(value) {
            object::set(&mut new, &["data", key], encoded(value));
        }
    }
    if object::text(secret, &["metadata", "annotations", ACCOUNT_UID]) != object::uid(account) {
        object::set(&mut new, &["metadata", "annotations", ACCOUNT_UID], object::uid(account));
    }
    if object::text(secret, &["data", "token"]).is_empty() {
        let name = object::name(account);
        let claims = LegacyClaims {
            iss: LEGACY_ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: object::name(secret).to_owned(),
            account: name.to_owned(),
            uid: object::uid(account).to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
        };
        object::set(&mut new, &["data", "token"], encoded(&api.tokens.sign(&claims)));
    }
    (new != *secret).then_some(new)
}

async fn fill(api: &Arc<Api>, secret: &Value, account: &Value) -> ApiResult<()> {
    if filled(api, secret, account).is_none() {
        return Ok(());
    }
    let cx = own_context(api, "update", "", "v1", "secrets", secret);
    let change = |old: &Value| Ok(Change::of(filled(api, old, account).unwrap_or_else(|| old.clone())));
    write::modify(&cx, Part::Main, change).await.map(drop)
}
