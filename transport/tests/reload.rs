//! Files that change under a process, with the clock paused.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use transport::reload::{LOOK, Reload, Reloaded};
use transport::shutdown::{Drain, Hangup};
use transport::telemetry::Metrics;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("reload-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Two files that belong together: they are good if they hold the same number.
struct Pair {
    folder: Folder,
    name: &'static str,
    now: Reloaded<u32>,
    drain: Drain,
}

fn load(one: &Path, other: &Path) -> io::Result<Arc<u32>> {
    let read = |path| {
        let text = std::fs::read_to_string(path)?;
        text.parse::<u32>().map_err(io::Error::other)
    };
    let (one, other) = (read(one)?, read(other)?);
    if one == other {
        Ok(Arc::new(one))
    } else {
        Err(io::Error::other("they do not belong together"))
    }
}

impl Pair {
    fn watched(name: &'static str) -> Pair {
        Metrics::install().unwrap();
        let folder = Folder::new();
        let files = vec![folder.0.join("one"), folder.0.join("other")];
        for file in &files {
            std::fs::write(file, "1").unwrap();
        }
        let mut reload = Reload::new();
        let (one, other) = (files[0].clone(), files[1].clone());
        let now = reload
            .load(name, files, move || load(&one, &other))
            .unwrap();
        let drain = Drain::new();
        let hangup = Hangup::listen().unwrap();
        let shutdown = drain.shutdown();
        drain.shutdown().spawn(reload.run(hangup, shutdown));
        Pair {
            folder,
            name,
            now,
            drain,
        }
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.0.join(file), text).unwrap();
    }

    fn now(&self) -> u32 {
        *self.now.now()
    }

    /// The value of one of its metrics.
    fn metric(&self, metric: &str) -> f64 {
        let text = Metrics::install().unwrap().render();
        let series = format!("{metric}{{files=\"{}\"}} ", self.name);
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap_or("0").parse().unwrap()
    }
}

/// Until the files were looked at so often.
async fn looks(times: u32) {
    tokio::time::sleep(LOOK * times + LOOK / 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_belongs_together_is_replaced_together() {
    let pair = Pair::watched("together");
    looks(1).await;
    assert_eq!((pair.now(), pair.metric("reloads_total")), (1, 0.0));
    pair.write("one", "2");
    pair.write("other", "2");
    looks(1).await;
    assert_eq!((pair.now(), pair.metric("reloads_total")), (2, 1.0));
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_is_half_written_for_one_look_alarms_nobody() {
    let pair = Pair::watched("half-written");
    looks(1).await;
    pair.write("one", "2");
    looks(0).await;
    looks(0).await;
    assert_eq!((pair.now(), pair.metric("reload_failed")), (1, 0.0));
    pair.write("other", "2");
    looks(1).await;
    assert_eq!((pair.now(), pair.metric("reload_failures_total")), (2, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_bad_pair_keeps_the_old_one_alarms_once_and_is_forgotten_when_it_is_good() {
    let pair = Pair::watched("bad");
    pair.write("one", "nonsense");
    looks(10).await;
    assert_eq!((pair.now(), pair.metric("reload_failed")), (1, 1.0));
    std::fs::remove_file(pair.folder.0.join("one")).unwrap();
    looks(10).await;
    assert_eq!((pair.now(), pair.metric("reload_failures_total")), (1, 1.0));
    pair.write("one", "1");
    looks(1).await;
    assert_eq!((pair.now(), pair.metric("reload_failed")), (1, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_swaps_a_symlink_is_seen() {
    use std::os::unix::fs::symlink;
    let pair = Pair::watched("symlink");
    let folder = &pair.folder.0;
    // As Kubernetes mounts a secret: the files point into `..data`, and that is swapped.
    for (version, text) in [("v1", "1"), ("v2", "7")] {
        std::fs::create_dir(folder.join(version)).unwrap();
        for file in ["one", "other"] {
            std::fs::write(folder.join(version).join(file), text).unwrap();
        }
    }
    symlink("v1", folder.join("data")).unwrap();
    for file in ["one", "other"] {
        std::fs::remove_file(folder.join(file)).unwrap();
        symlink(Path::new("data").join(file), folder.join(file)).unwrap();
    }
    looks(2).await;
    assert_eq!((pair.now(), pair.metric("reloads_total")), (1, 0.0));
    symlink("v2", folder.join("new")).unwrap();
    std::fs::rename(folder.join("new"), folder.join("data")).unwrap();
    looks(1).await;
    assert_eq!((pair.now(), pair.metric("reloads_total")), (7, 1.0));
}

#[tokio::test(start_paused = true)]
async fn looking_ends_with_the_process() {
    let pair = Pair::watched("ends");
    looks(1).await;
    pair.drain.begin();
    assert_eq!(pair.drain.wait(LOOK).await, Ok(()));
}

#[test]
fn files_that_cannot_be_used_from_the_start_are_the_callers_error() {
    let folder = Folder::new();
    let file = folder.0.join("missing");
    let path = file.clone();
    let loaded = Reload::new().load("missing", vec![file], move || load(&path, &path));
    assert_eq!(loaded.unwrap_err().kind(), io::ErrorKind::NotFound);
}
