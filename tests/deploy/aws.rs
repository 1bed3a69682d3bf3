//! `deploy/aws`: templates that CloudFormation would take, by AWS's own linter. There is no AWS
//! here.

use crate::shipped::{self, Shipped};
use crate::{Check, python};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(120);

/// A value in each that is beyond what AWS takes: a linter that does not see it sees nothing.
const TEMPLATES: [(&str, &str, &str); 3] = [
    ("aws/classic-elb.yaml", "Protocol: SSL", "Protocol: WSS"),
    (
        "aws/alb.yaml",
        "ProtocolVersion: HTTP1",
        "ProtocolVersion: HTTP3",
    ),
    ("aws/nlb.yaml", "Type: network", "Type: websocket"),
];

async fn templates() -> Result<String, String> {
    let files = tempfile::tempdir().expect("a directory for wrong ones");
    for (name, right, wrong) in TEMPLATES {
        if let Some(complaint) = complaint(&shipped::path(name)).await {
            return Err(format!("deploy/{name}: {complaint}"));
        }
        let text = Shipped::read(name).text().replace(right, wrong);
        let broken = files.path().join("broken.yaml");
        std::fs::write(&broken, text).expect("the directory is ours");
        if complaint(&broken).await.is_none() {
            return Err(format!(
                "deploy/{name} may say {wrong:?}: the linter sees nothing"
            ));
        }
    }
    Ok("three templates are right, and three wrong copies of them are not".to_owned())
}

/// What the linter says against a template.
async fn complaint(template: &Path) -> Option<String> {
    let mut linter = Command::new(python::programs().await.join("cfn-lint"));
    let linter = linter.arg(template).stdin(Stdio::null()).kill_on_drop(true);
    let said = linter.output().await.expect("it is installed");
    let words = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    (!said.status.success()).then_some(words)
}

pub(crate) fn checks() -> Vec<Check> {
    vec![Check {
        name: "aws templates",
        what: "cfn-lint has nothing to say against the three, and something against a wrong copy",
        limit: LIMIT,
        alone: false,
        run: || Box::pin(templates()),
    }]
}
