//! The rows of docs/performance.md: what is run for each, which of its figures count, and what
//! they may be.

use crate::experiment::{Args, Experiment, Runner};
use crate::page;
use crate::report::Report;
use crate::results::{Figures, Who};
use std::collections::BTreeMap;

/// What a figure may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Budget {
    AtMost(f64),
    AtLeast(f64),
    /// At most this part of what Go needs with large buffers, in the same run.
    OfGo(f64),
    /// It is there to be known.
    Open,
}

/// One line of the table.
pub(crate) struct Line {
    pub(crate) experiment: &'static str,
    pub(crate) figure: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) digits: usize,
    pub(crate) budget: Budget,
    /// What it should be in the end.
    pub(crate) aim: Budget,
    /// Whether any loss makes the figure worthless.
    pub(crate) lossless: bool,
    /// The figure, per second, of which this one is a percentage.
    pub(crate) of: Option<&'static str>,
}

const ALL: &[Who] = &[Who::Ours, Who::GoDefault, Who::GoTuned];
const AND_ROOFLINE: &[Who] = &[Who::Ours, Who::GoDefault, Who::GoTuned, Who::Roofline];

/// Measures, and writes the page.
pub(crate) fn measure(args: &Args) {
    let results = args.measure(&experiments());
    page::performance(&results, args.write.as_deref());
}

pub(crate) fn experiments() -> Vec<Experiment> {
    let experiment = |name, command, who, measure| Experiment {
        name,
        command,
        points: &[0],
        who,
        measure,
    };
    vec![
        experiment("flat-min", "", AND_ROOFLINE, flat_out),
        experiment("flat-full", "--tags full", AND_ROOFLINE, flat_out),
        experiment(
            "flat-mixed",
            "--tags full --mix mixed",
            AND_ROOFLINE,
            flat_out,
        ),
        experiment(
            "recents",
            "--recent-logs 100, less the same with 0",
            &[Who::Ours],
            recents,
        ),
        experiment(
            "goodput",
            "--connections 4, then with --rate TWICE --patience 100",
            ALL,
            |runner, _| goodput(runner, 4),
        ),
        experiment(
            "goodput-500",
            "--connections 4, then --connections 500 --rate TWICE --patience 100",
            ALL,
            |runner, _| goodput(runner, 500),
        ),
        experiment("latency", "--rate 10000", ALL, once),
        experiment(
            "firehoses",
            "--rate 50000 --firehoses 4, less the same with 1",
            ALL,
            each_further_firehose,
        ),
        experiment(
            "tails",
            "--firehoses 0 --tails 1000 --apps 1000 --rate 10000",
            ALL,
            once,
        ),
        // As long as it takes until each was pinged.
        experiment(
            "idle-tails",
            "--firehoses 0 --tails 1000 --apps 1000 --idle --seconds 15",
            ALL,
            once,
        ),
        experiment(
            "many-tails",
            "--firehoses 0 --tails 10000 --apps 10000 --rate 10000",
            ALL,
            |runner, command| Ok(figures(&runner.load_refused(command)?)),
        ),
        // More than ten times what any of them carries; agents lose what is not taken.
        experiment(
            "overload",
            "--connections 500 --rate 9000000 --patience 100 --stalled 4 --slow 4",
            ALL,
            once,
        ),
    ]
}

/// What every run has.
pub(crate) fn figures(report: &Report) -> Figures {
    let offered = (report.sent + report.lost_at_generator).max(1) as f64;
    let opening = &report.opening;
    let mut figures = BTreeMap::from([
        ("cpu", report.cpu_seconds_per_million.both),
        ("cpu_doppler", report.cpu_seconds_per_million.doppler),
        (
            "cpu_controller",
            report.cpu_seconds_per_million.traffic_controller,
        ),
        (
            "cpu_load",
            report.cpu_seconds_per_million.generator_and_readers,
        ),
        ("core_percent", report.core_percent),
        ("rate", report.envelopes_per_second as f64),
        ("lost_percent", report.lost_percent()),
        (
            "lost_at_agents_percent",
            100.0 * report.lost_at_generator as f64 / offered,
        ),
        ("p50", report.latency_ms.p50),
        ("p99", report.latency_ms.p99),
        ("peak_doppler", report.peak_mib.doppler as f64),
        ("peak_controller", report.peak_mib.traffic_controller as f64),
        ("streams", opening.streams as f64),
        ("opening_seconds", opening.seconds),
        ("opening_cpu", opening.cpu_seconds),
        ("growth_mib", opening.growth_mib),
        ("doppler_files", opening.doppler_files as f64),
    ]);
    if let Some(idle) = &report.idle {
        let both = idle.doppler_percent + idle.traffic_controller_percent;
        figures.insert("idle_percent", both);
    }
    let named = figures.into_iter();
    named
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// One run says it all.
fn once(runner: &Runner<'_>, command: &str) -> Result<Figures, String> {
    Ok(figures(&runner.load(command)?))
}

/// One run, or the least that it could need.
fn flat_out(runner: &Runner<'_>, command: &str) -> Result<Figures, String> {
    if runner.who != Who::Roofline {
        return once(runner, command);
    }
    let roofline = runner.roofline(command)?;
    Ok(Figures::from([
        ("cpu".to_owned(), roofline.cpu_seconds_per_million.both),
        ("rate".to_owned(), roofline.envelopes_per_second as f64),
    ]))
}

/// What it costs to keep recent logs: the difference of two runs, one after the other.
fn recents(runner: &Runner<'_>, _: &str) -> Result<Figures, String> {
    let without = runner.load("--recent-logs 0")?;
    let with = runner.load("--recent-logs 100")?;
    let cpu = |report: &Report| report.cpu_seconds_per_million.both;
    let mut figures = figures(&with);
    figures.insert("extra".to_owned(), cpu(&with) - cpu(&without));
    Ok(figures)
}

/// What still comes when so many agents offer twice as much as comes without loss.
fn goodput(runner: &Runner<'_>, agents: usize) -> Result<Figures, String> {
    let lossless = runner.load("--connections 4")?;
    let twice = 2 * lossless.envelopes_per_second;
    let over = runner.load(&format!(
        "--connections {agents} --rate {twice} --patience 100"
    ))?;
    let goodput = over.deliveries() as f64 / over.seconds;
    let before = lossless.deliveries() as f64 / lossless.seconds;
    let mut figures = figures(&over);
    figures.insert("goodput_percent".to_owned(), 100.0 * goodput / before);
    figures.insert("lossless_rate".to_owned(), before);
    Ok(figures)
}

/// What firehoses cost beyond the first, per million envelopes delivered to them.
fn each_further_firehose(runner: &Runner<'_>, _: &str) -> Result<Figures, String> {
    let one = runner.load("--rate 50000")?;
    let more = runner.load("--rate 50000 --firehoses 4")?;
    // Half a stream less says nothing of a whole one more.
    let lost = one.lost_percent().max(more.lost_percent());
    if lost > 10.0 {
        return Err(format!("lost {lost:.0} %"));
    }
    let deliveries = more.deliveries().saturating_sub(one.deliveries()).max(1);
    let extra = (more.cpu_seconds() - one.cpu_seconds()) / deliveries as f64 * 1e6;
    let mut figures = figures(&more);
    figures.insert("extra".to_owned(), extra);
    Ok(figures)
}

/// The table, from top to bottom.
pub(crate) const LINES: &[Line] = &[
    Line {
        experiment: "flat-min",
        figure: "cpu",
        what: "flat out, 5 tags",
        unit: "CPU-s per million",
        digits: 2,
        budget: Budget::AtMost(1.5),
        aim: Budget::AtMost(1.1),
        lossless: true,
        of: None,
    },
    Line {
        experiment: "flat-full",
        figure: "cpu",
        what: "flat out, 18 tags",
        unit: "CPU-s per million",
        digits: 2,
        budget: Budget::AtMost(2.8),
        aim: Budget::AtMost(2.0),
        lossless: true,
        of: None,
    },
    Line {
        experiment: "flat-mixed",
        figure: "cpu",
        what: "flat out, logs, timers, gauges and counters, 18 tags",
        unit: "CPU-s per million",
        digits: 2,
        budget: Budget::Open,
        aim: Budget::Open,
        lossless: true,
        of: None,
    },
    Line {
        experiment: "recents",
        figure: "extra",
        what: "keeping recent logs, extra",
        unit: "CPU-s per million",
        digits: 2,
        budget: Budget::AtMost(0.15),
        aim: Budget::Open,
        lossless: true,
        of: None,
    },
    Line {
        experiment: "flat-min",
        figure: "rate",
        what: "lossless, 5 tags",
        unit: "envelopes/s",
        digits: 0,
        budget: Budget::AtLeast(500_000.0),
        aim: Budget::AtLeast(900_000.0),
        lossless: true,
        of: None,
    },
    Line {
        experiment: "flat-full",
        figure: "rate",
        what: "lossless, 18 tags",
        unit: "envelopes/s",
        digits: 0,
        budget: Budget::AtLeast(250_000.0),
        aim: Budget::AtLeast(450_000.0),
        lossless: true,
        of: None,
    },
    Line {
        experiment: "goodput",
        figure: "goodput_percent",
        what: "goodput with twice the lossless rate offered",
        unit: "% of lossless",
        digits: 0,
        budget: Budget::AtLeast(90.0),
        aim: Budget::AtLeast(95.0),
        lossless: false,
        of: Some("lossless_rate"),
    },
    Line {
        experiment: "goodput-500",
        figure: "goodput_percent",
        what: "the same, offered by 500 agents",
        unit: "% of lossless",
        digits: 0,
        budget: Budget::AtLeast(90.0),
        aim: Budget::AtLeast(95.0),
        lossless: false,
        of: Some("lossless_rate"),
    },
    Line {
        experiment: "latency",
        figure: "p50",
        what: "latency at 10,000/s, median",
        unit: "ms",
        digits: 1,
        budget: Budget::AtMost(3.0),
        aim: Budget::AtMost(1.5),
        lossless: true,
        of: None,
    },
    Line {
        experiment: "latency",
        figure: "p99",
        what: "latency at 10,000/s, 99 %",
        unit: "ms",
        digits: 1,
        budget: Budget::AtMost(8.0),
        aim: Budget::AtMost(4.0),
        lossless: true,
        of: None,
    },
    Line {
        experiment: "latency",
        figure: "cpu",
        what: "at 10,000/s",
        unit: "CPU-s per million",
        digits: 2,
        budget: Budget::Open,
        aim: Budget::Open,
        lossless: true,
        of: None,
    },
    Line {
        experiment: "firehoses",
        figure: "extra",
        what: "each further firehose at 50,000/s",
        unit: "CPU-s per million deliveries",
        digits: 2,
        budget: Budget::OfGo(1.0 / 8.0),
        aim: Budget::OfGo(1.0 / 12.0),
        lossless: true,
        of: None,
    },
    Line {
        experiment: "tails",
        figure: "cpu",
        what: "1,000 app tails, 10,000/s in all",
        unit: "CPU-s per million",
        digits: 1,
        budget: Budget::OfGo(1.0 / 8.0),
        aim: Budget::OfGo(1.0 / 15.0),
        lossless: true,
        of: None,
    },
    Line {
        experiment: "idle-tails",
        figure: "idle_percent",
        what: "1,000 idle app tails",
        unit: "% of a core",
        digits: 1,
        budget: Budget::AtMost(0.5),
        aim: Budget::AtMost(0.1),
        lossless: false,
        of: None,
    },
    Line {
        experiment: "idle-tails",
        figure: "growth_mib",
        what: "1,000 idle app tails, memory of both",
        unit: "MiB",
        digits: 1,
        budget: Budget::AtMost(32.0),
        aim: Budget::AtMost(16.0),
        lossless: false,
        of: None,
    },
    Line {
        experiment: "many-tails",
        figure: "streams",
        what: "app tails on one Traffic Controller, 10,000/s in all",
        unit: "tails of 10,000",
        digits: 0,
        budget: Budget::AtLeast(10_000.0),
        aim: Budget::AtLeast(20_000.0),
        lossless: true,
        of: None,
    },
    Line {
        experiment: "overload",
        figure: "peak_doppler",
        what: "memory of the Doppler: 500 agents offer 10 × what it carries, 4 readers of 9 stall, 4 are slow",
        unit: "MiB, peak",
        digits: 0,
        budget: Budget::AtMost(256.0),
        aim: Budget::Open,
        lossless: false,
        of: None,
    },
    Line {
        experiment: "overload",
        figure: "peak_controller",
        what: "memory of the Traffic Controller, the same",
        unit: "MiB, peak",
        digits: 0,
        budget: Budget::AtMost(256.0),
        aim: Budget::Open,
        lossless: false,
        of: None,
    },
    Line {
        experiment: "overload",
        figure: "lost_percent",
        what: "what the ninth reader loses then, which reads as fast as it can",
        unit: "% of what agents could send",
        digits: 1,
        budget: Budget::Open,
        aim: Budget::Open,
        lossless: false,
        of: None,
    },
];
