//! Plots as SVG: lines over an amount of work, and bars beside each other.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
/// Around the plot: left, right, above, below.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const ABOVE: f64 = 50.0;
const BELOW: f64 = 50.0;

/// One colour for each who, readable by the colour-blind (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#e69f00", "#777777"];

/// A line of a plot.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// Which colour.
    pub(crate) colour: usize,
    /// Expected, not measured.
    pub(crate) dashed: bool,
}

/// Some bars that belong together: a value for each series that has one.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) values: Vec<Option<f64>>,
}

/// Lines from zero; across, from the least amount of work to the most, by its square root, so
/// that the near end can be seen.
pub(crate) fn lines(title: &str, across: &str, up: &str, series: &[Series]) -> String {
    let all = || series.iter().flat_map(|series| &series.points);
    let most_x = all().map(|(x, _)| *x).fold(0.0, f64::max);
    let most_y = above(all().map(|(_, y)| *y).fold(0.0, f64::max));
    let x = |value: f64| LEFT + (value / most_x).max(0.0).sqrt() * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BELOW - value.max(0.0) / most_y * (HEIGHT - ABOVE - BELOW);

    let mut svg = frame(title, up, most_y);
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    text(&mut svg, middle, HEIGHT - 8.0, "middle", across);
    let measured = series.iter().filter(|series| !series.dashed);
    let ticks = measured.flat_map(|series| &series.points);
    let mut ticks: Vec<f64> = ticks.map(|(x, _)| *x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    let mut free = 0.0;
    for tick in ticks {
        if x(tick) >= free {
            text(&mut svg, x(tick), HEIGHT - 30.0, "middle", &thousands(tick));
            free = x(tick) + 48.0;
        }
    }
    for series in series {
        let colour = COLOURS[series.colour];
        let dash = if series.dashed {
            " stroke-dasharray=\"5 5\""
        } else {
            ""
        };
        let mut path = String::new();
        for (at, (px, py)) in series.points.iter().enumerate() {
            let step = if at == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{step}{:.1} {:.1}", x(*px), y(*py));
            if !series.dashed {
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                    x(*px),
                    y(*py)
                );
            }
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>"
        );
    }
    let named = series
        .iter()
        .map(|series| (series.name.as_str(), series.colour));
    legend(&mut svg, named);
    svg + "</svg>\n"
}

/// Groups of bars, each with its value on top.
pub(crate) fn bars(title: &str, up: &str, series: &[&str], groups: &[Group]) -> String {
    let values = groups
        .iter()
        .flat_map(|group| group.values.iter().flatten());
    let most = above(values.copied().fold(0.0, f64::max));
    let mut svg = frame(title, up, most);
    let (space, count) = (WIDTH - LEFT - RIGHT, groups.len().max(1) as f64);
    let wide = space / count / (series.len() as f64 + 1.0);
    for (n, group) in groups.iter().enumerate() {
        let left = LEFT + space / count * n as f64 + wide / 2.0;
        let middle = left + wide * series.len() as f64 / 2.0;
        text(&mut svg, middle, HEIGHT - 30.0, "middle", &group.name);
        for (of, value) in group.values.iter().enumerate() {
            let Some(value) = value else { continue };
            let tall = value / most * (HEIGHT - ABOVE - BELOW);
            let (x, y) = (left + wide * of as f64, HEIGHT - BELOW - tall);
            let colour = COLOURS[of];
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" \
                 fill=\"{colour}\"/>",
                wide * 0.9
            );
            let said = match *value >= 1e3 {
                true => format!("{:.0} k", value / 1e3),
                false => format!("{value:.1}"),
            };
            text(&mut svg, x + wide * 0.45, y - 4.0, "middle", &said);
        }
    }
    legend(&mut svg, series.iter().copied().zip(0..));
    svg + "</svg>\n"
}

/// Title, axis and grid. White below, whatever the reader's theme.
fn frame(title: &str, up: &str, most: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    text(&mut svg, 8.0, ABOVE - 14.0, "start", up);
    for step in 0..=4 {
        let part = f64::from(step) / 4.0;
        let y = HEIGHT - BELOW - part * (HEIGHT - ABOVE - BELOW);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {y:.1}H{}\" stroke=\"#ddd\"/>",
            WIDTH - RIGHT
        );
        let said = thousands(most * part);
        text(&mut svg, LEFT - 6.0, y + 4.0, "end", &said);
    }
    svg
}

fn legend<'a>(svg: &mut String, series: impl Iterator<Item = (&'a str, usize)>) {
    let mut x = LEFT;
    for (name, colour) in series {
        let colour = COLOURS[colour];
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"8\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"
        );
        text(svg, x + 15.0, 17.0, "start", name);
        x += 35.0 + 7.0 * name.chars().count() as f64;
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, said: &str) {
    let said = said.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#333\">{said}</text>"
    );
}

/// The next number that is a good end of an axis: 1, 2 or 5 and zeros.
fn above(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let ten = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    let step = steps.into_iter().find(|step| step * ten >= value);
    step.unwrap_or(10.0) * ten
}

/// A number as people write it: 12,000; 0.5.
pub(crate) fn thousands(value: f64) -> String {
    if value.abs() < 100.0 && value.fract() != 0.0 {
        return format!("{}", (value * 100.0).round() / 100.0);
    }
    let digits = format!("{:.0}", value.abs());
    let mut said = String::from(if value < 0.0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            said.push(',');
        }
        said.push(digit);
    }
    said
}
