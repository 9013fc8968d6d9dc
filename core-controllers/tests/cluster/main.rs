//! The controllers on a real API server, in memory and under virtual time. Nodes and kubelets are played by the tests.

mod faults;
mod garbage;
mod nodes;
mod play;
mod services;
mod stateful;
mod workloads;
