//! `deploy/release`: the archive, of the profile that builds soonest.

use crate::Check;
use crate::command::{command, output, repository};
use futures::FutureExt;
use harness::binaries;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// How long a build of three programs may take with nothing built.
pub(crate) const BUILD: Duration = Duration::from_secs(900);

pub(crate) fn checks() -> Vec<Check> {
    vec![Check {
        name: "release archive",
        what: "one command makes it: static binaries that name their commit, and all its sums hold",
        limit: BUILD,
        // It builds, with every processor.
        alone: true,
        run: || archive().boxed(),
    }]
}

async fn archive() -> Result<String, String> {
    let archive = made().await?;
    let beside = archive.parent().unwrap();
    let name = archive.file_name().unwrap().to_str().unwrap();
    let sums = &mut command(
        "sha256sum",
        &["--check", "--quiet", &format!("{name}.sha256")],
    );
    output(sums.current_dir(beside)).await?;

    let (_directory, top) = unpacked(&archive).await?;
    let sums = &mut command("sha256sum", &["--check", "--quiet", "SHA256SUMS"]);
    output(sums.current_dir(&top)).await?;
    let mut git = command("git", &["rev-parse", "HEAD"]);
    let commit = output(git.current_dir(repository())).await?;
    for program in ["doppler", "traffic-controller", "firehose"] {
        let version = output(&mut command(top.join("bin").join(program), &["--version"])).await?;
        let named = version.contains(&format!("commit {}", &commit[..12]));
        assert!(
            named && version.starts_with(program),
            "{version} of {commit}"
        );
    }
    for file in [
        "LICENSE",
        "THIRD-PARTY",
        "docs/settings.md",
        "deploy/systemd/doppler.service",
    ] {
        assert!(top.join(file).is_file(), "no {file}");
    }
    let size = std::fs::metadata(&archive).unwrap().len() >> 20;
    Ok(format!("{name}, {size} MiB"))
}

/// Where the archive is; whoever asks first makes it.
pub(crate) async fn made() -> Result<PathBuf, String> {
    static MADE: OnceCell<Result<PathBuf, String>> = OnceCell::const_new();
    MADE.get_or_init(make).await.clone()
}

async fn make() -> Result<PathBuf, String> {
    let target = binaries::built().parent().expect("TARGET/PROFILE");
    let mut release = command(repository().join("deploy/release"), &["dev"]);
    let said = output(release.env("CARGO_TARGET_DIR", target)).await?;
    let line = said.lines().last().unwrap_or_default();
    let (archive, _) = line
        .split_once(": ")
        .ok_or("it does not say what it made")?;
    Ok(PathBuf::from(archive))
}

/// What is in the archive, and where; gone with the first of the two.
pub(crate) async fn unpacked(archive: &Path) -> Result<(TempDir, PathBuf), String> {
    let directory = tempfile::tempdir().unwrap();
    let mut tar = command("tar", &["--extract", "--gzip", "--file"]);
    output(tar.arg(archive).arg("--directory").arg(directory.path())).await?;
    let mut inside = directory.path().read_dir().unwrap();
    let top = inside.next().expect("a directory").unwrap().path();
    Ok((directory, top))
}
