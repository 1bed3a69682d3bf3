//! Tokens verified here, against the keys that UAA publishes: UAA is asked for its keys now
//! and then, and about no token.
//!
//! In comes a token; out comes how long it is good, or why it is not. A token that UAA revoked
//! is good until it ends: whoever cannot have that asks UAA about each.

use super::authority::{Authority, Key, TROUBLE, Verdict, WITHIN};
use super::{FIREHOSE_SCOPE, Refusal};
use crate::metrics::Metrics;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use transport::cause::chain;
use transport::http::{Client, Limits};

/// What the keys may take: UAA publishes two or three, of 2 KiB each.
const LIMITS: Limits = Limits {
    within: WITHIN,
    body: 256 << 10,
};

/// The signatures UAA makes, and no others, whatever a token says of itself: a token that
/// claims HS256 would make of a public key a shared secret.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];

/// By how much two clocks may differ: 30 s. Machines that keep time at all are closer.
const LEEWAY: Duration = Duration::from_secs(30);

/// How long keys are used before UAA is asked for them again: 10 min. A key that UAA withdraws
/// is used that long.
const FRESH: Duration = Duration::from_secs(10 * 60);

/// How long they are used if UAA does not answer: 24 h, the longest a UAA may be down.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// How a UAA's refresh tokens are told from its access tokens, which are signed with the same
/// keys (CVE-2018-11047): by the end of their `jti`.
const REFRESH_TOKEN: &str = "-r";

/// Verifies tokens of one issuer.
pub struct Jwt {
    issuer: String,
    client: Client,
    authority: Authority,
    keys: Arc<Mutex<Keys>>,
    validation: Validation,
}

/// What UAA published, by `kid`.
#[derive(Default)]
struct Keys {
    published: HashMap<String, DecodingKey>,
    /// When they came.
    since: Option<Instant>,
    /// When UAA was last asked in vain.
    failed: Option<Instant>,
}

/// What of a token counts. Numbers are whole and not negative, and none is there twice, or it
/// is no token.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    exp: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(default)]
    jti: String,
    scope: Vec<String>,
    /// Claims are an object (RFC 7519 §4); without this member an array of the others passed.
    #[serde(flatten)]
    _others: HashMap<String, IgnoredAny>,
}

impl Jwt {
    /// Tokens must have this `iss`; keys come from the UAA behind `client`.
    pub fn new(client: Client, issuer: String) -> Jwt {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.algorithms = ALGORITHMS.to_vec();
        // The library checks the signature, and `judge` all else.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        Jwt {
            issuer,
            client,
            authority: Authority::new("token_keys"),
            keys: Arc::default(),
            validation,
        }
    }

    /// How much longer the token is good.
    pub(super) async fn check(&self, token: &str) -> Result<Duration, Refusal> {
        let verdict = self.verify(token).await;
        let outcome = match verdict {
            Ok(_) => "granted",
            Err(Refusal::Unavailable { .. }) => "trouble",
            Err(_) => "refused",
        };
        Metrics::access_check("jwt", outcome);
        verdict
    }

    async fn verify(&self, token: &str) -> Result<Duration, Refusal> {
        if !is_shaped(token) {
            return Err(Refusal::BadToken);
        }
        let header = decode_header(token).map_err(|_| Refusal::BadToken)?;
        // RFC 7515 §4.1.11: what is critical and not understood makes a token invalid.
        let (Some(kid), None) = (header.kid, header.crit) else {
            return Err(Refusal::BadToken);
        };
        let key = self.key(&kid).await?;
        // The library takes the key's family, and `ALGORITHMS`, before the token's word.
        let token = decode::<Claims>(token, &key, &self.validation);
        let claims = token.map_err(|_| Refusal::BadToken)?.claims;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        judge(&claims, &self.issuer, now.unwrap_or_default())
    }

    async fn key(&self, kid: &str) -> Result<DecodingKey, Refusal> {
        let (known, fresh) = {
            let keys = self.keys();
            let known = keys.known(kid, Instant::now());
            (
                known,
                keys.since.is_some_and(|since| since.elapsed() < FRESH),
            )
        };
        match known {
            Some(key) if fresh => Ok(key),
            Some(key) => {
                // Nobody waits for keys that will be the same.
                tokio::spawn(self.refresh());
                Ok(key)
            }
            None => {
                let refreshed = self.refresh().await;
                let known = self.keys().known(kid, Instant::now());
                known.ok_or(refreshed.err().unwrap_or(Refusal::BadToken))
            }
        }
    }

    /// Asks UAA for its keys: once in 5 s at most, since every token may name a key that there
    /// is not. A yes is believed for that long (`authority`); a failure is kept here.
    fn refresh(&self) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let failed = self.keys().failed;
        let (authority, client, keys) = (
            self.authority.clone(),
            self.client.clone(),
            self.keys.clone(),
        );
        async move {
            if failed.is_some_and(|failed| failed.elapsed() < TROUBLE) {
                return Err(Refusal::Unavailable {
                    retry_after: TROUBLE,
                });
            }
            let call = async move {
                let fetched = fetch(&client).await;
                let mut keys = lock(&keys);
                match fetched {
                    Ok(published) => {
                        *keys = Keys {
                            published,
                            since: Some(Instant::now()),
                            failed: None,
                        };
                        Verdict::Granted
                    }
                    Err(why) => {
                        keys.failed = Some(Instant::now());
                        Verdict::unavailable(why)
                    }
                }
            };
            authority.ask(Key::of("", "token_keys"), call).await
        }
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        lock(&self.keys)
    }
}

fn lock(keys: &Mutex<Keys>) -> MutexGuard<'_, Keys> {
    // Replaced whole, so a panic elsewhere leaves nothing half done.
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keys {
    fn known(&self, kid: &str, now: Instant) -> Option<DecodingKey> {
        let usable = self.since.is_some_and(|since| now - since < STALE);
        self.published.get(kid).filter(|_| usable).cloned()
    }
}

/// Three parts of base64url with dots between, before anything is parsed; how long a token may
/// be, `access` has seen to.
fn is_shaped(token: &str) -> bool {
    let base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(base64url);
    token.split('.').count() == 3 && token.split('.').all(is_part)
}

/// How much longer a token with these claims, which its issuer signed, is good.
fn judge(claims: &Claims, issuer: &str, now: Duration) -> Result<Duration, Refusal> {
    let end = Duration::from_secs(claims.exp).saturating_add(LEEWAY);
    let good = claims.iss == issuer
        && now < end
        && Duration::from_secs(claims.nbf) <= now.saturating_add(LEEWAY)
        && !claims.jti.ends_with(REFRESH_TOKEN)
        && claims.scope.iter().any(|scope| scope == FIREHOSE_SCOPE);
    match good {
        true => Ok(end - now),
        false => Err(Refusal::BadToken),
    }
}

async fn fetch(client: &Client) -> Result<HashMap<String, DecodingKey>, String> {
    let (headers, body) = (HeaderMap::new(), Bytes::new());
    let call = client.call(Method::GET, "/token_keys", headers, body, LIMITS);
    let answer = call.await.map_err(|error| chain(&error))?;
    if answer.status != StatusCode::OK {
        return Err(format!("UAA answered {} for its keys", answer.status));
    }
    match usable(&answer.body) {
        keys if keys.is_empty() => Err("UAA published no RSA key with a kid".to_owned()),
        keys => Ok(keys),
    }
}

/// The keys of a JWK set that we can use; RSA, for signatures, and named. A UAA with a
/// symmetric key publishes it as `kty: MAC`.
fn usable(body: &[u8]) -> HashMap<String, DecodingKey> {
    #[derive(Deserialize)]
    struct Published {
        keys: Vec<Jwk>,
    }
    #[derive(Deserialize)]
    struct Jwk {
        kty: String,
        kid: Option<String>,
        r#use: Option<String>,
        n: Option<String>,
        e: Option<String>,
    }
    let Ok(published) = serde_json::from_slice::<Published>(body) else {
        return HashMap::new();
    };
    let key = |jwk: Jwk| {
        let signs = jwk.kty == "RSA" && jwk.r#use.as_deref().is_none_or(|used| used == "sig");
        let key = DecodingKey::from_rsa_components(&jwk.n?, &jwk.e?).ok()?;
        signs.then_some((jwk.kid?, key))
    };
    published.keys.into_iter().filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::fake::{self, Fake};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RsaEncoding, RsaKeyPair,
    };
    use aws_lc_rs::{hmac, signature};
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    const ISSUER: &str = "https://uaa.example.com/oauth/token";

    /// A key of a UAA.
    struct Signer {
        kid: &'static str,
        key: RsaKeyPair,
    }

    fn base64url(bytes: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn unsigned(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| base64url(value.to_string());
        format!("{}.{}", part(header), part(claims))
    }

    impl Signer {
        fn new(kid: &'static str) -> Signer {
            let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            Signer { kid, key }
        }

        fn jwk(&self) -> Value {
            let public = self.key.public_key();
            let (n, e) = (public.modulus(), public.exponent());
            json!({
                "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid,
                "n": base64url(n.big_endian_without_leading_zero()),
                "e": base64url(e.big_endian_without_leading_zero()),
            })
        }

        fn signs(&self, header: Value, claims: &Value) -> String {
            let padding: &dyn RsaEncoding = match header["alg"].as_str() {
                Some("RS384") => &RSA_PKCS1_SHA384,
                _ => &RSA_PKCS1_SHA256,
            };
            let message = unsigned(&header, claims);
            let mut made = vec![0; self.key.public_modulus_len()];
            let random = SystemRandom::new();
            self.key
                .sign(padding, &random, message.as_bytes(), &mut made)
                .unwrap();
            format!("{message}.{}", base64url(made))
        }

        fn token(&self, claims: &Value) -> String {
            self.signs(
                json!({"alg": "RS256", "kid": self.kid, "typ": "JWT"}),
                claims,
            )
        }
    }

    fn unix() -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap().as_secs()
    }

    fn good() -> Value {
        json!({"iss": ISSUER, "exp": unix() + 600, "scope": ["openid", "doppler.firehose"]})
    }

    /// Good claims, but for this one.
    fn but(name: &str, value: impl Into<Value>) -> Value {
        let mut claims = good();
        claims[name] = value.into();
        claims
    }

    fn keys(signers: &[&Signer]) -> Vec<u8> {
        let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
        fake::answer(200, &json!({ "keys": keys }).to_string())
    }

    async fn uaa(signers: &[&Signer]) -> (Fake, Jwt) {
        let fake = Fake::answering(keys(signers)).await;
        let jwt = Jwt::new(fake.client(), ISSUER.to_owned());
        (fake, jwt)
    }

    const BAD: Result<Duration, Refusal> = Err(Refusal::BadToken);
    const UNAVAILABLE: Result<Duration, Refusal> = Err(Refusal::Unavailable {
        retry_after: TROUBLE,
    });

    #[tokio::test]
    async fn a_token_is_good_until_it_ends_if_all_its_claims_are() {
        let signer = Signer::new("key-1");
        let (fake, jwt) = uaa(&[&signer]).await;
        let left = jwt.check(&signer.token(&good())).await.unwrap();
        assert!(left > Duration::from_secs(500) && left <= Duration::from_secs(600) + LEEWAY);
        let header = json!({"alg": "RS384", "kid": "key-1"});
        assert!(jwt.check(&signer.signs(header, &good())).await.is_ok());
        for claims in [
            but("exp", unix() - 31),
            but("exp", "tomorrow"),
            but("exp", -1),
            but("exp", 1e18),
            but("exp", Value::Null),
            but("nbf", unix() + 60),
            but("iss", "https://other.uaa.example.com/oauth/token"),
            but("iss", json!([ISSUER])),
            but("scope", "doppler.firehose"),
            but("scope", json!(["logs.admin", "xdoppler.firehose"])),
            but("scope", json!([["doppler.firehose"]])),
            but("scope", Value::Null),
            but("jti", "4e1d-r"),
            json!([ISSUER, unix() + 600, 0, "", ["doppler.firehose"]]),
        ] {
            assert_eq!(jwt.check(&signer.token(&claims)).await, BAD, "{claims}");
        }
        for claims in [
            but("exp", unix() - 5),
            but("exp", 1_u64 << 63),
            but("exp", u64::MAX),
            but("nbf", unix() + 5),
            but("jti", "4e1d"),
        ] {
            assert!(jwt.check(&signer.token(&claims)).await.is_ok(), "{claims}");
        }
        assert_eq!(fake.asked().len(), 1);
    }

    #[tokio::test]
    async fn a_token_does_not_choose_how_it_is_verified() {
        let (signer, stranger) = (Signer::new("key-1"), Signer::new("key-1"));
        let (_fake, jwt) = uaa(&[&signer]).await;
        let none = unsigned(&json!({"alg": "none", "kid": "key-1"}), &good());
        for alg in ["none", "None", "NONE"] {
            let header = json!({"alg": alg, "kid": "key-1"});
            assert_eq!(jwt.check(&signer.signs(header, &good())).await, BAD);
        }
        assert_eq!(jwt.check(&format!("{none}.")).await, BAD);
        assert_eq!(jwt.check(&none).await, BAD);
        // The public key as the secret of an HMAC, in each form it might be in.
        let public = signer.key.public_key();
        let message = unsigned(&json!({"alg": "HS256", "kid": "key-1"}), &good());
        for secret in [
            public.as_ref().to_vec(),
            public.modulus().big_endian_without_leading_zero().to_vec(),
            signer.jwk()["n"].as_str().unwrap().as_bytes().to_vec(),
        ] {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
            let tag = hmac::sign(&key, message.as_bytes());
            assert_eq!(
                jwt.check(&format!("{message}.{}", base64url(tag))).await,
                BAD
            );
        }
        assert_eq!(jwt.check(&stranger.token(&good())).await, BAD);
        let nameless = signer.signs(json!({"alg": "RS256"}), &good());
        assert_eq!(jwt.check(&nameless).await, BAD);
        let critical = json!({"alg": "RS256", "kid": "key-1", "crit": ["b64"], "b64": false});
        assert_eq!(jwt.check(&signer.signs(critical, &good())).await, BAD);
        // Its own key brought along.
        let mut header = json!({"alg": "RS256", "kid": "key-1"});
        header["jwk"] = stranger.jwk();
        assert_eq!(jwt.check(&stranger.signs(header, &good())).await, BAD);
        let mut changed = signer.token(&good());
        changed.truncate(changed.len() - 4);
        assert_eq!(jwt.check(&changed).await, BAD);
    }

    #[tokio::test]
    async fn what_is_not_shaped_like_a_token_is_not_parsed_and_asks_nobody() {
        let (fake, jwt) = uaa(&[]).await;
        let deep = base64url("[".repeat(5_000));
        for token in [
            "",
            ".",
            "..",
            "a.b",
            "a.b.c.d",
            "a.b.c=",
            "a..c",
            "opaque",
            "a.\u{e9}.c",
        ] {
            assert_eq!(jwt.check(token).await, BAD, "{token}");
        }
        assert_eq!(jwt.check(&format!("{deep}.{deep}.{deep}")).await, BAD);
        assert!(fake.asked().is_empty());
    }

    #[tokio::test]
    async fn a_claim_that_is_there_twice_is_no_claim() {
        let signer = Signer::new("key-1");
        let (_fake, jwt) = uaa(&[&signer]).await;
        let header = base64url(r#"{"alg":"RS256","kid":"key-1"}"#);
        let claims = good().to_string();
        let twice = claims.replacen('{', r#"{"scope":["openid"],"#, 1);
        let message = format!("{header}.{}", base64url(twice));
        let mut made = vec![0; signer.key.public_modulus_len()];
        let key = &signer.key;
        key.sign(
            &signature::RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            message.as_bytes(),
            &mut made,
        )
        .unwrap();
        assert_eq!(
            jwt.check(&format!("{message}.{}", base64url(made))).await,
            BAD
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_key_is_fetched_when_a_token_names_it_but_not_more_than_every_five_seconds() {
        let (old, new) = (Signer::new("old"), Signer::new("new"));
        let (fake, jwt) = uaa(&[&old]).await;
        assert!(jwt.check(&old.token(&good())).await.is_ok());
        // Whoever makes up key ids is answered, and UAA is not asked.
        for _ in 0..100 {
            assert_eq!(jwt.check(&new.token(&good())).await, BAD);
        }
        assert_eq!(fake.asked().len(), 1);
        fake.answers(keys(&[&old, &new]));
        tokio::time::sleep(TROUBLE).await;
        assert!(jwt.check(&new.token(&good())).await.is_ok());
        assert!(jwt.check(&old.token(&good())).await.is_ok());
        assert_eq!(fake.asked().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_outlive_a_uaa_that_does_not_answer_and_not_one_that_withdraws_them() {
        let (old, new) = (Signer::new("old"), Signer::new("new"));
        let (fake, jwt) = uaa(&[&old]).await;
        assert!(jwt.check(&old.token(&good())).await.is_ok());
        fake.answers(fake::answer(500, ""));
        tokio::time::sleep(FRESH).await;
        assert!(jwt.check(&old.token(&good())).await.is_ok());
        // A key nobody knows may be one we could not fetch.
        assert_eq!(jwt.check(&new.token(&good())).await, UNAVAILABLE);
        fake.answers(keys(&[&new]));
        tokio::time::sleep(TROUBLE).await;
        assert!(jwt.check(&new.token(&good())).await.is_ok());
        assert_eq!(jwt.check(&old.token(&good())).await, BAD);
    }

    #[tokio::test(start_paused = true)]
    async fn without_keys_nobody_can_say() {
        let signer = Signer::new("key-1");
        for answer in [
            fake::answer(200, "<html>"),
            fake::answer(200, r#"{"keys":[]}"#),
            fake::answer(
                200,
                r#"{"keys":[{"kty":"MAC","alg":"HS256","kid":"key-1","value":"s"}]}"#,
            ),
            fake::answer(301, ""),
            fake::answer(500, ""),
            b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec(),
        ] {
            let fake = Fake::answering(answer).await;
            let jwt = Jwt::new(fake.client(), ISSUER.to_owned());
            for _ in 0..10 {
                assert_eq!(jwt.check(&signer.token(&good())).await, UNAVAILABLE);
            }
            assert_eq!(fake.asked().len(), 1);
        }
    }

    #[test]
    fn keys_for_anything_but_named_rsa_signatures_are_passed_over() {
        let signer = Signer::new("key-1");
        let jwk = |name: &str, value: Value| {
            let mut jwk = signer.jwk();
            jwk[name] = value;
            jwk
        };
        let keys = json!({"keys": [
            jwk("use", json!("enc")), jwk("kty", json!("EC")), jwk("kid", Value::Null),
            jwk("n", json!("not base64!")), jwk("kid", json!("this")),
        ]});
        let usable = usable(keys.to_string().as_bytes());
        assert_eq!(usable.keys().collect::<Vec<_>>(), ["this"]);
    }
}
