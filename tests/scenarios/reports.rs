//! What both programs tell the agent beside them about themselves.

use crate::SOON;
use harness::agent::{Agent, Name};
use harness::cluster::Cluster;
use harness::envelopes::Workload;
use harness::eventually;

/// A row of the table in docs/metrics.md: tags beyond those that all have, and a gauge's unit.
fn name(source_id: &str, name: &str, tag: Option<(&str, &str)>, unit: Option<&str>) -> Name {
    let origin = match source_id {
        "doppler" => "loggregator.doppler",
        _ => "loggregator.trafficcontroller",
    };
    let all = [("origin", origin), ("metric_version", "2.0")];
    let tags = all.into_iter().chain(tag);
    Name {
        source_id: source_id.to_owned(),
        name: name.to_owned(),
        tags: tags
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        unit: unit.map(str::to_owned),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_told_upstreams_metrics_and_no_delta_is_lost_while_it_is_away() {
    let agent = Agent::start(0, None).await;
    let address = agent.address;
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--agent-grpc-address", address)
        .doppler_flag("--metric-interval-ms", 50)
        .controller_flag("--agent-grpc-address", address)
        .controller_flag("--metric-emitter-interval", "50ms")
        .start()
        .await;
    let reader = cluster.controllers[0].firehose("a").open().await;
    cluster.subscribed("a", 1).await;
    let mut producer = cluster.dopplers[0].producer(0, Workload::logs(1, 50)).await;
    producer.send(100).await;
    reader.receives(100, SOON).await;

    let (doppler, controller) = ("doppler", "traffic_controller");
    let mut all = vec![
        name(doppler, "ingress", None, None),
        name(doppler, "egress", None, None),
        name(doppler, "dropped", Some(("direction", "ingress")), None),
        name(doppler, "dropped", Some(("direction", "egress")), None),
        name(doppler, "subscriptions", None, Some("subscriptions")),
        name(controller, "ingress", Some(("protocol", "grpc")), None),
        name(controller, "egress", Some(("endpoint", "firehose")), None),
        name(controller, "egress", Some(("endpoint", "stream")), None),
        name(
            controller,
            "doppler_proxy.firehoses",
            None,
            Some("connections"),
        ),
        name(
            controller,
            "doppler_proxy.app_streams",
            None,
            Some("connections"),
        ),
        name(controller, "doppler_proxy.slow_consumer", None, None),
    ];
    all.sort();
    let egress = |agent: &Agent| agent.deltas("egress", Some("firehose")).iter().sum::<u64>();
    let ingress = |agent: &Agent| {
        agent
            .deltas("ingress", Some("loggregator.doppler"))
            .iter()
            .sum::<u64>()
    };
    eventually(SOON, "the agent was told all that was", async || {
        egress(&agent) == 100 && ingress(&agent) == 100 && agent.names() == all
    })
    .await;
    assert!(
        agent.deltas("dropped", Some("egress")).contains(&0),
        "0 is told too"
    );

    drop(agent);
    let keeps = "cannot report, keeping it";
    eventually(SOON, "both notice that it is gone", async || {
        let processes = [
            &cluster.dopplers[0].process,
            &cluster.controllers[0].process,
        ];
        processes.iter().all(|process| process.logged(keeps))
    })
    .await;
    producer.send(50).await;
    reader.receives(150, SOON).await;
    let agent = Agent::start(address.port(), None).await;
    eventually(SOON, "it is told what it missed", async || {
        egress(&agent) == 50 && ingress(&agent) == 50
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_to_an_agent_is_mtls_with_the_certificate_for_dopplers() {
    let certs = harness::certs::Certs::new();
    let agent = Agent::start(0, Some(&certs)).await;
    let doppler = certs.pair("doppler");
    let file = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let args = [
        "--address=127.0.0.1".to_owned(),
        "--port=0".to_owned(),
        format!("--cert-file={}", file(doppler.cert)),
        format!("--key-file={}", file(doppler.key)),
        format!("--ca-file={}", file(certs.ca())),
        format!("--agent-grpc-address={}", agent.address),
    ];
    let program = harness::binaries::doppler();
    let _doppler = harness::process::Process::start("doppler", &program, args);
    eventually(SOON, "the agent is told", async || agent.names().len() == 5).await;
}
