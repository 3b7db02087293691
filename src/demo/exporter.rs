//! Demo exporter with Basic authentication and metrics of a one-minute season.
//!
//! Promises: it answers requests with the right Basic credentials only. The format is the text format, or OpenMetrics if
//! `Accept` lists it; the body is gzipped if `Accept-Encoding` lists that. Every value is a pure function of time, so its
//! history can be computed at any time.

use std::{f64::consts::TAU, io::Write, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Method, Response, StatusCode, header};

use super::{
    error::DemoError,
    server::{Handler, ReceivedRequest, Server, respond},
};
use crate::{
    clock::{self, Timestamp},
    http::{Body, BoxFuture},
};

/// The metric with a season.
pub(crate) const METRIC: &str = "demo_requests_per_second";
/// Seconds of a season.
pub(crate) const PERIOD: f64 = 60.0;
/// The services that the metric has figures for, in its `service` label.
pub(crate) const SERVICES: [&str; 3] = ["checkout", "search", "login"];
/// The Basic user name.
pub(crate) const USERNAME: &str = "wicketgate";

/// A running exporter.
pub struct Exporter {
    server: Server,
}

struct Shared {
    /// The expected `Authorization` value; `None` if the exporter requires none.
    authorization: Option<String>,
    started_at: Timestamp,
}

impl Exporter {
    /// Listens on 127.0.0.1:`port` (0: any). With a `password`, requests need it and the user [`USERNAME`].
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start(port: u16, password: Option<&str>) -> Result<Self, DemoError> {
        let authorization =
            password.map(|password| format!("Basic {}", STANDARD.encode(format!("{USERNAME}:{password}"))));
        let shared = Arc::new(Shared { authorization, started_at: clock::now() });
        Ok(Self { server: Server::start(port, None, shared).await? })
    }

    /// Its base URL; the figures are at `/metrics`.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The server, with the requests that it recorded.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Closes the socket and every connection.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// The figure of a service at a time: a wave of one minute with an overtone, and a little noise.
#[must_use]
pub(crate) fn requests_per_second(service: &str, at: Timestamp) -> f64 {
    let seconds = at.as_millisecond() as f64 / 1000.0;
    let index = SERVICES.iter().position(|known| *known == service).unwrap_or_default() as f64;
    let turn = TAU * seconds / PERIOD + index * TAU / 3.0;
    let base = 120.0 - 30.0 * index;
    let swing = 40.0 - 10.0 * index;
    let value = base + swing * turn.sin() + 0.25 * swing * (2.0 * turn).cos() + noise(at.as_second(), index);
    (value * 100.0).round() / 100.0
}

/// Between -2 and 2, the same for the same second (`SplitMix64`).
fn noise(second: i64, index: f64) -> f64 {
    let mut z = second.unsigned_abs().wrapping_mul(3).wrapping_add(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z >> 11) as f64 / (1_u64 << 53) as f64 * 4.0 - 2.0
}

/// Requests since `start`: the integral of the wave without its noise.
fn requests_total(service: &str, start: Timestamp, at: Timestamp) -> f64 {
    let index = SERVICES.iter().position(|known| *known == service).unwrap_or_default() as f64;
    let base = 120.0 - 30.0 * index;
    let swing = 40.0 - 10.0 * index;
    let sum = |at: Timestamp| {
        let turn = TAU * (at.as_millisecond() as f64 / 1000.0) / PERIOD + index * TAU / 3.0;
        (swing * -turn.cos() + 0.125 * swing * (2.0 * turn).sin()) * PERIOD / TAU
    };
    (base * clock::seconds_between(start, at) + sum(at) - sum(start)).max(0.0).round()
}

impl Handler for Shared {
    fn handle(self: Arc<Self>, request: ReceivedRequest) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            if self.authorization.as_deref().is_some_and(|expected| request.header("authorization") != expected) {
                let mut response = respond(StatusCode::UNAUTHORIZED, "text/plain", "this exporter needs a password\n");
                let challenge = HeaderValue::from_static("Basic realm=\"exporter\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                return response;
            }
            match (&request.method, request.path.as_str()) {
                (&Method::GET, "/metrics") => self.metrics(&request),
                (&Method::GET, "/") => respond(StatusCode::OK, "text/html", "<a href=\"metrics\">metrics</a>\n"),
                (&Method::GET, _) => respond(StatusCode::NOT_FOUND, "text/plain", "no such page\n"),
                _ => respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n"),
            }
        })
    }
}

impl Shared {
    fn metrics(&self, request: &ReceivedRequest) -> Response<Body> {
        let open = request.header("accept").contains("application/openmetrics-text");
        let text = self.exposition(clock::now(), open);
        let content_type = if open {
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        } else {
            "text/plain; version=0.0.4; charset=utf-8"
        };
        if !request.header("accept-encoding").contains("gzip") {
            return respond(StatusCode::OK, content_type, text);
        }
        let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
        let Ok(zipped) = zip.write_all(text.as_bytes()).and_then(|()| zip.finish()) else {
            return respond(StatusCode::OK, content_type, text);
        };
        let mut response = respond(StatusCode::OK, content_type, zipped);
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    }

    fn exposition(&self, now: Timestamp, open: bool) -> String {
        // OpenMetrics names a counter's family without its `_total`
        let family = if open { "" } else { "_total" };
        let started = self.started_at.as_millisecond() as f64 / 1000.0;
        let cpu = clock::seconds_between(self.started_at, now) * 0.013;
        let mut text = format!(
            "# HELP {METRIC} Requests served a second, now.\n# TYPE {METRIC} gauge\n{}\
             # HELP demo_requests{family} Requests served since the start.\n# TYPE demo_requests{family} counter\n{}\
             # HELP process_cpu_seconds{family} CPU time spent.\n# TYPE process_cpu_seconds{family} counter\n\
             process_cpu_seconds_total {cpu:.3}\n\
             # HELP process_start_time_seconds When the process started.\n# TYPE process_start_time_seconds gauge\n\
             process_start_time_seconds {started:.3}\n",
            lines(METRIC, |service| requests_per_second(service, now)),
            lines("demo_requests_total", |service| requests_total(service, self.started_at, now)),
        );
        if open {
            text.push_str("# EOF\n");
        }
        text
    }
}

fn lines(metric: &str, value: impl Fn(&str) -> f64) -> String {
    SERVICES.map(|service| format!("{metric}{{service=\"{service}\"}} {}\n", value(service))).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_repeat_every_minute_within_their_noise() {
        let at = |second| Timestamp::from_second(1_800_000_000_i64 + second).unwrap();
        for second in 0..60 {
            let first = requests_per_second("checkout", at(second));
            let again = requests_per_second("checkout", at(second + 60));
            assert!((first - again).abs() <= 4.1, "{first} and {again}");
            assert_eq!(first, requests_per_second("checkout", at(second)));
        }
    }

    #[test]
    fn counters_only_rise() {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let counts: Vec<f64> =
            (0..300).map(|s| requests_total("search", start, start + std::time::Duration::from_secs(s))).collect();
        assert!(counts.is_sorted() && counts[0] == 0.0 && counts[299] > 10_000.0);
    }
}
