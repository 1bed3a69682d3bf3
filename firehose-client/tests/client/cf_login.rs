//! `firehose` with the cf CLI's login: where it connects, as whom, and to which app.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::authority::{Answer, Asked, Authority, json};
use crate::certificates::Ca;
use crate::traffic_controller::{TrafficController, log};

const GUID: &str = "11111111-2222-3333-4444-555555555555";
const OTHER: &str = "99999999-2222-3333-4444-555555555555";

/// Everything that must never be printed.
const SECRETS: [&str; 4] = ["access-0", "access-1", "refresh-0", "refresh-1"];

/// A user with a cf CLI.
struct User(tempfile::TempDir);

impl User {
    fn new(config: &str) -> User {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::create_dir(home.path().join(".cf")).unwrap();
        let user = User(home);
        std::fs::write(user.config(), config).unwrap();
        user
    }

    fn config(&self) -> PathBuf {
        self.0.path().join(".cf/config.json")
    }

    fn home(&self) -> &Path {
        self.0.path()
    }

    /// Runs `firehose` while `server` serves one subscriber one log, if it gets so far.
    async fn runs(&self, arguments: &[&str], server: &TrafficController) -> Ran {
        let run = firehose(arguments).env("HOME", self.home()).output();
        let mut heads = Vec::new();
        let serve = async {
            loop {
                let caller = server.caller().await;
                heads.push(caller.head.clone());
                let mut subscriber = caller.subscribe().await;
                subscriber.send(log("hello")).await;
                subscriber.closed().await;
            }
        };
        let output = tokio::select! {
            output = run => output.unwrap(),
            () = serve => unreachable!(),
        };
        Ran::new(output, heads)
    }
}

fn firehose(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firehose"));
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
    /// What the Traffic Controller was asked.
    heads: Vec<String>,
}

impl Ran {
    /// Whatever it ran for, it has printed no secret.
    fn new(output: Output, heads: Vec<String>) -> Ran {
        let out = String::from_utf8(output.stdout).unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        for secret in SECRETS {
            assert!(!out.contains(secret) && !err.contains(secret), "{out}{err}");
        }
        let code = output.status.code();
        Ran {
            code,
            out,
            err,
            heads,
        }
    }
}

fn config(api: &str, uaa: &str, doppler: &str) -> String {
    format!(
        r#"{{"ConfigVersion":4,"Target":"{api}","UaaEndpoint":"{uaa}","DopplerEndPoint":"{doppler}",
            "AccessToken":"bearer access-0","RefreshToken":"refresh-0","UAAOAuthClient":"cf",
            "OrganizationFields":{{"GUID":"o","Name":"org"}},
            "SpaceFields":{{"GUID":"{OTHER}","Name":"space"}}}}"#
    )
}

/// A Cloud Controller with one app, `my-app, 100%`.
fn apps(asked: &Asked) -> Answer {
    match asked.line() {
        "GET /v3/apps?names=my-app%252C+100%2525&space_guids=99999999-2222-3333-4444-555555555555" => {
            json(format!(
                r#"{{"resources":[{{"guid":"{GUID}","name":"my-app, 100%"}}]}}"#
            ))
        }
        line if line.starts_with("GET /v3/apps?names=twice&") => json(format!(
            r#"{{"resources":[{{"guid":"{GUID}","name":"twice"}},{{"guid":"{OTHER}","name":"twice"}}]}}"#
        )),
        line if line.starts_with("GET /v3/apps?") => {
            // A database that compares names without case.
            json(format!(
                r#"{{"resources":[{{"guid":"{GUID}","name":"OTHER-CASE"}}]}}"#
            ))
        }
        _ => ("404 Not Found", String::new(), String::new()),
    }
}

#[tokio::test]
async fn an_app_is_tailed_by_its_name_with_nothing_said_but_cf_login() {
    let server = TrafficController::start().await;
    let api = Authority::start(apps).await;
    let user = User::new(&config(&api.url, &api.url, &server.url));
    let ran = user
        .runs(&["tail", "my-app, 100%", "--max", "1"], &server)
        .await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.ends_with("OUT hello\n"), "{}", ran.out);
    let head = &ran.heads[0];
    assert!(
        head.starts_with(&format!("GET /apps/{GUID}/stream HTTP")),
        "{head}"
    );
    assert!(
        head.contains("authorization: bearer access-0\r\n"),
        "{head}"
    );
    assert_eq!(api.asked().len(), 1);
    assert_eq!(
        api.asked()[0].header("authorization"),
        Some("bearer access-0")
    );
}

#[tokio::test]
async fn cf_home_counts_more_than_home() {
    let server = TrafficController::start().await;
    let user = User::new(&config(
        "https://localhost",
        "https://localhost",
        &server.url,
    ));
    let mut child = firehose(&["subscribe", "--id", "x"])
        .env("HOME", "/does/not/exist")
        .env("CF_HOME", user.home())
        .spawn()
        .unwrap();
    let caller = server.caller().await;
    assert_eq!(caller.header("authorization"), Some("bearer access-0"));
    child.kill().await.unwrap();
}

#[tokio::test]
async fn cloud_controller_is_asked_for_an_endpoint_the_cf_cli_does_not_know() {
    let server = TrafficController::start().await;
    let endpoint = server.url.clone();
    let new = Authority::start(move |_| {
        json(format!(
            r#"{{"links":{{"logging":{{"href":"{endpoint}"}}}}}}"#
        ))
    })
    .await;
    let endpoint = server.url.clone();
    let old = Authority::start(move |asked| match asked.line() {
        "GET /v2/info" => json(format!(r#"{{"doppler_logging_endpoint":"{endpoint}"}}"#)),
        _ => json("{}"),
    })
    .await;
    for (api, lines) in [(new, &["GET /"][..]), (old, &["GET /", "GET /v2/info"])] {
        let user = User::new(&config(&api.url, &api.url, ""));
        let ran = user.runs(&["tail", GUID, "--max", "1"], &server).await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert_eq!(api.lines(), lines);
        assert_eq!(api.asked()[0].header("authorization"), None);
    }
}

#[tokio::test]
async fn an_app_that_cannot_be_found_by_name_says_why() {
    let server = TrafficController::start().await;
    let api = Authority::start(apps).await;
    let logged_in = config(&api.url, &api.url, &server.url);
    let nowhere = logged_in.replace(&format!(r#""GUID":"{OTHER}""#), r#""GUID":"""#);
    for (config, app, code, why) in [
        (
            &logged_in,
            "other-case",
            5,
            "no app \"other-case\" in this space",
        ),
        (&logged_in, "twice", 2, OTHER),
        (&nowhere, "my-app", 2, "cf target -s"),
    ] {
        let ran = User::new(config).runs(&["tail", app], &server).await;
        assert!(ran.err.contains(why), "{}", ran.err);
        assert_eq!(ran.code, Some(code), "{}", ran.err);
        assert!(ran.heads.is_empty());
    }
}

#[tokio::test]
async fn who_is_not_logged_in_is_told_to_log_in() {
    let server = TrafficController::start().await;
    let logged_out = config("https://localhost", "https://localhost", &server.url)
        .replace("bearer access-0", "")
        .replace("refresh-0", "");
    let ran = User::new(&logged_out).runs(&["tail", GUID], &server).await;
    assert!(ran.err.contains("run cf login"), "{}", ran.err);
    assert_eq!(ran.code, Some(4));

    let ran = User::new("{}").runs(&["tail", GUID], &server).await;
    assert!(ran.err.contains("run cf login"), "{}", ran.err);
    assert!(ran.err.contains("--endpoint"), "{}", ran.err);
    assert_eq!(ran.code, Some(2));
}

#[tokio::test]
async fn a_login_that_has_ended_is_exit_code_4_after_one_question() {
    let server = TrafficController::start().await;
    let uaa = Authority::start(|_| {
        let body =
            r#"{"error":"invalid_grant","error_description":"Invalid refresh token: refresh-0"}"#;
        ("401 Unauthorized", String::new(), body.into())
    })
    .await;
    // Its end was in 2001.
    let ended = format!("bearer {}", "e30.eyJleHAiOjEwMDAwMDAwMDB9.c2ln");
    let config = config(&uaa.url, &uaa.url, &server.url).replace("bearer access-0", &ended);
    for arguments in [&["tail", GUID][..], &["tail", "my-app"]] {
        let asked = uaa.asked().len();
        let ran = User::new(&config).runs(arguments, &server).await;
        assert!(ran.err.contains("cf login"), "{}", ran.err);
        assert!(ran.err.contains("invalid_grant"), "{}", ran.err);
        assert_eq!(ran.code, Some(4), "{}", ran.err);
        assert_eq!(uaa.asked().len() - asked, 1);
        assert!(ran.heads.is_empty());
    }
}

#[tokio::test]
async fn an_ended_token_is_renewed_and_kept_for_the_cf_cli() {
    let server = TrafficController::start().await;
    let uaa = Authority::start(|_| {
        json(r#"{"access_token":"access-1","refresh_token":"refresh-1","expires_in":600}"#)
    })
    .await;
    let ended = format!("bearer {}", "e30.eyJleHAiOjEwMDAwMDAwMDB9.c2ln");
    let user =
        User::new(&config(&uaa.url, &uaa.url, &server.url).replace("bearer access-0", &ended));
    let ran = user.runs(&["tail", GUID, "--max", "1"], &server).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.heads[0].contains("authorization: bearer access-1\r\n"));
    let kept = std::fs::read_to_string(user.config()).unwrap();
    assert!(
        kept.contains("bearer access-1") && kept.contains("refresh-1"),
        "{kept}"
    );
}

#[tokio::test]
async fn a_token_of_one_platform_is_not_shown_to_another() {
    let server = TrafficController::start().await;
    let user = User::new(&config(
        "https://api.example.com",
        "https://uaa.example.com",
        "wss://doppler.example.com:443",
    ));
    let arguments = ["tail", GUID, "--max", "1", "--endpoint", &server.url];
    let ran = user.runs(&arguments, &server).await;
    assert!(ran.err.contains("showing no token"), "{}", ran.err);
    assert!(!ran.heads[0].contains("authorization"), "{}", ran.heads[0]);

    let arguments = [&arguments[..], &["--token", "mine"]].concat();
    let ran = user.runs(&arguments, &server).await;
    assert!(ran.heads[0].contains("authorization: bearer mine\r\n"));
}

#[tokio::test]
async fn a_name_is_not_looked_for_with_the_token_of_another_platform() {
    let server = TrafficController::start().await;
    let api = Authority::start(apps).await;
    let doppler = "wss://doppler.example.com:443";
    let user = User::new(&config(&api.url, &api.url, doppler));
    let endpoint = &server.url;
    let arguments = ["tail", "twice", "--token", "mine", "--endpoint", endpoint];
    let ran = user.runs(&arguments, &server).await;
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("not a GUID"), "{}", ran.err);
    assert!(api.asked().is_empty(), "{:?}", api.asked());
}

#[tokio::test]
async fn certificates_are_checked_unless_the_cf_cli_was_told_otherwise_and_that_is_said() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let server = TrafficController::start_tls(&ours.signs("localhost")).await;
    let api = Authority::start_tls(&ours.signs("localhost"), apps).await;
    let checked = config(&api.url, &api.url, &server.url);
    let skipped = checked.replacen('{', "{\"SSLDisabled\":true,", 1);
    let tail = ["tail", "my-app, 100%", "--max", "1"];

    let ran = User::new(&skipped).runs(&tail, &server).await;
    assert!(
        ran.err.contains("WARNING: no certificate is checked"),
        "{}",
        ran.err
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);

    let our_ca = [&tail[..], &["--ca", ours.path.to_str().unwrap()]].concat();
    let ran = User::new(&checked).runs(&our_ca, &server).await;
    assert!(!ran.err.contains("WARNING"), "{}", ran.err);
    assert_eq!(ran.code, Some(0), "{}", ran.err);

    // A CA on the command line counts more than the cf CLI's carelessness.
    let their_ca = [&tail[..], &["--ca", theirs.path.to_str().unwrap()]].concat();
    let ran = User::new(&skipped).runs(&their_ca, &server).await;
    assert!(ran.err.contains("certificate"), "{}", ran.err);
    assert_eq!(ran.code, Some(3), "{}", ran.err);
}

#[tokio::test]
async fn recent_logs_are_asked_for_by_the_first_connection_only() {
    let server = TrafficController::start().await;
    let arguments = [
        "tail",
        GUID,
        "--recent",
        "50",
        "--max",
        "2",
        "--endpoint",
        &server.url,
    ];
    let run = firehose(&arguments).output();
    let serve = async {
        for path in ["stream?recent=50", "stream"] {
            let caller = server.caller().await;
            let line = format!("GET /apps/{GUID}/{path} HTTP/1.1\r\n");
            assert!(caller.head.starts_with(&line), "{}", caller.head);
            let mut subscriber = caller.subscribe().await;
            subscriber.send(log("hello")).await;
            subscriber.close(1001).await;
        }
    };
    let (output, ()) = tokio::join!(run, serve);
    assert_eq!(output.unwrap().status.code(), Some(0));
}

#[tokio::test]
async fn help_tells_where_endpoint_and_token_come_from() {
    for command in ["tail", "subscribe"] {
        let output = firehose(&[command, "--help"]).output().await.unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        for told in [
            "DOPPLER_ADDR",
            "CF_ACCESS_TOKEN",
            ".cf/config.json",
            "cf login",
        ] {
            assert!(help.contains(told), "{command}: {told}: {help}");
        }
    }
}
