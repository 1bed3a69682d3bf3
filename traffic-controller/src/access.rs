//! The one question: may whoever holds this token read this?
//!
//! In come a credential as it was given, if there was one, and what was asked for; out comes
//! permission or the reason why not. How a refusal looks on the wire is the front's business.

mod authority;
mod cloud_controller;
#[cfg(test)]
mod fake;
mod jwt;
mod tokens;
mod uaa;

pub use cloud_controller::CloudController;
pub use jwt::Jwt;
pub use tokens::{Tokens, TokensError};
pub use uaa::Uaa;

use proto::request::Request;
use std::time::Duration;
use tokio::time::Instant;
use transport::reload::Reloaded;
use transport::secret::Secret;

/// What a token must have for a firehose. Nothing else will do, `logs.admin` neither.
const FIREHOSE_SCOPE: &str = "doppler.firehose";

/// The longest token, in bytes: 8 KiB, several times that of a user in a hundred groups.
const MAX_TOKEN: usize = 8 << 10;

/// When to come back if nobody is there to ask, and nobody will be: 1 min.
const NOBODY: Duration = Duration::from_secs(60);

/// Who answers the question.
#[expect(
    clippy::large_enum_variant,
    reason = "a process has one, and does not move it"
)]
pub enum Access {
    /// Everybody may read everything.
    Open,
    /// A file says which token may read what.
    Tokens(Reloaded<Tokens>),
    /// A Cloud Foundry does.
    CloudFoundry(CloudFoundry),
}

/// Those of a Cloud Foundry who know who may read what.
pub struct CloudFoundry {
    /// Who knows about firehoses; without, nobody may read one.
    pub firehoses: Option<Firehoses>,
    /// Who knows about apps; without, nobody may read one.
    pub apps: Option<CloudController>,
    /// How often the token of a running stream is checked again; without, never.
    pub recheck: Option<Duration>,
    /// Answer as upstream does: 401 and 500 where nobody can be asked, and `bearer ` in lower
    /// case only.
    pub upstream_answers: bool,
}

/// Who knows whether a token may read firehoses.
pub enum Firehoses {
    /// UAA, asked about each token.
    Asked(Uaa),
    /// We, by the keys of UAA.
    Verified(Jwt),
}

/// What a running stream was let in with, if that will be looked at again. Its Debug shows
/// nothing.
#[derive(Debug)]
pub struct Held {
    credential: Secret,
    recheck: Duration,
}

/// Why a request may not be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no token.
    #[error("authorization not provided")]
    NoToken,
    /// The token is unknown, or not good for this.
    #[error("invalid authorization")]
    BadToken,
    /// The token is good, and this app is none of its business: it must not learn whether
    /// there is one.
    #[error("not found")]
    NotFound,
    /// Whoever would know cannot be asked at the moment.
    #[error("whoever checks authorization cannot be asked")]
    Unavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// Whoever would know gave an answer that means nothing to us.
    #[error("whoever checks authorization gave no sensible answer")]
    Failed,
}

impl Access {
    /// Whether a request with this credential (an `Authorization` header's value, or the
    /// cookie's) may read what it asks for.
    pub async fn check(&self, credential: Option<&str>, asked: &Request) -> Result<(), Refusal> {
        match self {
            Access::Open => Ok(()),
            Access::Tokens(tokens) => {
                let token = credential.and_then(bearer).ok_or(Refusal::NoToken)?;
                tokens.now().check(token, asked)
            }
            Access::CloudFoundry(platform) => {
                let credential = credential.ok_or(Refusal::NoToken)?;
                platform.check(credential, asked).await
            }
        }
    }

    /// What a stream that was let in with this credential must keep for [`Access::lost`].
    pub fn hold(&self, credential: Option<&str>) -> Option<Held> {
        match self {
            Access::Open | Access::Tokens(_) => None,
            Access::CloudFoundry(platform) => Some(Held {
                credential: Secret::from(credential?),
                recheck: platform.recheck?,
            }),
        }
    }

    /// Resolves when what a running stream was let in with is no longer good for it, with the
    /// reason in words; never if nothing is held. That nobody can be asked ends no stream.
    pub async fn lost(&self, held: Option<&Held>, asked: &Request) -> &'static str {
        match (self, held) {
            (Access::CloudFoundry(platform), Some(held)) => platform.lost(held, asked).await,
            _ => std::future::pending().await,
        }
    }

    /// Whether a token is looked at, at all.
    pub fn is_controlled(&self) -> bool {
        !matches!(self, Access::Open)
    }
}

impl CloudFoundry {
    async fn check(&self, credential: &str, asked: &Request) -> Result<(), Refusal> {
        let answer = self.ask(credential, asked).await.map(drop);
        answer.map_err(|refusal| match (refusal, asked.app()) {
            (Refusal::Unavailable { .. }, None) if self.upstream_answers => Refusal::BadToken,
            (Refusal::Unavailable { .. }, Some(_)) if self.upstream_answers => Refusal::Failed,
            _ => refusal,
        })
    }

    /// How much longer the credential is good for this, if that is known.
    async fn ask(&self, credential: &str, asked: &Request) -> Result<Option<Duration>, Refusal> {
        if credential.is_empty() {
            return Err(Refusal::NoToken);
        }
        if credential.len() > MAX_TOKEN + "bearer ".len() {
            return Err(Refusal::BadToken);
        }
        let nobody = Refusal::Unavailable {
            retry_after: NOBODY,
        };
        if let Some(app) = asked.app() {
            let controller = self.apps.as_ref().ok_or(nobody)?;
            return controller.check(credential, app).await.map(|()| None);
        }
        let token = match self.upstream_answers {
            true => credential.strip_prefix("bearer ").unwrap_or(credential),
            false => bearer(credential).ok_or(Refusal::NoToken)?,
        };
        match self.firehoses.as_ref().ok_or(nobody)? {
            Firehoses::Asked(uaa) => uaa.check(token).await.map(|()| None),
            Firehoses::Verified(jwt) => jwt.check(token).await.map(Some),
        }
    }

    async fn lost(&self, held: &Held, asked: &Request) -> &'static str {
        let mut end = None;
        // First at once, to learn when a token ends; the answer is believed or made here.
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = reached(end) => return "the token has expired",
            }
            // Boxed: to ask takes 4 KiB, and a stream spends its life waiting.
            match Box::pin(self.ask(held.credential.reveal(), asked)).await {
                Ok(left) => end = left.and_then(|left| Instant::now().checked_add(left)),
                Err(refusal) if refusal.is_about_the_token() => {
                    return "the token is no longer good for this stream";
                }
                Err(_) => {}
            }
            // Streams that came together do not ask together for ever.
            wait = held.recheck.mul_f64(0.75 + 0.25 * fastrand::f64());
        }
    }
}

impl Refusal {
    fn is_about_the_token(self) -> bool {
        match self {
            Refusal::NoToken | Refusal::BadToken | Refusal::NotFound => true,
            Refusal::Unavailable { .. } | Refusal::Failed => false,
        }
    }
}

async fn reached(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// The token in a credential: what stands behind `bearer`, in any capitalisation, or all of it.
fn bearer(credential: &str) -> Option<&str> {
    let value = credential.trim();
    let token = match value.split_at_checked("bearer ".len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer ") => token.trim_start(),
        _ => value,
    };
    (!token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::fake::Fake;
    use super::*;
    use proto::request::{AppGuid, Filter, SubscriptionId};
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use transport::http::Client;

    const APP: &str = "11111111-2222-3333-4444-555555555555";
    const MAY: &str = r#"{"scope":["doppler.firehose"]}"#;

    fn firehose() -> Request {
        Request::Firehose {
            subscription: SubscriptionId::new("n").unwrap(),
            filter: Filter::Everything,
        }
    }

    fn app() -> Request {
        Request::AppStream {
            app: AppGuid::new(APP).unwrap(),
            recent: None,
        }
    }

    fn uaa(client: Client) -> Firehoses {
        Firehoses::Asked(Uaa::new(client, "doppler", &Secret::from("s3cret")))
    }

    /// One fake is UAA and Cloud Controller.
    fn platform(fake: &Fake) -> CloudFoundry {
        CloudFoundry {
            firehoses: Some(uaa(fake.client())),
            apps: Some(CloudController::new(fake.client())),
            recheck: None,
            upstream_answers: false,
        }
    }

    #[test]
    fn a_token_is_found_behind_bearer_in_any_capitalisation_and_bare() {
        for (credential, found) in [
            ("bearer t", Some("t")),
            ("Bearer t", Some("t")),
            ("BEARER  t", Some("t")),
            ("t", Some("t")),
            ("", None),
        ] {
            assert_eq!(bearer(credential), found, "{credential:?}");
        }
    }

    #[tokio::test]
    async fn uaa_is_asked_about_firehoses_and_cloud_controller_about_apps() {
        let fake = Fake::answering(fake::answer(200, MAY)).await;
        let access = Access::CloudFoundry(platform(&fake));
        assert!(access.is_controlled());
        assert_eq!(access.check(Some("Bearer t"), &firehose()).await, Ok(()));
        assert_eq!(access.check(Some("Bearer t"), &app()).await, Ok(()));
        let asked = fake.asked();
        assert!(asked[0].ends_with("\r\n\r\ntoken=t"), "{asked:?}");
        assert!(
            asked[1].contains("authorization: Bearer t\r\n"),
            "{asked:?}"
        );
    }

    #[tokio::test]
    async fn what_cannot_be_a_token_asks_nobody() {
        let fake = Fake::answering(fake::answer(200, MAY)).await;
        let access = Access::CloudFoundry(platform(&fake));
        let long = format!("bearer {}", "t".repeat(MAX_TOKEN + 1));
        for asked in [firehose(), app()] {
            for none in [None, Some("")] {
                let answer = access.check(none, &asked).await;
                assert_eq!(answer, Err(Refusal::NoToken));
            }
            let answer = access.check(Some(&long), &asked).await;
            assert_eq!(answer, Err(Refusal::BadToken));
        }
        assert!(fake.asked().is_empty());
        assert_eq!(access.check(Some(&long[1..]), &firehose()).await, Ok(()));
    }

    #[tokio::test]
    async fn without_one_of_the_two_nobody_may_read_what_it_knows_about() {
        let fake = Fake::answering(fake::answer(200, MAY)).await;
        let nobody = Err(Refusal::Unavailable {
            retry_after: NOBODY,
        });
        let only_uaa = Access::CloudFoundry(CloudFoundry {
            apps: None,
            ..platform(&fake)
        });
        assert_eq!(only_uaa.check(Some("t"), &firehose()).await, Ok(()));
        assert_eq!(only_uaa.check(Some("t"), &app()).await, nobody);
        let only_controller = Access::CloudFoundry(CloudFoundry {
            firehoses: None,
            ..platform(&fake)
        });
        assert_eq!(only_controller.check(Some("t"), &app()).await, Ok(()));
        assert_eq!(only_controller.check(Some("t"), &firehose()).await, nobody);
    }

    #[tokio::test]
    async fn upstreams_answers_can_be_had() {
        let fake = Fake::answering(fake::answer(500, "")).await;
        let access = Access::CloudFoundry(CloudFoundry {
            upstream_answers: true,
            ..platform(&fake)
        });
        for (credential, token) in [
            ("bearer t", "token=t"),
            ("bearer  u", "token=+u"),
            ("Bearer v", "token=Bearer+v"),
            ("bearer bearer w", "token=bearer+w"),
            ("Basic YTpi", "token=Basic+YTpi"),
        ] {
            let answer = access.check(Some(credential), &firehose()).await;
            assert_eq!(answer, Err(Refusal::BadToken));
            assert!(
                fake.asked().last().unwrap().ends_with(token),
                "{credential}"
            );
        }
        let answer = access.check(Some("bearer t"), &app()).await;
        assert_eq!(answer, Err(Refusal::Failed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_stream_is_told_when_its_token_is_no_longer_good() {
        let fake = Fake::answering(fake::answer(200, MAY)).await;
        for upstream_answers in [false, true] {
            let access = Access::CloudFoundry(CloudFoundry {
                recheck: Some(Duration::from_secs(60)),
                upstream_answers,
                ..platform(&fake)
            });
            let held = access.hold(Some("bearer t"));
            for asked in [firehose(), app()] {
                fake.answers(fake::answer(200, MAY));
                let lost = access.lost(held.as_ref(), &asked);
                tokio::pin!(lost);
                let hour = Duration::from_secs(3_600);
                assert!(tokio::time::timeout(hour, &mut lost).await.is_err());
                // Nobody can be asked: that is no fault of the token.
                fake.answers(fake::answer(500, ""));
                assert!(tokio::time::timeout(hour, &mut lost).await.is_err());
                fake.answers(fake::answer(403, ""));
                let minute = Duration::from_secs(61);
                let reason = tokio::time::timeout(minute, &mut lost).await;
                assert_eq!(reason, Ok("the token is no longer good for this stream"));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_checked_once_unless_the_operator_wants_more() {
        let fake = Fake::answering(fake::answer(403, "")).await;
        let access = Access::CloudFoundry(platform(&fake));
        let held = access.hold(Some("bearer t"));
        assert!(held.is_none());
        let asked = app();
        let lost = access.lost(held.as_ref(), &asked);
        let day = Duration::from_secs(86_400);
        assert!(tokio::time::timeout(day, lost).await.is_err());
        assert!(fake.asked().is_empty());
    }

    /// Everything that is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn no_token_and_no_secret_is_in_any_log_at_any_level() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let fake = Fake::answering("").await;
        let platform = platform(&fake);
        let jwt = CloudFoundry {
            firehoses: Some(Firehoses::Verified(Jwt::new(fake.client(), "i".into()))),
            apps: None,
            recheck: Some(NOBODY),
            upstream_answers: false,
        };
        for answer in [
            fake::answer(200, r#"{"scope":"t0ken"}"#),
            fake::answer(401, "t0ken"),
            fake::answer(500, "t0ken"),
            b"t0ken t0ken\r\n\r\n".to_vec(),
            fake::answer(200, MAY),
        ] {
            fake.answers(answer);
            for asked in [firehose(), app()] {
                _ = platform.check("bearer t0ken.t0ken.t0ken", &asked).await;
                _ = jwt.check("bearer t0ken.t0ken.t0ken", &asked).await;
            }
        }
        let access = Access::CloudFoundry(jwt);
        let held = access.hold(Some("bearer t0ken"));
        tracing::info!(?held);
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(log.contains("cannot be asked"), "{log}");
        for secret in ["t0ken", "s3cret", "ZG9wcGxlcjpzM2NyZXQ="] {
            assert!(!log.contains(secret), "{log}");
        }
    }
}
