//! An envelope as one line for a person.
//!
//! What apps write goes to an operator's terminal here. A terminal obeys escape sequences, so
//! where one may be reading, control characters are shown instead of sent.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{self, Write};

use anstyle::{AnsiColor, Color, Style};
use firehose_client::v1::log_message::MessageType;
use firehose_client::v1::{ContainerMetric, Envelope, HttpStartStop, LogMessage, Method, PeerType};

use crate::json::type_name;
use transport::clock::Utc;

/// How to write lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Human {
    /// With colours.
    pub(crate) coloured: bool,
    /// A terminal may obey what we write.
    pub(crate) terminal: bool,
}

const PLAIN: Style = Style::new();
const DIM: Style = Style::new().dimmed();

const fn colour(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(colour)))
}

impl Human {
    /// Writes `envelope` on one line; on more if its text has more.
    pub(crate) fn write(&self, envelope: &Envelope, out: &mut impl Write) -> io::Result<()> {
        let at = envelope.timestamp;
        if let Some(log) = &envelope.log_message {
            self.log(log, out)
        } else if let Some(http) = &envelope.http_start_stop {
            self.http(at.unwrap_or(http.stop_timestamp), http, out)
        } else if let Some(container) = &envelope.container_metric {
            let source = source("CONTAINER", Some(container.instance_index));
            self.head(at, &source, out)?;
            writeln!(out, "{}", Usage(container))
        } else {
            self.head(at, &self.clean(&envelope.origin), out)?;
            if let Some(counter) = &envelope.counter_event {
                write!(out, "{} +{}", self.clean(&counter.name), counter.delta)?;
                match counter.total {
                    Some(total) => writeln!(out, ", {total} in all"),
                    None => writeln!(out),
                }
            } else if let Some(metric) = &envelope.value_metric {
                let (name, unit) = (self.clean(&metric.name), self.clean(&metric.unit));
                writeln!(out, "{name} {} {unit}", metric.value)
            } else if let Some(error) = &envelope.error {
                let (source, message) = (self.clean(&error.source), self.clean(&error.message));
                writeln!(out, "error {} of {source}: {message}", error.code)
            } else {
                writeln!(out, "{} without a body", type_name(envelope))
            }
        }
    }

    fn log(&self, log: &LogMessage, out: &mut impl Write) -> io::Result<()> {
        let kind = log.source_type.as_deref().unwrap_or("?");
        let source = match log.source_instance.as_deref() {
            None | Some("") => kind.to_owned(),
            Some(instance) => format!("{kind}/{instance}"),
        };
        self.head(Some(log.timestamp), &self.clean(&source), out)?;
        match MessageType::try_from(log.message_type) {
            Ok(MessageType::Out) => write!(out, "OUT ")?,
            Ok(MessageType::Err) => write!(out, "{} ", self.styled(colour(AnsiColor::Red), "ERR"))?,
            Err(_) => write!(out, "??? ")?,
        }
        // Lines after the first are set in, so that none passes for a log of its own.
        let mut lines = log.message.split(|&byte| byte == b'\n');
        self.text(lines.next().unwrap_or_default(), out)?;
        for line in lines {
            out.write_all(b"\n    ")?;
            self.text(line, out)?;
        }
        out.write_all(b"\n")
    }

    fn http(&self, at: i64, http: &HttpStartStop, out: &mut impl Write) -> io::Result<()> {
        self.head(Some(at), &source("HTTP", http.instance_index), out)?;
        let status = match http.status_code {
            500.. => colour(AnsiColor::Red),
            400.. => colour(AnsiColor::Yellow),
            _ => PLAIN,
        };
        let side = match PeerType::try_from(http.peer_type) {
            Ok(PeerType::Client) => " as client",
            _ => "",
        };
        let nanos = http.stop_timestamp.saturating_sub(http.start_timestamp);
        writeln!(
            out,
            "{} {} {} in {:.1} ms, {} bytes{side}",
            Method::try_from(http.method).map_or("?", |method| method.as_str_name()),
            self.clean(&http.uri),
            self.styled(status, http.status_code),
            nanos as f64 / 1e6,
            http.content_length,
        )
    }

    fn head(&self, at: Option<i64>, source: &str, out: &mut impl Write) -> io::Result<()> {
        if let Some(at) = at {
            write!(out, "{} ", self.styled(DIM, format_args!("{:.3}", Utc(at))))?;
        }
        write!(
            out,
            "{} ",
            self.styled(style_of(source), format_args!("[{source}]"))
        )
    }

    /// As it came, or, where a terminal may read it, harmless.
    fn text(&self, text: &[u8], out: &mut impl Write) -> io::Result<()> {
        match self.terminal {
            true => out.write_all(self.clean(&String::from_utf8_lossy(text)).as_bytes()),
            false => out.write_all(text),
        }
    }

    fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.terminal && text.contains(obeyed) {
            true => text
                .chars()
                .map(|c| if obeyed(c) { picture(c) } else { c })
                .collect(),
            false => text.into(),
        }
    }

    fn styled<T: Display>(&self, style: Style, what: T) -> Styled<T> {
        let style = if self.coloured { style } else { PLAIN };
        Styled(style, what)
    }
}

/// Whether a terminal does something for this character, other than showing it. The last are
/// those that turn the direction of what follows (Trojan Source, CVE-2021-42574).
fn obeyed(c: char) -> bool {
    c.is_control() && c != '\t' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Something to look at in its place: ␛ for ESC.
fn picture(c: char) -> char {
    match c {
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\x7f' => '␡',
        _ => '\u{fffd}',
    }
}

fn source(kind: &str, instance: Option<i32>) -> String {
    match instance {
        Some(instance) => format!("{kind}/{instance}"),
        None => kind.to_owned(),
    }
}

/// Apps, the router, and the platform around them are told apart at a glance.
fn style_of(source: &str) -> Style {
    match source.split('/').next().unwrap_or_default() {
        "APP" => colour(AnsiColor::Cyan),
        "RTR" | "HTTP" => colour(AnsiColor::Blue),
        "STG" => colour(AnsiColor::Yellow),
        "CONTAINER" => colour(AnsiColor::Green),
        // What Loggregator says about itself: lost envelopes.
        "LGR" => colour(AnsiColor::Red).bold(),
        _ => colour(AnsiColor::Magenta),
    }
}

struct Styled<T>(Style, T);

impl<T: Display> Display for Styled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Styled(style, what) = self;
        write!(f, "{style}{what}{style:#}")
    }
}

struct Usage<'a>(&'a ContainerMetric);

impl Display for Usage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage(usage) = self;
        write!(f, "cpu {:.1} %", usage.cpu_percentage)?;
        for (what, bytes, quota) in [
            ("memory", usage.memory_bytes, usage.memory_bytes_quota),
            ("disk", usage.disk_bytes, usage.disk_bytes_quota),
        ] {
            write!(f, ", {what} {}", Bytes(bytes))?;
            if let Some(quota) = quota.filter(|&quota| quota > 0) {
                write!(f, " of {}", Bytes(quota))?;
            }
        }
        Ok(())
    }
}

struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1024 => write!(f, "{} B", self.0),
            1024..0x10_0000 => write!(f, "{:.1} KiB", bytes / 1024.0),
            0x10_0000..0x4000_0000 => write!(f, "{:.1} MiB", bytes / f64::from(1 << 20)),
            _ => write!(f, "{:.1} GiB", bytes / f64::from(1 << 30)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use firehose_client::v1::CounterEvent;

    const PIPE: Human = Human {
        coloured: false,
        terminal: false,
    };
    const TERMINAL: Human = Human {
        coloured: false,
        terminal: true,
    };
    const COLOURED: Human = Human {
        coloured: true,
        terminal: true,
    };

    fn printed(human: Human, envelope: &Envelope) -> Vec<u8> {
        let mut out = Vec::new();
        human.write(envelope, &mut out).unwrap();
        out
    }

    fn text(human: Human, envelope: &Envelope) -> String {
        String::from_utf8(printed(human, envelope)).unwrap()
    }

    fn log(message: &[u8], kind: MessageType) -> Envelope {
        Envelope {
            log_message: Some(LogMessage {
                message: message.into(),
                message_type: kind as i32,
                timestamp: 1_500_000_000_123_000_000,
                app_id: Some("some-app".into()),
                source_type: Some("APP/PROC/WEB".into()),
                source_instance: Some("0".into()),
            }),
            ..Envelope::default()
        }
    }

    #[test]
    fn a_log_is_time_source_stream_and_text() {
        assert_eq!(
            text(PIPE, &log(b"hello", MessageType::Out)),
            "2017-07-14T02:40:00.123Z [APP/PROC/WEB/0] OUT hello\n"
        );
        assert_eq!(
            text(COLOURED, &log(b"oh", MessageType::Err)),
            "\u{1b}[2m2017-07-14T02:40:00.123Z\u{1b}[0m \
             \u{1b}[36m[APP/PROC/WEB/0]\u{1b}[0m \u{1b}[31mERR\u{1b}[0m oh\n"
        );
    }

    #[test]
    fn a_log_cannot_drive_the_terminal_of_its_reader() {
        let hostile = "\u{1b}]0;owned\u{7}\u{9b}31m\r\u{202e}a\tb\u{7f}".as_bytes();
        let shown = text(TERMINAL, &log(hostile, MessageType::Out));
        assert!(
            shown.ends_with("OUT ␛]0;owned␇\u{fffd}31m␍\u{fffd}a\tb␡\n"),
            "{shown}"
        );

        let mut envelope = log(b"", MessageType::Out);
        envelope.log_message.as_mut().unwrap().source_type = Some("\u{1b}[2J".into());
        assert!(!text(TERMINAL, &envelope).contains('\u{1b}'));
    }

    #[test]
    fn a_pipe_gets_the_bytes_as_they_are() {
        let bytes = b"\x1b[31mred\xff";
        assert!(printed(PIPE, &log(bytes, MessageType::Out)).ends_with(b"OUT \x1b[31mred\xff\n"));
    }

    #[test]
    fn a_second_line_does_not_pass_for_a_log_of_its_own() {
        assert!(text(PIPE, &log(b"a\nb", MessageType::Out)).ends_with("OUT a\n    b\n"));
    }

    #[test]
    fn requests_and_containers_are_readable() {
        let http = Envelope {
            timestamp: Some(0),
            http_start_stop: Some(HttpStartStop {
                start_timestamp: 0,
                stop_timestamp: 12_340_000,
                peer_type: PeerType::Client as i32,
                method: Method::Post as i32,
                uri: "http://a/b".into(),
                status_code: 503,
                content_length: 7,
                instance_index: Some(1),
                ..HttpStartStop::default()
            }),
            ..Envelope::default()
        };
        assert_eq!(
            text(PIPE, &http),
            "1970-01-01T00:00:00.000Z [HTTP/1] POST http://a/b 503 in 12.3 ms, 7 bytes as client\n"
        );
        let container = Envelope {
            timestamp: Some(0),
            container_metric: Some(ContainerMetric {
                application_id: "a".into(),
                instance_index: 2,
                cpu_percentage: 12.34,
                memory_bytes: 128 << 20,
                disk_bytes: 5,
                memory_bytes_quota: Some(1 << 30),
                disk_bytes_quota: None,
            }),
            ..Envelope::default()
        };
        assert_eq!(
            text(PIPE, &container),
            "1970-01-01T00:00:00.000Z [CONTAINER/2] cpu 12.3 %, memory 128.0 MiB of 1.0 GiB, disk 5 B\n"
        );
    }

    #[test]
    fn what_is_not_an_apps_is_shown_too() {
        let counter = Envelope {
            origin: "doppler".into(),
            counter_event: Some(CounterEvent {
                name: "ingress".into(),
                delta: 5,
                total: Some(9),
            }),
            ..Envelope::default()
        };
        assert_eq!(text(PIPE, &counter), "[doppler] ingress +5, 9 in all\n");
        let nothing = Envelope {
            event_type: 5,
            ..Envelope::default()
        };
        assert_eq!(text(PIPE, &nothing), "[] LogMessage without a body\n");
    }
}
