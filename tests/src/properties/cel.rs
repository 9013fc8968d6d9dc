//! CEL expressions: any text is one or is none.

use windlass_crd::cel::{self, Env, Type};

/// An expression is read, held to types and estimated without a panic, and what is wrong is told within it.
pub fn cel(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let variables = [
        ("self", Type::object("T", &[("l", Type::list(Type::STRING)), ("n", Type::Int)])),
        ("object", Type::Dyn),
    ];
    let env = Env { constructs: true, ..Env::new(&variables) };
    let issues = match cel::parse(text) {
        Ok(node) => {
            let _ = cel::cost::estimate(&node, &env);
            cel::check(&node, &env).err()
        }
        Err(issues) => Some(issues),
    };
    if let Some(issues) = issues {
        assert!(!issues.is_empty(), "something has to be wrong");
        assert!(issues.iter().all(|issue| issue.at <= text.len()), "{issues:?}");
        assert!(cel::shown(text, &issues).starts_with("ERROR: <input>:"));
    }
}
