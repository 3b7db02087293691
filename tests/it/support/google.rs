//! Google as far as a test looks at it: STS, IAM Credentials and a Vertex that echoes which account asked.
//!
//! It promises nothing about forecasts (the demo's emulator does); it remembers every request, so that a test can say
//! which service account, and which bytes, reached Vertex.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use http::StatusCode;
use serde_json::json;
use wicketgate::clock;

use super::upstream::{self, Reply, Seen, Upstream};

/// The emulator. Vertex is below `/vertex`, so that its requests can be told from those for tokens.
pub(crate) struct Google {
    pub(crate) server: Upstream,
}

impl Google {
    pub(crate) async fn start() -> Self {
        let minted = Arc::new(AtomicU64::new(0));
        Self { server: Upstream::start(move |seen| answer(seen, &minted)).await }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// The requests that reached Vertex.
    pub(crate) fn vertex(&self) -> Vec<Seen> {
        self.server.seen().into_iter().filter(|seen| is_vertex(&seen.target)).collect()
    }

    /// How often an access token of this service account was asked for.
    pub(crate) fn impersonations(&self, account: &str) -> usize {
        let wanted = format!("/{account}:generateAccessToken");
        self.server.seen().iter().filter(|seen| seen.target.ends_with(&wanted)).count()
    }
}

fn is_vertex(target: &str) -> bool {
    target.starts_with("/v1/projects/p/") || target.starts_with("/v1beta1/projects/p/")
}

fn answer(seen: &Seen, minted: &AtomicU64) -> Reply {
    let target = seen.target.as_str();
    if target == "/v1/token" {
        return upstream::json(&json!({
            "access_token": "federated", "token_type": "Bearer", "expires_in": 3600,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        }));
    }
    if let Some(account) = target.strip_suffix(":generateAccessToken").and_then(|path| path.rsplit('/').next()) {
        let number = minted.fetch_add(1, Ordering::SeqCst);
        let until = clock::after(clock::now(), std::time::Duration::from_secs(3600));
        return upstream::json(&json!({
            "accessToken": format!("google-token-of-{account}-{number}"), "expireTime": until.to_string(),
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
