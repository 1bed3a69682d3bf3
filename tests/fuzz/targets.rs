//! What strangers can send us, each as a function of bytes.
//!
//! In come any bytes; out comes nothing, or a panic: a target knows what must hold of whatever
//! it is fed, mostly by asking somebody else (prost, tungstenite, serde_json) about the same
//! bytes. No target sleeps, and none keeps anything from one call to the next.

mod config;
mod envelopes;
mod head;
mod link;
mod path;
mod proxy;
mod tokens;
mod websocket;

/// One of them.
pub(crate) struct Target {
    /// Also the name of the directory of its corpus.
    pub(crate) name: &'static str,
    /// What must not panic.
    pub(crate) run: fn(&[u8]),
    /// How many mutations of its corpus a test run tries: about a second of them.
    pub(crate) mutations: usize,
}

const fn target(name: &'static str, run: fn(&[u8]), mutations: usize) -> Target {
    Target {
        name,
        run,
        mutations,
    }
}

/// All of them, those first that need no credential to be reached.
pub(crate) const ALL: [Target; 11] = [
    target("proxy_header", proxy::proxy, 20_000),
    target("request_head", head::request, 1_000),
    target("request_path", path::request, 50_000),
    target("token_file", tokens::file, 1_000),
    target("token_claims", tokens::claims, 500),
    target("websocket_frames", websocket::frames, 20_000),
    target("v2_batch", envelopes::v2_batch, 20_000),
    target("v2_envelope", envelopes::v2, 20_000),
    target("v1_envelope", envelopes::v1, 20_000),
    target("link_messages", link::messages, 20_000),
    target("config", config::read, 50),
];
