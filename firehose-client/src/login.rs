//! A login: tokens that are renewed by themselves.
//!
//! Out goes the token of the moment. A minute before it ends, or when a server refuses it, a new
//! one is asked of UAA: once, however many streams wait for it. A refresh token that UAA refuses
//! is not shown to it again.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use transport::clock::unix_ns;

use crate::cf_cli::{CfCli, CfCliError};
use crate::client::BadSettings;
use crate::token::{RenewalError, TokenError};
use crate::trust::Trust;
use crate::uaa::{Grant, Granted, Uaa, expiry};
use transport::secret::Secret;

/// How long before its end a token is renewed: 60 s. It has to last until the server has asked
/// UAA about it, by clocks that differ.
const AHEAD: Duration = Duration::from_secs(60);

/// How old a token must be for a server's refusal to be believed a matter of age: 30 s. One
/// fresh from UAA that is refused lacks something that the next one would lack too.
const FRESH: Duration = Duration::from_secs(30);

/// Tokens of one user or client, renewed when needed. Clones are the same login: share it among
/// the clients of a program.
#[derive(Clone)]
pub struct Login {
    source: Arc<Source>,
    /// Locked while a renewal is under way: those who come meanwhile wait for it.
    held: Arc<tokio::sync::Mutex<Held>>,
    /// How many renewals have ended.
    renewals: Arc<AtomicU64>,
    unsaved: Arc<Mutex<Option<CfCliError>>>,
}

/// Where new tokens come from.
enum Source {
    Client(Uaa),
    Refresh(Uaa),
    CfCli { uaa: Uaa, cli: Box<CfCli> },
}

#[derive(Default)]
struct Held {
    access: Option<Access>,
    /// What buys the next one.
    refresh: Option<Secret>,
    /// Why the last renewal failed.
    failed: Option<RenewalError>,
}

struct Access {
    token: Secret,
    /// When it ends, if it says so.
    until: Option<Instant>,
    /// When UAA gave it to us; `None` for one that was there before.
    granted: Option<Instant>,
    refused: bool,
}

impl Access {
    fn is_good(&self) -> bool {
        !self.refused && self.until.is_none_or(|end| Instant::now() + AHEAD < end)
    }
}

impl Login {
    /// A UAA client of its own, as nozzles have: `uaa` is its URL, and the client needs the
    /// authority `doppler.firehose` and the grant type `client_credentials`.
    pub fn client_credentials(
        uaa: &str,
        client: &str,
        secret: &str,
        trust: &Trust,
    ) -> Result<Login, BadSettings> {
        let uaa = Uaa::new(uaa, client, Secret::new(secret), trust)?;
        Ok(Login::new(Source::Client(uaa), Held::default()))
    }

    /// A user's login of which we have a refresh token. `client` is whom UAA gave it to: `cf`
    /// and no secret if it comes from the cf CLI.
    pub fn refresh_token(
        uaa: &str,
        client: &str,
        secret: &str,
        refresh_token: &str,
        trust: &Trust,
    ) -> Result<Login, BadSettings> {
        let uaa = Uaa::new(uaa, client, Secret::new(secret), trust)?;
        let held = Held {
            refresh: Some(Secret::new(refresh_token)),
            ..Held::default()
        };
        Ok(Login::new(Source::Refresh(uaa), held))
    }

    /// The login of the cf CLI. It stays one login: what we renew is written back to its file,
    /// and what the cf CLI renews is used by us.
    pub fn cf_cli(cli: &CfCli, trust: &Trust) -> Result<Login, LoginError> {
        cli.logged_in()?;
        let uaa = Uaa::new(&cli.uaa, &cli.client, cli.client_secret.clone(), trust)?;
        let held = Held {
            access: there_before(cli),
            ..Held::default()
        };
        let cli = Box::new(cli.clone());
        Ok(Login::new(Source::CfCli { uaa, cli }, held))
    }

    fn new(source: Source, held: Held) -> Login {
        Login {
            source: Arc::new(source),
            held: Arc::new(tokio::sync::Mutex::new(held)),
            renewals: Arc::default(),
            unsaved: Arc::default(),
        }
    }

    /// A token that is good as far as we know, without `bearer`.
    pub(crate) async fn token(&self) -> Result<Secret, TokenError> {
        let renewals = self.renewals.load(Ordering::Acquire);
        let mut held = self.held.clone().lock_owned().await;
        if let Some(access) = held.access.as_ref().filter(|access| access.is_good()) {
            return Ok(access.token.clone());
        }
        // One that ended while we waited was ours too.
        if let Some(failed) = &held.failed
            && self.renewals.load(Ordering::Acquire) != renewals
        {
            return Err(failed.clone().into());
        }
        // Whoever waits may give up. The renewal goes on: UAA may have given away the only
        // refresh token there will be.
        let login = self.clone();
        let renewal = tokio::spawn(async move {
            let renewed = login.renew(&mut held).await;
            held.failed = renewed.as_ref().err().cloned();
            login.renewals.fetch_add(1, Ordering::Release);
            renewed
        });
        let renewed = renewal.await.unwrap_or(Err(RenewalError::Interrupted));
        Ok(renewed?)
    }

    /// Tells that a server refused `token`. Whether there may be a better one.
    pub(crate) async fn refused(&self, token: &Secret) -> bool {
        let mut held = self.held.lock().await;
        match &mut held.access {
            Some(access) if access.token == *token => {
                let fresh = access.granted.is_some_and(|at| at.elapsed() < FRESH);
                access.refused |= !fresh;
                !fresh
            }
            _ => true,
        }
    }

    /// Why the last renewal could not be written back, told once.
    pub(crate) fn take_unsaved(&self) -> Option<CfCliError> {
        let mut unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        unsaved.take()
    }

    async fn renew(&self, held: &mut Held) -> Result<Secret, RenewalError> {
        match &*self.source {
            Source::Client(uaa) => {
                let granted = uaa.ask(Grant::ClientCredentials).await?;
                Ok(held.keep(granted))
            }
            Source::Refresh(uaa) => {
                // Not granted once is not granted ever: there will be no other.
                if let Some(failed @ RenewalError::NotGranted { .. }) = &held.failed {
                    return Err(failed.clone());
                }
                let refresh = held.refresh.clone().unwrap_or(Secret::new(""));
                let granted = uaa.ask(Grant::Refresh(&refresh)).await?;
                held.refresh = granted.refresh.clone().or(Some(refresh));
                Ok(held.keep(granted))
            }
            Source::CfCli { uaa, cli } => self.renew_with_cf_cli(uaa, cli, held).await,
        }
    }

    /// The cf CLI may have renewed before us, or while we did: its file has the last word.
    async fn renew_with_cf_cli(
        &self,
        uaa: &Uaa,
        cli: &CfCli,
        held: &mut Held,
    ) -> Result<Secret, RenewalError> {
        loop {
            let now = read_again(cli).await?;
            let known = held.access.as_ref().map(|access| &access.token);
            if known != Some(&now.access)
                && let Some(other) = there_before(&now).filter(Access::is_good)
            {
                let token = other.token.clone();
                held.access = Some(other);
                return Ok(token);
            }
            let by_client = now.by_client_credentials && now.refresh.is_empty();
            // What was refused is not tried again, unless the cf CLI has put another one there.
            if let Some(failed @ RenewalError::NotGranted { .. }) = &held.failed
                && held.refresh.as_ref() == Some(&now.refresh)
            {
                return Err(failed.clone());
            }
            held.refresh = Some(now.refresh.clone());
            let grant = match by_client {
                true => Grant::ClientCredentials,
                false if now.refresh.is_empty() => {
                    let target = now.api().unwrap_or_default().to_owned();
                    return Err(CfCliError::NotLoggedIn { target }.into());
                }
                false => Grant::Refresh(&now.refresh),
            };
            match uaa.ask(grant).await {
                Ok(granted) => {
                    let next = granted.refresh.clone().unwrap_or(now.refresh.clone());
                    self.save(now, granted.access.clone(), next).await;
                    return Ok(held.keep(granted));
                }
                // Once more round, where only another refresh token gets past this place.
                Err(failed @ RenewalError::NotGranted { .. }) => held.failed = Some(failed),
                Err(failed) => return Err(failed),
            }
        }
    }

    async fn save(&self, cli: CfCli, access: Secret, refresh: Secret) {
        let saving = tokio::task::spawn_blocking(move || cli.save(&access, &refresh));
        if let Ok(Err(error)) = saving.await {
            *self.unsaved.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }
}

impl Held {
    fn keep(&mut self, granted: Granted) -> Secret {
        let now = Instant::now();
        self.access = Some(Access {
            token: granted.access.clone(),
            until: match granted.lifetime {
                // Whatever our clock says.
                Some(lifetime) => now.checked_add(lifetime),
                None => end_of(&granted.access),
            },
            granted: Some(now),
            refused: false,
        });
        granted.access
    }
}

async fn read_again(cli: &CfCli) -> Result<CfCli, RenewalError> {
    let cli = cli.clone();
    let read = tokio::task::spawn_blocking(move || cli.read_again()).await;
    Ok(read.map_err(|_| RenewalError::Interrupted)??)
}

fn there_before(cli: &CfCli) -> Option<Access> {
    (!cli.access.is_empty()).then(|| Access {
        token: cli.access.clone(),
        until: end_of(&cli.access),
        granted: None,
        refused: false,
    })
}

fn end_of(token: &Secret) -> Option<Instant> {
    let end = expiry(token.reveal())?;
    let now = u64::try_from(unix_ns()).unwrap_or_default() / 1_000_000_000;
    // So far away that no clock has it is the same as never.
    Instant::now().checked_add(Duration::from_secs(end.saturating_sub(now)))
}

/// Why a login cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// There is none.
    #[error(transparent)]
    CfCli(#[from] CfCliError),
    /// Its UAA cannot be asked.
    #[error(transparent)]
    Settings(#[from] BadSettings),
}

/// Never shows a token.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.source {
            Source::Client(_) => "Login(client credentials)",
            Source::Refresh(_) => "Login(refresh token)",
            Source::CfCli { .. } => "Login(cf CLI)",
        })
    }
}
