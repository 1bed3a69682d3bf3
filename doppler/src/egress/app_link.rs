//! The link that carries all app tails of one Traffic Controller, each envelope behind the
//! handle of its app; what is kept of apps, and how firehose groups stand, where that is asked.

use super::report::Reports;
use super::{protocol, select};
use crate::metrics::Metrics;
use crate::router::Router;
use crate::router::app_store::{Link, Refused, Taken};
use crate::router::recent::Recents;
use proto::link::{self, Downstream, Question, Standing, Upstream};
use proto::request::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;
use transport::clock::unix_ns;
use transport::frame;
use transport::websocket::{Close, Ended, Incoming, Socket};

/// Writes what `link` takes, and follows the Traffic Controller's subscriptions, until one of
/// them ends.
pub(super) async fn run<S>(mut link: Link, router: &Router, mut socket: Socket<S>, peer: &str)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut reports = Reports::new(link.account());
    let end = loop {
        tokio::select! {
            taken = link.take(unix_ns) => match taken {
                Some(Taken::Frames(frames)) => {
                    if let Err(ended) = socket.send(&frames).await {
                        break Some(ended);
                    }
                    link.sent();
                    reports.sent(frame::frames(&frames).count() as u64);
                }
                Some(Taken::Ended(handle, account)) => {
                    let ended = link::Ended {
                        handle,
                        sent: account.sent,
                        dropped: account.dropped.total(),
                    };
                    if let Err(ended) = socket.send_text(&Downstream::Ended(ended).to_json()).await {
                        break Some(ended);
                    }
                }
                None => break None,
            },
            said = socket.next(), if !link.has_ended() => match said {
                Ok(Incoming::Text(text)) => match Upstream::parse(&text) {
                    Ok(Upstream::Leave {}) => break None,
                    Ok(Upstream::Standing(question)) => {
                        // Sent, not said: who asks and does not read the answers has to wait.
                        if let Some(standing) = standing(router, &question)
                            && let Err(ended) = socket.send_text(&standing.to_json()).await
                        {
                            break Some(ended);
                        }
                    }
                    Ok(message) => {
                        if let Err(refused) = follow(&link, router.recents(), message) {
                            break Some(Ended::Protocol {
                                code: 1008,
                                reason: refused.to_string().into(),
                            });
                        }
                    }
                    Err(bad) => break Some(protocol(&bad)),
                },
                Ok(Incoming::Frames { .. }) => {}
                Err(ended) => break Some(ended),
            },
            () = reports.due() => socket.say(&reports.tell(link.account())),
        }
    };
    let last_words = reports.tell_last(link.account());
    drop(link);
    match end {
        Some(ended) => {
            Metrics::link_ended(&ended);
            debug!(peer, %ended, "app link ended");
            if let Some(close) = ended.answer() {
                socket.close(close).await;
            }
        }
        None => {
            if socket.send_text(&last_words).await.is_ok() {
                socket.close(Close::GOING_AWAY).await;
            }
        }
    }
}

/// How the group stands whose links have that path, if there is one.
fn standing(router: &Router, question: &Question) -> Option<Downstream> {
    let (path, query) = match question.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*question.path, None),
    };
    let Ok(Request::Firehose {
        subscription,
        filter,
    }) = Request::parse(path, query)
    else {
        return None;
    };
    let standing = router
        .log()
        .standing(subscription.as_str(), select(filter))?;
    Some(Downstream::Standing(Standing {
        handle: question.handle,
        overflowed: standing.overflowed,
        behind: standing.behind as u64,
        per_mille: standing.per_mille(),
        idle: standing.idle,
    }))
}

fn follow(link: &Link, recents: &Recents, message: Upstream) -> Result<(), Refused> {
    match message {
        Upstream::Subscribe(apps) => {
            let mut apps = apps.iter();
            apps.try_for_each(|(handle, app)| link.subscribe(*handle, app))
        }
        Upstream::Unsubscribe(handles) => {
            handles.iter().for_each(|handle| link.unsubscribe(*handle));
            Ok(())
        }
        Upstream::Recent(asked) => {
            let answered = link.answer(&asked, recents, unix_ns());
            Metrics::recent_requested(answered);
            Ok(())
        }
        Upstream::Leave {} | Upstream::Written(_) | Upstream::Standing(_) | Upstream::Unknown => {
            Ok(())
        }
    }
}
