//! `deploy/kubernetes`, as `kubectl kustomize` makes it, against Kubernetes' own schemas; and the
//! HAProxy of its overlay in front of an admin listener.

use crate::command::{command, deploy, output, text};
use crate::{Check, python, settings};
use futures::FutureExt;
use harness::cluster::{self, Cluster};
use harness::process::Process;
use harness::{admin, eventually};
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::time::Duration;

/// The version whose schemas they must fit; `preStop: sleep` is on from 1.30.
const VERSION: &str = "1.32";

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check {
            name: "kubernetes manifests",
            what: "what kustomize makes of both directories fits the schemas, with no name unknown",
            limit: Duration::from_secs(300),
            alone: false,
            run: || manifests().boxed(),
        },
        Check {
            name: "kubernetes prometheus",
            what: "the HAProxy beside a process shows metrics and health, and no other page",
            limit: Duration::from_secs(60),
            alone: false,
            run: || sidecar().boxed(),
        },
    ]
}

async fn manifests() -> Result<String, String> {
    let programs = python::programs().await;
    let directory = tempfile::tempdir().unwrap();
    let mut count = 0;
    for name in ["base", "prometheus"] {
        let from = deploy("kubernetes").join(name);
        let kustomize = &mut command("kubectl", &["kustomize"]);
        let made = output(kustomize.arg(&from)).await?;
        let file = directory.path().join(name).with_extension("yaml");
        std::fs::write(&file, &made).unwrap();
        let mut validate = command(
            programs.join("kubernetes-validate"),
            &["--kubernetes-version", VERSION, "--strict"],
        );
        output(validate.arg(&file)).await?;
        count += made.split("\n---\n").count();
        known(&made);
    }
    Ok(format!("{count} resources fit Kubernetes {VERSION}"))
}

/// Every variable that a pod of ours is given is one of ours.
fn known(manifests: &str) {
    let ours = ["doppler", "traffic-controller"].map(settings::variables);
    // A ConfigMap's `NAME: value`, a container's `- name: NAME`.
    let named = manifests.lines().filter_map(|line| {
        let line = line.trim_start();
        let name = line
            .strip_prefix("- name: ")
            .or_else(|| Some(line.split_once(": ")?.0))?;
        let upper = |c: char| c.is_ascii_uppercase() || c == '_';
        (name.len() > 3 && name.chars().all(upper)).then_some(name)
    });
    let mut found = 0;
    for name in named {
        let one_of_ours = ours.iter().any(|variables| variables.contains(name));
        // The client's, and the overlay's own.
        let other = ["DOPPLER_ADDR", "ADMIN_PORT"].contains(&name);
        assert!(one_of_ours || other, "{name} is not in docs/settings.md");
        found += 1;
    }
    assert!(found > 10, "only {found} variables were found");
}

async fn sidecar() -> Result<String, String> {
    let cluster = Cluster::builder().dopplers(1).start().await;
    let port = cluster::free_port();
    let shipped = text(&deploy("kubernetes/prometheus/haproxy.cfg"));
    let here = shipped.replace("bind :::9100 v4v6", &format!("bind 127.0.0.1:{port}"));
    assert_ne!(shipped, here, "the port is where it was");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("haproxy.cfg");
    std::fs::write(&file, here).unwrap();
    let environment = [("ADMIN_PORT", cluster.dopplers[0].admin.port().to_string())];
    let program = std::path::Path::new("/usr/sbin/haproxy");
    let arguments = [OsStr::new("-db"), OsStr::new("-f"), file.as_os_str()];
    let _haproxy = Process::start_with("haproxy", program, arguments, &environment);

    let shown = SocketAddr::from(([127, 0, 0, 1], port));
    eventually(Duration::from_secs(10), "HAProxy listens", async || {
        admin::get(shown, "/health/ready").await.is_ok()
    })
    .await;
    for (path, status) in [
        ("/health/ready", 200),
        ("/health/live", 200),
        ("/metrics", 200),
        ("/subscriptions", 403),
        ("/losses", 403),
    ] {
        let (answered, _) = admin::get(shown, path)
            .await
            .map_err(|error| error.to_string())?;
        if answered != status {
            return Err(format!("{path}: {answered}, not {status}"));
        }
    }
    let metrics = admin::metrics(shown).await;
    assert_eq!(metrics.imbalance(), 0.0);
    Ok("3 pages shown, 2 denied".to_owned())
}
