//! The transcoder against the reference, on envelopes nobody would send.

use super::*;
use crate::{
    convert::Tags as Map,
    v1,
    v2::{self, envelope},
    wire::{WRONG_TYPE, put_varint},
};
use proptest::{collection::vec, prelude::*, sample};
use prost::Message as _;

/// Keeps what it is given.
#[derive(Default)]
struct Sink {
    buffer: Vec<u8>,
    envelopes: Vec<(Vec<u8>, bool, Vec<u8>)>,
}

impl V1Sink for Sink {
    fn begin(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    fn end(&mut self, log: bool, app: &[u8]) {
        let envelope = std::mem::take(&mut self.buffer);
        self.envelopes.push((envelope, log, app.to_vec()));
    }
}

fn to_v1(view: &View<'_>) -> Result<Vec<v1::Envelope>, Refused> {
    let mut sink = Sink::default();
    let written = view.to_v1(&mut sink);
    assert_eq!(view.conversions(), written);
    assert!(sink.buffer.is_empty());
    assert_eq!(written.unwrap_or(0) as usize, sink.envelopes.len());
    written?;

    if let (Message::Gauge(gauge), 2..) = (&view.message, sink.envelopes.len()) {
        // What was counted before writing is what was written.
        let base = view.base_len(view.used(Name::NONE, true));
        let counted = gauge
            .metrics()?
            .iter()
            .map(|metric| base + field_len(1, metric.body_len()));
        let written = sink.envelopes.iter().map(|(bytes, ..)| bytes.len());
        assert_eq!(counted.sum::<usize>(), written.sum::<usize>());
    }
    let envelopes = sink.envelopes.into_iter().map(|(bytes, log, app)| {
        let envelope = v1::decode(&bytes).unwrap();
        let facts = crate::scan::v1(&bytes).unwrap();
        assert_eq!((facts.log, facts.app.as_bytes()), (log, &app[..]));
        assert_eq!(app, envelope.app_id().unwrap_or_default().as_bytes());
        assert_eq!(log, view.is_log());
        envelope
    });
    Ok(envelopes.collect())
}

/// Encoded, so that a NaN is equal to itself.
fn bytes_of<M: prost::Message>(messages: Result<Vec<M>, Refused>) -> Result<Vec<Vec<u8>>, Refused> {
    messages.map(|all| all.iter().map(M::encode_to_vec).collect())
}

/// Whatever it is, prost and we read the same, and make the same of it.
fn agree_on_v2(bytes: &[u8]) {
    match (View::parse(bytes), v2::Envelope::decode(bytes)) {
        (Ok(view), Ok(decoded)) => {
            assert_eq!(view.source_id(), decoded.source_id.as_bytes());
            let expected = bytes_of(convert::to_v1(&decoded));
            assert_eq!(bytes_of(to_v1(&view)), expected, "{decoded:?}");
        }
        (Err(refused), Ok(_)) => {
            // Prost does not look at the wire type of a map entry.
            assert_eq!(refused, WRONG_TYPE.into());
        }
        (Err(Refused::Malformed(_)), Err(_)) => {}
        (ours, theirs) => panic!("{ours:?} but {theirs:?}"),
    }
}

/// Whatever it is, prost and we read the same, and make the same of it.
fn agree_on_v1(bytes: &[u8]) {
    let mut out = b"before".to_vec();
    let ours = v1_to_v2(bytes, &mut out);
    let decoded = v1::decode(bytes);
    assert_eq!(ours, decoded.clone().map(drop).map_err(Refused::from));
    let decoded = match (decoded, v1::Envelope::decode(bytes)) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
            ours
        }
        // A string that is not UTF-8.
        (Ok(repaired), Err(_)) => repaired,
        // What prost does not look at: a map's wire type, and that nothing is missing.
        (Err(refused), Ok(_)) => {
            assert!(refused == WRONG_TYPE || refused.0.contains("without"));
            return assert_eq!(out, b"before");
        }
        (Err(_), Err(_)) => return assert_eq!(out, b"before"),
    };
    let ours = v2::Envelope::decode(&out[6..]).unwrap();
    let expected = convert::to_v2(&decoded, Map::Preferred);
    let [ours, expected] = [ours, expected].map(|envelope| envelope.encode_to_vec());
    assert_eq!(ours, expected, "{decoded:?}");

    let facts = crate::scan::v1(bytes).unwrap();
    assert_eq!(
        facts.log,
        decoded.event_type == EventType::LogMessage as i32
    );
    let app = String::from_utf8_lossy(facts.app.as_bytes());
    assert_eq!(app, decoded.app_id().unwrap_or_default());
}

fn key() -> impl Strategy<Value = String> {
    let known = [
        "origin",
        "deployment",
        "job",
        "index",
        "ip",
        "__v1_type",
        "source_id",
        "instance_id",
        "source_type",
        "source",
        "code",
        "peer_type",
        "method",
        "request_id",
        "uri",
        "remote_address",
        "user_agent",
        "status_code",
        "content_length",
        "routing_instance_id",
        "forwarded",
        "",
        "app_name",
        "a",
        "b",
        "c",
    ];
    prop_oneof![5 => sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,5}"]
}

fn text() -> impl Strategy<Value = String> {
    let known = [
        "",
        "Error",
        "Client",
        "Server",
        "GET",
        "VERSION_CONTROL",
        "42",
        "-1",
        "+7",
        "99999999999",
        "9223372036854775807",
        "9223372036854775808",
        "1.1.1.1\n2.2.2.2\n",
        "\n",
        "b3015d69-09cd-476d-aace-ad2d824d5ab7",
        "B3015D69-09CD-476D-AACE-AD2D824D5AB7",
        "00000000-0000-0000-0000-000000000000",
        "b3015d69x09cdx476dxaacexad2d824d5abg",
    ];
    prop_oneof![5 => sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,200}"]
}

fn double() -> impl Strategy<Value = f64> + Clone {
    let odd = [
        0.0,
        -0.0,
        -1.0,
        0.1,
        1e21,
        -1e300,
        5e-324,
        0.007_812_5,
        2_147_483_647.9,
        2_147_483_648.0,
        -2_147_483_648.9,
        9.3e18,
        1.9e19,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    prop_oneof![sample::select(odd.to_vec()), any::<f64>()]
}

fn value() -> impl Strategy<Value = v2::Value> {
    use v2::value::Data;
    let data = prop_oneof![
        4 => text().prop_map(Data::Text).prop_map(Some),
        1 => any::<i64>().prop_map(Data::Integer).prop_map(Some),
        1 => double().prop_map(Data::Decimal).prop_map(Some),
        1 => Just(None),
    ];
    data.prop_map(|data| v2::Value { data })
}

fn metrics() -> impl Strategy<Value = v2::Gauge> {
    let names = [
        "cpu",
        "memory",
        "disk",
        "memory_quota",
        "disk_quota",
        "instance_index",
        "x",
        "",
    ];
    let name = sample::select(names.to_vec()).prop_map(str::to_owned);
    let metric = ("[a-z]{0,3}", double()).prop_map(|(unit, value)| v2::GaugeValue { unit, value });
    prop_oneof![
        prop::collection::btree_map(name, metric.clone(), 0..8),
        prop::collection::btree_map("[a-z]{0,2}", metric, 0..60),
    ]
    .prop_map(|metrics| v2::Gauge { metrics })
}

fn message() -> impl Strategy<Value = envelope::Message> {
    use envelope::Message;
    prop_oneof![
        4 => (vec(any::<u8>(), 0..300), 0..3_i32)
            .prop_map(|(payload, r#type)| Message::Log(v2::Log { payload, r#type })),
        1 => (text(), any::<u64>(), any::<u64>())
            .prop_map(|(name, delta, total)| Message::Counter(v2::Counter { name, delta, total })),
        3 => metrics().prop_map(Message::Gauge),
        2 => (text(), any::<i64>(), any::<i64>())
            .prop_map(|(name, start, stop)| Message::Timer(v2::Timer { name, start, stop })),
        1 => (text(), text()).prop_map(|(title, body)| Message::Event(v2::Event { title, body })),
    ]
}

/// A field nobody knows, in the wire types there are.
fn unknown() -> impl Strategy<Value = Vec<u8>> {
    (18..5000_u32, 0..5_usize, text()).prop_map(|(number, kind, text)| {
        let mut out = Vec::new();
        match kind {
            0 => put_number(&mut out, number, u64::MAX),
            1 => put_double(&mut out, number, 1.5),
            2 => put_bytes(&mut out, number, text.as_bytes()),
            3 => {
                put_varint(&mut out, u64::from(number << 3 | 5));
                out.extend([1, 2, 3, 4]);
            }
            _ => {
                put_varint(&mut out, u64::from(number << 3 | 3));
                put_bytes(&mut out, 1, text.as_bytes());
                put_varint(&mut out, u64::from(number << 3 | 4));
            }
        }
        out
    })
}

/// An entry of map `field`, its pieces in any number and order.
fn entry(field: u32, message: Option<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let piece = (0..7_u32, key(), text()).prop_map(move |(kind, key, text)| {
        let mut out = Vec::new();
        match (kind, &message) {
            (0..=2, _) => put_bytes(&mut out, 1, key.as_bytes()),
            (3..=5, Some(message)) => put_bytes(&mut out, 2, message),
            (3..=5, None) => put_bytes(&mut out, 2, text.as_bytes()),
            _ => put_number(&mut out, 3 + text.len() as u32, 7),
        }
        out
    });
    vec(piece, 0..4).prop_map(move |pieces| {
        let mut out = Vec::new();
        put_bytes(&mut out, field, &pieces.concat());
        out
    })
}

/// A v2 envelope in pieces: fields twice, both maps, messages of several kinds.
fn v2_bytes() -> impl Strategy<Value = Vec<u8>> {
    let envelope = |envelope: v2::Envelope| envelope.encode_to_vec();
    let with = v2::Envelope::default;
    let piece = || {
        prop_oneof![
            1 => any::<i64>().prop_map(move |timestamp| envelope(v2::Envelope { timestamp, ..with() })),
            1 => text().prop_map(move |source_id| envelope(v2::Envelope { source_id, ..with() })),
            1 => text().prop_map(move |instance_id| envelope(v2::Envelope { instance_id, ..with() })),
            6 => (key(), text()).prop_map(move |tag| {
                envelope(v2::Envelope { tags: [tag].into(), ..with() })
            }),
            4 => (key(), value()).prop_map(move |tag| {
                envelope(v2::Envelope { deprecated_tags: [tag].into(), ..with() })
            }),
            3 => message().prop_map(move |message| {
                envelope(v2::Envelope { message: Some(message), ..with() })
            }),
            1 => unknown(),
            1 => entry(9, None),
            1 => value().prop_flat_map(|value| entry(3, Some(value.encode_to_vec()))),
        ]
    };
    // A timer or a container metric would be rare by chance.
    let http = Just(vec![envelope(v2::Envelope {
        tags: [("peer_type", "Client"), ("method", "GET")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        message: Some(envelope::Message::Timer(v2::Timer::default())),
        ..with()
    })]);
    let container = Just(vec![envelope(v2::Envelope {
        message: Some(envelope::Message::Gauge(v2::Gauge {
            metrics: ["cpu", "memory", "disk", "memory_quota", "disk_quota"]
                .map(|name| {
                    (
                        name.to_owned(),
                        v2::GaugeValue {
                            unit: "x".into(),
                            value: 1.5,
                        },
                    )
                })
                .into(),
        })),
        ..with()
    })]);
    let start = prop_oneof![3 => Just(vec![]), 1 => http, 1 => container];
    let more = prop_oneof![3 => vec(piece(), 0..12), 1 => vec(piece(), 0..150)];
    (start, more).prop_map(|(mut pieces, more)| {
        pieces.extend(more);
        pieces.concat()
    })
}

/// A text of a v1 envelope, which may be anything.
fn v1_text() -> impl Strategy<Value = Vec<u8>> {
    let odd: [&[u8]; 4] = [b"\xff", b"a\xc3", b"\xf0\x9f\x98", b"ok\xe2\x82ok"];
    prop_oneof![
        8 => text().prop_map(String::into_bytes),
        1 => sample::select(odd.to_vec()).prop_map(<[u8]>::to_vec),
    ]
}

/// The fields of a v1 message, by kind: `n`umber, `d`ouble, `t`ext, `u`uid, `-` none.
/// All of them, then a few once more; now and then nothing.
fn v1_fields(kinds: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let fields = || {
        (1..)
            .zip(kinds.bytes())
            .map(|(number, kind)| v1_field(number, kind))
    };
    let all: Vec<_> = fields().collect();
    let again: Vec<_> = fields()
        .map(|field| prop::option::weighted(0.1, field))
        .collect();
    (all, again, 0..10_u8).prop_map(|(all, again, nothing)| match nothing {
        0 => vec![],
        _ => [
            all.concat(),
            again.into_iter().flatten().collect::<Vec<_>>().concat(),
        ]
        .concat(),
    })
}

fn v1_field(number: u32, kind: u8) -> impl Strategy<Value = Vec<u8>> {
    let number_value = prop_oneof![0..6_u64, any::<u64>()];
    let uuid = prop_oneof![Just((0, 0)), any::<(u64, u64)>()];
    (number_value, double(), v1_text(), uuid).prop_map(move |(value, double, text, uuid)| {
        let mut out = Vec::new();
        match kind {
            b'n' => put_number(&mut out, number, value),
            b'd' => put_double(&mut out, number, double),
            b't' => put_bytes(&mut out, number, &text),
            b'u' => put_message(&mut out, number, |out| {
                put_number(out, 1, uuid.0);
                put_number(out, 2, uuid.1);
            }),
            _ => {}
        }
        out
    })
}

/// A v1 envelope, often with a body of its type, sometimes with others, in pieces.
fn v1_bytes() -> impl Strategy<Value = Vec<u8>> {
    let body = || {
        prop_oneof![
            v1_fields("nnunntttnn-unttt").prop_map(|body| (7, 4, body)),
            v1_fields("tnnttt").prop_map(|body| (8, 5, body)),
            v1_fields("tdt").prop_map(|body| (9, 6, body)),
            v1_fields("tnn").prop_map(|body| (10, 7, body)),
            v1_fields("tnt").prop_map(|body| (11, 8, body)),
            v1_fields("tndnnnn").prop_map(|body| (12, 9, body)),
        ]
    };
    let tag = (key(), v1_text(), v1_text(), 0..9_u8).prop_map(|(key, odd_key, value, odd)| {
        let mut out = Vec::new();
        let key = if odd == 0 { odd_key } else { key.into_bytes() };
        put_entry(&mut out, 17, &key, &value);
        out
    });
    let base = (v1_text(), 0..20_u64, any::<i64>(), vec(v1_text(), 4));
    let more = (
        vec(tag, 0..8),
        prop::option::of(unknown()),
        vec(body(), 0..2),
    );
    (base, body(), more).prop_map(
        |(base, (field, event_type, body), (tags, unknown, others))| {
            let (origin, odd, timestamp, texts) = base;
            let mut out = Vec::new();
            put_bytes(&mut out, 1, &origin);
            put_number(&mut out, 2, if odd < 12 { odd } else { event_type });
            put_number(&mut out, 6, timestamp as u64);
            for (number, text) in (13..).zip(&texts) {
                put_bytes(&mut out, number, text);
            }
            put_bytes(&mut out, field, &body);
            for (field, _, body) in &others {
                put_bytes(&mut out, *field, body);
            }
            out.extend(tags.concat());
            out.extend(unknown.unwrap_or_default());
            out
        },
    )
}

/// Bytes flipped, cut off or doubled.
fn damage(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let flips = vec((any::<sample::Index>(), any::<u8>()), 0..4);
    (bytes, flips, any::<sample::Index>(), 0..4_u8).prop_map(|(mut bytes, flips, cut, how)| {
        if bytes.is_empty() {
            return bytes;
        }
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        match how {
            0 => bytes.truncate(cut.index(bytes.len())),
            1 => bytes.extend_from_within(cut.index(bytes.len())..),
            _ => {}
        }
        bytes
    })
}

/// What becomes of an envelope made of these tags and this message.
fn refusal(
    tags: impl IntoIterator<Item = (String, String)>,
    deprecated_tags: impl IntoIterator<Item = (String, v2::Value)>,
    message: envelope::Message,
) -> Result<u32, Refused> {
    let envelope = v2::Envelope {
        tags: tags.into_iter().collect(),
        deprecated_tags: deprecated_tags.into_iter().collect(),
        message: Some(message),
        ..Default::default()
    };
    let bytes = envelope.encode_to_vec();
    let view = View::parse(&bytes).unwrap();
    to_v1(&view).map(|envelopes| envelopes.len() as u32)
}

fn a_log() -> envelope::Message {
    envelope::Message::Log(v2::Log::default())
}

fn a_gauge(metrics: usize) -> envelope::Message {
    let metric = |index: usize| (format!("{index:04}"), v2::GaugeValue::default());
    envelope::Message::Gauge(v2::Gauge {
        metrics: (0..metrics).map(metric).collect(),
    })
}

#[test]
fn more_than_256_tags_are_too_many() {
    let tags = |count: usize| (0..count).map(|index| (index.to_string(), String::new()));
    let deprecated = |count: usize| tags(count).map(|(key, _)| (key, v2::Value::default()));
    assert_eq!(refusal(tags(256), None, a_log()), Ok(1));
    assert_eq!(refusal(tags(128), deprecated(128), a_log()), Ok(1));
    let refused = Err(Refused::TooLarge("more than 256 tags"));
    assert_eq!(refusal(tags(257), None, a_log()), refused);
    assert_eq!(refusal(tags(128), deprecated(129), a_log()), refused);
}

#[test]
fn an_id_of_more_than_4_kib_is_too_much() {
    let conversions = |bytes: usize| {
        let envelope = v2::Envelope {
            source_id: "x".repeat(bytes),
            message: Some(a_log()),
            ..v2::Envelope::default()
        };
        View::parse(&envelope.encode_to_vec())
            .unwrap()
            .conversions()
    };
    assert_eq!(conversions(MAX_ID_BYTES), Ok(1));
    let refused = Err(Refused::TooLarge(
        "a source or instance id of more than 4 KiB",
    ));
    assert_eq!(conversions(MAX_ID_BYTES + 1), refused);
}

#[test]
fn more_than_64_kib_of_tags_are_too_much_also_as_the_text_of_numbers() {
    let tag = |bytes: usize| Some(("key".to_owned(), "x".repeat(bytes)));
    // The entry has a key of 5 bytes, and 4 before the value.
    assert_eq!(refusal(tag(MAX_TAG_BYTES - 9), None, a_log()), Ok(1));
    let refused = Err(Refused::TooLarge("more than 64 KiB of tags"));
    assert_eq!(refusal(tag(MAX_TAG_BYTES - 8), None, a_log()), refused);
    assert_eq!(refusal(tag(3 * MAX_TAG_BYTES), None, a_log()), refused);

    let decimal = |index: usize| {
        let data = Some(v2::value::Data::Decimal(f64::MAX));
        (index.to_string(), v2::Value { data })
    };
    let decimals = |count| (0..count).map(decimal);
    assert_eq!(refusal(None, decimals(190), a_log()), Ok(1));
    assert_eq!(refusal(None, decimals(210), a_log()), refused);
}

#[test]
fn more_than_1024_metrics_are_too_many() {
    assert_eq!(refusal(None, None, a_gauge(1024)), Ok(1024));
    let refused = Err(Refused::TooLarge("a gauge of more than 1,024 metrics"));
    assert_eq!(refusal(None, None, a_gauge(1025)), refused);
}

#[test]
fn a_gauge_of_several_metrics_may_become_one_mebibyte() {
    let tag = |bytes: usize| Some(("tag".to_owned(), "x".repeat(bytes)));
    // Base and body with an empty value of two length bytes take 46 of each envelope.
    let (bytes, metrics) = (16 * 1024 - 46, 64);
    assert_eq!(refusal(tag(bytes), None, a_gauge(metrics)), Ok(64));
    let refused = Err(Refused::TooLarge("a gauge that becomes more than 1 MiB"));
    assert_eq!(refusal(tag(bytes + 1), None, a_gauge(metrics)), refused);
    assert_eq!(refusal(tag(bytes + 1), None, a_gauge(1)), Ok(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_v2_envelope_becomes_what_the_reference_says(bytes in v2_bytes()) {
        prop_assert!(View::parse(&bytes).is_ok());
        agree_on_v2(&bytes);
    }

    #[test]
    fn a_damaged_v2_envelope_is_accepted_only_where_prost_accepts_it(
        bytes in damage(v2_bytes()),
    ) {
        agree_on_v2(&bytes);
    }

    #[test]
    fn random_bytes_are_no_panic(bytes in vec(any::<u8>(), 0..60)) {
        agree_on_v2(&bytes);
        agree_on_v1(&bytes);
    }

    #[test]
    fn any_v1_envelope_becomes_what_the_reference_says(bytes in v1_bytes()) {
        agree_on_v1(&bytes);
    }

    #[test]
    fn a_damaged_v1_envelope_is_accepted_only_where_it_can_be_decoded(
        bytes in damage(v1_bytes()),
    ) {
        agree_on_v1(&bytes);
    }
}
