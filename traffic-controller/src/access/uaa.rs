//! UAA, asked about each token: may its holder read firehoses?
//!
//! In comes a token; out comes whether UAA knows it and it has the scope. The token travels in
//! the body of a request, and nowhere else.

use super::authority::{Authority, Key, Verdict, WITHIN};
use super::{FIREHOSE_SCOPE, Refusal};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::Value;
use transport::cause::chain;
use transport::http::{Client, Limits};
use transport::secret::Secret;

/// What an answer may take: the claims of a token are a few KiB.
const LIMITS: Limits = Limits {
    within: WITHIN,
    body: 64 << 10,
};

/// A UAA, and who we are there.
pub struct Uaa {
    client: Client,
    headers: HeaderMap,
    authority: Authority,
}

impl Uaa {
    /// A UAA behind `client`, where we are the client `name` with this secret.
    pub fn new(client: Client, name: &str, secret: &Secret) -> Uaa {
        let credentials = BASE64_STANDARD.encode(format!("{name}:{}", secret.reveal()));
        let mut basic = HeaderValue::try_from(format!("Basic {credentials}"))
            .expect("base64 has only characters that a header may have");
        basic.set_sensitive(true);
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = [(AUTHORIZATION, basic), (CONTENT_TYPE, form)];
        Uaa {
            client,
            headers: headers.into_iter().collect(),
            authority: Authority::new("uaa"),
        }
    }

    pub(super) async fn check(&self, token: &str) -> Result<(), Refusal> {
        let (client, headers) = (self.client.clone(), self.headers.clone());
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .finish();
        let call = async move {
            let answer = client.call(Method::POST, "/check_token", headers, body.into(), LIMITS);
            match answer.await {
                Ok(answer) => verdict(answer.status, &answer.body),
                Err(error) => Verdict::unavailable(chain(&error)),
            }
        };
        self.authority.ask(Key::of(token, ""), call).await
    }
}

/// What an answer of UAA means.
fn verdict(status: StatusCode, body: &Bytes) -> Verdict {
    match status {
        StatusCode::OK => match scopes(body) {
            Some(scopes) if scopes.iter().any(|scope| scope == FIREHOSE_SCOPE) => Verdict::Granted,
            Some(_) => Verdict::Refused(Refusal::BadToken),
            None => Verdict::unavailable("UAA answered 200 without the claims of a token".into()),
        },
        // UAA tells of a bad token by 400. By 401 it means us.
        StatusCode::UNAUTHORIZED => Verdict::unavailable(
            "UAA rejects our own credentials: check TRAFFIC_CONTROLLER_UAA_CLIENT, its secret, \
             and that it has the authority uaa.resource"
                .into(),
        ),
        status if status.is_client_error() => Verdict::Refused(Refusal::BadToken),
        status => Verdict::unavailable(format!("UAA answered {status}")),
    }
}

/// The scopes of a token; none if UAA says of none. `None` if that is not what a UAA says.
///
/// serde_json goes 128 levels deep and no deeper; of a member that is there twice, the last
/// counts, as upstream.
fn scopes(body: &[u8]) -> Option<Vec<String>> {
    let mut claims: serde_json::Map<String, Value> = serde_json::from_slice(body).ok()?;
    match claims.remove("scope") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(scope) => serde_json::from_value(scope).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::fake::{self, Fake};
    use std::time::Duration;

    fn unavailable() -> Result<(), Refusal> {
        Err(Refusal::Unavailable {
            retry_after: Duration::from_secs(5),
        })
    }

    async fn uaa(answer: impl Into<Vec<u8>>) -> (Fake, Uaa) {
        let fake = Fake::answering(answer).await;
        let uaa = Uaa::new(fake.client(), "doppler", &Secret::from("s3cret"));
        (fake, uaa)
    }

    async fn answered(answer: impl Into<Vec<u8>>) -> Result<(), Refusal> {
        let (_fake, uaa) = uaa(answer).await;
        uaa.check("t").await
    }

    #[tokio::test]
    async fn each_answer_of_uaa_means_what_the_design_says() {
        const GOOD: &str = r#"{"scope":["openid","doppler.firehose"]}"#;
        let bad = Err(Refusal::BadToken);
        for (status, body, expected) in [
            (200, GOOD, Ok(())),
            (
                200,
                r#"{"scope":["doppler.firehose","doppler.firehose"]}"#,
                Ok(()),
            ),
            (200, r#"{"scope":[],"scope":["doppler.firehose"]}"#, Ok(())),
            (200, r#"{"scope":["logs.admin"]}"#, bad),
            (
                200,
                r#"{"scope":["xdoppler.firehose","doppler.firehose "]}"#,
                bad,
            ),
            (200, r#"{"scope":["doppler.firehose\u0000"]}"#, bad),
            (200, r#"{"scope":[]}"#, bad),
            (200, r#"{"scope":null}"#, bad),
            (200, "{}", bad),
            (200, r#"{"scope":"doppler.firehose"}"#, unavailable()),
            (200, r#"{"scope":[["doppler.firehose"]]}"#, unavailable()),
            (200, r#"[["doppler.firehose"]]"#, unavailable()),
            (200, "<html>", unavailable()),
            (200, "", unavailable()),
            (201, GOOD, unavailable()),
            (301, GOOD, unavailable()),
            (400, r#"{"error":"invalid_token"}"#, bad),
            (400, "not json", bad),
            (401, "", unavailable()),
            (403, "", bad),
            (404, "", bad),
            (429, "", bad),
            (500, "", unavailable()),
            (503, GOOD, unavailable()),
        ] {
            let answer = answered(fake::answer(status, body)).await;
            assert_eq!(answer, expected, "{status} {body}");
        }
    }

    #[tokio::test]
    async fn ten_thousand_brackets_are_not_followed() {
        let deep = format!(r#"{{"scope":{}"#, "[".repeat(10_000));
        assert_eq!(answered(fake::answer(200, &deep)).await, unavailable());
    }

    #[tokio::test]
    async fn the_token_is_in_the_body_and_we_say_who_we_are() {
        let (fake, uaa) = uaa(fake::answer(200, r#"{"scope":["doppler.firehose"]}"#)).await;
        uaa.check("a b&token=c+d").await.unwrap();
        let asked = fake.asked();
        assert!(
            asked[0].starts_with("POST /check_token HTTP/1.1\r\n"),
            "{asked:?}"
        );
        // doppler:s3cret
        assert!(asked[0].contains("authorization: Basic ZG9wcGxlcjpzM2NyZXQ=\r\n"));
        assert!(asked[0].contains("content-type: application/x-www-form-urlencoded\r\n"));
        assert!(asked[0].ends_with("\r\n\r\ntoken=a+b%26token%3Dc%2Bd"));
    }

    #[tokio::test]
    async fn a_redirect_takes_no_token_anywhere() {
        let other = Fake::answering(fake::answer(200, "")).await;
        let redirect = format!(
            "HTTP/1.1 307 x\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
            other.url()
        );
        assert_eq!(answered(redirect).await, unavailable());
        assert!(other.asked().is_empty());
    }

    #[tokio::test]
    async fn a_gibibyte_is_not_taken() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
        assert_eq!(answered(answer).await, unavailable());
        let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        endless.resize(1 << 20, b'x');
        assert_eq!(answered(endless).await, unavailable());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_five_seconds() {
        let begun = tokio::time::Instant::now();
        let (_fake, uaa) = uaa("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{").await;
        assert_eq!(uaa.check("t").await, unavailable());
        assert_eq!(begun.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn nobody_there_is_no_fault_of_the_token() {
        let (fake, uaa) = uaa("").await;
        fake.leave().await;
        assert_eq!(uaa.check("t").await, unavailable());
    }
}
