//! Whom access asks: UAA and Cloud Controller with their certificates, a file of tokens, or
//! nobody, as the settings say.

use super::{HTTP_1_1, StartError};
use crate::access::{Access, CloudController, CloudFoundry, Firehoses, Jwt, Tokens, Uaa};
use crate::config::Config;
use crate::dopplers::OPEN;
use std::path::PathBuf;
use std::sync::Arc;
use tracing::warn;
use transport::http::{Base, Client};
use transport::listener::Dialer;
use transport::reload::{Reload, Reloaded};
use transport::tls::{self, Identity, Roots, TlsError};

/// The settings that say where UAA and Cloud Controller are.
const UAA_HOST: &str = "TRAFFIC_CONTROLLER_UAA_HOST";
const API_HOST: &str = "TRAFFIC_CONTROLLER_API_HOST";

/// What is wrong with who is named, before anybody is asked.
pub(super) fn mistakes(config: &Config) -> Vec<StartError> {
    let mut errors = Vec::new();
    if has_two_authorities(config) {
        errors.push(StartError::TwoAuthorities);
    }
    for (setting, url) in [(UAA_HOST, &config.uaa_host), (API_HOST, &config.api_host)] {
        let bad = url.as_deref().map(Base::parse).and_then(Result::err);
        errors.extend(bad.map(|source| StartError::Url { setting, source }));
    }
    errors
}

/// Whether nobody said who may read what: everybody may, if they are on this machine.
pub(super) fn is_left_open(config: &Config) -> bool {
    let said = [&config.uaa_host, &config.api_host];
    said.iter().all(|host| host.is_none())
        && config.tokens_file.is_none()
        && !config.disable_access_control
}

/// Whether it would not be clear who says who may read what.
fn has_two_authorities(config: &Config) -> bool {
    let platform = config.uaa_host.is_some() || config.api_host.is_some();
    platform && config.tokens_file.is_some() && !config.disable_access_control
}

/// Who says who may read what.
pub(super) fn access(config: &Config, reload: &mut Reload) -> Result<Access, StartError> {
    if config.disable_access_control || is_left_open(config) {
        return Ok(Access::Open);
    }
    let Some(path) = config.tokens_file.clone() else {
        return Ok(Access::CloudFoundry(cloud_foundry(config, reload)?));
    };
    if has_two_authorities(config) {
        return Err(StartError::TwoAuthorities);
    }
    let files = vec![path.clone()];
    let read = move || Tokens::read(&path).map(Arc::new);
    Ok(Access::Tokens(reload.load("tokens", files, read)?))
}

fn cloud_foundry(config: &Config, reload: &mut Reload) -> Result<CloudFoundry, StartError> {
    let anyone = config.skip_cert_verify;
    if anyone {
        warn!(
            "certificates of UAA and Cloud Controller are not checked: others may answer for them"
        );
    }
    let firehoses = match &config.uaa_host {
        None => {
            warn!("no UAA is given: nobody may read a firehose");
            None
        }
        Some(url) => {
            let uaa = Authority {
                name: "uaa",
                setting: UAA_HOST,
                url,
                ca: config.uaa_ca_cert.clone(),
                identity: None,
                server_name: None,
            };
            let client = uaa.client(anyone, reload)?;
            Some(match (&config.uaa_issuer, &config.uaa_client_secret) {
                (Some(issuer), _) => Firehoses::Verified(Jwt::new(client, issuer.clone())),
                (None, Some(secret)) => {
                    Firehoses::Asked(Uaa::new(client, &config.uaa_client, secret))
                }
                (None, None) => return Err(StartError::NoSecret),
            })
        }
    };
    let apps = match &config.api_host {
        None => {
            warn!("no Cloud Controller is given: nobody may read an app");
            None
        }
        Some(url) => {
            let identity = config.cc_cert_file.clone().zip(config.cc_key_file.clone());
            let controller = Authority {
                name: "cloud_controller",
                setting: API_HOST,
                url,
                ca: config.cc_ca_file.clone(),
                identity: identity.map(|(cert, key)| Identity { cert, key }),
                server_name: config.cc_server_name.as_deref(),
            };
            Some(CloudController::new(controller.client(anyone, reload)?))
        }
    };
    Ok(CloudFoundry {
        firehoses,
        apps,
        recheck: config.token_recheck,
        upstream_answers: config.upstream_answers,
    })
}

/// How UAA or Cloud Controller is reached.
struct Authority<'a> {
    name: &'static str,
    setting: &'static str,
    url: &'a str,
    ca: Option<PathBuf>,
    identity: Option<Identity>,
    server_name: Option<&'a str>,
}

impl Authority<'_> {
    fn client(self, trusts_anyone: bool, reload: &mut Reload) -> Result<Client, StartError> {
        let setting = self.setting;
        let bad_url = |source| StartError::Url { setting, source };
        let base = Base::parse(self.url).map_err(bad_url)?;
        let tls = match base.is_https() {
            false => {
                warn!(
                    setting,
                    "not https: others can read tokens on their way there"
                );
                None
            }
            true => {
                let server_name = match self.server_name {
                    Some(name) => tls::server_name(name)?,
                    None => base.server_name()?,
                };
                Some((self.tls(trusts_anyone, reload)?, server_name))
            }
        };
        Client::new(base, Dialer::new(tls, OPEN)).map_err(bad_url)
    }

    fn tls(
        self,
        trusts_anyone: bool,
        reload: &mut Reload,
    ) -> Result<Reloaded<tls::ClientConfig>, TlsError> {
        let (ca, identity) = match (self.ca, self.identity) {
            (Some(ca), Some(identity)) if !trusts_anyone => {
                return reload.client(self.name, identity, ca, HTTP_1_1);
            }
            other => other,
        };
        let own = identity.iter().flat_map(|own| [&own.cert, &own.key]);
        let files = own.chain(&ca).cloned().collect();
        reload.load(self.name, files, move || match trusts_anyone {
            true => tls::client_that_trusts_anyone(identity.as_ref(), HTTP_1_1),
            false => {
                let roots = ca.as_deref().map_or(Roots::System(None), Roots::Ca);
                tls::client(roots, identity.as_ref(), HTTP_1_1)
            }
        })
    }
}
