//! The ledger the demo ends with: what the processes' pages say, added up by somebody else.

use crate::service::Service;
use harness::admin::{self, Account, Subscription};
use harness::within;
use std::fmt;
use std::time::Duration;

/// One account of one process.
struct Line {
    process: &'static str,
    whose: String,
    account: Account,
}

/// All of them.
pub(crate) struct Ledger(Vec<Line>);

impl Ledger {
    /// Reads every service's page `/subscriptions`.
    pub(crate) async fn read(services: &[&Service]) -> Ledger {
        let mut lines = Vec::new();
        for service in services {
            let page = admin::subscriptions(service.admin).await;
            lines.extend(
                page.subscriptions
                    .into_iter()
                    .map(|open| Line::of(service.name, open)),
            );
        }
        Ledger(lines)
    }

    /// Whether every account does, and what the Dopplers sent is what the Traffic Controller
    /// received.
    pub(crate) fn adds_up(&self) -> bool {
        let whole = self.0.iter().all(|line| line.account.imbalance() == 0);
        whole && self.hop("firehose") && self.hop("app")
    }

    fn hop(&self, kind: &str) -> bool {
        let of = |line: &&Line| line.whose.starts_with(kind);
        let (controller, dopplers): (Vec<&Line>, Vec<&Line>) = self
            .0
            .iter()
            .filter(of)
            .partition(|line| line.process == "traffic-controller");
        let sent: u64 = dopplers.iter().map(|line| line.account.sent).sum();
        let received: u64 = controller.iter().map(|line| line.account.offered).sum();
        sent == received
    }

    fn queued(&self) -> u64 {
        self.0.iter().map(|line| line.account.queued).sum()
    }
}

impl Line {
    fn of(process: &'static str, open: Subscription) -> Line {
        let whose = match (open.firehose, open.app) {
            (Some(id), _) => format!("firehose {id}"),
            (None, Some(app)) => format!("app {:.8}…", app),
            (None, None) => "?".to_owned(),
        };
        Line {
            process,
            whose,
            account: open.account,
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  process             subscription       offered + notices =    sent + dropped +  queued"
        )?;
        for line in &self.0 {
            let account = &line.account;
            let mark = if line.account.imbalance() == 0 {
                "✓"
            } else {
                "✗"
            };
            writeln!(
                f,
                "  {:<19} {:<16} {:>9} + {:>7} = {:>7} + {:>7} + {:>7}  {mark}",
                line.process,
                line.whose,
                account.offered,
                account.notices,
                account.sent,
                account.lost(),
                account.queued
            )?;
        }
        match self.adds_up() {
            true => write!(
                f,
                "  It adds up, and what the Dopplers sent is what the Traffic Controller received."
            ),
            false => write!(f, "  IT DOES NOT ADD UP. Please tell us."),
        }
    }
}

/// Waits until every Doppler knows so many subscriptions.
pub(crate) async fn readers_are_in_place(services: &[&Service], wanted: usize) {
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
pub(crate) async fn settle(services: &[&Service], patience: Duration) {
    let end = tokio::time::Instant::now() + patience;
    let mut last = u64::MAX;
    while tokio::time::Instant::now() < end {
        let ledger = Ledger::read(services).await;
        let sent = ledger.0.iter().map(|line| line.account.sent).sum();
        if ledger.queued() == 0 && ledger.adds_up() && sent == last {
            return;
        }
        last = sent;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
