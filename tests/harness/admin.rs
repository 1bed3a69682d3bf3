//! What a process says about itself on its admin listener.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The page `/subscriptions`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Page {
    /// Everything that is open.
    pub subscriptions: Vec<Subscription>,
    /// A Traffic Controller's app links.
    #[serde(default)]
    pub app_links: Vec<Hop>,
    ended: Ended,
    /// What a Doppler sent on firehose links that broke and nobody confirmed.
    #[serde(default)]
    pub unconfirmed: u64,
    /// What came to a Doppler's doors.
    #[serde(default)]
    pub ingress: Ingress,
}

/// The sums of what is over: one at a Doppler, one for each endpoint at a Traffic Controller.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Ended {
    Both {
        firehose: Account,
        stream: Account,
        #[serde(default)]
        firehose_links: Hop,
    },
    One(Account),
}

impl Default for Ended {
    fn default() -> Ended {
        Ended::One(Account::default())
    }
}

/// One open subscription.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Subscription {
    /// The subscription id of a firehose.
    pub firehose: Option<String>,
    /// What a firehose asked for.
    pub filter: Option<String>,
    /// How many share a firehose group at a Doppler.
    pub members: Option<usize>,
    /// The app of an app stream.
    pub app: Option<String>,
    /// The client of a firehose at a Traffic Controller.
    pub client: Option<String>,
    /// Its sums.
    pub account: Account,
    /// The links of a firehose client at a Traffic Controller.
    pub links: Vec<Hop>,
}

/// What both ends of a link have counted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Hop {
    /// The Doppler.
    pub doppler: String,
    /// Whether the link is open.
    pub connected: bool,
    /// What the Doppler says it sent.
    pub sent: u64,
    /// What arrived.
    pub received: u64,
    /// What was sent and did not arrive, in lives of the link that are over.
    pub gap: u64,
    /// The most that may be missing.
    pub gap_at_most: u64,
    /// How many lives ended of which too little is known for that.
    pub gap_without_bound: u64,
    /// What the Doppler lost of the subscription while the link was there.
    pub missed_there: u64,
}

/// `offered + notices = sent + dropped + queued`.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
pub struct Account {
    /// What a reader was entitled to.
    pub offered: u64,
    /// Notices put in front of it.
    pub notices: u64,
    /// What its socket took.
    pub sent: u64,
    /// What was lost, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What waits.
    pub queued: u64,
}

/// `taken = accepted + dropped` and `conversions = published + unread`.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
pub struct Ingress {
    /// Envelopes as they came.
    pub taken: u64,
    /// Those that have a form in v1.
    pub accepted: u64,
    /// Those that were lost at the door, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What the accepted ones are in v1.
    pub conversions: u64,
    /// What the router was given.
    pub published: u64,
    /// What nobody would have read.
    pub unread: u64,
}

impl Ingress {
    /// Whether both equations hold.
    pub fn adds_up(&self) -> bool {
        self.taken == self.accepted + self.dropped.values().sum::<u64>()
            && self.conversions == self.published + self.unread
    }
}

impl Account {
    /// Everything lost.
    pub fn lost(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// By how much it does not add up.
    pub fn imbalance(&self) -> i128 {
        let entitled = i128::from(self.offered) + i128::from(self.notices);
        entitled - i128::from(self.sent) - i128::from(self.lost()) - i128::from(self.queued)
    }

    fn add(&mut self, other: &Account) {
        self.offered += other.offered;
        self.notices += other.notices;
        self.sent += other.sent;
        self.queued += other.queued;
        for (reason, count) in &other.dropped {
            *self.dropped.entry(reason.clone()).or_default() += count;
        }
    }
}

impl Page {
    /// The sums of what is over.
    pub fn ended(&self) -> Account {
        match &self.ended {
            Ended::One(account) => account.clone(),
            Ended::Both {
                firehose, stream, ..
            } => {
                let mut sum = firehose.clone();
                sum.add(stream);
                sum
            }
        }
    }

    /// The sums of everything, open or over.
    pub fn sum(&self) -> Account {
        let mut sum = self.ended();
        self.subscriptions
            .iter()
            .for_each(|subscription| sum.add(&subscription.account));
        sum
    }

    /// What got lost between Dopplers and this Traffic Controller.
    pub fn gap(&self) -> u64 {
        let open = self.subscriptions.iter().flat_map(|open| &open.links);
        let links = open.chain(&self.app_links).map(|hop| hop.gap);
        let over = match &self.ended {
            Ended::Both { firehose_links, .. } => firehose_links.gap,
            Ended::One(_) => 0,
        };
        links.sum::<u64>() + over
    }

    /// The least and the most that got lost between Dopplers and this Traffic Controller on links
    /// of firehoses that are open.
    pub fn gap_range(&self) -> (u64, u64) {
        let links = self.subscriptions.iter().flat_map(|open| &open.links);
        links.fold((0, 0), |(least, most), hop| {
            (least + hop.gap, most + hop.gap_at_most)
        })
    }

    /// What Dopplers lost of firehoses whose clients are gone, while these were there.
    pub fn missed_by_those_gone(&self) -> u64 {
        match &self.ended {
            Ended::Both { firehose_links, .. } => firehose_links.missed_there,
            Ended::One(_) => 0,
        }
    }

    /// The sums of the open firehoses with that id and filter ("everything", "logs",
    /// "metrics"), and how many there are.
    pub fn firehose(&self, id: &str, filter: &str) -> (Account, usize) {
        self.those(|open| {
            open.firehose.as_deref() == Some(id) && open.filter.as_deref() == Some(filter)
        })
    }

    /// The sums of the open streams of an app, and how many there are.
    pub fn app(&self, app: &str) -> (Account, usize) {
        self.those(|open| open.app.as_deref() == Some(app))
    }

    /// How many members the open firehose groups with that id have at a Doppler.
    pub fn members(&self, id: &str) -> usize {
        let these = self
            .subscriptions
            .iter()
            .filter(|open| open.firehose.as_deref() == Some(id));
        these.filter_map(|open| open.members).sum()
    }

    fn those(&self, which: impl Fn(&Subscription) -> bool) -> (Account, usize) {
        let mut sum = Account::default();
        let these = self.subscriptions.iter().filter(|open| which(open));
        let count = these.inspect(|open| sum.add(&open.account)).count();
        (sum, count)
    }

    /// The accounts that do not add up, in words.
    pub fn unbalanced(&self) -> Vec<String> {
        let open = self.subscriptions.iter();
        let open = open.filter(|open| open.account.imbalance() != 0);
        let ended = (self.ended().imbalance() != 0).then(|| format!("{:?}", self.ended));
        let ingress = (!self.ingress.adds_up()).then(|| format!("{:?}", self.ingress));
        let unbalanced = open.map(|open| format!("{open:?}")).chain(ended);
        unbalanced.chain(ingress).collect()
    }

    /// Panics unless every account adds up.
    #[track_caller]
    pub fn assert_balanced(&self, who: &str) {
        let unbalanced = self.unbalanced();
        assert!(unbalanced.is_empty(), "{who}: {unbalanced:?}");
    }
}

/// The page `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads Prometheus' text format.
    pub fn parse(text: &str) -> Metrics {
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let (name, labels) = match series.split_once('{') {
                    Some((name, labels)) => (name, labels.strip_suffix('}')?),
                    None => (series, ""),
                };
                let label = |pair: &str| {
                    let (key, value) = pair.split_once('=')?;
                    Some((key.to_owned(), value.trim_matches('"').to_owned()))
                };
                let labels = labels.split(',').filter_map(label).collect();
                Some(Sample {
                    name: name.to_owned(),
                    labels,
                    value: value.parse().ok()?,
                })
            });
        Metrics(samples.collect())
    }

    /// The sum of all series with that name whose labels include these; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &Sample, (key, value): &(&str, &str)| {
            sample.labels.iter().any(|(k, v)| k == key && v == value)
        };
        let named = self.0.iter().filter(|sample| sample.name == name);
        let these = named.filter(|sample| labels.iter().all(|label| has(sample, label)));
        these.map(|sample| sample.value).sum()
    }

    /// How often a peer did wrong, by reason: the sums of all counters with a reason that do
    /// not count envelopes.
    pub fn wrongs(&self) -> BTreeMap<&str, f64> {
        let mut sums = BTreeMap::new();
        for sample in self
            .0
            .iter()
            .filter(|sample| !sample.name.contains("_envelopes_"))
        {
            if let Some((_, reason)) = sample.labels.iter().find(|(key, _)| key == "reason") {
                *sums.entry(&reason[..]).or_insert(0.0) += sample.value;
            }
        }
        sums
    }

    /// The counters that are less than they were, in words.
    pub fn shrunk_since(&self, before: &Metrics) -> Vec<String> {
        let counters = self.0.iter().filter(|now| now.name.ends_with("_total"));
        let shrunk = counters.filter_map(|now| {
            let same = |then: &&Sample| then.name == now.name && then.labels == now.labels;
            let then = before.0.iter().find(same)?;
            (now.value < then.value).then(|| {
                let (name, labels) = (&now.name, &now.labels);
                format!("{name}{labels:?} went from {} to {}", then.value, now.value)
            })
        });
        shrunk.collect()
    }

    /// By how much this process's accounts did not add up when it last looked. Panics if it
    /// does not say.
    #[track_caller]
    pub fn imbalance(&self) -> f64 {
        let gauge = self
            .0
            .iter()
            .find(|sample| sample.name.ends_with("accounting_imbalance"));
        gauge
            .expect("every process says whether its accounts add up")
            .value
    }
}

/// The page `/subscriptions` at `admin`.
pub async fn subscriptions(admin: SocketAddr) -> Page {
    let (status, body) = get(admin, "/subscriptions").await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// The page `/metrics` at `admin`.
pub async fn metrics(admin: SocketAddr) -> Metrics {
    let (status, body) = get(admin, "/metrics").await.unwrap();
    assert_eq!(status, 200, "{body}");
    Metrics::parse(&body)
}

/// The status and body of any page.
pub async fn get(admin: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut tcp = TcpStream::connect(admin).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(std::io::ErrorKind::InvalidData)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((
        status.ok_or(std::io::ErrorKind::InvalidData)?,
        body.to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_the_labels_that_are_not_asked_for() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nb 5\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a", &[("x", "1")]), 7.0);
        assert_eq!(metrics.sum("a", &[("y", "3")]), 4.0);
        assert_eq!(metrics.sum("b", &[]), 5.0);
        assert_eq!(metrics.sum("c", &[]), 0.0);
    }

    #[test]
    fn a_counter_that_shrank_is_named_and_a_gauge_may_shrink() {
        let before = Metrics::parse("a_total{x=\"1\"} 3\nb 5\n");
        let after = Metrics::parse("a_total{x=\"1\"} 2\nb 4\n");
        assert_eq!(after.shrunk_since(&before).len(), 1);
        assert_eq!(before.shrunk_since(&after).len(), 0);
    }
}
