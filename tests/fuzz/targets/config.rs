//! Settings: flags, variables and a file, as an operator might get them wrong.

use std::collections::HashMap;
use std::ffi::OsString;
use tempfile::NamedTempFile;
use transport::settings::{self, Over, Settings};

/// What must be shown nowhere.
const SECRET: &str = "s3cr3t-s3cr3t";

/// Flags that are ours to give.
const OURS: [&str; 3] = ["--config", "--check-config", "--print-config"];

/// What stands before the file.
const FILE: &str = "%%\n";

/// Lines: flags that begin with `-`, variables with a `=`, and behind a line `%%` the file. Each
/// program reads them.
pub(super) fn read(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    // Where it is no secret's value it may be shown.
    if text.contains(SECRET) {
        return;
    }
    let (lines, file) = text.split_once(FILE).unwrap_or((text, ""));
    let mut given = Given {
        file: NamedTempFile::new().unwrap(),
        flags: Vec::new(),
        variables: HashMap::from([(
            "TRAFFIC_CONTROLLER_UAA_CLIENT_SECRET".to_owned(),
            SECRET.to_owned(),
        )]),
    };
    std::fs::write(&given.file, file).unwrap();
    for line in lines.lines().filter(|line| !line.contains('\0')) {
        match line.split_once('=') {
            // No file but ours: there are some that never end.
            _ if OURS.iter().any(|flag| line.starts_with(flag)) => {}
            Some((name, value)) if !line.starts_with('-') => {
                given.variables.insert(name.to_owned(), value.to_owned());
            }
            _ => given.flags.push(line.into()),
        }
    }
    agrees_with_itself::<doppler::config::Config>(&given);
    agrees_with_itself::<traffic_controller::config::Config>(&given);
}

struct Given {
    flags: Vec<OsString>,
    variables: HashMap<String, String>,
    file: NamedTempFile,
}

impl Given {
    fn read<S: Settings>(&self, first: &[&str]) -> Result<S, Over> {
        let config = format!("--config={}", self.file.path().display());
        let args = ["program", &config]
            .into_iter()
            .chain(first.iter().copied());
        let args = args.map(OsString::from).chain(self.flags.iter().cloned());
        let variable = |name: &str| self.variables.get(name).map(OsString::from);
        settings::read(args, variable, |_| Vec::new())
    }
}

/// Settings that are good can be shown, and those that are not have their mistakes named,
/// however they are asked for; the secret is in none of it.
fn agrees_with_itself<S: Settings>(given: &Given) {
    let shown = given.read::<S>(&["--print-config"]).err();
    let checked = given.read::<S>(&["--check-config"]).err();
    match given.read::<S>(&[]) {
        Ok(_) => {
            assert!(matches!(shown, Some(Over::Told(_))), "{shown:?}");
            assert!(matches!(checked, Some(Over::Told(_))), "{checked:?}");
        }
        Err(Over::Told(told)) => assert_eq!(checked, Some(Over::Told(told))),
        Err(Over::Mistaken(mistakes, code)) => {
            assert!(!mistakes.is_empty() && code == 2, "{mistakes:?} {code}");
            assert_eq!(checked, Some(Over::Mistaken(mistakes, 1)));
        }
    }
    for over in [shown, checked].into_iter().flatten() {
        let said = match over {
            Over::Told(text) => text,
            Over::Mistaken(mistakes, _) => mistakes.join("\n"),
        };
        assert!(!said.contains(SECRET), "{said}");
    }
}
