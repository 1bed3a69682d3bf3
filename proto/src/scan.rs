//! A v1 envelope looked over once: is it whole, is it a log, whose is it.
//!
//! Bytes come in; what a router needs to know goes out, borrowed. Everything
//! `v1::decode` would accept is accepted, and nothing else: unknown fields, numbers
//! from the future and strings in any encoding pass, a missing required field does not.

use crate::{
    Malformed, Refused, uuid,
    v1::{Fields, SYSTEM, Shape, Value, envelope::EventType},
};

/// What a router must know about a v1 envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// It is a LogMessage.
    pub log: bool,
    /// It is a ContainerMetric, of this instance.
    pub container: Option<i32>,
    /// The app it belongs to.
    pub app: AppId<'a>,
}

/// The app an envelope belongs to, in the bytes app streams ask for it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppId<'a> {
    /// As the envelope has it. Empty: it belongs to no app, and only firehoses carry it.
    Named(&'a [u8]),
    /// The text of a UUID.
    Uuid([u8; 36]),
    /// `system`, which is everything that cannot belong to an app.
    System,
}

impl AppId<'_> {
    /// The id; compared byte for byte.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            AppId::Named(id) => id,
            AppId::Uuid(text) => text,
            AppId::System => SYSTEM.as_bytes(),
        }
    }
}

/// Looks over a v1 envelope.
pub fn v1(envelope: &[u8]) -> Result<Facts<'_>, Refused> {
    let seen = look(envelope)?;
    let app = match EventType::try_from(seen.event_type) {
        Ok(EventType::LogMessage) => AppId::Named(seen.log_app),
        Ok(EventType::ContainerMetric) => AppId::Named(seen.container_app),
        Ok(EventType::HttpStartStop) if seen.http_app.fields != 0 => {
            let [low, high] = seen.http_app_halves;
            AppId::Uuid(uuid::text(low, high))
        }
        _ => AppId::System,
    };
    Ok(Facts {
        log: seen.event_type == EventType::LogMessage as i32,
        container: (seen.event_type == EventType::ContainerMetric as i32)
            .then_some(seen.container_instance),
        app,
    })
}

/// Refuses an envelope that is not whole.
pub(crate) fn required(envelope: &[u8]) -> Result<(), Malformed> {
    look(envelope).map(drop)
}

/// What has been seen of an envelope.
#[derive(Default)]
struct Seen<'a> {
    event_type: i32,
    log_app: &'a [u8],
    container_app: &'a [u8],
    container_instance: i32,
    http_app_halves: [u64; 2],
    bodies: [Part; 6],
    request_id: Part,
    http_app: Part,
}

/// A message of which something has been seen. It may come in several pieces, so what
/// it lacks is known only at the end.
#[derive(Clone, Copy, Default)]
struct Part {
    shape: Option<&'static Shape>,
    /// The numbers of the fields seen, a bit each; bit 0 for the message itself.
    fields: u32,
}

/// Where the bodies are in the envelope, and which of them name an app.
const FIRST_BODY: u32 = 7;
const LAST_BODY: u32 = 12;
const LOG: u32 = 8;
const CONTAINER: u32 = 12;

fn look(envelope: &[u8]) -> Result<Seen<'_>, Malformed> {
    let mut seen = Seen::default();
    let mut fields = Fields::of_envelope(envelope);
    let mut top = Part::of(&fields);
    while let Some((number, value)) = fields.next()? {
        top.fields |= 1 << number;
        match (number, value) {
            (2, Value::Number(event_type)) => seen.event_type = event_type as i32,
            (FIRST_BODY..=LAST_BODY, Value::Message(body)) => seen.body(number, body)?,
            (_, Value::Message(mut tag)) => while tag.next()?.is_some() {},
            _ => {}
        }
    }
    top.complete()?;
    seen.bodies.iter().try_for_each(Part::complete)?;
    seen.request_id.complete()?;
    seen.http_app.complete()?;
    Ok(seen)
}

impl<'a> Seen<'a> {
    fn body(&mut self, body: u32, mut fields: Fields<'a>) -> Result<(), Malformed> {
        let mut part = Part::of(&fields);
        while let Some((number, value)) = fields.next()? {
            part.fields |= 1 << number;
            match (body, number, value) {
                (LOG, 4, Value::Text(id)) => self.log_app = id,
                (CONTAINER, 1, Value::Text(id)) => self.container_app = id,
                (CONTAINER, 2, Value::Number(index)) => self.container_instance = index as i32,
                (_, 3, Value::Message(id)) => read_uuid(id, &mut self.request_id, &mut [0, 0])?,
                (_, 12, Value::Message(id)) => {
                    read_uuid(id, &mut self.http_app, &mut self.http_app_halves)?;
                }
                _ => {}
            }
        }
        self.bodies[(body - FIRST_BODY) as usize].add(part);
        Ok(())
    }
}

fn read_uuid(mut id: Fields<'_>, to: &mut Part, halves: &mut [u64; 2]) -> Result<(), Malformed> {
    let mut part = Part::of(&id);
    while let Some((number, value)) = id.next()? {
        part.fields |= 1 << number;
        if let Value::Number(half) = value {
            halves[usize::from(number == 2)] = half;
        }
    }
    to.add(part);
    Ok(())
}

impl Part {
    fn of(fields: &Fields<'_>) -> Part {
        Part {
            shape: Some(fields.shape()),
            fields: 1,
        }
    }

    fn add(&mut self, piece: Part) {
        self.shape = piece.shape;
        self.fields |= piece.fields;
    }

    /// Refuses a message that is there without all it must have.
    fn complete(&self) -> Result<(), Malformed> {
        match self.shape {
            Some(shape) if self.fields & shape.required != shape.required => Err(shape.missing),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{put_bytes, put_double, put_message, put_number};

    /// The least a body must have: the kind of each required field, in order.
    const BODIES: [(u32, u64, &str); 6] = [
        (7, 4, "nnunntttnn"),
        (8, 5, "tnn"),
        (9, 6, "tdt"),
        (10, 7, "tn"),
        (11, 8, "tnt"),
        (12, 9, "tndnn"),
    ];

    fn put(out: &mut Vec<u8>, number: u32, kind: char) {
        match kind {
            'n' => put_number(out, number, 1),
            'd' => put_double(out, number, 1.0),
            't' => put_bytes(out, number, b"\xff"),
            _ => put_message(out, number, |out| {
                put_number(out, 1, 1);
                put_number(out, 2, 2);
            }),
        }
    }

    fn base(event_type: u64) -> Vec<u8> {
        let mut envelope = Vec::new();
        put_bytes(&mut envelope, 1, b"origin");
        put_number(&mut envelope, 2, event_type);
        envelope
    }

    #[test]
    fn every_required_field_is_required_and_may_come_in_another_piece() {
        for (number, event_type, kinds) in BODIES {
            let fields: Vec<_> = (1..).zip(kinds.chars()).collect();
            for &missing in &fields {
                let mut envelope = base(event_type);
                put_message(&mut envelope, number, |out| {
                    let others = fields.iter().filter(|&&field| field != missing);
                    others.for_each(|&(field, kind)| put(out, field, kind));
                });
                let lacking = matches!(v1(&envelope), Err(Refused::Malformed(_)));
                assert!(lacking, "field {} of body {number}", missing.0);

                put_message(&mut envelope, number, |out| put(out, missing.0, missing.1));
                assert_eq!(v1(&envelope).unwrap().log, number == 8);
            }
        }
        for half in [1, 2] {
            let mut envelope = base(4);
            put_message(&mut envelope, 7, |out| {
                (1..)
                    .zip("nnunntttnn".chars())
                    .for_each(|(field, kind)| put(out, field, kind));
                put_message(out, 12, |out| put_number(out, half, 1));
            });
            assert_eq!(
                v1(&envelope),
                Err(Refused::Malformed("a UUID without one of its halves"))
            );
        }
        assert!(v1(&base(5)[..8]).is_err(), "no event type");
        assert!(v1(&base(5)[8..]).is_err(), "no origin");
    }

    #[test]
    fn a_body_may_be_missing_and_an_event_type_unknown() {
        let facts = |event_type| {
            let envelope = base(event_type);
            let facts = v1(&envelope).unwrap();
            assert_eq!(facts.container.is_some(), event_type == 9);
            (facts.log, facts.app.as_bytes().to_vec())
        };
        assert_eq!(facts(5), (true, b"".to_vec()));
        assert_eq!(facts(9), (false, b"".to_vec()));
        for event_type in [2, 4, 6, 7, 8, 99] {
            assert_eq!(facts(event_type), (false, b"system".to_vec()));
        }
    }

    #[test]
    fn the_event_type_says_whose_it_is() {
        let mut envelope = base(9);
        put_message(&mut envelope, 8, |out| {
            (1..)
                .zip("tnn".chars())
                .for_each(|(field, kind)| put(out, field, kind));
            put_bytes(out, 4, b"of the log");
        });
        put_message(&mut envelope, 12, |out| {
            (1..)
                .zip("tndnn".chars())
                .for_each(|(field, kind)| put(out, field, kind));
            put_bytes(out, 1, b"of the container");
        });
        put_message(&mut envelope, 7, |out| {
            (1..)
                .zip("nnunntttnn".chars())
                .for_each(|(field, kind)| put(out, field, kind));
            put(out, 12, 'u');
        });
        for (event_type, app) in [
            (9, "of the container"),
            (5, "of the log"),
            (4, "01000000-0000-0000-0200-000000000000"),
            (7, "system"),
        ] {
            put_number(&mut envelope, 2, event_type);
            assert_eq!(v1(&envelope).unwrap().app.as_bytes(), app.as_bytes());
        }
    }
}
