//! How many lines of one kind may be logged: so many a second, and then how many were not said.
//!
//! In come lines that somebody would like to say and the time, as any clock that does not step
//! has it; out comes whether there is room. What an outage of a network brings is thousands of
//! lines that say the same.

use std::time::Duration;

/// A second, as it is counted from its first line on.
const SECOND: Duration = Duration::from_secs(1);

/// What may be said of one kind.
#[derive(Debug)]
pub struct Ration {
    lines: u32,
    /// When the second began, and how many lines there were since.
    second: Option<Duration>,
    said: u32,
    unsaid: u64,
}

impl Ration {
    /// So many lines a second.
    pub fn new(lines: u32) -> Ration {
        Ration {
            lines,
            second: None,
            said: 0,
            unsaid: 0,
        }
    }

    /// Whether there is room for one more line, and how many had none since that was last said.
    pub fn line(&mut self, now: Duration) -> Option<u64> {
        if !self.has_room(now) {
            self.unsaid += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.unsaid))
    }

    /// How many had no line, if there are such and room for a line that says so. For who does not
    /// wait for the next line.
    pub fn unsaid(&mut self, now: Duration) -> Option<u64> {
        match self.unsaid > 0 && self.has_room(now) {
            true => self.line(now),
            false => None,
        }
    }

    fn has_room(&mut self, now: Duration) -> bool {
        if self.second.is_none_or(|second| now >= second + SECOND) {
            (self.second, self.said) = (Some(now), 0);
        }
        self.said < self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn of_a_thousand_lines_ten_a_second_are_said_and_the_others_are_counted() {
        let mut ration = Ration::new(10);
        let said = (0..1_000).filter(|_| ration.line(ms(7)) == Some(0));
        assert_eq!(said.count(), 10);
        assert_eq!(ration.line(ms(1_006)), None);
        assert_eq!(ration.line(ms(1_007)), Some(991));
        assert_eq!(ration.line(ms(1_007)), Some(0));
    }

    #[test]
    fn how_many_were_not_said_can_be_a_line_of_its_own() {
        let mut ration = Ration::new(2);
        assert_eq!(ration.unsaid(ms(0)), None);
        let said = (0..5).filter(|_| ration.line(ms(0)).is_some());
        assert_eq!(said.count(), 2);
        assert_eq!(ration.unsaid(ms(999)), None);
        assert_eq!(ration.unsaid(ms(1_000)), Some(3));
        assert_eq!(ration.line(ms(1_000)), Some(0));
        assert_eq!(ration.line(ms(1_000)), None, "it was one of two");
    }
}
