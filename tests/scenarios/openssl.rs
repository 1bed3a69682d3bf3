//! What TLS looks like to somebody else's implementation: `openssl s_client`, as a real process.

use crate::SOON;
use harness::certs::Certs;
use harness::cluster::Cluster;
use harness::eventually;
use std::net::SocketAddr;
use tokio::process::Command;

/// What came of a handshake.
struct Shaken {
    /// The suite; `None` if there was no agreement.
    suite: Option<String>,
    /// The protocol chosen by ALPN.
    alpn: Option<String>,
    /// All that s_client said.
    said: String,
}

/// One side of the cluster as s_client is to see it.
struct Server<'a> {
    address: SocketAddr,
    /// The name it has in its certificate.
    name: &'static str,
    /// Whose certificate s_client shows.
    client: &'static str,
    certs: &'a Certs,
}

impl Server<'_> {
    /// A handshake with these options, and nothing after it.
    async fn shake(&self, options: &[&str]) -> Shaken {
        let pair = self.certs.pair(self.client);
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &self.address.to_string()])
            .args(["-servername", self.name, "-verify_hostname", self.name])
            .arg("-verify_return_error")
            .arg("-CAfile")
            .arg(self.certs.ca())
            .arg("-cert")
            .arg(&pair.cert)
            .arg("-key")
            .arg(&pair.key)
            .args(options)
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .expect("openssl is in every distribution: install it");
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let behind = |words: &str| {
            let found = said.lines().find_map(|line| line.split_once(words));
            found.map(|(_, value)| value.trim().to_owned())
        };
        Shaken {
            suite: behind("Cipher is ").filter(|suite| suite != "(NONE)"),
            alpn: behind("ALPN protocol: "),
            said,
        }
    }

    async fn agrees(&self, options: &[&str], suite: &str) {
        let shaken = self.shake(options).await;
        let (agreed, said) = (shaken.suite.as_deref(), shaken.said);
        assert_eq!(agreed, Some(suite), "{options:?}: {said}");
        assert!(!said.contains("alert"), "{options:?}: {said}");
    }

    /// Refused with an alert that openssl words like this.
    async fn refuses(&self, options: &[&str], alert: &str) {
        let shaken = self.shake(options).await;
        // openssl names a suite even if the refusal came behind it: the alert is what counts.
        let said = shaken.said;
        assert!(said.contains(alert), "{options:?}: {said}");
    }
}

/// A Doppler's port and a Traffic Controller's public port.
fn both(cluster: &Cluster) -> [Server<'_>; 2] {
    let certs = cluster.certs().unwrap();
    [
        Server {
            address: cluster.dopplers[0].address,
            name: "doppler",
            client: "metron",
            certs,
        },
        Server {
            address: cluster.controllers[0].address,
            name: "localhost",
            client: "metron",
            certs,
        },
    ]
}

async fn one_of_each() -> Cluster {
    Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .start()
        .await
}

/// openssl's own floor is above TLS 1.1; this is what lets it try.
const OLD: &str = "@SECLEVEL=0";

#[tokio::test(flavor = "multi_thread")]
async fn with_an_rsa_key_upstreams_two_suites_and_tls_1_3_work_and_nothing_else() {
    let cluster = one_of_each().await;
    for server in both(&cluster) {
        server.certs.issue_rsa(server.name);
        let tls_1_2 = |suite: &'static str| ["-tls1_2", "-cipher", suite];
        let first = "ECDHE-RSA-AES128-GCM-SHA256";
        eventually(SOON, "the RSA pair is loaded", async || {
            let shaken = server.shake(&tls_1_2(first)).await;
            shaken.suite.as_deref() == Some(first)
        })
        .await;
        for suite in [first, "ECDHE-RSA-AES256-GCM-SHA384"] {
            server.agrees(&tls_1_2(suite), suite).await;
        }
        for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"] {
            let options = ["-tls1_3", "-ciphersuites", suite];
            server.agrees(&options, suite).await;
        }
        // conformance/tc-http.tsv, X05.
        for suite in [
            "ECDHE-RSA-CHACHA20-POLY1305",
            "ECDHE-RSA-AES128-SHA",
            "AES128-GCM-SHA256",
            "ECDHE-RSA-AES128-SHA256",
        ] {
            server
                .refuses(&tls_1_2(suite), "alert handshake failure")
                .await;
        }
        let old = format!("ALL:{OLD}");
        let options = ["-tls1_1", "-cipher", &old];
        server.refuses(&options, "alert").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ecdsa_key_works_under_tls_1_2_and_1_3() {
    let cluster = one_of_each().await;
    for server in both(&cluster) {
        for suite in [
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
        ] {
            server.agrees(&["-tls1_2", "-cipher", suite], suite).await;
        }
        server.agrees(&["-tls1_3"], "TLS_AES_256_GCM_SHA384").await;
        let chacha = ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"];
        server.refuses(&chacha, "alert handshake failure").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_gives_agents_h2_and_a_traffic_controller_gives_everybody_http_1_1() {
    let cluster = one_of_each().await;
    let [doppler, controller] = both(&cluster);
    for (offered, chosen) in [
        ("h2", "h2"),
        ("h2,http/1.1", "http/1.1"),
        ("http/1.1", "http/1.1"),
    ] {
        let shaken = doppler.shake(&["-alpn", offered]).await;
        assert_eq!(shaken.alpn.as_deref(), Some(chosen), "{}", shaken.said);
    }
    for offered in ["h2,http/1.1", "http/1.1"] {
        let shaken = controller.shake(&["-alpn", offered]).await;
        assert_eq!(shaken.alpn.as_deref(), Some("http/1.1"), "{}", shaken.said);
    }
    let silent = controller.shake(&[]).await;
    assert!(
        silent.suite.is_some() && silent.alpn.is_none(),
        "{}",
        silent.said
    );
    // X02 and X03 differ: upstream chooses h2, over which no WebSocket can be opened.
    let alert = "alert no application protocol";
    controller.refuses(&["-alpn", "h2"], alert).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_chooses_suites_by_either_name_and_unknown_ones_are_passed_over() {
    let suites = "ECDHE-RSA-DES-CBC3-SHA:TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .doppler_flag("--cipher-suites", suites)
        .start()
        .await;
    let [doppler, _] = both(&cluster);
    let chosen = "ECDHE-ECDSA-AES256-GCM-SHA384";
    doppler.agrees(&["-tls1_2"], chosen).await;
    let other = ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"];
    doppler.refuses(&other, "alert handshake failure").await;
    doppler.agrees(&["-tls1_3"], "TLS_AES_256_GCM_SHA384").await;
    assert!(cluster.dopplers[0].process.logged("ECDHE-RSA-DES-CBC3-SHA"));
}
