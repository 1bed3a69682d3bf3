//! What was found, as lines for people and as JSON for machines.

use std::fmt::Write;

use serde_json::{Value, json};

use super::finding::Finding;

/// Where a remedy begins, and where its lines end, in columns.
const INDENT: usize = 19;
const WIDTH: usize = 100;

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Dns,
    Tcp,
    Tls,
    Alpn,
    Http,
    Upgrade,
    Forwarded,
    Pings,
    Idle,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    /// It works, and may not for long, or not for everybody.
    Warning,
    Fault,
    /// It could not be looked at.
    Unknown,
}

/// What came of one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) step: Step,
    pub(super) verdict: Verdict,
    /// What was seen.
    pub(super) said: String,
    /// With a warning or a fault.
    pub(super) finding: Option<Finding>,
}

pub(super) struct Report {
    endpoint: String,
    checks: Vec<Check>,
}

impl Step {
    fn words(self) -> &'static str {
        match self {
            Step::Dns => "DNS",
            Step::Tcp => "TCP",
            Step::Tls => "TLS",
            Step::Alpn => "ALPN",
            Step::Http => "HTTP",
            Step::Upgrade => "Upgrade",
            Step::Forwarded => "forwarded",
            Step::Pings => "pings",
            Step::Idle => "idle",
        }
    }
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Fault => "fault",
            Verdict::Unknown => "unknown",
        }
    }
}

impl Check {
    pub(super) fn ok(step: Step, said: impl Into<String>) -> Check {
        Check::new(step, Verdict::Ok, said, None)
    }

    pub(super) fn unknown(step: Step, said: impl Into<String>) -> Check {
        Check::new(step, Verdict::Unknown, said, None)
    }

    pub(super) fn warning(step: Step, finding: Finding, said: impl Into<String>) -> Check {
        Check::new(step, Verdict::Warning, said, Some(finding))
    }

    pub(super) fn fault(step: Step, finding: Finding, said: impl Into<String>) -> Check {
        Check::new(step, Verdict::Fault, said, Some(finding))
    }

    fn new(
        step: Step,
        verdict: Verdict,
        said: impl Into<String>,
        finding: Option<Finding>,
    ) -> Check {
        Check {
            step,
            verdict,
            said: said.into(),
            finding,
        }
    }
}

impl Report {
    pub(super) fn new(endpoint: &str) -> Report {
        Report {
            endpoint: endpoint.to_owned(),
            checks: Vec::new(),
        }
    }

    pub(super) fn head(&self) -> String {
        format!("{}\n", self.endpoint)
    }

    /// Keeps it, and gives it in words; a remedy is said once.
    pub(super) fn add(&mut self, check: Check) -> String {
        let (verdict, step) = (check.verdict.words(), check.step.words());
        let mut text = format!("{verdict:<8} {step:<9} {}\n", check.said);
        if let Some(finding) = check.finding {
            let told = |it: &Check| it.finding == Some(finding);
            match self.checks.iter().any(told) {
                true => wrap(&mut text, "To do: as above."),
                false => wrap(&mut text, &format!("To do: {}", finding.remedy())),
            }
        }
        self.checks.push(check);
        text
    }

    /// Warnings and faults.
    pub(super) fn found(&self) -> usize {
        self.count(Verdict::Fault) + self.count(Verdict::Warning)
    }

    fn count(&self, verdict: Verdict) -> usize {
        let all = self.checks.iter();
        all.filter(|it| it.verdict == verdict).count()
    }

    /// The last line.
    pub(super) fn sum(&self) -> String {
        let some = |n: usize, one: &str| match n {
            1 => format!("1 {one}"),
            n => format!("{n} {one}s"),
        };
        let (faults, warnings) = (self.count(Verdict::Fault), self.count(Verdict::Warning));
        let mut sum = match (faults, warnings) {
            (0, 0) => "Nothing wrong from here".to_owned(),
            (faults, 0) => some(faults, "fault"),
            (0, warnings) => some(warnings, "warning"),
            (faults, warnings) => {
                format!("{}, {}", some(faults, "fault"), some(warnings, "warning"))
            }
        };
        match self.count(Verdict::Unknown) {
            0 => {}
            1 => sum.push_str("; one thing was not looked at"),
            n => _ = write!(sum, "; {n} things were not looked at"),
        }
        format!("{sum}.\n")
    }

    pub(super) fn json(&self) -> String {
        let check = |check: &Check| -> Value {
            let mut object = json!({
                "step": check.step.words().to_ascii_lowercase(),
                "verdict": check.verdict.words(),
                "said": check.said,
            });
            if let Some(finding) = check.finding {
                object["finding"] = finding.name().into();
                object["remedy"] = finding.remedy().into();
            }
            object
        };
        let all = json!({
            "endpoint": self.endpoint,
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
            "faults": self.count(Verdict::Fault),
            "warnings": self.count(Verdict::Warning),
            "unknown": self.count(Verdict::Unknown),
        });
        format!("{all}\n")
    }
}

/// Appends `paragraph` in lines that fit.
fn wrap(text: &mut String, paragraph: &str) {
    let mut column = WIDTH;
    for word in paragraph.split(' ') {
        let length = word.chars().count();
        if column + 1 + length > WIDTH {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            _ = write!(text, "{:INDENT$}{word}", "");
            column = INDENT + length;
        } else {
            _ = write!(text, " {word}");
            column += 1 + length;
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_with_its_remedy_once_in_lines_that_fit() {
        let mut report = Report::new("wss://host:443");
        assert_eq!(report.head(), "wss://host:443\n");
        let fine = report.add(Check::ok(Step::Dns, "host is 192.0.2.1"));
        assert_eq!(fine, "ok       DNS       host is 192.0.2.1\n");
        let fault = || Check::fault(Step::Alpn, Finding::Http2Only, "h2 and nothing else");
        let told = report.add(fault());
        let first = "fault    ALPN      h2 and nothing else\n                   To do: Clients of ";
        assert!(told.starts_with(first), "{told}");
        assert!(
            told.lines().all(|line| line.chars().count() <= WIDTH),
            "{told}"
        );
        assert!(
            told.lines()
                .skip(1)
                .all(|line| line.starts_with(&" ".repeat(INDENT)))
        );
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words(&told).ends_with(&words(Finding::Http2Only.remedy())),
            "{told}"
        );
        let again = report.add(fault());
        assert!(
            again.ends_with("                   To do: as above.\n"),
            "{again}"
        );
        assert_eq!(report.found(), 2);
    }

    #[test]
    fn the_sum_says_what_was_found_and_what_was_not_looked_at() {
        let mut report = Report::new("x");
        assert_eq!(report.sum(), "Nothing wrong from here.\n");
        report.add(Check::unknown(Step::Pings, "no token"));
        assert_eq!(
            report.sum(),
            "Nothing wrong from here; one thing was not looked at.\n"
        );
        report.add(Check::warning(
            Step::Tls,
            Finding::CertificateSoon,
            "3 days",
        ));
        report.add(Check::fault(Step::Tcp, Finding::PortClosed, "closed"));
        report.add(Check::unknown(Step::Idle, "no token"));
        assert_eq!(
            report.sum(),
            "1 fault, 1 warning; 2 things were not looked at.\n"
        );
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["faults"], 1);
        assert_eq!(json["checks"][1]["finding"], "certificate_expires_soon");
        assert_eq!(json["checks"][0].get("remedy"), None);
    }
}
