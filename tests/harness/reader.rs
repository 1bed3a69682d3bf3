//! A client that reads a stream, and shares no code with ours: tokio-tungstenite for the
//! WebSocket, prost for envelopes.

use crate::eventually;
use crate::seen::Seen;
use crate::stream::{Stream, Tls};
use futures::{SinkExt, StreamExt};
use proto::v1::Envelope;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// How a reader is opened.
pub struct Opening {
    address: SocketAddr,
    tls: Option<Tls>,
    path: String,
    headers: Vec<(&'static str, String)>,
    receive_buffer: Option<u32>,
    only: Option<u32>,
    observe: Option<Observe>,
}

/// Is shown every envelope as it arrives.
pub type Observe = Box<dyn FnMut(&Envelope) + Send>;

/// The server's answer where it was not a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status; 0 if there was no HTTP.
    pub status: u16,
    /// The body as text, or what went wrong.
    pub body: String,
}

/// A stream being read.
pub struct Reader {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    stalled: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// Marked envelopes, to be asked without the lock.
    marked: AtomicU64,
    seen: Mutex<Seen>,
    ended: Mutex<Option<Ended>>,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The server closed with this code and reason; `None` for an empty Close.
    Closed(Option<u16>, String),
    /// The connection ended without a Close.
    Broken(String),
}

enum Command {
    Close(Option<u16>),
    Send(Message),
}

impl Opening {
    /// A reader of `path` at `address`.
    pub fn new(address: SocketAddr, tls: Option<Tls>, path: impl Into<String>) -> Opening {
        Opening {
            address,
            tls,
            path: path.into(),
            headers: Vec::new(),
            receive_buffer: None,
            only: None,
            observe: None,
        }
    }

    /// Asks for logs only, or for metrics only.
    pub fn filter(mut self, filter: &str) -> Opening {
        self.path = format!("{}?filter-type={filter}", self.path);
        self
    }

    /// Shows this token.
    pub fn token(self, token: &str) -> Opening {
        self.header("authorization", &format!("bearer {token}"))
    }

    /// Sends another header.
    pub fn header(mut self, name: &'static str, value: &str) -> Opening {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Lets the kernel keep only about so many bytes that this reader has not read. Fewer than
    /// 64 KiB, a segment of loopback, make it slow.
    pub fn receive_buffer(mut self, bytes: u32) -> Opening {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Expects envelopes of this app only.
    pub fn only(mut self, app: u32) -> Opening {
        self.only = Some(app);
        self
    }

    /// Shows every envelope to `observe` as it arrives.
    pub fn observe(mut self, observe: impl FnMut(&Envelope) + Send + 'static) -> Opening {
        self.observe = Some(Box::new(observe));
        self
    }

    /// Connects and begins to read.
    pub async fn open(self) -> Reader {
        let path = self.path.clone();
        match self.try_open().await {
            Ok(reader) => reader,
            Err(refused) => panic!("{path} was refused: {refused:?}"),
        }
    }

    /// Connects and begins to read, or returns what the server answered.
    pub async fn try_open(self) -> Result<Reader, Refused> {
        let broken = |error: &dyn std::error::Error| Refused {
            status: 0,
            body: error.to_string(),
        };
        let stream = Stream::connect(self.address, self.tls.as_ref(), self.receive_buffer).await;
        let stream = stream.map_err(|error| broken(&error))?;
        let mut request = format!("ws://{}{}", self.address, self.path)
            .into_client_request()
            .unwrap();
        for (name, value) in &self.headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let config = WebSocketConfig::default().read_buffer_size(16 << 10);
        let socket = match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => socket,
            Err(Error::Http(response)) => {
                return Err(Refused {
                    status: response.status().as_u16(),
                    body: String::from_utf8_lossy(response.body().as_deref().unwrap_or_default())
                        .into_owned(),
                });
            }
            Err(error) => return Err(broken(&error)),
        };
        let shared = Arc::new(Shared::default());
        let (commands, orders) = mpsc::channel(16);
        let (stalled, stall) = watch::channel(false);
        let reading = Reading {
            socket,
            shared: shared.clone(),
            stall,
            orders,
            only: self.only,
            observe: self.observe,
        };
        Ok(Reader {
            shared,
            commands,
            stalled,
            task: tokio::spawn(reading.run()),
        })
    }
}

impl Reader {
    /// How many marked envelopes have arrived.
    pub fn received(&self) -> u64 {
        self.shared.marked.load(Ordering::Relaxed)
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Looks at what was seen so far without copying it.
    pub fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.shared.seen.lock().unwrap())
    }

    /// Reads no more until [`Reader::resume`].
    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    /// Reads on.
    pub fn resume(&self) {
        self.stalled.send_replace(false);
    }

    /// Sends a message to the server.
    pub async fn send(&self, message: Message) {
        // A reader that has ended sends nothing.
        let _ = self.commands.send(Command::Send(message)).await;
    }

    /// Closes with that code and waits for the server's Close.
    pub async fn close(&self, code: Option<u16>) -> Ended {
        let _ = self.commands.send(Command::Close(code)).await;
        self.ended(Duration::from_secs(10)).await
    }

    /// Hangs up without a word.
    pub async fn cut(mut self) -> Seen {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.shared.seen.lock().unwrap().clone()
    }

    /// How the stream ended, if it has.
    pub fn is_over(&self) -> Option<Ended> {
        self.shared.ended.lock().unwrap().clone()
    }

    /// Waits for the end of the stream.
    #[track_caller]
    pub fn ended(&self, deadline: Duration) -> impl Future<Output = Ended> + '_ {
        let ended = eventually(deadline, "the stream ends", async || {
            self.is_over().is_some()
        });
        async move {
            ended.await;
            self.is_over().expect("just asked")
        }
    }

    /// Waits until so many marked envelopes have arrived; panics with what did if they do not
    /// come in time.
    #[track_caller]
    pub fn receives(&self, marked: u64, deadline: Duration) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            if !crate::within(deadline, async || self.received() >= marked).await {
                let (seen, ended) = (self.seen(), self.is_over());
                panic!(
                    "{} of {marked} envelopes within {deadline:?}, told of {} lost, ended: {ended:?} (asked at {caller})",
                    seen.marked,
                    seen.told(),
                );
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Reading {
    socket: WebSocketStream<Stream>,
    shared: Arc<Shared>,
    stall: watch::Receiver<bool>,
    orders: mpsc::Receiver<Command>,
    only: Option<u32>,
    observe: Option<Observe>,
}

impl Reading {
    async fn run(mut self) {
        let ended = loop {
            let stalled = *self.stall.borrow_and_update();
            tokio::select! {
                message = self.socket.next(), if !stalled => match message {
                    Some(Ok(message)) => {
                        if let Some(ended) = self.take(message) {
                            // The answer to a Close is tungstenite's to send.
                            let _ = self.socket.flush().await;
                            break ended;
                        }
                    }
                    Some(Err(error)) => break Ended::Broken(error.to_string()),
                    None => break Ended::Broken("end of stream".to_owned()),
                },
                changed = self.stall.changed() => if changed.is_err() {
                    return;
                },
                order = self.orders.recv() => {
                    let sent = match order {
                        Some(Command::Send(message)) => self.socket.send(message).await,
                        Some(Command::Close(code)) => {
                            let frame = code.map(|code| CloseFrame { code: CloseCode::from(code), reason: "".into() });
                            self.socket.close(frame).await
                        }
                        None => return,
                    };
                    if let Err(error) = sent {
                        break Ended::Broken(error.to_string());
                    }
                }
            }
        };
        *self.shared.ended.lock().unwrap() = Some(ended);
        // The connection stays until the reader is dropped: it is the server that hangs up.
        std::future::pending::<()>().await;
    }

    fn take(&mut self, message: Message) -> Option<Ended> {
        match message {
            Message::Binary(bytes) => {
                let mut seen = self.shared.seen.lock().unwrap();
                let envelope = seen.take(&bytes, self.only);
                self.shared.marked.store(seen.marked, Ordering::Relaxed);
                drop(seen);
                if let (Some(observe), Some(envelope)) = (&mut self.observe, &envelope) {
                    observe(envelope);
                }
                None
            }
            Message::Close(None) => Some(Ended::Closed(None, String::new())),
            Message::Close(Some(frame)) => Some(Ended::Closed(
                Some(frame.code.into()),
                frame.reason.to_string(),
            )),
            Message::Text(text) => {
                self.shared
                    .seen
                    .lock()
                    .unwrap()
                    .strange
                    .push(format!("a text: {text}"));
                None
            }
            // tungstenite answers pings.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => None,
        }
    }
}
