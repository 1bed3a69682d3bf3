//! PROXY headers, at every listener that a balancer sends them to. The crate `proxy-header` reads
//! the same bytes.

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use transport::proxy_protocol::{LONGEST_BLOCK, LONGEST_LINE, header};

/// How version 2 begins.
const BINARY: u8 = b'\r';

/// What a header is does not depend on how it is cut, nor on what follows it; and who reads it
/// otherwise is more lenient, never of another opinion.
pub(super) fn proxy(bytes: &[u8]) {
    let ours = header(bytes);
    let theirs = ProxyHeader::parse(bytes, ParseConfig::default());
    let header_of = match ours {
        Ok(Some(header)) => header,
        Ok(None) => {
            assert!(bytes.len() < LONGEST_BLOCK, "nobody waits for more");
            assert!(bytes.first() != Some(&b'P') || bytes.len() < LONGEST_LINE);
            // A line is lenient about its first word, so about where it ends.
            assert!(theirs.is_err(), "{theirs:?}");
            return;
        }
        Err(wrong) => {
            let (Some(&BINARY), Ok((_, length))) = (bytes.first(), theirs) else {
                return;
            };
            assert!(length > LONGEST_BLOCK, "{wrong:?}");
            return;
        }
    };
    let length = header_of.length;
    assert!(length <= LONGEST_BLOCK && length <= bytes.len());
    assert!(bytes[0] == BINARY || length <= LONGEST_LINE);
    assert_eq!(header(&bytes[..length]), ours, "without what follows");
    for cut in 0..length {
        assert_eq!(header(&bytes[..cut]), Ok(None), "cut at {cut}");
    }
    if let Ok((theirs, their_length)) = theirs {
        let client = theirs.proxied_address();
        // What is not TCP has no client for us.
        let client = client.filter(|client| client.protocol == Protocol::Stream);
        assert_eq!(length, their_length);
        assert_eq!(header_of.client, client.map(|client| client.source));
    }
}
