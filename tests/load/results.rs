//! What was measured, as it is kept in a file beside the page that is made of it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Named figures of one run.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Who was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Who {
    /// Our programs.
    Ours,
    /// Go's with room for 50,000 envelopes in both buffers.
    GoTuned,
    /// Go's as BOSH sets them up.
    GoDefault,
    /// Nobody: the least that anybody could need.
    Roofline,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) figures: Figures,
    /// Why there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

/// All runs of one amount of work.
pub(crate) type Samples = BTreeMap<Who, Vec<Sample>>;

/// An experiment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) when: When,
    /// By the amount of work; one alone where it does not vary.
    pub(crate) points: BTreeMap<u64, Samples>,
}

/// On what, when and with which command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct When {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) machine: String,
    /// The commit of Go's programs, if they took part.
    pub(crate) go: Option<String>,
    pub(crate) command: String,
}

/// Everything measured for a page, by the names of experiments.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results(pub(crate) BTreeMap<String, Measured>);

/// Several runs of the same, as one cell tells them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Results {
    /// What the file has; nothing if there is none.
    pub(crate) fn load(file: &Path) -> Results {
        match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).expect("results that we wrote"),
            Err(_) => Results::default(),
        }
    }

    /// Replaces the file.
    pub(crate) fn save(&self, file: &Path) {
        let mut text = serde_json::to_string_pretty(self).expect("numbers and text");
        text.push('\n');
        std::fs::write(file, text).expect("the file for results can be written");
    }

    /// The runs of an experiment in which the amount of work does not vary.
    pub(crate) fn samples(&self, experiment: &str) -> Option<&Samples> {
        self.0.get(experiment)?.points.values().next()
    }
}

impl Sample {
    pub(crate) fn of(result: Result<Figures, String>) -> Sample {
        match result {
            Ok(figures) => Sample {
                figures,
                failed: None,
            },
            Err(why) => Sample {
                figures: Figures::new(),
                failed: Some(why),
            },
        }
    }
}

/// One figure over all runs that have it.
pub(crate) fn spread(samples: &Samples, who: Who, figure: &str) -> Option<Spread> {
    let samples = samples.get(&who)?.iter();
    let mut values: Vec<f64> = samples
        .filter_map(|sample| sample.figures.get(figure).copied())
        .collect();
    values.sort_by(f64::total_cmp);
    let (least, most) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    };
    Some(Spread {
        least,
        median,
        most,
    })
}

/// The first of the reasons for which runs failed, and how many did.
pub(crate) fn failed(samples: &Samples, who: Who) -> Option<(usize, &str)> {
    let samples = samples.get(&who)?.iter();
    let reasons: Vec<&str> = samples
        .filter_map(|sample| sample.failed.as_deref())
        .collect();
    Some((reasons.len(), reasons.first()?))
}

impl When {
    /// Now, on this machine, by the command that runs, perhaps with Go's programs.
    pub(crate) fn now(go: Option<&Path>) -> When {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = model
            .lines()
            .find_map(|line| line.strip_prefix("model name\t: "));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        When {
            date: said("date", &["-u", "+%F"]),
            commit: said("git", &["describe", "--always", "--dirty"]),
            machine: format!(
                "{cores} cores of {}, Linux {}",
                model.unwrap_or("an unknown processor"),
                kernel.trim()
            ),
            go: go.map(|directory| revision(&directory.join("router"))),
            // Not where somebody keeps Go's programs.
            command: match go {
                None => format!("cargo load {}", arguments.join(" ")),
                Some(go) => {
                    let text = arguments.join(" ");
                    let text = text.replace(&*go.to_string_lossy(), "DIR");
                    format!("cargo load {text}")
                }
            },
        }
    }
}

/// What a command printed.
fn said(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output();
    let out = out.ok().filter(|out| out.status.success());
    out.map_or("unknown".to_owned(), |out| {
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    })
}

/// The commit that Go's linker wrote into a program.
fn revision(program: &Path) -> String {
    const BEFORE: &[u8] = b"vcs.revision=";
    let bytes = std::fs::read(program).unwrap_or_default();
    let at = bytes
        .windows(BEFORE.len())
        .position(|window| window == BEFORE);
    let commit = at.and_then(|at| bytes.get(at + BEFORE.len()..at + BEFORE.len() + 12));
    commit.map_or("unknown".to_owned(), |commit| {
        String::from_utf8_lossy(commit).into_owned()
    })
}
