//! Runs this program again under callgrind, and reads what it counted.
//!
//! Counted are the instructions of what [`cases::counted_by_callgrind`] calls and nothing else, and
//! who called whom how often, which for the system's allocator is how often memory was
//! allocated. That needs no code in what is measured, and none that is unsafe. Calls are counted
//! from the beginning, so that a second run, a round longer, tells those of one round.
//!
//! Not gungraun, which reads callgrind too: its runner is 200 crates and 290 seconds of
//! processor to install, more than all that is done here, and this page is what we need of it.

use crate::cases::{self, CASES};
use crate::limits::{Counted, Unit};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What gives memory. `calloc` and `realloc` of glibc do not call `malloc`.
const ALLOCATORS: [&str; 5] = [
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
];

/// Where the dumps are.
pub(crate) fn directory() -> PathBuf {
    let us = std::env::current_exe().expect("a process knows its file");
    let profile = us.parent().and_then(Path::parent).expect("examples/gates");
    profile.join("gates")
}

/// Instructions and allocations of every case.
pub(crate) fn count() -> Vec<Counted> {
    let version = Command::new("valgrind").arg("--version").output();
    let version = version.unwrap_or_else(|error| panic!("valgrind does not start: {error}"));
    println!(
        "counted by {}",
        String::from_utf8_lossy(&version.stdout).trim()
    );
    let directory = directory();
    std::fs::create_dir_all(&directory).expect("a directory beside us");
    let mut counted = Vec::new();
    for (n, case) in CASES.iter().enumerate() {
        let (instructions, before) = read(&run(n, 1, &directory));
        let (_, after) = read(&run(n, 2, &directory));
        let allocations = after.saturating_sub(before);
        // The one case of which it is known: who counts none there counts nothing anywhere.
        assert!(
            allocations > 0 || case.what != "transcode a gauge",
            "the allocator goes by other names than {ALLOCATORS:?}"
        );
        for (unit, count) in [
            (Unit::Instructions, instructions),
            (Unit::Allocations, allocations),
        ] {
            counted.push(Counted {
                what: case.what,
                unit,
                count: count as f64 / case.operations as f64,
            });
        }
    }
    counted
}

/// What callgrind has to say of a case after so many rounds that warm it up.
fn run(case: usize, rounds: usize, directory: &Path) -> String {
    let out = directory.join(format!("callgrind.out.{}", case + 1));
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg(format!("--toggle-collect=*{}*", cases::COUNTED))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().expect("a process knows its file"))
        .args([case, rounds].map(|n| format!("--under-valgrind={n}")))
        .status();
    let status = valgrind.unwrap_or_else(|error| panic!("valgrind does not start: {error}"));
    assert!(status.success(), "valgrind: {status}");
    std::fs::read_to_string(&out).unwrap_or_else(|error| panic!("{}: {error}", out.display()))
}

/// Instructions and allocations of one dump. Its format is Valgrind's "Callgrind Format
/// Specification": a name stands behind its number once, and then the number alone.
fn read(dump: &str) -> (u64, u64) {
    let mut names = HashMap::new();
    let (mut instructions, mut allocations) = (None, 0);
    let mut allocates = false;
    for line in dump.lines() {
        if let Some(total) = line.strip_prefix("totals: ") {
            instructions = total.trim().parse().ok();
        } else if let Some(called) = line.strip_prefix("cfn=") {
            allocates = ALLOCATORS.contains(&named(called, &mut names));
        } else if let Some(function) = line.strip_prefix("fn=") {
            named(function, &mut names);
        } else if let Some(calls) = line.strip_prefix("calls=")
            && allocates
        {
            let times = calls.split(' ').next().and_then(|times| times.parse().ok());
            allocations += times.unwrap_or(0);
        }
    }
    let instructions: u64 = instructions.expect("callgrind says how many in all");
    assert!(instructions > 0, "callgrind has counted nothing");
    (instructions, allocations)
}

fn named<'a>(text: &'a str, names: &mut HashMap<&'a str, &'a str>) -> &'a str {
    match text.split_once(' ') {
        Some((number, name)) => {
            names.insert(number, name);
            name
        }
        None => names.get(text).copied().unwrap_or_default(),
    }
}
