//! UAA: what buys a token comes in, a token and how long it is good for go out.

use std::time::Duration;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;

use crate::client::BadSettings;
use crate::token::RenewalError;
use crate::trust::Trust;
use crate::web::Web;
use transport::secret::Secret;

/// A UAA, and the OAuth client we are to it.
#[derive(Clone, Debug)]
pub(crate) struct Uaa {
    web: Web,
    client: String,
    secret: Secret,
}

/// What buys a token.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Grant<'a> {
    /// The client itself is who asks.
    ClientCredentials,
    /// Somebody who logged in before.
    Refresh(&'a Secret),
}

/// What UAA gave.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    /// Without `bearer`.
    pub(crate) access: Secret,
    /// The next one to refresh with, if it is not the same again.
    pub(crate) refresh: Option<Secret>,
    pub(crate) lifetime: Option<Duration>,
}

/// RFC 6749 §5.1, as far as we read it.
#[derive(Deserialize)]
struct Tokens {
    access_token: String,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

/// RFC 6749 §5.2. Its `error_description` is never shown: UAA quotes the refresh token there.
#[derive(Deserialize)]
struct Denial {
    error: String,
}

impl Grant<'_> {
    /// RFC 6749 §4.4.2 and §6.
    fn form(self) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        match self {
            Grant::ClientCredentials => form.append_pair("grant_type", "client_credentials"),
            Grant::Refresh(token) => form
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token.reveal()),
        };
        form.finish()
    }
}

impl Uaa {
    pub(crate) fn new(
        url: &str,
        client: &str,
        secret: Secret,
        trust: &Trust,
    ) -> Result<Uaa, BadSettings> {
        Ok(Uaa {
            web: Web::new(url, trust)?,
            client: client.to_owned(),
            secret,
        })
    }

    /// Asks once.
    pub(crate) async fn ask(&self, grant: Grant<'_>) -> Result<Granted, RenewalError> {
        const PATH: &str = "/oauth/token";
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, self.basic()), (CONTENT_TYPE, form)]);
        let answer = self.web.post(PATH, headers, grant.form()).await?;
        let url = self.web.url(PATH);
        match answer.status {
            StatusCode::OK => granted(&answer.body).ok_or(RenewalError::NotATokenAnswer { url }),
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let said = serde_json::from_slice(&answer.body);
                let said = said.ok().and_then(|denial: Denial| code(&denial.error));
                let said = said.unwrap_or_else(|| answer.status.to_string());
                Err(RenewalError::NotGranted {
                    url,
                    said,
                    advice: match grant {
                        Grant::ClientCredentials => "check the client's id, secret and grant types",
                        Grant::Refresh(_) => "log in again: cf login",
                    },
                })
            }
            status => Err(RenewalError::Refused { url, status }),
        }
    }

    /// RFC 7617. UAA wants client and secret unescaped here, unlike RFC 6749 §2.3.1.
    fn basic(&self) -> HeaderValue {
        let pair = format!("{}:{}", self.client, self.secret.reveal());
        let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
        let mut value = HeaderValue::from_str(&value).expect("Base64 is ASCII");
        value.set_sensitive(true);
        value
    }
}

fn granted(body: &[u8]) -> Option<Granted> {
    // serde's errors quote what they found, and that may be a token: they end here.
    let tokens: Tokens = serde_json::from_slice(body).ok()?;
    let filled = |text: &String| !text.is_empty();
    Some(Granted {
        access: Some(tokens.access_token).filter(filled).map(Secret::new)?,
        refresh: tokens.refresh_token.filter(filled).map(Secret::new),
        lifetime: tokens.expires_in.map(Duration::from_secs),
    })
}

/// An error code as RFC 6749 has them; whatever else stands there is not for a terminal.
fn code(error: &str) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    (1..=40).contains(&error.len()).then_some(())?;
    error.bytes().all(fits).then(|| error.to_owned())
}

/// When a JWT says that it ends, in seconds since 1970. Nobody checks its signature: it is our
/// own token, and whoever made it up would only make us ask for a new one.
pub(crate) fn expiry(token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let mut parts = token.split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims.trim_end_matches('='));
    let claims: Claims = serde_json::from_slice(&claims.ok()?).ok()?;
    Some(claims.exp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_says_when_it_ends_and_anything_else_says_nothing() {
        let jwt = |claims: &str| format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(
            expiry(&jwt(r#"{"sub":"x","exp":1700000000}"#)),
            Some(1_700_000_000)
        );
        for other in [
            jwt(r#"{"exp":"soon"}"#),
            jwt(r#"{"exp":-1}"#),
            jwt("nonsense"),
            "opaque".into(),
            "a.b".into(),
            "a.%.c".into(),
            String::new(),
        ] {
            assert_eq!(expiry(&other), None, "{other}");
        }
    }

    #[test]
    fn only_an_error_code_is_shown_of_what_uaa_says() {
        assert_eq!(code("invalid_grant").as_deref(), Some("invalid_grant"));
        for other in ["", "Invalid token eyJ", "\u{1b}[2J", &"x".repeat(41)] {
            assert_eq!(code(other), None, "{other:?}");
        }
    }

    #[test]
    fn an_answer_without_a_token_grants_nothing() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"access_token":""}"#,
            r#"{"access_token":1}"#,
        ] {
            assert!(granted(body.as_bytes()).is_none(), "{body}");
        }
        let full = r#"{"access_token":"a","refresh_token":"r","expires_in":599,"jti":"x"}"#;
        let full = granted(full.as_bytes()).unwrap();
        assert_eq!(full.lifetime, Some(Duration::from_secs(599)));
        assert_eq!(full.refresh.unwrap().reveal(), "r");
    }
}
