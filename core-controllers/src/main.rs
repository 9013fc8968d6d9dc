//! The controllers as a program.

fn main() {}
