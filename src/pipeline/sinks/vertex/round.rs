//! One forecast's rounds: every interval, all windows are sent and all answers published.
//!
//! Promises: a request carries a credential or is not sent. A round that the endpoint is to blame for is repeated with
//! growing pauses, and with the windows as they are by then. One instance that the model refuses does not take its
//! neighbours with it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{ByCode, ByForecast, Metrics, Running, State};
use crate::{
    backoff::Backoff,
    client::Worker,
    clock,
    http::{Body, read_bounded},
    pipeline::{
        feedback::{Prediction, Predictions},
        shape::{
            timesfm::{self, Answer, Encoded, Question},
            windows::Instance,
        },
    },
    secret::Credential,
};

/// How often an empty-handed forecast looks whether there is something to send by now.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// An answer for 64 series and 1,000 points of eleven numbers each has about 14 MB.
const ANSWER_BYTES: usize = 32 << 20;
/// Refusals in a row after which the endpoint itself is taken to be at fault, and not the series.
const REFUSALS: usize = 16;
/// Vertex names the model that answered here too.
const DEPLOYED_MODEL: &str = "x-vertex-ai-deployed-model-id";

/// The task that asks one forecast's endpoint.
pub(super) struct Asker {
    pub(super) running: Arc<Running>,
    pub(super) predictions: Predictions,
    pub(super) metrics: Metrics,
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Everything that could be sent was; some series may have been refused.
    Done,
    /// No series has enough points yet.
    Nothing,
    /// There is no usable credential.
    NoCredential,
    /// The endpoint could not be asked, or refuses everything.
    Failed,
}

/// Why one request brought no forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    /// What was sent may be at fault: fewer instances may fare better. TimesFM says 500 to bad input too.
    Instances,
    /// The endpoint, the way to it, or the credential is at fault.
    Endpoint,
}

/// A window and its JSON.
type Item = (Instance, Encoded);

impl Asker {
    pub(super) async fn run(self, mut replayed: watch::Receiver<bool>, shutdown: CancellationToken) {
        let rounds = async {
            if replayed.wait_for(|done| *done).await.is_err() {
                return;
            }
            let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
            loop {
                let began = clock::monotonic();
                let interval = self.running.forecast.interval;
                let wait = match self.round().await {
                    Round::Done => {
                        backoff.reset();
                        interval.saturating_sub(began.elapsed())
                    }
                    Round::Nothing | Round::NoCredential => LOOK_AGAIN.min(interval),
                    Round::Failed => backoff.next_delay().min(interval),
                };
                tokio::time::sleep(wait).await;
            }
        };
        shutdown.run_until_cancelled(rounds).await;
    }

    async fn round(&self) -> Round {
        let forecast = &self.running.forecast;
        let now = clock::now();
        let instances = self.running.with_state(|state| {
            state.begin_round();
            state.windows.forget_gone(now.as_millisecond());
            self.metrics.series.get_or_create(&self.by_forecast()).set(state.windows.len() as i64);
            state.windows.instances(now.as_millisecond(), forecast.min_context)
        });
        let alive: HashSet<_> = instances.iter().map(|instance| &instance.labels).collect();
        self.predictions.retain(&forecast.name, now.as_millisecond(), |labels| alive.contains(labels));
        if instances.is_empty() {
            // too few points are no reason to hold up the spool: time keeps their batches, as long as there is room
            self.running.with_state(State::finish_round);
            return Round::Nothing;
        }
        let Some(credential) = forecast.credential.usable(now) else {
            tracing::warn!(forecast = &*forecast.name, "no usable credential: the forecast waits");
            self.count("no_credential");
            return Round::NoCredential;
        };
        let question = Question { step: forecast.step_millis(), horizon: forecast.horizon };
        let encode = |instance| timesfm::encode(&instance, question).map(|encoded| (instance, encoded));
        let items: Vec<Item> = instances.into_iter().filter_map(encode).collect();
        self.send_all(&items, question, &credential).await
    }

    /// Sends everything, in requests of the right size, halving those that are refused.
    async fn send_all(&self, all: &[Item], question: Question, credential: &Credential) -> Round {
        let mut waiting = split(all);
        let mut refusals = 0;
        let mut answered = false;
        while let Some(part) = waiting.pop() {
            match self.ask(part, question, credential).await {
                Ok(answer) => {
                    (refusals, answered) = (0, true);
                    self.publish(part, answer, question);
                }
                Err(Problem::Endpoint) => return Round::Failed,
                Err(Problem::Instances) => {
                    refusals += 1;
                    if !answered && refusals >= REFUSALS {
                        return Round::Failed;
                    }
                    match part.split_at_checked(part.len() / 2) {
                        Some((first, second)) if !first.is_empty() => waiting.extend([second, first]),
                        _ => self.leave_out(part),
                    }
                }
            }
        }
        if answered {
            self.running.with_state(State::finish_round);
            return Round::Done;
        }
        Round::Failed
    }

    fn leave_out(&self, refused: &[Item]) {
        for (instance, _) in refused {
            self.metrics.refused.get_or_create(&self.by_forecast()).inc();
            let forecast = &*self.running.forecast.name;
            tracing::warn!(forecast, series = ?instance.labels, "the endpoint refuses this series");
        }
    }

    fn publish(&self, part: &[Item], answer: Answer, question: Question) {
        let points: usize = part.iter().map(|(instance, _)| instance.input.len()).sum();
        self.metrics.sent.get_or_create(&self.by_forecast()).inc_by(points as u64);
        let model_version: Arc<str> = answer.model_version.as_deref().unwrap_or("unknown").into();
        let predictions = part.iter().zip(answer.forecasts).map(|((instance, _), forecast)| Prediction {
            labels: instance.labels.clone(),
            origin: instance.origin,
            step: question.step,
            model_version: Arc::clone(&model_version),
            mean: forecast.mean,
            quantiles: forecast.quantiles,
        });
        self.predictions.publish(&self.running.forecast.name, predictions);
    }

    /// One request and its answer.
    async fn ask(&self, part: &[Item], question: Question, credential: &Credential) -> Result<Answer, Problem> {
        let forecast = &self.running.forecast;
        let encoded: Vec<_> = part.iter().map(|(_, encoded)| &**encoded).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, credential.authorization.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let path = format!("/v1/{}:predict", forecast.endpoint);
        let body = Body::from(timesfm::request(&encoded));
        let sent = forecast.upstream.send(Worker::BACKGROUND, Method::POST, &path, headers, body, forecast.timeout);
        let answer = sent.await.map_err(|problem| {
            self.count("unreachable");
            self.warn(&problem);
            Problem::Endpoint
        })?;
        let (head, body) = answer.into_parts();
        self.count(head.status.as_str());
        if head.status != StatusCode::OK {
            self.warn(&format!("status {}", head.status.as_u16()));
            return Err(blame(head.status));
        }
        let body = read_bounded(body, ANSWER_BYTES, forecast.timeout).await.map_err(|problem| {
            self.warn(&problem);
            Problem::Endpoint
        })?;
        let mut answer = timesfm::parse(&body, part.len(), question).map_err(|problem| {
            self.count("unreadable");
            self.warn(&problem);
            Problem::Instances
        })?;
        let header = head.headers.get(DEPLOYED_MODEL).and_then(|value| value.to_str().ok());
        answer.model_version = answer.model_version.or_else(|| header.map(str::to_owned));
        Ok(answer)
    }

    fn by_forecast(&self) -> ByForecast {
        ByForecast { forecast: self.running.forecast.name.to_string() }
    }

    fn count(&self, code: &str) {
        let by = ByCode { forecast: self.running.forecast.name.to_string(), code: code.to_owned() };
        self.metrics.requests.get_or_create(&by).inc();
    }

    fn warn(&self, problem: &dyn std::fmt::Display) {
        let forecast = &self.running.forecast;
        tracing::warn!(forecast = &*forecast.name, upstream = forecast.upstream.authority(), %problem, "no forecast");
    }
}

fn blame(status: StatusCode) -> Problem {
    match status {
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::INTERNAL_SERVER_ERROR => Problem::Instances,
        _ => Problem::Endpoint,
    }
}

/// Parts that fit a request each; the first is the last, to be popped first.
fn split(mut all: &[Item]) -> Vec<&[Item]> {
    let mut parts = Vec::new();
    while !all.is_empty() {
        let sizes = all.iter().map(|(_, encoded)| encoded.len());
        let (part, rest) = all.split_at_checked(timesfm::fitting(sizes)).unwrap_or((all, &[]));
        parts.push(part);
        all = rest;
    }
    parts.reverse();
    parts
}
