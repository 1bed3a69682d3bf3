//! What a client shows to be let in.
//!
//! In comes a token as people have it – with or without `bearer`, with a newline behind it –
//! and out goes the value of an `Authorization` header.

use std::fmt;
use std::io;
use std::path::PathBuf;

use http::HeaderValue;

/// Where the token comes from, asked anew for each connection.
#[derive(Clone)]
#[non_exhaustive]
pub enum Token {
    /// This text: what `cf oauth-token` prints, or the same without `bearer`.
    Fixed(String),
    /// What this file holds at that moment. Whoever renews the token writes it there.
    File(PathBuf),
}

/// Why there is no token to show.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file is missing, or not ours to read.
    #[error("could not read the token file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("the token is empty")]
    Empty,
    /// A header cannot carry it.
    #[error("the token has characters that no token has: give it on one line, without quotes")]
    Unfit,
}

impl Token {
    /// The header's value.
    pub(crate) async fn authorization(&self) -> Result<HeaderValue, TokenError> {
        match self {
            Token::Fixed(token) => header(token),
            Token::File(path) => {
                let token = tokio::fs::read_to_string(path);
                header(&token.await.map_err(|source| TokenError::Read {
                    path: path.clone(),
                    source,
                })?)
            }
        }
    }
}

/// Always `bearer` in lower case: the Go Traffic Controller does not know `Bearer` on a firehose,
/// and hands Cloud Controller whatever it got.
fn header(token: &str) -> Result<HeaderValue, TokenError> {
    let token = token.trim();
    let bare = match token.split_once(char::is_whitespace) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim_start(),
        None if token.eq_ignore_ascii_case("bearer") => "",
        _ => token,
    };
    if bare.is_empty() {
        return Err(TokenError::Empty);
    }
    if !bare.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TokenError::Unfit);
    }
    let mut value =
        HeaderValue::from_str(&format!("bearer {bare}")).map_err(|_| TokenError::Unfit)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Never shows the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Fixed(_) => f.write_str("Fixed(..)"),
            Token::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_as_lower_case_bearer_however_it_was_given() {
        for given in [
            "abc",
            "bearer abc",
            "Bearer abc",
            "BEARER  abc\n",
            " abc \r\n",
        ] {
            assert_eq!(header(given).unwrap(), "bearer abc", "{given:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_token_is_told() {
        for empty in ["", "\n", "bearer", "Bearer \n"] {
            assert!(matches!(header(empty), Err(TokenError::Empty)), "{empty:?}");
        }
        for unfit in ["a b", "bearer a\nb", "\u{1b}[0m"] {
            assert!(matches!(header(unfit), Err(TokenError::Unfit)), "{unfit:?}");
        }
    }

    #[test]
    fn a_token_is_not_printed_by_accident() {
        let token = Token::Fixed("secret".into());
        assert!(!format!("{token:?}").contains("secret"));
        assert!(!format!("{:?}", header("secret").unwrap()).contains("secret"));
    }
}
