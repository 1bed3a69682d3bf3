//! A server that gives every request the same answer and remembers what it was asked: for tests
//! of whoever asks UAA and Cloud Controller.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use transport::http::{Base, Client};
use transport::listener::Dialer;

pub(super) struct Fake {
    url: String,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

/// A proper answer.
pub(super) fn answer(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

impl Fake {
    /// Answers each request with these bytes, and keeps the connection.
    pub(super) async fn answering(answer: impl Into<Vec<u8>>) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new(answer.into()));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let task = tokio::spawn({
            let (answer, asked) = (answer.clone(), asked.clone());
            async move {
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(tcp, answer.clone(), asked.clone()));
                }
            }
        });
        Fake {
            url,
            answer,
            asked,
            task,
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn client(&self) -> Client {
        let dialer = Dialer::new(None, Duration::from_secs(10));
        Client::new(Base::parse(&self.url).unwrap(), dialer).unwrap()
    }

    /// From now on it answers this.
    pub(super) fn answers(&self, answer: impl Into<Vec<u8>>) {
        *self.answer.lock().unwrap() = answer.into();
    }

    /// The requests so far, whole.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Nobody listens any more.
    pub(super) async fn leave(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

async fn serve(mut tcp: TcpStream, answer: Arc<Mutex<Vec<u8>>>, asked: Arc<Mutex<Vec<String>>>) {
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match tcp.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(request.clone()).unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        if tcp.read_exact(&mut body).await.is_err() {
            return;
        }
        request.extend(body);
        asked
            .lock()
            .unwrap()
            .push(String::from_utf8(request).unwrap());
        let answer = answer.lock().unwrap().clone();
        if tcp.write_all(&answer).await.is_err() {
            return;
        }
    }
}
