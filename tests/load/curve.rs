//! The curves of docs/scaling.md: what grows, what is plotted over it, and how it may grow.

use crate::experiment::{Args, Experiment, Runner};
use crate::results::{Figures, Measured, Who, spread};
use crate::{page, table};

/// How a figure may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// Not at all: the far end is compared with the mean of the near half.
    Flat,
    /// Along a line: the far end is compared with the line through the near half.
    Linear,
}

/// How far above that the far end may be.
pub(crate) const MOST: f64 = 1.2;

/// One plot.
pub(crate) struct Line {
    pub(crate) experiment: &'static str,
    pub(crate) figure: &'static str,
    /// What it shows.
    pub(crate) title: &'static str,
    /// Of what there is more and more.
    pub(crate) work: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) growth: Growth,
}

/// What the near half of a curve says about the far end.
pub(crate) struct FarEnd {
    /// The amount of work there.
    pub(crate) work: u64,
    pub(crate) measured: f64,
    pub(crate) expected: f64,
    /// What is expected for no work, and for each unit of it more.
    pub(crate) line: (f64, f64),
}

const BOTH: &[Who] = &[Who::Ours, Who::GoTuned];

/// Measures, and writes the page.
pub(crate) fn measure(args: &Args) {
    let results = args.measure(&experiments());
    page::scaling(&results, args.write.as_deref());
}

pub(crate) fn experiments() -> Vec<Experiment> {
    let experiment = |name, command, points| Experiment {
        name,
        command,
        points,
        who: BOTH,
        measure: lossless,
    };
    vec![
        experiment(
            "firehoses",
            "--rate 5000 --firehoses N",
            &[1, 2, 4, 8, 16, 32, 64],
        ),
        experiment(
            "idle-tails",
            "--firehoses 0 --tails N --apps N --idle --seconds 15",
            &[1, 2_000, 5_000, 10_000, 19_000],
        ),
        experiment(
            "tails",
            "--firehoses 0 --tails N --apps N --rate N",
            &[100, 500, 1_000, 2_000, 5_000, 10_000, 19_000],
        ),
        experiment(
            "dopplers",
            "--dopplers N --connections N --rate 20000",
            &[1, 2, 5, 10, 20, 40],
        ),
        experiment(
            "agents",
            "--connections N --rate 50000",
            &[1, 10, 50, 100, 250, 500],
        ),
        experiment(
            "payload",
            "--payload N --batch 10",
            &[100, 256, 1_024, 4_096, 16_384, 65_536],
        ),
        experiment("apps", "--apps N", &[1, 10, 100, 1_000, 10_000, 100_000]),
        experiment(
            "apps-routed",
            "--apps N --recent-logs 0",
            &[1, 10, 100, 1_000, 10_000, 100_000],
        ),
    ]
}

fn lossless(runner: &Runner<'_>, command: &str) -> Result<Figures, String> {
    let report = runner.load(command)?;
    let lost = report.lost_percent();
    match lost > 0.0 {
        true => Err(format!("lost {lost:.1} %")),
        false => Ok(table::figures(&report)),
    }
}

/// The plots, from top to bottom.
pub(crate) const LINES: &[Line] = &[
    Line {
        experiment: "firehoses",
        figure: "cpu",
        title: "Firehose subscriptions, 5,000 envelopes/s to each",
        work: "firehose subscriptions",
        unit: "CPU-s per million envelopes",
        growth: Growth::Linear,
    },
    Line {
        experiment: "idle-tails",
        figure: "growth_mib",
        title: "Idle app tails: memory of both processes",
        work: "app tails",
        unit: "MiB",
        growth: Growth::Linear,
    },
    Line {
        experiment: "idle-tails",
        figure: "idle_percent",
        title: "Idle app tails: CPU of both processes",
        work: "app tails",
        unit: "% of a core",
        growth: Growth::Linear,
    },
    Line {
        experiment: "idle-tails",
        figure: "opening_cpu",
        title: "App tails that connect: CPU of both processes",
        work: "app tails",
        unit: "CPU-s for all",
        growth: Growth::Linear,
    },
    Line {
        experiment: "idle-tails",
        figure: "opening_seconds",
        title: "App tails that connect: time until the last is open, 32 at a time",
        work: "app tails",
        unit: "s",
        growth: Growth::Linear,
    },
    Line {
        experiment: "idle-tails",
        figure: "doppler_files",
        title: "Idle app tails: files and sockets of the Doppler",
        work: "app tails",
        unit: "open files",
        growth: Growth::Flat,
    },
    Line {
        experiment: "tails",
        figure: "core_percent",
        title: "App tails, one envelope a second to each",
        work: "app tails",
        unit: "% of a core",
        growth: Growth::Linear,
    },
    Line {
        experiment: "dopplers",
        figure: "cpu",
        title: "Dopplers, 20,000 envelopes/s over all of them",
        work: "Dopplers",
        unit: "CPU-s per million envelopes",
        growth: Growth::Linear,
    },
    Line {
        experiment: "agents",
        figure: "cpu",
        title: "Agents, 50,000 envelopes/s from all of them",
        work: "agents",
        unit: "CPU-s per million envelopes",
        growth: Growth::Linear,
    },
    Line {
        experiment: "agents",
        figure: "peak_doppler",
        title: "Agents: memory of the Doppler",
        work: "agents",
        unit: "MiB, peak",
        growth: Growth::Linear,
    },
    Line {
        experiment: "payload",
        figure: "cpu",
        title: "Envelopes of more and more bytes, flat out in batches of 10",
        work: "bytes of payload",
        unit: "CPU-s per million envelopes",
        growth: Growth::Linear,
    },
    Line {
        experiment: "apps",
        figure: "cpu",
        title: "Apps, flat out, recent logs kept",
        work: "apps",
        unit: "CPU-s per million envelopes",
        growth: Growth::Flat,
    },
    Line {
        experiment: "apps-routed",
        figure: "cpu",
        title: "Apps, flat out, no recent logs",
        work: "apps",
        unit: "CPU-s per million envelopes",
        growth: Growth::Flat,
    },
];

impl Line {
    /// The medians, by the amount of work.
    pub(crate) fn medians(&self, measured: &Measured, who: Who) -> Vec<(u64, f64)> {
        let points = measured.points.iter();
        points
            .filter_map(|(work, samples)| {
                let spread = spread(samples, who, self.figure)?;
                Some((*work, spread.median))
            })
            .collect()
    }

    /// What the near half of ours makes one expect of its far end.
    pub(crate) fn far_end(&self, measured: &Measured) -> Option<FarEnd> {
        let points = self.medians(measured, Who::Ours);
        // That the far end could not be reached is not a short curve.
        let last = *measured.points.keys().next_back()?;
        let (work, value) = *points.last().filter(|(work, _)| *work == last)?;
        let near = &points[..points.len().div_ceil(2)];
        let line = match self.growth {
            Growth::Flat => (mean(near.iter().map(|(_, y)| *y)), 0.0),
            Growth::Linear => fit(near),
        };
        Some(FarEnd {
            work,
            measured: value,
            expected: line.0 + line.1 * work as f64,
            line,
        })
    }
}

/// The line of least squares, which does not fall: that more work costs less is noise.
fn fit(points: &[(u64, f64)]) -> (f64, f64) {
    let x = mean(points.iter().map(|(x, _)| *x as f64));
    let y = mean(points.iter().map(|(_, y)| *y));
    let both = points.iter().map(|(px, py)| (*px as f64 - x) * (py - y));
    let squares: f64 = points.iter().map(|(px, _)| (*px as f64 - x).powi(2)).sum();
    let slope = (both.sum::<f64>() / squares.max(f64::MIN_POSITIVE)).max(0.0);
    (y - slope * x, slope)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value));
    sum / f64::from(count.max(1))
}
