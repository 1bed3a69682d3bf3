//! Why we did not do what was asked, as words and as an exit code.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use firehose_client::{BadRequest, BadSettings, EmitError, Error};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Settings(#[from] BadSettings),
    #[error(transparent)]
    Request(#[from] BadRequest),
    #[error(transparent)]
    Stream(#[from] Error),
    #[error(transparent)]
    Emit(#[from] EmitError),
    #[error("could not read {}", path.display())]
    Input { path: PathBuf, source: io::Error },
    #[error("could not write to stdout")]
    Output(#[source] io::Error),
    #[error("could not begin")]
    Begin(#[from] io::Error),
    #[error("this is a bug")]
    Panicked,
}

impl Failure {
    /// As `firehose --help` says.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Settings(_) | Failure::Request(_) => 2,
            Failure::Emit(EmitError::PlainText { .. } | EmitError::Tls(_)) => 2,
            Failure::Stream(Error::Token { .. }) => 2,
            Failure::Stream(Error::Unreachable { .. } | Error::Refused { .. }) => 3,
            Failure::Emit(EmitError::Unreachable(_) | EmitError::NotHttp2 { .. }) => 3,
            Failure::Stream(Error::Unauthorized { .. }) => 4,
            Failure::Stream(Error::NotFound { .. }) => 5,
            _ => 1,
        })
    }

    /// Whoever read our output has what he wanted (`| head`): no failure at all.
    pub(crate) fn reader_left(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// An error and what caused it, on one line. What has been said is not said again: some errors
/// name their cause themselves.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !line.contains(&said) {
            line.push_str(": ");
            line.push_str(&said);
        }
        source = cause.source();
    }
    line
}
