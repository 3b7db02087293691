//! Google for the suite: STS, IAM Credentials, and a Vertex that echoes the service account, by REST here and by gRPC
//! in `google_rpc`.
//!
//! It remembers every request, so that a test can assert which service account and which bytes reached Vertex. It
//! forecasts nothing; the demo's emulator does.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use serde_json::{Value, json};
use wicketgate::internals::clock;

use super::upstream::{self, Reply, Seen, Upstream};

/// The emulator. Vertex is below `/vertex`, which separates its requests from those for tokens.
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

    /// The number of requests for an access token of this service account.
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

/// The answer of a model, in pieces if the request is for a stream.
pub(crate) const GENERATED: [&str; 3] = ["the season ", "goes ", "on"];

/// Whether it is no request for a token: those of STS and IAM Credentials have Vertex's version in their paths too.
fn is_vertex(target: &str) -> bool {
    target != "/v1/token" && !target.starts_with("/v1/projects/-/serviceAccounts/")
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
    let account = target.strip_prefix("/v1/projects/-/serviceAccounts/");
    if let Some(account) = account.and_then(|rest| rest.strip_suffix(":generateAccessToken")) {
        let subject = seen.header("authorization").strip_prefix("Bearer federated-").unwrap_or_default();
        let number = minted.fetch_add(1, Ordering::SeqCst);
        let until = clock::after(clock::now(), std::time::Duration::from_secs(lifetime));
        return upstream::json(&json!({
            "accessToken": format!("google-token-of-{account}-{number}-for-{subject}"), "expireTime": until.to_string(),
        }));
    }
    match method(target) {
        _ if !is_vertex(target) => {
            upstream::reply(StatusCode::NOT_FOUND, "application/json", r#"{"error":{"code":404}}"#)
        }
        "predict" => {
            let asked: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
            let instances = asked["instances"].as_array().cloned().unwrap_or_default();
            upstream::json(&json!({
                "predictions": predictions(&instances), "deployedModelId": "77",
                "model": "projects/p/locations/l/models/m", "modelDisplayName": "m", "modelVersionId": "3",
            }))
        }
        "generateContent" => upstream::json(&generated(&GENERATED.concat())),
        "streamGenerateContent" if target.contains("alt=sse") => {
            let events: String = GENERATED.iter().map(|text| format!("data: {}\r\n\r\n", generated(text))).collect();
            upstream::reply(StatusCode::OK, "text/event-stream", events)
        }
        "streamGenerateContent" => upstream::json(&GENERATED.map(generated).into()),
        "countTokens" => upstream::json(&json!({"totalTokens": 7})),
        // the model's own server echoes the request
        "rawPredict" | "streamRawPredict" => {
            upstream::reply(StatusCode::OK, seen.header("content-type"), seen.body.clone())
        }
        // the resource's name is its path without version, query and verb
        _ => {
            upstream::json(&json!({"name": target.split(['?', ':']).next().unwrap_or_default().splitn(3, '/').nth(2)}))
        }
    }
}

/// The custom verb of a path, "" where there is none.
fn method(target: &str) -> &str {
    let path = target.split('?').next().unwrap_or_default();
    path.rsplit('/').next().and_then(|last| last.split_once(':')).map_or("", |(_, verb)| verb)
}

fn generated(text: &str) -> Value {
    json!({
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 7}, "modelVersion": "gemini-2-001",
    })
}

/// One flat forecast for each instance, in TimesFM's shape.
pub(crate) fn predictions(instances: &[Value]) -> Vec<Value> {
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
