//! Time: of day, asked for in one place (whoever decides by it takes it as an argument), and
//! as operators write it.

mod utc;

pub use utc::Utc;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970; 0 before that, and the most there is after 2262.
pub fn unix_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A length of time as operators write it: seconds, with or without a fraction (`60`, `1.5`),
/// or numbers with units as Go's `time.ParseDuration` reads them (`1m`, `1m30s`, `500ms`).
///
/// # Errors
/// What is wrong with it, to be shown beside the setting's name.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = match text.parse() {
        Ok(seconds) => seconds,
        Err(_) => with_units(text).ok_or("not a time: write 60, 1.5, 1m30s or 500ms")?,
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// The shortest time between two reports: 1 s, also where 0 is asked for, as upstream's own
/// tests do.
const SHORTEST: Duration = Duration::from_secs(1);

/// As [`seconds`], for what is done again and again: 0 stands for every second.
///
/// # Errors
/// What is wrong with it, to be shown beside the setting's name.
pub fn interval(text: &str) -> Result<Duration, String> {
    seconds(text).map(at_least_some)
}

/// As [`interval`], in milliseconds where no unit is given.
///
/// # Errors
/// What is wrong with it, to be shown beside the setting's name.
pub fn interval_ms(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match digits && !text.is_empty() {
        true => interval(&format!("{text}ms")),
        false => interval(text),
    }
}

fn at_least_some(interval: Duration) -> Duration {
    match interval {
        Duration::ZERO => SHORTEST,
        interval => interval,
    }
}

/// The sum, in seconds, of numbers each followed by its unit.
fn with_units(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(unit_at);
        let next_at = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, next) = behind.split_at(next_at);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * unit;
        rest = next;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_seconds_or_has_gos_units() {
        for (text, ms) in [
            ("60", 60_000),
            ("1.5", 1_500),
            ("0", 0),
            ("1m", 60_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1h0.5s", 3_600_500),
        ] {
            assert_eq!(seconds(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "", "m", "1x", "5 m", "-1", "-1s", "1m30", "1.2.3s", "nan", "inf", "9e99",
        ] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!(interval("0s"), Ok(SHORTEST));
        assert_eq!(interval("1ms"), interval_ms("1"));
    }
}
