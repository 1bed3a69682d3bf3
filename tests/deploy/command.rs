//! Programs that are run to their end, and the directory of the files they are given.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// The repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A file or directory of `deploy/`.
pub(crate) fn deploy(path: &str) -> PathBuf {
    repository().join("deploy").join(path)
}

/// One of ours beside these checks.
pub(crate) fn ours(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy")).join(path)
}

/// The text of a file.
pub(crate) fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What it wrote to stdout. If it could not be run or ended badly, all that it said is the error.
pub(crate) async fn output(command: &mut Command) -> Result<String, String> {
    let ran = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let name = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    let ran = ran.map_err(|error| format!("could not run {name}: {error}"))?;
    let out = String::from_utf8_lossy(&ran.stdout).into_owned();
    if ran.status.success() {
        return Ok(out);
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(format!("{name}: {}: {out}{said}", ran.status))
}

/// A command with these arguments.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}
