//! What a program that uses the library sees.

use std::sync::mpsc;
use std::time::Duration;

use firehose_client::v1::Envelope;
use firehose_client::{Builder, Client, EnvelopeStream, Error, Event, Filter, Reason, Token};
use futures::{FutureExt, StreamExt};
use proto::notice;

use crate::certificates::Ca;
use crate::traffic_controller::{TrafficController, counter, log};

const GUID: &str = "11111111-2222-3333-4444-555555555555";

fn client(server: &TrafficController) -> Builder {
    Client::builder(&server.url).token(Token::Fixed("some-token".into()))
}

fn firehose(builder: Builder) -> EnvelopeStream {
    builder
        .build()
        .unwrap()
        .firehose("some-id", Filter::Everything)
        .unwrap()
}

/// The stream, and the events it has told so far.
fn watched(stream: EnvelopeStream) -> (EnvelopeStream, mpsc::Receiver<Event>) {
    let (teller, told) = mpsc::sync_channel(100);
    (
        stream.with_events(move |event| teller.send(event).unwrap()),
        told,
    )
}

/// An error and all that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut causes = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes.join(": ")
}

async fn next(stream: &mut EnvelopeStream) -> Envelope {
    stream.next().await.unwrap().unwrap()
}

async fn next_text(stream: &mut EnvelopeStream) -> String {
    String::from_utf8_lossy(&next(stream).await.log_message.unwrap().message).into_owned()
}

/// Polls the stream until it has told an event, which it must before any envelope.
async fn next_event(stream: &mut EnvelopeStream, told: &mpsc::Receiver<Event>) -> Event {
    let event = std::future::poll_fn(|cx| {
        assert!(
            stream.poll_next_unpin(cx).is_pending(),
            "an envelope came first"
        );
        match told.try_recv() {
            Ok(event) => std::task::Poll::Ready(event),
            Err(_) => std::task::Poll::Pending,
        }
    });
    event.await
}

#[tokio::test]
async fn envelopes_come_decoded_and_in_order() {
    let server = TrafficController::start().await;
    let mut stream = firehose(client(&server));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        for n in 0..1000 {
            subscriber.send(log(n.to_string())).await;
        }
        subscriber
    };
    let read = async {
        for n in 0..1000 {
            assert_eq!(next_text(&mut stream).await, n.to_string());
        }
    };
    tokio::join!(serve, read);
}

#[tokio::test]
async fn the_request_says_who_wants_what() {
    let server = TrafficController::start().await;
    let client = client(&server).user_agent("my-nozzle/1").build().unwrap();

    let mut stream = client.firehose("my id", Filter::Logs).unwrap();
    let caller = tokio::select! {
        caller = server.caller() => caller,
        answer = stream.next() => panic!("{answer:?}"),
    };
    assert!(
        caller
            .head
            .starts_with("GET /firehose/my%20id?filter-type=logs HTTP/1.1\r\n")
    );
    assert_eq!(caller.header("authorization"), Some("bearer some-token"));
    assert_eq!(caller.header("user-agent"), Some("my-nozzle/1"));
    let host = server.url.strip_prefix("ws://");
    assert_eq!(caller.header("host"), host);

    let mut stream = client.app_stream(GUID).unwrap();
    let caller = tokio::select! {
        caller = server.caller() => caller,
        answer = stream.next() => panic!("{answer:?}"),
    };
    assert!(
        caller
            .head
            .starts_with(&format!("GET /apps/{GUID}/stream HTTP/1.1\r\n"))
    );
}

#[tokio::test]
async fn a_batch_holds_the_envelopes_as_they_came() {
    let server = TrafficController::start().await;
    let mut stream = firehose(client(&server));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        subscriber.send(log("a")).await;
        subscriber.send("not an envelope").await;
        subscriber.send(log("b")).await;
        subscriber
    };
    let read = async {
        let mut received = Vec::new();
        while received.len() < 3 {
            let batch = stream.next_batch().await.unwrap().unwrap();
            assert_eq!(batch.len(), batch.iter().count());
            received.extend(batch.iter());
        }
        assert_eq!(received, [log("a"), b"not an envelope".to_vec(), log("b")]);
    };
    tokio::join!(serve, read);
}

#[tokio::test]
async fn a_stream_outlives_its_connection_and_tells_the_gap() {
    let server = TrafficController::start().await;
    let (mut stream, events) = watched(firehose(client(&server)));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        subscriber.send(log("before")).await;
        drop(subscriber);
        let mut subscriber = server.subscriber().await;
        subscriber.send(log("after")).await;
        subscriber
    };
    let read = async {
        assert_eq!(next_text(&mut stream).await, "before");
        assert_eq!(next_text(&mut stream).await, "after");
    };
    tokio::join!(serve, read);
    assert!(matches!(
        events.try_recv(),
        Ok(Event::Connected { gap: None })
    ));
    assert!(matches!(
        events.try_recv(),
        Ok(Event::Disconnected {
            reason: Reason::Cut | Reason::Broken(_)
        })
    ));
    match events.try_recv() {
        Ok(Event::Connected { gap: Some(gap) }) => assert!(gap > Duration::ZERO),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_close_is_answered_and_its_code_told() {
    let server = TrafficController::start().await;
    let (mut stream, events) = watched(firehose(client(&server)));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        subscriber.send(log("before")).await;
        assert_eq!(subscriber.close(1008).await, Some(1008));
        let mut subscriber = server.subscriber().await;
        subscriber.send(log("after")).await;
        subscriber
    };
    let read = async {
        assert_eq!(next_text(&mut stream).await, "before");
        assert_eq!(next_text(&mut stream).await, "after");
    };
    tokio::join!(serve, read);
    let told: Vec<_> = events.try_iter().collect();
    assert!(
        matches!(
            &told[1],
            Event::Disconnected {
                reason: Reason::Closed {
                    code: Some(1008),
                    ..
                }
            }
        ),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_refused_token_ends_the_stream_with_the_servers_words() {
    let server = TrafficController::start().await;
    let mut stream = firehose(client(&server));
    let body = "You are not authorized. invalid authorization";
    let serve = async {
        server
            .caller()
            .await
            .answer("401 Unauthorized", "", body)
            .await
    };
    let read = async {
        let error = stream.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
        assert!(error.to_string().ends_with(body), "{error}");
        assert!(!error.to_string().contains("some-token"));
        assert!(stream.next().await.is_none(), "it has ended");
        assert!(stream.next_batch().await.is_none());
        drop(stream);
    };
    tokio::join!(serve, read);
}

#[tokio::test]
async fn an_app_that_is_not_there_ends_the_stream() {
    let server = TrafficController::start().await;
    let mut stream = client(&server).build().unwrap().app_stream(GUID).unwrap();
    let serve = async { server.caller().await.answer("404 Not Found", "", "").await };
    let read = async {
        let error = stream.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
        drop(stream);
    };
    tokio::join!(serve, read);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_when_it_said() {
    let server = TrafficController::start().await;
    let (mut stream, events) = watched(firehose(client(&server)));
    let serve = async {
        let caller = server.caller().await;
        caller
            .answer("503 Service Unavailable", "Retry-After: 7\r\n", "busy")
            .await;
    };
    let (event, ()) = tokio::join!(next_event(&mut stream, &events), serve);
    let Event::Retrying { error, wait } = event else {
        panic!("{event:?}")
    };
    assert!(
        error
            .to_string()
            .ends_with("503 Service Unavailable instead of a stream: busy")
    );
    assert!((7..=9).contains(&wait.as_secs()), "{wait:?}");

    let passing = async {
        tokio::time::pause();
        tokio::time::advance(wait).await;
        tokio::time::resume();
        let mut subscriber = server.subscriber().await;
        subscriber.send(log("at last")).await;
        subscriber
    };
    let (text, _subscriber) = tokio::join!(next_text(&mut stream), passing);
    assert_eq!(text, "at last");
}

#[tokio::test]
async fn a_first_connection_that_cannot_be_made_is_given_up_in_time() {
    let server = TrafficController::start().await;
    let gone = server.url.clone();
    drop(server);
    let builder = Client::builder(&gone).first_connect_within(Duration::ZERO);
    let mut stream = firehose(builder);
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&gone), "{error}");
    assert!(chain(&error).contains("refused"), "{}", chain(&error));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_at_the_deadline() {
    let server = TrafficController::start().await;
    let builder = client(&server)
        .connect_deadline(Duration::from_millis(20))
        .first_connect_within(Duration::ZERO);
    let mut stream = firehose(builder);
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_token_file_is_read_again_for_each_connection() {
    let server = TrafficController::start().await;
    let folder = Ca::new(); // a folder that goes with the test
    let file = folder.path.with_file_name("token");
    std::fs::write(&file, "bearer first\n").unwrap();
    let mut stream = firehose(Client::builder(&server.url).token(Token::File(file.clone())));
    let serve = async {
        let caller = server.caller().await;
        assert_eq!(caller.header("authorization"), Some("bearer first"));
        std::fs::write(&file, "second").unwrap();
        drop(caller);
        let caller = server.caller().await;
        assert_eq!(caller.header("authorization"), Some("bearer second"));
        let mut subscriber = caller.subscribe().await;
        subscriber.send(log("in")).await;
        subscriber
    };
    let (text, _subscriber) = tokio::join!(next_text(&mut stream), serve);
    assert_eq!(text, "in");
}

#[tokio::test]
async fn without_its_token_file_a_stream_does_not_begin() {
    let server = TrafficController::start().await;
    let mut stream = firehose(client(&server).token(Token::File("/does/not/exist".into())));
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Token { .. }), "{error:?}");
}

#[tokio::test]
async fn a_loss_the_server_tells_of_is_an_event_before_its_envelope() {
    let mut told_firehose = Vec::new();
    notice::firehose(&mut told_firehose, 300, 70_000, 1);
    let mut told_app = Vec::new();
    notice::app(&mut told_app, 3, 6, 1, GUID.as_bytes());

    let server = TrafficController::start().await;
    let (mut stream, events) = watched(firehose(client(&server)));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        for envelope in [counter("ingress"), told_firehose, told_app] {
            subscriber.send(envelope).await;
        }
        subscriber
    };
    let read = async {
        assert_eq!(
            next(&mut stream).await.counter_event.unwrap().name,
            "ingress"
        );
        assert!(matches!(
            events.try_recv(),
            Ok(Event::Connected { gap: None })
        ));
        assert!(events.try_recv().is_err());
        assert!(next(&mut stream).await.counter_event.is_some());
        let lost = events.try_recv().unwrap();
        assert!(
            matches!(
                lost,
                Event::Lost {
                    delta: 300,
                    total: Some(70_000)
                }
            ),
            "{lost:?}"
        );
        assert!(next(&mut stream).await.log_message.is_some());
        let lost = events.try_recv().unwrap();
        assert!(
            matches!(
                lost,
                Event::Lost {
                    delta: 3,
                    total: Some(6)
                }
            ),
            "{lost:?}"
        );
    };
    tokio::join!(serve, read);
}

#[tokio::test]
async fn a_loss_is_told_to_those_who_do_not_decode_too() {
    let mut notice = Vec::new();
    notice::firehose(&mut notice, 300, 70_000, 1);
    let server = TrafficController::start().await;
    let (mut stream, events) = watched(firehose(client(&server)));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        subscriber.send(notice).await;
        subscriber
    };
    let (batch, _subscriber) = tokio::join!(stream.next_batch(), serve);
    assert_eq!(batch.unwrap().unwrap().len(), 1);
    assert!(matches!(
        events.try_iter().last(),
        Some(Event::Lost { delta: 300, .. })
    ));
}

#[tokio::test]
async fn what_is_not_an_envelope_is_skipped_and_told() {
    let server = TrafficController::start().await;
    let (mut stream, events) = watched(firehose(client(&server)));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        subscriber.send("not an envelope").await;
        subscriber.send(log("good")).await;
        subscriber
    };
    let (text, _subscriber) = tokio::join!(next_text(&mut stream), serve);
    assert_eq!(text, "good");
    match events.try_iter().last() {
        Some(Event::Undecodable { bytes, .. }) => assert_eq!(bytes, "not an envelope"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn text_that_is_not_utf_8_is_delivered() {
    let mut odd = log(b"caf\xE9".to_vec());
    let at = odd.windows(3).position(|three| three == b"rep").unwrap();
    odd[at] = 0xFF; // the origin is a string
    let server = TrafficController::start().await;
    let mut stream = firehose(client(&server));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        subscriber.send(odd).await;
        subscriber
    };
    let (envelope, _subscriber) = tokio::join!(next(&mut stream), serve);
    assert_eq!(envelope.log_message.unwrap().message, b"caf\xE9");
    assert_eq!(envelope.origin, "\u{fffd}ep");
}

#[tokio::test]
async fn a_large_envelope_arrives_between_small_ones() {
    let large = "x".repeat(1 << 20);
    let server = TrafficController::start().await;
    let mut stream = firehose(client(&server));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        for text in ["before", &large, "after"] {
            subscriber.send(log(text)).await;
        }
        subscriber
    };
    let read = async {
        assert_eq!(next_text(&mut stream).await, "before");
        assert_eq!(next_text(&mut stream).await.len(), 1 << 20);
        assert_eq!(next_text(&mut stream).await, "after");
    };
    tokio::join!(serve, read);
}

#[tokio::test]
async fn nothing_is_lost_when_a_poll_is_given_up() {
    let server = TrafficController::start().await;
    let mut stream = firehose(client(&server));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        for n in 0..200 {
            subscriber.send(log(n.to_string())).await;
            tokio::task::yield_now().await;
        }
        subscriber
    };
    let read = async {
        let mut seen = Vec::new();
        while seen.len() < 200 {
            tokio::select! {
                biased;
                envelope = stream.next() => {
                    let log = envelope.unwrap().unwrap().log_message.unwrap();
                    seen.push(String::from_utf8(log.message).unwrap());
                }
                () = tokio::task::yield_now() => {}
            }
            if let Some(batch) = stream.next_batch().now_or_never() {
                for envelope in batch.unwrap().unwrap().decode() {
                    let log = envelope.unwrap().log_message.unwrap();
                    seen.push(String::from_utf8(log.message).unwrap());
                }
            }
        }
        assert!(
            seen.iter()
                .enumerate()
                .all(|(n, text)| *text == n.to_string())
        );
    };
    tokio::join!(serve, read);
}

#[tokio::test]
async fn a_stream_that_is_closed_says_goodbye() {
    let server = TrafficController::start().await;
    let mut stream = firehose(client(&server));
    let serve = async {
        let mut subscriber = server.subscriber().await;
        subscriber.send(log("one")).await;
        assert_eq!(subscriber.closed().await, Some(1000));
    };
    let read = async {
        assert_eq!(next_text(&mut stream).await, "one");
        stream.close().await;
    };
    tokio::join!(serve, read);
}

#[tokio::test]
async fn an_idle_stream_connects_anew_only_if_told_to() {
    let server = TrafficController::start().await;
    let idle = Duration::from_secs(25);
    let (mut stream, events) = watched(firehose(client(&server).idle_timeout(idle)));
    let (connected, mut subscriber) =
        tokio::join!(next_event(&mut stream, &events), server.subscriber());
    assert!(matches!(connected, Event::Connected { .. }));

    let passing = async {
        tokio::time::pause();
        tokio::time::advance(idle).await;
        tokio::time::resume();
        subscriber.closed().await
    };
    let (disconnected, code) = tokio::join!(next_event(&mut stream, &events), passing);
    assert!(
        matches!(disconnected, Event::Disconnected { reason: Reason::Idle(time) } if time == idle),
        "{disconnected:?}"
    );
    assert_eq!(code, Some(1000));
}

#[tokio::test]
async fn over_tls_the_server_must_be_whom_the_ca_vouches_for() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let server = TrafficController::start_tls(&ours.signs("localhost")).await;
    let serve = async {
        for text in ["trusted", "unchecked"] {
            let mut subscriber = server.subscriber().await;
            subscriber.send(log(text)).await;
            subscriber.closed().await;
        }
    };
    let read = async {
        let once = || client(&server).first_connect_within(Duration::ZERO);
        let error = firehose(once().ca_file(&theirs.path))
            .next()
            .await
            .unwrap()
            .unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(chain(&error).contains("certificate"), "{}", chain(&error));

        let mut stream = firehose(client(&server).ca_file(&ours.path));
        assert_eq!(next_text(&mut stream).await, "trusted");
        stream.close().await;

        let mut stream = firehose(client(&server).skip_cert_verify());
        assert_eq!(next_text(&mut stream).await, "unchecked");
        stream.close().await;
    };
    tokio::join!(serve, read);
}
