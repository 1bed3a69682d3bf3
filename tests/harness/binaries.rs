//! The programs under test, built in the profile that is running.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the Doppler's binary is.
pub fn doppler() -> PathBuf {
    built().join("doppler")
}

/// Where the Traffic Controller's binary is.
pub fn traffic_controller() -> PathBuf {
    built().join("traffic-controller")
}

/// Where the command `firehose` is.
pub fn firehose() -> PathBuf {
    built().join("firehose")
}

/// The directory of the running profile, where they all are.
///
/// Cargo builds an integration test's own package only, so the programs are built here, once
/// per process. Each selection of packages and kinds has features, and so a build of every
/// library, of its own: we select what `cargo test --workspace` or `cargo run --bin NAME`
/// selected when it built us, and find all but the programs themselves there.
pub fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build)
}

fn build() -> PathBuf {
    let us = std::env::current_exe().expect("a process knows its file");
    let mut directory = us.parent().expect("a file lies in a directory");
    // Tests lie in `deps`, examples in `examples`, programs beside them.
    let kind = match directory.file_name().and_then(|name| name.to_str()) {
        Some("deps") => Some("--tests"),
        Some("examples") => Some("--examples"),
        _ => None,
    };
    if kind.is_some() {
        directory = directory
            .parent()
            .expect("it lies in the profile's directory");
    }
    let (target, name) = (directory.parent(), directory.file_name());
    let (Some(target), Some(name)) = (target, name.and_then(|name| name.to_str())) else {
        panic!("{} is not where cargo puts its binaries", us.display());
    };
    // The one profile whose directory has another name.
    let profile = if name == "debug" { "dev" } else { name };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(&cargo)
        .args(["build", "--quiet", "--workspace", "--bins"])
        .args(kind)
        .args(["--profile", profile])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .status();
    match built {
        Ok(status) if status.success() => directory.to_owned(),
        Ok(_) => panic!("the programs under test do not build: see above"),
        Err(error) => panic!("could not run {}: {error}", cargo.display()),
    }
}
