//! The property of `windlass_tests::properties::cel`, on inputs that libFuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_tests::properties::cel(bytes));
