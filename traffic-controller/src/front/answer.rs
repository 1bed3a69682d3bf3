//! What a client is told instead of a stream: the only place where a refusal becomes a status
//! code.
//!
//! Statuses, headers and bodies are upstream's where clients show them to people or act on them.

use super::Answer;
use crate::access::Refusal;
use http::header::{
    CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER, SEC_WEBSOCKET_VERSION, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode, Uri};
use http_body_util::Full;
use proto::request::{BadRequest, Request as Asked};
use transport::websocket::upgrade;

/// For a path that leads nowhere; `as_upstream` in upstream's words.
pub(super) fn bad_request(bad: BadRequest, as_upstream: bool) -> Answer {
    match bad {
        BadRequest::UnknownPath => text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
        BadRequest::NotAGuid => empty(StatusCode::UNAUTHORIZED),
        BadRequest::BadEscape if as_upstream => {
            last(plain(StatusCode::BAD_REQUEST, "400 Bad Request".to_owned()))
        }
        bad => text(StatusCode::BAD_REQUEST, format!("{bad}\n")),
    }
}

/// For a request that should have been a handshake; `as_upstream` in upstream's words.
pub(super) fn no_handshake(refusal: upgrade::Refusal, as_upstream: bool) -> Answer {
    let words = match as_upstream {
        true => format!(
            "{}\n",
            refusal.status.canonical_reason().unwrap_or_default()
        ),
        false => refusal.body,
    };
    let mut response = text(refusal.status, words);
    let headers = response.headers_mut();
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    if !as_upstream {
        headers.extend(refusal.header);
    }
    response
}

/// To the same place by a straight path.
pub(super) fn moved(uri: &Uri, path: &str) -> Answer {
    let query = uri
        .query()
        .map_or(String::new(), |query| format!("?{query}"));
    let mut response = empty(StatusCode::MOVED_PERMANENTLY);
    let mut location = format!("{path}{query}");
    // CONNECT asks for a host and no path.
    if let (Some(authority), None) = (uri.authority(), uri.scheme()) {
        location.insert_str(0, &format!("//{authority}"));
        response = last(response);
    }
    let location = HeaderValue::try_from(location);
    response
        .headers_mut()
        .extend(location.map(|location| (LOCATION, location)));
    response
}

/// The last answer of its connection.
pub(super) fn last(mut response: Answer) -> Answer {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

/// For somebody who may not read, or of whom it cannot be said.
pub(super) fn refused(refusal: Refusal, asked: &Asked) -> Answer {
    match refusal {
        Refusal::NotFound => return empty(StatusCode::NOT_FOUND),
        Refusal::Failed => return empty(StatusCode::INTERNAL_SERVER_ERROR),
        Refusal::Unavailable { retry_after } => {
            let mut response = empty(StatusCode::SERVICE_UNAVAILABLE);
            let seconds = HeaderValue::from(retry_after.as_secs().max(1));
            response.headers_mut().insert(RETRY_AFTER, seconds);
            return response;
        }
        Refusal::NoToken | Refusal::BadToken => {}
    }
    let mut response = match asked {
        // noaa shows this text to people.
        Asked::Firehose { .. } => plain(
            StatusCode::UNAUTHORIZED,
            format!("You are not authorized. {refusal}"),
        ),
        _ => empty(StatusCode::UNAUTHORIZED),
    };
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
    response
}

/// A status and nothing else.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut response = Answer::default();
    *response.status_mut() = status;
    response
}

/// A status in words.
pub(super) fn plain(status: StatusCode, text: String) -> Answer {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// The same as Go's `http.Error` has it.
pub(super) fn text(status: StatusCode, text: String) -> Answer {
    let mut response = plain(status, text);
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
