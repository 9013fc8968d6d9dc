//! Who may do what: hundreds of (identity, request, answer) rows through the whole pipeline of one server in memory.
//!
//! A row is an identity of [`world`], a method with a path and perhaps a body, the status, and a part of the message.
//! Rows change nothing that later rows rely on: writes are dry runs, or are refused. Expectations are upstream's.

mod authentication;
mod limited;
mod nodes;
mod rbac;
mod reviews;
mod world;

use world::{Row, World};

#[tokio::test(start_paused = true)]
async fn everybody_sees_what_upstream_would_allow() {
    let world = World::start().await;
    let tables: [(&str, &[Row]); 14] = [
        ("users in namespaces", rbac::NAMESPACES),
        ("users at the cluster scope", rbac::CLUSTER),
        ("paths", rbac::PATHS),
        ("escalation and binding", rbac::ESCALATION),
        ("aggregated roles", rbac::AGGREGATED),
        ("components", rbac::COMPONENTS),
        ("nodes: authorizer", nodes::AUTHORIZER),
        ("nodes: admission", nodes::ADMISSION),
        ("tokens", authentication::TOKENS),
        ("impersonation", authentication::IMPERSONATION),
        ("certificate requests", authentication::CERTIFICATES),
        ("reviews", reviews::REVIEWS),
        ("a namespace under restricted", limited::STRICT),
        ("full namespaces", limited::FULL),
    ];
    let mut count = 0;
    let mut wrong = Vec::new();
    for (table, rows) in tables {
        for row in rows {
            count += 1;
            wrong.extend(world.check(row).await.err().map(|why| format!("{table}: {why}")));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 300, "{count} rows");
}
