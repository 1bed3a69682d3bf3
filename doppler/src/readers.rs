//! Who may read: the holders of certain certificates. Any certificate of the CA may write.
//!
//! In comes what a connection's TLS said of its peer; out comes permission, or a refusal that
//! says what to change. For whatever carries envelopes out of this process.

use crate::metrics::Metrics;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::warn;
use transport::listener::Stream;

/// Names that are logged of readers that should not be, each once: the CA decides how many
/// there are, and a log line for each is enough to plan a migration.
const MOST_TOLD: usize = 100;

/// Names of one certificate that a refusal lists.
const MOST_LISTED: usize = 8;

/// The rule.
#[derive(Clone)]
pub struct Readers {
    /// A certificate needs one of these as DNS SAN.
    names: Arc<[String]>,
    /// Others are let in too, and told of.
    report_only: bool,
    told: Arc<Mutex<HashSet<String>>>,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Somebody on this machine, over plain text: has no role, and may do all.
    Local,
    /// The holder of a certificate with these DNS names; there may be none.
    Named(Vec<String>),
}

/// A peer that may write and wanted to read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "your certificate may write here and not read: it has {have}, and reading takes one of the \
     DNS SANs {needed:?}, which are set by DOPPLER_READERS (--readers)"
)]
pub struct MayNotRead {
    have: String,
    needed: Vec<String>,
}

impl Peer {
    /// Who is at the other end of an accepted stream.
    pub fn of(stream: &Stream) -> Peer {
        match stream.is_plain() {
            true => Peer::Local,
            false => Peer::Named(stream.dns_names()),
        }
    }
}

impl Readers {
    /// Only certificates with one of `names`; with `report_only` all others too, logged once
    /// and counted.
    pub fn new(names: &[String], report_only: bool) -> Readers {
        let names = names.iter().filter(|name| !name.is_empty());
        Readers {
            names: names.cloned().collect(),
            report_only,
            told: Arc::default(),
        }
    }

    /// Whether `peer` may read. Asked for every request to read; counts those that may not.
    pub fn admit(&self, peer: &Peer) -> Result<(), MayNotRead> {
        let Peer::Named(have) = peer else {
            return Ok(());
        };
        // A SAN is compared as it is, in any capitalisation (RFC 5280 §7.2): `*` is no name.
        let listed = |name: &String| self.names.iter().any(|one| one.eq_ignore_ascii_case(name));
        if have.iter().any(listed) {
            return Ok(());
        }
        let have = match have.as_slice() {
            [] => "no DNS SAN".to_owned(),
            names => format!("the DNS SANs {:?}", &names[..names.len().min(MOST_LISTED)]),
        };
        Metrics::not_a_reader(self.report_only);
        if !self.report_only {
            return Err(MayNotRead {
                have,
                needed: self.names.to_vec(),
            });
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MOST_TOLD && told.insert(have.clone()) {
            warn!(
                certificate = have,
                "reads and is not in DOPPLER_READERS; let in because of DOPPLER_REPORT_ONLY_ROLES"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Peer {
        Peer::Named(names.iter().map(|&name| name.to_owned()).collect())
    }

    fn usual(report_only: bool) -> Readers {
        let names = ["trafficcontroller", "reverselogproxy", ""].map(str::to_owned);
        Readers::new(&names, report_only)
    }

    #[test]
    fn a_certificate_reads_with_one_name_of_the_list_and_not_without() {
        let readers = usual(false);
        for peer in [
            Peer::Local,
            named(&["trafficcontroller"]),
            named(&["TrafficController"]),
            named(&["metron", "reverselogproxy"]),
        ] {
            assert_eq!(readers.admit(&peer), Ok(()), "{peer:?}");
        }
        for peer in [
            named(&[]),
            named(&["metron"]),
            named(&["*"]),
            named(&[""]),
            named(&["trafficcontroller.evil"]),
            named(&["*.trafficcontroller"]),
        ] {
            assert!(readers.admit(&peer).is_err(), "{peer:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_certificate_has_and_which_setting_decides() {
        let text = |peer| usual(false).admit(&peer).unwrap_err().to_string();
        let metron = text(named(&["metron"]));
        for says in ["metron", "trafficcontroller", "DOPPLER_READERS"] {
            assert!(metron.contains(says), "{metron}");
        }
        assert!(text(named(&[])).contains("no DNS SAN"));
    }

    #[test]
    fn report_only_lets_everybody_in_and_remembers_a_bounded_number_of_names() {
        let readers = usual(true);
        for n in 0..1_000 {
            assert_eq!(readers.admit(&named(&[&format!("stranger-{n}")])), Ok(()));
        }
        assert_eq!(readers.told.lock().unwrap().len(), MOST_TOLD);
    }
}
