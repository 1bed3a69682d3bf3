//! A UAA or Cloud Controller that answers as a test says, over HTTP/1.1 by hand, so that the
//! client is not checked against its own library. It keeps what it was asked.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use transport::listener::{Acceptor, Stream};
use transport::tls::{self, HTTP_1_1, Identity};

pub(crate) struct Authority {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The head of the request.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Status line without the version, headers, body.
pub(crate) type Answer = (&'static str, String, String);

pub(crate) fn json(body: impl ToString) -> Answer {
    ("200 OK", String::new(), body.to_string())
}

impl Asked {
    /// Method and path with its query.
    pub(crate) fn line(&self) -> &str {
        let line = self.head.lines().next().unwrap();
        line.strip_suffix(" HTTP/1.1").unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl Authority {
    pub(crate) async fn start(answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> Authority {
        Authority::bind(None, answer).await
    }

    pub(crate) async fn start_tls(
        identity: &Identity,
        answer: impl FnMut(&Asked) -> Answer + Send + 'static,
    ) -> Authority {
        Authority::bind(Some(identity), answer).await
    }

    async fn bind(
        identity: Option<&Identity>,
        answer: impl FnMut(&Asked) -> Answer + Send + 'static,
    ) -> Authority {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if identity.is_some() { "https" } else { "http" };
        let url = format!(
            "{scheme}://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        let tls = identity.map(|identity| tls::server(identity, None, &[HTTP_1_1]).unwrap());
        let acceptor = Acceptor::new(tls.map(Into::into));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let keeps = asked.clone();
        let answer = Arc::new(Mutex::new(answer));
        tokio::spawn(async move {
            loop {
                let (tcp, peer) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(tcp, peer).await else {
                    continue;
                };
                let (keeps, answer) = (keeps.clone(), answer.clone());
                tokio::spawn(async move {
                    let Some(request) = request(&mut stream).await else {
                        return;
                    };
                    keeps.lock().unwrap().push(request.clone());
                    let (status, headers, body) = (answer.lock().unwrap())(&request);
                    let answer = format!(
                        "HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\
                         Content-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    _ = stream.write_all(answer.as_bytes()).await;
                    _ = stream.shutdown().await;
                    // Hanging up first could take the answer back.
                    _ = stream.read_u8().await;
                });
            }
        });
        Authority { url, asked }
    }

    /// All so far, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let asked = self.asked();
        asked.iter().map(|asked| asked.line().to_owned()).collect()
    }
}

async fn request(stream: &mut Stream) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut asked = Asked {
        head,
        body: String::new(),
    };
    let length = asked.header("content-length");
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    asked.body = String::from_utf8(body).unwrap();
    Some(asked)
}
