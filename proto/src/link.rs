//! What Doppler and Traffic Controller tell each other besides envelopes.
//!
//! A link is a WebSocket from a Traffic Controller to a Doppler. Text messages are the
//! JSON of this module. Binary messages are v1 envelopes: on a firehose link bare, so
//! that they can be passed on as they are; on the app link each behind the handle of
//! the app it was subscribed for, or of the [`Recent`] it answers.
//!
//! The answer to a [`Recent`] is a snapshot: each envelope behind the handle of the request, and
//! then that handle with nothing behind it, the marker. A Doppler that has not put in its marker
//! within a second has not answered: it may be of a version that does not know the question.
//!
//! Versions N and N−1 of the two programs talk to each other: members nobody knows are
//! ignored, and a message nobody knows is `Unknown`, to be ignored too.

use crate::request::MAX_ID_BYTES;
use serde::{Deserialize, Serialize};

/// The WebSocket subprotocol of a link.
pub const PROTOCOL: &str = "loggregator.link.v1";

/// Where the link lives that carries all apps' streams of one Traffic Controller.
/// A firehose link has the path of its [`Request`](crate::request::Request).
pub const APPS_PATH: &str = "/apps";

/// The longest text message, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;

/// The most handles in one message.
pub const MAX_HANDLES: usize = 500;

/// How many bytes of handle stand before an envelope on the app link.
pub const HANDLE_BYTES: usize = 4;

/// A Traffic Controller's name for an app it tails, unique on its link.
pub type Handle = u32;

/// Takes a message of the app link apart: whose it is, and the envelope. `None` if it
/// is too short to have a handle.
pub fn split_handle(message: &[u8]) -> Option<(Handle, &[u8])> {
    let (handle, envelope) = message.split_first_chunk::<HANDLE_BYTES>()?;
    Some((Handle::from_be_bytes(*handle), envelope))
}

/// From Traffic Controller to Doppler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Upstream {
    /// Send these apps' envelopes from now on, each behind its handle.
    Subscribe(Vec<(Handle, String)>),
    /// Send no more for these handles.
    Unsubscribe(Vec<Handle>),
    /// How much of this stream has reached clients.
    Written(Written),
    /// The client this stream is for has gone: send what has begun, a last report, and close.
    Leave {},
    /// Send what is kept of an app, once.
    Recent(Recent),
    /// On the app link: say how a firehose group stands, once. The group's own links cannot tell
    /// while their client does not read.
    Standing(Question),
    /// A message of a later version.
    #[serde(skip)]
    Unknown,
}

/// A request for what is kept of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// What the answer stands behind; of no app's stream and no other request.
    pub handle: Handle,
    /// Whose.
    pub app: String,
    /// How many logs at most: the newest, oldest first.
    #[serde(default)]
    pub logs: u32,
    /// Whether the newest container metric of each instance as well.
    #[serde(default)]
    pub metrics: bool,
    /// The stream of the same app that goes on where the snapshot ends: the marker stands
    /// between what the snapshot has seen and what it has not. Without it the order of the two
    /// says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<Handle>,
}

/// A question about a firehose group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What the answer stands behind.
    pub handle: Handle,
    /// The path of the [`Request`](crate::request::Request) that its links have.
    pub path: String,
}

/// How a firehose group stands at a Doppler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// Of the question.
    pub handle: Handle,
    /// Envelopes the group lost because the log was full, since it began.
    pub overflowed: u64,
    /// Bytes of the log between the group's cursor and the end.
    pub behind: u64,
    /// That, in thousandths of what the log may hold.
    pub per_mille: u32,
    /// Whether a member of the group waits for something to be sent.
    pub idle: bool,
}

/// From Doppler to Traffic Controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Downstream {
    /// What became of this stream's envelopes so far.
    Report(Report),
    /// A handle's last word: its counts are final.
    Ended(Ended),
    /// The answer to a question about a group; none comes about a group that is not there.
    Standing(Standing),
    /// A message of a later version.
    #[serde(skip)]
    Unknown,
}

/// Counts of the receiving side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Which life of the stream is counted.
    pub epoch: u64,
    /// Envelopes written to clients.
    pub written: u64,
    /// How long the client has kept them waiting since the link was opened, in milliseconds.
    /// Earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u64>,
}

/// Counts of the sending side, in envelopes, notices included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which life of the stream is counted.
    pub epoch: u64,
    /// Taken by the socket.
    pub sent: u64,
    /// Lost, for whatever reason.
    pub dropped: u64,
    /// Waiting.
    pub queued: u64,
    /// What happened since the link was opened; earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// Whether nothing follows: without that a link ended that somebody cut, or whose Doppler was
    /// killed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
}

/// What happened since a link was opened, in envelopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// How long ago that was, in milliseconds.
    pub age_ms: u64,
    /// What the link's subscription was offered.
    pub offered: u64,
    /// What it lost.
    pub missed: u64,
}

/// The counts of one app's stream when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Whose.
    pub handle: Handle,
    /// Taken by the socket.
    pub sent: u64,
    /// Lost, for whatever reason.
    pub dropped: u64,
}

/// Why a text message cannot be understood.
#[derive(thiserror::Error, Debug)]
pub enum BadMessage {
    /// Longer than [`MAX_TEXT`].
    #[error("a text message of {0} bytes; at most {MAX_TEXT} are accepted")]
    TooLong(usize),
    /// Not JSON, or not in the form its kind should have.
    #[error("a text message that is not what it should be")]
    Json(#[from] serde_json::Error),
    /// Two kinds in one message.
    #[error("a text message that says more than one thing")]
    Ambiguous,
    /// More than [`MAX_HANDLES`].
    #[error("a text message with {0} handles; at most {MAX_HANDLES} are accepted")]
    TooManyHandles(usize),
    /// An app id that no app can have.
    #[error("an app id of {0} bytes; 1 to {MAX_ID_BYTES} are accepted")]
    AppId(usize),
}

impl Upstream {
    /// Understands a text message.
    pub fn parse(text: &str) -> Result<Upstream, BadMessage> {
        #[derive(Deserialize)]
        struct Members {
            subscribe: Option<Vec<(Handle, String)>>,
            unsubscribe: Option<Vec<Handle>>,
            written: Option<Written>,
            leave: Option<serde::de::IgnoredAny>,
            recent: Option<Recent>,
            standing: Option<Question>,
        }

        let members: Members = from_json(text)?;
        let mut said = [
            members.subscribe.map(Upstream::Subscribe),
            members.unsubscribe.map(Upstream::Unsubscribe),
            members.written.map(Upstream::Written),
            members.leave.map(|_| Upstream::Leave {}),
            members.recent.map(Upstream::Recent),
            members.standing.map(Upstream::Standing),
        ]
        .into_iter()
        .flatten();
        let message = said.next().unwrap_or(Upstream::Unknown);
        if said.next().is_some() {
            return Err(BadMessage::Ambiguous);
        }
        match &message {
            Upstream::Subscribe(apps) => {
                check_handles(apps.len())?;
                apps.iter().try_for_each(|(_, app)| check_app(app))?;
            }
            Upstream::Unsubscribe(handles) => check_handles(handles.len())?,
            Upstream::Recent(recent) => check_app(&recent.app)?,
            _ => {}
        }
        Ok(message)
    }

    /// As many [`Subscribe`](Upstream::Subscribe) messages as it takes to keep to the
    /// limits. Apps whose id no Doppler would accept are left out.
    pub fn subscribe(apps: impl IntoIterator<Item = (Handle, String)>) -> Vec<Upstream> {
        // `[4294967295,""],` and every byte of the id escaped as `\u0000`.
        let cost = |app: &str| 16 + 6 * app.len();
        let room = MAX_TEXT - r#"{"subscribe":[]}"#.len();

        let mut messages: Vec<Vec<(Handle, String)>> = Vec::new();
        let mut left = 0;
        for (handle, app) in apps {
            if !(1..=MAX_ID_BYTES).contains(&app.len()) {
                continue;
            }
            match messages.last_mut() {
                Some(last) if last.len() < MAX_HANDLES && cost(&app) <= left => {
                    left -= cost(&app);
                    last.push((handle, app));
                }
                _ => {
                    left = room - cost(&app);
                    messages.push(vec![(handle, app)]);
                }
            }
        }
        messages.into_iter().map(Upstream::Subscribe).collect()
    }

    /// The text message; `{}` for [`Unknown`](Upstream::Unknown).
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

impl Downstream {
    /// Understands a text message.
    pub fn parse(text: &str) -> Result<Downstream, BadMessage> {
        #[derive(Deserialize)]
        struct Members {
            report: Option<Report>,
            ended: Option<Ended>,
            standing: Option<Standing>,
        }

        let members: Members = from_json(text)?;
        let mut said = [
            members.report.map(Downstream::Report),
            members.ended.map(Downstream::Ended),
            members.standing.map(Downstream::Standing),
        ]
        .into_iter()
        .flatten();
        let message = said.next().unwrap_or(Downstream::Unknown);
        match said.next() {
            Some(_) => Err(BadMessage::Ambiguous),
            None => Ok(message),
        }
    }

    /// The text message; `{}` for [`Unknown`](Downstream::Unknown).
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

fn from_json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, BadMessage> {
    if text.len() > MAX_TEXT {
        return Err(BadMessage::TooLong(text.len()));
    }
    Ok(serde_json::from_str(text)?)
}

/// Only `Unknown` cannot be serialised, and `{}` is one.
fn to_json(message: &impl Serialize) -> String {
    serde_json::to_string(message).unwrap_or_else(|_| "{}".to_owned())
}

fn check_app(app: &str) -> Result<(), BadMessage> {
    match app.len() {
        1..=MAX_ID_BYTES => Ok(()),
        length => Err(BadMessage::AppId(length)),
    }
}

fn check_handles(handles: usize) -> Result<(), BadMessage> {
    match handles {
        0..=MAX_HANDLES => Ok(()),
        _ => Err(BadMessage::TooManyHandles(handles)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recent(tail: Option<Handle>) -> Recent {
        Recent {
            handle: 7,
            app: "app".into(),
            logs: 100,
            metrics: true,
            tail,
        }
    }

    #[test]
    fn messages_look_like_this() {
        let written = Written {
            epoch: 1,
            written: 2,
            waited_ms: Some(3),
        };
        let report = Report {
            epoch: 1,
            sent: 2,
            dropped: 3,
            queued: 4,
            since: Some(Since {
                age_ms: 5,
                offered: 6,
                missed: 1,
            }),
            last: false,
        };
        let last = Report {
            since: None,
            last: true,
            ..report
        };
        let standing = Standing {
            handle: 7,
            overflowed: 1,
            behind: 2,
            per_mille: 3,
            idle: true,
        };
        let ended = Ended {
            handle: 7,
            sent: 8,
            dropped: 9,
        };
        for (message, text) in [
            (
                Upstream::Subscribe(vec![(7, "app".into())]),
                r#"{"subscribe":[[7,"app"]]}"#,
            ),
            (
                Upstream::Unsubscribe(vec![7, 8]),
                r#"{"unsubscribe":[7,8]}"#,
            ),
            (
                Upstream::Written(written),
                r#"{"written":{"epoch":1,"written":2,"waited_ms":3}}"#,
            ),
            (Upstream::Leave {}, r#"{"leave":{}}"#),
            (
                Upstream::Recent(recent(None)),
                r#"{"recent":{"handle":7,"app":"app","logs":100,"metrics":true}}"#,
            ),
            (
                Upstream::Recent(recent(Some(3))),
                r#"{"recent":{"handle":7,"app":"app","logs":100,"metrics":true,"tail":3}}"#,
            ),
            (
                Upstream::Standing(Question {
                    handle: 7,
                    path: "/firehose/n".into(),
                }),
                r#"{"standing":{"handle":7,"path":"/firehose/n"}}"#,
            ),
            (Upstream::Unknown, "{}"),
        ] {
            assert_eq!(message.to_json(), text);
            assert_eq!(Upstream::parse(text).unwrap(), message);
        }
        for (message, text) in [
            (
                Downstream::Report(report),
                r#"{"report":{"epoch":1,"sent":2,"dropped":3,"queued":4,"since":{"age_ms":5,"offered":6,"missed":1}}}"#,
            ),
            (
                Downstream::Report(last),
                r#"{"report":{"epoch":1,"sent":2,"dropped":3,"queued":4,"last":true}}"#,
            ),
            (
                Downstream::Ended(ended),
                r#"{"ended":{"handle":7,"sent":8,"dropped":9}}"#,
            ),
            (
                Downstream::Standing(standing),
                r#"{"standing":{"handle":7,"overflowed":1,"behind":2,"per_mille":3,"idle":true}}"#,
            ),
            (Downstream::Unknown, "{}"),
        ] {
            assert_eq!(message.to_json(), text);
            assert_eq!(Downstream::parse(text).unwrap(), message);
        }
    }

    #[test]
    fn what_a_later_version_adds_is_ignored() {
        let text = r#"{"written":{"epoch":1,"written":2,"seen":3},"since":"v9"}"#;
        assert!(matches!(Upstream::parse(text), Ok(Upstream::Written(_))));
        assert_eq!(
            Upstream::parse(r#"{"pause":[1]}"#).unwrap(),
            Upstream::Unknown
        );
        assert_eq!(
            Downstream::parse(r#"{"pause":[1]}"#).unwrap(),
            Downstream::Unknown
        );
    }

    #[test]
    fn what_an_earlier_version_does_not_say_is_nothing() {
        let text = r#"{"report":{"epoch":1,"sent":2,"dropped":3,"queued":4}}"#;
        match Downstream::parse(text).unwrap() {
            Downstream::Report(report) => assert_eq!((report.since, report.last), (None, false)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        for text in [
            "",
            "[]",
            "null",
            r#"{"subscribe":7}"#,
            r#"{"unsubscribe":[-1]}"#,
            r#"{"unsubscribe":[4294967296]}"#,
            r#"{"written":{"epoch":1}}"#,
            r#"{"recent":{"handle":1}}"#,
            r#"{"recent":{"handle":1,"app":"a","logs":-1}}"#,
        ] {
            assert!(
                matches!(Upstream::parse(text), Err(BadMessage::Json(_))),
                "{text}"
            );
        }
        let two = r#"{"unsubscribe":[1],"written":{"epoch":1,"written":2}}"#;
        assert!(matches!(Upstream::parse(two), Err(BadMessage::Ambiguous)));
    }

    #[test]
    fn limits_are_kept_on_both_sides() {
        let handles = |count| Upstream::Unsubscribe(vec![1; count]).to_json();
        assert!(Upstream::parse(&handles(500)).is_ok());
        assert!(matches!(
            Upstream::parse(&handles(501)),
            Err(BadMessage::TooManyHandles(501))
        ));

        for length in [0, 257] {
            let app = (1, "x".repeat(length));
            let text = Upstream::Subscribe(vec![app.clone()]).to_json();
            assert!(matches!(Upstream::parse(&text), Err(BadMessage::AppId(_))));
            assert_eq!(Upstream::subscribe([app.clone()]), []);
            let app = app.1;
            let text = Upstream::Recent(Recent {
                app,
                ..recent(None)
            })
            .to_json();
            assert!(matches!(Upstream::parse(&text), Err(BadMessage::AppId(_))));
        }

        let padded = format!("{}{}", " ".repeat(MAX_TEXT), "{}");
        assert!(matches!(
            Upstream::parse(&padded),
            Err(BadMessage::TooLong(_))
        ));
    }

    #[test]
    fn a_handle_stands_before_the_envelope() {
        assert_eq!(split_handle(&[0, 0, 1, 2, 9, 9]), Some((258, &[9, 9][..])));
        assert_eq!(split_handle(&[0, 0, 1, 2]), Some((258, &[][..])));
        assert_eq!(split_handle(&[0, 0, 1]), None);
    }

    proptest! {
        #[test]
        fn any_number_of_apps_is_subscribed_within_the_limits(
            apps in prop::collection::vec((any::<Handle>(), "[\u{1}\"\\\\a-zé]{1,128}"), 0..1200),
        ) {
            let mut subscribed = Vec::new();
            for message in Upstream::subscribe(apps.clone()) {
                match Upstream::parse(&message.to_json()).unwrap() {
                    Upstream::Subscribe(apps) => subscribed.extend(apps),
                    other => panic!("{other:?}"),
                }
            }
            prop_assert_eq!(subscribed, apps);
        }

        #[test]
        fn no_text_is_a_panic(text in ".{0,80}") {
            let _ = Upstream::parse(&text);
            let _ = Downstream::parse(&text);
        }
    }
}
