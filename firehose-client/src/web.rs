//! One question to UAA or Cloud Controller, and its answer.
//!
//! A request comes in; a status and a bounded body go out, within a deadline. Redirects are not
//! followed: they would carry a token to wherever an answer says.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use transport::http::{Base, CallError, Client, Limits};
use transport::listener::Dialer;

use crate::client::{BadSettings, CONNECT_DEADLINE};
use crate::endpoint::is_loopback;
use crate::trust::Trust;

/// What one question may take. 1 MiB, since a token is some KiB and a page of apps some tens of
/// them; whoever sends more wants to fill our memory.
const LIMITS: Limits = Limits {
    within: CONNECT_DEADLINE,
    body: 1 << 20,
};

/// A server, and how to reach it.
#[derive(Clone)]
pub(crate) struct Web {
    client: Client,
    /// As it was given; no slash at its end.
    url: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Nobody answered, or not in a way that can be read.
#[derive(Clone, Debug)]
pub(crate) struct NoAnswer {
    pub(crate) url: String,
    pub(crate) source: Arc<CallError>,
}

impl Web {
    /// The server at `url`, `https` or, on this machine alone, `http`.
    pub(crate) fn new(url: &str, trust: &Trust) -> Result<Web, BadSettings> {
        let url = url.trim().trim_end_matches('/');
        let base = Base::parse(url).map_err(|error| {
            // The URL is not shown: what is wrong with it may be a password.
            BadSettings::new(format!(
                "cannot use the URL of UAA or Cloud Controller: {error}"
            ))
        })?;
        if !base.is_https() && !is_loopback(base.host()) {
            return Err(BadSettings::new(format!(
                "{url} is plain text: everybody on the way could read the token; use https"
            )));
        }
        let tls = match base.is_https() {
            true => Some(trust.tls(base.host())?).map(|(settings, name)| (settings.into(), name)),
            false => None,
        };
        let client = Client::new(base, Dialer::new(tls, CONNECT_DEADLINE));
        Ok(Web {
            client: client.map_err(|error| BadSettings::new(error.to_string()))?,
            url: url.to_owned(),
        })
    }

    /// What is asked for, as it may be shown: queries are left out.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{}", self.url, path.split('?').next().unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str, headers: HeaderMap) -> Result<Answer, NoAnswer> {
        self.ask(Method::GET, path, headers, Bytes::new()).await
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        headers: HeaderMap,
        body: String,
    ) -> Result<Answer, NoAnswer> {
        self.ask(Method::POST, path, headers, body.into()).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, NoAnswer> {
        const US: &str = concat!("firehose-client/", env!("CARGO_PKG_VERSION"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(US));
        let answer = self.client.call(method, path, headers, body, LIMITS).await;
        let answer = answer.map_err(|source| NoAnswer {
            url: self.url(path),
            source: source.into(),
        })?;
        Ok(Answer {
            status: answer.status,
            body: answer.body,
        })
    }
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_over_tls_or_on_this_machine() {
        let error = Web::new("http://uaa.example.com", &Trust::Anyone).unwrap_err();
        assert!(error.to_string().contains("plain text"), "{error}");
        assert!(Web::new("http://127.0.0.1:8080", &Trust::Anyone).is_ok());
        assert!(Web::new("uaa.example.com", &Trust::Anyone).is_err());
    }

    #[test]
    fn a_server_may_begin_below_its_root_and_a_query_is_not_shown() {
        let web = Web::new("https://example.com/uaa/", &Trust::Anyone).unwrap();
        assert_eq!(
            web.url("/oauth/token?secret=x"),
            "https://example.com/uaa/oauth/token"
        );
    }
}
