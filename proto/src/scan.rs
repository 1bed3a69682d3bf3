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
        Ok(EventType::LogMessage) => AppId::Named(seen.bodies[LOG].app),
        Ok(EventType::ContainerMetric) => AppId::Named(seen.bodies[CONTAINER].app),
        Ok(EventType::HttpStartStop) if seen.app.shape.is_some() => {
            let [low, high] = seen.app.halves;
            AppId::Uuid(uuid::text(low, high))
        }
        _ => AppId::System,
    };
    Ok(Facts {
        log: seen.event_type == EventType::LogMessage as i32,
        app,
    })
}

/// Refuses an envelope that is not whole.
pub(crate) fn required(envelope: &[u8]) -> Result<(), Malformed> {
    look(envelope).map(drop)
}

/// Where the bodies are in the envelope, and which of them name an app.
const FIRST_BODY: u32 = 7;
const LAST_BODY: u32 = 12;
const LOG: usize = 1;
const CONTAINER: usize = 5;

/// What has been seen of an envelope. A message that comes in several pieces is one
/// message, so what it lacks is known only at the end.
#[derive(Default)]
struct Seen<'a> {
    event_type: i32,
    bodies: [Part<'a>; 6],
    request: Part<'a>,
    app: Part<'a>,
}

#[derive(Default)]
struct Part<'a> {
    shape: Option<&'static Shape>,
    /// The numbers of the fields seen, a bit each.
    fields: u32,
    /// Of a log or container metric.
    app: &'a [u8],
    /// Of a UUID: low and high.
    halves: [u64; 2],
}

fn look(envelope: &[u8]) -> Result<Seen<'_>, Malformed> {
    let mut seen = Seen::default();
    let mut top = Part::default();
    let mut fields = Fields::of_envelope(envelope);
    top.shape = Some(fields.shape());
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
    seen.request.complete()?;
    seen.app.complete()?;
    Ok(seen)
}

impl<'a> Seen<'a> {
    fn body(&mut self, number: u32, mut body: Fields<'a>) -> Result<(), Malformed> {
        let index = (number - FIRST_BODY) as usize;
        let part = &mut self.bodies[index];
        part.shape = Some(body.shape());
        while let Some((number, value)) = body.next()? {
            part.fields |= 1 << number;
            match (index, number, value) {
                (LOG, 4, Value::Text(id)) | (CONTAINER, 1, Value::Text(id)) => part.app = id,
                (_, 3, Value::Message(uuid)) => self.request.uuid(uuid)?,
                (_, 12, Value::Message(uuid)) => self.app.uuid(uuid)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Part<'_> {
    fn uuid(&mut self, mut uuid: Fields<'_>) -> Result<(), Malformed> {
        self.shape = Some(uuid.shape());
        while let Some((number, value)) = uuid.next()? {
            self.fields |= 1 << number;
            if let Value::Number(half) = value {
                self.halves[usize::from(number == 2)] = half;
            }
        }
        Ok(())
    }

    /// Refuses a message that was there without all it must have.
    fn complete(&self) -> Result<(), Malformed> {
        match self.shape {
            Some(shape) if self.fields & shape.required != shape.required => Err(shape.missing),
            _ => Ok(()),
        }
    }
}
