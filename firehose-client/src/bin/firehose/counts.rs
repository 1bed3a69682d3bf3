//! How many envelopes of which type: `firehose subscribe --output counts`.

use std::collections::BTreeMap;
use std::fmt;

/// Envelopes by type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub(crate) fn add(&mut self, kind: &'static str) {
        *self.0.entry(kind).or_default() += 1;
    }

    /// Adds all of `other` and leaves it empty.
    pub(crate) fn absorb(&mut self, other: &mut Counts) {
        for (kind, count) in std::mem::take(&mut other.0) {
            *self.0.entry(kind).or_default() += count;
        }
    }
}

/// `total=12 CounterEvent=2 LogMessage=10`
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "total={}", self.0.values().sum::<u64>())?;
        self.0
            .iter()
            .try_for_each(|(kind, count)| write!(f, " {kind}={count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_counted_and_then_part_of_the_whole() {
        let (mut whole, mut second) = (Counts::default(), Counts::default());
        for _ in 0..2 {
            second.add("LogMessage");
            second.add("CounterEvent");
            second.add("LogMessage");
            assert_eq!(second.to_string(), "total=3 CounterEvent=1 LogMessage=2");
            whole.absorb(&mut second);
            assert_eq!(second.to_string(), "total=0");
        }
        assert_eq!(whole.to_string(), "total=6 CounterEvent=2 LogMessage=4");
    }
}
