//! What a client shows to be let in: the `Authorization` header, or a cookie of that name.
//!
//! In come headers, out comes the value as it was given, and where it stood: a cookie is sent
//! by a browser whichever page asks, so it counts for less (`origin.rs`).

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue};
use proto::request::{Plus, unescape};
use std::borrow::Cow;

/// The cookie's name, in exactly this spelling (upstream's).
const NAME: &str = "authorization";

/// A credential as it was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Credential<'a> {
    /// The header's value, or the cookie's without its escapes.
    pub(super) value: Cow<'a, str>,
    /// Whether a browser may have sent it of its own accord.
    pub(super) from_cookie: bool,
}

impl Credential<'_> {
    /// The first `Authorization` header; if that is missing or empty, the first cookie. A bad
    /// header is not rescued by a good cookie.
    pub(super) fn of(headers: &HeaderMap) -> Option<Credential<'_>> {
        let header = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        if let Some(value) = header.filter(|value| !value.is_empty()) {
            return Some(Credential {
                // Not text: no token looks like that, so it is refused as a wrong one.
                value: String::from_utf8_lossy(value),
                from_cookie: false,
            });
        }
        let value = cookie(headers)?;
        let value = unescape(value, Plus::IsSpace)?;
        let value = match value {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        };
        (!value.is_empty()).then_some(Credential {
            value,
            from_cookie: true,
        })
    }
}

/// The value of the first cookie of our name whose value may be one (RFC 6265 §4.1.1, but that
/// spaces and commas pass, as in Go), without the quotes around it.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if name.trim() != NAME {
                return None;
            }
            let value = value.trim();
            let unquoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            let value = unquoted.unwrap_or(value);
            let may_be = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
            value.bytes().all(may_be).then_some(value)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: &[(&'static str, &str)]) -> Option<(String, bool)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let credential = Credential::of(&headers)?;
        Some((credential.value.into_owned(), credential.from_cookie))
    }

    #[test]
    fn the_first_header_counts_and_an_empty_one_leaves_it_to_the_cookie() {
        let header = |value: &str| Some((value.to_owned(), false));
        let cookie = |value: &str| Some((value.to_owned(), true));
        let good = ("cookie", "authorization=bearer%20c");
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("authorization", "bearer a")]), header("bearer a"));
        assert_eq!(
            found(&[("authorization", "a"), ("authorization", "b"), good]),
            header("a")
        );
        assert_eq!(
            found(&[("authorization", "nonsense"), good]),
            header("nonsense")
        );
        assert_eq!(found(&[("authorization", ""), good]), cookie("bearer c"));
        assert_eq!(
            found(&[("authorization", ""), ("authorization", "b")]),
            None,
            "only the first header is looked at"
        );
    }

    #[test]
    fn a_cookie_is_found_by_exact_name_and_decoded_once() {
        for (line, value) in [
            ("authorization=t", Some("t")),
            ("a=b; authorization=bearer+t; c=d", Some("bearer t")),
            ("authorization=\"bearer%20t\"", Some("bearer t")),
            ("authorization=a%2520b", Some("a%20b")),
            ("authorization=a=b", Some("a=b")),
            ("authorization=a; authorization=b", Some("a")),
            // What may not be a value is not there; the next may be.
            ("authorization=a\"b; authorization=c", Some("c")),
            // A bad escape is: and it is no token.
            ("authorization=%zz; authorization=c", None),
            ("Authorization=t", None),
            ("xauthorization=t", None),
            ("authorization=", None),
            ("authorization=\"\"", None),
            ("authorization", None),
            (";;=;", None),
        ] {
            let expected = value.map(|value| (value.to_owned(), true));
            assert_eq!(found(&[("cookie", line)]), expected, "{line}");
        }
        let lines = [("cookie", "a=b"), ("cookie", "authorization=t")];
        assert_eq!(found(&lines), Some(("t".to_owned(), true)));
    }
}
