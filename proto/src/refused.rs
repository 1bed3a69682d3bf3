//! Why an envelope is not delivered, in words an operator can search for.

/// These bytes are not the protobuf message they should be.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

/// Why an envelope is not delivered on v1.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not an envelope at all.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A good envelope that v1 has no words for.
    #[error("not expressible in v1: {0}")]
    NotV1(&'static str),
    /// An envelope that would cost far more to deliver than it cost to send.
    #[error("too large: {0}")]
    TooLarge(&'static str),
}

impl From<Malformed> for Refused {
    fn from(Malformed(what): Malformed) -> Refused {
        Refused::Malformed(what)
    }
}
