//! `firehose doctor`: what is wrong on the way to the Traffic Controller, and what to change.
//!
//! Step by step, each told as soon as it is known: [`probe`] asks, [`judge`] says what the answers
//! mean, [`report`] has the words. A step that fails ends only what stands on it.

mod answer;
mod finding;
mod judge;
mod probe;
mod report;
mod wire;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use firehose_client::{BadRequest, CONNECT_DEADLINE, Filter};
use futures::future::join_all;
use http::{HeaderValue, Uri};
use proto::request::{AppGuid, Request, SubscriptionId};

use crate::args::Doctor;
use crate::exit::{Failure, chain};
use crate::notes::Notes;
use crate::output;
use crate::platform::{self, Place};
use answer::Spoke;
use judge::Credential;
use probe::{Handshake, Knock, Open, Target, Trusted, Upgraded};
use report::{Check, Report, Step};

/// Addresses of a name that are looked at.
const MOST_ADDRESSES: usize = 8;

/// Ports that balancers of Cloud Foundry have for WebSockets.
const USUAL_PORTS: [u16; 3] = [443, 4443, 8443];

/// How long a stream is kept in which we say nothing: 25 s. After 30 s without an answer to its
/// ping the Traffic Controller would end it, and nothing would be learnt of the balancer.
const SILENT: Duration = Duration::from_secs(25);

/// Looks at everything, and prints what it is; what was found is a failure.
pub(crate) async fn doctor(doctor: Doctor, notes: Notes) -> Result<(), Failure> {
    let place = platform::place(&doctor.server, doctor.app.as_deref(), &notes).await?;
    let within = match doctor.server.connect_timeout {
        Duration::ZERO => CONNECT_DEADLINE,
        within => within,
    };
    let target = target(&place, within)?;
    let scheme = if target.tls.is_some() { "wss" } else { "ws" };
    let endpoint = format!("{scheme}://{}", target.authority);
    let mut visit = Visit {
        report: Report::new(&endpoint),
        json: doctor.json,
        idle: doctor.idle,
        target,
        place,
    };
    if !visit.json {
        output::write_all(visit.report.head().as_bytes())?;
    }
    visit.look().await?;
    let end = match visit.json {
        true => visit.report.json(),
        false => visit.report.sum(),
    };
    output::write_all(end.as_bytes())?;
    match visit.report.found() {
        0 => Ok(()),
        found => Err(Failure::Findings { found, endpoint }),
    }
}

/// What a URL that a client takes says. `platform` has looked at it.
fn target(place: &Place, within: Duration) -> Result<Target, Failure> {
    let uri: Uri = (place.endpoint.trim().parse()).map_err(|_| Failure::Panicked)?;
    let tls = matches!(uri.scheme_str(), Some("wss" | "https"));
    let host = uri.host().ok_or(Failure::Panicked)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Ok(Target::new(tls, host, port, &place.trust, within)?)
}

/// One run.
struct Visit {
    report: Report,
    json: bool,
    idle: Duration,
    target: Target,
    place: Place,
}

/// An address to go on with.
#[derive(Clone, Copy)]
struct Usable {
    at: SocketAddr,
    /// Whether its certificate is good, or nobody asked for one.
    good: bool,
}

impl Visit {
    fn tell(&mut self, check: Check) -> Result<(), Failure> {
        let words = self.report.add(check);
        match self.json {
            true => Ok(()),
            false => output::write_all(words.as_bytes()),
        }
    }

    async fn look(&mut self) -> Result<(), Failure> {
        let open = self.addresses().await?;
        let Some(usable) = self.tls(&open).await? else {
            return Ok(());
        };
        let Some(plain) = self.http(usable).await? else {
            let said = "not asked: there is no Traffic Controller to ask";
            return self.tell(Check::unknown(Step::Upgrade, said));
        };
        let (credential, token) = self.credential(usable).await;
        let upgraded = match self.upgrade(usable, &token).await {
            Ok(upgraded) => upgraded,
            Err(check) => return self.tell(check),
        };
        let app = self.place.app.is_some();
        self.tell(judge::upgrade(&upgraded, &credential, app))?;
        let Upgraded::Open(mut stream) = upgraded else {
            return Ok(());
        };
        let tls = self.target.tls.is_some();
        for check in judge::forwarded(stream.seen.as_deref(), stream.us, tls) {
            self.tell(check)?;
        }
        let pings = stream.pings(self.target.within).await;
        self.tell(judge::pings(&pings, plain))?;
        match pings.ended {
            Some(_) => Ok(()),
            None => self.idle(usable, &token, stream).await,
        }
    }

    /// The addresses where somebody listens.
    async fn addresses(&mut self) -> Result<Vec<SocketAddr>, Failure> {
        let found = self.target.addresses().await;
        self.tell(judge::dns(&self.target.host, &found))?;
        let mut addresses = found.unwrap_or_default();
        addresses.truncate(MOST_ADDRESSES);
        let knocks = join_all(addresses.iter().map(|at| self.target.knock(*at))).await;
        let mut open = Vec::new();
        for (at, knock) in addresses.into_iter().zip(knocks) {
            let elsewhere = match &knock {
                Knock::Open(_) => {
                    open.push(at);
                    Vec::new()
                }
                _ => self.elsewhere(at).await,
            };
            self.tell(judge::tcp(at, &knock, &elsewhere))?;
        }
        Ok(open)
    }

    /// Usual ports of that address where somebody listens.
    async fn elsewhere(&self, at: SocketAddr) -> Vec<u16> {
        let others = USUAL_PORTS.into_iter().filter(|port| *port != at.port());
        let knock = async |port| {
            let knock = self.target.knock(SocketAddr::new(at.ip(), port)).await;
            matches!(knock, Knock::Open(_)).then_some(port)
        };
        let found = join_all(others.map(knock)).await;
        found.into_iter().flatten().collect()
    }

    /// The address to go on with: the first that is as it should be, else the first that speaks
    /// TLS at all.
    async fn tls(&mut self, open: &[SocketAddr]) -> Result<Option<Usable>, Failure> {
        let Some(tls) = &self.target.tls else {
            let first = open.first();
            return Ok(first.map(|at| Usable {
                at: *at,
                good: true,
            }));
        };
        let unchecked = tls.unchecked;
        let handshakes = join_all(open.iter().map(|at| self.target.handshake(*at))).await;
        let mut usable: Option<Usable> = None;
        for (at, handshake) in open.iter().copied().zip(handshakes) {
            let Some(handshake) = handshake else {
                continue;
            };
            let now = SystemTime::now();
            for check in judge::tls(at, &self.target.host, &handshake, unchecked, now) {
                self.tell(check)?;
            }
            if let Handshake::Made {
                distrust,
                http1: Ok(_),
                ..
            } = handshake
            {
                let good = distrust.is_none() || unchecked;
                if usable.is_none_or(|it| good && !it.good) {
                    usable = Some(Usable { at, good });
                }
            }
        }
        Ok(usable)
    }

    /// How long a Traffic Controller's answer to a plain request took; `None` if none answered.
    async fn http(&mut self, usable: Usable) -> Result<Option<Duration>, Failure> {
        let at = usable.at;
        let connect = async || {
            let connected = self.target.connect(at, self.trusted(usable)).await;
            connected.map_err(|unmade| {
                let said = format!("{at} cannot be connected to again: {}", unmade.said);
                Check::fault(Step::Http, finding::Finding::HungUp, said)
            })
        };
        let stream = match connect().await {
            Ok(stream) => stream,
            Err(check) => return self.tell(check).map(|()| None),
        };
        let (spoke, took) = self.target.plainly(stream).await;
        let ours = judge::is_ours(&spoke);
        let plain = self.target.tls.is_none();
        // Whoever answers HTTP takes no TLS, but for a 400 that says so.
        let other = match &spoke {
            Spoke::Http(answer) => answer.status == 400 && !ours,
            _ => true,
        };
        let tls = plain && other && self.target.takes_tls(at).await;
        let http2 = match (&spoke, ours || tls) {
            (Spoke::Http(_), _) | (_, true) => false,
            _ => match connect().await {
                Ok(stream) => self.target.takes_http2(stream).await,
                Err(_) => false,
            },
        };
        self.tell(judge::http(at, &spoke, took, http2, tls))?;
        Ok(ours.then_some(took))
    }

    /// Whom a connection trusts. Without a good certificate nothing is sent that others may not
    /// read.
    fn trusted(&self, usable: Usable) -> Trusted {
        let unchecked = self.target.tls.as_ref().is_some_and(|tls| tls.unchecked);
        match usable.good && !unchecked {
            true => Trusted::Checked,
            false => Trusted::Anyone,
        }
    }

    async fn credential(&self, usable: Usable) -> (Credential, Option<HeaderValue>) {
        let withheld = |why: String| (Credential::Withheld(why), None);
        match &self.place.token {
            None => (Credential::None, None),
            Some(_) if !usable.good => withheld("the certificate is not good".into()),
            Some(token) => match token.authorization().await {
                Ok(value) => (Credential::Shown, Some(value)),
                Err(error) => withheld(chain(&error)),
            },
        }
    }

    /// A WebSocket, or why none was asked for.
    async fn upgrade(
        &self,
        usable: Usable,
        token: &Option<HeaderValue>,
    ) -> Result<Upgraded, Check> {
        let path = self
            .path()
            .map_err(|bad| Check::unknown(Step::Upgrade, bad.to_string()))?;
        let stream = self.target.connect(usable.at, self.trusted(usable)).await;
        Ok(match stream {
            Ok(stream) => self.target.upgrade(stream, &path, token.as_ref()).await,
            Err(unmade) => Upgraded::Broken(unmade.said),
        })
    }

    /// What to read: the app, or the logs of the firehose under an id that nobody else has.
    fn path(&self) -> Result<String, BadRequest> {
        let request = match &self.place.app {
            Some(app) => Request::AppStream {
                app: AppGuid::new(app)?,
                recent: None,
            },
            None => Request::Firehose {
                subscription: SubscriptionId::new(&format!(
                    "firehose-doctor-{:08x}",
                    fastrand::u32(..)
                ))?,
                filter: Filter::Logs,
            },
        };
        Ok(request.path())
    }

    /// Whether a stream with nothing to say is cut.
    async fn idle(
        &mut self,
        usable: Usable,
        token: &Option<HeaderValue>,
        stream: Open,
    ) -> Result<(), Failure> {
        if self.idle.is_zero() {
            stream.wire.close().await;
            let said = "not looked at: --idle 30 tells whether a balancer cuts quiet streams";
            return self.tell(Check::unknown(Step::Idle, said));
        }
        let silent = async {
            match self.upgrade(usable, token).await {
                Ok(Upgraded::Open(open)) => Some(open.watch(self.idle.min(SILENT), false).await),
                _ => None,
            }
        };
        let talking = stream.watch(self.idle, true);
        let (talking, silent) = tokio::join!(talking, silent);
        for check in judge::idle(&talking, silent.as_ref()) {
            self.tell(check)?;
        }
        Ok(())
    }
}
