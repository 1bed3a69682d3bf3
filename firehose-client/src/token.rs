//! What a client shows to be let in.
//!
//! In comes a token as people have it – with or without `bearer`, with a newline behind it –
//! and out goes the value of an `Authorization` header.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use crate::cf_cli::CfCliError;
use crate::login::Login;
use crate::web::NoAnswer;
use transport::secret::Secret;

/// Where the token comes from, asked anew for each connection.
#[derive(Clone)]
#[non_exhaustive]
pub enum Token {
    /// This text: what `cf oauth-token` prints, or the same without `bearer`.
    Fixed(String),
    /// What this file holds at that moment. Whoever renews the token writes it there.
    File(PathBuf),
    /// The token of a login, renewed before it ends and when a server refuses it.
    Login(Login),
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
    /// The login has ended, or could not be renewed now.
    #[error(transparent)]
    Renewal(#[from] RenewalError),
}

/// Why UAA did not give a new token.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewalError {
    /// It says no, and asking again would not help.
    #[error("{url} does not grant a token ({said}): {advice}")]
    NotGranted {
        /// What we asked.
        url: String,
        /// Its error code, such as `invalid_grant`.
        said: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// It answered, but neither yes nor no.
    #[error("{url} was answered {status} instead of a token")]
    Refused {
        /// What we asked.
        url: String,
        /// What it was answered.
        status: StatusCode,
    },
    /// It said yes, and there was no token.
    #[error("{url} was answered without a token: is it a UAA?")]
    NotATokenAnswer {
        /// What we asked.
        url: String,
    },
    /// Nobody answered.
    #[error("could not ask {url} for a token")]
    Unreachable {
        /// What we asked.
        url: String,
        /// Which step failed.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// There is no login of the cf CLI any more.
    #[error(transparent)]
    CfCli(Arc<CfCliError>),
    /// The program ended meanwhile.
    #[error("the renewal of the token was cut short")]
    Interrupted,
}

impl From<NoAnswer> for RenewalError {
    fn from(NoAnswer { url, source }: NoAnswer) -> RenewalError {
        RenewalError::Unreachable { url, source }
    }
}

impl From<CfCliError> for RenewalError {
    fn from(error: CfCliError) -> RenewalError {
        RenewalError::CfCli(Arc::new(error))
    }
}

impl TokenError {
    /// Whether only a person can help: log in again, or give other credentials.
    pub fn needs_login(&self) -> bool {
        match self {
            TokenError::Renewal(RenewalError::NotGranted { .. }) => true,
            TokenError::Renewal(RenewalError::CfCli(error)) => error.needs_login(),
            _ => false,
        }
    }

    /// Whether asking later may do better.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            TokenError::Renewal(RenewalError::Unreachable { .. }) => true,
            TokenError::Renewal(RenewalError::Refused { status, .. }) => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }

    /// Whether somebody may be writing the file at this moment.
    pub(crate) fn is_about_a_file(&self) -> bool {
        !matches!(self, TokenError::Renewal(_))
    }
}

impl Token {
    /// The value of an `Authorization` header, for whoever sends a request of his own. It is
    /// marked as sensitive.
    ///
    /// # Errors
    /// When there is no token to show.
    pub async fn authorization(&self) -> Result<HeaderValue, TokenError> {
        match self {
            Token::Fixed(token) => header(token),
            Token::File(path) => {
                let token = tokio::fs::read_to_string(path);
                header(&token.await.map_err(|source| TokenError::Read {
                    path: path.clone(),
                    source,
                })?)
            }
            Token::Login(login) => header(login.token().await?.reveal()),
        }
    }

    /// Tells that a server refused what [`Token::authorization`] gave. Whether there may be a
    /// better one.
    pub(crate) async fn refused(&self, shown: &HeaderValue) -> bool {
        let bare = shown
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix("bearer "));
        match (self, bare) {
            (Token::Login(login), Some(bare)) => login.refused(&Secret::new(bare)).await,
            _ => false,
        }
    }

    /// Why a renewed login could not be kept, told once.
    pub(crate) fn take_unsaved(&self) -> Option<CfCliError> {
        match self {
            Token::Login(login) => login.take_unsaved(),
            Token::Fixed(_) | Token::File(_) => None,
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
            Token::Login(login) => f.debug_tuple("Login").field(login).finish(),
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
