//! Skips one increment of the ledger after the other, and sees that some account is off.
//!
//! In go the sources of this workspace; they are copied below the target directory, and every
//! increment of `mutants.rs` made conditional there, so that one build serves all. Out comes a
//! line for each: what the processes themselves said (`accounting_imbalance`), which must not
//! be 0 – and must be, with nothing skipped. A mutant that survives is an increment that nobody
//! would miss: then the ledger has to be mended, not the list.
//!
//! What other crates are built into is shared with every other build, and what is built of ours
//! is kept apart.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person, and a panic is an answer"
)]

mod mutants;
mod scenario;

use mutants::{ALL, Mutant};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;

/// The variable that says which increment is skipped.
const CHOSEN: &str = "MUTANT";

/// How the program is asked to play the scenario.
const SCENARIO: &str = "scenario";

/// Scenarios at a time: they mostly wait.
const AT_A_TIME: usize = 3;

/// How processes are told, which are started with no environment.
const STARTER: &str = "tests/harness/process.rs";
const CLEARED: &str = ".env_clear()";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(SCENARIO) {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let [doppler, controller] = runtime.block_on(scenario::play());
        println!("{doppler} {controller}");
        return ExitCode::SUCCESS;
    }
    let us = std::env::current_exe().expect("a process knows its file");
    // target/PROFILE/mutants
    let target = us.ancestors().nth(2).expect("cargo puts it there");
    let apart = target.join("mutants");
    let tree = apart.join("tree");
    let changes = match changes() {
        Ok(changes) => changes,
        Err(wrong) => {
            eprintln!("mutants: {wrong}");
            return ExitCode::FAILURE;
        }
    };
    copy(&tree, &changes);
    let program = build(target, &apart, &tree);
    let survivors = skip_each(&program, &tree, target);
    if survivors > 0 {
        eprintln!(
            "mutants: {survivors} increments of {} would not be missed",
            ALL.len()
        );
        return ExitCode::FAILURE;
    }
    println!("mutants: each of {} increments is missed", ALL.len());
    ExitCode::SUCCESS
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The files that are to be changed, as they will be.
fn changes() -> Result<BTreeMap<&'static str, String>, String> {
    let mut changed = BTreeMap::new();
    let mut change = |file, change: &dyn Fn(&str) -> Result<String, String>| {
        let text = changed
            .entry(file)
            .or_insert_with(|| std::fs::read_to_string(root().join(file)).unwrap_or_default());
        *text = change(text)?;
        Ok::<(), String>(())
    };
    for mutant in &ALL {
        change(mutant.file, &|text| conditional(mutant, text))?;
    }
    change(STARTER, &|text| {
        let told = format!(
            "{CLEARED}.envs(std::env::var_os(\"{CHOSEN}\").map(|name| (\"{CHOSEN}\", name)))"
        );
        match text.matches(CLEARED).count() {
            1 => Ok(text.replace(CLEARED, &told)),
            count => Err(format!("{STARTER} has {CLEARED} {count} times, not once")),
        }
    })?;
    Ok(changed)
}

/// The text with the mutant's statement under a condition.
fn conditional(mutant: &Mutant, text: &str) -> Result<String, String> {
    let Mutant {
        name,
        file,
        behind,
        statement,
    } = mutant;
    let code = text.split("\n#[cfg(test)]").next().unwrap_or_default();
    let from = code.find(behind).map(|at| at + behind.len());
    let after = from.and_then(|from| code.get(from..)).unwrap_or_default();
    let found = match behind.is_empty() {
        true => after.matches(statement).count(),
        false => after.matches(statement).count().min(1),
    };
    if found != 1 {
        return Err(format!(
            "{file} has `{statement}` {found} times{}, not once: mend {name} in tests/mutants/mutants.rs",
            if behind.is_empty() {
                String::new()
            } else {
                format!(" behind `{behind}`")
            },
        ));
    }
    let start = code.len() - after.len() + after.find(statement).unwrap_or_default();
    let rest = &code[start..];
    let end = rest.find([';']).map(|at| at + 1);
    let arm = rest.find(",\n");
    let end = start
        + match (end, arm) {
            (Some(end), Some(arm)) if arm < end => arm,
            (Some(end), _) => end,
            (None, _) => return Err(format!("{file}: `{statement}` does not end")),
        };
    let skipped =
        format!("if std::env::var_os(\"{CHOSEN}\").is_none_or(|name| name != \"{name}\")");
    Ok(format!(
        "{}{skipped} {{ {} }}{}",
        &text[..start],
        &text[start..end],
        &text[end..]
    ))
}

/// Copies what git knows of the sources; a file that is the same already keeps its date.
fn copy(tree: &Path, changes: &BTreeMap<&str, String>) {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ])
        .current_dir(root())
        .output()
        .expect("git is there");
    assert!(listed.status.success(), "this is not a clone");
    let names = String::from_utf8(listed.stdout).expect("names are text");
    for name in names.split_terminator('\0') {
        let Ok(bytes) = std::fs::read(root().join(name)) else {
            continue; // removed, and git not told yet
        };
        let bytes = changes
            .get(name)
            .map_or(bytes, |text| text.clone().into_bytes());
        let path = tree.join(name);
        if std::fs::read(&path).is_ok_and(|there| there == bytes) {
            continue;
        }
        std::fs::create_dir_all(path.parent().expect("below the tree")).expect("room");
        std::fs::write(&path, bytes).expect("room");
    }
}

/// Builds the copy; returns this program of it.
fn build(target: &Path, apart: &Path, tree: &Path) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--offline",
            "--workspace",
            "--bins",
        ])
        .arg("--target-dir")
        .arg(apart)
        .envs(apart_from(target))
        .current_dir(tree)
        .status();
    assert!(
        built.is_ok_and(|status| status.success()),
        "the copy does not build: see above"
    );
    apart.join("debug").join("mutants")
}

/// What every cargo is told that builds the copy, which each scenario does again and finds done.
///
/// Cargo names what it builds by paths within the workspace, which are the same in both: only a
/// wrapper, here one that does nothing, keeps what is built of ours apart.
fn apart_from(target: &Path) -> [(&str, &OsStr); 2] {
    [
        ("CARGO_BUILD_BUILD_DIR", target.as_os_str()),
        ("RUSTC_WORKSPACE_WRAPPER", OsStr::new("/usr/bin/env")),
    ]
}

/// Plays the scenario without each of them, and once with all; returns how many were not missed.
fn skip_each(program: &Path, tree: &Path, target: &Path) -> usize {
    let all = ALL.iter().map(|mutant| mutant.name);
    let waiting: Mutex<Vec<&str>> = Mutex::new(all.chain([""]).collect());
    let survivors = Mutex::new(0);
    let next = || waiting.lock().unwrap().pop();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(name) = next() {
                    let off = play(program, tree, target, name);
                    let right = match (name, &off) {
                        ("", Ok(off)) => off == "0 0",
                        (_, Ok(off)) => off != "0 0",
                        (_, Err(_)) => false,
                    };
                    let off = off.unwrap_or_else(|wrong| wrong);
                    let shown = if name.is_empty() { "none" } else { name };
                    println!("{shown:22} {off:12} {}", if right { "" } else { "WRONG" });
                    *survivors.lock().unwrap() += usize::from(!right);
                }
            });
        }
    });
    survivors.into_inner().unwrap()
}

/// The scenario with one increment skipped: by how much both processes were off.
fn play(program: &Path, tree: &Path, target: &Path, name: &str) -> Result<String, String> {
    let played = Command::new(program)
        .arg(SCENARIO)
        .env(CHOSEN, name)
        .envs(apart_from(target))
        .current_dir(tree)
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| error.to_string())?;
    match played.status.success() {
        true => Ok(String::from_utf8_lossy(&played.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&played.stderr).into_owned()),
    }
}
