//! The Rust under `src/generated/` is what prost makes of `proto/`, byte for byte.
//!
//! After a change to a `.proto` file: `REGENERATE=1 cargo test -p proto --test generated`.

#![allow(clippy::unwrap_used)]

use std::{env, fs, path::Path};

const SOURCES: [&str; 2] = ["dropsonde/envelope.proto", "loggregator/v2/ingress.proto"];

#[test]
fn generated_code_is_what_the_proto_files_say() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked_in = home.join("src/generated");
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    fs::create_dir_all(&fresh).unwrap();

    let files = protox::compile(SOURCES, [home.join("proto")]).unwrap();
    prost_build::Config::new()
        .btree_map(["."])
        .out_dir(&fresh)
        .compile_fds(files)
        .unwrap();

    for name in ["events.rs", "loggregator.v2.rs"] {
        let made = fs::read_to_string(fresh.join(name)).unwrap();
        let kept = checked_in.join(name);
        if env::var_os("REGENERATE").is_some() {
            fs::write(&kept, &made).unwrap();
        }
        assert!(
            made == fs::read_to_string(&kept).unwrap_or_default(),
            "src/generated/{name} is out of date: \
             REGENERATE=1 cargo test -p proto --test generated"
        );
    }
}
