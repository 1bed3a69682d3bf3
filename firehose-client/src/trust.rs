//! Whom we believe to be the server we asked for.

use std::path::PathBuf;
use std::sync::Arc;

use transport::tls::{self, ClientConfig, HTTP_1_1, Roots, ServerName, TlsError};

/// What makes a server's certificate good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The CAs of the operating system.
    #[default]
    System,
    /// The CAs in this PEM file and no others.
    Ca(PathBuf),
    /// **Nothing is checked**: whoever can place himself between us and the server reads the
    /// token and all that follows. The cf CLI calls it `--skip-ssl-validation`.
    Anyone,
}

/// How TLS is done with one server.
pub(crate) type Tls = (Arc<ClientConfig>, ServerName<'static>);

impl Trust {
    pub(crate) fn tls(&self, host: &str) -> Result<Tls, TlsError> {
        let config = match self {
            Trust::System => tls::client(Roots::System(None), None, &[HTTP_1_1])?,
            Trust::Ca(path) => tls::client(Roots::Ca(path), None, &[HTTP_1_1])?,
            Trust::Anyone => tls::client_that_trusts_anyone(None, &[HTTP_1_1])?,
        };
        Ok((config, tls::server_name(host)?))
    }
}
