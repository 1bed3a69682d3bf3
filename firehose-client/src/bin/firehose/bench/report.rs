//! What was measured, in words and as JSON, and what follows from it.

use serde_json::{Value, json};

use super::source::PAYLOAD;
use crate::words::{line, number};

/// How much of a core a reader should need: what is left is for TLS, for what it does with an
/// envelope, and for the seconds in which twice as many come.
const ROOM: f64 = 0.5;

/// Rates to tell readers for, where none is known.
const RATES: [u64; 3] = [10_000, 100_000, 1_000_000];

/// What one core reads of logs with so many tags, in envelopes a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    pub(super) tags: usize,
    pub(super) decoded: f64,
    pub(super) undecoded: f64,
}

/// How old envelopes were when they came, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lag {
    /// For half of them it was at most this, …
    pub(super) half: usize,
    /// … for 99 % this, …
    pub(super) most: usize,
    /// … and for all.
    pub(super) longest: usize,
}

/// A firehose that was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Firehose {
    pub(super) id: String,
    pub(super) seconds: f64,
    pub(super) envelopes: u64,
    /// In the second with the most of them.
    pub(super) busiest: u64,
    pub(super) undecodable: u64,
    /// As the servers said.
    pub(super) lost: u64,
    /// Times when the connection was gone, and nobody knows what was lost.
    pub(super) gaps: u64,
    pub(super) lag: Option<Lag>,
    /// Seconds that we ran on a processor.
    pub(super) used: f64,
}

impl Firehose {
    fn per_second(&self) -> f64 {
        self.envelopes as f64 / self.seconds.max(1e-6)
    }

    /// What one core reads of what came, in envelopes a second.
    fn capacity(&self) -> f64 {
        self.envelopes as f64 / self.used.max(1e-6)
    }
}

pub(super) struct Report {
    cores: usize,
    speeds: Vec<Speed>,
    firehose: Option<Firehose>,
    /// Envelopes a second to tell readers for.
    rates: Vec<u64>,
}

impl Report {
    /// `rate`: what somebody wants to read in a second.
    pub(super) fn new(speeds: Vec<Speed>, firehose: Option<Firehose>, rate: Option<u64>) -> Report {
        let busiest = firehose.as_ref().map(|it| it.busiest);
        let rates = match rate.or(busiest).filter(|rate| *rate > 0) {
            Some(rate) => vec![rate],
            None => RATES.to_vec(),
        };
        Report {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            speeds,
            firehose,
            rates,
        }
    }

    /// What one core of this machine reads and decodes: of the firehose itself, or else of logs
    /// with all tags, which are the slowest.
    fn capacity(&self) -> f64 {
        let firehose = self.firehose.as_ref().filter(|it| it.envelopes > 0);
        match firehose {
            Some(firehose) => firehose.capacity(),
            None => self.speeds.last().map_or(0.0, |speed| speed.decoded),
        }
    }

    /// How many readers that rate takes, each with a core for itself.
    fn readers(&self, rate: u64) -> u64 {
        (rate as f64 / (self.capacity() * ROOM).max(1.0))
            .ceil()
            .max(1.0) as u64
    }

    pub(super) fn words(&self) -> String {
        let mut text = String::new();
        let cores = match self.cores {
            1 => "1 core".to_owned(),
            cores => format!("{cores} cores"),
        };
        line(
            &mut text,
            format_args!(
                "This machine ({cores}), logs of {PAYLOAD} bytes over loopback without TLS, by one core:"
            ),
        );
        for speed in &self.speeds {
            line(
                &mut text,
                format_args!(
                    "  {:>2} tags    decoded {:>10}/s    as they come {:>11}/s",
                    speed.tags,
                    number(speed.decoded.round() as u64),
                    number(speed.undecoded.round() as u64)
                ),
            );
        }
        if let Some(firehose) = &self.firehose {
            text.push('\n');
            self.firehose(&mut text, firehose);
        }
        text.push('\n');
        let of = match &self.firehose {
            Some(firehose) if firehose.envelopes > 0 => "envelopes of this firehose",
            _ => "envelopes with all tags",
        };
        line(
            &mut text,
            format_args!(
                "One core of this machine reads and decodes {} {of} a second. Plan for half of that: a \
             nozzle has more to do than to decode, and some seconds bring twice as many.",
                number(self.capacity().round() as u64)
            ),
        );
        for rate in &self.rates {
            let with = match self.readers(*rate) {
                1 => "one reader does".to_owned(),
                n => format!("{n} readers with the same subscription id"),
            };
            line(&mut text, format_args!("  {:>11}/s: {with}", number(*rate)));
        }
        text
    }

    fn firehose(&self, text: &mut String, firehose: &Firehose) {
        line(
            text,
            format_args!(
                "The firehose as subscription {:?}, for {:.1} s:",
                firehose.id, firehose.seconds
            ),
        );
        if firehose.envelopes == 0 {
            line(text, format_args!("  nothing came"));
            return;
        }
        line(
            text,
            format_args!(
                "  envelopes  {}, {}/s, {} in the busiest second",
                number(firehose.envelopes),
                number(firehose.per_second().round() as u64),
                number(firehose.busiest)
            ),
        );
        if let Some(lag) = firehose.lag {
            line(
                text,
                format_args!(
                    "  age        {} ms for half of them, {} ms for 99 %, {} ms at most, if both clocks \
                 are right",
                    number(lag.half as u64),
                    number(lag.most as u64),
                    number(lag.longest as u64)
                ),
            );
        }
        let lost = match firehose.lost {
            0 => "none that the platform told".to_owned(),
            lost => format!(
                "{}, dropped by the platform as we or the way to us were too slow",
                number(lost)
            ),
        };
        line(text, format_args!("  lost       {lost}"));
        if firehose.gaps > 0 {
            line(
                text,
                format_args!(
                    "  gaps       {} times not connected; what came then nobody knows",
                    firehose.gaps
                ),
            );
        }
        if firehose.undecodable > 0 {
            line(
                text,
                format_args!(
                    "  skipped    {} that are no envelopes",
                    number(firehose.undecodable)
                ),
            );
        }
        line(
            text,
            format_args!(
                "  head room  {:.1} % of a core was used: {:.1} times as much could be decoded",
                100.0 * firehose.used / firehose.seconds.max(1e-6),
                firehose.capacity() / firehose.per_second().max(1e-6)
            ),
        );
    }

    pub(super) fn json(&self) -> String {
        let machine = self.speeds.iter().map(|speed| {
            json!({
                "tags": speed.tags,
                "decoded_per_second": whole(speed.decoded),
                "undecoded_per_second": whole(speed.undecoded),
            })
        });
        let readers = self
            .rates
            .iter()
            .map(|rate| json!({ "envelopes_per_second": rate, "readers": self.readers(*rate) }));
        let mut all = json!({
            "cores": self.cores,
            "payload_bytes": PAYLOAD,
            "machine": machine.collect::<Vec<_>>(),
            "decoded_per_core_and_second": whole(self.capacity()),
            "readers": readers.collect::<Vec<_>>(),
        });
        if let Some(firehose) = &self.firehose {
            all["firehose"] = json!({
                "id": firehose.id,
                "seconds": firehose.seconds,
                "envelopes": firehose.envelopes,
                "envelopes_per_second": whole(firehose.per_second()),
                "busiest_second": firehose.busiest,
                "undecodable": firehose.undecodable,
                "lost": firehose.lost,
                "gaps": firehose.gaps,
                "cpu_seconds": firehose.used,
                "age_ms": firehose.lag.map(|lag| json!({
                    "p50": lag.half,
                    "p99": lag.most,
                    "max": lag.longest,
                })),
            });
        }
        format!("{all}\n")
    }
}

fn whole(number: f64) -> Value {
    (number.round() as u64).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(decoded: f64, rate: Option<u64>, firehose: Option<Firehose>) -> Report {
        let speed = Speed {
            tags: 18,
            decoded,
            undecoded: 3e6,
        };
        Report::new(vec![speed], firehose, rate)
    }

    #[test]
    fn readers_are_planned_for_half_of_what_a_core_can() {
        let report = report(400_000.0, Some(1_000_000), None);
        assert_eq!(report.readers(1), 1);
        assert_eq!(report.readers(200_000), 1);
        assert_eq!(report.readers(200_001), 2);
        let words = report.words();
        assert!(
            words.contains("decodes 400,000 envelopes with all tags a second"),
            "{words}"
        );
        assert!(
            words.contains("1,000,000/s: 5 readers with the same subscription id\n"),
            "{words}"
        );
    }

    #[test]
    fn what_came_counts_more_than_what_was_made_up() {
        let firehose = Firehose {
            id: "me".into(),
            seconds: 10.0,
            envelopes: 100_000,
            busiest: 20_000,
            lost: 300,
            used: 2.0,
            ..Firehose::default()
        };
        let report = report(400_000.0, None, Some(firehose));
        let words = report.words();
        for said in [
            "100,000, 10,000/s, 20,000 in the busiest second",
            "lost       300, dropped by the platform",
            "20.0 % of a core was used: 5.0 times as much could be decoded",
            "decodes 50,000 envelopes of this firehose a second",
            "20,000/s: one reader does",
        ] {
            assert!(words.contains(said), "{said}: {words}");
        }
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["firehose"]["lost"], 300);
        assert_eq!(json["decoded_per_core_and_second"], 50_000);
        assert_eq!(json["readers"][0]["readers"], 1);
    }

    #[test]
    fn a_silent_firehose_says_nothing_about_this_machine() {
        let firehose = Firehose {
            seconds: 10.0,
            ..Firehose::default()
        };
        let report = report(400_000.0, None, Some(firehose));
        let words = report.words();
        assert!(words.contains("nothing came"), "{words}");
        assert!(words.contains("400,000 envelopes with all tags"), "{words}");
        assert!(words.contains("100,000/s: one reader does"), "{words}");
    }
}
