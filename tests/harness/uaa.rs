//! A UAA for tests: real TLS, real tokens signed with a real key, and the answers of the one
//! that the table of recorded requests was made with (`tests/conformance/tc-http.tsv`).
//!
//! | request | answer |
//! |---|---|
//! | `POST /check_token` | by the name of the token, see `recorded`; for a token issued here, its claims |
//! | `POST /oauth/token` | the grants `password`, `refresh_token` and `client_credentials` |
//! | `GET /token_keys` | the keys it signs with, and those it used to |

use crate::authority::{Answer, Call, Calls, Door};
use crate::certs::Certs;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The client that a Traffic Controller is, and its secret.
pub const CLIENT: (&str, &str) = ("doppler", "secret");

/// The user that may log in with the grant `password`.
pub const USER: (&str, &str) = ("marissa", "koala");

/// How long a UAA that is slow takes: longer than anybody's patience.
const SLOW: Duration = Duration::from_secs(25);

/// How long an issued token is good unless a test says otherwise.
const LIFETIME: Duration = Duration::from_secs(600);

/// A running UAA. Dropping it closes its port.
pub struct Uaa {
    door: Door,
    calls: Calls,
    state: Arc<Mutex<State>>,
}

struct State {
    issuer: String,
    /// Name and key; the last one signs.
    keys: Vec<(String, RsaKeyPair)>,
    rotations: u32,
    lifetime: Duration,
    /// Claims by access token.
    issued: HashMap<String, Value>,
    /// Scopes by refresh token, each good for one use.
    refresh: HashMap<String, Vec<String>>,
    refreshes: u32,
}

impl Uaa {
    /// Listens on loopback with a certificate for `localhost`.
    pub async fn start(certs: &Certs) -> Uaa {
        let calls = Calls::default();
        let state = Arc::new(Mutex::new(State {
            issuer: "https://uaa.sys.example.com/oauth/token".to_owned(),
            keys: vec![("key-0".to_owned(), key())],
            rotations: 0,
            lifetime: LIFETIME,
            issued: HashMap::new(),
            refresh: HashMap::new(),
            refreshes: 0,
        }));
        let answers = state.clone();
        let pair = certs.pair("localhost");
        let door = Door::open("uaa", &pair, None, calls.clone(), move |call| {
            answers.lock().unwrap().answer(call)
        });
        Uaa {
            door: door.await,
            calls,
            state,
        }
    }

    /// Stops; then nobody is answered any more, which a drop alone only begins.
    pub async fn stop(self) {
        self.door.close().await;
    }

    /// Where it is: `https://localhost:PORT`.
    pub fn url(&self) -> String {
        self.door.url()
    }

    /// The `iss` of its tokens.
    pub fn issuer(&self) -> String {
        self.state.lock().unwrap().issuer.clone()
    }

    /// The flags of a Traffic Controller that asks it.
    pub fn flags(&self, certs: &Certs) -> Vec<String> {
        [
            ("--uaa-host", self.url()),
            ("--uaa-ca-cert", certs.ca().display().to_string()),
            ("--uaa-client", CLIENT.0.to_owned()),
            ("--uaa-client-secret", CLIENT.1.to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }

    /// The calls since they were last taken.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.take()
    }

    /// How many calls there were since they were last taken.
    pub fn called(&self) -> usize {
        self.calls.count()
    }

    /// A token with these scopes, good for as long as tokens are.
    pub fn token(&self, scopes: &[&str]) -> String {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.state.lock().unwrap().issue(&scopes)
    }

    /// A token that says exactly this, signed with the current key and its `kid`.
    pub fn signed(&self, claims: &Value) -> String {
        self.state.lock().unwrap().sign(claims)
    }

    /// A token with any header, signed with the current key: `alg` says what it likes.
    pub fn signed_as(&self, header: &Value, claims: &Value) -> String {
        sign(
            &self.state.lock().unwrap().keys.last().unwrap().1,
            header,
            claims,
        )
    }

    /// From now on a new key signs; the old ones are still published if `keep`.
    pub fn rotate(&self, keep: bool) {
        let mut state = self.state.lock().unwrap();
        state.rotations += 1;
        if !keep {
            state.keys.clear();
        }
        let name = format!("key-{}", state.rotations);
        state.keys.push((name, key()));
    }

    /// The public half of the current key, as UAA publishes it for people: PEM.
    pub fn public_key(&self) -> String {
        let state = self.state.lock().unwrap();
        let public = state.keys.last().unwrap().1.public_key();
        let der: PublicKeyX509Der<'_> = public.as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        let lines = lines.join("\n");
        format!("-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n")
    }

    /// From now on it knows nothing of that token.
    pub fn revoke(&self, token: &str) {
        self.state.lock().unwrap().issued.remove(token);
    }

    /// Tokens issued from now on are good for so long.
    pub fn lifetime(&self, lifetime: Duration) {
        self.state.lock().unwrap().lifetime = lifetime;
    }

    /// No refresh token issued so far is good any more.
    pub fn revoke_refresh_tokens(&self) {
        self.state.lock().unwrap().refresh.clear();
    }

    /// A pair of access and refresh token, as after `cf login`.
    pub fn login(&self, scopes: &[&str]) -> (String, String) {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let mut state = self.state.lock().unwrap();
        (state.issue(&scopes), state.refreshable(scopes))
    }
}

/// Seconds since the epoch, as tokens count.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

impl State {
    fn answer(&mut self, call: &Call) -> Answer {
        let form: HashMap<String, String> = form_urlencoded::parse(call.body.as_bytes())
            .into_owned()
            .collect();
        match (&call.method[..], &call.path[..]) {
            ("POST", "/check_token") => {
                let (id, secret) = CLIENT;
                if call.authorization != basic(id, secret) {
                    return error(StatusCode::UNAUTHORIZED, "unauthorized", "Bad credentials");
                }
                let token = form.get("token").map_or("", |token| &token[..]);
                self.check(token).unwrap_or_else(|| recorded(token))
            }
            ("GET", "/redirected") => scopes(&["openid", "doppler.firehose"]),
            ("GET", "/token_keys") => Answer::Say(StatusCode::OK, self.token_keys().to_string()),
            ("POST", "/oauth/token") => self.grant(&form),
            _ => error(StatusCode::NOT_FOUND, "not_found", "No such path"),
        }
    }

    /// The claims of a token issued here.
    fn check(&self, token: &str) -> Option<Answer> {
        let claims = self.issued.get(token)?;
        if claims["exp"].as_u64() <= Some(now()) {
            return Some(error(
                StatusCode::BAD_REQUEST,
                "invalid_token",
                "Token has expired",
            ));
        }
        Some(Answer::Say(StatusCode::OK, claims.to_string()))
    }

    fn grant(&mut self, form: &HashMap<String, String>) -> Answer {
        let field = |name: &str| form.get(name).map_or("", |value| &value[..]);
        let scopes = match field("grant_type") {
            "password" if (field("username"), field("password")) == USER => {
                vec!["openid".to_owned(), "cloud_controller.read".to_owned()]
            }
            "password" => {
                return error(StatusCode::UNAUTHORIZED, "unauthorized", "Bad credentials");
            }
            "refresh_token" => match self.refresh.remove(field("refresh_token")) {
                Some(scopes) => scopes,
                None => {
                    return error(
                        StatusCode::UNAUTHORIZED,
                        "invalid_token",
                        "Invalid refresh token",
                    );
                }
            },
            "client_credentials" => vec!["doppler.firehose".to_owned()],
            other => return error(StatusCode::BAD_REQUEST, "unsupported_grant_type", other),
        };
        let mut answer = json!({
            "access_token": self.issue(&scopes),
            "token_type": "bearer",
            "expires_in": self.lifetime.as_secs(),
            "scope": scopes.join(" "),
        });
        if field("grant_type") != "client_credentials" {
            answer["refresh_token"] = self.refreshable(scopes).into();
        }
        Answer::Say(StatusCode::OK, answer.to_string())
    }

    fn issue(&mut self, scopes: &[String]) -> String {
        let claims = json!({
            "jti": format!("token-{}", self.issued.len()),
            "iss": self.issuer,
            "sub": "marissa",
            "user_name": USER.0,
            "client_id": "cf",
            "scope": scopes,
            "iat": now(),
            "exp": now() + self.lifetime.as_secs(),
        });
        let token = self.sign(&claims);
        self.issued.insert(token.clone(), claims);
        token
    }

    fn refreshable(&mut self, scopes: Vec<String>) -> String {
        self.refreshes += 1;
        let token = format!("refresh-{}-r", self.refreshes);
        self.refresh.insert(token.clone(), scopes);
        token
    }

    fn sign(&self, claims: &Value) -> String {
        let (name, key) = self.keys.last().unwrap();
        sign(
            key,
            &json!({"alg": "RS256", "typ": "JWT", "kid": name}),
            claims,
        )
    }

    fn token_keys(&self) -> Value {
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let keys = self.keys.iter().map(|(name, key)| {
            let public = key.public_key();
            json!({
                "kty": "RSA",
                "use": "sig",
                "alg": "RS256",
                "kid": name,
                "n": number(public.modulus().big_endian_without_leading_zero()),
                "e": number(public.exponent().big_endian_without_leading_zero()),
            })
        });
        json!({ "keys": keys.collect::<Vec<_>>() })
    }
}

/// What the recorded UAA said about a token of that name.
fn recorded(token: &str) -> Answer {
    let garbage = || "not json".to_owned();
    match token {
        "firehose-token" => scopes(&["openid", "doppler.firehose"]),
        "logsadmin-token" => scopes(&["logs.admin"]),
        "noscope-token" => scopes(&["openid"]),
        "nullscope-token" => Answer::Say(StatusCode::OK, "{}".to_owned()),
        "expired-token" => error(
            StatusCode::BAD_REQUEST,
            "invalid_token",
            "Token has expired",
        ),
        "uaa400garbage-token" => Answer::Say(StatusCode::BAD_REQUEST, garbage()),
        "uaa401-token" => error(StatusCode::UNAUTHORIZED, "unauthorized", "Bad credentials"),
        "uaa404-token" => error(StatusCode::NOT_FOUND, "not_found", "Not here"),
        "uaa500-token" => error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "Oops"),
        "uaa200garbage-token" => Answer::Say(StatusCode::OK, garbage()),
        "uaa201-token" => match scopes(&["openid", "doppler.firehose"]) {
            Answer::Say(_, body) => Answer::Say(StatusCode::CREATED, body),
            other => other,
        },
        "uaaredirect-token" => Answer::Redirect("/redirected"),
        "uaaslow-token" => Answer::After(SLOW, Box::new(scopes(&["openid", "doppler.firehose"]))),
        "uaahang-token" => Answer::HangUp,
        // Not recorded: a yes that does not end.
        "uaaflood-token" => {
            Answer::Flood(json!({"scope": ["openid", "doppler.firehose"]}).to_string())
        }
        _ => error(
            StatusCode::BAD_REQUEST,
            "invalid_token",
            "The token was not recognised",
        ),
    }
}

fn scopes(scopes: &[&str]) -> Answer {
    Answer::Say(StatusCode::OK, json!({ "scope": scopes }).to_string())
}

fn error(status: StatusCode, error: &str, description: &str) -> Answer {
    let body = json!({"error": error, "error_description": description});
    Answer::Say(status, body.to_string())
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

fn key() -> RsaKeyPair {
    RsaKeyPair::generate(KeySize::Rsa2048).unwrap()
}

/// RS256 (RFC 7518 §3.3), whatever the header says.
fn sign(key: &RsaKeyPair, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        signed.as_bytes(),
        &mut signature,
    )
    .unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
