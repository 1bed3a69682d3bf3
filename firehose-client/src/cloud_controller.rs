//! Cloud Controller: where Loggregator is, and which app a name means.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::BadSettings;
use crate::token::{Token, TokenError};
use crate::trust::Trust;
use crate::web::{Answer, NoAnswer, Web};

/// A platform's API, such as `https://api.example.com`.
#[derive(Clone, Debug)]
pub struct CloudController {
    web: Web,
}

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloudControllerError {
    /// Nobody answered.
    #[error("could not ask {url}")]
    Unreachable {
        /// What we asked.
        url: String,
        /// Which step failed.
        source: std::sync::Arc<dyn std::error::Error + Send + Sync>,
    },
    /// 401 or 403: the token is wrong, or has expired.
    #[error("{url} does not accept the token: {status}")]
    Unauthorized {
        /// What we asked.
        url: String,
        /// 401 or 403.
        status: StatusCode,
    },
    /// It answered otherwise than with what we asked for.
    #[error("{url} was answered {status}")]
    Refused {
        /// What we asked.
        url: String,
        /// What it was answered.
        status: StatusCode,
    },
    /// It answered, and not as a Cloud Controller does.
    #[error("{url} was answered without {missing}: is it a Cloud Controller?")]
    NotUnderstood {
        /// What we asked.
        url: String,
        /// What we looked for.
        missing: &'static str,
    },
    /// There is no token to show.
    #[error("could not get the token")]
    Token {
        /// Why not.
        source: TokenError,
    },
    /// No app of that name is in the space, or none that may be seen.
    #[error("there is no app {name:?} in this space, or you may not see it: look at `cf apps`")]
    NoApp {
        /// The name.
        name: String,
    },
    /// Several apps have that name.
    #[error("{} apps are named {name:?}: give the GUID of one of {}", guids.len(), guids.join(", "))]
    SeveralApps {
        /// The name.
        name: String,
        /// Theirs.
        guids: Vec<String>,
    },
}

impl From<NoAnswer> for CloudControllerError {
    fn from(NoAnswer { url, source }: NoAnswer) -> CloudControllerError {
        CloudControllerError::Unreachable { url, source }
    }
}

#[derive(Deserialize)]
struct Root {
    links: Links,
}

#[derive(Deserialize)]
struct Links {
    logging: Option<Link>,
}

#[derive(Deserialize)]
struct Link {
    href: String,
}

/// `/v2/info`, where there is still one.
#[derive(Deserialize)]
struct Info {
    doppler_logging_endpoint: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    resources: Vec<App>,
}

#[derive(Deserialize)]
struct App {
    guid: String,
    name: String,
}

impl CloudController {
    /// At this URL: `https`, or `http` on this machine.
    pub fn new(api: &str, trust: &Trust) -> Result<CloudController, BadSettings> {
        let web = Web::new(api, trust)?;
        Ok(CloudController { web })
    }

    /// Where Loggregator is: what [`Client::builder`](crate::Client::builder) takes.
    ///
    /// It is public, and no token is shown for it.
    pub async fn logging_endpoint(&self) -> Result<String, CloudControllerError> {
        let filled = |url: &String| !url.is_empty();
        let root = self.get("/", None).await?;
        let root: Option<Root> = json(&root).filter(|_| root.status == StatusCode::OK);
        let link = root.and_then(|root| root.links.logging);
        if let Some(url) = link.map(|link| link.href).filter(filled) {
            return Ok(url);
        }
        // Platforms from before the root had links.
        const INFO: &str = "/v2/info";
        let info = self.get(INFO, None).await?;
        let found: Option<Info> = json(&info).filter(|_| info.status == StatusCode::OK);
        let found = found.and_then(|info| info.doppler_logging_endpoint);
        found
            .filter(filled)
            .ok_or_else(|| CloudControllerError::NotUnderstood {
                url: self.web.url("/"),
                missing: "links.logging",
            })
    }

    /// The GUID of the app of this name in the space with this GUID, as far as the token may
    /// see it.
    pub async fn app_guid(
        &self,
        name: &str,
        space_guid: &str,
        token: &Token,
    ) -> Result<String, CloudControllerError> {
        const APPS: &str = "/v3/apps";
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("names", &in_list(name))
            .append_pair("space_guids", &in_list(space_guid))
            .finish();
        let answer = self.ask(&format!("{APPS}?{query}"), token).await?;
        let page: Page = json(&answer).ok_or_else(|| CloudControllerError::NotUnderstood {
            url: self.web.url(APPS),
            missing: "apps",
        })?;
        // The database may compare names without case.
        let found = page.resources.into_iter().filter(|app| app.name == name);
        let mut guids: Vec<String> = found.map(|app| app.guid).collect();
        let name = name.to_owned();
        match guids.len() {
            0 => Err(CloudControllerError::NoApp { name }),
            1 => Ok(guids.remove(0)),
            _ => Err(CloudControllerError::SeveralApps { name, guids }),
        }
    }

    /// With the token; and once more if it was refused and there is a newer.
    async fn ask(&self, path: &str, token: &Token) -> Result<Answer, CloudControllerError> {
        let mut renewed = false;
        loop {
            let shown = token.authorization().await;
            let shown = shown.map_err(|source| CloudControllerError::Token { source })?;
            let answer = self.get(path, Some(&shown)).await?;
            let url = || self.web.url(path);
            match answer.status {
                StatusCode::OK => return Ok(answer),
                StatusCode::UNAUTHORIZED if !renewed && token.refused(&shown).await => {
                    renewed = true;
                }
                status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    let url = url();
                    return Err(CloudControllerError::Unauthorized { url, status });
                }
                status => return Err(CloudControllerError::Refused { url: url(), status }),
            }
        }
    }

    async fn get(
        &self,
        path: &str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, NoAnswer> {
        let shown = authorization.map(|value| (AUTHORIZATION, value.clone()));
        self.web.get(path, HeaderMap::from_iter(shown)).await
    }
}

fn json<T: DeserializeOwned>(answer: &Answer) -> Option<T> {
    serde_json::from_slice(&answer.body).ok()
}

/// One value of a list: Cloud Controller splits at commas, and then decodes each part once more.
fn in_list(value: &str) -> String {
    value.replace('%', "%25").replace(',', "%2C")
}
