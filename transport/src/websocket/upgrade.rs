//! From HTTP/1.1 to WebSocket (RFC 6455 §4) and back to a plain stream, on both sides.
//!
//! Server: a request goes in, a [`Handshake`] or a [`Refusal`] in words comes out; once its
//! response is sent the connection comes out, with the bytes read too many. Client: a connected
//! stream goes in, and comes out again upgraded or with what the server said instead.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::header::{
    ALLOW, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The only version there is (RFC 6455 §4.1).
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// How much of a refusal's body is kept, in bytes.
const BODY: usize = 4 * 1024;

/// The most a server's response head may take, in bytes.
const HEAD: usize = 64 * 1024;

/// What a client without these headers is usually told too late.
const BALANCER: &str = "If the client sent it, a load balancer or proxy on the way took it out: that is the usual cause.";

/// A valid WebSocket request: what to answer, and the connection behind it.
#[derive(Debug)]
pub struct Handshake {
    accept: HeaderValue,
    upgrade: OnUpgrade,
}

/// Why a request is not a WebSocket handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a WebSocket handshake: {body}")]
pub struct Refusal {
    /// 400 or 405.
    pub status: StatusCode,
    /// A header that goes with it: `Allow` with 405, `Sec-WebSocket-Version` for a version
    /// other than 13 (RFC 6455 §4.4).
    pub header: Option<(HeaderName, HeaderValue)>,
    /// Which header is missing or wrong, and what to do about it.
    pub body: String,
}

/// Why a connection could not be had after [`Handshake::response`] was sent.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The connection ended first.
    #[error("the connection ended before it was upgraded")]
    Gone(#[source] hyper::Error),
    /// hyper serves another type of stream than the one asked for: a mistake of the caller.
    #[error("the connection is not of the type asked for")]
    OtherStream,
}

/// A refused request's status as a word for a counter.
pub fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "bad_request",
        StatusCode::UNAUTHORIZED => "unauthorized",
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method",
        StatusCode::SERVICE_UNAVAILABLE => "no_room",
        _ => "other",
    }
}

impl Handshake {
    /// Checks a request as RFC 6455 §4.2.1 asks, in the order of the Go Traffic Controller
    /// (gorilla/websocket, `server.go`): `Connection`, `Upgrade`, method, version, key. Offered extensions are not
    /// taken; for offered subprotocols see [`offers`].
    ///
    /// # Errors
    /// The [`Refusal`] to answer.
    pub fn of<B>(request: &mut Request<B>) -> Result<Handshake, Refusal> {
        let headers = request.headers();
        if !has_token(headers, &CONNECTION, "upgrade") {
            return Err(missing("Connection: Upgrade"));
        }
        if !has_token(headers, &UPGRADE, "websocket") {
            return Err(missing("Upgrade: websocket"));
        }
        if request.method() != Method::GET {
            return Err(Refusal {
                status: StatusCode::METHOD_NOT_ALLOWED,
                header: Some((ALLOW, HeaderValue::from_static("GET"))),
                body: format!(
                    "A WebSocket handshake is a GET request, this is {}.\n",
                    request.method()
                ),
            });
        }
        if !has_token(headers, &SEC_WEBSOCKET_VERSION, "13") {
            return Err(Refusal {
                header: Some((SEC_WEBSOCKET_VERSION, VERSION)),
                ..refusal(
                    "The header 'Sec-WebSocket-Version: 13' is missing or names another version; 13 is the only one spoken here.\n",
                )
            });
        }
        let accept = accept_key(headers).ok_or_else(|| {
            refusal(
                "The header 'Sec-WebSocket-Key' has to be there once, with 16 bytes in base64.\n",
            )
        })?;
        if request.version() < Version::HTTP_11 {
            return Err(refusal("A WebSocket handshake needs HTTP/1.1.\n"));
        }
        Ok(Handshake {
            accept,
            upgrade: hyper::upgrade::on(request),
        })
    }

    /// The response that makes the connection a WebSocket: 101, `Upgrade`, `Connection`,
    /// `Sec-WebSocket-Accept`, and `Sec-WebSocket-Protocol` if one is chosen. (hyper adds a
    /// `Date` unless its builder is told not to.)
    pub fn response<B: Default>(&self, protocol: Option<&'static str>) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        if let Some(protocol) = protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        response
    }

    /// The connection, and what was read of it already. Waits until the response is sent, so
    /// ask in another task than the one that returns it.
    ///
    /// `S` is what hyper serves inside its `TokioIo`.
    ///
    /// # Errors
    /// When the connection ends first, or is no `TokioIo<S>`.
    pub async fn upgraded<S>(self) -> Result<(S, Bytes), UpgradeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        parts(self.upgrade.await.map_err(UpgradeError::Gone)?)
    }
}

impl Refusal {
    /// The refusal as a response, its body as text.
    pub fn response<B: From<String>>(self) -> Response<B> {
        let mut response = Response::new(B::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        response
    }
}

/// Whether a request offers the subprotocol `name` (RFC 6455 §4.1; case counts).
pub fn offers<B>(request: &Request<B>, name: &str) -> bool {
    tokens(request.headers(), &SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == name)
}

fn refusal(body: &str) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        header: None,
        body: body.to_owned(),
    }
}

fn missing(header: &str) -> Refusal {
    refusal(&format!(
        "This is a WebSocket endpoint, and the header '{header}' is missing. {BALANCER}\n"
    ))
}

/// The answer to the one valid key in a request.
fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|_| keys.next().is_none())?.as_bytes();
    // 16 bytes in base64 are 22 characters and two of padding.
    let (digits, padding) = key.split_at_checked(22)?;
    let digit = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/');
    if padding != b"==" || !digits.iter().all(digit) {
        return None;
    }
    HeaderValue::try_from(derive_accept_key(key)).ok()
}

/// The members of a comma-separated header, over all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|member| member.eq_ignore_ascii_case(token))
}

fn parts<S>(upgraded: Upgraded) -> Result<(S, Bytes), UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let parts = upgraded
        .downcast::<TokioIo<S>>()
        .map_err(|_| UpgradeError::OtherStream)?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

/// Why [`connect`] has no WebSocket to give.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server answered, and not with 101.
    #[error("the server refused the WebSocket with {status}: {}", body.trim_end())]
    Refused {
        /// Its status.
        status: StatusCode,
        /// All its headers, `Retry-After` and `WWW-Authenticate` among them.
        headers: HeaderMap,
        /// The first 4 KiB of its body as text, as far as they came before the deadline.
        body: String,
    },
    /// The server said 101, but what it said is not a handshake (RFC 6455 §4.1).
    #[error("the server's 101 is not a WebSocket handshake: {0}")]
    NotWebSocket(&'static str),
    /// No answer before the deadline.
    #[error("the server did not answer the WebSocket handshake in time")]
    Timeout,
    /// The connection failed, or what came is not HTTP.
    #[error("the WebSocket handshake broke off")]
    Broken(#[source] hyper::Error),
    /// The connection failed between the response and the WebSocket.
    #[error("the upgrade to WebSocket broke off")]
    Upgrade(#[from] UpgradeError),
    /// The request cannot be sent: no host in its URI or headers.
    #[error("the request names no host")]
    NoHost,
}

/// Makes a WebSocket of a connected `stream`: sends `request` with the headers of a handshake
/// (RFC 6455 §4.1), and gives back the stream, what was read of it already, and the response's
/// headers.
///
/// Of `request` counts the path with its query, and the headers: subprotocols offered in
/// `Sec-WebSocket-Protocol` (the server has to choose one), credentials, and `Host` unless the
/// URI has an authority. No task outlives this future; dropping it drops the stream.
///
/// # Errors
/// [`ConnectError`]; [`ConnectError::Refused`] with what the server said.
pub async fn connect<S>(
    stream: S,
    request: Request<()>,
    deadline: Instant,
) -> Result<(S, Bytes, HeaderMap), ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let key = generate_key();
    let request = handshake_request(request, &key)?;
    let offered: Vec<String> = tokens(request.headers(), &SEC_WEBSOCKET_PROTOCOL)
        .map(str::to_owned)
        .collect();

    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Broken)?;
    // hyper's half of the work, done by this future: no task to look after.
    let mut driver = pin!(connection.with_upgrades());
    let mut driving = true;
    let mut drive = |cx: &mut std::task::Context<'_>| {
        if driving && driver.as_mut().poll(cx).is_ready() {
            driving = false;
        }
    };

    let response = alongside(
        &mut drive,
        timeout_at(deadline, sender.send_request(request)),
    )
    .await
    .map_err(|_| ConnectError::Timeout)?
    .map_err(ConnectError::Broken)?;

    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, mut body) = response.into_parts();
        let mut kept = BytesMut::new();
        let reading = async {
            while let Some(Ok(frame)) = body.frame().await {
                if let Some(data) = frame.data_ref() {
                    kept.extend_from_slice(&data[..data.len().min(BODY - kept.len())]);
                }
                if kept.len() == BODY {
                    break;
                }
            }
        };
        // What has come until then is what can be told.
        let _ = alongside(&mut drive, timeout_at(deadline, reading)).await;
        return Err(ConnectError::Refused {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8_lossy(&kept).into_owned(),
        });
    }
    verify(response.headers(), &key, &offered).map_err(ConnectError::NotWebSocket)?;
    let headers = response.headers().clone();
    let upgraded = alongside(
        &mut drive,
        timeout_at(deadline, hyper::upgrade::on(response)),
    )
    .await
    .map_err(|_| ConnectError::Timeout)?
    .map_err(UpgradeError::Gone)?;
    let (stream, already_read) = parts(upgraded)?;
    Ok((stream, already_read, headers))
}

/// Runs `work` while `drive` is polled along with it.
async fn alongside<T>(
    drive: &mut impl FnMut(&mut std::task::Context<'_>),
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        drive(cx);
        let done: Poll<T> = Pin::new(&mut work).poll(cx);
        done
    })
    .await
}

/// The request in origin form with what a handshake needs.
fn handshake_request(
    request: Request<()>,
    key: &str,
) -> Result<Request<Empty<Bytes>>, ConnectError> {
    let (mut head, ()) = request.into_parts();
    if !head.headers.contains_key(HOST) {
        let host = head.uri.authority().ok_or(ConnectError::NoHost)?;
        let host = HeaderValue::from_str(host.as_str()).map_err(|_| ConnectError::NoHost)?;
        head.headers.insert(HOST, host);
    }
    head.uri = match head.uri.path_and_query() {
        Some(path) => Uri::from(path.clone()),
        None => Uri::from_static("/"),
    };
    head.method = Method::GET;
    head.version = Version::HTTP_11;
    let headers = &mut head.headers;
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, VERSION);
    // Base64 of ours, which every header value may hold.
    if let Ok(key) = HeaderValue::from_str(key) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    Ok(Request::from_parts(head, Empty::new()))
}

/// Whether a 101 is the answer to our handshake (RFC 6455 §4.1).
fn verify(headers: &HeaderMap, key: &str, offered: &[String]) -> Result<(), &'static str> {
    if !has_token(headers, &UPGRADE, "websocket") {
        return Err("the header 'Upgrade: websocket' is missing");
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err("the header 'Connection: Upgrade' is missing");
    }
    let expected = derive_accept_key(key.as_bytes());
    if headers
        .get(SEC_WEBSOCKET_ACCEPT)
        .is_none_or(|accept| accept != expected.as_str())
    {
        return Err("'Sec-WebSocket-Accept' does not answer our key");
    }
    if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return Err("it uses an extension we did not offer");
    }
    match headers.get(SEC_WEBSOCKET_PROTOCOL) {
        None if offered.is_empty() => Ok(()),
        None => Err("it speaks none of the subprotocols we offered"),
        Some(chosen) if offered.iter().any(|offer| chosen == offer.as_str()) => Ok(()),
        Some(_) => Err("it chose a subprotocol we did not offer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 §1.3.
    fn request() -> Request<()> {
        Request::get("/firehose/a")
            .header("Connection", "keep-alive, Upgrade")
            .header("Upgrade", "WebSocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap()
    }

    fn refused(change: impl FnOnce(&mut Request<()>)) -> Refusal {
        let mut request = request();
        change(&mut request);
        Handshake::of(&mut request).unwrap_err()
    }

    #[test]
    fn the_answer_is_101_with_four_headers_and_nothing_else() {
        let handshake = Handshake::of(&mut request()).unwrap();
        let response: Response<Empty<Bytes>> = handshake.response(Some("loggregator.link.v1"));
        assert_eq!(response.status(), 101);
        let mut headers: Vec<_> = response
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        assert_eq!(
            headers,
            [
                "connection: Upgrade",
                "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                "sec-websocket-protocol: loggregator.link.v1",
                "upgrade: websocket",
            ]
        );
        assert_eq!(handshake.response::<Empty<Bytes>>(None).headers().len(), 3);
    }

    #[test]
    fn a_missing_upgrade_is_explained() {
        for name in ["connection", "upgrade"] {
            let refusal = refused(|request| {
                request.headers_mut().remove(name);
            });
            assert_eq!(refusal.status, 400);
            assert!(refusal.body.contains("load balancer"), "{}", refusal.body);
            assert!(
                refusal.body.to_lowercase().contains(&format!("'{name}:")),
                "{}",
                refusal.body
            );
        }
    }

    #[test]
    fn only_get_will_do() {
        let refusal = refused(|request| *request.method_mut() = Method::POST);
        assert_eq!(refusal.status, 405);
        assert_eq!(refusal.header, Some((ALLOW, "GET".parse().unwrap())));
    }

    #[test]
    fn another_version_is_told_thirteen() {
        for version in ["8", "0", "", "130", "1 3"] {
            let refusal = refused(|request| {
                let version = version.parse().unwrap();
                request.headers_mut().insert(SEC_WEBSOCKET_VERSION, version);
            });
            assert_eq!(refusal.status, 400, "{version}");
            assert_eq!(refusal.header, Some((SEC_WEBSOCKET_VERSION, VERSION)));
            let response: Response<String> = refusal.response();
            assert_eq!(response.headers()[SEC_WEBSOCKET_VERSION], "13");
        }
    }

    #[test]
    fn a_key_has_to_be_sixteen_bytes_in_base64_and_there_once() {
        for key in [
            "",
            "AAAAAAAAAAAAAAAAAAAA",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZQAA",
            "dGhlIHNhbXBsZSBub25jZQ==A",
            "dGhlIHNhbXBsZSBub25j!Q==",
        ] {
            let refusal = refused(|request| {
                let key = key.parse().unwrap();
                request.headers_mut().insert(SEC_WEBSOCKET_KEY, key);
            });
            assert_eq!(refusal.status, 400, "{key}");
            assert!(refusal.body.contains("Sec-WebSocket-Key"), "{key}");
        }
        refused(|request| {
            request.headers_mut().remove(SEC_WEBSOCKET_KEY);
        });
        refused(|request| {
            let again = "AAAAAAAAAAAAAAAAAAAAAA==".parse().unwrap();
            request.headers_mut().append(SEC_WEBSOCKET_KEY, again);
        });
    }

    #[test]
    fn a_subprotocol_is_offered_on_any_line_in_its_own_spelling() {
        let mut request = request();
        assert!(!offers(&request, "loggregator.link.v1"));
        for line in ["chat, superchat", "other,loggregator.link.v1"] {
            let line = line.parse().unwrap();
            request.headers_mut().append(SEC_WEBSOCKET_PROTOCOL, line);
        }
        assert!(offers(&request, "loggregator.link.v1"));
        assert!(!offers(&request, "Loggregator.Link.v1"));
    }

    #[test]
    fn an_answer_is_verified_header_by_header() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let handshake = Handshake::of(&mut request()).unwrap();
        let good = handshake.response::<()>(Some("a")).headers().clone();
        let offered = ["a".to_owned(), "b".to_owned()];
        assert_eq!(verify(&good, key, &offered), Ok(()));
        for name in [
            UPGRADE,
            CONNECTION,
            SEC_WEBSOCKET_ACCEPT,
            SEC_WEBSOCKET_PROTOCOL,
        ] {
            let mut headers = good.clone();
            headers.remove(&name);
            assert!(verify(&headers, key, &offered).is_err(), "{name}");
        }
        assert!(verify(&good, "AAAAAAAAAAAAAAAAAAAAAA==", &offered).is_err());
        assert!(verify(&good, key, &[]).is_err());
        let mut headers = good.clone();
        headers.insert(
            SEC_WEBSOCKET_EXTENSIONS,
            "permessage-deflate".parse().unwrap(),
        );
        assert!(verify(&headers, key, &offered).is_err());
    }
}
