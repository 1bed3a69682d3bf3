//! What is the same for all streams of a program: where Loggregator is, who we are, and how
//! patient we are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use proto::request::{AppGuid, BadRequest, Filter, Request, SubscriptionId};
use transport::tls::TlsError;

use crate::endpoint::{BadEndpoint, Endpoint};
use crate::stream::EnvelopeStream;
use crate::token::Token;
use crate::trust::{Tls, Trust};

/// How long one attempt to connect may take when nothing else is said: 10 s, as noaa.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// A silence after which a connection counts as dead: 60 s. A Traffic Controller pings every
/// 15 s at most, however little it has to say.
pub const SILENCE: Duration = Duration::from_secs(60);

/// Subscribes. Cheap to clone; opens no connection by itself.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) settings: Arc<Settings>,
}

/// What [`Builder`] has made of its settings.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: Option<Tls>,
    pub(crate) token: Option<Token>,
    pub(crate) user_agent: HeaderValue,
    pub(crate) connect_deadline: Duration,
    pub(crate) first_connect_within: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
}

/// Makes a [`Client`].
#[derive(Clone, Debug)]
pub struct Builder {
    endpoint: String,
    token: Option<Token>,
    trust: Trust,
    insecure_plain_text: bool,
    user_agent: String,
    connect_deadline: Duration,
    first_connect_within: Option<Duration>,
    idle_timeout: Option<Duration>,
}

/// Settings that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct BadSettings {
    what: String,
    source: Option<TlsError>,
}

impl BadSettings {
    pub(crate) fn new(what: impl Into<String>) -> BadSettings {
        let what = what.into();
        BadSettings { what, source: None }
    }
}

impl From<TlsError> for BadSettings {
    fn from(source: TlsError) -> BadSettings {
        BadSettings {
            what: "could not prepare TLS".into(),
            source: Some(source),
        }
    }
}

impl Client {
    /// Settings for Loggregator at `endpoint`: `wss://HOST`, with `:PORT` if it is not 443.
    /// Cloud Controller tells it as `links.logging.href`.
    ///
    /// `https` is the same as `wss`. `ws` and `http` are plain text, for a Traffic Controller
    /// on this machine.
    pub fn builder(endpoint: &str) -> Builder {
        Builder {
            endpoint: endpoint.to_owned(),
            token: None,
            trust: Trust::System,
            insecure_plain_text: false,
            user_agent: concat!("firehose-client/", env!("CARGO_PKG_VERSION")).into(),
            connect_deadline: CONNECT_DEADLINE,
            first_connect_within: None,
            idle_timeout: None,
        }
    }

    /// All envelopes of the platform, or those that `filter` lets through.
    ///
    /// Those who subscribe with the same id and filter share them; each id gets them all. The
    /// token needs the scope `doppler.firehose`.
    pub fn firehose(&self, id: &str, filter: Filter) -> Result<EnvelopeStream, BadRequest> {
        let subscription = SubscriptionId::new(id)?;
        Ok(self.stream(&Request::Firehose {
            subscription,
            filter,
        }))
    }

    /// All envelopes of one app: logs, container metrics, HTTP requests. The token must belong
    /// to somebody who may see the app.
    pub fn app_stream(&self, guid: &str) -> Result<EnvelopeStream, BadRequest> {
        let app = AppGuid::new(guid)?;
        Ok(self.stream(&Request::AppStream { app, recent: None }))
    }

    /// The same, beginning with the newest `recent` logs the platform still has: no gap and no
    /// duplicate between them and what follows. Only the first connection begins with them; a
    /// later one would tell again what was told before.
    ///
    /// A Go Traffic Controller does not know of it, and sends what happens from now on.
    pub fn app_stream_with_recent(
        &self,
        guid: &str,
        recent: u32,
    ) -> Result<EnvelopeStream, BadRequest> {
        let app = AppGuid::new(guid)?;
        let later = Request::AppStream {
            app: app.clone(),
            recent: None,
        };
        let recent = Some(recent);
        let first = Request::AppStream { app, recent }.path();
        Ok(EnvelopeStream::new(
            self.settings.clone(),
            Some(first),
            later.path(),
        ))
    }

    fn stream(&self, request: &Request) -> EnvelopeStream {
        EnvelopeStream::new(self.settings.clone(), None, request.path())
    }
}

impl Builder {
    /// Shows this token. Without one none is shown.
    pub fn token(mut self, token: Token) -> Builder {
        self.token = Some(token);
        self
    }

    /// Trusts the CAs in this PEM file and no others; without, those of the operating system.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Builder {
        self.trust = Trust::Ca(path.into());
        self
    }

    /// Checks **no certificate at all**: whoever can place himself between us and Loggregator
    /// reads the token and the stream.
    pub fn skip_cert_verify(mut self) -> Builder {
        self.trust = Trust::Anyone;
        self
    }

    /// Trusts whom it says, as [`Builder::ca_file`] and [`Builder::skip_cert_verify`] do: the
    /// last of these calls counts.
    pub fn trust(mut self, trust: Trust) -> Builder {
        self.trust = trust;
        self
    }

    /// Sends the token **in plain text over the network** where the endpoint says `ws` or
    /// `http`. On this machine's loopback that needs no permission.
    pub fn insecure_plain_text(mut self) -> Builder {
        self.insecure_plain_text = true;
        self
    }

    /// Names the program in the server's logs, by default `firehose-client/VERSION`.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Builder {
        self.user_agent = user_agent.into();
        self
    }

    /// How long one attempt to connect may take, to the server's answer: [`CONNECT_DEADLINE`].
    pub fn connect_deadline(mut self, deadline: Duration) -> Builder {
        self.connect_deadline = deadline;
        self
    }

    /// Ends the stream if its first connection is not made within this time; zero allows one
    /// attempt, of any length up to its deadline. By default it is tried for ever, as a lost
    /// connection always is.
    pub fn first_connect_within(mut self, time: Duration) -> Builder {
        self.first_connect_within = Some(time);
        self
    }

    /// Connects anew if no envelope came for this long, for a firehose that is never quiet. By
    /// default a connection may idle: the server's pings show that it is alive, and without
    /// those it ends after [`SILENCE`].
    pub fn idle_timeout(mut self, timeout: Duration) -> Builder {
        self.idle_timeout = Some(timeout);
        self
    }

    /// Reads the CA file and checks everything that can be checked without connecting.
    pub fn build(self) -> Result<Client, BadSettings> {
        let endpoint = Endpoint::parse(&self.endpoint).map_err(|error: BadEndpoint| {
            BadSettings::new(format!(
                "cannot use the endpoint {:?}: {error}",
                self.endpoint
            ))
        })?;
        let tls = match endpoint.tls {
            true => Some(self.trust.tls(&endpoint.host)?),
            false => None,
        };
        let readable = tls.is_none() && !endpoint.is_loopback();
        if readable && self.token.is_some() && !self.insecure_plain_text {
            return Err(BadSettings::new(format!(
                "{endpoint} is plain text: everybody on the way could read the token; \
                 use wss, or allow it by name (insecure plain text)"
            )));
        }
        let user_agent = HeaderValue::from_str(&self.user_agent).map_err(|_| {
            let name = &self.user_agent;
            BadSettings::new(format!("no header can carry the user agent {name:?}"))
        })?;
        Ok(Client {
            settings: Arc::new(Settings {
                endpoint,
                tls,
                token: self.token,
                user_agent,
                connect_deadline: self.connect_deadline,
                first_connect_within: self.first_connect_within,
                idle_timeout: self.idle_timeout,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_sent_in_plain_text_over_the_network_unless_allowed_by_name() {
        let builder = Client::builder("ws://10.0.0.1:8081");
        let with_token = builder.clone().token(Token::Fixed("x".into()));
        let error = with_token.clone().build().unwrap_err().to_string();
        assert!(error.contains("ws://10.0.0.1:8081"), "{error}");
        assert!(error.contains("plain text"), "{error}");

        assert!(with_token.insecure_plain_text().build().is_ok());
        assert!(builder.build().is_ok(), "nothing to hide");
        let loopback = Client::builder("ws://127.0.0.1:8081").token(Token::Fixed("x".into()));
        assert!(loopback.build().is_ok());
    }

    #[test]
    fn settings_that_cannot_work_say_which() {
        let error = Client::builder("doppler:4443").build().unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot use the endpoint \"doppler:4443\": \
             it has no scheme: write wss://HOST or wss://HOST:PORT"
        );
        let error = Client::builder("wss://doppler")
            .ca_file("/does/not/exist")
            .build();
        let source = std::error::Error::source(&error.unwrap_err())
            .unwrap()
            .to_string();
        assert!(source.contains("/does/not/exist"), "{source}");
        let error = Client::builder("ws://localhost").user_agent("a\nb").build();
        assert!(error.unwrap_err().to_string().contains("user agent"));
    }

    #[test]
    fn an_app_is_asked_for_by_guid() {
        let client = Client::builder("ws://localhost").build().unwrap();
        assert_eq!(
            client.app_stream("my-app").err(),
            Some(BadRequest::NotAGuid)
        );
        assert!(
            client
                .app_stream("11111111-2222-3333-4444-000000000000")
                .is_ok()
        );
        assert!(client.firehose("", Filter::Everything).is_err());
    }
}
