//! The command `firehose` with nothing but what `cf login` left behind: real UAA tokens, a real
//! Cloud Controller, a Traffic Controller that asks both, and a Doppler that has the logs.

use crate::SOON;
use harness::binaries;
use harness::certs::Certs;
use harness::cloud_controller::CloudController;
use harness::cluster::Cluster;
use harness::envelopes::{MARK, Workload, guid};
use harness::uaa::Uaa;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const APP: &str = "my-app";
const SPACE: &str = "5face000-0000-4000-8000-000000000000";

/// What a user's token may do.
const SCOPES: [&str; 2] = ["openid", "cloud_controller.read"];

/// Within what the client renews a token: its `AHEAD` is 60 s.
const NEARLY_OVER: Duration = Duration::from_secs(45);

/// A platform with one app, of which a Doppler keeps logs, and a user who may read it.
struct Platform {
    cluster: Cluster,
    certs: Arc<Certs>,
    uaa: Uaa,
    cloud_controller: CloudController,
    home: TempDir,
}

/// What a run of `firehose` came to.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Platform {
    async fn start() -> Platform {
        let certs = Arc::new(Certs::new());
        let (uaa, cloud_controller) = (
            Uaa::start(&certs).await,
            CloudController::start(&certs).await,
        );
        let cluster = Cluster::builder()
            .dopplers(1)
            .controllers(1)
            .certs(certs.clone())
            .controller_flags(uaa.flags(&certs))
            .controller_flags(cloud_controller.flags(&certs))
            .start()
            .await;
        cluster.controllers[0].reads_from(&cluster.dopplers).await;
        cloud_controller.app(APP, SPACE, &guid(0));
        cloud_controller.app("other-app", SPACE, &guid(1));
        // Of the same name, in a space that is not targeted.
        cloud_controller.app(APP, "5face000-0000-4000-8000-000000000001", &guid(2));
        cloud_controller.allow(&guid(0), 200);
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".cf")).unwrap();
        let platform = Platform {
            cluster,
            certs,
            uaa,
            cloud_controller,
            home,
        };
        platform
            .cloud_controller
            .links(&platform.uaa.url(), &platform.logging());
        platform
    }

    /// What its platform tells clients.
    fn logging(&self) -> String {
        let port = self.cluster.controllers[0].address.port();
        format!("wss://localhost:{port}")
    }

    fn config(&self) -> PathBuf {
        self.home.path().join(".cf").join("config.json")
    }

    /// Logs in as the cf CLI does; returns the tokens that are now in its file.
    fn cf_login(&self) -> (String, String) {
        let (access, refresh) = self.uaa.login(&SCOPES);
        let config = json!({
            "AccessToken": format!("bearer {access}"),
            "APIVersion": "3.180.0",
            "AsyncTimeout": 0,
            "AuthorizationEndpoint": self.uaa.url(),
            "ConfigVersion": 4,
            "DopplerEndPoint": self.logging(),
            "OrganizationFields": {"GUID": "0f6a0000-0000-4000-8000-000000000000", "Name": "org"},
            "PluginRepos": [{"Name": "CF-Community", "URL": "https://plugins.example.com"}],
            "RefreshToken": refresh,
            "SpaceFields": {"GUID": SPACE, "Name": "space", "AllowSSH": true},
            "SSHOAuthClient": "ssh-proxy",
            "SSLDisabled": false,
            "Target": self.cloud_controller.url(),
            "UAAOAuthClient": "cf",
            "UAAOAuthClientSecret": "",
            "UaaEndpoint": self.uaa.url(),
        });
        std::fs::write(self.config(), config.to_string()).unwrap();
        (access, refresh)
    }

    /// What the cf CLI would read now.
    fn remembered(&self) -> Value {
        let text = std::fs::read_to_string(self.config()).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Runs `firehose tail` to its end.
    fn tail(&self, arguments: &[&str]) -> JoinHandle<Ran> {
        let mut command = Command::new(binaries::firehose());
        command
            .arg("tail")
            .args(arguments)
            .arg("--ca")
            .arg(self.certs.ca())
            .env_clear()
            .env("CF_HOME", self.home.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        tokio::spawn(async move {
            let output = timeout(SOON, command.output()).await;
            let output = output.expect("firehose ends").unwrap();
            Ran {
                code: output.status.code(),
                out: String::from_utf8(output.stdout).unwrap(),
                err: String::from_utf8(output.stderr).unwrap(),
            }
        })
    }

    /// The Doppler keeps so many logs of the app.
    async fn logs(&self, producer: u32, count: u64) {
        let doppler = &self.cluster.dopplers[0];
        let mut producer = doppler.producer(producer, Workload::logs(1, 50)).await;
        producer.send(count).await;
        assert_eq!(producer.finish().await.grpc, Some(0));
    }

    /// What Cloud Controller was asked, and as whom: `path` and `Authorization`.
    fn asked(&self) -> Vec<(String, String)> {
        let calls = self.cloud_controller.calls().into_iter();
        calls.map(|call| (call.path, call.authorization)).collect()
    }
}

impl Ran {
    /// The marks of what was printed as JSON.
    fn marks(&self) -> Vec<String> {
        let lines = self.out.lines();
        let envelopes = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        envelopes
            .map(|envelope| envelope["tags"][MARK].as_str().unwrap().to_owned())
            .collect()
    }

    /// Panics if it showed one of these.
    #[track_caller]
    fn assert_hides(&self, tokens: &[&str]) {
        for token in tokens {
            assert!(!self.out.contains(token), "{}", self.out);
            assert!(!self.err.contains(token), "{}", self.err);
        }
    }
}

fn text<'a>(config: &'a Value, member: &str) -> &'a str {
    config[member].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_tailed_by_its_name_from_its_recent_logs_on_with_nothing_but_cf_login() {
    let platform = Platform::start().await;
    let (access, refresh) = platform.cf_login();
    let before = platform.remembered();
    platform.logs(1, 8).await;
    let run = platform.tail(&[APP, "--recent", "5", "--max", "8", "--json"]);
    platform.cluster.tailed([0], 1).await;
    platform.logs(2, 3).await;
    let ran = run.await.unwrap();

    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(
        ran.marks(),
        [
            "1/3/0", "1/4/0", "1/5/0", "1/6/0", "1/7/0", "2/0/0", "2/1/0", "2/2/0"
        ],
        "{}",
        ran.err
    );
    ran.assert_hides(&[&access, &refresh]);
    assert_eq!(platform.remembered(), before, "nothing was to be renewed");
    assert_eq!(platform.uaa.called(), 0, "the token was good");
    let credential = format!("bearer {access}");
    assert_eq!(
        platform.asked(),
        [
            (
                format!("/v3/apps?names={APP}&space_guids={SPACE}"),
                credential.clone()
            ),
            (format!("/internal/v4/log_access/{}", guid(0)), credential),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_the_user_may_not_read_and_one_that_is_not_there_are_exit_code_5() {
    let platform = Platform::start().await;
    let (access, refresh) = platform.cf_login();
    platform.cloud_controller.allow(&guid(1), 403);
    for app in ["other-app", "no-such-app"] {
        let ran = platform.tail(&[app]).await.unwrap();
        assert_eq!(
            (ran.code, &ran.out[..]),
            (Some(5), ""),
            "{app}: {}",
            ran.err
        );
        ran.assert_hides(&[&access, &refresh]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_nearly_over_is_renewed_once_and_written_back_for_the_cf_cli() {
    let platform = Platform::start().await;
    platform.uaa.lifetime(NEARLY_OVER);
    let (access, refresh) = platform.cf_login();
    let before = platform.remembered();
    platform.uaa.lifetime(Duration::from_secs(600));
    platform.logs(1, 8).await;
    let arguments = [APP, "--recent", "5", "--max", "5", "--json"];
    let ran = platform.tail(&arguments).await.unwrap();

    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(ran.marks().len(), 5);
    let after = platform.remembered();
    let renewed = [text(&after, "AccessToken"), text(&after, "RefreshToken")];
    assert_ne!(renewed[0], format!("bearer {access}"));
    assert_ne!(renewed[1], refresh);
    let mut others = after.clone();
    for member in ["AccessToken", "RefreshToken"] {
        others[member] = before[member].clone();
    }
    assert_eq!(others, before, "the rest is as the cf CLI left it");
    let calls = platform.uaa.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].path, "/oauth/token");
    // RFC 7617: the cf CLI's client has no secret.
    assert_eq!(calls[0].authorization, "Basic Y2Y6");
    let asked = platform.asked();
    assert!(
        asked.iter().all(|(_, credential)| credential == renewed[0]),
        "{asked:?}"
    );
    let bare = renewed[0].strip_prefix("bearer ").unwrap();
    ran.assert_hides(&[&access, &refresh, bare, renewed[1]]);

    // And the cf CLI's next run, or ours, goes on from there.
    let again = platform.tail(&arguments).await.unwrap();
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert_eq!(platform.remembered(), after);
    assert_eq!(platform.uaa.called(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_was_revoked_is_exit_code_4_and_says_cf_login() {
    let platform = Platform::start().await;
    platform.uaa.lifetime(NEARLY_OVER);
    let (access, refresh) = platform.cf_login();
    let before = platform.remembered();
    platform.uaa.revoke_refresh_tokens();
    let ran = platform.tail(&[APP, "--recent", "5"]).await.unwrap();

    assert_eq!((ran.code, &ran.out[..]), (Some(4), ""), "{}", ran.err);
    assert!(ran.err.contains("cf login"), "{}", ran.err);
    ran.assert_hides(&[&access, &refresh]);
    assert_eq!(platform.remembered(), before);
    assert_eq!(platform.uaa.called(), 1, "one question is enough");
    assert_eq!(
        platform.asked(),
        [],
        "nobody was shown a token that is over"
    );
}
