//! What a program that sends logs sees.

use firehose_client::v2::{envelope, log};
use firehose_client::{BATCH, EmitError, Emitter, Source};
use tokio::net::TcpListener;

use crate::certificates::Ca;
use crate::doppler::{Doppler, OK, REFUSED};

fn source() -> Source {
    Source {
        app: "some-app".into(),
        source_type: "APP/PROC/WEB".into(),
        instance: "3".into(),
    }
}

fn payload(envelope: &firehose_client::v2::Envelope) -> String {
    match &envelope.message {
        Some(envelope::Message::Log(log)) => String::from_utf8(log.payload.clone()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_line_becomes_a_log_of_the_app() {
    let mut doppler = Doppler::start(OK).await;
    let mut emitter = Emitter::builder(&doppler.address.to_string())
        .connect()
        .await
        .unwrap();
    emitter
        .log(&source(), log::Type::Err, "oh no")
        .await
        .unwrap();
    assert_eq!(emitter.close().await.unwrap(), 1);

    let batch = doppler.batch().await;
    assert_eq!(batch.len(), 1);
    assert_eq!(batch[0].source_id, "some-app");
    assert_eq!(batch[0].instance_id, "3");
    assert_eq!(batch[0].tags["source_type"], "APP/PROC/WEB");
    assert!(batch[0].timestamp > 1_500_000_000_000_000_000);
    let Some(envelope::Message::Log(log)) = &batch[0].message else {
        panic!("{batch:?}")
    };
    assert_eq!(log.r#type(), log::Type::Err);
    assert_eq!(log.payload, b"oh no");
}

#[tokio::test]
async fn many_lines_go_in_order_and_in_batches() {
    let mut doppler = Doppler::start(OK).await;
    let mut emitter = Emitter::builder(&doppler.address.to_string())
        .connect()
        .await
        .unwrap();
    let emit = async {
        for n in 0..2500 {
            emitter
                .log(&source(), log::Type::Out, n.to_string())
                .await
                .unwrap();
        }
        emitter.close().await.unwrap()
    };
    let receive = async {
        let mut received = Vec::new();
        while received.len() < 2500 {
            let batch = doppler.batch().await;
            assert!(batch.len() <= BATCH);
            received.extend(batch);
        }
        received
    };
    let (emitted, received) = tokio::join!(emit, receive);
    assert_eq!(emitted, 2500);
    assert!(
        received
            .iter()
            .enumerate()
            .all(|(n, log)| payload(log) == n.to_string())
    );
}

#[tokio::test]
async fn a_lone_line_does_not_wait_for_others() {
    let mut doppler = Doppler::start(OK).await;
    let mut emitter = Emitter::builder(&doppler.address.to_string())
        .connect()
        .await
        .unwrap();
    emitter
        .log(&source(), log::Type::Out, "alone")
        .await
        .unwrap();
    assert_eq!(payload(&doppler.batch().await[0]), "alone");
}

#[tokio::test]
async fn the_end_of_a_call_to_a_go_doppler_is_no_error() {
    let doppler = Doppler::start(("2", "EOF")).await;
    let mut emitter = Emitter::builder(&doppler.address.to_string())
        .connect()
        .await
        .unwrap();
    emitter.log(&source(), log::Type::Out, "a").await.unwrap();
    assert_eq!(emitter.close().await.unwrap(), 1);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_dopplers_words() {
    let doppler = Doppler::start(("7", "not for you")).await;
    let emitter = Emitter::builder(&doppler.address.to_string())
        .connect()
        .await
        .unwrap();
    let error = emitter.close().await.unwrap_err();
    assert!(matches!(error, EmitError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("not for you"), "{error}");
}

#[tokio::test]
async fn a_refusal_in_the_middle_is_an_error_of_the_next_line() {
    let doppler = Doppler::start(REFUSED).await;
    let mut emitter = Emitter::builder(&doppler.address.to_string())
        .connect()
        .await
        .unwrap();
    let error = loop {
        if let Err(error) = emitter.log(&source(), log::Type::Out, "a").await {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert!(error.to_string().contains("unknown service"), "{error:?}");
    let error = emitter.close().await.unwrap_err();
    assert!(
        matches!(error, EmitError::Broken { source: None }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_is_an_error_of_the_next_line_or_of_the_close() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connect = Emitter::builder(&address).connect();
    let (emitter, accepted) = tokio::join!(connect, listener.accept());
    let mut emitter = emitter.unwrap();
    drop(accepted);
    let error = loop {
        if let Err(error) = emitter.log(&source(), log::Type::Out, "a").await {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert!(matches!(error, EmitError::Broken { .. }), "{error:?}");
    assert!(emitter.close().await.is_err());
}

#[tokio::test]
async fn plain_text_stays_on_this_machine() {
    let error = Emitter::builder("doppler.example.com:8082")
        .connect()
        .await
        .unwrap_err();
    assert!(matches!(error, EmitError::PlainText { .. }), "{error:?}");
    assert!(
        error.to_string().contains("doppler.example.com:8082"),
        "{error}"
    );
}

#[tokio::test]
async fn with_certificates_both_sides_show_who_they_are() {
    let ca = Ca::new();
    let mut doppler = Doppler::start_tls(&ca.signs("doppler"), &ca.path).await;
    let address = doppler.address.to_string();
    let us = ca.signs("agent");

    let builder = Emitter::builder(&address).mtls(&ca.path, us.clone());
    let mut emitter = builder.clone().connect().await.unwrap();
    emitter
        .log(&source(), log::Type::Out, "secret")
        .await
        .unwrap();
    assert_eq!(emitter.close().await.unwrap(), 1);
    assert_eq!(payload(&doppler.batch().await[0]), "secret");

    let error = builder.server_name("metron").connect().await.unwrap_err();
    assert!(matches!(error, EmitError::Unreachable(_)), "{error:?}");
}
