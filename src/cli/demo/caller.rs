//! The demo's own requests to its gate: by the front door, with the tokens that everybody can use.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request};

use super::Failure;
use crate::{
    client::{Client, ClientError},
    clock,
    demo::{
        environment::{EXPORTER, World},
        history,
    },
    http::Body,
    secret::authorization,
};

/// An answer of the gate's is small; predictions are the longest.
const ANSWER_LIMIT: usize = 4 << 20;
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Caller {
    client: Client,
    gate: SocketAddr,
}

impl Caller {
    pub(super) fn new(world: &World, gate: SocketAddr) -> Result<Self, Failure> {
        Ok(Self { client: Client::new(Some(&world.directory.join("ca.pem")))?, gate })
    }

    /// Writes the history with the ingest token. A gate that is not ready yet says 503, and is asked again.
    pub(super) async fn send_history(&self, world: &World, patience: Duration) -> Result<(), Failure> {
        let instance = world.exporter.server().address().to_string();
        let body: Bytes = history::remote_write(EXPORTER, &instance, clock::now())?.into();
        let end = clock::monotonic() + patience;
        loop {
            let request = Request::post(format!("https://{}/api/v1/write", self.gate))
                .header("content-type", "application/x-protobuf")
                .header("content-encoding", "snappy")
                .header("x-prometheus-remote-write-version", "0.1.0")
                .header("user-agent", "wicketgate-demo");
            let answer = self.send(world, "ingest", request, body.clone()).await;
            match answer {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) if answer.status() != StatusCode::SERVICE_UNAVAILABLE || clock::monotonic() > end => {
                    let text = String::from_utf8_lossy(answer.body()).into_owned();
                    return Err(Failure(format!("the gate refused the history with {}: {text}", answer.status())));
                }
                Err(problem) if clock::monotonic() > end => return Err(problem),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Waits for a forecast at `/metrics/predictions`. Whether there was one in time.
    pub(super) async fn first_forecast(&self, world: &World, patience: Duration) -> bool {
        let end = clock::monotonic() + patience;
        while clock::monotonic() < end {
            let request = Request::get(format!("https://{}/metrics/predictions", self.gate));
            let answer = self.send(world, "scrape", request, Bytes::new()).await;
            if answer.is_ok_and(|answer| answer.status().is_success() && holds_forecast(answer.body())) {
                return true;
            }
            tokio::time::sleep(PAUSE).await;
        }
        false
    }

    async fn send(
        &self,
        world: &World,
        role: &str,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Response<Bytes>, Failure> {
        let token = authorization(&format!("Bearer {}", world.token(role)?))?;
        let request = request.header("authorization", token).body(Body::Full(body)).map_err(ClientError::from)?;
        Ok(self.client.fetch(request, ANSWER_LIMIT, ANSWER_DEADLINE).await?)
    }
}

fn holds_forecast(exposition: &[u8]) -> bool {
    let text = String::from_utf8_lossy(exposition);
    text.lines().any(|line| line.starts_with("wicketgate_forecast{") && line.contains("checkout"))
}
