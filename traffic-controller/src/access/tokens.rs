//! Access for a system without a UAA: a file of tokens and what each may read.
//!
//! ```yaml
//! - token: correct-horse-battery
//!   firehose: true
//! - token: staple
//!   apps: [11111111-2222-3333-4444-555555555555]
//! - token: operator
//!   firehose: true
//!   apps: all
//! ```

use super::Refusal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use proto::request::{AppGuid, Request};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

/// Tokens by their SHA-256, so that looking one up takes as long whether it is nearly right or
/// not, and none lies in memory as text.
pub struct Tokens(HashMap<[u8; SHA256_OUTPUT_LEN], Grant>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Grant {
    firehose: bool,
    apps: Apps,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Apps {
    All,
    These(HashSet<String>),
}

impl Default for Apps {
    fn default() -> Apps {
        Apps::These(HashSet::new())
    }
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It is missing, or not ours to read.
    #[error("could not read the token file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not a list of tokens.
    #[error("the token file {path} is not a list of `token`, `firehose` and `apps`: {reason}")]
    Form {
        /// The file.
        path: PathBuf,
        /// Where it went wrong; no token is quoted.
        reason: String,
    },
    /// It would let somebody in by mistake, or nobody on purpose.
    #[error("entry {entry} of the token file {path} {what}")]
    Entry {
        /// The file.
        path: PathBuf,
        /// Which entry, from 1.
        entry: usize,
        /// What is wrong with it.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    token: String,
    #[serde(default)]
    firehose: bool,
    #[serde(default)]
    apps: Option<AppsEntry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AppsEntry {
    These(Vec<String>),
    Word(String),
}

impl Tokens {
    /// Reads a token file.
    pub fn read(path: &Path) -> Result<Tokens, TokensError> {
        let text = std::fs::read_to_string(path).map_err(|source| TokensError::Read {
            path: path.into(),
            source,
        })?;
        Tokens::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Tokens, TokensError> {
        let entries: Vec<Entry> =
            serde_saphyr::from_str(text).map_err(|error| TokensError::Form {
                path: path.into(),
                reason: position(&error),
            })?;
        let mut tokens = HashMap::new();
        for (n, entry) in entries.into_iter().enumerate() {
            let wrong = |what: String| TokensError::Entry {
                path: path.into(),
                entry: n + 1,
                what,
            };
            if entry.token.is_empty() {
                return Err(wrong("has an empty token".to_owned()));
            }
            let grant = Grant {
                firehose: entry.firehose,
                apps: apps(entry.apps).map_err(wrong)?,
            };
            if grant == Grant::default() {
                return Err(wrong(
                    "grants nothing: give it `firehose: true` or `apps`".to_owned(),
                ));
            }
            if tokens.insert(hash(&entry.token), grant).is_some() {
                return Err(wrong("has a token that an entry before it has".to_owned()));
            }
        }
        Ok(Tokens(tokens))
    }

    pub(super) fn check(&self, token: &str, asked: &Request) -> Result<(), Refusal> {
        let grant = self.0.get(&hash(token)).ok_or(Refusal::BadToken)?;
        match (asked.app(), &grant.apps) {
            (None, _) if grant.firehose => Ok(()),
            (None, _) => Err(Refusal::BadToken),
            (Some(_), Apps::All) => Ok(()),
            (Some(app), Apps::These(apps)) if apps.contains(app.as_str()) => Ok(()),
            (Some(_), Apps::These(_)) => Err(Refusal::NotFound),
        }
    }
}

fn apps(entry: Option<AppsEntry>) -> Result<Apps, String> {
    match entry {
        None => Ok(Apps::default()),
        Some(AppsEntry::Word(word)) if word == "all" => Ok(Apps::All),
        Some(AppsEntry::Word(word)) => Err(format!(
            "says `apps: {word}`: give a list of GUIDs, or `all`"
        )),
        Some(AppsEntry::These(guids)) => {
            for guid in &guids {
                AppGuid::new(guid)
                    .map_err(|_| format!("names {guid:?}, which is not an app GUID"))?;
            }
            Ok(Apps::These(guids.into_iter().collect()))
        }
    }
}

/// Where a YAML error is, without the text around it: that may be a token.
fn position(error: &serde_saphyr::Error) -> String {
    match error.location() {
        Some(at) => format!("line {}, column {}", at.line(), at.column()),
        None => "unexpected end".to_owned(),
    }
}

fn hash(token: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::request::{Filter, SubscriptionId};

    const APP: &str = "11111111-2222-3333-4444-555555555555";

    fn tokens(text: &str) -> Result<Tokens, String> {
        Tokens::parse(text, Path::new("tokens.yml")).map_err(|error| error.to_string())
    }

    fn firehose() -> Request {
        Request::Firehose {
            subscription: SubscriptionId::new("n").unwrap(),
            filter: Filter::Everything,
        }
    }

    fn app(guid: &str) -> Request {
        Request::AppStream {
            app: AppGuid::new(guid).unwrap(),
            recent: None,
        }
    }

    #[test]
    fn a_token_may_read_what_its_entry_says_and_nothing_else() {
        let tokens = tokens(&format!(
            "- {{token: f, firehose: true}}\n- {{token: a, apps: [{APP}]}}"
        ))
        .unwrap();
        assert_eq!(tokens.check("f", &firehose()), Ok(()));
        assert_eq!(tokens.check("f", &app(APP)), Err(Refusal::NotFound));
        assert_eq!(tokens.check("a", &app(APP)), Ok(()));
        assert_eq!(
            tokens.check("a", &app(&APP.replace('5', "6"))),
            Err(Refusal::NotFound)
        );
        assert_eq!(tokens.check("a", &firehose()), Err(Refusal::BadToken));
        assert_eq!(tokens.check("x", &app(APP)), Err(Refusal::BadToken));
    }

    #[test]
    fn a_bad_file_is_refused_without_quoting_a_token() {
        for (text, says) in [
            ("- {token: secret, firehos: true}", "line 1"),
            ("- {token: secret}", "grants nothing"),
            ("- {token: '', firehose: true}", "empty token"),
            ("- {token: secret, apps: some}", "`all`"),
            ("- {token: secret, apps: [x]}", "not an app GUID"),
            (
                "- {token: secret, firehose: true}\n- {token: secret, firehose: true}",
                "entry 2",
            ),
        ] {
            let error = tokens(text).map(drop).unwrap_err();
            assert!(error.contains(says) && !error.contains("secret"), "{error}");
        }
    }
}
