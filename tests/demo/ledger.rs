//! The ledger the demo ends with: what the processes' pages say, added up by somebody else.

use crate::service::Service;
use harness::{admin, within};
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// One account of one process.
struct Line {
    process: &'static str,
    whose: String,
    offered: u64,
    notices: u64,
    sent: u64,
    dropped: u64,
    queued: u64,
}

/// All of them.
pub struct Ledger(Vec<Line>);

impl Ledger {
    /// Reads every service's page `/subscriptions`.
    pub async fn read(services: &[&Service]) -> Ledger {
        let mut lines = Vec::new();
        for service in services {
            let page = admin::get_json(service.admin, "/subscriptions").await;
            let subscriptions = page["subscriptions"].as_array().cloned().unwrap_or_default();
            lines.extend(subscriptions.iter().map(|subscription| Line::of(service.name, subscription)));
        }
        Ledger(lines)
    }

    /// Whether every account does, and what the Dopplers sent is what the Traffic Controller
    /// received.
    pub fn adds_up(&self) -> bool {
        let whole = self.0.iter().all(|line| line.imbalance() == 0);
        whole && self.hop("firehose") && self.hop("app")
    }

    fn hop(&self, kind: &str) -> bool {
        let of = |line: &&Line| line.whose.starts_with(kind);
        let (controller, dopplers): (Vec<&Line>, Vec<&Line>) =
            self.0.iter().filter(of).partition(|line| line.process == "traffic-controller");
        let sent: u64 = dopplers.iter().map(|line| line.sent).sum();
        let received: u64 = controller.iter().map(|line| line.offered).sum();
        sent == received
    }

    fn queued(&self) -> u64 {
        self.0.iter().map(|line| line.queued).sum()
    }
}

impl Line {
    fn of(process: &'static str, subscription: &Value) -> Line {
        let account = &subscription["account"];
        let number = |name: &str| account[name].as_u64().unwrap_or(0);
        let dropped = account["dropped"].as_object().into_iter().flatten();
        Line {
            process,
            whose: match (&subscription["firehose"], &subscription["app"]) {
                (Value::String(id), _) => format!("firehose {id}"),
                (_, Value::String(app)) => format!("app {}…", &app[..app.len().min(8)]),
                _ => "?".to_owned(),
            },
            offered: number("offered"),
            notices: number("notices"),
            sent: number("sent"),
            dropped: dropped.filter_map(|(_, count)| count.as_u64()).sum(),
            queued: number("queued"),
        }
    }

    fn imbalance(&self) -> u64 {
        (self.offered + self.notices).abs_diff(self.sent + self.dropped + self.queued)
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  process             subscription       offered + notices =    sent + dropped +  queued")?;
        for line in &self.0 {
            let mark = if line.imbalance() == 0 { "✓" } else { "✗" };
            writeln!(
                f,
                "  {:<19} {:<16} {:>9} + {:>7} = {:>7} + {:>7} + {:>7}  {mark}",
                line.process, line.whose, line.offered, line.notices, line.sent, line.dropped, line.queued
            )?;
        }
        match self.adds_up() {
            true => write!(f, "  It adds up, and what the Dopplers sent is what the Traffic Controller received."),
            false => write!(f, "  IT DOES NOT ADD UP. Please tell us."),
        }
    }
}

/// Waits until every Doppler knows so many subscriptions.
pub async fn readers_are_in_place(services: &[&Service], wanted: usize) {
    let there = within(Duration::from_secs(10), || async {
        let mut counts = Vec::new();
        for service in services {
            counts.push(Ledger::read(&[service]).await.0.len());
        }
        counts.iter().all(|count| *count == wanted)
    });
    if !there.await {
        eprintln!("the readers are slow to come; going on without them");
    }
}

/// Waits until nothing is under way.
pub async fn settle(services: &[&Service], patience: Duration) {
    let end = tokio::time::Instant::now() + patience;
    let mut last = u64::MAX;
    while tokio::time::Instant::now() < end {
        let ledger = Ledger::read(services).await;
        let sent = ledger.0.iter().map(|line| line.sent).sum();
        if ledger.queued() == 0 && ledger.adds_up() && sent == last {
            return;
        }
        last = sent;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
