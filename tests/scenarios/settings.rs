//! Both programs start with what BOSH gives the Go ones, and say what is wrong with the rest.

use crate::SOON;
use harness::binaries;
use harness::certs::Certs;
use harness::cluster::Cluster;
use harness::process::Process;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};

fn text(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

/// What `jobs/doppler/templates/bpm.yml.erb` sets, with ports of our own.
fn doppler(certs: &Certs) -> Vec<(&'static str, String)> {
    let pair = certs.pair("doppler");
    vec![
        ("ROUTER_PORT", "0".into()),
        ("ROUTER_CERT_FILE", text(pair.cert)),
        ("ROUTER_KEY_FILE", text(pair.key)),
        ("ROUTER_CA_FILE", text(certs.ca())),
        (
            "ROUTER_CIPHER_SUITES",
            "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384".into(),
        ),
        ("INGRESS_BUFFER_SIZE", "10000".into()),
        ("EGRESS_BUFFER_SIZE", "1000".into()),
        ("AGENT_GRPC_ADDRESS", "127.0.0.1:3458".into()),
        ("ROUTER_PPROF_PORT", "0".into()),
        ("USE_RFC339", "false".into()),
    ]
}

/// What `jobs/loggregator_trafficcontroller/templates/bpm.yml.erb` sets, with ports of our own.
fn traffic_controller(certs: &Certs) -> Vec<(&'static str, String)> {
    let (outgoing, router) = (certs.pair("localhost"), certs.pair("trafficcontroller"));
    let ca = || text(certs.ca());
    vec![
        ("TRAFFIC_CONTROLLER_IP", "127.0.0.1".into()),
        (
            "TRAFFIC_CONTROLLER_API_HOST",
            "https://localhost:9023".into(),
        ),
        ("TRAFFIC_CONTROLLER_OUTGOING_DROPSONDE_PORT", "0".into()),
        ("TRAFFIC_CONTROLLER_OUTGOING_CERT_FILE", text(outgoing.cert)),
        ("TRAFFIC_CONTROLLER_OUTGOING_KEY_FILE", text(outgoing.key)),
        ("TRAFFIC_CONTROLLER_SYSTEM_DOMAIN", "sys.example.com".into()),
        ("TRAFFIC_CONTROLLER_SKIP_CERT_VERIFY", "true".into()),
        (
            "TRAFFIC_CONTROLLER_UAA_HOST",
            "https://localhost:8443".into(),
        ),
        ("TRAFFIC_CONTROLLER_UAA_CA_CERT", ca()),
        ("TRAFFIC_CONTROLLER_UAA_CLIENT", "doppler".into()),
        ("TRAFFIC_CONTROLLER_UAA_CLIENT_SECRET", "s3cr3t".into()),
        ("TRAFFIC_CONTROLLER_SECURITY_EVENT_LOG", String::new()),
        ("TRAFFIC_CONTROLLER_PPROF_PORT", "0".into()),
        ("TRAFFIC_CONTROLLER_METRIC_EMITTER_INTERVAL", "1m".into()),
        ("TRAFFIC_CONTROLLER_DISABLE_ACCESS_CONTROL", "false".into()),
        ("ROUTER_ADDRS", "127.0.0.1:8082".into()),
        ("ROUTER_CA_FILE", ca()),
        ("ROUTER_CERT_FILE", text(router.cert.clone())),
        ("ROUTER_KEY_FILE", text(router.key.clone())),
        ("CC_CERT_FILE", text(router.cert)),
        ("CC_KEY_FILE", text(router.key)),
        ("CC_CA_FILE", ca()),
        ("CC_SERVER_NAME", "localhost".into()),
        ("AGENT_GRPC_ADDRESS", "127.0.0.1:3458".into()),
        ("USE_RFC339", "false".into()),
    ]
}

/// Runs a program to its end.
fn run(program: PathBuf, args: &[&str], environment: &[(&str, String)]) -> Output {
    Command::new(program)
        .args(args)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const NOTHING: &[&str] = &[];

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_starts_with_boshs_environment_alone() {
    let certs = Certs::new();
    let environment = doppler(&certs);
    let mut process = Process::start_with("doppler", &binaries::doppler(), NOTHING, &environment);
    assert_ne!(process.bound("grpc bound to: ").await.port(), 0);
    assert!(process.bound("pprof bound to: ").await.ip().is_loopback());
    assert_eq!(process.terminate(SOON).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traffic_controller_starts_with_boshs_environment_alone() {
    let certs = Certs::new();
    let environment = traffic_controller(&certs);
    let program = binaries::traffic_controller();
    let mut process = Process::start_with("traffic-controller", &program, NOTHING, &environment);
    assert_ne!(process.bound("ws bound to: ").await.port(), 0);
    assert!(process.bound("pprof bound to: ").await.ip().is_loopback());
    assert_eq!(process.terminate(SOON).await, 0);
    assert!(!process.logged("s3cr3t"));
}

#[test]
fn a_wrong_setting_is_named_and_ends_with_2() {
    let port = [("ROUTER_PORT", "70000".to_owned())];
    let output = run(binaries::doppler(), &["--drain", "soon"], &port);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("ROUTER_PORT (--port): \"70000\""), "{said}");
    assert!(said.contains("--drain: \"soon\""), "{said}");
}

#[test]
fn check_config_says_everything_that_is_wrong_files_included() {
    let certs = Certs::new();
    let check = &["--check-config"];
    for (program, environment) in [
        (binaries::doppler(), doppler(&certs)),
        (binaries::traffic_controller(), traffic_controller(&certs)),
    ] {
        let output = run(program, check, &environment);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let mut environment = traffic_controller(&certs);
    let wrong = [
        ("TRAFFIC_CONTROLLER_OUTGOING_CERT_FILE", "no/cert"),
        ("TRAFFIC_CONTROLLER_OUTGOING_KEY_FILE", "no/key"),
        ("ROUTER_CA_FILE", "no/ca"),
        ("TRAFFIC_CONTROLLER_TOKENS_FILE", "no/tokens"),
        ("TRAFFIC_CONTROLLER_PPROF_PORT", "70000"),
        ("TRAFFIC_CONTROLLER_UAA_CLIENT_SECRET", ""),
        ("TRAFFIC_CONTROLLER_API_HOST", "cloud_controller"),
    ];
    environment.extend(wrong.map(|(name, value)| (name, value.to_owned())));
    let output = run(binaries::traffic_controller(), check, &environment);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    for part in [
        "no/cert",
        "no/key",
        "no/ca",
        "no/tokens",
        "TRAFFIC_CONTROLLER_PPROF_PORT",
        "--uaa-client-secret",
        "TRAFFIC_CONTROLLER_API_HOST",
        "give one or the other",
    ] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
}

#[test]
fn print_config_says_where_each_setting_was_set_and_no_secret() {
    let certs = Certs::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("settings.yml");
    std::fs::write(&file, "properties:\n  logger_endpoint: {port: 4443}\n").unwrap();
    let args = [
        "--print-config",
        "--config",
        file.to_str().unwrap(),
        "--drain",
        "1",
    ];
    let output = run(
        binaries::traffic_controller(),
        &args,
        &traffic_controller(&certs),
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let page = String::from_utf8(output.stdout).unwrap();
    let line = |flag: &str| {
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("{flag} ")));
        let words = line.unwrap_or_else(|| panic!("{flag} is missing in\n{page}"));
        words
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(line("--drain")[1..], ["1", "--drain"]);
    assert_eq!(
        line("--logger-endpoint-port")[1..3],
        ["4443", "logger_endpoint.port"]
    );
    assert_eq!(line("--max-streams")[1..], ["10000", "default"]);
    let secret = line("--uaa-client-secret");
    assert_eq!(
        secret[1..],
        ["(masked)", "TRAFFIC_CONTROLLER_UAA_CLIENT_SECRET"]
    );
    assert!(!page.contains("s3cr3t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pem_text_in_a_file_of_settings_serves_tls() {
    let certs = Certs::new();
    let pair = certs.pair("doppler");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| format!("      {line}\n"))
            .collect::<String>()
    };
    let file = format!(
        "doppler: {{grpc_port: 0, pprof_port: 0, address: 127.0.0.1}}\nloggregator:\n  tls:\n    ca_cert: |\n{}    doppler:\n      cert: |\n{}      key: |\n{}",
        read(certs.ca()),
        read(pair.cert).replace("      ", "        "),
        read(pair.key).replace("      ", "        "),
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("settings.yml");
    std::fs::write(&path, file).unwrap();
    let args = ["--config", path.to_str().unwrap()];
    let mut process = Process::start("doppler", &binaries::doppler(), args);
    let address = process.bound("grpc bound to: ").await;
    let tls = harness::Tls {
        config: certs.client(Some(&certs.pair("metron")), &["h2"]),
        name: "doppler",
    };
    assert!(
        harness::producer::Connection::open(address, Some(&tls))
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_described_and_in_the_page_and_the_page_has_no_others() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .start()
        .await;
    let page = include_str!("../../docs/metrics.md");
    let page = page.split("## For the agent").next().unwrap();
    let row = |line: &'static str| Some((line.strip_prefix("| `")?.split('`').next()?, line));
    let rows: Vec<(&str, &str)> = page.lines().filter_map(row).collect();
    let mut exposed = BTreeSet::new();
    for admin in [cluster.dopplers[0].admin, cluster.controllers[0].admin] {
        let (_, text) = harness::admin::get(admin, "/metrics").await.unwrap();
        let names = |what: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(what));
            let names = lines.filter_map(|line| line.split(' ').next());
            names.map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let types = names("# TYPE ");
        assert_eq!(types, names("# HELP "), "each has a description");
        exposed.extend(types);
    }
    for name in &exposed {
        assert!(
            rows.iter().any(|(row, _)| row == name),
            "{name} is not in docs/metrics.md"
        );
    }
    for (name, line) in rows {
        let once = line.contains("(once");
        assert!(
            once || exposed.contains(name),
            "{name} is in docs/metrics.md alone"
        );
    }
}
