//! Who may read what: the token file, and tokens of a UAA.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proto::request::{AppGuid, Filter, Request, SubscriptionId};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use traffic_controller::access::{Access, CloudFoundry, Firehoses, Jwt, Refusal, Tokens};
use transport::http::{Base, Client};
use transport::listener::Dialer;
use transport::reload::Reloaded;

const APPS: [&str; 2] = [
    "11111111-2222-3333-4444-555555555555",
    "66666666-7777-8888-9999-000000000000",
];

/// A token file: as it is, and one that grants to each line of it what its first byte says.
pub(super) fn file(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        // Whatever it says, it does not let in who is not in it.
        if let Ok(access) = read(text) {
            let stranger = "nobody-has-a-token-like-this";
            let refused = access.check(Some(stranger), &firehose()).await;
            assert_eq!(refused, Err(Refusal::BadToken));
            assert_eq!(access.check(None, &firehose()).await, Err(Refusal::NoToken));
        }
        grants(text).await;
    });
}

/// What an operator wrote is what is granted, or the file is refused; no token is quoted.
async fn grants(text: &str) {
    const SECRET: &str = "s3cr3t";
    let entry = |line: &str| {
        let what = line.bytes().next().unwrap_or_default();
        let apps: Vec<&str> = APPS
            .iter()
            .enumerate()
            .filter(|(n, _)| what >> (n + 1) & 1 == 1)
            .map(|(_, app)| *app)
            .collect();
        (format!("{SECRET}{line}"), what & 1 == 1, apps)
    };
    let entries: Vec<_> = text.lines().take(8).map(entry).collect();
    // JSON is YAML.
    let file: Vec<Value> = entries
        .iter()
        .map(|(token, firehose, apps)| json!({"token": token, "firehose": firehose, "apps": apps}))
        .collect();
    let access = match read(&Value::from(file).to_string()) {
        Ok(access) => access,
        Err(said) => return assert!(!said.contains(SECRET), "{said}"),
    };
    for (token, may_firehose, may_apps) in &entries {
        let credential = format!("bearer {token}");
        // A header has no room for spaces around it.
        if token.trim() != token {
            continue;
        }
        let asked = access.check(Some(&credential), &firehose()).await;
        assert_eq!(asked.is_ok(), *may_firehose, "{token:?}");
        for app in APPS {
            let asked = access.check(Some(&credential), &stream(app)).await;
            assert_eq!(asked.is_ok(), may_apps.contains(&app), "{token:?}");
        }
    }
}

fn read(text: &str) -> Result<Access, String> {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    let tokens = Tokens::read(file.path()).map_err(|error| error.to_string())?;
    Ok(Access::Tokens(Reloaded::from(Arc::new(tokens))))
}

fn firehose() -> Request {
    Request::Firehose {
        subscription: SubscriptionId::new("n").unwrap(),
        filter: Filter::Everything,
    }
}

fn stream(app: &str) -> Request {
    Request::AppStream {
        app: AppGuid::new(app).unwrap(),
        recent: None,
    }
}

const ISSUER: &str = "https://uaa.example.com/oauth/token";
const KEY: &str = "key-1";
const SCOPE: &str = "doppler.firehose";

/// How far clocks may differ, in seconds, and the end of a refresh token's `jti`.
const LEEWAY: u64 = 30;
const REFRESH: &str = "-r";

/// A credential nobody signed; or, behind a 0, header and claims with a 0 between, which UAA
/// signs. `NOW` in the claims is the time.
pub(super) fn claims(bytes: &[u8]) {
    let uaa = uaa();
    let Some(signed) = bytes.strip_prefix(&[0]) else {
        if let Ok(credential) = str::from_utf8(bytes) {
            let verdict = uaa.check(credential);
            assert!(
                matches!(verdict, Err(Refusal::BadToken | Refusal::NoToken)),
                "{verdict:?}"
            );
        }
        return;
    };
    let mut parts = signed.splitn(2, |byte| *byte == 0);
    let header = parts.next().unwrap_or_default();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let claims = claims.replace("NOW", &now.to_string());
    let verdict = uaa.check(&format!("bearer {}", uaa.sign(header, claims.as_bytes())));
    let header_read = serde_json::from_slice::<Value>(header);
    let claims_read = serde_json::from_str::<Value>(&claims);
    let good = match (&header_read, &claims_read) {
        (Ok(header), Ok(claims)) => is_rs256(header) && are_good(claims, now),
        _ => false,
    };
    if verdict.is_ok() {
        assert!(good, "let in: {header_read:?} {claims}");
    } else if good && header == br#"{"alg":"RS256","kid":"key-1"}"# {
        // Nothing is said twice in it: the two may take another for the last word.
        let plain = claims_read.and_then(|value| serde_json::to_string(&value));
        let plain = plain.is_ok_and(|plain| plain == claims);
        assert!(!plain, "refused: {claims}");
    }
}

fn is_rs256(header: &Value) -> bool {
    header["alg"] == "RS256" && header["kid"] == KEY && header["crit"].is_null()
}

/// What of a token counts, asked in another way.
fn are_good(claims: &Value, now: u64) -> bool {
    let scopes = claims["scope"].as_array();
    let texts = scopes.is_some_and(|scopes| scopes.iter().all(Value::is_string));
    claims["iss"] == ISSUER
        && texts
        && scopes.is_some_and(|scopes| scopes.iter().any(|scope| scope == SCOPE))
        && claims["exp"]
            .as_u64()
            .is_some_and(|end| now < end.saturating_add(LEEWAY))
        && claims
            .get("nbf")
            .is_none_or(|from| from.as_u64().is_some_and(|from| from <= now + LEEWAY))
        && claims
            .get("jti")
            .is_none_or(|id| id.as_str().is_some_and(|id| !id.ends_with(REFRESH)))
}

/// A UAA that publishes one key, and who believes it.
struct Uaa {
    runtime: Runtime,
    access: Access,
    key: RsaKeyPair,
}

fn uaa() -> &'static Uaa {
    static UAA: OnceLock<Uaa> = OnceLock::new();
    UAA.get_or_init(|| {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        // A thread of its own answers, whatever this one does.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(publish(&key));
        let jwt = Jwt::new(client, ISSUER.to_owned());
        let access = Access::CloudFoundry(CloudFoundry {
            firehoses: Some(Firehoses::Verified(jwt)),
            apps: None,
            recheck: None,
            upstream_answers: false,
        });
        Uaa {
            runtime,
            access,
            key,
        }
    })
}

impl Uaa {
    fn check(&self, credential: &str) -> Result<(), Refusal> {
        self.runtime
            .block_on(self.access.check(Some(credential), &firehose()))
    }

    fn sign(&self, header: &[u8], claims: &[u8]) -> String {
        let message = format!("{}.{}", base64url(header), base64url(claims));
        let mut made = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message.as_bytes(),
                &mut made,
            )
            .unwrap();
        format!("{message}.{}", base64url(&made))
    }
}

async fn publish(key: &RsaKeyPair) -> Client {
    let public = key.public_key();
    let jwk = json!({
        "kty": "RSA", "use": "sig", "alg": "RS256", "kid": KEY,
        "n": base64url(public.modulus().big_endian_without_leading_zero()),
        "e": base64url(public.exponent().big_endian_without_leading_zero()),
    });
    let keys = json!({"keys": [jwk]}).to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{keys}",
        keys.len()
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp, answer.clone()));
        }
    });
    let dialer = Dialer::new(None, Duration::from_secs(10));
    Client::new(Base::parse(&url).unwrap(), dialer).unwrap()
}

async fn serve(mut tcp: TcpStream, answer: String) {
    let mut asked = Vec::new();
    while let Ok(byte) = tcp.read_u8().await {
        asked.push(byte);
        if asked.ends_with(b"\r\n\r\n") {
            asked.clear();
            if tcp.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
