//! HTTP client of the demo: it sends history to the gate and reads its forecasts, with the tokens in `tokens/`.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request};

use super::error::StartError;
use crate::{
    client::{Client, ClientError},
    clock,
    demo::{
        environment::{EXPORTER, Environment},
        history,
    },
    http::Body,
    secret::authorization,
};

/// An answer of the gate's is small; predictions are the longest.
const RESPONSE_LIMIT: usize = 4 << 20;
const RESPONSE_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

pub(super) struct DemoClient {
    client: Client,
    gate: SocketAddr,
}

impl DemoClient {
    pub(super) fn new(environment: &Environment, gate: SocketAddr) -> Result<Self, StartError> {
        Ok(Self { client: Client::new(Some(&environment.directory.join("certs/ca.pem")))?, gate })
    }

    /// Writes the history with the ingest token. A gate that is not ready yet says 503, and is asked again.
    pub(super) async fn send_history(&self, environment: &Environment, timeout: Duration) -> Result<(), StartError> {
        let instance = environment.exporter.server().address().to_string();
        let body: Bytes = history::remote_write(EXPORTER, &instance, clock::now())?.into();
        let deadline = clock::monotonic() + timeout;
        loop {
            let request = Request::post(format!("https://{}/api/v1/write", self.gate))
                .header("content-type", "application/x-protobuf")
                .header("content-encoding", "snappy")
                .header("x-prometheus-remote-write-version", "0.1.0")
                .header("user-agent", "wicketgate-demo");
            let response = self.send(environment, "ingest", request, body.clone()).await;
            match response {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response)
                    if response.status() != StatusCode::SERVICE_UNAVAILABLE || clock::monotonic() > deadline =>
                {
                    let text = String::from_utf8_lossy(response.body()).into_owned();
                    return Err(StartError(format!("the gate refused the history with {}: {text}", response.status())));
                }
                Err(error) if clock::monotonic() > deadline => return Err(error),
                _ => tokio::time::sleep(RETRY_INTERVAL).await,
            }
        }
    }

    /// Waits for a forecast at `/metrics/predictions`. Whether there was one in time.
    pub(super) async fn first_forecast(&self, environment: &Environment, timeout: Duration) -> bool {
        let deadline = clock::monotonic() + timeout;
        while clock::monotonic() < deadline {
            let request = Request::get(format!("https://{}/metrics/predictions", self.gate));
            let response = self.send(environment, "scrape", request, Bytes::new()).await;
            if response.is_ok_and(|response| response.status().is_success() && contains_forecast(response.body())) {
                return true;
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        false
    }

    async fn send(
        &self,
        environment: &Environment,
        role: &str,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Response<Bytes>, StartError> {
        let token = authorization(&format!("Bearer {}", environment.token(role)?))?;
        let request = request.header("authorization", token).body(Body::Full(body)).map_err(ClientError::from)?;
        Ok(self.client.fetch(request, RESPONSE_LIMIT, RESPONSE_DEADLINE).await?)
    }
}

fn contains_forecast(exposition: &[u8]) -> bool {
    let text = String::from_utf8_lossy(exposition);
    text.lines().any(|line| line.starts_with("wicketgate_forecast{") && line.contains("checkout"))
}
