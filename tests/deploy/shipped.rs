//! A file of `deploy/`, as it is shipped, but for where things are.
//!
//! The rule: an address, a port or a path of the file may be put elsewhere ([`Shipped::place`]),
//! and in a check of idle limits those limits may be shortened ([`Shipped::limit`]). Nothing else,
//! and what is to be replaced must be there, so that no check goes on with a file it no longer
//! understands.

use std::path::{Path, PathBuf};

/// Where they all are.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

/// The text of one.
pub(crate) struct Shipped {
    name: &'static str,
    text: String,
}

/// Where a file of `deploy/` is.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DEPLOY).join(name)
}

impl Shipped {
    pub(crate) fn read(name: &'static str) -> Shipped {
        let text = std::fs::read_to_string(path(name));
        Shipped {
            name,
            text: text.unwrap_or_else(|error| panic!("deploy/{name}: {error}")),
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Puts an address, a port or a path elsewhere, wherever the file has it.
    pub(crate) fn place(self, there: &str, here: &str) -> Shipped {
        assert_eq!(
            without_places(there),
            without_places(here),
            "deploy/{} would say something else",
            self.name
        );
        self.replace(there, here)
    }

    /// Shortens an idle limit.
    pub(crate) fn limit(self, there: &str, here: &str) -> Shipped {
        let words = |limit: &str| limit.rsplit_once(' ').map(|(words, _)| words.to_owned());
        assert_eq!(
            words(there),
            words(here),
            "deploy/{}: not a limit",
            self.name
        );
        self.replace(there, here)
    }

    fn replace(mut self, there: &str, here: &str) -> Shipped {
        let is_there = self.text.contains(there);
        assert!(is_there, "deploy/{} does not say {there:?}", self.name);
        self.text = self.text.replace(there, here);
        self
    }

    /// Writes it into `directory` under its own name.
    pub(crate) fn write(&self, directory: &Path) -> PathBuf {
        let name = Path::new(self.name).file_name().expect("it has a name");
        let path = directory.join(name);
        std::fs::write(&path, &self.text).expect("the directory is ours");
        path
    }
}

/// What a text says beside addresses, ports and paths.
fn without_places(text: &str) -> Vec<String> {
    let words = text
        .split_whitespace()
        .map(|word| match word.contains('/') {
            true => String::new(),
            false => word.replace(|c: char| c.is_ascii_digit() || ".:".contains(c), ""),
        });
    words.collect()
}
