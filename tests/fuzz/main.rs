//! The fuzz targets, in every test run: what each found once, and what is near it.
//!
//! `tests/fuzz/corpus/TARGET` holds small files, each an input worth keeping: one by hand, one
//! of the recorded conversions, one that the fuzzer found (`libfuzzer.rs`, `.ci/run fuzz`).
//! Every one of them goes through its target, and so does a fixed number of mutations, the same
//! in every run. Time is not looked at: a target that hangs is seen by whoever runs the tests.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "in a test a panic is the answer, and what led to it has to be said somewhere"
)]

mod mutation;
mod targets;

use mutation::Mutations;
use std::path::Path;

#[test]
fn every_target_keeps_its_promises_on_its_corpus_and_near_it() {
    let threads: Vec<_> = targets::ALL
        .iter()
        .map(|target| {
            std::thread::Builder::new()
                .name(target.name.to_owned())
                .spawn(|| replay(target))
                .unwrap()
        })
        .collect();
    let failed = threads.into_iter().filter_map(|thread| {
        let name = thread.thread().name().map(str::to_owned);
        thread.join().err().and(name)
    });
    assert_eq!(failed.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn every_directory_of_the_corpus_has_a_target() {
    assert!(files(&corpus("")).is_empty());
    let mut directories: Vec<_> = std::fs::read_dir(corpus(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    directories.sort();
    let mut names: Vec<_> = targets::ALL.iter().map(|target| target.name).collect();
    names.sort_unstable();
    assert_eq!(directories, names);
}

fn replay(target: &targets::Target) {
    let corpus = files(&corpus(target.name));
    assert!(!corpus.is_empty(), "{} has no corpus", target.name);
    for (name, bytes) in &corpus {
        let _shown = Shown(name, bytes);
        (target.run)(bytes);
    }
    let inputs = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    for mutation in Mutations::of(inputs).take(target.mutations) {
        let _shown = Shown("a mutation", &mutation);
        (target.run)(&mutation);
    }
}

/// Says, when a target panics, what it was fed: to be kept as a file of its corpus.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Shown(name, bytes) = *self;
            let thread = std::thread::current();
            let target = thread.name().unwrap_or_default();
            let kept = std::env::temp_dir().join(format!("found-by-{target}"));
            let written = std::fs::write(&kept, bytes);
            let kept = kept.display();
            eprintln!("{target} was fed {name}; kept as {kept}: {written:?}");
        }
    }
}

fn corpus(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name)
}

/// The files of a directory in the order of their names, so that mutations are the same everywhere.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| path.is_file())
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}
