//! Why a stream could not begin, or go on.

use std::time::Duration;

use http::StatusCode;

use crate::token::TokenError;

/// The end of a stream, told by what the caller can do about it.
///
/// A message says what we tried and what was answered; its source, where there is one, why it
/// failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// 401 or 403: the token is wrong, has expired, or lacks the scope. Get a new one and
    /// subscribe again. A [`Token::Login`](crate::Token::Login) was renewed before this is told.
    ///
    /// The Go Traffic Controller also answers 401 while its UAA is down.
    #[error("{url} does not accept the token: {status}{}", said(body))]
    Unauthorized {
        /// What we asked for.
        url: String,
        /// 401 or 403.
        status: StatusCode,
        /// What the server said about it.
        body: String,
    },
    /// 404: no such app, or one this token may not see; or not a Loggregator at all.
    #[error("{url} was not found{}", said(body))]
    NotFound {
        /// What we asked for.
        url: String,
        /// What the server said about it.
        body: String,
    },
    /// The server answered, but not with a stream.
    #[error("{url} was answered {status} instead of a stream{}", said(body))]
    Refused {
        /// What we asked for.
        url: String,
        /// What it was answered.
        status: StatusCode,
        /// What the server said about it.
        body: String,
        /// When it wants to be asked again, if it said so in seconds.
        retry_after: Option<Duration>,
    },
    /// Nobody answered: no address, no connection, no TLS, or no WebSocket.
    #[error("could not connect to {url}")]
    Unreachable {
        /// What we asked for.
        url: String,
        /// Which step failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no token to show.
    #[error("could not get the token")]
    Token {
        /// Why not.
        source: TokenError,
    },
}

impl Error {
    /// Whether the same request may do better later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Error::Unreachable { .. } => true,
            Error::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Error::Token { source } => source.may_pass(),
            Error::Unauthorized { .. } | Error::NotFound { .. } => false,
        }
    }

    /// What an answer that is not 101 means.
    pub(crate) fn refused(
        url: String,
        status: StatusCode,
        body: &str,
        retry_after: Option<Duration>,
    ) -> Error {
        let body = one_line(body);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::Unauthorized { url, status, body }
            }
            StatusCode::NOT_FOUND => Error::NotFound { url, body },
            _ => Error::Refused {
                url,
                status,
                body,
                retry_after,
            },
        }
    }
}

/// Characters of a body that are shown: more than any Traffic Controller says, and less than
/// the error page of a proxy.
const SHOWN: usize = 200;

/// A stranger's words, fit for a message: one line, no control characters, not too many.
pub(crate) fn one_line(body: &str) -> String {
    let mut line = String::new();
    for word in body.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if let Some((end, _)) = line.char_indices().nth(SHOWN) {
        line.truncate(end);
        line.push('…');
    }
    line
}

fn said(body: &str) -> String {
    match body {
        "" => String::new(),
        body => format!(": {body}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Error {
        let status = StatusCode::from_u16(status).unwrap();
        Error::refused("wss://host:443/x".into(), status, body, None)
    }

    #[test]
    fn the_status_decides_what_a_caller_can_do() {
        for status in [401, 403] {
            assert!(matches!(refused(status, ""), Error::Unauthorized { .. }));
        }
        assert!(matches!(refused(404, ""), Error::NotFound { .. }));
        for (status, may_pass) in [
            (200, false),
            (302, false),
            (400, false),
            (429, true),
            (503, true),
        ] {
            assert_eq!(refused(status, "").may_pass(), may_pass, "{status}");
        }
    }

    #[test]
    fn the_servers_words_are_shown_on_one_line() {
        assert_eq!(
            refused(401, "You are not authorized. invalid authorization").to_string(),
            "wss://host:443/x does not accept the token: 401 Unauthorized: \
             You are not authorized. invalid authorization"
        );
        assert_eq!(
            refused(404, "").to_string(),
            "wss://host:443/x was not found"
        );
        let hostile = refused(400, "\u{1b}[2J<html>\n\n  <b>no</b>\u{9b}31m");
        assert!(hostile.to_string().ends_with(": [2J<html> <b>no</b> 31m"));
        assert!(refused(400, &"x".repeat(10_000)).to_string().len() < 400);
    }
}
