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
        /// How many recent logs it begins with, its `recent`; without it the stream begins now.
        recent: Option<u32>,
    },
    /// `/apps/{app}/recentlogs`: the newest logs of one app, once.
    RecentLogs {
        /// The app.
        app: AppGuid,
        /// How many at most, its `limit`; without it all that are kept.
        limit: Option<u32>,
    },
    /// `/apps/{app}/containermetrics`: the newest container metric of each instance, once.
    ContainerMetrics {
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
    /// A value of ours that says nothing. 400.
    #[error("the query's {what} is not a whole number from 0 to 4294967295")]
    NotANumber {
        /// Which value.
        what: &'static str,
    },
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

    /// The app it reads; none for a firehose.
    pub fn app(&self) -> Option<&AppGuid> {
        match self {
            Request::Firehose { .. } => None,
            Request::AppStream { app, .. }
            | Request::RecentLogs { app, .. }
            | Request::ContainerMetrics { app } => Some(app),
        }
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
            Request::AppStream { app, recent } => {
                let query = recent.map_or(String::new(), |logs| format!("?recent={logs}"));
                format!("/apps/{}/stream{query}", escape(app.as_str()))
            }
            Request::RecentLogs { app, limit } => {
                let query = limit.map_or(String::new(), |logs| format!("?limit={logs}"));
                format!("/apps/{}/recentlogs{query}", escape(app.as_str()))
            }
            Request::ContainerMetrics { app } => {
                format!("/apps/{}/containermetrics", escape(app.as_str()))
            }
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
            filter: filter(query),
        }),
        ["", "apps", id, "stream"] if !id.is_empty() => Ok(Request::AppStream {
            app: app(id)?,
            recent: recent(query)?,
        }),
        ["", "apps", id, "recentlogs"] if !id.is_empty() => Ok(Request::RecentLogs {
            app: app(id)?,
            // As upstream: what is no number is no limit.
            limit: number(value(query, "limit")),
        }),
        ["", "apps", id, "containermetrics"] if !id.is_empty() => {
            Ok(Request::ContainerMetrics { app: app(id)? })
        }
        _ => Err(BadRequest::UnknownPath),
    }
}

fn filter(query: Option<&str>) -> Filter {
    match value(query, "filter-type").as_deref() {
        Some(b"logs") => Filter::Logs,
        Some(b"metrics") => Filter::Metrics,
        _ => Filter::Everything,
    }
}

/// Ours alone, so nobody relies on a bad one being ignored.
fn recent(query: Option<&str>) -> Result<Option<u32>, BadRequest> {
    match value(query, "recent") {
        None => Ok(None),
        given => match number(given) {
            None => Err(BadRequest::NotANumber { what: "recent" }),
            logs => Ok(logs),
        },
    }
}

fn number(value: Option<Cow<'_, [u8]>>) -> Option<u32> {
    str::from_utf8(&value?).ok()?.parse().ok()
}

/// The first value of that name counts; what cannot be decoded is not there.
fn value<'a>(query: Option<&'a str>, wanted: &str) -> Option<Cow<'a, [u8]>> {
    query?.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = unescape(name, Plus::IsSpace)?;
        let value = unescape(value, Plus::IsSpace)?;
        (*name == *wanted.as_bytes() && !pair.contains(';')).then_some(value)
    })
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

/// What a `+` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plus {
    /// Itself: in a path.
    IsPlus,
    /// A space: in a query, a form or a cookie.
    IsSpace,
}

/// Percent-decodes; `None` if a `%` is not followed by two hex digits.
pub fn unescape(text: &str, plus: Plus) -> Option<Cow<'_, [u8]>> {
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

/// Where a path that goes over empty, `.` or `..` steps leads, percent-encoded; `None` if it
/// goes straight. Upstream's router (gorilla/mux) looks at the decoded path, before anything
/// else, and redirects there.
pub fn straightened(path: &str) -> Result<Option<String>, BadRequest> {
    let decoded = unescape(path, Plus::IsPlus).ok_or(BadRequest::BadEscape)?;
    let mut steps = Vec::new();
    for step in decoded.split(|byte| *byte == b'/') {
        match step {
            b"" | b"." => {}
            b".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    let mut straight = Vec::with_capacity(decoded.len());
    for step in &steps {
        straight.push(b'/');
        straight.extend_from_slice(step);
    }
    if steps.is_empty() || decoded.ends_with(b"/") {
        straight.push(b'/');
    }
    if *decoded == *straight {
        return Ok(None);
    }
    let mut escaped = String::with_capacity(straight.len());
    for byte in straight {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                escaped.push(char::from(byte));
            }
            b'$' | b'&' | b'+' | b',' | b':' | b';' | b'=' | b'@' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(Some(escaped))
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
    fn a_path_with_detours_leads_to_where_it_would_end() {
        for (path, leads_to) in [
            ("/firehose/x", None),
            ("/firehose/x/", None),
            ("/", None),
            ("/firehose/...", None),
            ("", Some("/")),
            ("//", Some("/")),
            ("//firehose//sub", Some("/firehose/sub")),
            ("/firehose//", Some("/firehose/")),
            ("/apps/../firehose/sub", Some("/firehose/sub")),
            ("/firehose/.", Some("/firehose")),
            ("/firehose/./", Some("/firehose/")),
            ("/..", Some("/")),
            ("/a/../../b/", Some("/b/")),
            // The decoded path counts, as with the router.
            ("/firehose/%2e%2E", Some("/")),
            ("/firehose/a%2F%2Fb%20c", Some("/firehose/a/b%20c")),
            // Nothing in it gets out of the header or becomes a query.
            (
                "//%0d%0aSet-Cookie:a=b%3F",
                Some("/%0D%0ASet-Cookie:a=b%3F"),
            ),
        ] {
            let expected = Ok(leads_to.map(str::to_owned));
            assert_eq!(straightened(path), expected, "{path}");
        }
        assert_eq!(straightened("//%zz"), Err(BadRequest::BadEscape));
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
        let expected = Ok(Request::AppStream {
            app: app.clone(),
            recent: None,
        });
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
            let expected = Ok(Request::AppStream { app, recent: None });
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

    #[test]
    fn a_stream_says_how_many_recent_logs_it_begins_with() {
        let recent = |query| match Request::parse(&format!("/apps/{GUID}/stream"), Some(query)) {
            Ok(Request::AppStream { recent, .. }) => Ok(recent),
            Ok(other) => panic!("{other:?}"),
            Err(bad) => Err(bad.to_string()),
        };
        assert_eq!(recent("recent=0"), Ok(Some(0)));
        assert_eq!(recent("a=b&recent=50&recent=x"), Ok(Some(50)));
        assert_eq!(recent("Recent=x&limit=7"), Ok(None));
        for bad in [
            "recent",
            "recent=",
            "recent=-1",
            "recent=1e3",
            "recent=4294967296",
        ] {
            let told = "the query's recent is not a whole number from 0 to 4294967295";
            assert_eq!(recent(bad), Err(told.to_owned()), "{bad}");
        }
    }

    #[test]
    fn recent_logs_have_a_limit_that_is_ignored_where_it_is_no_number() {
        let path = format!("/apps/{GUID}/recentlogs");
        let app = AppGuid::new(GUID).unwrap();
        for (query, limit) in [
            (None, None),
            (Some("limit=0"), Some(0)),
            (Some("limit=7&limit=8"), Some(7)),
            (Some("limit=-1"), None),
            (Some("limit=many"), None),
        ] {
            let app = app.clone();
            let expected = Ok(Request::RecentLogs { app, limit });
            assert_eq!(Request::parse(&path, query), expected);
        }
        let path = format!("/apps/{GUID}/containermetrics");
        let expected = Ok(Request::ContainerMetrics { app });
        assert_eq!(Request::parse(&path, Some("limit=1")), expected);
        let path = "/apps/x/recentlogs";
        assert_eq!(Request::parse(path, None), Err(BadRequest::NotAGuid));
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
            logs in any::<Option<u32>>(),
        ) {
            let id = dots.unwrap_or(&id);
            let request = firehose(id, filter).unwrap();
            prop_assert_eq!(parse_printed(&request), Ok(request));
            let app = AppGuid::any(id).unwrap();
            for request in [
                Request::AppStream { app: app.clone(), recent: logs },
                Request::RecentLogs { app: app.clone(), limit: logs },
                Request::ContainerMetrics { app },
            ] {
                prop_assert_eq!(parse_printed(&request), Ok(request));
            }
        }

        #[test]
        fn no_request_line_is_a_panic(path in "[/a-z%0-9.é]{0,40}", query in ".{0,40}") {
            let _ = Request::parse(&path, Some(&query));
            if let Ok(Some(straight)) = straightened(&path) {
                prop_assert!(straight.starts_with('/') && !straight.starts_with("//"));
                prop_assert_eq!(straightened(&straight), Ok(None), "one redirect is enough");
            }
        }
    }
}
