//! `deploy/separate-hostname`: a name of its own for WebSockets, on an address of its own or told
//! apart in the TLS hello.

use crate::Check;
use crate::balancer::{self, Balancer, Kind, OWN_NAME, Site, installed};
use crate::client;
use crate::haproxy;
use crate::standin::StandIn;
use crate::streams;
use harness::Tls;
use harness::cluster::Cluster;
use harness::envelopes::guid;
use harness::reader::Opening;
use std::net::Ipv4Addr;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// In place of 192.0.2.10:443, 192.0.2.10:80 and 192.0.2.20:443.
const OWN: u16 = 443;
const PLAIN: u16 = 80;
const BY_NAME: u16 = 8443;

static SEPARATE: Kind = Kind {
    name: "haproxy",
    file: "separate-hostname/haproxy.cfg",
    ports: &[OWN, PLAIN, BY_NAME],
    limits: &[],
    rfc_8441: false,
    places,
    program: || Box::pin(async { installed("haproxy", "haproxy") }),
    arguments: haproxy::arguments,
};

fn places(site: &Site) -> Vec<(String, String)> {
    let mut places = vec![
        ("192.0.2.10:443".to_owned(), site.at(OWN).to_string()),
        ("192.0.2.10:80".to_owned(), site.at(PLAIN).to_string()),
        ("192.0.2.20:443".to_owned(), site.at(BY_NAME).to_string()),
    ];
    for (n, last) in ["1", "2"].iter().enumerate() {
        places.push((format!("10.0.16.2{last}:8081"), site.servers[n].to_string()));
        // Whoever had 443 before.
        places.push((format!("10.0.16.3{last}:443"), site.proxied[n].to_string()));
    }
    let ca = "loggregator-ca.crt";
    places.push((format!("/etc/haproxy/certs/{ca}"), site.file(ca)));
    places
}

/// Streams come through each of the three ways, and requests with another name go elsewhere.
async fn run() -> Result<String, String> {
    let certs = balancer::certs();
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .certs(certs.clone())
        .controller_flag("--plain-from", "127.0.0.1/32")
        .start()
        .await;
    let stand_in = StandIn::start(&certs).await;
    let server = cluster.controllers[0].address;
    let (servers, others) = ([server; 2], [stand_in.address; 2]);
    let balancer = Balancer::start_proxied(&SEPARATE, &certs, servers, others).await;
    let by_own_name = Tls {
        config: certs.client(None, &["http/1.1"]),
        name: OWN_NAME,
    };
    let path = format!("/apps/{}/stream", guid(1));
    let mut readers = Vec::new();
    for (port, tls) in [
        (OWN, Some(&by_own_name)),
        (BY_NAME, Some(&by_own_name)),
        (PLAIN, None),
    ] {
        let opening = Opening::new(balancer.at(port), tls.cloned(), &*path);
        readers.push(opening.only(1).open().await);
    }
    cluster.tailed([1], 1).await;
    streams::arrives(&cluster, &readers.iter().collect::<Vec<_>>()).await;

    let by_another = balancer::tls(&certs, &["http/1.1"]);
    let to = balancer.at(BY_NAME);
    let mut stream = client::connect(Ipv4Addr::LOCALHOST, to, &by_another).await;
    client::upgrade(&mut stream, "/elsewhere").await;
    let elsewhere = stand_in.told("/elsewhere");
    Ok(format!(
        "three tails, one of them without TLS; another name went elsewhere ({})",
        elsewhere.request_line()
    ))
}

pub(crate) fn checks() -> Vec<Check> {
    vec![Check {
        name: "separate-hostname",
        what: "streams on an address of their own, with and without TLS, and by the name in the TLS \
               hello; whoever says another name goes elsewhere",
        limit: LIMIT,
        alone: false,
        run: || Box::pin(run()),
    }]
}
