//! The one question: may whoever holds this token read this?
//!
//! In come a token, if there was one, and what was asked for; out comes permission or the
//! reason why not. How a refusal looks on the wire is the front's business.

mod tokens;

pub use tokens::{Tokens, TokensError};

use proto::request::Request;

/// Who answers the question.
pub enum Access {
    /// Everybody may read everything: for a listener on loopback only.
    Open,
    /// A file says which token may read what.
    Tokens(Tokens),
}

/// Why a request may not be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no token.
    #[error("authorization not provided")]
    NoToken,
    /// The token is unknown, or not good for this.
    #[error("invalid authorization")]
    BadToken,
    /// The token is good, and this app is none of its business: it must not learn whether
    /// there is one.
    #[error("not found")]
    NotFound,
}

impl Access {
    /// Whether a request with this token may read what it asks for.
    pub async fn check(&self, token: Option<&str>, asked: &Request) -> Result<(), Refusal> {
        match self {
            Access::Open => Ok(()),
            Access::Tokens(tokens) => tokens.check(token.ok_or(Refusal::NoToken)?, asked),
        }
    }

    /// Whether a token is looked at, at all.
    pub fn is_controlled(&self) -> bool {
        !matches!(self, Access::Open)
    }
}
