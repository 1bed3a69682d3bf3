//! A DNS server over UDP that says what a test has it say: enough of RFC 1035 and RFC 2782 for
//! questions about addresses and services.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const A: u16 = 1;
const SRV: u16 = 33;

/// What is known of a name.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A host's addresses.
    Addresses(Vec<Ipv4Addr>),
    /// A service's ports and hosts.
    Service(Vec<(u16, String)>),
    /// The server cannot tell: RCODE 2.
    ServerFailure,
    /// There is no such name: RCODE 3.
    NoSuchName,
    /// Nothing at all.
    Silence,
}

/// A running server. Dropping it ends it.
pub struct Dns {
    /// Where it is asked.
    pub address: SocketAddr,
    zone: Arc<Mutex<HashMap<String, Answer>>>,
    questions: Arc<Mutex<HashMap<String, usize>>>,
    task: JoinHandle<()>,
}

impl Dns {
    /// A server that knows no name; its answers are good for `ttl` seconds.
    pub async fn start(ttl: u32) -> Dns {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(HashMap::new()));
        let questions = Arc::new(Mutex::new(HashMap::new()));
        let (known, asked) = (zone.clone(), questions.clone());
        let task = tokio::spawn(async move {
            let mut message = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut message).await {
                let Some((name, kind, end)) = question(&message[..length]) else {
                    continue;
                };
                *asked.lock().unwrap().entry(name.clone()).or_insert(0) += 1;
                let answer = known.lock().unwrap().get(&name).cloned();
                let answer = answer.unwrap_or(Answer::NoSuchName);
                if let Some(reply) = reply(&message[..end], kind, &answer, ttl) {
                    // A peer that is gone asks no more.
                    let _ = socket.send_to(&reply, peer).await;
                }
            }
        });
        Dns {
            address,
            zone,
            questions,
            task,
        }
    }

    /// From now on that is the answer.
    pub fn set(&self, name: &str, answer: Answer) {
        self.zone.lock().unwrap().insert(name.to_owned(), answer);
    }

    /// How often it was asked for that name.
    pub fn asked(&self, name: &str) -> usize {
        let questions = self.questions.lock().unwrap();
        questions.get(name).copied().unwrap_or_default()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The name asked for, the kind of record, and where the question ends.
fn question(message: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = std::str::from_utf8(message.get(at..at + length)?).ok()?;
        labels.push(label.to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}

fn reply(question: &[u8], kind: u16, answer: &Answer, ttl: u32) -> Option<Vec<u8>> {
    let (code, records) = match answer {
        Answer::Silence => return None,
        Answer::ServerFailure => (2, vec![]),
        Answer::NoSuchName => (3, vec![]),
        Answer::Addresses(addresses) if kind == A => {
            let records = addresses.iter().map(|it| it.octets().to_vec());
            (0, records.collect())
        }
        Answer::Service(hosts) if kind == SRV => {
            let record = |(port, host): &(u16, String)| {
                // Priority and weight.
                let mut record = vec![0, 0, 0, 0];
                record.extend(port.to_be_bytes());
                for label in host.split('.') {
                    record.push(label.len() as u8);
                    record.extend(label.as_bytes());
                }
                record.push(0);
                record
            };
            (0, hosts.iter().map(record).collect::<Vec<_>>())
        }
        // The name is there and has no such record.
        Answer::Addresses(_) | Answer::Service(_) => (0, vec![]),
    };
    let mut reply = question.to_vec();
    // A response, with recursion desired and available.
    reply[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    reply[4..6].copy_from_slice(&[0, 1]);
    reply[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    reply[8..12].fill(0);
    for record in records {
        // The question's name, class IN.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend((record.len() as u16).to_be_bytes());
        reply.extend(record);
    }
    Some(reply)
}
