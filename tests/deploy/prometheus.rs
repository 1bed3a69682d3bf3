//! `deploy/prometheus` and `deploy/grafana`: the rules' own tests, and that a real Prometheus which
//! reads a running system knows every metric that rules and dashboards name.
//!
//! Changed are the addresses of what is read, and how often.

use crate::Check;
use crate::command::{command, deploy, output, text};
use futures::FutureExt;
use harness::certs::Certs;
use harness::cluster::{self, Cluster};
use harness::envelopes::Workload;
use harness::process::Process;
use harness::{admin, eventually};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long until Prometheus has read everything twice.
const READ: Duration = Duration::from_secs(40);

/// Alerts of a system as it is in this check: nothing else may be on.
const EXPECTED: [&str; 3] = [
    // The second Traffic Controller knows nobody, cannot find anybody and cannot ask anybody.
    "LoggregatorNoDoppler",
    "LoggregatorDiscoveryFailed",
    "LoggregatorAccessNotChecked",
];

/// Words of PromQL that look like metrics.
const WORDS: [&str; 8] = [
    "and", "or", "unless", "bool", "offset", "by", "without", "on",
];

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check {
            name: "prometheus rules",
            what: "promtool finds nothing wrong, and each alert comes when it should",
            limit: Duration::from_secs(60),
            alone: false,
            run: || rules().boxed(),
        },
        Check {
            name: "prometheus metrics",
            what: "every metric of rules and dashboards is in a running system, and Prometheus \
                   answers every query",
            limit: Duration::from_secs(150),
            alone: false,
            run: || metrics().boxed(),
        },
    ]
}

async fn rules() -> Result<String, String> {
    let directory = deploy("prometheus");
    let run = async |arguments: &[&str]| {
        output(command("promtool", arguments).current_dir(&directory)).await
    };
    run(&["check", "config", "prometheus.yml"]).await?;
    run(&["check", "rules", "rules.yml"]).await?;
    run(&["test", "rules", "rules_test.yml"]).await?;
    let (rules, tests) = (
        text(&directory.join("rules.yml")),
        text(&directory.join("rules_test.yml")),
    );
    let alerts = rules
        .lines()
        .filter_map(|line| line.split_once("- alert: "));
    let alerts: Vec<&str> = alerts.map(|(_, name)| name).collect();
    for alert in &alerts {
        let tested = tests.contains(&format!("alertname: {alert}\n"));
        assert!(tested, "{alert} has no test");
    }
    Ok(format!("{} alerts, each tested", alerts.len()))
}

async fn metrics() -> Result<String, String> {
    let certs = Arc::new(Certs::new());
    let tokens = "- {token: good, firehose: true, apps: all}";
    let system = Cluster::builder()
        .dopplers(2)
        .controllers(1)
        .certs(certs.clone())
        .tokens(tokens)
        .start()
        .await;
    // One that has nobody to ask: what there is only once something went wrong.
    let nobody = format!("127.0.0.1:{}", cluster::free_port());
    let unlucky = Cluster::builder()
        .controllers(1)
        .certs(certs)
        .controller_flag("--uaa-host", format!("https://{nobody}"))
        .controller_flag("--uaa-client-secret", "a secret")
        .controller_flag("--router-dns-names", "dopplers.invalid:8082")
        .controller_flag("--router-dns-server", &nobody)
        .start()
        .await;
    let reader = system.controllers[0]
        .firehose("nozzle")
        .token("good")
        .open()
        .await;
    system.subscribed("nozzle", 1).await;
    let refused = system.controllers[0]
        .firehose("nozzle")
        .token("bad")
        .try_open()
        .await;
    assert!(refused.is_err_and(|refused| refused.status == 401));
    let refused = unlucky.controllers[0]
        .firehose("nozzle")
        .token("any")
        .try_open()
        .await;
    assert!(refused.is_err_and(|refused| refused.status == 503));
    let mut agent = system.dopplers[0].producer(1, Workload::mixed(3)).await;
    agent.send(1_000).await;
    reader.receives(1_000, READ).await;

    let dopplers: Vec<SocketAddr> = system.dopplers.iter().map(|one| one.admin).collect();
    let controllers = [system.controllers[0].admin, unlucky.controllers[0].admin];
    let mut pages = String::new();
    for address in dopplers.iter().chain(&controllers) {
        let (status, page) = admin::get(*address, "/metrics").await.unwrap();
        assert_eq!(status, 200);
        pages += &page;
    }
    let exist: BTreeSet<&str> = pages
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();

    let expressions = expressions();
    let mut names = BTreeSet::new();
    for expression in &expressions {
        names.extend(named(expression));
    }
    // Prometheus' own, and what the rules record.
    names.retain(|name| name != "up" && !name.contains(':'));
    let missing: Vec<&String> = names
        .iter()
        .filter(|name| !exist.contains(&***name))
        .collect();
    if !missing.is_empty() {
        return Err(format!("no process has {missing:?}"));
    }

    let directory = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(directory.path(), &dopplers, &controllers).await;
    eventually(READ, "Prometheus has read all of them", async || {
        let up = prometheus.ask("count(up == 1)").await;
        up.is_ok_and(|up| up[0]["value"][1] == "4")
    })
    .await;
    eventually(READ, "what the rules record is there", async || {
        let loss = prometheus.ask("loggregator:egress_loss:ratio_rate5m").await;
        loss.is_ok_and(|loss| loss[0]["value"][1] == "0")
    })
    .await;
    for expression in &expressions {
        prometheus.ask(expression).await?;
    }
    let alerts = prometheus.ask("ALERTS").await?;
    for alert in alerts.as_array().unwrap() {
        let name = alert["metric"]["alertname"].as_str().unwrap();
        assert!(EXPECTED.contains(&name), "{alert}");
    }
    Ok(format!(
        "{} metrics in {} expressions",
        names.len(),
        expressions.len()
    ))
}

/// Every expression of rules and dashboards.
fn expressions() -> Vec<String> {
    let mut all = Vec::new();
    let rules = text(&deploy("prometheus/rules.yml"));
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        match line.trim_start().strip_prefix("expr: ") {
            Some("|") => {
                let deep = |line: &&str| line.starts_with("      ");
                let mut whole = String::new();
                while let Some(line) = lines.next_if(deep) {
                    whole = whole + line + " ";
                }
                all.push(whole);
            }
            Some(expression) => all.push(expression.to_owned()),
            None => {}
        }
    }
    for file in deploy("grafana").read_dir().unwrap() {
        let dashboard: Value = serde_json::from_str(&text(&file.unwrap().path())).unwrap();
        let panels = dashboard["panels"].as_array().unwrap().iter();
        for target in panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten()) {
            let expression = target["expr"].as_str().unwrap();
            // What Grafana puts in.
            let expression = expression.replace("$__rate_interval", "1m");
            all.push(expression.replace("$instance", ".*"));
        }
    }
    assert!(all.len() > 40, "{all:?}");
    all
}

/// The metrics that an expression names: words that are neither called, nor labels, nor PromQL's.
fn named(expression: &str) -> Vec<String> {
    let mut rest = String::new();
    let mut depth = 0;
    for part in expression.chars() {
        depth += i32::from(part == '{' || part == '[');
        if depth == 0 {
            rest.push(part);
        }
        depth -= i32::from(part == '}' || part == ']');
    }
    let mut names = Vec::new();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut from = 0;
    while let Some(begin) = rest[from..].find(word).map(|at| from + at) {
        let end = rest[begin..]
            .find(|c| !word(c))
            .map_or(rest.len(), |at| begin + at);
        let name = &rest[begin..end];
        from = end;
        if ["by", "without", "on"].contains(&name) {
            // Labels follow, in parentheses.
            from = rest[end..].find(')').map_or(end, |at| end + at);
        }
        let called = rest[end..].trim_start().starts_with('(');
        if !called && !WORDS.contains(&name) && !name.starts_with(|c: char| c.is_ascii_digit()) {
            names.push(name.to_owned());
        }
    }
    names
}

/// A Prometheus that reads the system.
struct Prometheus {
    address: SocketAddr,
    _process: Process,
}

impl Prometheus {
    async fn start(
        directory: &Path,
        dopplers: &[SocketAddr],
        controllers: &[SocketAddr],
    ) -> Prometheus {
        let list = |addresses: &[SocketAddr]| {
            let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            all.join(", ")
        };
        let here = text(&deploy("prometheus/prometheus.yml"))
            .replace("127.0.0.1:6060", &list(dopplers))
            .replace("127.0.0.1:6061", &list(controllers))
            .replace("interval: 15s", "interval: 1s");
        let config = directory.join("prometheus.yml");
        std::fs::write(&config, here).unwrap();
        std::fs::copy(deploy("prometheus/rules.yml"), directory.join("rules.yml")).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], cluster::free_port()));
        let arguments = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", directory.join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let program = Path::new("/usr/bin/prometheus");
        let process = Process::start("prometheus", program, arguments);
        eventually(READ, "Prometheus is ready", async || {
            matches!(admin::get(address, "/-/ready").await, Ok((200, _)))
        })
        .await;
        Prometheus {
            address,
            _process: process,
        }
    }

    /// What it answers now.
    async fn ask(&self, query: &str) -> Result<Value, String> {
        let server = format!("http://{}", self.address);
        let arguments = ["query", "instant", "--format=json", &server, query];
        let said = output(&mut command("promtool", &arguments)).await?;
        serde_json::from_str(&said).map_err(|error| format!("{query}: {error}: {said}"))
    }
}
