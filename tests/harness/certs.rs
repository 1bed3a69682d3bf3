//! A certificate authority for one test, and the certificates its processes need.

use crate::stream::{Stream, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A CA and what it has signed, as PEM files that are gone with this value.
pub struct Certs {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// Where a certificate and its key are.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Certs {
    /// A CA with certificates for `doppler`, `trafficcontroller`, `metron` and `localhost`
    /// (which clients of a Traffic Controller expect).
    pub fn new() -> Certs {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "loggregator test CA");
        let key = KeyPair::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ca = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.crt"), ca.pem()).unwrap();
        let certs = Certs {
            directory,
            issuer: Issuer::new(params, key),
        };
        for name in ["doppler", "trafficcontroller", "metron", "localhost"] {
            certs.issue(name, |_| {});
        }
        certs
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// The certificate issued for `name`.
    pub fn pair(&self, name: &str) -> Pair {
        let file = |kind| self.directory.path().join(format!("{name}.{kind}"));
        Pair {
            cert: file("crt"),
            key: file("key"),
        }
    }

    /// Issues a certificate whose one DNS name is `name`, replacing the one it had; `change`
    /// may make it special.
    pub fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        self.issue_for(&KeyPair::generate().unwrap(), name, change)
    }

    /// The same with an RSA key, as BOSH generates them.
    pub fn issue_rsa(&self, name: &str) -> Pair {
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        self.issue_for(&key, name, |_| {})
    }

    fn issue_for(
        &self,
        key: &KeyPair,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let cert = params.signed_by(key, &self.issuer).unwrap();
        let pair = self.pair(name);
        std::fs::write(&pair.cert, cert.pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    /// Issues a certificate that ended half a century ago.
    pub fn expired(&self, name: &str) -> Pair {
        self.issue(name, |params| {
            params.not_before = rcgen::date_time_ymd(1975, 1, 1);
            params.not_after = rcgen::date_time_ymd(1975, 12, 31);
        })
    }

    /// TLS for a client that trusts this CA, shows `identity` if asked, and offers `alpn`.
    pub fn client(&self, identity: Option<&Pair>, alpn: &[&str]) -> Arc<ClientConfig> {
        client(&self.ca(), identity, alpn)
    }
}

impl std::fmt::Debug for Certs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "certificates in {}", self.directory.path().display())
    }
}

impl Default for Certs {
    fn default() -> Certs {
        Certs::new()
    }
}

/// The certificate that whoever listens at `address` shows to such a client; `None` if the two do
/// not come together.
pub async fn shown(address: SocketAddr, tls: &Tls) -> Option<CertificateDer<'static>> {
    match Stream::connect(address, Some(tls), None).await {
        Ok(Stream::Tls(tls)) => Some(tls.get_ref().1.peer_certificates()?.first()?.clone()),
        _ => None,
    }
}

/// The certificate in a file.
pub fn in_file(cert: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(cert).unwrap()
}

/// TLS for a client that trusts the CA in that file, shows `identity` if asked, and offers
/// `alpn`.
pub fn client(ca: &Path, identity: Option<&Pair>, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_file(&pair.cert).unwrap()];
            let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}
