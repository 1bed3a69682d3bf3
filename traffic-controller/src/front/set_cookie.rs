//! `/set-cookie`: a page that holds a token leaves it with the browser as a cookie, since a
//! page cannot give a WebSocket an `Authorization` header.
//!
//! In come a query and a form, out comes a `Set-Cookie` for `doppler.` of the system domain, or
//! 400. As upstream but for one thing: a foreign page is refused, lest it logs a visitor in as
//! somebody else.

use super::origin::Page;
use super::{Answer, empty, last, text};
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN,
    CONTENT_TYPE, ORIGIN, SET_COOKIE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use proto::request::{Plus, unescape};
use std::error::Error;

/// The path it is at.
pub(super) const PATH: &str = "/set-cookie";

/// The longest form, in bytes (upstream's).
const MAX_FORM: usize = 4096;

/// Answers a request for [`PATH`] that comes from `page`.
pub(super) async fn answer<B>(
    head: &Parts,
    body: B,
    page: Page,
    system_domain: Option<&str>,
) -> Result<Answer, Answer>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if page == Page::Foreign {
        return Err(text(
            StatusCode::FORBIDDEN,
            "A page of another origin may not set a cookie here. Serve the page from a host of \
             the system domain, or list its origin in TRAFFIC_CONTROLLER_ALLOWED_ORIGINS.\n"
                .to_owned(),
        ));
    }
    let cors = |mut answer: Answer| {
        allow_origin(&mut answer, &head.headers);
        answer
    };
    let form = match form(head, body).await {
        Form::Is(form) => form,
        Form::Not => String::new(),
        // There is more of it under way.
        Form::TooLong => return Err(last(cors(empty(StatusCode::BAD_REQUEST)))),
    };
    let cookie = match cookie(head.uri.query().unwrap_or(""), &form) {
        Some(cookie) => cookie,
        None => return Err(cors(empty(StatusCode::BAD_REQUEST))),
    };
    let mut answer = cors(empty(StatusCode::OK));
    if let Some(cookie) = cookie.header(system_domain) {
        answer.headers_mut().insert(SET_COOKIE, cookie);
    }
    Ok(answer)
}

/// What tells a browser that the page of this request may ask.
fn allow_origin(answer: &mut Answer, asked: &HeaderMap) {
    let origin = asked.get(ORIGIN).cloned();
    let origin = origin.unwrap_or(HeaderValue::from_static(""));
    let allow: [(HeaderName, HeaderValue); 3] = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        ),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("Content-Type"),
        ),
    ];
    answer.headers_mut().extend(allow);
}

enum Form {
    /// The body, whatever it is.
    Is(String),
    /// No form: of another type, or with a method that has none.
    Not,
    /// More than [`MAX_FORM`] bytes, or it broke off.
    TooLong,
}

async fn form<B>(head: &Parts, body: B) -> Form
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let kind = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let kind = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
    let is_form = kind.is_some_and(|kind| {
        kind.trim_ascii()
            .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    });
    if !is_form || ![Method::POST, Method::PUT, Method::PATCH].contains(&head.method) {
        return Form::Not;
    }
    match Limited::new(body, MAX_FORM).collect().await {
        // What is not text has no value a cookie may have.
        Ok(body) => Form::Is(String::from_utf8_lossy(&body.to_bytes()).into_owned()),
        Err(_) => Form::TooLong,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Cookie {
    name: Vec<u8>,
    value: Vec<u8>,
}

/// The cookie that a query and a form ask for; the form counts first. `None` if a field is
/// missing or empty, or anything at all is not well-formed.
fn cookie(query: &str, form: &str) -> Option<Cookie> {
    let mut name = None;
    let mut value = None;
    for pair in form.split('&').chain(query.split('&')) {
        if pair.contains(';') {
            return None;
        }
        let (key, text) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, text) = (
            unescape(key, Plus::IsSpace)?,
            unescape(text, Plus::IsSpace)?,
        );
        let field = match &*key {
            b"CookieName" => &mut name,
            b"CookieValue" => &mut value,
            _ => continue,
        };
        field.get_or_insert(text.into_owned());
    }
    let (name, value) = (name?, value?);
    (!name.is_empty() && !value.is_empty()).then_some(Cookie { name, value })
}

impl Cookie {
    /// As Go's `http.SetCookie` writes it: a name that is none gives no header at all, of the
    /// value what may stand in one.
    fn header(&self, system_domain: Option<&str>) -> Option<HeaderValue> {
        if !self.name.iter().all(|byte| is_token(*byte)) {
            return None;
        }
        let may_stand =
            |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b';' | b'\\');
        let value: Vec<u8> = self.value.iter().copied().filter(may_stand).collect();
        let quote: &[u8] = match value.iter().any(|byte| matches!(byte, b' ' | b',')) {
            true => b"\"",
            false => b"",
        };
        let mut header = [&self.name[..], b"=", quote, &value, quote].concat();
        if let Some(domain) = system_domain {
            header.extend_from_slice(format!("; Domain=doppler.{domain}").as_bytes());
        }
        header.extend_from_slice(b"; HttpOnly; Secure; SameSite=Lax");
        let mut header = HeaderValue::from_bytes(&header).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// Whether a byte may be in a token (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use http::header::CONNECTION;
    use http_body_util::Full;

    fn header(query: &str, form: &str) -> Option<Option<String>> {
        let header = cookie(query, form)?.header(Some("sys.example.com"));
        Some(header.map(|header| header.to_str().unwrap().to_owned()))
    }

    fn set(pair: &str) -> Option<Option<String>> {
        let rest = "Domain=doppler.sys.example.com; HttpOnly; Secure; SameSite=Lax";
        Some(Some(format!("{pair}; {rest}")))
    }

    #[test]
    fn the_form_counts_before_the_query_and_the_first_of_each() {
        let (a, b) = ("CookieName=a&CookieValue=1", "CookieName=b&CookieValue=2");
        assert_eq!(header(a, ""), set("a=1"));
        assert_eq!(header(a, b), set("b=2"));
        assert_eq!(header("CookieName=a", "CookieValue=2"), set("a=2"));
        assert_eq!(header(&format!("{a}&{b}"), "x=y"), set("a=1"));
        for (query, form) in [
            ("", ""),
            ("CookieName=a", ""),
            ("CookieName=a&CookieValue=", ""),
            ("CookieName=&CookieValue=1", ""),
            ("cookiename=a&cookievalue=1", ""),
            ("CookieName=a&CookieValue=%zz", ""),
            (a, "%"),
            ("CookieName=a;CookieValue=1", ""),
        ] {
            assert_eq!(header(query, form), None, "{query} {form}");
        }
    }

    #[test]
    fn nothing_in_a_name_or_value_gets_out_of_its_place() {
        let with =
            |name: &str, value: &str| header(&format!("CookieName={name}&CookieValue={value}"), "");
        assert_eq!(with("n", "a%3Bb%22c%5Cd%01e"), set("n=abcde"));
        assert_eq!(with("n", "a+b"), set("n=\"a b\""));
        assert_eq!(with("n", "a,b"), set("n=\"a,b\""));
        assert_eq!(with("n", "bearer%2520abc"), set("n=bearer%20abc"));
        assert_eq!(
            with(
                "n",
                "v%0d%0aSet-Cookie:x=y;%0aDomain=evil"
                    .replace(';', "%3B")
                    .as_str()
            ),
            set("n=vSet-Cookie:x=yDomain=evil")
        );
        for name in ["bad+name", "a%3Db", "a%0d%0ab", "%C3%A9", "a%3B"] {
            assert_eq!(with(name, "v"), Some(None), "{name}");
        }
    }

    async fn asked(change: impl FnOnce(&mut Parts), form: usize, page: Page) -> Answer {
        let request = Request::post(PATH)
            .header(
                CONTENT_TYPE,
                "application/x-www-form-urlencoded; charset=utf-8",
            )
            .body(())
            .unwrap();
        let (mut head, ()) = request.into_parts();
        change(&mut head);
        let form = format!("{:v<form$}", "CookieName=n&CookieValue=v");
        let answer = answer(&head, Full::from(form), page, None).await;
        answer.unwrap_or_else(|refusal| refusal)
    }

    #[tokio::test]
    async fn a_form_of_4096_bytes_is_read_and_a_longer_one_ends_the_connection() {
        let short = asked(|_| {}, MAX_FORM, Page::Nobody).await;
        assert_eq!(short.status(), 200);
        assert!(short.headers().contains_key(SET_COOKIE));
        let long = asked(|_| {}, MAX_FORM + 1, Page::Nobody).await;
        assert_eq!(long.status(), 400);
        assert_eq!(long.headers()[CONNECTION], "close");
        assert_eq!(long.headers()[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    }

    #[tokio::test]
    async fn a_foreign_page_sets_nothing_and_is_allowed_nothing() {
        let origin = |head: &mut Parts| {
            let origin = HeaderValue::from_static("https://evil.test");
            head.headers.insert(ORIGIN, origin);
        };
        let foreign = asked(origin, 0, Page::Foreign).await;
        assert_eq!(foreign.status(), 403);
        assert!(!foreign.headers().contains_key(SET_COOKIE));
        assert!(!foreign.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        let ours = asked(origin, 0, Page::Ours).await;
        assert_eq!(ours.status(), 200);
        let allowed = &ours.headers()[ACCESS_CONTROL_ALLOW_ORIGIN];
        assert_eq!(allowed, "https://evil.test");
    }

    #[tokio::test]
    async fn only_three_methods_have_a_form() {
        for (method, status) in [
            (Method::POST, 200),
            (Method::PUT, 200),
            (Method::PATCH, 200),
            (Method::DELETE, 400),
            (Method::GET, 400),
            (Method::OPTIONS, 400),
        ] {
            let answer = asked(|head| head.method = method.clone(), 0, Page::Nobody).await;
            assert_eq!(answer.status(), status, "{method}");
        }
    }
}
