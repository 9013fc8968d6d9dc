//! How much this process says in its log, changed while it runs.

use std::sync::OnceLock;

use minicluster_apiserver::serving::SetVerbosity;

static SETTER: OnceLock<SetVerbosity> = OnceLock::new();

/// Says how the log is changed; the program does this once, before a cluster starts.
pub fn set(setter: SetVerbosity) {
    let _ = SETTER.set(setter);
}

/// How the log is changed; `None` in a process whose log is not ours.
pub(crate) fn setter() -> Option<SetVerbosity> {
    SETTER.get().cloned()
}
