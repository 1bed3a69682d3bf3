//! The PROXY protocol, versions 1 and 2: who a client is, said by the balancer in front of us as
//! the first bytes of a connection.
//!
//! In come the first bytes of a socket whose peer must send such a header; out comes whom it
//! names, with the socket standing at the byte behind it. Whoever else sends one is not read here
//! at all: that would let anybody be anybody (§2). A section is one of haproxy's
//! `proxy-protocol.txt`.
//!
//! The published parsers (`ppp`, `proxy-header`, `proxy-protocol-rs`; autumn 2026) are not used:
//! each breaks a rule below (a header cut in the wrong place, a LOCAL that has a family, what may
//! end a line) or reads past the header, which TLS needs. The fuzzer has one of them to compare.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest line of version 1, its end included (§2.1).
pub const LONGEST_LINE: usize = 107;

/// The longest header of version 2 that is taken: 4 KiB. An address takes 52 bytes; balancers add
/// what they know of the client's TLS, certificates at most.
pub const LONGEST_BLOCK: usize = 4_096;

/// How version 1 begins (§2.1).
const LINE: &[u8] = b"PROXY ";

/// How version 2 begins (§2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What every header of version 2 has: signature, version and command, family and protocol,
/// length (§2.2).
const FIXED: usize = SIGNATURE.len() + 4;

/// How much is looked at in one go: what arrives in one segment at the least (§2).
const LOOK: usize = 536;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it has.
    pub length: usize,
    /// The client, unless the balancer speaks for itself (a health check) or does not know.
    pub client: Option<SocketAddr>,
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Something else: TLS, HTTP, anything.
    #[error("it begins like neither version of a PROXY header")]
    NoHeader,
    /// The line of version 1 does not end.
    #[error(
        "a line of version 1 does not end with CRLF within {} bytes",
        LONGEST_LINE
    )]
    EndlessLine,
    /// The line of version 1 is not as it should be.
    #[error("a line of version 1 is not `PROXY TCP4|TCP6 source destination port port`")]
    Line,
    /// Not version 2.
    #[error("its binary form is of another version than 2")]
    Version,
    /// Neither LOCAL nor PROXY.
    #[error("version 2 has no such command")]
    Command,
    /// A family or protocol that is not in the standard.
    #[error("version 2 has no such address family or protocol")]
    Family,
    /// Longer than we take.
    #[error("it says that it has {0} bytes; {most} are taken", most = LONGEST_BLOCK)]
    TooLong(usize),
    /// Shorter than its addresses.
    #[error("it is too short for the addresses it says it has")]
    TooShort,
    /// The connection ended before it did.
    #[error("the connection ended within it")]
    Cut,
}

/// Why no header was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// The socket failed, or ended without a word: so does a balancer that only looks whether
    /// somebody listens.
    #[error("the connection ended before a PROXY header")]
    Socket(#[from] io::Error),
    /// It is not as it should be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Reads the header that `bytes` begin with; `None` if it goes on behind them.
///
/// # Errors
/// What is wrong with it. Nothing that could follow would make it right.
pub fn header(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if begins(bytes, LINE) {
        line(bytes)
    } else if begins(bytes, SIGNATURE) {
        block(bytes)
    } else {
        Err(Malformed::NoHeader)
    }
}

/// Whether `bytes` begin with `start`, as far as they go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let length = bytes.len().min(start.len());
    bytes[..length] == start[..length]
}

/// Version 1, a line of text (§2.1).
fn line(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let some = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = some.windows(2).position(|two| two == b"\r\n") else {
        return match bytes.len() < LONGEST_LINE {
            true => Ok(None),
            false => Err(Malformed::EndlessLine),
        };
    };
    let line = some[..end].strip_prefix(LINE).ok_or(Malformed::Line)?;
    let client = match line.split(|byte| *byte == b' ').next() {
        // What follows it is ignored, whatever it is.
        Some(b"UNKNOWN") => None,
        _ => Some(source(line).ok_or(Malformed::Line)?),
    };
    Ok(Some(Header {
        length: end + 2,
        client,
    }))
}

/// The source in `TCP4 source destination port port`: single spaces, both addresses of that family
/// (§2.1). Rust's addresses have no leading zeroes either.
fn source(line: &[u8]) -> Option<SocketAddr> {
    let mut words = str::from_utf8(line).ok()?.split(' ');
    let [family, source, destination, port, to] = [(); 5].map(|()| words.next().unwrap_or(""));
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let source = SocketAddr::new(address(source)?, number(port)?);
    address(destination)?;
    number(to)?;
    words.next().is_none().then_some(source)
}

/// A port: digits, without a sign or leading zeroes (§2.1).
fn number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading = text.len() > 1 && text.starts_with('0');
    (digits && !leading).then(|| text.parse().ok())?
}

/// Version 2 (§2.2). What stands behind the addresses is skipped, as it may be.
fn block(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else {
        // As early as it can be told.
        return match bytes.get(SIGNATURE.len()) {
            Some(version) if version >> 4 != 2 => Err(Malformed::Version),
            _ => Ok(None),
        };
    };
    let (version, command) = (fixed[12] >> 4, fixed[12] & 0xF);
    let (family, protocol) = (fixed[13] >> 4, fixed[13] & 0xF);
    let behind = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let length = FIXED + behind;
    let addresses = match (version, command, family, protocol) {
        (0..=1 | 3.., ..) => return Err(Malformed::Version),
        // LOCAL: who connected is meant, and the rest ignored, its family included.
        (2, 0, ..) => 0,
        (2, 2.., ..) => return Err(Malformed::Command),
        (2, 1, 4.., _) | (2, 1, _, 3..) => return Err(Malformed::Family),
        (2, 1, 1, 1) => 4,
        (2, 1, 2, 1) => 16,
        // Not TCP, or not known: as if nothing were said.
        (2, 1, 0..=3, 0..=2) => 0,
    };
    if length > LONGEST_BLOCK {
        return Err(Malformed::TooLong(length));
    }
    if behind < 2 * addresses + 4 && addresses > 0 {
        return Err(Malformed::TooShort);
    }
    let Some(rest) = rest.get(..behind) else {
        return Ok(None);
    };
    let client = match addresses {
        0 => None,
        size => Some(sender(rest, size).ok_or(Malformed::TooShort)?),
    };
    Ok(Some(Header { length, client }))
}

/// The source of two addresses of that size and their ports (§2.2).
fn sender(block: &[u8], size: usize) -> Option<SocketAddr> {
    let port = block.get(2 * size..)?.first_chunk().copied()?;
    let address = match size {
        4 => IpAddr::from(*block.first_chunk::<4>()?),
        _ => IpAddr::from(*block.first_chunk::<16>()?),
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(port)))
}

/// Reads the header that a socket must begin with, and not a byte more. It may arrive in any
/// number of pieces (§2). Who calls it says how long that may take.
pub(crate) async fn read(tcp: &mut TcpStream) -> Result<Option<SocketAddr>, Unread> {
    let mut held = Vec::new();
    loop {
        let before = held.len();
        held.resize(before + LOOK, 0);
        // What is only looked at stays for TLS, if it is no header's.
        let came = tcp.peek(&mut held[before..]).await?;
        held.truncate(before + came);
        let header = match came {
            0 if before == 0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            0 => return Err(Malformed::Cut.into()),
            _ => header(&held)?,
        };
        // All of it is the header's, or it would have ended there. So each turn takes something,
        // and the next one waits for what is new.
        let length = header.map_or(held.len(), |header| header.length);
        tcp.read_exact(&mut held[before..length]).await?;
        if let Some(header) = header {
            return Ok(header.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// How what comes behind a header may begin.
    const TLS: u8 = 0x16;

    const TCP4: &str = "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n";

    fn client(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    fn whole(length: usize, client: Option<SocketAddr>) -> Result<Option<Header>, Malformed> {
        Ok(Some(Header { length, client }))
    }

    /// A header of version 2.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    /// The addresses of version 2 for 192.0.2.7:56324, and for [2001:db8::7]:56324.
    fn v4() -> Vec<u8> {
        [192, 0, 2, 7, 10, 0, 0, 1, 0xDC, 0x04, 1, 0xBB].to_vec()
    }

    fn v6() -> Vec<u8> {
        let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let ports = [0xDC, 0x04, 1, 0xBB];
        [&source.octets()[..], &[0xFD; 16], &ports].concat()
    }

    #[test]
    fn a_line_names_the_client() {
        let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        for (line, named) in [
            (TCP4, client("192.0.2.7:56324")),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                client("255.255.255.255:65535"),
            ),
            (
                "PROXY TCP6 2001:db8::7 ::1 0 1\r\n",
                client("[2001:db8::7]:0"),
            ),
            (
                &format!("PROXY TCP6 {long} {long} 65535 65535\r\n"),
                client(&format!("[{long}]:65535")),
            ),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN who knows \u{fffd}\n \r\n", None),
            (
                &format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n"),
                None,
            ),
        ] {
            assert_eq!(header(line.as_bytes()), whole(line.len(), named), "{line}");
            let followed = format!("{line}GET / HTTP/1.1\r\n\r\n");
            assert_eq!(
                header(followed.as_bytes()),
                whole(line.len(), named),
                "{line}"
            );
        }
    }

    #[test]
    fn a_line_that_is_not_exactly_one_is_refused() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY tcp4 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY  TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7  10.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 2 \r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\r\n",
            "PROXY TCP4 192.0.2.07 10.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2 10.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 ::1 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 2\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 -2\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 \u{661} 2\r\n",
        ] {
            assert_eq!(header(line.as_bytes()), Err(Malformed::Line), "{line}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(LONGEST_LINE - 14));
        assert_eq!(header(&endless.as_bytes()[1..]), Err(Malformed::NoHeader));
        assert_eq!(header(&endless.as_bytes()[..LONGEST_LINE - 1]), Ok(None));
        assert_eq!(header(endless.as_bytes()), Err(Malformed::EndlessLine));
        // Its end comes too late.
        let late = format!("{endless}\r\n");
        assert_eq!(header(late.as_bytes()), Err(Malformed::EndlessLine));
    }

    #[test]
    fn a_block_names_the_client_whatever_stands_behind_the_addresses() {
        for (addresses, family, named) in [
            (v4(), 0x11, "192.0.2.7:56324"),
            (v6(), 0x21, "[2001:db8::7]:56324"),
        ] {
            for more in [&b""[..], b"x", &[0x04, 0, 1, 7], &[0xFF; 1_000]] {
                let rest = [&addresses[..], more].concat();
                let block = binary(0x21, family, &rest);
                let length = block.len();
                assert_eq!(header(&block), whole(length, client(named)));
                let followed = [&block[..], &[TLS, 3, 1]].concat();
                assert_eq!(header(&followed), whole(length, client(named)));
            }
            let short = binary(0x21, family, &addresses[1..]);
            assert_eq!(header(&short), Err(Malformed::TooShort));
        }
    }

    #[test]
    fn a_block_that_speaks_for_the_balancer_or_of_no_tcp_names_nobody() {
        // LOCAL, with whatever family and length.
        for family in [0x00, 0x11, 0x21, 0x31, 0xFF] {
            for rest in [vec![], v4(), vec![1, 2, 3]] {
                let block = binary(0x20, family, &rest);
                assert_eq!(header(&block), whole(block.len(), None), "{family:#x}");
            }
        }
        // Unknown, UDP, UNIX.
        for family in [0x00, 0x01, 0x10, 0x12, 0x20, 0x22, 0x31, 0x32] {
            let block = binary(0x21, family, &[7; 216]);
            assert_eq!(header(&block), whole(block.len(), None), "{family:#x}");
        }
    }

    #[test]
    fn a_block_of_another_version_command_or_family_is_refused() {
        for (command, family, wrong) in [
            (0x11, 0x11, Malformed::Version),
            (0x31, 0x11, Malformed::Version),
            (0x01, 0x11, Malformed::Version),
            (0x22, 0x11, Malformed::Command),
            (0x2F, 0x00, Malformed::Command),
            (0x21, 0x13, Malformed::Family),
            (0x21, 0x41, Malformed::Family),
            (0x21, 0xFF, Malformed::Family),
        ] {
            let block = binary(command, family, &v4());
            assert_eq!(header(&block), Err(wrong), "{command:#x} {family:#x}");
        }
        // As early as it can be told: nobody waits for the rest.
        let early = [SIGNATURE, &[0x11]].concat();
        assert_eq!(header(&early), Err(Malformed::Version));
    }

    #[test]
    fn a_block_that_says_it_is_too_long_is_refused_before_it_comes() {
        let longest = binary(0x21, 0x11, &[0; LONGEST_BLOCK - FIXED]);
        assert_eq!(header(&longest).unwrap().unwrap().length, LONGEST_BLOCK);
        let mut longer = binary(0x21, 0x11, &[0; LONGEST_BLOCK - FIXED + 1]);
        longer.truncate(FIXED);
        let wrong = Err(Malformed::TooLong(LONGEST_BLOCK + 1));
        assert_eq!(header(&longer), wrong);
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
        for (good, wrong) in [
            (&b""[..], b'G'),
            (b"", TLS),
            (b"", 0),
            (b"PROX", b'X'),
            (b"PROXY", b'\t'),
            (b"\r\n\r\n", b'Q'),
            (b"\r\n\r\n\0\r\nQUIT", b'\r'),
        ] {
            assert_eq!(header(good), Ok(None), "{good:?}");
            let bytes = [good, &[wrong]].concat();
            assert_eq!(header(&bytes), Err(Malformed::NoHeader), "{bytes:?}");
        }
    }

    fn good() -> impl Strategy<Value = (Vec<u8>, Option<SocketAddr>)> {
        let line = (any::<SocketAddr>(), any::<u16>()).prop_map(|(mut from, to)| {
            if let SocketAddr::V6(v6) = &mut from {
                v6.set_scope_id(0);
                v6.set_flowinfo(0);
            }
            let (family, here) = match from {
                SocketAddr::V4(_) => ("TCP4", "10.0.0.1"),
                SocketAddr::V6(_) => ("TCP6", "fd00::1"),
            };
            let (ip, port) = (from.ip(), from.port());
            let line = format!("PROXY {family} {ip} {here} {port} {to}\r\n");
            (line.into_bytes(), Some(from))
        });
        let more = proptest::collection::vec(any::<u8>(), 0..600);
        let block = (any::<SocketAddr>(), more).prop_map(|(from, more)| {
            let (family, mut rest) = match from.ip() {
                IpAddr::V4(ip) => (0x11, [ip.octets(), [9; 4]].concat()),
                IpAddr::V6(ip) => (0x21, [ip.octets(), [9; 16]].concat()),
            };
            rest.extend(from.port().to_be_bytes());
            rest.extend([1, 187]);
            rest.extend(more);
            let named = SocketAddr::new(from.ip(), from.port());
            (binary(0x21, family, &rest), Some(named))
        });
        let local = proptest::collection::vec(any::<u8>(), 0..600)
            .prop_map(|rest| (binary(0x20, 0, &rest), None));
        prop_oneof![line, block, local]
    }

    proptest! {
        #[test]
        fn a_header_is_read_wherever_it_is_cut_and_whatever_follows(
            (bytes, named) in good(),
            behind in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let all = [&bytes[..], &behind].concat();
            prop_assert_eq!(header(&all), whole(bytes.len(), named));
            for cut in 0..bytes.len() {
                prop_assert_eq!(header(&bytes[..cut]), Ok(None), "cut at {}", cut);
            }
        }

        #[test]
        fn no_bytes_are_a_header_longer_than_they_are_or_than_it_may_be(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                "PROXY (TCP4|TCP6|UNKNOWN)[ 0-9a-f:.\r\n]{0,120}".prop_map(String::into_bytes),
                proptest::collection::vec(any::<u8>(), 0..300)
                    .prop_map(|rest| [SIGNATURE, &rest].concat()),
            ],
        ) {
            if let Ok(read) = header(&bytes) {
                let length = read.map_or(bytes.len(), |read| read.length);
                prop_assert!(length <= bytes.len() && length <= LONGEST_BLOCK);
            }
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(listener.accept(), far);
        let far = far.unwrap();
        far.set_nodelay(true).unwrap();
        (near.unwrap().0, far)
    }

    #[tokio::test]
    async fn exactly_the_header_is_taken_from_the_socket() {
        for bytes in [
            TCP4.as_bytes().to_vec(),
            binary(0x21, 0x11, &v4()),
            binary(0x21, 0x11, &[&v4()[..], &[7; 3_000]].concat()),
        ] {
            let (mut near, mut far) = pair().await;
            far.write_all(&[&bytes[..], b"hello"].concat())
                .await
                .unwrap();
            let named = read(&mut near).await.unwrap();
            assert_eq!(named, client("192.0.2.7:56324"));
            let mut rest = [0; 5];
            near.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"hello");
        }
    }

    #[tokio::test]
    async fn a_header_may_come_byte_by_byte() {
        for bytes in [TCP4.as_bytes().to_vec(), binary(0x21, 0x21, &v6())] {
            let (mut near, mut far) = pair().await;
            let write = async {
                for byte in &bytes {
                    far.write_u8(*byte).await.unwrap();
                    // The reader has to see each by itself: it has nothing to wait for but us.
                    tokio::task::yield_now().await;
                }
            };
            let (named, ()) = tokio::join!(read(&mut near), write);
            assert_eq!(named.unwrap().unwrap().port(), 56324);
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_its_header_is_told_from_one_that_says_nothing() {
        let (mut near, far) = pair().await;
        drop(far);
        assert!(matches!(read(&mut near).await, Err(Unread::Socket(_))));
        let (mut near, mut far) = pair().await;
        far.write_all(b"PROXY TCP4 ").await.unwrap();
        drop(far);
        let cut = read(&mut near).await;
        assert!(
            matches!(cut, Err(Unread::Malformed(Malformed::Cut))),
            "{cut:?}"
        );
    }
}
