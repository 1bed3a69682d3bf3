//! What was measured, as lines, as a table, and as the page.

use crate::world::Outcome;
use crate::{Fault, Run};
use std::process::Command;
use std::time::Duration;

/// Whether a run kept its promises, and if not, which it broke.
pub(crate) fn verdict(fault: &Fault, run: &Run) -> Result<(), String> {
    let outcome = run.result.as_ref().map_err(String::clone)?;
    if outcome.recovery > fault.bound {
        let (took, bound) = (seconds(outcome.recovery), seconds(fault.bound));
        return Err(format!("took {took} of at most {bound}"));
    }
    let (least, most) = outcome.told;
    if outcome.lost < least || outcome.lost > most {
        return Err(format!("lost {}, told {}", outcome.lost, told(outcome)));
    }
    Ok(())
}

/// One run in one line.
pub(crate) fn line(fault: &Fault, run: &Run) -> String {
    let verdict = match verdict(fault, run) {
        Ok(()) => "ok      ".to_owned(),
        Err(why) => format!("FAILED   {why}:"),
    };
    let measured = run.result.as_ref().map_or_else(
        |_| String::new(),
        |outcome| {
            format!(
                "{}, lost {} of {}, told {}; {}",
                seconds(outcome.recovery),
                outcome.lost,
                outcome.due,
                told(outcome),
                outcome.note
            )
        },
    );
    let (name, seed, took) = (fault.name, run.seed, run.took.as_secs());
    format!("{verdict} {name} [seed {seed}]: {measured} ({took} s)")
}

/// A row for each fault.
pub(crate) fn table(rows: &[(&Fault, &Vec<Run>)]) -> String {
    let mut table = String::from(
        "| fault | bound | measured: median, worst | readers were due | oracle: lost | \
         processes: lost | verdict |\n|---|---|---|---|---|---|---|\n",
    );
    for (fault, runs) in rows {
        let outcomes = runs.iter().filter_map(|run| run.result.as_ref().ok());
        let outcomes: Vec<&Outcome> = outcomes.collect();
        let mut times: Vec<Duration> = outcomes.iter().map(|outcome| outcome.recovery).collect();
        times.sort();
        let time = |time: Option<&Duration>| time.map_or("–".to_owned(), |time| seconds(*time));
        let each = |what: &dyn Fn(&Outcome) -> String| {
            let each: Vec<String> = outcomes.iter().map(|outcome| what(outcome)).collect();
            each.join("; ")
        };
        let wrong = runs
            .iter()
            .filter(|run| verdict(fault, run).is_err())
            .count();
        let verdict = match (runs.len(), wrong) {
            (0, _) => "not run".to_owned(),
            (all, 0) => format!("{all} of {all}"),
            (all, wrong) => format!("**{wrong} of {all} failed**"),
        };
        table.push_str(&format!(
            "| **{}**: {} | {} | {}, {} | {} | {} | {} | {verdict} |\n",
            fault.name,
            fault.what,
            seconds(fault.bound),
            time(times.get(times.len() / 2)),
            time(times.last()),
            each(&|outcome| outcome.due.to_string()),
            each(&|outcome| outcome.lost.to_string()),
            each(&told),
        ));
    }
    table
}

/// The page `docs/faults.md`.
pub(crate) fn page(table: &str, seeds: u64) -> String {
    format!(
        "{}\n\n{table}\n{} Seeds: {seeds} each.\n",
        include_str!("page_head.md").trim_end(),
        measured()
    )
}

/// Where and on what.
pub(crate) fn measured() -> String {
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output();
    let commit = commit.ok().filter(|out| out.status.success());
    let commit = commit.map_or("an unknown commit".to_owned(), |out| {
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "Measured at {commit} in the dev profile, on a virtual machine with {cores} cores ({}, \
         Linux {}).",
        model.unwrap_or("unknown"),
        kernel.trim()
    )
}

/// What processes say they lost: one number, or a range.
fn told(outcome: &Outcome) -> String {
    match outcome.told {
        (least, most) if least == most => format!("{least}"),
        (least, most) => format!("{least} to {most}"),
    }
}

pub(crate) fn seconds(time: Duration) -> String {
    let digits = if time.subsec_millis() == 0 { 0 } else { 2 };
    format!("{:.digits$} s", time.as_secs_f64())
}
