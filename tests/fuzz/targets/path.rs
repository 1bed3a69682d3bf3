//! What a request asks for, by its path and query.

use proto::request::{AppGuid, Plus, Request, straightened, unescape};

/// A path, and behind a `?` a query.
pub(super) fn request(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let (path, query) = apart(text);
    let asked = Request::parse(path, query);
    let asked_of_any = Request::parse_any_app(path, query);
    if let Ok(asked) = &asked {
        assert_eq!(asked_of_any.as_ref(), Ok(asked));
        assert!(asked.app().is_none_or(is_canonical), "{asked:?}");
    }
    // What is understood can be said again, and means the same to the next who hears it.
    if let Ok(asked) = asked_of_any {
        let said = asked.path();
        let (path, query) = apart(&said);
        assert_eq!(
            Request::parse_any_app(path, query).as_ref(),
            Ok(&asked),
            "{said}"
        );
        assert!(
            said.is_ascii() && !said.contains([' ', '\r', '\n']),
            "{said}"
        );
        // Nor is it redirected, but for an id of dots, which has to be asked for at a Doppler.
        let dots = said.contains("/%2E");
        assert!(dots || straightened(path) == Ok(None), "{said}");
    }
    // Following a redirect leads somewhere.
    if let Ok(Some(straight)) = straightened(path) {
        assert_eq!(straightened(&straight), Ok(None), "{straight}");
        assert!(
            straight.starts_with('/') && !straight.starts_with("//"),
            "{straight}"
        );
    }
    for plus in [Plus::IsPlus, Plus::IsSpace] {
        let plain = unescape(text, plus);
        assert!(plain.is_none_or(|plain| plain.len() <= text.len()));
    }
}

fn apart(text: &str) -> (&str, Option<&str>) {
    match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    }
}

/// The form of RFC 9562 §4, asked in another way than `AppGuid` does: another tenant's logs are
/// behind whatever passes (CVE-2018-1268).
fn is_canonical(app: &AppGuid) -> bool {
    let groups: Vec<&str> = app.as_str().split('-').collect();
    let hex = |group: &&str| group.chars().all(|digit| digit.is_ascii_hexdigit());
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(hex)
}
