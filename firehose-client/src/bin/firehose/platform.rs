//! Where to connect, and as whom.
//!
//! The command line and the cf CLI's login come in, and a stream that has not begun yet goes
//! out. What the command line says counts; where it says nothing the login does, and Cloud
//! Controller is asked for what neither knows.

use firehose_client::{
    BadSettings, CfCli, CfCliError, Client, CloudController, EnvelopeStream, Filter, Login, Token,
    Trust,
};

use crate::args::{Server, Subscribe, Tail};
use crate::exit::{Failure, chain};
use crate::notes::Notes;

/// The stream of one app.
pub(crate) async fn tail(tail: &Tail, notes: &Notes) -> Result<EnvelopeStream, Failure> {
    let platform = Platform::find(&tail.server, notes).await?;
    let guid = platform.app(&tail.app).await?;
    Ok(match tail.recent {
        Some(recent) => platform.client.app_stream_with_recent(&guid, recent)?,
        None => platform.client.app_stream(&guid)?,
    })
}

/// A firehose.
pub(crate) async fn subscribe(
    subscribe: &Subscribe,
    notes: &Notes,
) -> Result<EnvelopeStream, Failure> {
    let Subscribe { server, id, .. } = subscribe;
    firehose(server, id, subscribe.filter(), notes).await
}

/// The firehose of that subscription id and filter.
pub(crate) async fn firehose(
    server: &Server,
    id: &str,
    filter: Filter,
    notes: &Notes,
) -> Result<EnvelopeStream, Failure> {
    let platform = Platform::find(server, notes).await?;
    Ok(platform.client.firehose(id, filter)?)
}

/// Where a stream would come from, for whoever looks at the way there.
pub(crate) struct Place {
    pub(crate) endpoint: String,
    pub(crate) trust: Trust,
    /// What we show; nothing if there is none.
    pub(crate) token: Option<Token>,
    /// The app's GUID, if there is an app.
    pub(crate) app: Option<String>,
}

/// Where these settings lead; `app` is the name or GUID of one.
pub(crate) async fn place(
    server: &Server,
    app: Option<&str>,
    notes: &Notes,
) -> Result<Place, Failure> {
    let platform = Platform::find(server, notes).await?;
    let app = match app {
        Some(app) => Some(platform.app(app).await?),
        None => None,
    };
    Ok(Place {
        endpoint: platform.endpoint,
        trust: platform.trust,
        token: platform.token,
        app,
    })
}

struct Platform {
    client: Client,
    /// What the client was made of.
    endpoint: String,
    trust: Trust,
    /// What the cf CLI knows, if anything, of the platform the endpoint belongs to.
    here: Option<Here>,
    /// What we show; nothing if there is none.
    token: Option<Token>,
}

/// The platform the cf CLI knows.
struct Here {
    cli: CfCli,
    trust: Trust,
}

impl Platform {
    async fn find(server: &Server, notes: &Notes) -> Result<Platform, Failure> {
        let Some(path) = server.cf_cli_path() else {
            // No home, no login: as on a machine where there is no cf CLI.
            let no_login = CfCliError::NoFile {
                path: CfCli::path_in("~".as_ref()),
            };
            return Platform::without_login(server, no_login);
        };
        let cli = match CfCli::read(path) {
            Ok(cli) => cli,
            Err(error) => {
                if server.endpoint.is_some() && !matches!(error, CfCliError::NoFile { .. }) {
                    notes.say(format_args!("going on without it: {}", chain(&error)));
                }
                return Platform::without_login(server, error);
            }
        };
        let skips = cli.skips_cert_verify() && server.ca.is_none();
        let trust = if skips { Trust::Anyone } else { server.trust() };
        let here = Here { cli, trust };
        match &server.endpoint {
            None => {
                let endpoint = here.logging_endpoint().await?;
                here.warn(server, notes);
                let token = match server.token() {
                    Some(token) => token,
                    None => Some(here.login()?),
                };
                let client = client(server, &endpoint, &here.trust, token.clone());
                Ok(Platform {
                    client: client.map_err(Failure::Discovered)?,
                    endpoint,
                    trust: here.trust.clone(),
                    here: Some(here),
                    token,
                })
            }
            Some(endpoint) => {
                let ours = match server.token() {
                    // Not worth a question, if all that it decides is whom to trust.
                    Some(_) => here.cli.logging_endpoint().map(str::to_owned),
                    None => here.logging_endpoint().await.ok(),
                };
                let same = ours.is_some_and(|ours| host(&ours) == host(endpoint));
                let trust = if same { &here.trust } else { &server.trust() };
                if same {
                    here.warn(server, notes);
                }
                let token = match server.token() {
                    Some(token) => token,
                    None if same => match here.login() {
                        Ok(token) => Some(token),
                        Err(error) => {
                            notes.say(format_args!("showing no token: {}", chain(&error)));
                            None
                        }
                    },
                    None => {
                        if here.login().is_ok() {
                            notes.say(format_args!(
                                "showing no token: {endpoint} does not belong to the platform \
                                 the cf CLI is logged in to; give --token or --token-file"
                            ));
                        }
                        None
                    }
                };
                Ok(Platform {
                    client: client(server, endpoint, trust, token.clone())?,
                    endpoint: endpoint.clone(),
                    trust: trust.clone(),
                    // A name there would be looked for with the token of another platform.
                    here: same.then_some(here),
                    token,
                })
            }
        }
    }

    fn without_login(server: &Server, error: CfCliError) -> Result<Platform, Failure> {
        let Some(endpoint) = &server.endpoint else {
            return Err(Failure::NoEndpoint(error));
        };
        let (token, trust) = (server.token().flatten(), server.trust());
        Ok(Platform {
            client: client(server, endpoint, &trust, token.clone())?,
            endpoint: endpoint.clone(),
            trust,
            here: None,
            token,
        })
    }

    /// A GUID is what it is; a name is looked for in the space that is targeted.
    async fn app(&self, app: &str) -> Result<String, Failure> {
        if self.client.app_stream(app).is_ok() {
            return Ok(app.to_owned());
        }
        let named = || app.to_owned();
        let Some(here) = &self.here else {
            return Err(Failure::NoLoginToLookWith { app: named() });
        };
        let Some(space) = here.cli.space() else {
            return Err(Failure::NoSpaceTargeted { app: named() });
        };
        let token = match &self.token {
            Some(token) => token.clone(),
            None => here.login()?,
        };
        let cloud_controller = CloudController::new(here.cli.api()?, &here.trust)?;
        Ok(cloud_controller.app_guid(app, space.guid, &token).await?)
    }
}

impl Here {
    async fn logging_endpoint(&self) -> Result<String, Failure> {
        if let Some(endpoint) = self.cli.logging_endpoint() {
            return Ok(endpoint.to_owned());
        }
        let api = self.cli.api().map_err(Failure::NoEndpoint)?;
        let cloud_controller = CloudController::new(api, &self.trust)?;
        Ok(cloud_controller.logging_endpoint().await?)
    }

    fn login(&self) -> Result<Token, Failure> {
        Ok(Token::Login(Login::cf_cli(&self.cli, &self.trust)?))
    }

    /// Nobody should check no certificates without knowing.
    fn warn(&self, server: &Server, notes: &Notes) {
        if self.trust == Trust::Anyone && !server.skip_cert_verify {
            notes.say(format_args!(
                "WARNING: no certificate is checked, as the cf CLI was told \
                 (--skip-ssl-validation): anyone on the way can read the token and the logs"
            ));
        }
    }
}

fn client(
    server: &Server,
    endpoint: &str,
    trust: &Trust,
    token: Option<Token>,
) -> Result<Client, BadSettings> {
    let mut builder = Client::builder(endpoint)
        .user_agent(concat!("firehose/", env!("CARGO_PKG_VERSION")))
        .first_connect_within(server.connect_timeout)
        .trust(trust.clone());
    if let Some(token) = token {
        builder = builder.token(token);
    }
    if server.insecure_plain_text {
        builder = builder.insecure_plain_text();
    }
    builder.build()
}

/// The host in a URL: another port of it (4443 where a balancer wants that) is the same
/// platform.
fn host(url: &str) -> String {
    let url = url.trim();
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.to_ascii_lowercase()
}
