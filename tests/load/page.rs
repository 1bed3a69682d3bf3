//! The pages docs/performance.md and docs/scaling.md, made of what was measured.
//!
//! What stands between the two marks of a page was written by hand, and stays.

use crate::curve::{self, FarEnd, Growth};
use crate::experiment::{self, Experiment};
use crate::plot::{self, Group, Series, thousands};
use crate::results::{Measured, Results, Samples, When, Who, failed, spread};
use crate::table::{self, Budget};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const BY_HAND: &str = "<!-- by hand -->";
const END_BY_HAND: &str = "<!-- /by hand -->";

/// What is plotted of the table: a file, a figure, a title and a unit.
const PLOTS: [(&str, &str, &str, &str); 2] = [
    (
        "cpu.svg",
        "cpu",
        "CPU of Doppler and Traffic Controller",
        "CPU-s per million envelopes",
    ),
    (
        "rate.svg",
        "rate",
        "What comes through without loss",
        "envelopes/s",
    ),
];

/// Of these experiments.
const FLAT_OUT: &[(&str, &str)] = &[
    ("flat-min", "5 tags"),
    ("flat-full", "18 tags"),
    ("flat-mixed", "18 tags, mixed"),
];

/// Which pages. One with nothing measured beside it stays as it is.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The page with the table.
    #[arg(long, default_value = "docs/performance.md")]
    table: PathBuf,
    /// The page with the curves.
    #[arg(long, default_value = "docs/scaling.md")]
    curves: PathBuf,
}

/// Writes pages again from what was measured.
pub(crate) fn render(args: &Args) {
    if let Some(results) = kept(&args.table) {
        performance(&results, Some(&args.table));
    }
    if let Some(results) = kept(&args.curves) {
        scaling(&results, Some(&args.curves));
    }
}

fn kept(page: &Path) -> Option<Results> {
    let json = experiment::Args::json(page);
    json.exists().then(|| Results::load(&json))
}

/// Writes docs/performance.md, or to stdout.
pub(crate) fn performance(results: &Results, page: Option<&Path>) {
    let mut text = include_str!("performance_head.md").trim_end().to_owned();
    text.push('\n');
    text.push_str(&measured(results));
    text.push_str(
        "\n| what | ours | Go, 50,000 | Go, default | against Go, 50,000 | roofline | budget | \
         aim | verdict |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for line in table::LINES {
        text.push_str(&row(results, line));
    }
    let plots = PLOTS.map(|(name, figure, title, unit)| {
        text.push_str(&picture(page, name, title));
        (name, bars(results, figure, title, unit, FLAT_OUT))
    });
    write(page, text, &plots);
}

/// Writes docs/scaling.md and its plots, or to stdout.
pub(crate) fn scaling(results: &Results, page: Option<&Path>) {
    let mut text = include_str!("scaling_head.md").trim_end().to_owned();
    text.push('\n');
    text.push_str(&measured(results));
    text.push_str(
        "\n| what | from | to | measured there | expected there | measured ÷ expected | verdict |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let lines = || {
        let lines = curve::LINES.iter();
        lines.filter_map(|line| Some((line, results.0.get(line.experiment)?)))
    };
    for (line, measured) in lines() {
        text.push_str(&curve_row(line, measured));
    }
    let mut plots = Vec::new();
    for (line, measured) in lines() {
        let name = format!("{}-{}.svg", line.experiment, line.figure);
        let command = command(&curve::experiments(), line.experiment);
        let _ = write!(text, "\n## {}\n\n`{command}`\n", line.title);
        text.push_str(&picture(page, &name, line.title));
        text.push_str(&failures(measured));
        plots.push((name, curve_plot(line, measured)));
    }
    write(page, text, &plots);
}

/// Where, when and on what.
fn measured(results: &Results) -> String {
    let mut all: Vec<&When> = Vec::new();
    for measured in results.0.values() {
        if !all.contains(&&measured.when) {
            all.push(&measured.when);
        }
    }
    let mut text = String::new();
    for when in &all {
        let names = results.0.iter().filter(|(_, it)| it.when == **when);
        let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
        let what = match all.len() {
            1 => "Everything".to_owned(),
            _ => format!("`{}`", names.join("`, `")),
        };
        let go = when.go.as_ref().map_or(String::new(), |commit| {
            format!(" Go: loggregator-release at `{commit}`.")
        });
        let _ = writeln!(
            text,
            "\n{what}: measured on {} at commit `{}`, on {}, by `{}`.{go}",
            when.date, when.commit, when.machine, when.command
        );
    }
    text
}

fn row(results: &Results, line: &table::Line) -> String {
    let Some(samples) = results.samples(line.experiment) else {
        return format!("| {} | not measured | | | | | | | |\n", line.what);
    };
    let median = |who| spread(samples, who, line.figure).map(|spread| spread.median);
    let tuned = median(Who::GoTuned);
    // A percentage of what each carries itself compares nobody; what comes per second does.
    let whole = |who| match line.of {
        Some(of) => spread(samples, who, of).map_or(f64::NAN, |of| of.median / 100.0),
        None => 1.0,
    };
    let compared = |who| median(who).map(|value| value * whole(who));
    let better = match (compared(Who::Ours), compared(Who::GoTuned), line.budget) {
        (Some(ours), Some(go), Budget::AtLeast(_)) if go > 0.0 => times(ours / go),
        (Some(ours), Some(go), _) if ours > 0.0 => times(go / ours),
        _ => "–".to_owned(),
    };
    let roofline = match (median(Who::Ours), median(Who::Roofline)) {
        (Some(ours), Some(least)) => {
            let (said, ratio) = (number(least, line.digits), ours / least);
            format!("{said}; ours {ratio:.2} ×")
        }
        _ => "–".to_owned(),
    };
    let limit = |limit| match (limit, tuned) {
        (Budget::AtMost(most), _) => format!("≤ {}", thousands(most)),
        (Budget::AtLeast(least), _) => format!("≥ {}", thousands(least)),
        (Budget::OfGo(part), None) => format!("≤ 1/{:.0} of Go", 1.0 / part),
        (Budget::OfGo(part), Some(go)) => {
            let most = number(go * part, line.digits);
            format!("≤ 1/{:.0} of Go: {most}", 1.0 / part)
        }
        (Budget::Open, _) => String::new(),
    };
    let (budget, aim) = (limit(line.budget), limit(line.aim));
    format!(
        "| {}, {}: `{}` | {} | {} | {} | {better} | {roofline} | {budget} | {aim} | {} |\n",
        line.what,
        line.unit,
        command(&table::experiments(), line.experiment),
        cell(samples, line, Who::Ours),
        cell(samples, line, Who::GoTuned),
        cell(samples, line, Who::GoDefault),
        verdict(samples, line),
    )
}

/// What was run, as one types it.
fn command(experiments: &[Experiment], name: &str) -> String {
    let mut named = experiments.iter().filter(|it| it.name == name);
    let arguments = named.next().map_or("", |it| it.command);
    format!("cargo load {arguments}").trim_end().to_owned()
}

fn cell(samples: &Samples, line: &table::Line, who: Who) -> String {
    let failed = failed(samples, who);
    let Some(all) = spread(samples, who, line.figure) else {
        return match failed {
            Some((_, why)) => format!("failed: {why}"),
            None => "–".to_owned(),
        };
    };
    let said = |value| number(value, line.digits);
    let mut text = format!("**{}**", said(all.median));
    let part = |figure| spread(samples, who, figure).map(|spread| said(spread.median));
    if let ("cpu", Some(doppler), Some(controller)) =
        (line.figure, part("cpu_doppler"), part("cpu_controller"))
    {
        let _ = write!(text, " = {doppler} + {controller}");
    }
    let _ = write!(text, " ({}–{})", said(all.least), said(all.most));
    if let Some(of) = line.of.and_then(part) {
        let _ = write!(text, " of {of}/s");
    }
    let lost = spread(samples, who, "lost_percent").map_or(0.0, |spread| spread.median);
    if (line.lossless || line.of.is_some()) && lost > 0.0 {
        let _ = write!(text, ", lost {lost:.1} %");
    }
    if let Some((runs, why)) = failed {
        let _ = write!(text, "; {runs} failed: {why}");
    }
    text
}

fn verdict(samples: &Samples, line: &table::Line) -> String {
    let lost = spread(samples, Who::Ours, "lost_percent").map_or(0.0, |spread| spread.most);
    let failed = failed(samples, Who::Ours).is_some();
    match meets(samples, line, line.budget) {
        _ if matches!(line.budget, Budget::Open) => "",
        None => "Go not measured",
        Some(_) if failed => "**OPEN**: runs failed",
        Some(_) if line.lossless && lost > 0.0 => "**OPEN**: lossy",
        Some(false) => "**OPEN**",
        Some(true) => match meets(samples, line, line.aim) {
            Some(true) => "met, the aim too",
            _ => "met",
        },
    }
    .to_owned()
}

/// Whether our median is within a limit; nobody knows where that is a part of Go's and Go was not
/// measured, or there is none.
fn meets(samples: &Samples, line: &table::Line, limit: Budget) -> Option<bool> {
    let median = |who| spread(samples, who, line.figure).map(|spread| spread.median);
    let most = match limit {
        Budget::Open => return None,
        Budget::AtLeast(least) => return Some(median(Who::Ours).is_some_and(|it| it >= least)),
        Budget::AtMost(most) => most,
        Budget::OfGo(part) => median(Who::GoTuned)? * part,
    };
    Some(median(Who::Ours).is_some_and(|it| it <= most))
}

/// One figure of these experiments, side by side.
fn bars(
    results: &Results,
    figure: &str,
    title: &str,
    unit: &str,
    groups: &[(&str, &str)],
) -> String {
    let who = [Who::Ours, Who::GoTuned, Who::GoDefault, Who::Roofline];
    let groups = groups.iter().map(|(experiment, name)| Group {
        name: (*name).to_owned(),
        values: who
            .iter()
            .map(|who| {
                let samples = results.samples(experiment)?;
                spread(samples, *who, figure).map(|spread| spread.median)
            })
            .collect(),
    });
    let groups: Vec<Group> = groups.collect();
    let names = ["ours", "Go, 50,000", "Go, default", "roofline"];
    plot::bars(title, unit, &names, &groups)
}

fn curve_row(line: &curve::Line, measured: &Measured) -> String {
    let first = measured.points.keys().next().copied().unwrap_or_default();
    let last = measured
        .points
        .keys()
        .next_back()
        .copied()
        .unwrap_or_default();
    let range = format!("{} | {}", thousands(first as f64), thousands(last as f64));
    let Some(end) = line.far_end(measured) else {
        return format!(
            "| {}: {} | {range} | failed | | | **OPEN** |\n",
            line.title, line.unit
        );
    };
    let ratio = end.measured / end.expected.max(f64::MIN_POSITIVE);
    let verdict = if end.measured <= curve::MOST * end.expected {
        "met"
    } else {
        "**OPEN**"
    };
    let how = match line.growth {
        Growth::Flat => "the same",
        Growth::Linear => "the line",
    };
    format!(
        "| {}: {} | {range} | {} | {} ({how}) | {ratio:.2} | {verdict} |\n",
        line.title,
        line.unit,
        number(end.measured, 2),
        number(end.expected, 2),
    )
}

fn curve_plot(line: &curve::Line, measured: &Measured) -> String {
    let series = |who, name: &str, colour| Series {
        name: name.to_owned(),
        points: line
            .medians(measured, who)
            .into_iter()
            .map(|(work, value)| (work as f64, value))
            .collect(),
        colour,
        dashed: false,
    };
    let mut all = vec![series(Who::Ours, "ours", 0)];
    let go = series(Who::GoTuned, "Go, 50,000", 1);
    if !go.points.is_empty() {
        all.push(go);
    }
    if let Some(FarEnd { work, line, .. }) = line.far_end(measured) {
        // Straight over the work, so bent where it is plotted over its root.
        let at = |part: u64| work as f64 * part as f64 / 20.0;
        all.push(Series {
            name: "expected of its near half".to_owned(),
            points: (0..=20)
                .map(|part| (at(part), line.0 + line.1 * at(part)))
                .collect(),
            colour: 3,
            dashed: true,
        });
    }
    plot::lines(line.title, line.work, line.unit, &all)
}

/// Which points could not be measured.
fn failures(measured: &Measured) -> String {
    let mut text = String::new();
    for (work, samples) in &measured.points {
        for (who, name) in [(Who::Ours, "ours"), (Who::GoTuned, "Go")] {
            if let Some((runs, why)) = failed(samples, who) {
                let work = thousands(*work as f64);
                let _ = writeln!(text, "\n{name} at {work}: {runs} failed: {why}.");
            }
        }
    }
    text
}

/// The link to a plot in the directory that is called as the page.
fn picture(page: Option<&Path>, name: &str, title: &str) -> String {
    let directory = page.and_then(Path::file_stem).unwrap_or_default();
    format!("\n![{title}]({}/{name})\n", directory.to_string_lossy())
}

/// Writes a page and its plots; what was written by hand stays.
fn write(page: Option<&Path>, mut text: String, plots: &[(impl AsRef<Path>, String)]) {
    let Some(page) = page else {
        return println!("{text}");
    };
    let before = std::fs::read_to_string(page).unwrap_or_default();
    let by_hand = before
        .split_once(BY_HAND)
        .and_then(|(_, rest)| rest.split_once(END_BY_HAND));
    let by_hand = by_hand.map_or("\n", |(by_hand, _)| by_hand);
    let _ = write!(text, "\n{BY_HAND}{by_hand}{END_BY_HAND}\n");
    std::fs::write(page, text).expect("the page can be written");
    let directory = page.with_extension("");
    std::fs::create_dir_all(&directory).expect("the directory for plots can be made");
    for (name, plot) in plots {
        std::fs::write(directory.join(name), plot).expect("a plot can be written");
    }
}

fn number(value: f64, digits: usize) -> String {
    if value.abs() >= 1_000.0 {
        return thousands(value.round());
    }
    format!("{value:.digits$}")
}

fn times(ratio: f64) -> String {
    format!("{} ×", number(ratio, 1))
}
