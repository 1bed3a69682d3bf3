//! The time of day, asked for in one place. Whoever decides by it takes it as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970; 0 before that, and the most there is after 2262.
pub fn unix_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
