//! What Doppler and Traffic Controller tell each other.

use proto::link::{
    BadMessage, Downstream, HANDLE_BYTES, Handle, MAX_HANDLES, MAX_TEXT, Upstream, split_handle,
};

/// One message, as text of either direction and as a binary one; and the same bytes as the apps
/// that a Traffic Controller asks for.
pub(super) fn messages(bytes: &[u8]) {
    match split_handle(bytes) {
        Some((handle, envelope)) => {
            assert_eq!([&handle.to_be_bytes()[..], envelope].concat(), bytes);
        }
        None => assert!(bytes.len() < HANDLE_BYTES),
    }
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let upstream = Upstream::parse(text);
    if let Ok(said) = &upstream {
        assert_eq!(&Upstream::parse(&said.to_json()).unwrap(), said);
        match said {
            Upstream::Subscribe(apps) => {
                assert!(apps.len() <= MAX_HANDLES && apps.iter().all(|(_, app)| !app.is_empty()));
            }
            Upstream::Unsubscribe(handles) => assert!(handles.len() <= MAX_HANDLES),
            _ => {}
        }
    }
    let downstream = Downstream::parse(text);
    if let Ok(said) = &downstream {
        assert_eq!(&Downstream::parse(&said.to_json()).unwrap(), said);
    }
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() || text.len() > MAX_TEXT {
        let refused =
            |error: &BadMessage| matches!(error, BadMessage::Json(_) | BadMessage::TooLong(_));
        assert!(upstream.as_ref().err().is_some_and(refused));
        assert!(downstream.as_ref().err().is_some_and(refused));
    }
    subscriptions(text);
}

/// However many apps of whatever names: every message is one the other end takes, and every app
/// that can be asked for is in one.
fn subscriptions(text: &str) {
    let apps: Vec<(Handle, String)> = (0..).zip(text.lines().map(str::to_owned)).collect();
    let mut asked = Vec::new();
    for message in Upstream::subscribe(apps.iter().cloned()) {
        match Upstream::parse(&message.to_json()).unwrap() {
            Upstream::Subscribe(apps) => asked.extend(apps),
            other => panic!("{other:?}"),
        }
    }
    let askable = |app: &str| Upstream::parse(&one(app)).is_ok();
    let expected: Vec<_> = apps.into_iter().filter(|(_, app)| askable(app)).collect();
    assert_eq!(asked, expected);
}

fn one(app: &str) -> String {
    serde_json::json!({ "subscribe": [(0, app)] }).to_string()
}
