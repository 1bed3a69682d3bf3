//! What a server shows of itself under TLS, for whoever looks for what is wrong with it.
//!
//! In go a stream, or the error of one that did not come to be; out come words and dates. Nothing
//! here decides whom to trust: that is [`crate::tls`].

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustls::{AlertDescription, CertificateError, Error, ProtocolVersion};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::listener::Stream;
use crate::tls::Validity;

/// A server's side of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its certificate first, then what it sent with it. What cannot be read is left out.
    pub chain: Vec<Certificate>,
    /// Such as `TLS 1.3`.
    pub version: &'static str,
    /// What it chose of the protocols that were offered.
    pub alpn: Option<String>,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The DNS names and IP addresses it is good for.
    pub names: Vec<String>,
    /// When it is good.
    pub validity: Validity,
}

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The certificate's time is over, or that of one it stands on.
    Expired,
    /// Its time has not come.
    NotYet,
    /// It is for another name.
    Name,
    /// Nobody we trust has signed it.
    Issuer,
    /// Something else is wrong with it.
    Certificate,
    /// The server speaks none of the protocols that were offered (ALPN).
    Protocol,
    /// No version or cipher suite in common.
    Version,
    /// What came is not TLS.
    NotTls,
    /// The server hung up.
    Ended,
    /// It did not go on.
    Late,
    /// See its words.
    Other,
}

impl Shown {
    /// What this stream's server has shown; `None` without TLS.
    pub fn of(stream: &Stream) -> Option<Shown> {
        let Stream::Tls(tls) = stream else {
            return None;
        };
        let (_, state) = tls.get_ref();
        let chain = state.peer_certificates().unwrap_or_default();
        Some(Shown {
            chain: chain.iter().filter_map(Certificate::read).collect(),
            version: match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
                _ => "an unknown version of TLS",
            },
            alpn: state
                .alpn_protocol()
                .map(|chosen| String::from_utf8_lossy(chosen).into_owned()),
        })
    }
}

impl Certificate {
    /// `None` if it cannot be read.
    pub fn read(der: &CertificateDer<'_>) -> Option<Certificate> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let san = certificate.subject_alternative_name().ok().flatten();
        let names = san.iter().flat_map(|san| &san.value.general_names);
        Some(Certificate {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            names: names.filter_map(name).collect(),
            validity: Validity {
                not_before: certificate.validity().not_before.timestamp(),
                not_after: certificate.validity().not_after.timestamp(),
            },
        })
    }
}

/// Our end of a connection: what its other end sees of us if nobody stands between. `None` once it
/// has gone.
pub fn our_end(stream: &Stream) -> Option<SocketAddr> {
    match stream {
        Stream::Plain(tcp) => tcp.local_addr().ok(),
        Stream::Tls(tls) => tls.get_ref().0.socket().local_addr().ok(),
        #[cfg(feature = "simulated")]
        Stream::Simulated(_) => None,
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let ip = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            ip.ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

impl Why {
    /// What the error of a handshake means.
    pub fn of(error: &io::Error) -> Why {
        let inner = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
        match inner {
            Some(Error::InvalidCertificate(wrong)) => Why::distrust(wrong),
            Some(Error::NoApplicationProtocol)
            | Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => Why::Protocol,
            Some(Error::PeerIncompatible(_))
            | Some(Error::AlertReceived(
                AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure,
            )) => Why::Version,
            Some(Error::InvalidMessage(_)) => Why::NotTls,
            Some(_) => Why::Other,
            None => match error.kind() {
                io::ErrorKind::TimedOut => Why::Late,
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => Why::Ended,
                _ => Why::Other,
            },
        }
    }

    fn distrust(wrong: &CertificateError) -> Why {
        match wrong {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Why::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Why::NotYet
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Why::Name
            }
            // Signed with another key: a CA that was made anew under its old name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Why::Issuer,
            _ => Why::Certificate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    #[test]
    fn a_certificate_is_told_with_its_names_and_dates() {
        let names = ["doppler.example.com", "*.example.com", "192.0.2.1", "::1"];
        let mut params = CertificateParams::new(names.map(str::to_owned).to_vec()).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "a Traffic Controller");
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let told = Certificate::read(der.der()).unwrap();
        assert_eq!(told.names, names);
        assert!(told.subject.contains("CN=a Traffic Controller"), "{told:?}");
        assert_eq!(told.issuer, told.subject);
        assert_eq!(told.validity.not_after, 1_893_456_000);
        assert_eq!(Certificate::read(&CertificateDer::from(&b"no"[..])), None);
    }

    #[test]
    fn a_failed_handshake_is_told_by_its_cause() {
        let tls = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let alert = |it| tls(Error::AlertReceived(it));
        for (error, why) in [
            (tls(CertificateError::Expired.into()), Why::Expired),
            (tls(CertificateError::NotValidForName.into()), Why::Name),
            (tls(CertificateError::UnknownIssuer.into()), Why::Issuer),
            (tls(CertificateError::Revoked.into()), Why::Certificate),
            (
                alert(AlertDescription::NoApplicationProtocol),
                Why::Protocol,
            ),
            (alert(AlertDescription::ProtocolVersion), Why::Version),
            (alert(AlertDescription::InternalError), Why::Other),
            (
                tls(rustls::InvalidMessage::InvalidContentType.into()),
                Why::NotTls,
            ),
            (io::ErrorKind::UnexpectedEof.into(), Why::Ended),
            (io::ErrorKind::TimedOut.into(), Why::Late),
        ] {
            assert_eq!(Why::of(&error), why, "{error}");
        }
    }
}
