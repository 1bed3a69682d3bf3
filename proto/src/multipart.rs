//! Several envelopes in one HTTP answer, as `recentlogs` and `containermetrics` give them.
//!
//! Serialized v1 envelopes come in, a body goes out, with the `Content-Type` that names its
//! boundary. Clients do not parse this as RFC 2046 would have it: cf-java-client looks for exact
//! byte sequences, cf-python-client and noaa take all behind `boundary=`. So there are no part
//! headers, no quotes, and nothing after the boundary.

use std::fmt::Write;

/// Random bytes in a boundary: two hex digits for each, as many as Go writes.
pub const BOUNDARY_BYTES: usize = 30;

/// What stands between the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary(String);

impl Boundary {
    /// A boundary of random bytes. They must not be guessable by who writes envelopes, or a log
    /// line could look like an end.
    pub fn new(random: [u8; BOUNDARY_BYTES]) -> Boundary {
        let mut text = String::with_capacity(2 * BOUNDARY_BYTES);
        for byte in random {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Boundary(text)
    }

    /// The `Content-Type` of a body with this boundary.
    pub fn content_type(&self) -> String {
        format!("multipart/x-protobuf; boundary={}", self.0)
    }

    /// The body.
    pub fn body<P: AsRef<[u8]>>(&self, parts: &[P]) -> Vec<u8> {
        let around = "\r\n--\r\n\r\n".len() + self.0.len();
        let length: usize = parts.iter().map(|part| part.as_ref().len() + around).sum();
        let mut body = Vec::with_capacity(length + around);
        for (n, part) in parts.iter().enumerate() {
            if n > 0 {
                body.extend_from_slice(b"\r\n");
            }
            for piece in [b"--", self.0.as_bytes(), b"\r\n\r\n", part.as_ref()] {
                body.extend_from_slice(piece);
            }
        }
        for piece in ["\r\n--", &self.0, "--\r\n"] {
            body.extend_from_slice(piece.as_bytes());
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boundary() -> Boundary {
        Boundary::new([0xa5; BOUNDARY_BYTES])
    }

    #[test]
    fn the_bytes_are_these() {
        let hex = "a5".repeat(30);
        let body = |parts: &[&str]| String::from_utf8(boundary().body(parts)).unwrap();
        assert_eq!(
            boundary().content_type(),
            format!("multipart/x-protobuf; boundary={hex}")
        );
        assert_eq!(body(&[]), format!("\r\n--{hex}--\r\n"));
        assert_eq!(
            body(&["one", "two"]),
            format!("--{hex}\r\n\r\none\r\n--{hex}\r\n\r\ntwo\r\n--{hex}--\r\n")
        );
    }

    /// All that stands between `open` and `close`, and how much of `body` that took.
    fn between<'a>(body: &'a [u8], open: &[u8], close: &[u8]) -> Option<(&'a [u8], usize)> {
        let rest = body.strip_prefix(open)?;
        let end = rest.windows(close.len()).position(|bytes| bytes == close)?;
        Some((&rest[..end], open.len() + end))
    }

    /// As cf-java-client does: a first delimiter, further ones, and a last, each to the byte.
    fn like_java(body: &[u8], name: &str) -> Vec<Vec<u8>> {
        let (mut parts, mut at) = (Vec::new(), 0);
        let mut open = format!("--{name}\r\n\r\n");
        while let Some((part, taken)) = between(
            &body[at..],
            open.as_bytes(),
            format!("\r\n--{name}").as_bytes(),
        ) {
            parts.push(part.to_vec());
            at += taken;
            open = format!("\r\n--{name}\r\n\r\n");
        }
        assert!(body[at..].starts_with(format!("\r\n--{name}--").as_bytes()));
        parts
    }

    /// As cf-python-client does: split at the delimiter, strip line ends on both sides. It takes
    /// line ends off an envelope too, which is why envelopes here have none at their ends.
    fn like_python(body: &[u8], name: &str) -> Vec<Vec<u8>> {
        let delimiter = format!("--{name}");
        let mut pieces = vec![Vec::new()];
        let mut at = 0;
        while at < body.len() {
            if body[at..].starts_with(delimiter.as_bytes()) {
                pieces.push(Vec::new());
                at += delimiter.len();
            } else {
                pieces.last_mut().unwrap().push(body[at]);
                at += 1;
            }
        }
        let line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let strip = |piece: &Vec<u8>| {
            let from = piece.iter().position(|byte| !line_end(byte)).unwrap_or(0);
            let to = piece.iter().rposition(|byte| !line_end(byte));
            to.map_or(Vec::new(), |to| piece[from..=to].to_vec())
        };
        let stripped = pieces.iter().map(strip);
        stripped
            .filter(|piece| !piece.is_empty() && piece != b"--")
            .collect()
    }

    proptest! {
        #[test]
        fn every_client_finds_what_was_put_in(
            parts in prop::collection::vec(prop::collection::vec(b'-'..=0xff, 1..80), 0..8),
        ) {
            let body = boundary().body(&parts);
            let content_type = boundary().content_type();
            let (_, name) = content_type.split_once("boundary=").unwrap();
            prop_assert_eq!(&like_java(&body, name), &parts);
            // A part that is `--` alone is no envelope, and looks like the end to Python.
            prop_assume!(parts.iter().all(|part| part != b"--"));
            prop_assert_eq!(&like_python(&body, name), &parts);
        }
    }
}
