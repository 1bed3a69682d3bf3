//! Text that must not be printed by accident: tokens, and what buys them.

use std::fmt;

/// Its only way out is [`Secret::reveal`], so that a reader finds every place.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// What nobody shall see.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// To be sent or stored, never shown.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to hide.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// For settings, which are parsed from text.
impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(masked)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_of_a_secret_is_that_it_is_one() {
        let secret = Secret::new("hush");
        assert_eq!(format!("{secret:?}"), "(masked)");
        assert_eq!(secret.reveal(), "hush");
    }
}
