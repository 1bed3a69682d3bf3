//! Those who say who may read what: UAA, by its word and by its keys, and Cloud Controller; what
//! they are asked, and what holds when they change their minds or are gone.

use crate::SOON;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::authority::Call;
use harness::certs::Certs;
use harness::cloud_controller::CloudController;
use harness::cluster::{Builder, Cluster, Controller};
use harness::envelopes::{Workload, guid};
use harness::eventually;
use harness::raw::{Raw, Response, handshake};
use harness::reader::{Ended, Reader};
use harness::uaa::{Uaa, now};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const FIREHOSE: [&str; 2] = ["openid", "doppler.firehose"];

/// By how much clocks may differ: the Traffic Controller's `LEEWAY`, in seconds.
const LEEWAY: u64 = 30;

/// How long keys are believed to be all there are.
const KEYS_BELIEVED: Duration = Duration::from_secs(5);

/// What memory may differ by without anything being kept: the allocator keeps pages.
const NOISE: u64 = 16 << 20;

const CHECKS: &str = "traffic_controller_access_checks_total";

/// A Loggregator in a Cloud Foundry.
struct Platform {
    cluster: Cluster,
    uaa: Uaa,
    cloud_controller: CloudController,
}

impl Platform {
    /// One whose Traffic Controller asks UAA about each token.
    async fn asking(dopplers: usize, change: impl FnOnce(Builder) -> Builder) -> Platform {
        let certs = Arc::new(Certs::new());
        let (uaa, cloud_controller) = (
            Uaa::start(&certs).await,
            CloudController::start(&certs).await,
        );
        let builder = Cluster::builder()
            .dopplers(dopplers)
            .controllers(1)
            .certs(certs.clone())
            .controller_flags(uaa.flags(&certs))
            .controller_flags(cloud_controller.flags(&certs));
        Platform {
            cluster: change(builder).start().await,
            uaa,
            cloud_controller,
        }
    }

    /// One whose Traffic Controller verifies tokens itself.
    async fn verifying(dopplers: usize, change: impl FnOnce(Builder) -> Builder) -> Platform {
        let issuer = "https://uaa.sys.example.com/oauth/token";
        let platform = Platform::asking(dopplers, |builder| {
            change(builder.controller_flag("--uaa-issuer", issuer))
        });
        let platform = platform.await;
        assert_eq!(platform.uaa.issuer(), issuer);
        platform
    }

    fn controller(&self) -> &Controller {
        &self.cluster.controllers[0]
    }

    /// What a handshake for a firehose with this token is answered.
    async fn shows(&self, token: &str) -> Response {
        ask(self.controller(), "/firehose/n", &[&bearer(token)]).await
    }

    /// Claims that are good for a firehose, but for `change`.
    fn claims(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut claims = json!({
            "iss": self.uaa.issuer(),
            "sub": "marissa",
            "scope": FIREHOSE,
            "iat": now(),
            "exp": now() + 600,
        });
        change(&mut claims);
        claims
    }

    /// How often an authority was asked with that outcome.
    async fn checks(&self, authority: &str, outcome: &str) -> f64 {
        let metrics = self.controller().metrics().await;
        metrics.sum(CHECKS, &[("authority", authority), ("outcome", outcome)])
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: bearer {token}")
}

async fn ask(controller: &Controller, path: &str, lines: &[&str]) -> Response {
    let mut raw = Raw::connect(controller.address, controller.tls().as_ref()).await;
    raw.send(handshake(path, lines).as_bytes()).await;
    raw.response().await
}

/// `service method path`, without what was shown.
fn asked(calls: &[Call]) -> Vec<String> {
    let line = |call: &Call| format!("{} {} {}", call.service, call.method, call.path);
    calls.iter().map(line).collect()
}

/// A part of a JWT.
fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn policy(reason: &str) -> Ended {
    Ended::Closed(Some(1008), reason.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_uaa_signed_opens_firehoses_by_its_keys_alone_and_when_uaa_is_gone() {
    let platform = Platform::verifying(1, |builder| builder).await;
    let [first, second] = ["first", "second"].map(|_| platform.uaa.token(&FIREHOSE));
    let controller = &platform.cluster.controllers[0];
    let reader = controller.firehose("a").token(&first).open().await;
    assert_eq!(asked(&platform.uaa.calls()), ["uaa GET /token_keys"]);
    let later = platform.uaa.signed(&platform.claims(|claims| {
        claims["jti"] = json!("signed before UAA went");
    }));
    platform.uaa.stop().await;
    let other = controller.firehose("b").token(&later).open().await;
    let third = controller.firehose("b").token(&second).open().await;
    platform.cluster.subscribed("a", 1).await;
    platform.cluster.subscribed("b", 2).await;
    let doppler = &platform.cluster.dopplers[0];
    let mut producer = doppler.producer(0, Workload::logs(1, 50)).await;
    producer.send(200).await;
    reader.receives(200, SOON).await;
    eventually(SOON, "the other two share them", async || {
        other.received() + third.received() == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_forged_or_not_good_now_or_not_for_this_is_refused_401() {
    let platform = Platform::verifying(0, |builder| builder).await;
    let uaa = &platform.uaa;
    let claims = |change: fn(&mut Value)| platform.claims(change);
    let good = claims(|_| {});
    let signed = uaa.signed(&good);
    let (signed_part, signature) = signed.rsplit_once('.').unwrap();
    let header = |alg: &str, kid: &str| json!({"alg": alg, "typ": "JWT", "kid": kid});
    // The public key is no secret: whoever believes `alg` takes it for one.
    let symmetric = |secret: &[u8]| {
        let signed = format!("{}.{}", part(&header("HS256", "key-0")), part(&good));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let tag = hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    };
    let pem = uaa.public_key();
    let unsigned = |alg: &str| format!("{}.{}", part(&header(alg, "key-0")), part(&good));
    let other_claims = part(&claims(|claims| claims["sub"] = json!("root")));
    let refused = [
        ("alg none", format!("{}.", unsigned("none"))),
        (
            "alg none with a signature",
            format!("{}.{signature}", unsigned("none")),
        ),
        (
            "alg none in capitals",
            format!("{}.{signature}", unsigned("NONE")),
        ),
        ("no signature", format!("{signed_part}.")),
        ("half a token", signed_part.to_owned()),
        ("HS256 with the public key", symmetric(pem.as_bytes())),
        (
            "HS256 with the public key in one line",
            symmetric(pem.trim().as_bytes()),
        ),
        ("HS256 with nothing", symmetric(b"")),
        (
            "HS256 with the right signature",
            uaa.signed_as(&header("HS256", "key-0"), &good),
        ),
        (
            "PS256 with the right signature",
            uaa.signed_as(&header("PS256", "key-0"), &good),
        ),
        (
            "a kid that there is not",
            uaa.signed_as(&header("RS256", "key-1"), &good),
        ),
        (
            "no kid",
            uaa.signed_as(&json!({"alg": "RS256", "typ": "JWT"}), &good),
        ),
        (
            "a kid that is a path",
            uaa.signed_as(&header("RS256", "../../key-0"), &good),
        ),
        (
            "somebody else's claims",
            format!(
                "{}.{other_claims}.{signature}",
                part(&header("RS256", "key-0"))
            ),
        ),
        (
            "expired",
            uaa.signed(&claims(|claims| {
                claims["exp"] = json!(now() - LEEWAY - 1);
            })),
        ),
        (
            "no end",
            uaa.signed(&claims(|claims| {
                claims.as_object_mut().unwrap().remove("exp");
            })),
        ),
        (
            "not yet",
            uaa.signed(&claims(|claims| {
                claims["nbf"] = json!(now() + LEEWAY + 60);
            })),
        ),
        (
            "another issuer",
            uaa.signed(&claims(|claims| {
                claims["iss"] = json!("https://uaa.evil.test/oauth/token");
            })),
        ),
        (
            "an issuer that begins like it",
            uaa.signed(&claims(|claims| {
                claims["iss"] = json!("https://uaa.sys.example.com/oauth/token/x");
            })),
        ),
        (
            "no issuer",
            uaa.signed(&claims(|claims| {
                claims.as_object_mut().unwrap().remove("iss");
            })),
        ),
        (
            "without the scope",
            uaa.signed(&claims(|claims| {
                claims["scope"] = json!(["openid", "logs.admin", "doppler.firehoses"]);
            })),
        ),
        (
            "no scope",
            uaa.signed(&claims(|claims| {
                claims.as_object_mut().unwrap().remove("scope");
            })),
        ),
        (
            "a refresh token",
            uaa.signed(&claims(|claims| claims["jti"] = json!("1234-r"))),
        ),
        ("nonsense", "nonsense".to_owned()),
    ];
    assert_eq!(platform.shows(&signed).await.status, 101);
    for (what, token) in refused {
        let answer = platform.shows(&token).await;
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(answer.header("www-authenticate"), Some("Basic"), "{what}");
        assert_eq!(
            answer.body, "You are not authorized. invalid authorization",
            "{what}"
        );
    }
    assert_eq!(platform.shows(&signed).await.status, 101);
    // Nobody is told about a token.
    let calls = asked(&platform.uaa.calls());
    assert!(
        calls.iter().all(|call| call == "uaa GET /token_keys"),
        "{calls:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_found_while_streams_run_and_an_old_one_is_good_while_it_is_published() {
    let platform = Platform::verifying(0, |builder| builder).await;
    let old = platform.uaa.token(&FIREHOSE);
    let running = platform.controller().firehose("running").token(&old);
    let running = running.open().await;

    platform.uaa.rotate(true);
    let new = platform.uaa.token(&FIREHOSE);
    // Keys just fetched are believed to be all there are, so that made-up ones cost no calls.
    let refetched = KEYS_BELIEVED + SOON;
    eventually(refetched, "the new key is found", async || {
        platform.shows(&new).await.status == 101
    })
    .await;
    assert_eq!(
        platform.shows(&old).await.status,
        101,
        "it is still published"
    );
    assert_eq!(platform.uaa.called(), 2, "{:?}", platform.uaa.calls());

    platform.uaa.rotate(false);
    let newest = platform.uaa.token(&FIREHOSE);
    eventually(refetched, "the newest key is found", async || {
        platform.shows(&newest).await.status == 101
    })
    .await;
    for withdrawn in [&old, &new] {
        assert_eq!(platform.shows(withdrawn).await.status, 401);
    }
    assert_eq!(
        running.is_over(),
        None,
        "a token is checked once unless asked"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_token_was_revoked_is_closed_1008_with_the_reason_and_others_go_on() {
    let platform =
        Platform::asking(1, |builder| builder.controller_flag("--token-recheck", 1)).await;
    let [revoked, kept] = ["revoked", "kept"].map(|_| platform.uaa.token(&FIREHOSE));
    let controller = platform.controller();
    for app in [0, 1, 2] {
        platform.cloud_controller.allow(&guid(app), 200);
    }
    let user = "user-token";
    let open = async |path: &str, token: &str| -> Reader {
        controller.reader(path).token(token).open().await
    };
    let stream = |app| format!("/apps/{}/stream", guid(app));
    let ends = [
        open("/firehose/revoked", &revoked).await,
        open(&stream(1), user).await,
        open(&stream(2), user).await,
    ];
    let firehose = open("/firehose/kept", &kept).await;
    let tail = open(&stream(0), user).await;
    platform.cluster.subscribed("kept", 1).await;
    platform.cluster.tailed([0], 1).await;

    platform.uaa.revoke(&revoked);
    // No longer in that space, and logged out.
    platform.cloud_controller.allow(&guid(1), 404);
    platform.cloud_controller.allow(&guid(2), 401);
    for reader in &ends {
        let ended = reader.ended(SOON).await;
        assert_eq!(ended, policy("the token is no longer good for this stream"));
    }
    let mut producer = platform.cluster.dopplers[0]
        .producer(0, Workload::logs(1, 50))
        .await;
    producer.send(100).await;
    firehose.receives(100, SOON).await;
    tail.receives(100, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token_when_tokens_are_verified_here() {
    // So seldom that only the token's own end can be what closes it.
    let platform = Platform::verifying(0, |builder| {
        builder.controller_flag("--token-recheck", 3_600)
    });
    let platform = platform.await;
    let controller = platform.controller();
    // The leeway has some seconds left.
    let short = platform.uaa.signed(&platform.claims(|claims| {
        claims["exp"] = json!(now() - LEEWAY + 5);
    }));
    let long = platform.uaa.token(&FIREHOSE);
    let long = controller.firehose("long").token(&long).open().await;
    let short = controller.firehose("short").token(&short).open().await;
    assert_eq!(short.ended(SOON).await, policy("the token has expired"));
    assert_eq!(long.is_over(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_can_be_asked_newcomers_get_503_and_running_streams_go_on() {
    let platform =
        Platform::asking(1, |builder| builder.controller_flag("--token-recheck", 1)).await;
    let token = platform.uaa.token(&FIREHOSE);
    let newcomer = platform.uaa.token(&FIREHOSE);
    platform.cloud_controller.allow(&guid(0), 200);
    let controller = &platform.cluster.controllers[0];
    let firehose = controller.firehose("n").token(&token).open().await;
    let tail = controller.tail(0).token("user-token").open().await;
    platform.cluster.subscribed("n", 1).await;
    platform.cluster.tailed([0], 1).await;

    let Platform {
        cluster,
        uaa,
        cloud_controller,
    } = platform;
    uaa.stop().await;
    cloud_controller.stop().await;
    for path in ["/firehose/n", &format!("/apps/{}/stream", guid(0))] {
        let answer = ask(controller_of(&cluster), path, &[&bearer(&newcomer)]).await;
        assert_eq!((answer.status, &answer.body[..]), (503, ""), "{path}");
        assert_eq!(answer.header("retry-after"), Some("5"), "{path}");
        assert_eq!(answer.header("www-authenticate"), None, "{path}");
    }
    // The newcomer was one question to each; running streams ask too.
    let what = "the tokens of running streams were checked in vain";
    eventually(SOON, what, async || {
        let metrics = controller_of(&cluster).metrics().await;
        let in_vain = |authority| {
            metrics.sum(CHECKS, &[("authority", authority), ("outcome", "trouble")]) >= 2.0
        };
        in_vain("uaa") && in_vain("cloud_controller")
    })
    .await;
    let mut producer = cluster.dopplers[0].producer(0, Workload::logs(1, 50)).await;
    producer.send(100).await;
    firehose.receives(100, SOON).await;
    tail.receives(100, SOON).await;
    cluster.assert_balanced().await;
}

fn controller_of(cluster: &Cluster) -> &Controller {
    &cluster.controllers[0]
}

/// How many bad tokens come at once.
const BAD_TOKENS: usize = 10_000;

/// On so many connections at a time.
const CONNECTIONS: usize = 32;

/// So many tokens on each connection: few enough for the time a connection has.
const EACH: usize = 50;

/// A token like no other, of 4 KiB: half of them name a key that there is, and none is signed.
fn bad_token(n: usize) -> String {
    let kid = match n % 2 {
        0 => "key-0".to_owned(),
        _ => format!("key-{n}"),
    };
    let header = json!({"alg": "RS256", "kid": kid});
    let claims = json!({"n": n, "pad": "x".repeat(2_400)});
    let signature = URL_SAFE_NO_PAD.encode([n as u8; 256]);
    format!("{}.{}.{signature}", part(&header), part(&claims))
}

/// Shows these bad tokens; returns how many were answered 401, and how many 503.
async fn burst(platform: &Platform, tokens: std::ops::Range<usize>) -> (usize, usize) {
    let address = platform.controller().address;
    let tls = platform.controller().tls().unwrap();
    let half = tokens.start + tokens.len() / 2;
    let mut chunks = tokens
        .step_by(EACH)
        .map(|first| (first, (first..first + EACH).contains(&half)));
    let mut running = JoinSet::new();
    let (mut refused, mut busy) = (0, 0);
    loop {
        while running.len() < CONNECTIONS
            && let Some((first, middle)) = chunks.next()
        {
            let tls = tls.clone();
            let good = middle.then(|| platform.uaa.token(&FIREHOSE));
            running.spawn(async move {
                let mut raw = Raw::connect(address, Some(&tls)).await;
                let mut statuses = Vec::new();
                for n in first..first + EACH {
                    let line = bearer(&bad_token(n));
                    raw.send(handshake("/firehose/n", &[&line]).as_bytes())
                        .await;
                    statuses.push(raw.response().await.status);
                }
                if let Some(good) = good {
                    let line = bearer(&good);
                    raw.send(handshake("/firehose/good", &[&line]).as_bytes())
                        .await;
                    assert_eq!(
                        raw.response().await.status,
                        101,
                        "a good one among bad ones"
                    );
                }
                statuses
            });
        }
        let Some(statuses) = running.join_next().await else {
            return (refused, busy);
        };
        for status in statuses.unwrap() {
            match status {
                401 => refused += 1,
                503 => busy += 1,
                other => panic!("a bad token was answered {other}"),
            }
        }
    }
}

/// Shows them all; returns how many were answered 401. Panics if memory grows by them.
async fn burst_in_bounded_memory(platform: &Platform) -> usize {
    let process = &platform.controller().process;
    // What a first burst needs is needed once.
    burst(platform, 0..BAD_TOKENS / 10).await;
    platform.uaa.calls();
    let before = process.usage().resident;
    let first = BAD_TOKENS;
    let (refused, busy) = burst(platform, first..first + BAD_TOKENS).await;
    assert_eq!(refused + busy, BAD_TOKENS);
    let grown = process.usage().resident.saturating_sub(before);
    assert!(grown < NOISE, "grown by {grown} bytes");
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_bad_tokens_are_one_question_each_and_nothing_is_kept_of_them() {
    let platform = Platform::asking(0, |builder| builder).await;
    let refused = burst_in_bounded_memory(&platform).await;
    let checks = asked(&platform.uaa.calls());
    // And one for the good token.
    assert_eq!(checks.len(), refused + 1);
    assert!(checks.iter().all(|call| call == "uaa POST /check_token"));
    assert_eq!(platform.checks("uaa", "trouble").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_bad_tokens_verified_here_ask_for_keys_once_in_five_seconds() {
    let platform = Platform::verifying(0, |builder| builder).await;
    let began = Instant::now();
    let refused = burst_in_bounded_memory(&platform).await;
    assert_eq!(
        refused, BAD_TOKENS,
        "a token with an unknown key is no trouble"
    );
    let calls = asked(&platform.uaa.calls());
    assert!(calls.iter().all(|call| call == "uaa GET /token_keys"));
    let most = began.elapsed().as_secs() / KEYS_BELIEVED.as_secs() + 1;
    assert!(calls.len() as u64 <= most, "{} > {most}", calls.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_over_8_kib_is_refused_without_a_question() {
    let platform = Platform::asking(0, |builder| builder).await;
    let app = format!("/apps/{}/stream", guid(0x200));
    let token = "t".repeat((8 << 10) + 1);
    for path in ["/firehose/n", &app] {
        let answer = ask(platform.controller(), path, &[&bearer(&token)]).await;
        assert_eq!(answer.status, 401, "{path}");
    }
    assert_eq!(
        platform.uaa.called() + platform.cloud_controller.called(),
        0
    );
    // One that just fits is a question like any other.
    assert_eq!(platform.shows(&token[1..]).await.status, 401);
    assert_eq!(asked(&platform.uaa.calls()), ["uaa POST /check_token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_of_a_gibibyte_is_no_yes_and_is_not_taken_in() {
    let platform = Platform::asking(0, |builder| builder).await;
    assert_eq!(platform.shows("noscope-token").await.status, 401);
    let before = platform.controller().process.usage().peak_resident;
    let answer = platform.shows("uaaflood-token").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("5"));
    let grown = platform.controller().process.usage().peak_resident - before;
    assert!(grown < NOISE, "grown by {grown} bytes");
    assert_eq!(platform.shows("firehose-token").await.status, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_guid_never_reaches_cloud_controller() {
    let platform = Platform::asking(0, |builder| builder).await;
    let controller = platform.controller();
    let good = guid(0x200);
    let (head, tail) = (&good[..35], &good[1..]);
    let ids = [
        "..".to_owned(),
        "%2e%2e".to_owned(),
        "..%2f".to_owned(),
        "..%2f..%2fv3%2fapps".to_owned(),
        format!("{good}%2f.."),
        format!("{good}/../{good}/.."),
        format!("..%2f{good}"),
        format!("..%5c{good}"),
        format!("{good}%00"),
        format!("%00{tail}"),
        format!("{head}%00"),
        format!("{good}%0d%0aX-Forged:%201"),
        format!("{good}%0a"),
        format!("{good}%20"),
        format!("%20{good}"),
        format!("{good}%3fx=1"),
        format!("{good}%23"),
        format!("{good}%252f.."),
        format!("{good}?"),
        format!("{good};x"),
        good.replace('-', "%E2%80%90"),
        // A full-width 0, a Cyrillic а, an overlong slash, half a character.
        format!("{head}%EF%BC%90"),
        format!("{head}%D0%B0"),
        format!("{head}%C0%AF"),
        format!("{head}%FF"),
        format!("{head}%"),
        format!("{head}g"),
        format!("{{{good}}}"),
        format!("urn:uuid:{good}"),
        good.replace('-', ""),
        format!("{good}{good}"),
        "%".to_owned(),
        "a".repeat(4_000),
    ];
    let line = bearer("user-token");
    for id in &ids {
        for what in [
            "stream",
            "stream?recent=5",
            "recentlogs",
            "containermetrics",
        ] {
            let path = format!("/apps/{id}/{what}");
            let answer = ask(controller, &path, &[&line]).await;
            assert!(
                matches!(answer.status, 301 | 400 | 401 | 404),
                "{path}: {answer:?}"
            );
        }
    }
    let calls = platform.cloud_controller.calls();
    assert_eq!(calls, [], "no trick was worth a question");
    let path = format!("/apps/{good}/stream");
    assert_eq!(ask(controller, &path, &[&line]).await.status, 101);
    assert_eq!(
        asked(&platform.cloud_controller.calls()),
        [format!("cc GET /internal/v4/log_access/{good}")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_headers_of_strangers_change_no_answer_and_no_line_of_the_security_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("security_events.log");
    let mut platform = Platform::asking(0, |builder| {
        builder
            .controller_flag("--system-domain", "sys.example.com")
            .controller_flag("--security-event-log", log.display())
    })
    .await;
    let controller = platform.controller();
    let app = format!("/apps/{}/stream", guid(0x200));
    let none = guid(0x404);
    let no_app = format!("/apps/{none}/stream");
    let cookie = "Cookie: authorization=bearer%20firehose-token";
    let requests: [(&str, &[&str]); 8] = [
        ("/firehose/n", &[]),
        ("/firehose/n", &["Authorization: bearer nonsense"]),
        (&app, &[]),
        (&no_app, &["Authorization: bearer user-token"]),
        ("/firehose/n", &[cookie, "Origin: https://evil.test"]),
        ("/firehose/n", &[cookie, "Origin: http://test"]),
        ("//firehose/n", &[]),
        (
            "/set-cookie?CookieName=authorization&CookieValue=x",
            &["Origin: https://evil.test"],
        ),
    ];
    let forged = [
        "X-Forwarded-For: 192.0.2.66, 127.0.0.1",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.test",
        "X-Forwarded-Port: 1",
        "Forwarded: for=192.0.2.66;proto=http;host=evil.test",
        "X-Real-IP: 192.0.2.66",
        "X-Forwarded-Client-Cert: MIIB",
        "X-Original-URL: /firehose/other",
    ];
    for (path, lines) in requests {
        let answer = async |forged: &[&str]| {
            let mut answer = ask(controller, path, &[lines, forged].concat()).await;
            answer.headers.retain(|(name, _)| name != "date");
            answer
        };
        let honest = answer(&[]).await;
        assert!(
            honest.status >= 300 || path.starts_with("/set-cookie"),
            "{honest:?}"
        );
        for line in forged {
            assert_eq!(answer(&[line]).await, honest, "{path} with {line}");
        }
        assert_eq!(answer(&forged).await, honest, "{path} with all of them");
    }
    let mut controller = platform.cluster.controllers.remove(0);
    assert_eq!(controller.process.terminate(SOON).await, 0);
    let written = std::fs::read_to_string(&log).unwrap();
    assert_eq!(written.lines().count(), requests.len() * (forged.len() + 2));
    for line in written.lines() {
        assert!(line.contains(" src=127.0.0.1 spt="), "{line}");
    }
}
