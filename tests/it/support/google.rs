//! Google as far as a test looks at it: STS, IAM Credentials and a Vertex that echoes which account asked.
//!
//! It promises nothing about forecasts (the demo's emulator does); it remembers every request, so that a test can say
//! which service account, and which bytes, reached Vertex.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use serde_json::{Value, json};
use wicketgate::clock;

use super::upstream::{self, Reply, Seen, Upstream};

/// The emulator. Vertex is below `/vertex`, so that its requests can be told from those for tokens.
pub(crate) struct Google {
    pub(crate) server: Upstream,
    lifetime: Arc<AtomicU64>,
}

impl Google {
    pub(crate) async fn start() -> Self {
        let minted = Arc::new(AtomicU64::new(0));
        let lifetime = Arc::new(AtomicU64::new(3600));
        let lives = Arc::clone(&lifetime);
        let server = Upstream::start(move |seen| answer(seen, &minted, lives.load(Ordering::SeqCst))).await;
        Self { server, lifetime }
    }

    /// From here on access tokens live for so many seconds.
    pub(crate) fn set_lifetime(&self, seconds: u64) {
        self.lifetime.store(seconds, Ordering::SeqCst);
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// The requests that reached Vertex.
    pub(crate) fn vertex(&self) -> Vec<Seen> {
        self.server.seen().into_iter().filter(|seen| is_vertex(&seen.target)).collect()
    }

    /// The subject of each token that was exchanged, in order. STS verifies it; this reads it only.
    pub(crate) fn exchanges(&self) -> Vec<Value> {
        let seen = self.server.seen();
        seen.iter().filter(|seen| seen.target == "/v1/token").map(|seen| claims(&subject_token(seen))).collect()
    }

    /// The subject tokens themselves.
    pub(crate) fn subject_tokens(&self) -> Vec<String> {
        self.server.seen().iter().filter(|seen| seen.target == "/v1/token").map(subject_token).collect()
    }

    /// How often an access token of this service account was asked for.
    pub(crate) fn impersonations(&self, account: &str) -> usize {
        let wanted = format!("/{account}:generateAccessToken");
        self.server.seen().iter().filter(|seen| seen.target.ends_with(&wanted)).count()
    }
}

/// What a request for an exchange shows; google-cloud-auth sends a form.
fn subject_token(seen: &Seen) -> String {
    let found = url::form_urlencoded::parse(&seen.body).find(|(name, _)| name == "subject_token");
    found.map(|(_, token)| token.into_owned()).unwrap_or_default()
}

/// A token's claims, unverified; nothing where it is no token.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
    payload.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default()
}

fn is_vertex(target: &str) -> bool {
    target.starts_with("/v1/projects/p/") || target.starts_with("/v1beta1/projects/p/")
}

fn answer(seen: &Seen, minted: &AtomicU64, lifetime: u64) -> Reply {
    let target = seen.target.as_str();
    if target == "/v1/token" {
        let subject = claims(&subject_token(seen))["sub"].as_str().unwrap_or_default().to_owned();
        return upstream::json(&json!({
            "access_token": format!("federated-{subject}"), "token_type": "Bearer", "expires_in": 3600,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        }));
    }
    if let Some(account) = target.strip_suffix(":generateAccessToken").and_then(|path| path.rsplit('/').next()) {
        let subject = seen.header("authorization").strip_prefix("Bearer federated-").unwrap_or_default();
        let number = minted.fetch_add(1, Ordering::SeqCst);
        let until = clock::after(clock::now(), std::time::Duration::from_secs(lifetime));
        return upstream::json(&json!({
            "accessToken": format!("google-token-of-{account}-{number}-for-{subject}"), "expireTime": until.to_string(),
        }));
    }
    if !is_vertex(target) {
        return upstream::reply(StatusCode::NOT_FOUND, "application/json", r#"{"error":{"code":404}}"#);
    }
    if target.contains(":predict") {
        return upstream::json(&json!({
            "predictions": predictions(seen), "deployedModelId": "77", "model": "projects/p/locations/l/models/m",
            "modelDisplayName": "m", "modelVersionId": "3",
        }));
    }
    // the resource's name is its path without version, query and verb
    let name = target.split(['?', ':']).next().unwrap_or_default().splitn(3, '/').nth(2);
    upstream::json(&json!({"name": name}))
}

/// One flat forecast for each instance, in TimesFM's shape.
fn predictions(seen: &Seen) -> Vec<serde_json::Value> {
    let asked: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    let instances = asked["instances"].as_array().cloned().unwrap_or_default();
    instances
        .iter()
        .map(|instance| {
            let horizon = instance["horizon"].as_f64().unwrap_or(1.0) as usize;
            let last = instance["input"].as_array().and_then(|input| input.last()).cloned().unwrap_or_default();
            let row: Vec<_> = (0..horizon).map(|_| last.clone()).collect();
            json!({"point_forecast": row, "mean": row, "p10": row, "p50": row, "p90": row})
        })
        .collect()
}
