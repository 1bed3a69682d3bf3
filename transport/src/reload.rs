//! Files that are read again when they change, or on SIGHUP.
//!
//! In come paths and how to load what they hold; out come [`Reloaded`] values that always give
//! the last good one. Whoever took a value keeps it, so no stream ends because a file changed.
//!
//! What belongs together (a certificate, its key, the CA) is loaded together and replaced as
//! one, only if all of it is good. Otherwise what was there before stays, and says so: one
//! `error` line, and `reload_failed` is 1 until the files are good again.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge, describe_counter, describe_gauge};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::cause::chain;
use crate::shutdown::{Hangup, Shutdown};
use crate::tls::{self, Identity, Suites, TlsError, Validity};

/// How often files are looked at: 1 s. They are read, not asked for their dates: a mount that
/// swaps a symlink (BOSH, Kubernetes) or restores a date hides nothing then, and a handful of
/// PEM files is read in less time than a handshake takes.
pub const LOOK: Duration = Duration::from_secs(1);

/// A value that may be replaced while the process runs. Clones see the same.
pub struct Reloaded<T>(watch::Receiver<Arc<T>>);

impl<T> Reloaded<T> {
    /// What is good at this moment.
    pub fn now(&self) -> Arc<T> {
        self.0.borrow().clone()
    }
}

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Reloaded<T> {
        Reloaded(self.0.clone())
    }
}

/// Without the value: it may be a key.
impl<T> fmt::Debug for Reloaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reloaded")
    }
}

/// A value that somebody else replaces.
impl<T> From<watch::Receiver<Arc<T>>> for Reloaded<T> {
    fn from(value: watch::Receiver<Arc<T>>) -> Reloaded<T> {
        Reloaded(value)
    }
}

/// A value that stays as it is.
impl<T> From<Arc<T>> for Reloaded<T> {
    fn from(value: Arc<T>) -> Reloaded<T> {
        Reloaded(watch::channel(value).1)
    }
}

/// All files of a process that are looked at again. [`Reload::run`] does it.
#[derive(Default)]
pub struct Reload {
    sets: Vec<Box<dyn Look>>,
}

impl Reload {
    /// No files yet.
    pub fn new() -> Reload {
        describe_gauge!(
            "reload_failed",
            "1 while files cannot be used as they lie there and what was loaded before is kept, by what they are for"
        );
        describe_counter!(
            "reloads_total",
            "Times files were loaded again and taken, by what they are for"
        );
        describe_counter!(
            "reload_failures_total",
            "Times files were loaded again and could not be used, by what they are for"
        );
        describe_gauge!(
            "tls_certificate_not_after_seconds",
            "When a certificate of ours ends, in seconds since 1970, by what it is for"
        );
        Reload::default()
    }

    /// Loads something, and again whenever one of `files` changes. `name` says in logs and
    /// metrics what they are for. An error here is the caller's: there is nothing to keep yet.
    pub fn load<T, E>(
        &mut self,
        name: &'static str,
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<Arc<T>, E> + Send + 'static,
    ) -> Result<Reloaded<T>, E>
    where
        T: Send + Sync + 'static,
        E: std::error::Error + 'static,
    {
        self.watch(name, files, move || Ok((load()?, None)))
    }

    /// As [`tls::server_with`], from files that may change.
    pub fn server(
        &mut self,
        name: &'static str,
        identity: Identity,
        client_ca: Option<PathBuf>,
        alpn: &'static [&'static [u8]],
        suites: Suites,
    ) -> Result<Reloaded<ServerConfig>, TlsError> {
        let mut files = vec![identity.cert.clone(), identity.key.clone()];
        files.extend(client_ca.clone());
        self.watch(name, files, move || {
            let config = tls::server_with(&identity, client_ca.as_deref(), alpn, &suites)?;
            Ok((config, Some(tls::validity(&identity.cert)?)))
        })
    }

    /// As [`tls::client`] with a CA and an identity, from files that may change.
    pub fn client(
        &mut self,
        name: &'static str,
        identity: Identity,
        ca: PathBuf,
        alpn: &'static [&'static [u8]],
    ) -> Result<Reloaded<ClientConfig>, TlsError> {
        let files = vec![identity.cert.clone(), identity.key.clone(), ca.clone()];
        self.watch(name, files, move || {
            let config = tls::client(tls::Roots::Ca(&ca), Some(&identity), alpn)?;
            Ok((config, Some(tls::validity(&identity.cert)?)))
        })
    }

    fn watch<T, E, L>(
        &mut self,
        name: &'static str,
        files: Vec<PathBuf>,
        load: L,
    ) -> Result<Reloaded<T>, E>
    where
        T: Send + Sync + 'static,
        E: std::error::Error + 'static,
        L: Fn() -> Result<(Arc<T>, Option<Validity>), E> + Send + 'static,
    {
        // Before loading: what changes in between is then seen to have changed.
        let loaded = fingerprint(&files);
        let (value, validity) = load()?;
        let (current, reloaded) = watch::channel(value);
        let alarm = metrics::gauge!("reload_failed", "files" => name);
        alarm.set(0.0);
        let mut set = Set {
            name,
            files,
            load,
            current,
            loaded,
            refused: None,
            alarmed: false,
            own: None,
            alarm,
            taken: metrics::counter!("reloads_total", "files" => name),
            failures: metrics::counter!("reload_failures_total", "files" => name),
        };
        set.show(validity);
        self.sets.push(Box::new(set));
        Ok(Reloaded(reloaded))
    }

    /// Looks at all files every [`LOOK`], and loads all of them at each SIGHUP, until
    /// `shutdown` begins.
    pub async fn run(mut self, mut hangup: Hangup, shutdown: Shutdown) {
        let mut every = tokio::time::interval(LOOK);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = every.tick() => false,
                () = hangup.next() => true,
                () = shutdown.begun() => return,
            };
            if asked {
                info!("SIGHUP: loading files again");
            }
            // A disk that hangs must not stop the streams of this thread.
            let looked = tokio::task::spawn_blocking(move || {
                let now = SystemTime::now();
                self.sets.iter_mut().for_each(|set| set.look(asked, now));
                self
            });
            match looked.await {
                Ok(again) => self = again,
                Err(broken) => {
                    error!(%broken, "files are no longer looked at: restart to load them again");
                    return;
                }
            }
        }
    }
}

trait Look: Send {
    /// Loads if the files changed, or if `asked` to.
    fn look(&mut self, asked: bool, now: SystemTime);
}

/// Files that are loaded together.
struct Set<T, L> {
    name: &'static str,
    files: Vec<PathBuf>,
    load: L,
    current: watch::Sender<Arc<T>>,
    /// What the files were when they were last taken.
    loaded: u64,
    /// What they were when they last could not be used.
    refused: Option<u64>,
    alarmed: bool,
    own: Option<Own>,
    alarm: Gauge,
    taken: Counter,
    failures: Counter,
}

/// A certificate of ours.
struct Own {
    validity: Validity,
    warned: bool,
}

impl<T, E, L> Look for Set<T, L>
where
    T: Send + Sync + 'static,
    E: std::error::Error + 'static,
    L: Fn() -> Result<(Arc<T>, Option<Validity>), E> + Send + 'static,
{
    fn look(&mut self, asked: bool, now: SystemTime) {
        let found = fingerprint(&self.files);
        if asked || found != self.loaded || self.refused.is_some() {
            match (self.load)() {
                Ok((value, validity)) => self.take(found, value, validity),
                Err(error) => self.keep(found, asked, &error),
            }
        }
        self.own_in_date(now);
    }
}

impl<T, L> Set<T, L> {
    fn take(&mut self, found: u64, value: Arc<T>, validity: Option<Validity>) {
        self.loaded = found;
        self.refused = None;
        self.alarm.set(0.0);
        self.taken.increment(1);
        if std::mem::take(&mut self.alarmed) {
            info!(files = self.name, "the files are good again, and loaded");
        } else {
            info!(files = self.name, "loaded again");
        }
        self.current.send_replace(value);
        self.show(validity);
    }

    /// What is wrong for one look may be half written: it has until the next one. Somebody
    /// who asked wants to know now.
    fn keep(&mut self, found: u64, asked: bool, error: &(dyn std::error::Error + 'static)) {
        let settled = self.refused.replace(found) == Some(found);
        if !asked && !settled {
            return;
        }
        if self.alarmed && !asked {
            return;
        }
        self.alarmed = true;
        self.alarm.set(1.0);
        self.failures.increment(1);
        error!(
            files = self.name,
            error = chain(error),
            "cannot load changed files: going on with what was loaded before"
        );
    }

    fn show(&mut self, validity: Option<Validity>) {
        let Some(validity) = validity else {
            return;
        };
        metrics::gauge!("tls_certificate_not_after_seconds", "certificate" => self.name)
            .set(validity.not_after as f64);
        self.own = Some(Own {
            validity,
            warned: false,
        });
        self.own_in_date(SystemTime::now());
    }

    /// Warns once of a certificate that nobody will accept.
    fn own_in_date(&mut self, now: SystemTime) {
        let Some(own) = self.own.as_mut().filter(|own| !own.warned) else {
            return;
        };
        if let Err(wrong) = own.validity.at(now) {
            own.warned = true;
            warn!(
                files = self.name,
                not_before = own.validity.not_before,
                not_after = own.validity.not_after,
                "OUR CERTIFICATE IS {wrong}: peers will refuse it; replace it"
            );
        }
    }
}

/// What the files hold, and which of them cannot be read, in one number.
///
/// Not kept from an adversary: whoever can write the files needs no collision.
fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        read(file).hash(&mut hasher);
    }
    hasher.finish()
}

fn read(file: &Path) -> Result<Vec<u8>, std::io::ErrorKind> {
    std::fs::read(file).map_err(|error| error.kind())
}
