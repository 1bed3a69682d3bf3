//! What was seen goes in, what it means comes out: no socket, and no clock but the time given.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use transport::shown::{Certificate, Shown, Why};
use transport::tls::OutOfDate;

use super::answer::{Answer, Spoke, Who, clean};
use super::finding::Finding;
use super::probe::{Ended, Handshake, Knock, Pings, Unmade, Upgraded, Watched};
use super::report::{Check, Step};

/// A certificate with fewer days than this is worth a warning: 14, which is less than any
/// automatic renewal leaves, and enough to do it by hand.
const SOON_DAYS: i64 = 14;

/// What an idle limit has to be longer than: 15 s after the last answer a Traffic Controller
/// pings, and then there is the way there and back.
const PING_COMES: Duration = Duration::from_millis(15_500);

/// An answer is late if it takes longer than this, and ten times longer than one to a plain
/// request.
const LATE: Duration = Duration::from_millis(500);

/// A stream was quiet if nothing was said for so long.
const QUIET: Duration = Duration::from_secs(1);

/// Names of a certificate that are shown.
const NAMES: usize = 5;

/// What we have shown with the request for a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    Shown,
    /// There is none.
    None,
    /// There is one, and this is why it was not shown.
    Withheld(String),
}

pub(super) fn dns(host: &str, found: &Result<Vec<SocketAddr>, String>) -> Check {
    match found {
        Ok(all) if all.is_empty() => Check::fault(
            Step::Dns,
            Finding::NoAddress,
            format!("{host} has no address"),
        ),
        Ok(_) if host.parse::<IpAddr>().is_ok() => {
            Check::ok(Step::Dns, format!("{host} is an address: nobody was asked"))
        }
        Ok(all) => {
            let all: Vec<_> = all.iter().map(|at| at.ip().to_string()).collect();
            Check::ok(Step::Dns, format!("{host} is {}", all.join(" and ")))
        }
        Err(error) => Check::fault(
            Step::Dns,
            Finding::NoAddress,
            format!("{host} is not known: {}", clean(error)),
        ),
    }
}

/// `elsewhere` are other ports of that address where somebody listens.
pub(super) fn tcp(at: SocketAddr, knock: &Knock, elsewhere: &[u16]) -> Check {
    let elsewhere = match elsewhere {
        [] => String::new(),
        ports => {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            format!("; somebody listens on port {}", ports.join(" and "))
        }
    };
    match knock {
        Knock::Open(took) => Check::ok(Step::Tcp, format!("{at} answers in {}", time(*took))),
        Knock::Refused => Check::fault(
            Step::Tcp,
            Finding::PortClosed,
            format!("{at} refuses connections: nobody listens there{elsewhere}"),
        ),
        Knock::Silent => Check::fault(
            Step::Tcp,
            Finding::AddressSilent,
            format!("{at} does not answer{elsewhere}"),
        ),
        Knock::Failed(error) => Check::fault(
            Step::Tcp,
            Finding::AddressSilent,
            format!("{at} cannot be reached: {}{elsewhere}", clean(error)),
        ),
    }
}

/// The certificate and the protocols of one address. `unchecked`: the user wants no certificate
/// checked.
pub(super) fn tls(
    at: SocketAddr,
    host: &str,
    handshake: &Handshake,
    unchecked: bool,
    now: SystemTime,
) -> Vec<Check> {
    match handshake {
        Handshake::Failed { unmade, plain } => vec![no_tls(at, unmade, plain)],
        Handshake::Made {
            shown,
            distrust,
            http1,
        } => {
            let mut checks = certificate(at, host, shown, distrust.as_ref(), unchecked, now);
            checks.push(alpn(at, shown, http1));
            checks
        }
    }
}

fn no_tls(at: SocketAddr, unmade: &Unmade, plain: &Spoke) -> Check {
    let fault = |finding, said: String| Check::fault(Step::Tls, finding, said);
    let said = clean(&unmade.said);
    match (plain, unmade.why) {
        (Spoke::Http(answer), _) => fault(
            Finding::PlainOnTlsPort,
            format!("{at} speaks HTTP without TLS ({})", answer.told()),
        ),
        (Spoke::Http2, _) => fault(
            Finding::PlainOnTlsPort,
            format!("{at} speaks HTTP/2 without TLS"),
        ),
        (_, Why::Version) => fault(
            Finding::TlsVersion,
            format!("{at} has no version or cipher suite of TLS in common with us: {said}"),
        ),
        (Spoke::Other(words), _) => fault(
            Finding::NotTls,
            format!("{at} speaks neither TLS nor HTTP: {words:?}"),
        ),
        (Spoke::HungUp, Why::Ended) => fault(
            Finding::HungUp,
            format!("{at} takes connections and hangs up, whatever is said"),
        ),
        (Spoke::Silent, Why::Late) => fault(
            Finding::Unanswered,
            format!("{at} takes connections and says nothing"),
        ),
        (_, Why::Late) => fault(
            Finding::TlsFailed,
            format!("{at} did not go on with the TLS handshake"),
        ),
        _ => fault(
            Finding::TlsFailed,
            format!("the TLS handshake with {at} failed: {said}"),
        ),
    }
}

fn certificate(
    at: SocketAddr,
    host: &str,
    shown: &Shown,
    distrust: Option<&Unmade>,
    unchecked: bool,
    now: SystemTime,
) -> Vec<Check> {
    let Some(leaf) = shown.chain.first() else {
        let said = format!("the certificate of {at} cannot be read");
        return vec![Check::fault(Step::Tls, Finding::CertificateBad, said)];
    };
    let whose = format!(
        "{at}: {}, certificate for {}, signed by {}",
        shown.version,
        names(leaf),
        clean(&leaf.issuer)
    );
    let days = days(leaf, now);
    let mut found: Vec<(Finding, String)> = Vec::new();
    let mut add = |finding: Finding, said: String| {
        if found.iter().all(|(it, _)| *it != finding) {
            found.push((finding, said));
        }
    };
    // Whoever checks stops at the first mistake; a person wants to know all.
    match leaf.validity.at(now) {
        Err(OutOfDate::Late) => add(
            Finding::CertificateExpired,
            format!("{whose}: expired {} days ago", -days),
        ),
        Err(OutOfDate::Early) => add(Finding::CertificateNotYet, format!("{whose}: not good yet")),
        Ok(()) => {}
    }
    if !fits(leaf, host) {
        add(
            Finding::CertificateName,
            format!("{whose}: not good for {host}"),
        );
    }
    if let Some(unmade) = distrust {
        let said = clean(&unmade.said);
        match unmade.why {
            Why::Expired => add(
                Finding::CertificateExpired,
                format!("{whose}: one of those it stands on has expired"),
            ),
            Why::NotYet => add(
                Finding::CertificateNotYet,
                format!("{whose}: one of those it stands on is not good yet"),
            ),
            Why::Name => add(
                Finding::CertificateName,
                format!("{whose}: not good for {host}"),
            ),
            Why::Issuer => {
                let with = match shown.chain.len() {
                    _ if leaf.issuer == leaf.subject => "; it signed itself".to_owned(),
                    1 => "; it sends no certificate of a CA with it".to_owned(),
                    more => format!("; it sends {} certificates with it", more - 1),
                };
                add(
                    Finding::CertificateIssuer,
                    format!("{whose}, whom we do not trust{with}"),
                );
            }
            Why::Certificate => add(Finding::CertificateBad, format!("{whose}: {said}")),
            // Not about the certificate, and without checking it the handshake came to be.
            why => add(
                Finding::TlsFailed,
                format!("{whose}: the handshake failed the second time ({why:?}: {said})"),
            ),
        }
    }
    if found.is_empty() {
        let said = format!("{whose}, good for {days} days");
        return vec![match days < SOON_DAYS {
            true => Check::warning(Step::Tls, Finding::CertificateSoon, said),
            false => Check::ok(Step::Tls, said),
        }];
    }
    let found = found.into_iter();
    found
        .map(|(finding, said)| match unchecked {
            true => Check::warning(
                Step::Tls,
                finding,
                format!("{said}; going on, as no certificate is to be checked"),
            ),
            false => Check::fault(Step::Tls, finding, said),
        })
        .collect()
}

fn alpn(at: SocketAddr, shown: &Shown, http1: &Result<Option<String>, Unmade>) -> Check {
    let both = shown.alpn.as_deref();
    match http1 {
        Ok(Some(chosen)) if both == Some("h2") => Check::ok(
            Step::Alpn,
            format!("{at} takes {chosen} from those who offer that alone, as clients do; else h2"),
        ),
        Ok(Some(chosen)) => Check::ok(Step::Alpn, format!("{at} takes {}", clean(chosen))),
        Ok(None) => Check::ok(
            Step::Alpn,
            match both {
                Some(both) => format!(
                    "{at} chooses nothing where http/1.1 alone is offered, and {} where h2 is",
                    clean(both)
                ),
                None => format!("{at} chooses nothing: HTTP/1.1 is what that means"),
            },
        ),
        Err(unmade) if unmade.why == Why::Protocol || both == Some("h2") => Check::fault(
            Step::Alpn,
            Finding::Http2Only,
            format!(
                "{at} takes h2 and refuses those who offer http/1.1 alone, as clients do: {}",
                clean(&unmade.said)
            ),
        ),
        Err(unmade) => Check::fault(
            Step::Alpn,
            Finding::TlsFailed,
            format!(
                "{at} failed where http/1.1 alone was offered: {}",
                clean(&unmade.said)
            ),
        ),
    }
}

/// What it means that a plain request was answered like this. `http2` and `tls`: what whoever is
/// there takes else.
pub(super) fn http(at: SocketAddr, spoke: &Spoke, took: Duration, http2: bool, tls: bool) -> Check {
    let fault = |finding, said: String| Check::fault(Step::Http, finding, said);
    if *spoke == Spoke::Tls || tls {
        return fault(
            Finding::TlsOnPlainPort,
            format!("{at} speaks TLS, and the URL says plain text"),
        );
    }
    if *spoke == Spoke::Http2 || http2 {
        return fault(
            Finding::Http2Only,
            format!("{at} speaks HTTP/2, and nothing else"),
        );
    }
    let answer = match spoke {
        Spoke::Http(answer) => answer,
        Spoke::Silent => {
            return fault(
                Finding::Unanswered,
                format!("{at} does not answer a request within {}", time(took)),
            );
        }
        Spoke::HungUp => {
            return fault(
                Finding::HungUp,
                format!("{at} hangs up on a request without an answer"),
            );
        }
        Spoke::Other(words) => {
            return fault(
                Finding::NotHttp,
                format!("{at} does not speak HTTP: {words:?}"),
            );
        }
        // Both are dealt with above.
        Spoke::Http2 | Spoke::Tls => return Check::unknown(Step::Http, "not HTTP/1.1"),
    };
    let (who, told) = (answer.who(), answer.told());
    let who_words = who.words();
    let error = answer.header("x-cf-routererror");
    match (&who, answer.status) {
        (Who::TrafficController, _) => Check::ok(
            Step::Http,
            format!(
                "a Traffic Controller answers in {} ({})",
                time(took),
                answer.status
            ),
        ),
        (Who::Gorouter, 404) if error == Some("unknown_route") => fault(
            Finding::UnknownRoute,
            format!("gorouter has no route for this host ({told})"),
        ),
        (_, 300..=399) => fault(
            Finding::Redirected,
            format!("{who_words} sends us elsewhere ({told})"),
        ),
        (_, 502..=504) => fault(
            Finding::NoBackend,
            format!("{who_words} answers in place of a Traffic Controller ({told})"),
        ),
        (_, 400) if answer.body.contains("HTTPS port") => fault(
            Finding::TlsOnPlainPort,
            format!("{who_words} says that this port speaks TLS ({told})"),
        ),
        _ => fault(
            Finding::NotOurs,
            format!("{who_words} answers, who is no Traffic Controller ({told})"),
        ),
    }
}

/// Whether a plain request was answered by a Traffic Controller.
pub(super) fn is_ours(spoke: &Spoke) -> bool {
    matches!(spoke, Spoke::Http(answer) if answer.who() == Who::TrafficController)
}

/// After a Traffic Controller has answered the same without `Upgrade`. `app`: an app was asked for,
/// not a firehose.
pub(super) fn upgrade(upgraded: &Upgraded, credential: &Credential, app: bool) -> Check {
    let fault = |finding, said: String| Check::fault(Step::Upgrade, finding, said);
    match upgraded {
        Upgraded::Open(open) => Check::ok(Step::Upgrade, format!("101 in {}", time(open.took))),
        Upgraded::Altered(what) => fault(
            Finding::UpgradeAltered,
            format!("101, and it is no handshake: {what}"),
        ),
        Upgraded::Unanswered => fault(
            Finding::UpgradeUnanswered,
            "a request with Upgrade is not answered".to_owned(),
        ),
        Upgraded::Broken(words) => fault(
            Finding::UpgradeBroken,
            format!(
                "a request with Upgrade ends the connection: {}",
                clean(words)
            ),
        ),
        Upgraded::Answered(answer) => refused(answer, credential, app),
    }
}

fn refused(answer: &Answer, credential: &Credential, app: bool) -> Check {
    let fault = |finding, said: String| Check::fault(Step::Upgrade, finding, said);
    let (who, told) = (answer.who(), answer.told());
    let shown = *credential == Credential::Shown;
    // An empty answer of somebody who does not name himself: a Traffic Controller's.
    let ours = who == Who::Unknown && answer.body.trim().is_empty();
    if answer.header("x-cf-routererror") == Some("route_service_unsupported") {
        return fault(
            Finding::RouteService,
            format!("gorouter passes no WebSocket on this route ({told})"),
        );
    }
    if answer.misses_the_upgrade() {
        return fault(
            Finding::UpgradeLost,
            format!("the Traffic Controller got the request without Upgrade ({told})"),
        );
    }
    match answer.status {
        401 if answer.asks_for_a_token() || ours => match credential {
            Credential::Shown => fault(
                Finding::TokenRefused,
                format!("the Traffic Controller refuses the token ({told})"),
            ),
            Credential::None => Check::unknown(
                Step::Upgrade,
                "401, as without Upgrade: only with a token that may read can it be seen whether \
                 Upgrade comes through; give --token or --token-file",
            ),
            Credential::Withheld(why) => Check::unknown(
                Step::Upgrade,
                format!("401, as without Upgrade: the token was not shown, as {why}"),
            ),
        },
        404 if app && shown && ours => fault(
            Finding::AppNotFound,
            format!("the Traffic Controller knows no such app ({told})"),
        ),
        503 if ours && answer.header("retry-after").is_some() => Check::warning(
            Step::Upgrade,
            Finding::AuthorityDown,
            format!("the Traffic Controller cannot find out who may read ({told})"),
        ),
        _ => fault(
            Finding::UpgradeRefused,
            format!("{} answers a request with Upgrade: {told}", who.words()),
        ),
    }
}

/// What a Traffic Controller says it sees of us, in its header `X-Loggregator-Seen`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Seen {
    /// Who connected to it.
    peer: Option<IpAddr>,
    /// Whom it takes for the client.
    client: Option<IpAddr>,
    /// The headers, as they came.
    x_forwarded_for: Option<String>,
    x_forwarded_proto: Option<String>,
    /// Whether the connection began with PROXY protocol.
    proxy_protocol: bool,
}

/// `us`: our address in that connection. `tls`: whether we came by TLS.
pub(super) fn forwarded(seen: Option<&str>, us: Option<IpAddr>, tls: bool) -> Vec<Check> {
    let Some(seen) = seen else {
        return vec![Check::unknown(
            Step::Forwarded,
            "this Traffic Controller does not tell what forwarded headers it gets",
        )];
    };
    let Ok(seen) = serde_json::from_str::<Seen>(seen) else {
        return vec![Check::unknown(
            Step::Forwarded,
            format!(
                "what it says of forwarded headers is not known here: {}",
                clean(seen)
            ),
        )];
    };
    let canonical = |ip: Option<IpAddr>| ip.map(|ip| ip.to_canonical());
    let (peer, client) = (canonical(seen.peer), canonical(seen.client));
    let peer_words = peer.map_or("somebody".to_owned(), |peer| peer.to_string());
    let given = seen.x_forwarded_for.as_deref().unwrap_or_default();
    let proto = seen.x_forwarded_proto.as_deref().unwrap_or_default();
    let mut checks = Vec::new();
    if seen.proxy_protocol {
        let client = client.map_or("somebody".to_owned(), |client| client.to_string());
        checks.push(Check::ok(
            Step::Forwarded,
            format!("PROXY protocol tells the Traffic Controller that we are {client}"),
        ));
    } else if given.is_empty() {
        checks.push(match peer.is_some() && peer == us {
            true => Check::ok(
                Step::Forwarded,
                format!("the Traffic Controller sees us as {peer_words}: nobody stands between"),
            ),
            false => Check::warning(
                Step::Forwarded,
                Finding::ForwardedMissing,
                format!(
                    "the Traffic Controller sees us as {peer_words}, without X-Forwarded-For or \
                     PROXY protocol"
                ),
            ),
        });
    } else if client.is_some() && client == peer {
        checks.push(Check::warning(
            Step::Forwarded,
            Finding::ForwardedUntrusted,
            format!(
                "X-Forwarded-For: {} comes from {peer_words}, whom the Traffic Controller does not \
                 believe",
                clean(given)
            ),
        ));
    } else {
        checks.push(Check::ok(
            Step::Forwarded,
            format!("X-Forwarded-For: {} comes from {peer_words}", clean(given)),
        ));
    }
    // In TCP mode nobody can set it, and nobody need.
    if tls && !given.is_empty() && !proto.eq_ignore_ascii_case("https") {
        let proto = match proto {
            "" => "no X-Forwarded-Proto comes".to_owned(),
            other => format!("X-Forwarded-Proto: {} comes", clean(other)),
        };
        checks.push(Check::warning(
            Step::Forwarded,
            Finding::ForwardedProto,
            format!("{proto}, and we came by TLS"),
        ));
    }
    checks
}

/// `plain`: how long the answer to a plain request took. `asked`: how many pings we meant to send.
pub(super) fn pings(pings: &Pings, plain: Duration) -> Check {
    if let Some(ended) = &pings.ended {
        return Check::fault(
            Step::Pings,
            Finding::StreamEnded,
            format!("the stream ended at once: {}", end(ended)),
        );
    }
    let mut ours = pings.ours.clone();
    ours.sort_unstable();
    let half = ours.get(ours.len() / 2);
    let late = LATE.max(plain * 10);
    match (pings.first, half) {
        (_, None) => Check::fault(
            Step::Pings,
            Finding::NoPong,
            match pings.first {
                Some(_) => "the server's ping comes, and ours is not answered",
                None => "no ping comes from the server, and ours is not answered",
            },
        ),
        (None, Some(half)) => Check::warning(
            Step::Pings,
            Finding::NoPing,
            format!(
                "no ping comes from the server; ours are answered in {}",
                time(*half)
            ),
        ),
        (Some(first), Some(half)) if first.max(*half) > late => Check::warning(
            Step::Pings,
            Finding::Buffered,
            format!(
                "the server's first ping took {}, answers to ours {}; a plain request took {}",
                time(first),
                time(*half),
                time(plain)
            ),
        ),
        (Some(_), Some(half)) => Check::ok(
            Step::Pings,
            format!("the server pings, and answers ours in {}", time(*half)),
        ),
    }
}

/// What it means how long two streams lived: one in which something was said every second, and one
/// in which we said nothing, if there was one.
pub(super) fn idle(talking: &Watched, silent: Option<&Watched>) -> Vec<Check> {
    let mut checks = Vec::new();
    let lived = time(talking.lasted);
    match &talking.ended {
        Some(Ended::Cut(_)) => checks.push(Check::fault(
            Step::Idle,
            Finding::LifeLimit,
            format!("a stream in which something is said every second is cut after {lived}"),
        )),
        Some(ended) => checks.push(Check::unknown(
            Step::Idle,
            format!("after {lived} the stream ended: {}", end(ended)),
        )),
        None => {}
    }
    let Some(silent) = silent else {
        checks.push(Check::unknown(
            Step::Idle,
            "a second stream could not be had: nothing is known of idle limits",
        ));
        return checks;
    };
    let quiet = time(silent.silence);
    // Whoever limits their life cuts both.
    let cut = matches!(silent.ended, Some(Ended::Cut(_)))
        && (talking.ended.is_none() || silent.lasted + QUIET < talking.lasted);
    let said = format!("a stream is cut after {quiet} of silence");
    if cut && silent.silence < PING_COMES {
        checks.push(Check::fault(Step::Idle, Finding::IdleCut, said));
    } else if cut {
        let said = format!("{said}; pings, every 15 s, keep it");
        checks.push(Check::warning(Step::Idle, Finding::IdleShort, said));
    } else if checks.is_empty() {
        checks.push(Check::ok(
            Step::Idle,
            match silent.silence < QUIET {
                true => format!(
                    "no stream was cut within {lived}; none ever was quiet, so that says nothing of \
                     idle limits: give --app with a quiet one"
                ),
                false => format!("no stream was cut within {lived}, nor in {quiet} of silence"),
            },
        ));
    }
    checks
}

fn end(ended: &Ended) -> String {
    match ended {
        Ended::Closed(code, reason) => {
            let code = code.map_or("no code".to_owned(), |code| code.to_string());
            match clean(reason) {
                reason if reason.is_empty() => format!("the server closed it with {code}"),
                reason => format!("the server closed it with {code}, {reason:?}"),
            }
        }
        Ended::Cut(words) => format!("it was cut ({})", clean(words)),
        Ended::Garbled => "what came is no WebSocket".to_owned(),
    }
}

/// The names of a certificate, or whose it says it is.
fn names(certificate: &Certificate) -> String {
    let names = &certificate.names;
    if names.is_empty() {
        return format!("nobody by name ({})", clean(&certificate.subject));
    }
    let shown: Vec<_> = names.iter().take(NAMES).map(|name| clean(name)).collect();
    let mut shown = shown.join(", ");
    if names.len() > NAMES {
        shown = format!("{shown} and {} more", names.len() - NAMES);
    }
    shown
}

/// RFC 6125 §6.4: whole labels, and a wildcard for the first of them.
fn fits(certificate: &Certificate, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    certificate.names.iter().any(|name| {
        let wild = name.strip_prefix("*.").zip(host.split_once('.'));
        name.eq_ignore_ascii_case(host)
            || wild.is_some_and(|(name, (_, rest))| name.eq_ignore_ascii_case(rest))
            || name
                .parse::<IpAddr>()
                .is_ok_and(|name| host.parse() == Ok(name))
    })
}

/// Whole days until it is over; negative after that.
fn days(certificate: &Certificate, now: SystemTime) -> i64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    (certificate.validity.not_after.saturating_sub(now)).div_euclid(86_400)
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Verdict;
    use transport::tls::Validity;

    const AT: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4443);

    fn found(check: &Check) -> Option<Finding> {
        check.finding
    }

    fn certificate_for(names: &[&str]) -> Certificate {
        Certificate {
            subject: "CN=doppler".into(),
            issuer: "CN=a CA".into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            validity: Validity {
                not_before: 0,
                not_after: 100 * 86_400,
            },
        }
    }

    fn made(alpn: Option<&str>, http1: Result<Option<&str>, Why>) -> Handshake {
        Handshake::Made {
            shown: Shown {
                chain: vec![certificate_for(&["host"])],
                version: "TLS 1.3",
                alpn: alpn.map(str::to_owned),
            },
            distrust: None,
            http1: match http1 {
                Ok(chosen) => Ok(chosen.map(str::to_owned)),
                Err(why) => Err(unmade(why)),
            },
        }
    }

    fn unmade(why: Why) -> Unmade {
        Unmade {
            why,
            said: "so".into(),
        }
    }

    fn day(day: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(day * 86_400)
    }

    #[test]
    fn a_name_fits_as_a_whole_or_by_its_first_label() {
        for (name, host, expected) in [
            ("doppler.example.com", "doppler.example.com", true),
            ("doppler.example.com", "DOPPLER.example.com.", true),
            ("*.example.com", "doppler.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "doppler.sys.example.com", false),
            ("doppler.example.com", "ws.example.com", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("::1", "0:0:0:0:0:0:0:1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            assert_eq!(
                fits(&certificate_for(&[name]), host),
                expected,
                "{name} {host}"
            );
        }
    }

    #[test]
    fn a_good_certificate_is_told_with_its_days_and_in_time() {
        let good = made(None, Ok(None));
        let at = |day_| tls(AT, "host", &good, false, day(day_)).remove(0);
        assert_eq!(
            at(80).said,
            "127.0.0.1:4443: TLS 1.3, certificate for host, signed by CN=a CA, good for 20 days"
        );
        assert_eq!(found(&at(80)), None);
        assert_eq!(found(&at(87)), Some(Finding::CertificateSoon));
        let over = at(103);
        assert_eq!(found(&over), Some(Finding::CertificateExpired));
        assert!(over.said.ends_with("expired 3 days ago"), "{}", over.said);
    }

    #[test]
    fn http2_is_a_fault_only_where_nothing_else_is_taken() {
        for (both, http1, fault) in [
            (Some("h2"), Ok(Some("http/1.1")), false),
            (Some("http/1.1"), Ok(Some("http/1.1")), false),
            (None, Ok(None), false),
            // Whether that means HTTP/1.1, the answer to a request will tell.
            (Some("h2"), Ok(None), false),
            (Some("h2"), Err(Why::Protocol), true),
            (Some("h2"), Err(Why::Ended), true),
        ] {
            let checks = tls(AT, "host", &made(both, http1), false, day(1));
            let expected = fault.then_some(Finding::Http2Only);
            assert_eq!(found(&checks[1]), expected, "{both:?} {http1:?}");
        }
    }

    #[test]
    fn who_speaks_no_tls_is_told_by_what_he_says_to_plain_http() {
        for (plain, why, finding) in [
            (
                Spoke::Http(Answer::default()),
                Why::NotTls,
                Finding::PlainOnTlsPort,
            ),
            (Spoke::Http2, Why::NotTls, Finding::PlainOnTlsPort),
            (Spoke::Other("SSH".into()), Why::NotTls, Finding::NotTls),
            (Spoke::HungUp, Why::Ended, Finding::HungUp),
            (Spoke::Silent, Why::Late, Finding::Unanswered),
            (Spoke::Tls, Why::Late, Finding::TlsFailed),
            (Spoke::Tls, Why::Version, Finding::TlsVersion),
            (Spoke::HungUp, Why::Version, Finding::TlsVersion),
            (Spoke::Tls, Why::Other, Finding::TlsFailed),
        ] {
            let failed = Handshake::Failed {
                unmade: unmade(why),
                plain: plain.clone(),
            };
            let checks = tls(AT, "host", &failed, false, day(1));
            assert_eq!(found(&checks[0]), Some(finding), "{plain:?} {why:?}");
        }
    }

    #[test]
    fn pings_are_late_by_how_long_a_plain_request_takes() {
        let ms = Duration::from_millis;
        let of = |first: Option<u64>, ours: &[u64], plain: u64| {
            let seen = Pings {
                first: first.map(ms),
                ours: ours.iter().copied().map(ms).collect(),
                ended: None,
            };
            found(&pings(&seen, ms(plain)))
        };
        assert_eq!(of(Some(1), &[1, 2, 1], 1), None);
        assert_eq!(of(Some(400), &[400, 400, 400], 1), None);
        assert_eq!(of(Some(1), &[600, 700, 800], 1), Some(Finding::Buffered));
        assert_eq!(of(Some(900), &[1, 1, 1], 1), Some(Finding::Buffered));
        // One that waited behind something else does not matter, nor a long way.
        assert_eq!(of(Some(1), &[1, 900, 1], 1), None);
        assert_eq!(of(Some(600), &[600, 600, 600], 100), None);
        assert_eq!(of(None, &[1, 1, 1], 1), Some(Finding::NoPing));
        assert_eq!(of(Some(1), &[], 1), Some(Finding::NoPong));
        assert_eq!(of(None, &[], 1), Some(Finding::NoPong));
    }

    #[test]
    fn an_idle_limit_is_told_from_a_limited_life_and_from_a_server_that_leaves() {
        let cut = || Some(Ended::Cut("hung up".into()));
        let watched = |seconds: u64, silence: u64, ended| Watched {
            lasted: Duration::from_secs(seconds),
            silence: Duration::from_secs(silence),
            ended,
        };
        let of = |talking: &Watched, silent: &Watched| {
            let checks = idle(talking, Some(silent));
            checks.iter().filter_map(found).collect::<Vec<_>>()
        };
        let alive = watched(40, 1, None);
        assert_eq!(of(&alive, &watched(25, 25, None)), []);
        assert_eq!(of(&alive, &watched(5, 5, cut())), [Finding::IdleCut]);
        assert_eq!(of(&alive, &watched(20, 20, cut())), [Finding::IdleShort]);
        let short = watched(8, 1, cut());
        assert_eq!(of(&short, &watched(8, 8, cut())), [Finding::LifeLimit]);
        let both = [Finding::LifeLimit, Finding::IdleCut];
        assert_eq!(of(&short, &watched(3, 3, cut())), both);
        let left = watched(3, 1, Some(Ended::Closed(Some(1001), String::new())));
        let checks = idle(&left, Some(&left));
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].verdict, Verdict::Unknown);
        assert!(
            checks[0].said.ends_with("the server closed it with 1001"),
            "{checks:?}"
        );
        let busy = watched(25, 0, None);
        let said = &idle(&alive, Some(&busy))[0].said;
        assert!(said.contains("that says nothing of idle limits"), "{said}");
    }
}
