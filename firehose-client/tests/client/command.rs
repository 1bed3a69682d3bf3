//! What a person or a script that runs `firehose` sees.

use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::doppler::{Doppler, OK};
use crate::traffic_controller::{TrafficController, counter, log};

const GUID: &str = "11111111-2222-3333-4444-555555555555";

pub(crate) fn firehose(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firehose"));
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs it to its end, against a server that does what `serve` does.
pub(crate) async fn run(arguments: &[&str], serve: impl Future) -> (Option<i32>, String, String) {
    let run = async { firehose(arguments).output().await.unwrap() };
    tokio::select! {
        output = run => told(output),
        never = async { serve.await; std::future::pending::<()>().await } => {
            let () = never;
            unreachable!("pending")
        }
    }
}

fn told(output: Output) -> (Option<i32>, String, String) {
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// Serves `envelopes`, and waits for the subscriber to leave.
async fn serve(server: &TrafficController, envelopes: Vec<Vec<u8>>) {
    let mut subscriber = server.subscriber().await;
    for envelope in envelopes {
        subscriber.send(envelope).await;
    }
    subscriber.closed().await;
}

async fn kill(child: &Child, signal: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &pid])
            .status()
            .await
            .unwrap()
            .success()
    );
}

#[tokio::test]
async fn subscribe_prints_a_json_object_a_line() {
    let server = TrafficController::start().await;
    let arguments = [
        "subscribe",
        "--id",
        "x",
        "--max",
        "2",
        "--endpoint",
        &server.url,
    ];
    let envelopes = vec![log("hello"), counter("requests"), counter("too many")];
    let (code, out, err) = run(&arguments, serve(&server, envelopes)).await;
    assert_eq!(
        out,
        "{\"type\":\"LogMessage\",\"timestamp\":\"2017-07-14T02:40:00.000000000Z\",\
         \"origin\":\"rep\",\"log\":{\"stream\":\"OUT\",\"message\":\"hello\",\
         \"timestamp\":\"2017-07-14T02:40:00.000000000Z\",\"app_id\":\"some-app\",\
         \"source_type\":\"APP/PROC/WEB\",\"source_instance\":\"0\"}}\n\
         {\"type\":\"CounterEvent\",\"origin\":\"gorouter\",\
         \"counter\":{\"name\":\"requests\",\"delta\":1}}\n"
    );
    assert!(err.contains("connected\n"), "{err}");
    assert!(err.contains("2 envelopes in "), "{err}");
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn subscribe_asks_for_the_filter_with_the_token_of_the_environment() {
    let server = TrafficController::start().await;
    let child = firehose(&["subscribe", "--id", "x", "--filter-type", "metrics"])
        .env("DOPPLER_ADDR", &server.url)
        .env("CF_ACCESS_TOKEN", "bearer from-the-environment")
        .spawn()
        .unwrap();
    let caller = server.caller().await;
    assert!(
        caller
            .head
            .starts_with("GET /firehose/x?filter-type=metrics "),
        "{}",
        caller.head
    );
    assert_eq!(
        caller.header("authorization"),
        Some("bearer from-the-environment")
    );
    drop(child);
}

#[tokio::test]
async fn subscribe_writes_protobuf_with_lengths() {
    let server = TrafficController::start().await;
    let (first, second) = (log("x".repeat(200)), b"not an envelope".to_vec());
    let mut expected = Vec::new();
    prost::encode_length_delimiter(first.len(), &mut expected).unwrap();
    expected.extend_from_slice(&first);
    prost::encode_length_delimiter(second.len(), &mut expected).unwrap();
    expected.extend_from_slice(&second);

    let arguments = [
        "subscribe",
        "--id",
        "x",
        "-o",
        "protobuf",
        "--max",
        "2",
        "--endpoint",
        &server.url,
    ];
    let run = async { firehose(&arguments).output().await.unwrap() };
    let (output, ()) = tokio::join!(run, serve(&server, vec![first, second]));
    assert_eq!(output.stdout, expected);
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test]
async fn subscribe_counts_by_type() {
    let server = TrafficController::start().await;
    let arguments = [
        "subscribe",
        "--id",
        "x",
        "-o",
        "counts",
        "--max",
        "3",
        "--endpoint",
        &server.url,
    ];
    let envelopes = vec![
        log("a"),
        b"not an envelope".to_vec(),
        counter("c"),
        log("b"),
    ];
    let (code, out, err) = run(&arguments, serve(&server, envelopes)).await;
    assert_eq!(
        out.lines().last(),
        Some("all total=3 CounterEvent=1 LogMessage=2")
    );
    assert!(err.contains("1 skipped"), "{err}");
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn tail_prints_a_line_a_person_can_read() {
    let server = TrafficController::start().await;
    let arguments = ["tail", GUID, "--max", "1", "-q", "--endpoint", &server.url];
    let (code, out, err) = run(&arguments, serve(&server, vec![log("\u{1b}[1mhello")])).await;
    assert_eq!(
        out,
        "2017-07-14T02:40:00.000Z [APP/PROC/WEB/0] OUT \u{1b}[1mhello\n"
    );
    assert_eq!((code, &err[..]), (Some(0), ""));
}

#[tokio::test]
async fn tail_in_colour_does_not_pass_on_the_colours_of_the_app() {
    let server = TrafficController::start().await;
    let arguments = [
        "tail",
        GUID,
        "--max",
        "1",
        "--color",
        "always",
        "--endpoint",
        &server.url,
    ];
    let (_, out, _) = run(&arguments, serve(&server, vec![log("\u{1b}[1mhello")])).await;
    assert!(out.contains("\u{1b}[36m[APP/PROC/WEB/0]"), "{out}");
    assert!(out.ends_with("OUT ␛[1mhello\n"), "{out}");
}

#[tokio::test]
async fn a_line_is_there_as_soon_as_nothing_follows_it() {
    let server = TrafficController::start().await;
    let mut child = firehose(&["tail", GUID, "--json", "--endpoint", &server.url])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut subscriber = server.subscriber().await;
    for text in ["one", "two"] {
        subscriber.send(log(text)).await;
        assert!(lines.next_line().await.unwrap().unwrap().contains(text));
    }
}

#[tokio::test]
async fn a_reader_who_leaves_is_no_failure() {
    let server = TrafficController::start().await;
    let mut child = firehose(&["tail", GUID, "--endpoint", &server.url])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut subscriber = server.subscriber().await;
    subscriber.send(log("one")).await;
    assert!(lines.next_line().await.unwrap().is_some());
    drop(lines);
    while subscriber.try_send(log("nobody reads this")).await.is_ok() {}
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn an_interrupt_is_a_good_end_with_a_summary() {
    for signal in ["-INT", "-TERM"] {
        let server = TrafficController::start().await;
        let mut child = firehose(&["tail", GUID, "--endpoint", &server.url])
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut subscriber = server.subscriber().await;
        subscriber.send(log("one")).await;
        assert!(lines.next_line().await.unwrap().is_some());
        kill(&child, signal).await;
        assert_eq!(subscriber.closed().await, Some(1000));
        let (code, _, err) = told(child.wait_with_output().await.unwrap());
        assert!(
            err.contains("1 envelopes in ") && err.contains("no loss reported"),
            "{err}"
        );
        assert_eq!(code, Some(0));
    }
}

#[tokio::test]
async fn an_interrupt_ends_it_though_nobody_reads_its_output() {
    let server = TrafficController::start().await;
    let mut child = firehose(&["tail", GUID, "--endpoint", &server.url])
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap(); // held, and not read
    let mut subscriber = server.subscriber().await;
    // More than pipe, buffers and sockets hold: it must be blocked in a write.
    let flood = async { while subscriber.try_send(log("x".repeat(60_000))).await.is_ok() {} };
    let interrupt = async {
        // The pipe is full when it has as many bytes as it takes at most.
        let mut stdout = BufReader::new(stdout);
        stdout.fill_buf().await.unwrap();
        kill(&child, "-INT").await;
        let code = child.wait().await.unwrap().code();
        drop(stdout);
        code
    };
    let ((), code) = tokio::join!(flood, interrupt);
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn a_loss_and_a_gap_are_told_on_stderr() {
    let mut notice = Vec::new();
    proto::notice::firehose(&mut notice, 300, 70_000, 1);
    let server = TrafficController::start().await;
    let arguments = [
        "subscribe",
        "--id",
        "x",
        "--max",
        "2",
        "--endpoint",
        &server.url,
    ];
    let serve = async {
        let mut subscriber = server.subscriber().await;
        subscriber.send(notice).await;
        subscriber.close(1000).await;
        serve(&server, vec![log("after")]).await;
    };
    let (code, _, err) = run(&arguments, serve).await;
    for said in [
        "300 envelopes lost",
        "disconnected: the server closed it with 1000: by custom that says this reader is too slow",
        "connected again after ",
        "2 envelopes in ",
        ", 300 reported lost, 1 gaps of unknown loss",
    ] {
        assert!(err.contains(said), "{said}: {err}");
    }
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn a_refused_token_is_exit_code_4_and_says_what_the_server_said() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let server = TrafficController::start().await;
        let arguments = [
            "subscribe",
            "--id",
            "x",
            "--token",
            "t",
            "--endpoint",
            &server.url,
        ];
        let serve = async {
            server
                .caller()
                .await
                .answer(status, "", "You are not authorized.")
                .await
        };
        let (code, out, err) = run(&arguments, serve).await;
        assert!(err.contains("You are not authorized."), "{err}");
        assert_eq!((code, &out[..]), (Some(4), ""));
    }
}

#[tokio::test]
async fn an_app_that_is_not_there_is_exit_code_5() {
    let server = TrafficController::start().await;
    let arguments = ["tail", GUID, "--endpoint", &server.url];
    let serve = async { server.caller().await.answer("404 Not Found", "", "").await };
    let (code, _, err) = run(&arguments, serve).await;
    assert!(err.contains("was not found"), "{err}");
    assert_eq!(code, Some(5));
}

#[tokio::test]
async fn nobody_there_is_exit_code_3() {
    let server = TrafficController::start().await;
    let gone = server.url.clone();
    drop(server);
    for arguments in [
        &["tail", GUID, "--connect-timeout", "0", "--endpoint", &gone][..],
        &[
            "emit",
            "--app",
            "a",
            "--doppler",
            gone.strip_prefix("ws://").unwrap(),
        ],
    ] {
        let (code, _, err) = run(arguments, async {}).await;
        assert!(err.contains("could not connect"), "{err}");
        assert_eq!(code, Some(3), "{err}");
    }
}

#[tokio::test]
async fn a_command_line_that_makes_no_sense_is_exit_code_2_and_says_why() {
    for (arguments, why) in [
        (&["tail", GUID][..], "--endpoint"),
        (&["tail", GUID, "--endpoint", "doppler:4443"], "no scheme"),
        (
            &["tail", "my-app", "--endpoint", "ws://localhost"],
            "not a GUID",
        ),
        (
            &["tail", GUID, "--token", "t", "--endpoint", "ws://10.0.0.1"],
            "plain text",
        ),
        (
            &[
                "tail",
                GUID,
                "--token-file",
                "/none",
                "--endpoint",
                "ws://localhost",
            ],
            "/none",
        ),
        (
            &[
                "subscribe",
                "--id",
                "x",
                "--ca",
                "/none",
                "--endpoint",
                "wss://localhost",
            ],
            "/none",
        ),
        (
            &["emit", "--app", "a", "--doppler", "10.0.0.1:8082"],
            "plain text",
        ),
    ] {
        let (code, out, err) = run(arguments, async {}).await;
        assert!(err.contains(why), "{err}");
        assert_eq!((code, &out[..]), (Some(2), ""), "{err}");
    }
}

#[tokio::test]
async fn emit_sends_the_lines_of_stdin() {
    let mut doppler = Doppler::start(OK).await;
    let address = doppler.address.to_string();
    let mut child = firehose(&["emit", "--app", "some-app", "--doppler", &address])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let long = "x".repeat(100_000);
    stdin
        .write_all(format!("one\n\ntwo\r\n{long}\nlast").as_bytes())
        .await
        .unwrap();
    drop(stdin);
    let (code, _, err) = told(child.wait_with_output().await.unwrap());
    assert!(err.contains("sent 6 envelopes"), "{err}");
    assert_eq!(code, Some(0));

    let mut payloads = Vec::new();
    while payloads.len() < 6 {
        for envelope in doppler.batch().await {
            assert_eq!(envelope.source_id, "some-app");
            match envelope.message {
                Some(firehose_client::v2::envelope::Message::Log(log)) => {
                    payloads.push(log.payload)
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let (head, tail) = long.split_at(60 * 1024);
    let expected = ["one", "", "two", head, tail, "last"].map(|line| line.as_bytes().to_vec());
    assert_eq!(payloads, expected);
}

#[tokio::test]
async fn an_interrupt_sends_what_was_read_first() {
    let mut doppler = Doppler::start(OK).await;
    let address = doppler.address.to_string();
    let mut child = firehose(&["emit", "--app", "some-app", "--doppler", &address])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    assert_eq!(doppler.batch().await.len(), 1);
    kill(&child, "-INT").await;
    let mut err = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .await
        .unwrap();
    assert!(err.contains("sent 1 envelopes"), "{err}");
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    drop(stdin);
}

#[tokio::test]
async fn help_tells_exit_codes_and_fields_and_shells_get_completions() {
    let (code, out, _) = run(&["--help"], async {}).await;
    assert!(
        out.contains("Exit codes:") && out.contains("  4  the token was refused"),
        "{out}"
    );
    assert_eq!(code, Some(0));
    let (_, out, _) = run(&["subscribe", "--help"], async {}).await;
    assert!(
        out.contains("JSON fields:") && out.contains("Exit codes:"),
        "{out}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = run(&["completions", shell], async {}).await;
        assert!(out.contains("subscribe"), "{shell}");
        assert_eq!(code, Some(0));
    }
}
