//! The same work for several peers in turns, and again, so that what else the machine does hits
//! all of them.

use crate::report::Report;
use crate::results::{Figures, Measured, Results, Sample, When, Who};
use crate::roofline::Roofline;
use harness::binaries;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to measure, and where it goes.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Directory with Go's `router` and `trafficcontroller`, to measure them, too.
    #[arg(long, value_name = "DIR")]
    go: Option<PathBuf>,
    /// How often each is run.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Seconds of each run that has no time of its own.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only these, comma separated; of the others the page keeps what it had.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    rows: Vec<String>,
    /// The page to write. What was measured goes beside it, as JSON. Without it the page goes to
    /// stdout, with nothing but what was measured now.
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
}

/// Something to measure.
pub(crate) struct Experiment {
    /// As `--rows` has it.
    pub(crate) name: &'static str,
    /// What follows `cargo load`, `N` for the amount of work; or in words what it compares.
    pub(crate) command: &'static str,
    /// Amounts of work.
    pub(crate) points: &'static [u64],
    /// Who does it.
    pub(crate) who: &'static [Who],
    /// By that command.
    pub(crate) measure: fn(&Runner<'_>, &str) -> Result<Figures, String>,
}

/// Runs `cargo load` for one peer.
pub(crate) struct Runner<'a> {
    pub(crate) who: Who,
    go: Option<&'a Path>,
    seconds: u64,
}

impl Args {
    /// Where results are kept beside the page.
    pub(crate) fn json(page: &Path) -> PathBuf {
        page.with_extension("json")
    }

    /// Measures all of these, or those that were asked for; what is there already is kept.
    pub(crate) fn measure(&self, experiments: &[Experiment]) -> Results {
        for row in &self.rows {
            let known = experiments.iter().any(|experiment| experiment.name == row);
            assert!(known, "nothing here is called {row}");
        }
        let json = self.write.as_deref().map(Args::json);
        let mut results = json.as_deref().map_or_else(Results::default, Results::load);
        // Before we write anything: then the tree is no longer that of the commit.
        let when = When::now(self.go.as_deref());
        for experiment in experiments {
            if self.rows.is_empty() || self.rows.iter().any(|row| row == experiment.name) {
                let measured = self.measure_one(experiment, when.clone());
                results.0.insert(experiment.name.to_owned(), measured);
                // At once: the next one may be interrupted.
                json.iter().for_each(|json| results.save(json));
            }
        }
        results
    }

    fn measure_one(&self, experiment: &Experiment, when: When) -> Measured {
        let mut measured = Measured {
            when,
            points: Default::default(),
        };
        for run in 1..=self.runs {
            for point in experiment.points {
                for who in experiment.who.iter().copied() {
                    if matches!(who, Who::GoDefault | Who::GoTuned) && self.go.is_none() {
                        continue;
                    }
                    let runner = Runner {
                        who,
                        go: self.go.as_deref(),
                        seconds: self.seconds,
                    };
                    let command = experiment.command.replace('N', &point.to_string());
                    let sample = Sample::of((experiment.measure)(&runner, &command));
                    let (name, runs) = (experiment.name, self.runs);
                    match &sample.failed {
                        None => eprintln!("{name} {point}, run {run} of {runs}, {who:?}"),
                        Some(why) => eprintln!("{name} {point}, run {run}, {who:?}: {why}"),
                    }
                    let samples = measured.points.entry(*point).or_default();
                    samples.entry(who).or_default().push(sample);
                }
            }
        }
        measured
    }
}

impl Runner<'_> {
    /// One run of this peer with those arguments, of which all streams are open.
    pub(crate) fn load(&self, arguments: &str) -> Result<Report, String> {
        let report = self.load_refused(arguments)?;
        match report.opening.refused {
            0 => Ok(report),
            refused => Err(format!("{refused} streams were refused")),
        }
    }

    /// One run, of which streams may have been refused.
    pub(crate) fn load_refused(&self, arguments: &str) -> Result<Report, String> {
        let buffers = match self.who {
            Who::GoDefault => Some("default"),
            Who::GoTuned => Some("50000"),
            Who::Ours | Who::Roofline => None,
        };
        let programs = |doppler: PathBuf, controller: PathBuf| {
            let (doppler, controller) = (doppler.display(), controller.display());
            vec![
                format!("--doppler={doppler}"),
                format!("--traffic-controller={controller}"),
            ]
        };
        let peer = match (buffers, self.go) {
            (Some(buffers), Some(go)) => {
                let mut peer = programs(go.join("router"), go.join("trafficcontroller"));
                peer.extend(["--peer=go".into(), format!("--go-buffers={buffers}")]);
                peer
            }
            // Built once, whatever happens to the sources meanwhile.
            _ => programs(binaries::doppler(), binaries::traffic_controller()),
        };
        let report: Report = self.run(arguments, &peer)?;
        match report.failures.is_empty() {
            true => Ok(report),
            false => Err(report.failures.join("; ")),
        }
    }

    /// One look at the roofline.
    pub(crate) fn roofline(&self, arguments: &str) -> Result<Roofline, String> {
        self.run(&format!("roofline {arguments}"), &[])
    }

    /// A process of our own for each: none inherits another one's memory.
    fn run<T: DeserializeOwned>(&self, arguments: &str, more: &[String]) -> Result<T, String> {
        let us = std::env::current_exe().expect("a process knows its file");
        let seconds = format!("--seconds={}", self.seconds);
        let seconds = (!arguments.contains("--seconds")).then_some(seconds);
        let out = Command::new(us)
            .args(arguments.split_whitespace())
            .args(seconds)
            .args(more)
            .output()
            .map_err(|error| format!("did not start: {error}"))?;
        serde_json::from_slice(&out.stdout).map_err(|_| {
            let said = String::from_utf8_lossy(&out.stderr);
            // The line below the one that says where it panicked.
            let why = said.lines().find(|line| !line.starts_with("thread '"));
            format!("broke off: {}", why.unwrap_or("without a word"))
        })
    }
}
