//! The same targets under libFuzzer: `FUZZ_TARGET` says which, `.ci/run fuzz` how it is built.

#![no_main]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    dead_code,
    reason = "a panic is what the fuzzer looks for, and it makes its own mutations"
)]

mod targets;

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let target = targets::ALL.iter().find(|target| target.name == name);
        let Some(target) = target else {
            panic!("FUZZ_TARGET={name} is no target");
        };
        TARGET.get_or_init(|| target.run);
    },
    |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(bytes);
        }
    }
);
