//! The metrics of a gauge, and what they are on v1: one container metric, or a value
//! metric each.

use crate::{
    Malformed, Refused,
    convert::{signed, unsigned},
    wire::{Reader, WRONG_TYPE, Wire, field_len},
};

/// The most metrics of one gauge (entries, default 1,024). Each becomes a v1 envelope
/// with all the tags. Real gauges have a dozen.
pub const MAX_METRICS: usize = 1024;

/// The most that a gauge of several metrics may become in all (bytes, 1 MiB): its tags
/// are repeated for each metric, so a frame of one kind of envelope could otherwise
/// become three orders of magnitude more of another.
pub const MAX_EXPANSION_BYTES: usize = 1024 * 1024;

const TOO_MANY: Refused = Refused::TooLarge("a gauge of more than 1,024 metrics");
const TOO_BIG: Refused = Refused::TooLarge("a gauge that becomes more than 1 MiB");

/// The metrics of a gauge: once settled, in the order of their names, each name once.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauge<'a> {
    metrics: Vec<Metric<'a>>,
    too_many: bool,
    container: Option<Container>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Metric<'a> {
    pub(super) name: &'a [u8],
    pub(super) unit: &'a [u8],
    pub(super) value: f64,
}

/// A gauge that is a container metric.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container {
    pub(super) cpu: f64,
    pub(super) memory: u64,
    pub(super) disk: u64,
    pub(super) memory_quota: u64,
    pub(super) disk_quota: u64,
    pub(super) instance_index: Option<i32>,
}

impl<'a> Gauge<'a> {
    /// Reads the metrics of one more gauge message.
    pub(super) fn read(mut self, mut reader: Reader<'a>) -> Result<Gauge<'a>, Malformed> {
        self.metrics.reserve(8); // A container metric has five to a dozen.
        while let Some(field) = reader.field()? {
            match field {
                (1, Wire::Bytes) => {
                    let metric = Metric::read(reader.message()?)?;
                    match self.metrics.len() < MAX_METRICS {
                        true => self.metrics.push(metric),
                        false => self.too_many = true,
                    }
                }
                (1, _) => return Err(WRONG_TYPE),
                (number, wire) => reader.skip(number, wire, 1)?,
            }
        }
        Ok(self)
    }

    /// Of several metrics of one name leaves the last, and decides what this is on v1.
    pub(super) fn settle(&mut self) {
        self.metrics.sort_by_key(|metric| metric.name); // stable
        self.metrics.dedup_by(|later, kept| {
            let same = later.name == kept.name;
            if same {
                *kept = *later;
            }
            same
        });
        self.container = self.as_container();
    }

    pub(super) fn metrics(&self) -> Result<&[Metric<'a>], Refused> {
        match self.too_many {
            true => Err(TOO_MANY),
            false => Ok(&self.metrics),
        }
    }

    /// The container metric this is, if it is one.
    pub(super) fn container(&self) -> Option<&Container> {
        self.container.as_ref()
    }

    /// It is if all that makes one is there and says something.
    fn as_container(&self) -> Option<Container> {
        let value = |name: &str| {
            self.get(name)
                .filter(|m| m.says_something())
                .map(|m| m.value)
        };
        Some(Container {
            cpu: value("cpu")?,
            memory: unsigned(value("memory")?),
            disk: unsigned(value("disk")?),
            memory_quota: unsigned(value("memory_quota")?),
            disk_quota: unsigned(value("disk_quota")?),
            instance_index: self.get("instance_index").map(|m| signed(m.value)),
        })
    }

    fn get(&self, name: &str) -> Option<&Metric<'a>> {
        let found = self
            .metrics
            .binary_search_by_key(&name.as_bytes(), |metric| metric.name);
        self.metrics.get(found.ok()?)
    }
}

impl<'a> Metric<'a> {
    fn read(mut entry: Reader<'a>) -> Result<Metric<'a>, Malformed> {
        let mut metric = Metric::default();
        while let Some(field) = entry.field()? {
            match field {
                (1, Wire::Bytes) => metric.name = entry.text()?,
                (2, Wire::Bytes) => metric.read_value(entry.message()?)?,
                (1 | 2, _) => return Err(WRONG_TYPE),
                (number, wire) => entry.skip(number, wire, 2)?,
            }
        }
        Ok(metric)
    }

    fn read_value(&mut self, mut reader: Reader<'a>) -> Result<(), Malformed> {
        while let Some(field) = reader.field()? {
            match field {
                (1, Wire::Bytes) => self.unit = reader.text()?,
                (2, Wire::Fixed64) => self.value = reader.double()?,
                (1 | 2, _) => return Err(WRONG_TYPE),
                (number, wire) => reader.skip(number, wire, 3)?,
            }
        }
        Ok(())
    }

    fn says_something(&self) -> bool {
        !self.unit.is_empty() || self.value != 0.0
    }

    /// The length of the ValueMetric it becomes.
    pub(super) fn body_len(&self) -> usize {
        field_len(1, self.name.len()) + 9 + field_len(1, self.unit.len())
    }
}

/// Refuses metrics whose envelopes, each `base` bytes and a body, are too much together.
pub(super) fn check_expansion(metrics: &[Metric<'_>], base: usize) -> Result<(), Refused> {
    let envelope = |metric: &Metric<'_>| base + field_len(1, metric.body_len());
    match metrics.iter().map(envelope).sum::<usize>() <= MAX_EXPANSION_BYTES {
        true => Ok(()),
        false => Err(TOO_BIG),
    }
}
