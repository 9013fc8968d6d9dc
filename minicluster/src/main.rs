//! The `minicluster` command.

fn main() {}
