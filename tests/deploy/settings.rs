//! What there is to set, by docs/settings.md, which another test keeps true.

use crate::command::{repository, text};
use std::collections::BTreeSet;

/// The variables of a program.
pub(crate) fn variables(program: &str) -> BTreeSet<String> {
    column(program, 1)
}

/// Its properties in BOSH.
pub(crate) fn properties(program: &str) -> BTreeSet<String> {
    column(program, 2)
}

fn column(program: &str, column: usize) -> BTreeSet<String> {
    let page = text(&repository().join("docs/settings.md"));
    let (begin, end) = (
        format!("<!-- {program} -->"),
        format!("<!-- /{program} -->"),
    );
    let table = page
        .split_once(&begin)
        .and_then(|(_, rest)| rest.split_once(&end));
    let (table, _) = table.expect("docs/settings.md has a table for each program");
    let rows = table.lines().filter(|row| row.starts_with("| `--"));
    let names = rows.filter_map(|row| row.split('|').nth(column + 1));
    let names = names.flat_map(|names| names.split(','));
    let names = names.map(|name| name.trim().trim_matches('`').to_owned());
    let names: BTreeSet<String> = names.filter(|name| name != "–").collect();
    assert!(names.len() > 10, "{names:?}");
    names
}
