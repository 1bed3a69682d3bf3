//! stdout: envelopes go in, bytes in one of four forms come out.
//!
//! Buffered, and flushed by whoever knows that nothing more is at hand, so that a fast stream
//! costs few system calls and a slow one no delay.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::SystemTime;

use bytes::Bytes;
use firehose_client::{Malformed, v1};

use crate::counts::Counts;
use crate::human::Human;
use crate::json::{self, type_name};
use transport::clock::Utc;

/// Bytes that wait for a flush: 64 KiB, what a pipe takes at once.
const BUFFER: usize = 64 * 1024;

/// How envelopes are written.
pub(crate) enum Form {
    Human(Human),
    Json,
    Protobuf,
    Counts {
        /// Since the last line.
        second: Counts,
        /// Before that.
        whole: Counts,
    },
}

impl Form {
    pub(crate) fn counts() -> Form {
        Form::Counts {
            second: Counts::default(),
            whole: Counts::default(),
        }
    }
}

pub(crate) struct Output {
    form: Form,
    /// Not `Stdout`, which looks for newlines in everything.
    out: BufWriter<File>,
}

/// Whether stdout is one.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes something that is not envelopes.
pub(crate) fn write_all(bytes: &[u8]) -> Result<(), crate::Failure> {
    io::stdout()
        .write_all(bytes)
        .and_then(|()| io::stdout().flush())
        .map_err(crate::Failure::Output)
}

impl Output {
    pub(crate) fn new(form: Form) -> io::Result<Output> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Output {
            form,
            out: BufWriter::with_capacity(BUFFER, stdout),
        })
    }

    /// Whether [`Output::second`] has something to do.
    pub(crate) fn counts(&self) -> bool {
        matches!(self.form, Form::Counts { .. })
    }

    /// Writes one envelope; `Ok(Err)` if it is none.
    pub(crate) fn envelope(&mut self, envelope: &Bytes) -> io::Result<Result<(), Malformed>> {
        let decoded = match &self.form {
            Form::Protobuf => {
                let mut length = Vec::with_capacity(10);
                prost::encode_length_delimiter(envelope.len(), &mut length)?;
                self.out.write_all(&length)?;
                self.out.write_all(envelope)?;
                return Ok(Ok(()));
            }
            _ => match v1::decode(envelope) {
                Ok(decoded) => decoded,
                Err(error) => return Ok(Err(error)),
            },
        };
        match &mut self.form {
            Form::Human(human) => human.write(&decoded, &mut self.out)?,
            Form::Json => json::write(&decoded, &mut self.out)?,
            Form::Counts { second, .. } => second.add(type_name(&decoded)),
            Form::Protobuf => {}
        }
        Ok(Ok(()))
    }

    /// Another second has passed.
    pub(crate) fn second(&mut self) -> io::Result<()> {
        if let Form::Counts { second, whole } = &mut self.form {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let nanos = since.unwrap_or_default().as_nanos();
            let now = Utc(i64::try_from(nanos).unwrap_or(i64::MAX));
            writeln!(self.out, "{now:.3} {second}")?;
            whole.absorb(second);
        }
        Ok(())
    }

    /// Whether there is something to flush.
    pub(crate) fn waiting(&self) -> bool {
        !self.out.buffer().is_empty()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes what stands at the end, and flushes.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if let Form::Counts { second, whole } = &mut self.form {
            whole.absorb(second);
            writeln!(self.out, "all {whole}")?;
        }
        self.out.flush()
    }
}
