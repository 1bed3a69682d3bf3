//! What can be asked for, spelled once for all three programs.
//!
//! A path and a query as they stand in a request line come in; a [`Request`] goes out,
//! and [`Request::path`] turns it back into what [`Request::parse`] understands.

use std::{borrow::Cow, fmt};

/// The longest subscription or app id, in bytes after decoding. Upstream has no limit;
/// ours lets a table of them have one.
pub const MAX_ID_BYTES: usize = 256;

/// Something a client may subscribe to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// `/firehose/{subscription}`: everything, shared by all with the same subscription
    /// and filter.
    Firehose {
        /// Whose share it is.
        subscription: SubscriptionId,
        /// Which envelopes.
        filter: Filter,
    },
    /// `/apps/{app}/stream`: all that belongs to one app.
    AppStream {
        /// The app.
        app: AppGuid,
    },
}

/// Which envelopes of a firehose: the `filter-type` of its query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Filter {
    /// All of them.
    #[default]
    Everything,
    /// `logs`: only LogMessages.
    Logs,
    /// `metrics`: all but LogMessages.
    Metrics,
}

impl Filter {
    /// Its `filter-type`; `everything` for none.
    pub fn name(self) -> &'static str {
        match self {
            Filter::Everything => "everything",
            Filter::Logs => "logs",
            Filter::Metrics => "metrics",
        }
    }
}

/// Why a request cannot be answered.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// Nothing lives there. 404.
    #[error("no such path")]
    UnknownPath,
    /// `%` without two hex digits. 400.
    #[error("the path has a % that is not followed by two hex digits")]
    BadEscape,
    /// The decoded path is not text. 400.
    #[error("the path is not UTF-8")]
    NotUtf8,
    /// The id would not fit in our tables. 400.
    #[error("the {what} is {bytes} bytes long; at most {MAX_ID_BYTES} are accepted")]
    TooLong {
        /// Which id.
        what: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// The app id is not a GUID. The Traffic Controller answers 401 with an empty body,
    /// before it looks at the token.
    #[error("the app id is not a GUID")]
    NotAGuid,
}

impl Request {
    /// Parses the path and query of a request, both still percent-encoded.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Request, BadRequest> {
        parse(path, query, AppGuid::new)
    }

    /// The same, but any app id will do: for a Traffic Controller whose access control
    /// is off, where upstream does not look at it either.
    pub fn parse_any_app(path: &str, query: Option<&str>) -> Result<Request, BadRequest> {
        parse(path, query, AppGuid::any)
    }

    /// The path, with its query if it needs one, percent-encoded.
    pub fn path(&self) -> String {
        match self {
            Request::Firehose {
                subscription,
                filter,
            } => {
                let query = match filter {
                    Filter::Everything => "",
                    Filter::Logs => "?filter-type=logs",
                    Filter::Metrics => "?filter-type=metrics",
                };
                format!("/firehose/{}{query}", escape(subscription.as_str()))
            }
            Request::AppStream { app } => format!("/apps/{}/stream", escape(app.as_str())),
        }
    }
}

/// The name a firehose is shared under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId(String);

impl SubscriptionId {
    /// Any text of 1 to [`MAX_ID_BYTES`] bytes without a slash, which no path can carry.
    pub fn new(id: &str) -> Result<SubscriptionId, BadRequest> {
        check_id("subscription id", id)?;
        Ok(SubscriptionId(id.to_owned()))
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of an app, exactly as it was asked for: it is compared case-sensitively.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppGuid(String);

impl AppGuid {
    /// Hex digits in groups of 8, 4, 4, 4 and 12.
    pub fn new(guid: &str) -> Result<AppGuid, BadRequest> {
        let hyphen = |at| matches!(at, 8 | 13 | 18 | 23);
        let fits = |(at, character): (usize, u8)| match hyphen(at) {
            true => character == b'-',
            false => character.is_ascii_hexdigit(),
        };
        match guid.len() == 36 && guid.bytes().enumerate().all(fits) {
            true => Ok(AppGuid(guid.to_owned())),
            false => Err(BadRequest::NotAGuid),
        }
    }

    /// Whatever stands in for a GUID where nobody checks: see [`Request::parse_any_app`].
    pub fn any(id: &str) -> Result<AppGuid, BadRequest> {
        check_id("app id", id)?;
        Ok(AppGuid(id.to_owned()))
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn parse(
    path: &str,
    query: Option<&str>,
    app: fn(&str) -> Result<AppGuid, BadRequest>,
) -> Result<Request, BadRequest> {
    // Decoded first, as upstream does: a %2F is a slash like any other.
    let path = unescape(path, Plus::IsPlus).ok_or(BadRequest::BadEscape)?;
    let path = str::from_utf8(&path).map_err(|_| BadRequest::NotUtf8)?;
    match path.split('/').collect::<Vec<_>>()[..] {
        ["", "firehose", id] => Ok(Request::Firehose {
            subscription: SubscriptionId::new(id)?,
            filter: query.map_or(Filter::Everything, filter),
        }),
        ["", "apps", id, "stream"] if !id.is_empty() => Ok(Request::AppStream { app: app(id)? }),
        _ => Err(BadRequest::UnknownPath),
    }
}

/// The first `filter-type` counts; what cannot be decoded is not there.
fn filter(query: &str) -> Filter {
    let value = query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = unescape(name, Plus::IsSpace)?;
        let value = unescape(value, Plus::IsSpace)?;
        (*name == *b"filter-type" && !pair.contains(';')).then_some(value)
    });
    match value.as_deref() {
        Some(b"logs") => Filter::Logs,
        Some(b"metrics") => Filter::Metrics,
        _ => Filter::Everything,
    }
}

fn check_id(what: &'static str, id: &str) -> Result<(), BadRequest> {
    if id.is_empty() || id.contains('/') {
        return Err(BadRequest::UnknownPath);
    }
    if id.len() > MAX_ID_BYTES {
        let bytes = id.len();
        return Err(BadRequest::TooLong { what, bytes });
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Plus {
    IsPlus,
    IsSpace,
}

fn unescape(text: &str, plus: Plus) -> Option<Cow<'_, [u8]>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            b'+' if plus == Plus::IsSpace => b' ',
            byte => byte,
        });
    }
    Some(Cow::Owned(decoded))
}

fn escape(id: &str) -> String {
    // Dots alone would be a step in a path, not a name in it.
    let dots = matches!(id, "." | "..");
    let mut escaped = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'.' if dots => escaped.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GUID: &str = "11111111-2222-3333-4444-00000000abCD";

    fn firehose(id: &str, filter: Filter) -> Result<Request, BadRequest> {
        let subscription = SubscriptionId::new(id)?;
        Ok(Request::Firehose {
            subscription,
            filter,
        })
    }

    fn everything(id: &str) -> Result<Request, BadRequest> {
        firehose(id, Filter::Everything)
    }

    #[test]
    fn a_subscription_id_is_the_decoded_segment() {
        assert_eq!(Request::parse("/firehose/sub", None), everything("sub"));
        assert_eq!(Request::parse("/firehose/a%20b", None), everything("a b"));
        assert_eq!(Request::parse("/firehose/a+b", None), everything("a+b"));
        assert_eq!(Request::parse("/firehose/%C3%A9", None), everything("é"));
        assert_eq!(Request::parse("/firehose/a;b=c", None), everything("a;b=c"));
        assert_eq!(Request::parse("/fire%68ose/x", None), everything("x"));
    }

    #[test]
    fn a_path_that_is_not_exactly_one_of_ours_is_unknown() {
        for path in [
            "",
            "/",
            "firehose/x",
            "/firehose",
            "/firehose/",
            "/firehose/x/",
            "/firehose/x/y",
            "/firehose/a%2Fb",
            "/Firehose/x",
            "/apps//stream",
            "/apps/11111111-2222-3333-4444-00000000abCD",
            "/apps/11111111-2222-3333-4444-00000000abCD/STREAM",
            "/apps/11111111-2222-3333-4444-00000000abCD/stream/",
            "/health",
        ] {
            assert_eq!(
                Request::parse(path, None),
                Err(BadRequest::UnknownPath),
                "{path}"
            );
        }
    }

    #[test]
    fn a_bad_escape_is_told_from_an_unknown_path() {
        for path in ["/firehose/%zz", "/firehose/%4", "/%"] {
            assert_eq!(Request::parse(path, None), Err(BadRequest::BadEscape));
        }
        assert_eq!(
            Request::parse("/firehose/%ff", None),
            Err(BadRequest::NotUtf8)
        );
    }

    #[test]
    fn an_id_longer_than_the_limit_is_told_the_limit() {
        let path = |bytes| format!("/firehose/{}", "%61".repeat(bytes));
        assert_eq!(
            Request::parse(&path(256), None),
            everything(&"a".repeat(256))
        );
        let error = Request::parse(&path(257), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the subscription id is 257 bytes long; at most 256 are accepted"
        );
    }

    #[test]
    fn the_first_filter_type_counts_and_only_in_exact_spelling() {
        for (query, filter) in [
            ("", Filter::Everything),
            ("filter-type=logs", Filter::Logs),
            ("filter-type=metrics", Filter::Metrics),
            ("filter%2Dtype=%6Cogs", Filter::Logs),
            ("a=b&filter-type=logs&filter-type=metrics", Filter::Logs),
            ("filter-type=&filter-type=metrics", Filter::Everything),
            ("filter-type&filter-type=metrics", Filter::Everything),
            ("filter-type=%zz&filter-type=metrics", Filter::Metrics),
            ("filter-type=logs;a=b&filter-type=metrics", Filter::Metrics),
            ("filter-type=LOGS", Filter::Everything),
            ("filter-type=logs+", Filter::Everything),
            ("Filter-Type=logs", Filter::Everything),
            ("filter-type=bogus", Filter::Everything),
        ] {
            let request = Request::parse("/firehose/x", Some(query));
            assert_eq!(request, firehose("x", filter), "{query}");
        }
    }

    #[test]
    fn an_app_stream_needs_a_guid_unless_nobody_checks() {
        let stream = |id: &str| format!("/apps/{id}/stream");
        let app = AppGuid::new(GUID).unwrap();
        let expected = Ok(Request::AppStream { app: app.clone() });
        assert_eq!(
            Request::parse(&stream(GUID), Some("filter-type=logs")),
            expected
        );
        assert_eq!(app.as_str(), GUID, "capitals stay");

        for id in [
            "system",
            &GUID[1..],
            &format!("{GUID}0"),
            &GUID.replace('-', "0"),
        ] {
            assert_eq!(
                Request::parse(&stream(id), None),
                Err(BadRequest::NotAGuid),
                "{id}"
            );
            let app = AppGuid::any(id).unwrap();
            let expected = Ok(Request::AppStream { app });
            assert_eq!(Request::parse_any_app(&stream(id), None), expected);
        }
        let long = Request::parse_any_app(&stream(&"x".repeat(257)), None);
        assert!(matches!(
            long,
            Err(BadRequest::TooLong {
                what: "app id",
                bytes: 257
            })
        ));
    }

    fn parse_printed(request: &Request) -> Result<Request, BadRequest> {
        let printed = request.path();
        assert!(printed.is_ascii(), "{printed}");
        let (path, query) = match printed.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&printed[..], None),
        };
        Request::parse_any_app(path, query)
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(
            id in "[^/]{1,64}",
            dots in prop::sample::select(vec![None, Some("."), Some(".."), Some("...")]),
            filter in prop::sample::select(vec![Filter::Everything, Filter::Logs, Filter::Metrics]),
        ) {
            let id = dots.unwrap_or(&id);
            let request = firehose(id, filter).unwrap();
            prop_assert_eq!(parse_printed(&request), Ok(request));
            let request = Request::AppStream { app: AppGuid::any(id).unwrap() };
            prop_assert_eq!(parse_printed(&request), Ok(request));
        }

        #[test]
        fn no_request_line_is_a_panic(path in "[/a-z%0-9.é]{0,40}", query in ".{0,40}") {
            let _ = Request::parse(&path, Some(&query));
        }
    }
}
