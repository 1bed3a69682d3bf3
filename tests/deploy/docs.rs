//! What `deploy/README.md` and `docs/load-balancers.md` say is so: rows name what there is, blocks
//! are what the shipped files say, and commands have been run.

use crate::balancer::{self, Balancer};
use crate::haproxy::HAPROXY;
use crate::shipped::path;
use crate::{Check, checks as all_checks};
use harness::binaries;
use harness::cluster::Cluster;
use std::collections::BTreeSet;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);

const TABLE: &str = "README.md";
const PAGE: &str = "../docs/load-balancers.md";

/// All pages here that have blocks.
const PAGES: [&str; 3] = [TABLE, PAGE, "separate-hostname/README.md"];

/// Where the doctor's findings have their names.
const FINDINGS: &str = "../firehose-client/src/bin/firehose/doctor/finding.rs";

/// What the doctor exits with: nothing to mend, and something.
const DOCTOR: [i32; 2] = [0, 6];

/// A fenced block.
struct Block {
    /// What stands behind the fence.
    language: String,
    /// The file of `deploy/` that it is from, by the comment before it.
    from: Option<String>,
    text: String,
    /// What the next line says that it says.
    says: Option<String>,
}

fn read(name: &str) -> Result<String, String> {
    std::fs::read_to_string(path(name)).map_err(|error| format!("deploy/{name}: {error}"))
}

/// The cells of each row of each table.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").collect()).collect()
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let (mut lines, mut from) = (page.lines(), None);
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            let file = line.strip_prefix("<!-- deploy/");
            from = file
                .and_then(|file| file.strip_suffix(" -->"))
                .map(str::to_owned);
            continue;
        };
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let next = lines.clone().find(|line| !line.is_empty());
        let says = next.and_then(|line| line.strip_prefix("says `")?.split('`').next());
        blocks.push(Block {
            language: language.to_owned(),
            from: from.take(),
            text: text.join("\n"),
            says: says.map(str::to_owned),
        });
    }
    blocks
}

/// Each row names files that exist, what became of them, and the checks that say so; each check
/// has a row.
async fn table() -> Result<String, String> {
    let page = read(TABLE)?;
    let rows = rows(&page);
    let rows: Vec<_> = rows
        .iter()
        .filter(|row| row.len() == 5 && row[3] != "state")
        .collect();
    let checks = all_checks();
    let known: BTreeSet<&str> = checks.iter().map(|check| check.name).collect();
    let mut named = BTreeSet::new();
    for row in &rows {
        let [platform, files, _, state, tests] = row[..] else {
            continue;
        };
        let tests = quoted(tests);
        if let Some(unknown) = tests.iter().find(|test| !known.contains(*test)) {
            return Err(format!("{platform}: there is no check {unknown:?}"));
        }
        match (state, tests.is_empty()) {
            ("run" | "linted", false) | ("documented only", true) => {}
            _ => return Err(format!("{platform} is {state:?}, by {tests:?}")),
        }
        named.extend(tests);
        let links = files
            .split("](")
            .skip(1)
            .filter_map(|link| link.split(')').next());
        let files = links.filter_map(|link| link.split('#').next());
        if let Some(missing) = files.clone().find(|file| !path(file).exists()) {
            return Err(format!("{platform}: there is no {missing}"));
        }
    }
    let unnamed = known
        .iter()
        .find(|name| !named.contains(*name) && !name.starts_with("docs "));
    match unnamed {
        None => Ok(format!("{} rows, {} checks", rows.len(), named.len())),
        Some(name) => Err(format!("no row names the check {name:?}")),
    }
}

/// Each block is part of the file it is said to be from; the rest are commands and settings.
async fn excerpts() -> Result<String, String> {
    let mut excerpts = 0;
    for page in PAGES {
        for block in blocks(&read(page)?) {
            let Some(file) = block.from else {
                match &*block.language {
                    "sh" | "yaml" => continue,
                    _ => return Err(format!("{page}: of which file is\n{}", block.text)),
                }
            };
            let shipped = read(&file)?;
            let is_there = format!("\n{shipped}").contains(&format!("\n{}\n", block.text));
            if !is_there {
                return Err(format!(
                    "{page}: deploy/{file} does not say\n{}",
                    block.text
                ));
            }
            excerpts += 1;
        }
    }
    Ok(format!("{excerpts} excerpts"))
}

/// Each command runs, with our addresses, and each piece of settings is one a Traffic Controller
/// takes.
async fn commands() -> Result<String, String> {
    let certs = balancer::certs();
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .certs(certs.clone())
        .start()
        .await;
    let server = cluster.controllers[0].address;
    let balancer = Balancer::start(&HAPROXY, &certs, [server; 2]).await;
    let files = tempfile::tempdir().expect("a directory for settings");
    let programs = format!("{}:/usr/bin:/bin", binaries::built().display());
    let mut ran = 0;
    for page in PAGES {
        for block in blocks(&read(page)?)
            .into_iter()
            .filter(|block| block.from.is_none())
        {
            let script = match &*block.language {
                "sh" => [443, 4443].iter().fold(block.text.clone(), |text, port| {
                    let there = format!("doppler.sys.example.com:{port}");
                    text.replace(&there, &format!("localhost:{}", balancer.at(*port).port()))
                }),
                _ => {
                    let settings = files.path().join("settings.yml");
                    std::fs::write(&settings, &block.text).expect("the directory is ours");
                    format!(
                        "traffic-controller --check-config --config {}",
                        settings.display()
                    )
                }
            };
            if script.contains("example.com") {
                return Err(format!(
                    "{page}: nobody here stands for an address in {script:?}"
                ));
            }
            let output = Command::new("sh")
                .args(["-c", &script])
                .env_clear()
                .env("PATH", &programs)
                .env("HOME", files.path())
                .env("SSL_CERT_FILE", certs.ca())
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output()
                .await
                .expect("there is a shell");
            judge(page, &block, &script, &output)?;
            ran += 1;
        }
    }
    Ok(format!("{ran} ran"))
}

fn judge(page: &str, block: &Block, script: &str, output: &Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    let well = match block.text.starts_with("firehose doctor") {
        true => code.is_some_and(|code| DOCTOR.contains(&code)),
        false => output.status.success(),
    };
    let says = block.says.as_deref().unwrap_or_default();
    match well && said.contains(says) {
        true => Ok(()),
        false => Err(format!(
            "{page}: {script:?} ended with {code:?}: {said}{complained}"
        )),
    }
}

/// The doctor has each finding that the page explains.
async fn findings() -> Result<String, String> {
    let (page, source) = (read(PAGE)?, read(FINDINGS)?);
    let section = page
        .split("\n## ")
        .find(|section| section.contains("| finding |"));
    let section = section.ok_or("the page has no table of findings")?;
    let rows = rows(section);
    let names: Vec<&str> = rows.iter().skip(1).flat_map(|row| quoted(row[0])).collect();
    let unknown = names
        .iter()
        .find(|name| !source.contains(&format!("\"{name}\"")));
    match unknown {
        None => Ok(format!("{} findings", names.len())),
        Some(name) => Err(format!("the doctor finds no {name:?}")),
    }
}

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check {
            name: "docs table",
            what: "each row of deploy/README.md names files and checks that there are, and each \
                   check has a row",
            limit: LIMIT,
            alone: false,
            run: || Box::pin(table()),
        },
        Check {
            name: "docs excerpts",
            what: "each block of the pages stands in the file it is from",
            limit: LIMIT,
            alone: false,
            run: || Box::pin(excerpts()),
        },
        Check {
            name: "docs commands",
            what: "each command of the pages runs behind HAProxy, and says what it is said to say",
            limit: LIMIT,
            alone: false,
            run: || Box::pin(commands()),
        },
        Check {
            name: "docs findings",
            what: "the doctor has each finding that docs/load-balancers.md explains",
            limit: LIMIT,
            alone: false,
            run: || Box::pin(findings()),
        },
    ]
}
