//! Tokens that are renewed, as a program that uses the library sees them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use firehose_client::{
    CfCli, Client, CloudController, CloudControllerError, EnvelopeStream, Error, Event, Filter,
    Login, Token, Trust,
};
use futures::StreamExt;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::authority::{Answer, Authority, json};
use crate::traffic_controller::{TrafficController, log};

/// A UAA that gives `access-1`, `access-2`, … for ten minutes each.
async fn uaa() -> Authority {
    let mut given = 0;
    Authority::start(move |_| {
        given += 1;
        json(format!(
            r#"{{"access_token":"access-{given}","refresh_token":"refresh-{given}","expires_in":600}}"#
        ))
    })
    .await
}

fn denied() -> Answer {
    let body =
        r#"{"error":"invalid_grant","error_description":"Invalid refresh token: refresh-0"}"#;
    ("400 Bad Request", String::new(), body.into())
}

fn nozzle(uaa: &Authority) -> Login {
    Login::client_credentials(&uaa.url, "my-nozzle", "a secret", &Trust::System).unwrap()
}

fn client(server: &TrafficController, login: &Login) -> Client {
    let builder = Client::builder(&server.url).token(Token::Login(login.clone()));
    builder.build().unwrap()
}

fn firehose(client: &Client) -> EnvelopeStream {
    client.firehose("some-id", Filter::Everything).unwrap()
}

/// What the server is shown when a stream connects. The stream gets one envelope and goes.
async fn shown(server: &TrafficController, client: &Client) -> String {
    let mut stream = firehose(client);
    let serve = async {
        let caller = server.caller().await;
        let shown = caller.header("authorization").unwrap().to_owned();
        let mut subscriber = caller.subscribe().await;
        subscriber.send(log("in")).await;
        (shown, subscriber)
    };
    let (envelope, (shown, _subscriber)) = tokio::join!(stream.next(), serve);
    envelope.unwrap().unwrap();
    shown
}

async fn passes(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut said = format!("{error:?} {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        said.push_str(&format!(": {cause:?} {cause}"));
        source = cause.source();
    }
    said
}

/// A cf CLI that is logged in, with a token of which nobody knows when it ends.
fn cf_cli(uaa: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("config.json");
    let config = format!(
        r#"{{"Target":"https://api.example.com","UaaEndpoint":"{uaa}","AccessToken":"bearer access-0",
            "RefreshToken":"refresh-0","UAAOAuthClient":"cf","New":{{"kept": 1.50}}}}"#
    );
    std::fs::write(&path, config).unwrap();
    (folder, path)
}

#[tokio::test]
async fn a_nozzle_logs_in_as_a_client_of_its_own() {
    let (uaa, server) = (uaa().await, TrafficController::start().await);
    let client = client(&server, &nozzle(&uaa));
    assert_eq!(shown(&server, &client).await, "bearer access-1");
    let asked = uaa.asked();
    assert_eq!(asked[0].line(), "POST /oauth/token");
    assert_eq!(asked[0].body, "grant_type=client_credentials");
    // `my-nozzle:a secret`
    let basic = Some("Basic bXktbm96emxlOmEgc2VjcmV0");
    assert_eq!(asked[0].header("authorization"), basic);
    let form = Some("application/x-www-form-urlencoded");
    assert_eq!(asked[0].header("content-type"), form);
}

#[tokio::test]
async fn many_streams_that_begin_together_ask_for_one_token() {
    let (uaa, server) = (uaa().await, TrafficController::start().await);
    let client = client(&server, &nozzle(&uaa));
    let mut streams: Vec<_> = (0..20).map(|_| firehose(&client)).collect();
    let serve = async {
        let mut subscribers = Vec::new();
        for _ in 0..20 {
            let caller = server.caller().await;
            assert_eq!(caller.header("authorization"), Some("bearer access-1"));
            let mut subscriber = caller.subscribe().await;
            subscriber.send(log("in")).await;
            subscribers.push(subscriber);
        }
        subscribers
    };
    let read = join_all(streams.iter_mut().map(StreamExt::next));
    let (read, _subscribers) = tokio::join!(read, serve);
    assert!(read.into_iter().all(|envelope| envelope.unwrap().is_ok()));
    assert_eq!(uaa.lines(), ["POST /oauth/token"]);
}

#[tokio::test]
async fn a_token_is_renewed_a_minute_before_it_ends() {
    let (uaa, server) = (uaa().await, TrafficController::start().await);
    let client = client(&server, &nozzle(&uaa));
    assert_eq!(shown(&server, &client).await, "bearer access-1");
    passes(Duration::from_secs(500)).await;
    assert_eq!(shown(&server, &client).await, "bearer access-1");
    passes(Duration::from_secs(41)).await;
    assert_eq!(shown(&server, &client).await, "bearer access-2");
    assert_eq!(uaa.asked().len(), 2);
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_and_a_fresh_one_that_is_refused_ends_the_stream() {
    let server = TrafficController::start().await;
    let uaa = uaa().await;
    let (_folder, path) = cf_cli(&uaa.url);
    let cli = CfCli::read(&path).unwrap();
    let login = Login::cf_cli(&cli, &Trust::System).unwrap();
    let mut stream = firehose(&client(&server, &login));
    let serve = async {
        for expected in ["bearer access-0", "bearer access-1"] {
            let caller = server.caller().await;
            assert_eq!(caller.header("authorization"), Some(expected));
            caller.answer("401 Unauthorized", "", "no").await;
        }
    };
    let (error, ()) = tokio::join!(stream.next(), serve);
    let error = error.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert_eq!(uaa.lines(), ["POST /oauth/token"]);
}

#[tokio::test]
async fn a_lost_connection_comes_back_with_a_renewed_token() {
    let (uaa, server) = (uaa().await, TrafficController::start().await);
    let mut stream = firehose(&client(&server, &nozzle(&uaa)));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        subscriber.send(log("before")).await;
        passes(Duration::from_secs(600)).await;
        drop(subscriber);
        let caller = server.caller().await;
        assert_eq!(caller.header("authorization"), Some("bearer access-2"));
        let mut subscriber = caller.subscribe().await;
        subscriber.send(log("after")).await;
        subscriber
    };
    let read = async {
        stream.next().await.unwrap().unwrap();
        stream.next().await.unwrap().unwrap();
    };
    tokio::join!(serve, read);
}

#[tokio::test]
async fn what_uaa_does_not_grant_is_asked_for_once_and_told_without_the_token_it_quotes() {
    let uaa = Authority::start(|_| denied()).await;
    let server = TrafficController::start().await;
    let login = Login::refresh_token(&uaa.url, "cf", "", "refresh-0", &Trust::System).unwrap();
    let client = client(&server, &login);
    for _ in 0..5 {
        let error = firehose(&client).next().await.unwrap().unwrap_err();
        assert!(
            matches!(&error, Error::Token { source } if source.needs_login()),
            "{error:?}"
        );
        let said = chain(&error);
        assert!(
            said.contains("invalid_grant") && said.contains("cf login"),
            "{said}"
        );
        assert!(!said.contains("refresh-0"), "{said}");
    }
    assert_eq!(
        uaa.asked()[0].body,
        "grant_type=refresh_token&refresh_token=refresh-0"
    );
    // `cf:`, as the cf CLI has no secret.
    assert_eq!(uaa.asked()[0].header("authorization"), Some("Basic Y2Y6"));
    assert_eq!(uaa.asked().len(), 1);
}

#[tokio::test]
async fn a_uaa_that_is_busy_is_asked_again() {
    let mut asked = 0;
    let uaa = Authority::start(move |_| {
        asked += 1;
        match asked {
            1 => ("503 Service Unavailable", String::new(), "busy".into()),
            _ => json(r#"{"access_token":"access","expires_in":600}"#),
        }
    })
    .await;
    let server = TrafficController::start().await;
    let retried = Arc::new(AtomicUsize::new(0));
    let count = retried.clone();
    let mut stream = firehose(&client(&server, &nozzle(&uaa))).with_events(move |event| {
        if let Event::Retrying { error, .. } = event {
            assert!(chain(&error).contains("503"), "{error:?}");
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let serve = async {
        let mut subscriber = server.subscriber().await;
        subscriber.send(log("in")).await;
        subscriber
    };
    let (envelope, _subscriber) = tokio::join!(stream.next(), serve);
    envelope.unwrap().unwrap();
    assert_eq!(retried.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_redirect_takes_no_secret_anywhere() {
    let elsewhere = Authority::start(|_| json("{}")).await;
    let location = format!("Location: {}/oauth/token\r\n", elsewhere.url);
    let uaa =
        Authority::start(move |_| ("307 Temporary Redirect", location.clone(), String::new()))
            .await;
    let server = TrafficController::start().await;
    let error = firehose(&client(&server, &nozzle(&uaa))).next().await;
    let said = chain(&error.unwrap().unwrap_err());
    assert!(said.contains("307"), "{said}");
    assert!(!said.contains("a secret"), "{said}");
    assert!(elsewhere.asked().is_empty());

    let token = Token::Fixed("a-token".into());
    let cloud_controller = CloudController::new(&uaa.url, &Trust::System).unwrap();
    let error = cloud_controller.app_guid("app", "space", &token).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, CloudControllerError::Refused { .. }),
        "{error:?}"
    );
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    const GIB: usize = 1 << 30;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // An answer before the question would be another mistake.
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut sent = 0;
        while sent < GIB && stream.write_all(&[b' '; 1 << 16]).await.is_ok() {
            sent += 1 << 16;
        }
        sent
    });
    let cloud_controller = CloudController::new(&url, &Trust::System).unwrap();
    let error = cloud_controller.logging_endpoint().await.unwrap_err();
    assert!(
        chain(&error).contains("longer than 1048576 bytes"),
        "{}",
        chain(&error)
    );
    let sent = serve.await.unwrap();
    assert!(sent < 64 << 20, "no more than sockets hold: {sent}");
}

#[tokio::test]
async fn what_is_renewed_is_written_back_for_the_cf_cli() {
    let (uaa, server) = (uaa().await, TrafficController::start().await);
    let (_folder, path) = cf_cli(&uaa.url);
    let login = Login::cf_cli(&CfCli::read(&path).unwrap(), &Trust::System).unwrap();
    let mut stream = firehose(&client(&server, &login));
    let serve = async {
        let caller = server.caller().await;
        assert_eq!(caller.header("authorization"), Some("bearer access-0"));
        caller.answer("401 Unauthorized", "", "").await;
        let caller = server.caller().await;
        assert_eq!(caller.header("authorization"), Some("bearer access-1"));
        let mut subscriber = caller.subscribe().await;
        subscriber.send(log("in")).await;
        subscriber
    };
    let (envelope, _subscriber) = tokio::join!(stream.next(), serve);
    envelope.unwrap().unwrap();
    let written = std::fs::read_to_string(&path).unwrap();
    for kept in [
        r#""bearer access-1""#,
        r#""refresh-1""#,
        r#"{"kept": 1.50}"#,
    ] {
        assert!(written.contains(kept), "{kept}: {written}");
    }
    assert_eq!(
        uaa.asked()[0].body,
        "grant_type=refresh_token&refresh_token=refresh-0"
    );
}

#[tokio::test]
async fn what_the_cf_cli_renewed_is_used_without_asking() {
    let (uaa, server) = (uaa().await, TrafficController::start().await);
    let (_folder, path) = cf_cli(&uaa.url);
    let login = Login::cf_cli(&CfCli::read(&path).unwrap(), &Trust::System).unwrap();
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("access-0", "of-the-cf-cli")).unwrap();
    let mut stream = firehose(&client(&server, &login));
    let serve = async {
        let caller = server.caller().await;
        caller.answer("401 Unauthorized", "", "").await;
        let caller = server.caller().await;
        assert_eq!(caller.header("authorization"), Some("bearer of-the-cf-cli"));
        let mut subscriber = caller.subscribe().await;
        subscriber.send(log("in")).await;
        subscriber
    };
    let (envelope, _subscriber) = tokio::join!(stream.next(), serve);
    envelope.unwrap().unwrap();
    assert!(uaa.asked().is_empty());
}

#[tokio::test]
async fn a_refresh_token_the_cf_cli_used_up_first_is_followed_by_the_one_it_got() {
    let (_folder, path) = cf_cli("");
    let file = path.clone();
    let uaa = Authority::start(move |asked| {
        if asked.body.ends_with("refresh_token=refresh-0") {
            // Just now the cf CLI was faster.
            let config = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, config.replace("refresh-0", "refresh-1")).unwrap();
            return denied();
        }
        json(r#"{"access_token":"access","refresh_token":"refresh-2","expires_in":600}"#)
    })
    .await;
    let config = std::fs::read_to_string(&path).unwrap();
    let config = config.replace(
        r#""UaaEndpoint":"""#,
        &format!(r#""UaaEndpoint":"{}""#, uaa.url),
    );
    std::fs::write(&path, config.replace("bearer access-0", "")).unwrap();
    let login = Login::cf_cli(&CfCli::read(&path).unwrap(), &Trust::System).unwrap();
    let server = TrafficController::start().await;
    assert_eq!(
        shown(&server, &client(&server, &login)).await,
        "bearer access"
    );
    assert_eq!(uaa.asked().len(), 2);
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .contains("refresh-2")
    );
}

#[tokio::test]
async fn a_cf_cli_that_went_elsewhere_or_logged_out_ends_the_stream() {
    for (found, put) in [("access-0", ""), ("api.example.com", "api.other.example")] {
        let (uaa, server) = (uaa().await, TrafficController::start().await);
        let (_folder, path) = cf_cli(&uaa.url);
        let login = Login::cf_cli(&CfCli::read(&path).unwrap(), &Trust::System).unwrap();
        let config = std::fs::read_to_string(&path).unwrap();
        let config = config.replace(found, put).replace("refresh-0", "");
        std::fs::write(&path, config).unwrap();
        let mut stream = firehose(&client(&server, &login));
        let serve = async {
            let caller = server.caller().await;
            caller.answer("401 Unauthorized", "", "").await;
        };
        let (error, ()) = tokio::join!(stream.next(), serve);
        let error = error.unwrap().unwrap_err();
        assert!(
            matches!(&error, Error::Token { source } if source.needs_login()),
            "{error:?}"
        );
        assert!(uaa.asked().is_empty());
    }
}

#[tokio::test]
async fn a_renewed_login_that_cannot_be_kept_is_used_and_told() {
    let (folder, path) = cf_cli("");
    let file = path.clone();
    let uaa = Authority::start(move |_| {
        std::fs::remove_file(&file).unwrap();
        json(r#"{"access_token":"access","refresh_token":"refresh","expires_in":600}"#)
    })
    .await;
    let config = std::fs::read_to_string(&path).unwrap();
    let config = config.replace(
        r#""UaaEndpoint":"""#,
        &format!(r#""UaaEndpoint":"{}""#, uaa.url),
    );
    std::fs::write(&path, config.replace("bearer access-0", "")).unwrap();
    let login = Login::cf_cli(&CfCli::read(&path).unwrap(), &Trust::System).unwrap();
    let server = TrafficController::start().await;
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let mut stream = firehose(&client(&server, &login)).with_events(move |event| {
        if let Event::LoginNotSaved { error } = event {
            assert!(!chain(&error).contains("refresh"), "{error:?}");
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let serve = async {
        let caller = server.caller().await;
        assert_eq!(caller.header("authorization"), Some("bearer access"));
        let mut subscriber = caller.subscribe().await;
        subscriber.send(log("in")).await;
        subscriber
    };
    let (envelope, _subscriber) = tokio::join!(stream.next(), serve);
    envelope.unwrap().unwrap();
    assert_eq!(told.load(Ordering::Relaxed), 1);
    drop(folder);
}
