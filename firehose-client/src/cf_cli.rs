//! What the cf CLI remembers of a login, in its file `.cf/config.json`.
//!
//! The file comes in; where the platform is, who is logged in and what is targeted go out. It is
//! the cf CLI's file, which runs while we do: all we ever write are two tokens, in one step, and
//! every other member goes back as it came.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use transport::secret::Secret;

/// The cf CLI's file as it was when it was read. Versions 6 to 8 of the cf CLI write it, with
/// `ConfigVersion` 3 to 5.
#[derive(Clone, Debug)]
pub struct CfCli {
    path: PathBuf,
    target: String,
    logging: String,
    pub(crate) uaa: String,
    pub(crate) client: String,
    pub(crate) client_secret: Secret,
    /// Without `bearer`.
    pub(crate) access: Secret,
    pub(crate) refresh: Secret,
    pub(crate) by_client_credentials: bool,
    skips_cert_verify: bool,
    org: Targeted,
    space: Targeted,
}

/// An organization or a space; both texts are empty if none is targeted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Targeted {
    #[serde(alias = "GUID", alias = "Guid")]
    guid: String,
    #[serde(alias = "Name")]
    name: String,
}

/// The space that `cf target` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space<'a> {
    /// Its GUID.
    pub guid: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The name of its organization.
    pub org: &'a str,
}

/// Why there is no login to use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CfCliError {
    /// There is no such file: nobody has logged in.
    #[error("there is no login of the cf CLI in {}: run cf login", path.display())]
    NoFile {
        /// Where it would be.
        path: PathBuf,
    },
    /// The file is there, and cannot be read.
    #[error("could not read the login of the cf CLI in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what the cf CLI writes.
    #[error(
        "{} is not a JSON object (line {line}, column {column}): the cf CLI could not read it \
         either; run cf login", path.display()
    )]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Where it stops being JSON; what stands there may be a token, and is not shown.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// A member that we need is not what the cf CLI writes.
    #[error("{} in {} is not what the cf CLI writes there: run cf login", member, path.display())]
    Member {
        /// The file.
        path: PathBuf,
        /// Its name.
        member: &'static str,
    },
    /// The cf CLI knows no platform.
    #[error("the cf CLI has no target in {}: run cf login -a API", path.display())]
    NoTarget {
        /// The file.
        path: PathBuf,
    },
    /// The cf CLI knows a platform, but nobody is logged in there.
    #[error("the cf CLI is not logged in to {target}: run cf login")]
    NotLoggedIn {
        /// Its API.
        target: String,
    },
    /// The cf CLI was pointed to another platform since we began.
    #[error("the cf CLI has left {before} for {now}: start again, or run cf login -a {before}")]
    Elsewhere {
        /// Where it was logged in.
        before: String,
        /// Where it is now.
        now: String,
    },
    /// The renewed login is used, and could not be kept: if UAA gives each refresh token only
    /// once, the cf CLI has to log in again.
    #[error("could not write the renewed login to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl CfCliError {
    /// Whether `cf login` is what helps.
    pub(crate) fn needs_login(&self) -> bool {
        matches!(
            self,
            CfCliError::NoFile { .. }
                | CfCliError::NoTarget { .. }
                | CfCliError::NotLoggedIn { .. }
                | CfCliError::Elsewhere { .. }
        )
    }
}

impl CfCli {
    /// The cf CLI's file below `home`: what `CF_HOME` says or, without, the user's home.
    pub fn path_in(home: &Path) -> PathBuf {
        home.join(".cf").join("config.json")
    }

    /// Reads the file. A login in it may be missing or too old: see [`Login::cf_cli`].
    ///
    /// [`Login::cf_cli`]: crate::Login::cf_cli
    pub fn read(path: impl Into<PathBuf>) -> Result<CfCli, CfCliError> {
        let path = path.into();
        let members = Members::read(&path)?;
        let access = members.text("AccessToken")?;
        let bare = access.trim();
        let bare = match bare.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ if bare.eq_ignore_ascii_case("bearer") => "",
            _ => bare,
        };
        let client = members.text("UAAOAuthClient")?;
        Ok(CfCli {
            target: members.text("Target")?,
            logging: members.text("DopplerEndPoint")?,
            uaa: match members.text("UaaEndpoint")? {
                uaa if uaa.is_empty() => members.text("AuthorizationEndpoint")?,
                uaa => uaa,
            },
            // Versions before 6.25 wrote none and were `cf`, as all are unless told otherwise.
            client: if client.is_empty() {
                "cf".into()
            } else {
                client
            },
            client_secret: Secret::new(members.text("UAAOAuthClientSecret")?),
            access: Secret::new(bare),
            refresh: Secret::new(members.text("RefreshToken")?),
            by_client_credentials: members.text("UAAGrantType")? == "client_credentials",
            skips_cert_verify: members.get("SSLDisabled")?.unwrap_or_default(),
            org: members.get("OrganizationFields")?.unwrap_or_default(),
            space: members.get("SpaceFields")?.unwrap_or_default(),
            path,
        })
    }

    /// Where it was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The API of the platform, which is Cloud Controller.
    pub fn api(&self) -> Result<&str, CfCliError> {
        match self.target.is_empty() {
            true => Err(CfCliError::NoTarget {
                path: self.path.clone(),
            }),
            false => Ok(&self.target),
        }
    }

    /// Where Loggregator is, if the cf CLI was told; otherwise ask
    /// [`CloudController::logging_endpoint`](crate::CloudController::logging_endpoint).
    pub fn logging_endpoint(&self) -> Option<&str> {
        Some(self.logging.as_str()).filter(|endpoint| !endpoint.is_empty())
    }

    /// The space that is targeted.
    pub fn space(&self) -> Option<Space<'_>> {
        let space = Space {
            guid: &self.space.guid,
            name: &self.space.name,
            org: &self.org.name,
        };
        Some(space).filter(|space| !space.guid.is_empty())
    }

    /// Whether the cf CLI was told to check no certificate (`--skip-ssl-validation`).
    pub fn skips_cert_verify(&self) -> bool {
        self.skips_cert_verify
    }

    /// Whether a token can be had from it.
    pub(crate) fn logged_in(&self) -> Result<(), CfCliError> {
        let target = self.api()?;
        let nothing = self.access.is_empty() && self.refresh.is_empty();
        match nothing || self.uaa.is_empty() {
            true => Err(CfCliError::NotLoggedIn {
                target: target.to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// The file as it is now, if it still is about the same platform.
    pub(crate) fn read_again(&self) -> Result<CfCli, CfCliError> {
        let now = CfCli::read(&self.path)?;
        if (&now.target, &now.uaa) != (&self.target, &self.uaa) {
            return Err(CfCliError::Elsewhere {
                before: self.target.clone(),
                now: now.target,
            });
        }
        Ok(now)
    }

    /// Puts the new tokens where the old ones were. If those are no longer there, because the
    /// cf CLI renewed them, logged out or went elsewhere meanwhile, the file is left alone.
    pub(crate) fn save(&self, access: &Secret, refresh: &Secret) -> Result<(), CfCliError> {
        let mut members = Members::read(&self.path)?;
        let unchanged = members.text("RefreshToken")? == self.refresh.reveal()
            && members.text("Target")? == self.target;
        if !unchanged {
            return Ok(());
        }
        let access = format!("bearer {}", access.reveal());
        let written = members
            .set("AccessToken", &access)
            .and_then(|()| members.set("RefreshToken", refresh.reveal()))
            .and_then(|()| members.write(&self.path));
        written.map_err(|source| CfCliError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

/// The file, member by member, each as it is written.
struct Members<'a> {
    path: &'a Path,
    all: BTreeMap<String, Box<RawValue>>,
}

impl<'a> Members<'a> {
    fn read(path: &'a Path) -> Result<Members<'a>, CfCliError> {
        let text = fs::read(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => CfCliError::NoFile { path: path.into() },
            _ => CfCliError::Read {
                path: path.into(),
                source,
            },
        })?;
        let all = serde_json::from_slice(&text).map_err(|error| CfCliError::NotJson {
            path: path.into(),
            line: error.line(),
            column: error.column(),
        })?;
        Ok(Members { path, all })
    }

    /// Names are compared as Go's JSON does, whatever their case: old versions wrote some of
    /// them otherwise.
    fn name(&self, wanted: &str) -> Option<&String> {
        let names = || self.all.keys();
        names()
            .find(|name| *name == wanted)
            .or_else(|| names().find(|name| name.eq_ignore_ascii_case(wanted)))
    }

    /// `None` where it is missing or null.
    fn get<T>(&self, member: &'static str) -> Result<Option<T>, CfCliError>
    where
        T: for<'de> Deserialize<'de>,
    {
        let Some(raw) = self.name(member).and_then(|name| self.all.get(name)) else {
            return Ok(None);
        };
        // serde's error would quote what it found.
        serde_json::from_str(raw.get()).map_err(|_| CfCliError::Member {
            path: self.path.into(),
            member,
        })
    }

    /// Empty where it is missing.
    fn text(&self, member: &'static str) -> Result<String, CfCliError> {
        Ok(self.get::<String>(member)?.unwrap_or_default())
    }

    fn set(&mut self, member: &str, value: &str) -> io::Result<()> {
        let name = self.name(member).cloned();
        let value = to_raw_value(value)?;
        self.all
            .insert(name.unwrap_or_else(|| member.into()), value);
        Ok(())
    }

    /// Whoever reads the file meanwhile sees all of the old or all of the new one.
    fn write(&self, path: &Path) -> io::Result<()> {
        // Through a link (dotfiles kept elsewhere) to the file that is meant.
        let path = path.canonicalize()?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        // It begins with mode 0600.
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        let mut text = serde_json::to_vec_pretty(&self.all)?;
        text.push(b'\n');
        new.write_all(&text)?;
        new.as_file()
            .set_permissions(fs::metadata(&path)?.permissions())?;
        new.as_file().sync_all()?;
        new.persist(&path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// As version 6 wrote it, in the spelling of its first years where it had another.
    const OLD: &str = r#"{
  "ConfigVersion": 3,
  "Target": "https://api.example.com",
  "ApiVersion": "2.150.0",
  "AuthorizationEndpoint": "https://login.example.com",
  "LoggregatorEndPoint": "wss://loggregator.example.com:443",
  "DopplerEndPoint": "wss://doppler.example.com:443",
  "UaaEndpoint": "",
  "AccessToken": "bearer an.access.token",
  "RefreshToken": "a-refresh-token",
  "OrganizationFields": {"Guid": "org-guid", "Name": "org", "QuotaDefinition": {"name": ""}},
  "SpaceFields": {"Guid": "space-guid", "Name": "space"},
  "SSLDisabled": true,
  "PluginRepos": null
}"#;

    /// As version 8 writes it, with things of which we know nothing.
    const NEW: &str = r#"{
  "AccessToken": "bearer an.access.token",
  "APIVersion": "3.180.0",
  "AsyncTimeout": 0,
  "AuthorizationEndpoint": "https://login.example.com",
  "CFOnK8s": {"Enabled": false, "AuthInfo": ""},
  "ConfigVersion": 5,
  "DopplerEndPoint": "",
  "LogCacheEndPoint": "https://log-cache.example.com",
  "OrganizationFields": {"GUID": "org-guid", "Name": "org"},
  "RefreshToken": "a-refresh-token",
  "SpaceFields": {"GUID": "space-guid", "Name": "space", "AllowSSH": true},
  "SSLDisabled": false,
  "Target": "https://api.example.com",
  "UaaEndpoint": "https://uaa.example.com",
  "UAAGrantType": "",
  "UAAOAuthClient": "cf",
  "UAAOAuthClientSecret": "",
  "Unknown": {"number": 12345678901234567890.10, "text": "\u0041\/"}
}"#;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn said(text: &str) -> String {
        let (_folder, path) = file(text);
        let cli = CfCli::read(path);
        cli.and_then(|cli| cli.logged_in()).unwrap_err().to_string()
    }

    #[test]
    fn files_of_old_and_new_versions_are_understood() {
        for (text, uaa, logging, skips) in [
            (
                OLD,
                "https://login.example.com",
                Some("wss://doppler.example.com:443"),
                true,
            ),
            (NEW, "https://uaa.example.com", None, false),
        ] {
            let (_folder, path) = file(text);
            let cli = CfCli::read(path).unwrap();
            assert_eq!(cli.api().unwrap(), "https://api.example.com");
            assert_eq!(cli.uaa, uaa);
            assert_eq!(cli.logging_endpoint(), logging);
            assert_eq!(cli.skips_cert_verify(), skips);
            assert_eq!(cli.access.reveal(), "an.access.token");
            assert_eq!(cli.refresh.reveal(), "a-refresh-token");
            assert_eq!((&cli.client[..], cli.client_secret.reveal()), ("cf", ""));
            let (guid, name, org) = ("space-guid", "space", "org");
            assert_eq!(cli.space(), Some(Space { guid, name, org }));
            assert!(cli.logged_in().is_ok());
        }
    }

    #[test]
    fn who_is_not_logged_in_is_told_to_log_in() {
        assert!(said("{}").contains("no target"));
        let logged_out = NEW
            .replace("bearer an.access.token", "")
            .replace("a-refresh-token", "");
        assert!(said(&logged_out).contains("not logged in to https://api.example.com"));
        for text in ["{}", &logged_out] {
            assert!(said(text).contains("cf login"));
        }
        let missing = CfCli::read("/does/not/exist").unwrap_err().to_string();
        assert!(missing.contains("cf login") && missing.contains("/does/not/exist"));
    }

    #[test]
    fn a_broken_file_is_told_without_what_is_in_it() {
        for text in [
            "",
            "\"a-secret\"",
            "[\"a-secret\"]",
            "{\"AccessToken\": \"a-secret",
            "{\"AccessToken\": [\"a-secret\"]}",
            "{\"RefreshToken\": {\"a-secret\": 1}}",
            "{\"SSLDisabled\": \"a-secret\"}",
            "{\"SpaceFields\": \"a-secret\"}",
        ] {
            let said = said(text);
            assert!(said.contains("config.json"), "{said}");
            assert!(!said.contains("a-secret"), "{said}");
        }
    }

    #[test]
    fn a_login_is_not_printed_by_accident() {
        let (_folder, path) = file(NEW);
        let said = format!("{:?}", CfCli::read(path).unwrap());
        assert!(!said.contains("an.access.token"), "{said}");
        assert!(!said.contains("a-refresh-token"), "{said}");
    }

    #[test]
    fn only_the_tokens_change_and_mode_and_link_stay() {
        let (folder, path) = file(NEW);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = folder.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let cli = CfCli::read(&link).unwrap();
        cli.save(&Secret::new("new.access"), &Secret::new("new-refresh"))
            .unwrap();

        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let sorted = |text: &str| {
            let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).unwrap();
            let raw = |(name, value): (String, Box<RawValue>)| format!("{name}: {value}");
            members.into_iter().map(raw).collect::<Vec<_>>()
        };
        let expected = NEW
            .replace("an.access.token", "new.access")
            .replace("a-refresh-token", "new-refresh");
        assert_eq!(
            sorted(&fs::read_to_string(&path).unwrap()),
            sorted(&expected)
        );
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "nothing temporary stays: {left:?}");
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_left_alone() {
        for changed in [
            NEW.replace("a-refresh-token", "of-the-cf-cli"),
            NEW.replace("api.example.com", "api.other.example"),
        ] {
            let (_folder, path) = file(NEW);
            let cli = CfCli::read(&path).unwrap();
            fs::write(&path, &changed).unwrap();
            cli.save(&Secret::new("a"), &Secret::new("b")).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), changed);
        }
    }

    #[test]
    fn a_client_of_its_own_needs_no_refresh_token() {
        let text = NEW
            .replace(
                r#""UAAGrantType": """#,
                r#""UAAGrantType": "client_credentials""#,
            )
            .replace(r#""UAAOAuthClient": "cf""#, r#""UAAOAuthClient": "ci""#);
        let (_folder, path) = file(&text);
        let cli = CfCli::read(path).unwrap();
        assert!(cli.by_client_credentials);
        assert_eq!(cli.client, "ci");
    }
}
