//! TLS settings made from PEM files.
//!
//! In come paths, out come rustls settings ready for [`crate::listener`]; every call reads its
//! files anew, so loading new certificates is calling again, which [`crate::reload`] does. Nothing here reads the
//! environment or relies on a process-wide crypto provider.
//!
//! TLS 1.2 and 1.3 with ECDHE and AES-GCM alone, as the Go components between themselves. A
//! name is checked against the certificate's SANs; a CN is never looked at.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub use rustls::{ClientConfig, ServerConfig};
pub use rustls_pki_types::ServerName;

/// ALPN for HTTP/1.1 and WebSocket.
pub const HTTP_1_1: &[u8] = b"http/1.1";

/// ALPN for HTTP/2 and gRPC.
pub const H2: &[u8] = b"h2";

/// Where Linux distributions and macOS keep the CAs that browsers trust, in the order Go
/// looks for them (`crypto/x509/root_linux.go`).
pub const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// AES-GCM alone: where the processor helps, which is everywhere this runs, it costs less than
/// half of ChaCha20, and every TLS 1.3 peer must have it (RFC 8446 §9.1).
const CIPHER_SUITES: &[SupportedCipherSuite] = &[
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Who we are: a certificate and its key, each a PEM file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Our certificate first, then the intermediates up to, without, the root.
    pub cert: PathBuf,
    /// Its private key, unencrypted: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Whose signature makes a server trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roots<'a> {
    /// The CAs in this PEM file and no others. Every certificate in it must be usable.
    Ca(&'a Path),
    /// The CAs the operating system trusts: this PEM bundle if given (by custom what
    /// `SSL_CERT_FILE` says), else the first of [`SYSTEM_BUNDLES`] that exists. Certificates
    /// in it that we cannot use are passed over, as long as one can be used.
    System(Option<&'a Path>),
}

/// The cipher suites a server speaks.
#[derive(Debug, Clone)]
pub struct Suites(Vec<SupportedCipherSuite>);

impl Default for Suites {
    /// All that we have: ECDHE with AES-GCM, under TLS 1.3 and 1.2.
    fn default() -> Suites {
        Suites(CIPHER_SUITES.to_vec())
    }
}

/// None of the cipher suites asked for is one of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no cipher suite in {asked:?} that we have: give one or more of {ours}", ours = TLS_1_2_NAMES.join(", "))]
pub struct NoSuite {
    /// What was asked for.
    pub asked: String,
}

/// OpenSSL's name of each TLS 1.2 suite, and the name in IANA's registry behind it.
const TLS_1_2_SUITES: [(&str, &str, SupportedCipherSuite); 4] = [
    (
        TLS_1_2_NAMES[0],
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        TLS_1_2_NAMES[1],
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        TLS_1_2_NAMES[2],
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        TLS_1_2_NAMES[3],
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
];

const TLS_1_2_NAMES: [&str; 4] = [
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
];

impl Suites {
    /// The TLS 1.2 suites with these OpenSSL or IANA names, separated by commas, colons or
    /// spaces, and all of TLS 1.3 (which upstream does not let one choose either). Also gives
    /// back the names that we do not know, for the caller to warn of.
    pub fn named(asked: &str) -> Result<(Suites, Vec<String>), NoSuite> {
        let (mut suites, mut unknown) = (Vec::new(), Vec::new());
        let names = asked.split([',', ':', ' ']).filter(|name| !name.is_empty());
        for name in names {
            let known = TLS_1_2_SUITES
                .iter()
                .find(|(openssl, iana, _)| [openssl, iana].contains(&&name));
            match known {
                Some((_, _, suite)) if suites.contains(suite) => {}
                Some((_, _, suite)) => suites.push(*suite),
                None => unknown.push(name.to_owned()),
            }
        }
        if suites.is_empty() {
            return Err(NoSuite {
                asked: asked.to_owned(),
            });
        }
        let tls_1_3 = CIPHER_SUITES.iter().filter(|suite| suite.tls13().is_some());
        suites.extend(tls_1_3);
        Ok((Suites(suites), unknown))
    }
}

/// From when until when a certificate is good, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
}

/// What is wrong with a certificate's dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfDate {
    /// Its time has not come; or our clock is wrong.
    #[error("NOT YET VALID")]
    Early,
    /// Its time is over.
    #[error("EXPIRED")]
    Late,
}

impl Validity {
    /// Whether it is good at that time.
    pub fn at(&self, now: SystemTime) -> Result<(), OutOfDate> {
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
        if now < self.not_before {
            Err(OutOfDate::Early)
        } else if now > self.not_after {
            Err(OutOfDate::Late)
        } else {
            Ok(())
        }
    }
}

/// Why settings could not be made, naming the file to look at.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is missing, or not ours to read.
    #[error("could not read {path}: check that it exists and that this user may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There are PEM sections, and one is broken.
    #[error("{path} is not valid PEM: write it again from its source")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Where it is broken.
        source: pem::Error,
    },
    /// A file without certificates where there must be one.
    #[error("no certificate in {path}: expected PEM with a BEGIN CERTIFICATE line")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file without a key where there must be one.
    #[error(
        "no private key in {path}: expected PEM with an unencrypted PKCS#8, PKCS#1 or SEC1 key"
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// PEM around something that is not a certificate, or a certificate of no use here.
    #[error("a certificate in {path} cannot be used")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// PEM around something that is not a key, or a key of a kind we do not have.
    #[error(
        "the private key in {path} cannot be used: give an RSA key of 2048 bits or more, an ECDSA or an Ed25519 key"
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// A certificate and somebody else's key.
    #[error(
        "the key in {key} does not belong to the first certificate in {cert}: \
         give the two that were issued together"
    )]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// No file of [`SYSTEM_BUNDLES`] exists.
    #[error("found no CA bundle of the system: give a CA file, or its path in SSL_CERT_FILE")]
    NoSystemBundle,
    /// Not a name that a certificate could have.
    #[error("{name:?} is neither a DNS name nor an IP address")]
    ServerName {
        /// What was given.
        name: String,
    },
}

/// Settings to accept connections as `identity`.
///
/// With `client_ca` a client must present a certificate that the file's CAs signed, that is
/// in date, and whose extended key usage, if any is stated, names client authentication.
/// Without, no client certificate is asked for. `alpn` is in order of *our* preference; a
/// client that offers ALPN but nothing of ours is refused, one that offers none is not.
///
/// Sessions are never resumed: a client whose CA is withdrawn must not come back on an old
/// ticket, and ten thousand idle tails need no memory of theirs.
pub fn server(
    identity: &Identity,
    client_ca: Option<&Path>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    server_with(identity, client_ca, alpn, &Suites::default())
}

/// As [`server`], with these cipher suites alone.
pub fn server_with(
    identity: &Identity,
    client_ca: Option<&Path>,
    alpn: &[&[u8]],
    suites: &Suites,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider(suites);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(VERSIONS)
        .expect("Suites has suites of both VERSIONS");
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(ca(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .expect("fails for no roots, and `ca` has one at least, or a bad CRL, and there is none");
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = load(identity)?;
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| refused(identity, error))?;
    config.alpn_protocols = owned(alpn);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Settings to connect to servers that `roots` vouch for, as `identity` if the server asks.
pub fn client(
    roots: Roots<'_>,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match roots {
        Roots::Ca(path) => ca(path)?,
        Roots::System(bundle) => system(bundle)?,
    };
    let builder = ClientConfig::builder_with_provider(provider(&Suites::default()))
        .with_protocol_versions(VERSIONS)
        .expect("CIPHER_SUITES has suites of both VERSIONS")
        .with_root_certificates(roots);
    finish(builder, identity, alpn)
}

/// Settings to connect to **anyone at all**: no certificate is checked against a CA, a name or
/// the date, so whoever can place himself between us and the server reads the token and the
/// stream. Only for a setting whose name says so (`skip_cert_verify`).
pub fn client_that_trusts_anyone(
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider(&Suites::default());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(VERSIONS)
        .expect("CIPHER_SUITES has suites of both VERSIONS")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    finish(builder, identity, alpn)
}

/// The name to expect in a server's certificate. Underscores are allowed (`rlp_gateway`).
pub fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName { name: name.into() })
}

/// The DNS names in a certificate's SAN; none if it has none, or cannot be read. Its CN is not
/// one of them.
pub fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(san)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = san.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

/// From when until when the first certificate in a file is good.
pub fn validity(cert: &Path) -> Result<Validity, TlsError> {
    let chain = certificates(cert)?;
    let unreadable = || TlsError::Certificate {
        path: cert.into(),
        source: rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding),
    };
    let first = chain.first().ok_or_else(unreadable)?;
    let (_, first) = X509Certificate::from_der(first).map_err(|_| unreadable())?;
    Ok(Validity {
        not_before: first.validity().not_before.timestamp(),
        not_after: first.validity().not_after.timestamp(),
    })
}

fn finish(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = load(identity)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| refused(identity, error))?
        }
    };
    config.alpn_protocols = owned(alpn);
    Ok(Arc::new(config))
}

fn provider(suites: &Suites) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: suites.0.clone(),
        ..aws_lc_rs::default_provider()
    })
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.into(),
        source,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError::NoCertificate { path: path.into() }),
        Ok(found) => Ok(found),
        Err(source) => Err(TlsError::Pem {
            path: path.into(),
            source,
        }),
    }
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn load(identity: &Identity) -> Result<Pair, TlsError> {
    let chain = certificates(&identity.cert)?;
    let path = &identity.key;
    let key = PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { path: path.clone() },
        source => TlsError::Pem {
            path: path.clone(),
            source,
        },
    })?;
    Ok((chain, key))
}

/// Which of the two files rustls did not like.
fn refused(identity: &Identity, error: rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
            cert: identity.cert.clone(),
            key: identity.key.clone(),
        },
        rustls::Error::InvalidCertificate(_) => TlsError::Certificate {
            path: identity.cert.clone(),
            source: error,
        },
        _ => TlsError::Key {
            path: identity.key.clone(),
            source: error,
        },
    }
}

fn ca(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Certificate {
                path: path.into(),
                source,
            })?;
    }
    Ok(roots)
}

fn system(bundle: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let path = match bundle {
        Some(path) => path,
        None => SYSTEM_BUNDLES
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
            .ok_or(TlsError::NoSystemBundle)?,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    if added == 0 {
        return Err(TlsError::NoCertificate { path: path.into() });
    }
    Ok(roots)
}

/// Believes every certificate; that the server holds its key is still checked.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
