//! The HTTP client against servers that behave, and servers that do not.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use transport::http::{Answer, Base, CallError, Client, Limits};
use transport::listener::Dialer;

const LIMITS: Limits = Limits {
    within: Duration::from_secs(5),
    body: 1024,
};

/// A server, and a client of it.
async fn server() -> (TcpListener, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, client(&url))
}

fn client(url: &str) -> Client {
    let dialer = Dialer::new(None, Duration::from_secs(10));
    Client::new(Base::parse(url).unwrap(), dialer).unwrap()
}

async fn get(client: &Client) -> Result<Answer, CallError> {
    let (headers, body) = (HeaderMap::new(), Bytes::new());
    client.call(Method::GET, "/x", headers, body, LIMITS).await
}

/// Reads one request without a body.
async fn head(tcp: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(tcp.read_u8().await.unwrap());
    }
    String::from_utf8(read).unwrap()
}

/// Answers one request with these bytes, and says what the client made of them.
async fn given(answer: &[u8]) -> Result<Answer, CallError> {
    let (listener, client) = server().await;
    let serve = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        head(&mut tcp).await;
        tcp.write_all(answer).await.unwrap();
        tcp.shutdown().await.unwrap();
        tcp
    };
    let (answer, _) = tokio::join!(get(&client), serve);
    answer
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let (listener, client) = server().await;
    let serve = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            assert!(head(&mut tcp).await.starts_with("GET /x HTTP/1.1\r\n"));
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
                .await
                .unwrap();
        }
    };
    let calls = async {
        for _ in 0..2 {
            let answer = get(&client).await.unwrap();
            assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &b"hi"[..]));
        }
    };
    tokio::join!(serve, calls);
}

#[tokio::test]
async fn method_headers_and_body_arrive_below_the_path_of_the_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = client(&format!("http://{address}/uaa/"));
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic x"));
    let body = Bytes::from_static(b"token=t");
    let call = client.call(Method::POST, "/check_token?a=b", headers, body, LIMITS);
    let serve = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let head = head(&mut tcp).await;
        let mut body = [0; 7];
        tcp.read_exact(&mut body).await.unwrap();
        tcp.write_all(b"HTTP/1.1 204 \r\n\r\n").await.unwrap();
        (head, body)
    };
    let (answer, (head, body)) = tokio::join!(call, serve);
    assert_eq!(answer.unwrap().status, StatusCode::NO_CONTENT);
    assert_eq!(&body, b"token=t");
    let mut lines: Vec<_> = head.trim_end().split("\r\n").collect();
    lines.sort_unstable();
    let host = format!("host: {address}");
    let sorted = [
        "POST /uaa/check_token?a=b HTTP/1.1",
        "authorization: Basic x",
        "content-length: 7",
        host.as_str(),
    ];
    assert_eq!(lines, sorted);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (other, _) = server().await;
    let location = other.local_addr().unwrap();
    let answer = format!("HTTP/1.1 302 x\r\nlocation: http://{location}/\r\n\r\n");
    let answer = given(answer.as_bytes()).await.unwrap();
    assert_eq!(answer.status, StatusCode::FOUND);
    let followed = tokio::time::timeout(Duration::ZERO, other.accept()).await;
    assert!(followed.is_err());
}

#[tokio::test]
async fn a_body_that_says_it_is_too_long_is_not_read() {
    let answer = given(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await;
    assert!(matches!(
        answer,
        Err(CallError::TooLarge { limit: 1024, .. })
    ));
}

#[tokio::test]
async fn a_body_without_end_is_cut_off_with_its_connection() {
    let (listener, client) = server().await;
    let serve = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut sent = 0_usize;
        while let Ok(()) = tcp.write_all(&[b'x'; 4096]).await {
            sent += 4096;
        }
        sent
    };
    let (answer, sent) = tokio::join!(get(&client), serve);
    assert!(matches!(answer, Err(CallError::TooLarge { .. })));
    assert!(sent < 64 << 20, "{sent}"); // what two kernels hold, and no more
}

#[tokio::test]
async fn what_is_not_http_or_breaks_off_is_an_error_that_says_so() {
    let answer = given(b"SSH-2.0-OpenSSH\r\n").await;
    assert!(matches!(answer, Err(CallError::Exchange { .. })));
    let answer = given(b"").await;
    assert!(matches!(answer, Err(CallError::Exchange { .. })));
    let answer = given(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi").await;
    assert!(matches!(answer, Err(CallError::Body { .. })));
}

#[tokio::test]
async fn nobody_there_is_an_error_that_names_the_server() {
    let (listener, client) = server().await;
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = get(&client).await.unwrap_err();
    assert!(matches!(error, CallError::Connect { .. }));
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_and_one_that_drips_end_at_the_same_deadline() {
    let (listener, client) = server().await;
    let silent = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        head(&mut tcp).await;
        std::future::pending().await
    };
    tokio::select! {
        answer = get(&client) => {
            let error = answer.unwrap_err().to_string();
            assert!(error.ends_with("5s: still waiting for an answer"), "{error}");
        }
        () = silent => {}
    }
    let dripping = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n")
            .await
            .unwrap();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            _ = tcp.write_u8(b'x').await;
        }
    };
    tokio::select! {
        answer = get(&client) => {
            let error = answer.unwrap_err().to_string();
            assert!(error.ends_with("5s: still reading the answer"), "{error}");
        }
        () = dripping => {}
    }
}

#[test]
fn a_url_says_where_a_server_is_and_nothing_else() {
    let base = Base::parse("https://[::1]:8443").unwrap();
    assert_eq!((base.host(), base.is_https()), ("::1", true));
    assert!(base.server_name().is_ok());
    assert_eq!(Base::parse("http://uaa").unwrap().host(), "uaa");
    for bad in [
        "",
        "uaa",
        "uaa:8443",
        "ftp://uaa",
        "https://",
        "https://me:secret@uaa",
        "https://uaa/?secret",
        "https://uaa/#secret",
    ] {
        let error = Base::parse(bad).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
    let dialer = Dialer::new(None, LIMITS.within);
    assert!(Client::new(Base::parse("https://uaa").unwrap(), dialer).is_err());
}
