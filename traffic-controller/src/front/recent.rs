//! `recentlogs` and `containermetrics`: what the Dopplers keep of an app, in one answer.
//!
//! In comes a request that may be served; out goes a multipart body, and a header that says how
//! many Dopplers are not in it.

use super::{Answer, Front, empty};
use crate::metrics::Metrics;
use crate::recent::{Gathered, newest_logs, newest_metrics};
use crate::topics::Leave;
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use proto::multipart::{BOUNDARY_BYTES, Boundary};
use std::sync::atomic::{AtomicI64, Ordering};
use tracing::warn;
use transport::clock::unix_ns;

/// How many of the Dopplers did not answer in time: 0 means that nothing is left out.
const MISSING: HeaderName = HeaderName::from_static("x-loggregator-missing-dopplers");

/// A line in the log about Dopplers that did not answer is enough for so long.
const QUIET_NS: i64 = 10_000_000_000;

/// The newest logs of an app, newest first.
pub(super) async fn logs(front: &Front, app: &str, limit: Option<u32>) -> Answer {
    let Some(leave) = front.topics.may_ask(app) else {
        return empty(StatusCode::SERVICE_UNAVAILABLE);
    };
    let most = limit.unwrap_or(u32::MAX);
    let mut gathered = front.topics.recent(app, most, false).await;
    let envelopes = std::mem::take(&mut gathered.envelopes);
    let mut logs = newest_logs(envelopes, most as usize);
    // As the last release that had them.
    logs.reverse();
    note_missing(&gathered);
    answer(&logs, &gathered, leave)
}

/// The newest container metric of each instance of an app.
pub(super) async fn metrics(front: &Front, app: &str) -> Answer {
    let Some(leave) = front.topics.may_ask(app) else {
        return empty(StatusCode::SERVICE_UNAVAILABLE);
    };
    let mut gathered = front.topics.recent(app, 0, true).await;
    let envelopes = std::mem::take(&mut gathered.envelopes);
    note_missing(&gathered);
    answer(&newest_metrics(envelopes), &gathered, leave)
}

/// Pages of any origin may read the answer, and whatever else is said on these paths.
pub(super) fn share(origin: Option<HeaderValue>, answer: &mut Answer) {
    let headers = answer.headers_mut();
    let nobody = HeaderValue::from_static("");
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.unwrap_or(nobody));
    let yes = HeaderValue::from_static("true");
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
}

/// The origin of a request for one of these paths; `None` for another path.
pub(super) fn origin(path: &str, headers: &HeaderMap) -> Option<Option<HeaderValue>> {
    let ours = path.ends_with("/recentlogs") || path.ends_with("/containermetrics");
    ours.then(|| headers.get(ORIGIN).cloned())
}

/// Counts the Dopplers that did not answer, and says in the log now and then which.
pub(super) fn note_missing(gathered: &Gathered) {
    static SAID_NS: AtomicI64 = AtomicI64::new(0);

    if gathered.missing.is_empty() {
        return;
    }
    Metrics::missing_answers(gathered.missing.len() as u64);
    let (now, said) = (unix_ns(), SAID_NS.load(Ordering::Relaxed));
    let turn = now - said > QUIET_NS;
    if turn
        && SAID_NS
            .compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    {
        let (missing, asked) = (gathered.missing.join(", "), gathered.asked);
        warn!(missing, asked, "recent logs without those of some Dopplers");
    }
}

/// A body that holds its leave until it is sent: slow clients do not add up.
struct Held {
    body: Vec<u8>,
    _leave: Leave,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

fn answer(envelopes: &[Bytes], gathered: &Gathered, leave: Leave) -> Answer {
    let mut random = [0; BOUNDARY_BYTES];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        return empty(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let boundary = Boundary::new(random);
    let body = Held {
        body: boundary.body(envelopes),
        _leave: leave,
    };
    let mut response = Response::new(Full::new(Bytes::from_owner(body)));
    let headers = response.headers_mut();
    // A boundary is hex digits.
    if let Ok(content_type) = HeaderValue::try_from(boundary.content_type()) {
        headers.insert(CONTENT_TYPE, content_type);
    }
    headers.insert(MISSING, HeaderValue::from(gathered.missing.len()));
    response
}
