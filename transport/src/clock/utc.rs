//! Nanoseconds since 1970 as people write time.

use std::fmt;

const SECOND: i64 = 1_000_000_000;

/// RFC 3339 in UTC with nanoseconds, `{:.3}` with milliseconds, `{:.0}` with seconds. Every i64
/// has a year of four digits: 1677 to 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc(pub i64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(SECOND);
        let (year, month, day) = date(seconds.div_euclid(86_400));
        let time = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        let nanos = self.0.rem_euclid(SECOND);
        match f.precision() {
            Some(0) => f.write_str("Z"),
            Some(3) => write!(f, ".{:03}Z", nanos / 1_000_000),
            _ => write!(f, ".{nanos:09}Z"),
        }
    }
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", `civil_from_days`). Years begin in March, so that the day that
/// comes and goes is the last of them.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days.div_euclid(146_097); // of 400 years
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // from March
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (nanos, expected) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (951_782_399 * SECOND, "2000-02-28T23:59:59.000000000Z"),
            (951_868_799 * SECOND, "2000-02-29T23:59:59.000000000Z"),
            (4_107_542_400 * SECOND, "2100-03-01T00:00:00.000000000Z"),
            (1_500_000_000_123_456_789, "2017-07-14T02:40:00.123456789Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
        ] {
            assert_eq!(Utc(nanos).to_string(), expected);
        }
        assert_eq!(
            format!("{:.3}", Utc(123_999_999)),
            "1970-01-01T00:00:00.123Z"
        );
        assert_eq!(format!("{:.0}", Utc(-1)), "1969-12-31T23:59:59Z");
    }
}
