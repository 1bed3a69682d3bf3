//! HTTP/1.1 as a client, to one server: one call, one answer.
//!
//! In come a method, a path, headers and a body; out come status, headers and the whole body,
//! or which step failed. All of it happens before one absolute deadline: resolving,
//! connecting, the TLS handshake, and the last byte of the answer, however slowly a server
//! drips it. The answer's size has a bound that the caller names. A redirect is an answer like
//! any other: what was meant for one server is never sent to the next. No proxy is used.
//!
//! Connections are kept and used again. Nothing of headers or bodies is in any error.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use crate::listener::{DialError, Dialer, Stream};
use crate::tls::{self, TlsError};

/// How long an unused connection is kept: 10 s. Below what servers keep theirs (Tomcat, and so
/// UAA: 20 s; nginx, and so Cloud Controller: 75 s), so that they hardly ever close one just as
/// we write to it.
const KEPT: Duration = Duration::from_secs(10);

/// Unused connections kept: 16. A burst opens more, and closes them when it is over.
const MOST_KEPT: usize = 16;

/// The longest head of an answer, in bytes: 64 KiB.
const MAX_HEAD: usize = 64 << 10;

/// Where a server is: scheme, host and port of a URL, and the path that all its paths begin
/// with, mostly none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    scheme: Scheme,
    authority: Authority,
    path: String,
}

/// Why a URL says of no server where it is.
#[derive(Debug, thiserror::Error)]
#[error(
    "{what}: give a URL such as https://uaa.example.com:8443, without user, query and fragment"
)]
pub struct BadUrl {
    /// What is wrong. The URL itself is not quoted: it may hold a password.
    what: &'static str,
}

impl Base {
    /// Reads the URL of a server.
    pub fn parse(url: &str) -> Result<Base, BadUrl> {
        let wrong = |what| BadUrl { what };
        if url.contains('#') {
            return Err(wrong("the URL has a fragment"));
        }
        let parts = match url.parse::<Uri>() {
            Ok(uri) => uri.into_parts(),
            Err(_) => return Err(wrong("this is not a URL")),
        };
        let scheme = match parts.scheme {
            Some(scheme) if scheme == Scheme::HTTPS || scheme == Scheme::HTTP => scheme,
            _ => return Err(wrong("the URL begins with neither https:// nor http://")),
        };
        let authority = match parts.authority {
            Some(authority) if authority.as_str().contains('@') => {
                return Err(wrong("the URL names a user"));
            }
            Some(authority) if !authority.host().is_empty() => authority,
            _ => return Err(wrong("the URL has no host")),
        };
        let path = match parts.path_and_query {
            Some(path) if path.query().is_some() => return Err(wrong("the URL has a query")),
            Some(path) => path.path().trim_end_matches('/').to_owned(),
            None => String::new(),
        };
        Ok(Base {
            scheme,
            authority,
            path,
        })
    }

    /// Whether it is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Its host: a name or an address, without brackets.
    pub fn host(&self) -> &str {
        let host = self.authority.host();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The name to expect in its certificate if nobody says otherwise: its host.
    pub fn server_name(&self) -> Result<ServerName<'static>, TlsError> {
        tls::server_name(self.host())
    }

    /// What to dial, `host:port`.
    fn address(&self) -> String {
        let default = if self.is_https() { 443 } else { 80 };
        let port = self.authority.port_u16().unwrap_or(default);
        format!("{}:{port}", self.authority.host())
    }
}

/// What one call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Until the last byte of the answer.
    pub within: Duration,
    /// Bytes of the answer's body.
    pub body: usize,
}

/// What a server said.
#[derive(Debug)]
pub struct Answer {
    /// Any status that is not 1xx; 3xx too.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, whole.
    pub body: Bytes,
}

/// Which step of a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The path, or the URL's with it, is not one that can be asked for.
    #[error("{server} cannot be asked for this path")]
    Path {
        /// Who was to be asked.
        server: String,
        /// What is wrong with it.
        source: http::Error,
    },
    /// No connection; a [`DialError`] is among its causes.
    #[error("could not reach {server}")]
    Connect {
        /// Who was to be asked.
        server: String,
        /// Why.
        source: legacy::Error,
    },
    /// A connection that ended too early, or an answer that is not HTTP.
    #[error("could not get an answer of {server}")]
    Exchange {
        /// Who was asked.
        server: String,
        /// Why.
        source: legacy::Error,
    },
    /// The head of an answer, and not all of its body.
    #[error("the answer of {server} broke off")]
    Body {
        /// Who was asked.
        server: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More than we are willing to hold; the connection is closed.
    #[error("the answer of {server} is longer than {limit} bytes")]
    TooLarge {
        /// Who was asked.
        server: String,
        /// How much the caller allowed.
        limit: usize,
    },
    /// The deadline passed.
    #[error("{server} took longer than {within:?}: still {step}")]
    Late {
        /// Who was asked.
        server: String,
        /// How long it had, in all.
        within: Duration,
        /// What we were doing.
        step: &'static str,
    },
}

/// Asks one server. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    base: Base,
    pool: legacy::Client<Connect, Full<Bytes>>,
}

impl Client {
    /// A client of `base`, reached through `dialer`, which has TLS if and only if the URL is
    /// `https`. A call's limits hold for dialling too; the dialer's own deadline is for
    /// connections that nobody waits for any more.
    pub fn new(base: Base, dialer: Dialer) -> Result<Client, BadUrl> {
        match (base.is_https(), dialer.tls.is_some()) {
            (true, false) => {
                return Err(BadUrl {
                    what: "the URL is https, and there are no TLS settings",
                });
            }
            (false, true) => {
                return Err(BadUrl {
                    what: "the URL is not https, and there are TLS settings",
                });
            }
            _ => {}
        }
        let connect = Connect {
            address: base.address(),
            dialer,
        };
        let pool = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT)
            .pool_max_idle_per_host(MOST_KEPT)
            .http1_max_buf_size(MAX_HEAD)
            .build(connect);
        Ok(Client { base, pool })
    }

    /// Who is asked, `host:port`: for logs.
    pub fn server(&self) -> String {
        self.base.address()
    }

    /// Sends one request and takes the whole answer. `path` begins with `/`, and may have a
    /// query. Host and Content-Length are added.
    ///
    /// Dropped before it is done, it closes its connection.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
        limits: Limits,
    ) -> Result<Answer, CallError> {
        let end = Instant::now() + limits.within;
        let server = || self.server();
        let late = |step| CallError::Late {
            server: server(),
            within: limits.within,
            step,
        };
        let mut request = self
            .request(method, path, headers, body)
            .map_err(|source| CallError::Path {
                server: server(),
                source,
            })?;
        let connection = capture_connection(&mut request);
        let response = match timeout_at(end, self.pool.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(source)) if source.is_connect() => {
                return Err(CallError::Connect {
                    server: server(),
                    source,
                });
            }
            Ok(Err(source)) => {
                return Err(CallError::Exchange {
                    server: server(),
                    source,
                });
            }
            Err(_) if connection.connection_metadata().is_none() => return Err(late("connecting")),
            Err(_) => return Err(late("waiting for an answer")),
        };
        let (head, body) = response.into_parts();
        let body = timeout_at(end, whole(body, limits.body)).await;
        let body = body.unwrap_or_else(|_| Err(Cut::Late));
        let body = body.map_err(|cut| match cut {
            Cut::Late => late("reading the answer"),
            Cut::TooLarge => CallError::TooLarge {
                server: server(),
                limit: limits.body,
            },
            Cut::Broken(source) => CallError::Body {
                server: server(),
                source,
            },
        })?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let uri = Uri::builder()
            .scheme(self.base.scheme.clone())
            .authority(self.base.authority.clone())
            .path_and_query(format!("{}{path}", self.base.path))
            .build()?;
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .body(Full::new(body))?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Why there is no whole body.
enum Cut {
    Late,
    TooLarge,
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

async fn whole(body: Incoming, limit: usize) -> Result<Bytes, Cut> {
    // A length that is said beforehand need not be read to be too much.
    if body.size_hint().lower() > limit as u64 {
        return Err(Cut::TooLarge);
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Cut::TooLarge),
        Err(error) => Err(Cut::Broken(error)),
    }
}

/// Opens a connection for the pool.
#[derive(Clone)]
struct Connect {
    address: String,
    dialer: Dialer,
}

impl Service<Uri> for Connect {
    type Response = TokioIo<Stream>;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connect = self.clone();
        async move {
            connect
                .dialer
                .dial(&connect.address)
                .await
                .map(TokioIo::new)
        }
        .boxed()
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
