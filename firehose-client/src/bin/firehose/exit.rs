//! Why we did not do what was asked, as words and as an exit code.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use firehose_client::{
    BadRequest, BadSettings, CfCliError, CloudControllerError, EmitError, Error, LoginError,
    TokenError,
};
use transport::tls::TlsError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Settings(#[from] BadSettings),
    #[error(transparent)]
    Request(#[from] BadRequest),
    #[error("could not prepare TLS")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Stream(#[from] Error),
    #[error(transparent)]
    Emit(#[from] EmitError),
    #[error("where is Loggregator? Give --endpoint or DOPPLER_ADDR, or log in with the cf CLI")]
    NoEndpoint(#[source] CfCliError),
    #[error(transparent)]
    CfCli(#[from] CfCliError),
    #[error("the endpoint that the cf CLI or Cloud Controller names cannot be used")]
    Discovered(#[source] BadSettings),
    #[error(transparent)]
    CloudController(#[from] CloudControllerError),
    #[error(
        "{app:?} is not a GUID; for a name, log in to its platform with the cf CLI and target the app's space"
    )]
    NoLoginToLookWith { app: String },
    #[error(
        "{app:?} is not a GUID, and the cf CLI targets no space to look for the name: \
         run cf target -s SPACE"
    )]
    NoSpaceTargeted { app: String },
    #[error("could not read {}", path.display())]
    Input { path: PathBuf, source: io::Error },
    #[error("could not write to stdout")]
    Output(#[source] io::Error),
    #[error("could not begin")]
    Begin(#[from] io::Error),
    #[error("{unasked} of {of} admin listeners could not be asked: what they lost is not known")]
    Unasked { unasked: usize, of: usize },
    #[error("{found} to mend on the way to {endpoint}: see above")]
    Findings { found: usize, endpoint: String },
    #[error("this is a bug")]
    Panicked,
}

impl Failure {
    /// As `firehose --help` says.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Settings(_) | Failure::Request(_) | Failure::Tls(_) => 2,
            Failure::Emit(EmitError::PlainText { .. } | EmitError::Tls(_)) => 2,
            Failure::NoEndpoint(_) | Failure::Discovered(_) => 2,
            Failure::NoSpaceTargeted { .. } | Failure::NoLoginToLookWith { .. } => 2,
            Failure::CfCli(CfCliError::NotLoggedIn { .. } | CfCliError::NoFile { .. }) => 4,
            Failure::CfCli(_) => 2,
            Failure::CloudController(error) => match error {
                CloudControllerError::Unauthorized { .. } => 4,
                CloudControllerError::NoApp { .. } => 5,
                CloudControllerError::SeveralApps { .. } => 2,
                CloudControllerError::Token { source } => token(source),
                _ => 3,
            },
            Failure::Stream(Error::Token { source }) => token(source),
            Failure::Stream(Error::Unreachable { .. } | Error::Refused { .. }) => 3,
            Failure::Emit(EmitError::Unreachable(_) | EmitError::NotHttp2 { .. }) => 3,
            Failure::Unasked { .. } => 3,
            Failure::Stream(Error::Unauthorized { .. }) => 4,
            Failure::Stream(Error::NotFound { .. }) => 5,
            Failure::Findings { .. } => 6,
            _ => 1,
        })
    }

    /// Whoever read our output has what he wanted (`| head`): no failure at all.
    pub(crate) fn reader_left(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Refused, not reached, or never there.
fn token(error: &TokenError) -> u8 {
    match error {
        error if error.needs_login() => 4,
        TokenError::Renewal(_) => 3,
        _ => 2,
    }
}

impl From<LoginError> for Failure {
    fn from(error: LoginError) -> Failure {
        match error {
            LoginError::CfCli(error) => error.into(),
            LoginError::Settings(error) => error.into(),
        }
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
