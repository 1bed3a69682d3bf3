//! What every report in words is written with.

use std::fmt::{Display, Write};

/// Adds a line.
pub(crate) fn line(text: &mut String, what: impl Display) {
    // Nothing fails that writes into a `String`.
    _ = writeln!(text, "{what}");
}

/// Digits in threes: `1,234,567`.
pub(crate) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
