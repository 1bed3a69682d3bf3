//! Cloud Controller, asked about each app: may the holder of this credential read its logs?
//!
//! In come a credential, passed on as it was given, and an app; out comes what Cloud
//! Controller says. Whether it is an app at all is for Cloud Controller to know, and whoever
//! may not read it must not learn that.

use super::Refusal;
use super::authority::{Authority, Key, Verdict, WITHIN};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use proto::request::AppGuid;
use transport::cause::chain;
use transport::http::{Client, Limits};

/// What an answer may take: its body says nothing to us.
const LIMITS: Limits = Limits {
    within: WITHIN,
    body: 64 << 10,
};

/// A Cloud Controller.
pub struct CloudController {
    client: Client,
    authority: Authority,
}

impl CloudController {
    /// A Cloud Controller behind `client`, to which our certificate says who we are.
    pub fn new(client: Client) -> CloudController {
        CloudController {
            client,
            authority: Authority::new("cloud_controller"),
        }
    }

    pub(super) async fn check(&self, credential: &str, app: &AppGuid) -> Result<(), Refusal> {
        // The front refuses anything else; were it not so, an id could leave its place in the
        // path, and ask for something else in our name.
        if AppGuid::new(app.as_str()).is_err() {
            return Err(Refusal::NotFound);
        }
        let Ok(mut value) = HeaderValue::from_bytes(credential.as_bytes()) else {
            return Err(Refusal::BadToken);
        };
        value.set_sensitive(true);
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        let path = format!("/internal/v4/log_access/{}", app.as_str());
        let client = self.client.clone();
        let call = async move {
            let answer = client.call(Method::GET, &path, headers, Bytes::new(), LIMITS);
            match answer.await {
                Ok(answer) => verdict(answer.status),
                Err(error) => Verdict::unavailable(chain(&error)),
            }
        };
        let key = Key::of(credential, app.as_str());
        self.authority.ask(key, call).await
    }
}

/// What an answer of Cloud Controller means.
fn verdict(status: StatusCode) -> Verdict {
    let why = || format!("Cloud Controller answered {status}");
    match status {
        StatusCode::OK => Verdict::Granted,
        StatusCode::UNAUTHORIZED => Verdict::Refused(Refusal::BadToken),
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Verdict::Refused(Refusal::NotFound),
        status if status.is_server_error() => Verdict::unavailable(why()),
        _ => Verdict::Trouble {
            refusal: Refusal::Failed,
            why: why(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::fake::{self, Fake};
    use std::time::Duration;

    const APP: &str = "11111111-2222-3333-4444-555555555555";

    fn unavailable() -> Result<(), Refusal> {
        Err(Refusal::Unavailable {
            retry_after: Duration::from_secs(5),
        })
    }

    fn app(guid: &str) -> AppGuid {
        AppGuid::new(guid).unwrap()
    }

    async fn answered(answer: impl Into<Vec<u8>>) -> Result<(), Refusal> {
        let fake = Fake::answering(answer).await;
        let controller = CloudController::new(fake.client());
        controller.check("bearer t", &app(APP)).await
    }

    #[tokio::test]
    async fn each_answer_of_cloud_controller_means_what_the_design_says() {
        for (status, expected) in [
            (200, Ok(())),
            (201, Err(Refusal::Failed)),
            (204, Err(Refusal::Failed)),
            (302, Err(Refusal::Failed)),
            (400, Err(Refusal::Failed)),
            (401, Err(Refusal::BadToken)),
            (403, Err(Refusal::NotFound)),
            (404, Err(Refusal::NotFound)),
            (429, Err(Refusal::Failed)),
            (500, unavailable()),
            (503, unavailable()),
        ] {
            let answer = answered(fake::answer(status, "")).await;
            assert_eq!(answer, expected, "{status}");
        }
    }

    #[tokio::test]
    async fn the_credential_is_passed_on_as_it_was_given() {
        let fake = Fake::answering(fake::answer(200, "")).await;
        let controller = CloudController::new(fake.client());
        controller.check("BeArEr  t", &app(APP)).await.unwrap();
        let asked = &fake.asked()[0];
        let line = format!("GET /internal/v4/log_access/{APP} HTTP/1.1\r\n");
        assert!(asked.starts_with(&line), "{asked}");
        assert!(asked.contains("authorization: BeArEr  t\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn a_yes_is_for_one_credential_and_one_app() {
        let fake = Fake::answering(fake::answer(200, "")).await;
        let controller = CloudController::new(fake.client());
        let other = APP.replace('5', "6");
        for (credential, guid, calls) in [
            ("bearer t", APP, 1),
            ("bearer t", APP, 1),
            ("bearer u", APP, 2),
            ("bearer t", &other, 3),
        ] {
            controller.check(credential, &app(guid)).await.unwrap();
            assert_eq!(fake.asked().len(), calls, "{credential} {guid}");
        }
    }

    #[tokio::test]
    async fn what_is_no_guid_or_no_header_is_never_asked_about() {
        let fake = Fake::answering(fake::answer(200, "")).await;
        let controller = CloudController::new(fake.client());
        let path = AppGuid::any("system").unwrap();
        let answer = controller.check("bearer t", &path).await;
        assert_eq!(answer, Err(Refusal::NotFound));
        let split = controller.check("t\r\nx-admin: 1", &app(APP)).await;
        assert_eq!(split, Err(Refusal::BadToken));
        assert!(fake.asked().is_empty());
    }
}
