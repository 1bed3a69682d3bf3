//! `firehose why`: asks the admin listeners of Dopplers and Traffic Controllers what was lost,
//! and says it in words.
//!
//! Asking is here; the words are in [`words`], which knows no socket.

mod words;

pub(crate) use words::About;

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::time::Duration;
use transport::http::{BadUrl, Base, CallError, Client, Limits};
use transport::listener::Dialer;
use transport::losses::Page;

use crate::args::Why;
use crate::exit::{Failure, chain};
use crate::notes::Notes;
use crate::output;

/// How long a listener may take, and how long its answer may be: 10 s, and 64 MiB, which is
/// several times what 20,000 tailed apps and an hour of losses are.
const LIMITS: Limits = Limits {
    within: Duration::from_secs(10),
    body: 64 << 20,
};

/// What one admin listener said.
struct Answer {
    admin: String,
    losses: Page,
    subscriptions: Vec<Subscription>,
}

/// What we read of the page `/subscriptions`. A firehose has an id and a filter, and at a Traffic
/// Controller a client; an app stream has an app.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subscription {
    firehose: Option<String>,
    filter: Option<String>,
    members: Option<u64>,
    client: Option<String>,
    app: Option<String>,
    account: Account,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Account {
    dropped: std::collections::BTreeMap<String, u64>,
    queued: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subscriptions {
    subscriptions: Vec<Subscription>,
}

/// An admin listener that could not be asked.
struct Unasked {
    admin: String,
    why: AskError,
}

/// Why an admin listener could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("this is no admin listener: they speak plain HTTP, mostly on loopback")]
    Url(#[from] BadUrl),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("it has no page {path} ({status}); is this the admin listener, `pprof bound to:`?")]
    Status {
        path: &'static str,
        status: StatusCode,
    },
    #[error("what it says at {path} is not what a Doppler or Traffic Controller says")]
    Json {
        path: &'static str,
        source: serde_json::Error,
    },
}

/// Asks them all, and prints what they know.
pub(crate) async fn why(why: Why, notes: Notes) -> Result<(), Failure> {
    let query = query(&why);
    let asked = join_all(why.admin.iter().map(|admin| ask(admin, &query))).await;
    let (mut answers, mut unasked) = (Vec::new(), Vec::new());
    for (admin, answer) in why.admin.iter().zip(asked) {
        match answer {
            Ok(answer) => answers.push(answer),
            Err(why) => unasked.push(Unasked {
                admin: admin.clone(),
                why,
            }),
        }
    }
    let text = match why.json {
        true => json(&answers, &unasked),
        false => words::say(&why.about(), &answers),
    };
    output::write_all(text.as_bytes())?;
    for Unasked { admin, why } in &unasked {
        notes.say(format_args!("could not ask {admin}: {}", chain(why)));
    }
    match unasked.len() {
        0 => Ok(()),
        unasked => Err(Failure::Unasked {
            unasked,
            of: unasked + answers.len(),
        }),
    }
}

fn query(why: &Why) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("since", &format!("{}s", why.since.as_secs_f64()));
    if let Some(app) = &why.app {
        query.append_pair("app", app);
    }
    if let Some(subscription) = &why.subscription {
        query.append_pair("subscription", subscription);
    }
    query.finish()
}

async fn ask(admin: &str, query: &str) -> Result<Answer, AskError> {
    // As operators copy it from `pprof bound to:`.
    let url = match admin.contains("://") {
        true => admin.to_owned(),
        false => format!("http://{admin}"),
    };
    let client = Client::new(Base::parse(&url)?, Dialer::new(None, LIMITS.within))?;
    let asked = format!("/losses?{query}");
    let losses = get(&client, "/losses", &asked);
    let subscriptions = get(&client, "/subscriptions", "/subscriptions");
    let (losses, subscriptions) = tokio::join!(losses, subscriptions);
    let Subscriptions { subscriptions } = subscriptions?;
    Ok(Answer {
        admin: client.server(),
        losses: losses?,
        subscriptions,
    })
}

async fn get<T: DeserializeOwned>(
    client: &Client,
    path: &'static str,
    asked: &str,
) -> Result<T, AskError> {
    let call = client.call(Method::GET, asked, HeaderMap::new(), Bytes::new(), LIMITS);
    let answer = call.await?;
    if answer.status != StatusCode::OK {
        let status = answer.status;
        return Err(AskError::Status { path, status });
    }
    serde_json::from_slice(&answer.body).map_err(|source| AskError::Json { path, source })
}

fn json(answers: &[Answer], unasked: &[Unasked]) -> String {
    let answer = |answer: &Answer| json!({ "admin": answer.admin, "losses": answer.losses });
    let not = |unasked: &Unasked| json!({ "admin": unasked.admin, "error": chain(&unasked.why) });
    let all = json!({
        "answers": answers.iter().map(answer).collect::<Vec<_>>(),
        "not_asked": unasked.iter().map(not).collect::<Vec<_>>(),
    });
    format!("{all}\n")
}
