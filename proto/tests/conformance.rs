//! Every recorded conversion of the Go implementation, through the reference and
//! through the transcoder; and where we mean to differ, exactly there and so often.

#![allow(clippy::unwrap_used)]

use prost::Message;
use proto::{
    Refused,
    convert::{self, Tags},
    transcode::{self, V1Sink, View},
    v1, v2,
};

const V2_TO_V1: &str = include_str!("conformance/v2-to-v1.tsv");
const V1_TO_V2: &str = include_str!("conformance/v1-to-v2.tsv");

#[test]
fn v2_becomes_v1_as_in_go_but_where_go_loses_or_breaks_it() {
    let (mut same, mut nothing, mut cannot_be_http) = (0, 0, 0);
    let (mut empty_log, mut zero_request_id, mut refused_unencodable) = (0, 0, 0);
    for [case, input, expected] in rows(V2_TO_V1) {
        let input = unhex(input);
        let ours = to_v1(&input, case);
        match (expected, ours) {
            ("UNENCODABLE", Ok(ours)) => {
                let [envelope] = &ours[..] else {
                    panic!("{case}: {ours:?}");
                };
                match (&envelope.log_message, &envelope.http_start_stop) {
                    (Some(log), None) => {
                        assert_eq!(log.message, b"", "{case}");
                        empty_log += 1;
                    }
                    (None, Some(http)) => {
                        assert_eq!(http.request_id, v1::Uuid::default(), "{case}");
                        assert!(v1::PeerType::try_from(http.peer_type).is_ok(), "{case}");
                        assert!(v1::Method::try_from(http.method).is_ok(), "{case}");
                        zero_request_id += 1;
                    }
                    _ => panic!("{case}: {envelope:?}"),
                }
            }
            ("UNENCODABLE", Err(refused)) => {
                assert_not_http(refused, case);
                refused_unencodable += 1;
            }
            ("", ours) => {
                assert!(matches!(ours, Err(Refused::NotV1(_))), "{case}: {ours:?}");
                nothing += 1;
            }
            (expected, Ok(ours)) => {
                let decode = |hex: &str| v1::decode(&unhex(hex)).unwrap();
                let expected = sorted(expected.split(',').map(decode).collect());
                assert_eq!(sorted(ours), expected, "{case}");
                same += 1;
            }
            (expected, Err(refused)) => {
                assert_not_http(refused, case);
                let go = v1::decode(&unhex(expected)).unwrap();
                let http = go.http_start_stop.unwrap();
                assert!(http.peer_type == 0 || http.method == 0, "{case}");
                cannot_be_http += 1;
            }
        }
    }
    assert_eq!(
        [same, nothing, cannot_be_http],
        [209, 37, 7],
        "as Go; nothing as Go; refused though Go sends a zero enum"
    );
    assert_eq!(
        [empty_log, zero_request_id, refused_unencodable],
        [3, 9, 35],
        "delivered though Go loses it: empty log, zero request id; lost by both"
    );
}

#[test]
fn v1_becomes_v2_as_in_go() {
    let mut same = 0;
    for [case, input, preferred, deprecated] in rows(V1_TO_V2) {
        let input = unhex(input);
        let v1 = v1::decode(&input).unwrap();
        let preferred = v2::Envelope::decode(&unhex(preferred)[..]).unwrap();
        let deprecated = v2::Envelope::decode(&unhex(deprecated)[..]).unwrap();
        assert_same(&convert::to_v2(&v1, Tags::Preferred), &preferred, case);
        assert_same(&convert::to_v2(&v1, Tags::Deprecated), &deprecated, case);

        let mut out = Vec::new();
        transcode::v1_to_v2(&input, &mut out).unwrap();
        assert_same(&v2::Envelope::decode(&out[..]).unwrap(), &preferred, case);
        same += 1;
    }
    assert_eq!(same, 300);
}

/// What reference and transcoder make of it, which must be the same.
fn to_v1(input: &[u8], case: &str) -> Result<Vec<v1::Envelope>, Refused> {
    #[derive(Default)]
    struct Sink {
        buffer: Vec<u8>,
        envelopes: Vec<v1::Envelope>,
    }

    impl V1Sink for Sink {
        fn begin(&mut self) -> &mut Vec<u8> {
            self.buffer.clear();
            &mut self.buffer
        }

        fn end(&mut self, log: bool, app: &[u8]) {
            let envelope = v1::decode(&self.buffer).unwrap();
            assert_eq!(log, envelope.event_type == 5);
            assert_eq!(app, envelope.app_id().unwrap_or_default().as_bytes());
            self.envelopes.push(envelope);
        }
    }

    let reference = convert::to_v1(&v2::Envelope::decode(input).unwrap());
    let mut sink = Sink::default();
    let count = View::parse(input).unwrap().to_v1(&mut sink);
    let transcoded = count.map(|count| {
        assert_eq!(count as usize, sink.envelopes.len(), "{case}");
        sink.envelopes
    });
    assert_eq!(transcoded, reference, "{case}");
    reference
}

fn assert_not_http(refused: Refused, case: &str) {
    let expected = [
        Refused::NotV1("a timer without a valid peer_type"),
        Refused::NotV1("a timer without a valid method"),
    ];
    assert!(expected.contains(&refused), "{case}: {refused}");
}

/// Encoded, so that a NaN is equal to itself.
fn assert_same(ours: &v2::Envelope, expected: &v2::Envelope, case: &str) {
    assert!(
        ours.encode_to_vec() == expected.encode_to_vec(),
        "{case}: {ours:#?} is not {expected:#?}"
    );
}

fn sorted(mut envelopes: Vec<v1::Envelope>) -> Vec<v1::Envelope> {
    envelopes.sort_by_cached_key(Message::encode_to_vec);
    envelopes
}

fn rows<const N: usize>(table: &str) -> impl Iterator<Item = [&str; N]> {
    table.lines().skip(1).map(|line| {
        let columns: Vec<_> = line.split('\t').collect();
        columns.try_into().unwrap()
    })
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |character: u8| char::from(character).to_digit(16).unwrap() as u8;
    let pairs = hex.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}
