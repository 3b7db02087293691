//! Forecasts on their way back: the newest prediction for each series, as metrics that Prometheus scrapes.
//!
//! Promises: what is shown is at most [`MAX_POINTS`] points; a prediction that lies wholly in the past is not shown,
//! nor is one whose series has ended. A series' own labels never hide the gate's. It must never hold more than one
//! prediction for each forecast and series, and it does no I/O.

mod render;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, header};

use crate::{
    clock,
    http::{Body, BoxFuture, LocalService, ReadParams as _, media_type},
    principal::Caller,
    refusal::Refusal,
    series::Labels,
};

/// Points shown at most, over all series: about 40 MB of text.
pub(crate) const MAX_POINTS: usize = 200_000;

/// What a model said about one series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prediction {
    /// The series, its metric name among the labels.
    pub labels: Labels,
    /// The time of the last point that the model saw, in milliseconds since the Unix epoch.
    pub origin: i64,
    /// Milliseconds between two points; the first lies one step behind `origin`.
    pub step: i64,
    /// What the model calls its version; `unknown` where it says nothing.
    pub model_version: Arc<str>,
    /// The expected values, or nothing.
    pub mean: Vec<f64>,
    /// Quantile and its values, by ascending quantile.
    pub quantiles: Vec<(f64, Vec<f64>)>,
}

impl Prediction {
    fn points(&self) -> usize {
        self.mean.len() + self.quantiles.iter().map(|(_, values)| values.len()).sum::<usize>()
    }

    /// When its last point is.
    fn end(&self) -> i64 {
        let longest = self.quantiles.iter().map(|(_, values)| values.len()).fold(self.mean.len(), usize::max);
        self.origin.saturating_add(self.step.saturating_mul(i64::try_from(longest).unwrap_or(i64::MAX)))
    }
}

type Held = BTreeMap<Arc<str>, BTreeMap<Labels, Prediction>>;

/// The predictions that are shown; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Predictions(Arc<Mutex<Held>>);

impl Predictions {
    /// Nothing yet.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Puts new predictions of one forecast in the place of older ones of the same series.
    pub(crate) fn publish(&self, forecast: &Arc<str>, predictions: impl IntoIterator<Item = Prediction>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = held.entry(Arc::clone(forecast)).or_default();
        series.extend(predictions.into_iter().map(|prediction| (prediction.labels.clone(), prediction)));
    }

    /// Forgets what one forecast said about series for which `alive` is false, and what is over at `now`.
    pub(crate) fn retain(&self, forecast: &Arc<str>, now: i64, alive: impl Fn(&Labels) -> bool) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = held.get_mut(forecast) {
            series.retain(|labels, prediction| prediction.end() >= now && alive(labels));
        }
    }

    /// Forgets everything about forecasts for which `wanted` is false.
    pub(crate) fn retain_forecasts(&self, wanted: impl Fn(&str) -> bool) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|forecast, _| wanted(forecast));
    }

    /// The page, in one of the two text formats, as of `now` in milliseconds since the Unix epoch.
    #[must_use]
    pub(crate) fn page(&self, format: Format, now: i64) -> String {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        render::page(&held, format, now)
    }
}

/// A text format for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What the client asked for; Prometheus text unless it named OpenMetrics and did not rank it lower.
    #[must_use]
    pub(crate) fn accepted(headers: &HeaderMap) -> Self {
        let weight_of = |wanted: &str| {
            let lists = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
            let entries = lists.flat_map(|list| list.split(','));
            entries
                .filter_map(|entry| {
                    let media = media_type(entry).filter(|media| Some(media.essence()) == media_type(wanted))?;
                    let weight = media.params().find(|(name, _)| *name == "q");
                    weight.map_or(Some(1.0), |(_, weight)| weight.as_str().parse().ok())
                })
                .fold(0.0, f64::max)
        };
        let open = weight_of("application/openmetrics-text");
        if open > 0.0 && open >= weight_of("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }
}

impl LocalService for Predictions {
    fn serve<'a>(&'a self, _caller: Caller, request: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, Refusal>> {
        Box::pin(async move {
            if request.method() != Method::GET && request.method() != Method::HEAD {
                return Err(Refusal::wrong_method("GET, HEAD"));
            }
            let format = Format::accepted(request.headers());
            let predictions = self.clone();
            // a large page takes longer to write than others on this core should wait
            let page = tokio::task::spawn_blocking(move || predictions.page(format, clock::now().as_millisecond()));
            let page = page.await.map_err(|e| {
                Refusal::unavailable("predictions_failed", "the page could not be written").with_detail(e)
            })?;
            let mut answer = Response::new(Body::from(page));
            answer.headers_mut().insert(header::CONTENT_TYPE, format.content_type());
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: Format) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        assert_eq!(Format::accepted(&headers), expected, "{accept}");
    }

    #[test]
    fn the_client_chooses_the_format() {
        assert_eq!(Format::accepted(&HeaderMap::new()), Format::Text);
        check("*/*", Format::Text);
        check("text/plain;version=0.0.4", Format::Text);
        check("application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5", Format::OpenMetrics);
        check("application/openmetrics-text;q=0.2,text/plain;q=0.5", Format::Text);
        check("application/openmetrics-text;q=0", Format::Text);
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            Format::OpenMetrics,
        );
    }

    #[test]
    fn what_has_ended_or_is_over_is_forgotten() {
        let prediction = |name: &str| Prediction {
            labels: Labels::new(&[("__name__", name)]),
            origin: 1_000,
            step: 1_000,
            model_version: "1".into(),
            mean: vec![1.0, 2.0],
            quantiles: vec![],
        };
        let predictions = Predictions::new();
        let load: Arc<str> = "load".into();
        let shown = |now| predictions.page(Format::Text, now).matches("wicketgate_forecast_mean{").count();
        predictions.publish(&load, ["a", "b", "a"].map(prediction));
        assert_eq!(shown(3_000), 4);
        assert_eq!(shown(3_001), 0, "over");
        predictions.retain(&load, 3_000, |labels| labels.metric() != "a");
        assert_eq!(shown(3_000), 2);
        predictions.retain_forecasts(|name| name != "load");
        assert_eq!(shown(3_000), 0);
        predictions.publish(&load, [prediction("a")]);
        predictions.retain(&load, 3_001, |_| true);
        assert_eq!(shown(3_000), 0);
    }
}
