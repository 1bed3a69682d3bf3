//! A Cloud Controller for tests: its internal door with mutual TLS, which says who may read an
//! app, and its public one, which clients ask for names and addresses.
//!
//! | door | request | answer |
//! |---|---|---|
//! | internal | `GET /internal/v4/log_access/{guid}` | as recorded, see `access`, unless [`CloudController::allow`] says otherwise |
//! | public | `GET /`, `GET /v3/info` | links to itself, UAA and the Traffic Controller |
//! | public | `GET /v2/info` | the same in older words |
//! | public | `GET /v3/apps?names=…&space_guids=…` | what [`CloudController::app`] has registered |

use crate::authority::{Answer, Call, Calls, Door};
use crate::certs::Certs;
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The name in its internal certificate, which is not the host of its URL.
pub const NAME: &str = "cloud-controller-ng.service.cf.internal";

/// How long one that is slow takes: longer than anybody's patience.
const SLOW: Duration = Duration::from_secs(25);

/// A running Cloud Controller. Dropping it closes its ports.
pub struct CloudController {
    internal: Door,
    public: Door,
    calls: Calls,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    allowed: HashMap<String, u16>,
    apps: Vec<App>,
    links: Links,
}

#[derive(Default, Clone)]
struct Links {
    own: String,
    uaa: String,
    logging: String,
}

struct App {
    name: String,
    space: String,
    guid: String,
}

impl CloudController {
    /// Listens on loopback: for Traffic Controllers as [`NAME`], for clients as `localhost`.
    pub async fn start(certs: &Certs) -> CloudController {
        let (calls, state) = (Calls::default(), Arc::new(Mutex::new(State::default())));
        let internal = {
            let state = state.clone();
            let pair = certs.issue(NAME, |_| {});
            let answer = move |call: &Call| state.lock().unwrap().internal(call);
            Door::open("cc", &pair, Some(&certs.ca()), calls.clone(), answer).await
        };
        let public = {
            let state = state.clone();
            let pair = certs.pair("localhost");
            let answer = move |call: &Call| state.lock().unwrap().public(call);
            Door::open("cc", &pair, None, calls.clone(), answer).await
        };
        state.lock().unwrap().links.own = public.url();
        CloudController {
            internal,
            public,
            calls,
            state,
        }
    }

    /// Stops; then nobody is answered any more, which a drop alone only begins.
    pub async fn stop(self) {
        self.internal.close().await;
        self.public.close().await;
    }

    /// What clients know it as: `https://localhost:PORT`.
    pub fn url(&self) -> String {
        self.public.url()
    }

    /// The flags of a Traffic Controller that asks it.
    pub fn flags(&self, certs: &Certs) -> Vec<String> {
        let pair = certs.pair("trafficcontroller");
        [
            ("--api-host", self.internal.url()),
            ("--cc-cert-file", pair.cert.display().to_string()),
            ("--cc-key-file", pair.key.display().to_string()),
            ("--cc-ca-file", certs.ca().display().to_string()),
            ("--cc-server-name", NAME.to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }

    /// From now on it answers so about that app.
    pub fn allow(&self, guid: &str, status: u16) {
        let mut state = self.state.lock().unwrap();
        state.allowed.insert(guid.to_owned(), status);
    }

    /// There is an app of that name in that space.
    pub fn app(&self, name: &str, space: &str, guid: &str) {
        self.state.lock().unwrap().apps.push(App {
            name: name.to_owned(),
            space: space.to_owned(),
            guid: guid.to_owned(),
        });
    }

    /// What its root tells clients: the URLs of UAA and of the Traffic Controller.
    pub fn links(&self, uaa: &str, logging: &str) {
        let mut state = self.state.lock().unwrap();
        state.links.uaa = uaa.to_owned();
        state.links.logging = logging.to_owned();
    }

    /// The calls since they were last taken, of both doors.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.take()
    }

    /// How many calls there were since they were last taken.
    pub fn called(&self) -> usize {
        self.calls.count()
    }
}

impl State {
    fn internal(&self, call: &Call) -> Answer {
        match call.path.strip_prefix("/internal/v4/log_access/") {
            Some(_) if call.authorization.contains("cc401") => say(401),
            Some(guid) => match self.allowed.get(guid) {
                Some(status) => say(*status),
                None => access(guid),
            },
            None if call.path == "/redirected" => say(200),
            None => say(404),
        }
    }

    fn public(&self, call: &Call) -> Answer {
        let Links { own, uaa, logging } = &self.links;
        let (path, query) = call.path.split_once('?').unwrap_or((&call.path, ""));
        let body = match path {
            "/" | "/v3/info" => json!({"links": {
                "self": {"href": own},
                "cloud_controller_v3": {"href": format!("{own}/v3")},
                "login": {"href": uaa},
                "uaa": {"href": uaa},
                "logging": {"href": logging},
            }}),
            "/v2/info" => json!({
                "authorization_endpoint": uaa,
                "token_endpoint": uaa,
                "doppler_logging_endpoint": logging,
            }),
            "/v3/apps" if !call.authorization.to_lowercase().starts_with("bearer ") => {
                return say(401);
            }
            "/v3/apps" => self.apps(query),
            _ => return say(404),
        };
        Answer::Say(StatusCode::OK, body.to_string())
    }

    fn apps(&self, query: &str) -> Value {
        let listed = |name: &str, value: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs
                .find(|(key, _)| key == name)
                .is_none_or(|(_, values)| values.split(',').any(|listed| listed == value))
        };
        let found = self
            .apps
            .iter()
            .filter(|app| listed("names", &app.name) && listed("space_guids", &app.space));
        let resources: Vec<Value> = found
            .map(|app| {
                json!({
                    "guid": app.guid,
                    "name": app.name,
                    "state": "STARTED",
                    "relationships": {"space": {"data": {"guid": app.space}}},
                })
            })
            .collect();
        json!({
            "pagination": {"total_results": resources.len(), "total_pages": 1, "next": null},
            "resources": resources,
        })
    }
}

/// What the recorded Cloud Controller said about an app: the status that the last four digits
/// of its GUID spell, but for a few.
fn access(guid: &str) -> Answer {
    match &guid[guid.len().saturating_sub(4)..] {
        "0000" => say(404),
        "0302" => Answer::Redirect("/redirected"),
        "9998" => Answer::After(SLOW, Box::new(say(200))),
        "9999" => Answer::HangUp,
        digits => say(digits.parse().unwrap_or(404)),
    }
}

fn say(status: u16) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::NOT_FOUND);
    // Nobody may pass this on.
    let body = match status {
        StatusCode::NO_CONTENT => String::new(),
        _ => json!({"cloud": "controller's own words"}).to_string(),
    };
    Answer::Say(status, body)
}
