//! The same work on this framework and on kube-runtime, one after the other in one run: reconciles of nothing, pods kept
//! in memory, watch events taken in. Ratios are what counts; the machine's speed cancels out.
//!
//! `cargo bench -p windlass --bench beside_kube_runtime [-- FILTER]`

mod beside;
mod memory;
mod server;
mod work;

use std::time::Duration;

/// Pods kept in memory.
const PODS: usize = 20_000;
/// What an answer takes where reconciles wait for one.
const ANSWER: Duration = Duration::from_millis(5);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [what, side] = &args[..] {
        let measured = match what.as_str() {
            "relist" => runtime().block_on(memory::relist(side)),
            _ => runtime().block_on(memory::resident(side)),
        };
        println!("{measured}");
        // Nothing is left to do, and taking a runtime down is not what is measured.
        std::process::exit(0);
    }
    let wanted = |name: &str| args.first().is_none_or(|filter| name.contains(filter.as_str()));
    println!("a pod is {} bytes of JSON", server::pod(1, 1).to_string().len());
    println!("{:<38}{:>14}{:>14}{:>10}", "", "windlass", "kube-runtime", "ratio");
    for (name, at_once, answer) in [
        ("reconciles of nothing, 1/s", 16, Duration::ZERO),
        ("reconciles of 5 ms, 100 at once, 1/s", 100, ANSWER),
    ] {
        if wanted(name) {
            let ours = runtime().block_on(work::our_reconciles(at_once.into(), answer));
            let theirs = runtime().block_on(work::their_reconciles(at_once, answer));
            report(name, ours, theirs, ours / theirs);
        }
    }
    if wanted("lookup") {
        let (ours, theirs) =
            (runtime().block_on(work::our_lookups()), runtime().block_on(work::their_lookups()));
        report("lookup of an owner's pods, ns", ours, theirs, theirs / ours);
    }
    if wanted("queue") {
        println!("{:<38}{:>14.0}", "queue: add, get and done, 1/s", runtime().block_on(work::queue()));
    }
    if wanted("events") {
        let (ours, theirs) =
            (runtime().block_on(work::our_events()), runtime().block_on(work::their_events()));
        report("watch events taken in, 1/s", ours, theirs, ours / theirs);
    }
    if wanted("resident") {
        for (name, ours, theirs) in [
            ("pod", "ours", "theirs"),
            ("pod's metadata", "ours-meta", "theirs-meta"),
            ("pod's node", "ours-node", "theirs-node"),
        ] {
            let (ours, theirs) = (memory::measured("resident", ours), memory::measured("resident", theirs));
            report(&format!("resident bytes of a cached {name}"), ours, theirs, theirs / ours);
        }
    }
    if wanted("relist") {
        let (ours, theirs) = (memory::measured("relist", "ours"), memory::measured("relist", "theirs"));
        report("peak while listing again, % of before", ours * 100.0, theirs * 100.0, theirs / ours);
    }
    if wanted("beside a watch that fails") {
        let (ours, theirs) = (runtime().block_on(beside::ours()), runtime().block_on(beside::theirs()));
        report("event beside a watch that fails, ms", ours, theirs, theirs / ours);
    }
}

fn report(name: &str, ours: f64, theirs: f64, ratio: f64) {
    println!("{name:<38}{ours:>14.0}{theirs:>14.0}{ratio:>9.2}x");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}
