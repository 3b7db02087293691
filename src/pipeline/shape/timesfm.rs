//! Windows and forecasts in the words of TimesFM as Model Garden serves it, behind Vertex' `:predict`.
//!
//! Promises: a request holds finite numbers only and stays below the size that shared endpoints take. Both forms of
//! answer are read: `p10`…`p90` (2024 and later) and `quantile_forecast` (the older image). An answer that does not
//! fit its request is an error; it is never guessed at.
//!
//! The request: `{"instances":[{"input":[1.5,…],"horizon":32,"timestamp":["2026-11-22T17:00:00Z",…],
//! "timestamp_format":"%Y-%m-%dT%H:%M:%SZ"}]}`. The answer: `{"predictions":[{"point_forecast":[…],"mean":[…],
//! "p10":[…],…}],"deployedModelId":"…","modelVersionId":"…"}`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::windows::Instance;
use crate::clock::Timestamp;

/// Shared public endpoints take 1.5 MB; the rest is room for what encodes larger than it was counted.
const REQUEST_BYTES: usize = 1_200_000;
/// Instances in a request at most: one bad instance fails them all, and is then searched for by halves.
const REQUEST_INSTANCES: usize = 64;
/// Model versions are labels of metrics: longer ones are cut.
const VERSION_LENGTH: usize = 64;

/// What is asked of the model about each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Milliseconds between two points.
    pub step: i64,
    /// Points wanted, at least 1.
    pub horizon: usize,
}

/// One instance of a request, encoded.
pub(crate) type Encoded = Box<str>;

/// The model's answer about one series.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Forecast {
    /// The expected value of each coming step; empty where the model gives none.
    pub mean: Vec<f64>,
    /// Quantile (`0.1`) and its value for each coming step, by ascending quantile.
    pub quantiles: Vec<(f64, Vec<f64>)>,
}

/// The model's answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// One for each instance, in their order.
    pub forecasts: Vec<Forecast>,
    /// The version of the model that answered, or what else identifies it, where the answer says so.
    pub model_version: Option<String>,
}

/// Why an answer is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// Not JSON, or not of the shape.
    #[error("the answer is not a forecast: {0}")]
    Shape(#[from] serde_json::Error),
    /// Instances and predictions do not pair up.
    #[error("{asked} series were asked about and {answered} answered")]
    Count {
        /// How many were sent.
        asked: usize,
        /// How many came back.
        answered: usize,
    },
    /// A prediction without a single known field.
    #[error("a prediction has neither quantiles nor a mean nor a point forecast")]
    Empty,
}

#[derive(Serialize)]
struct InstanceJson<'a> {
    input: &'a [f64],
    horizon: usize,
    timestamp: Vec<String>,
    timestamp_format: &'static str,
}

/// Encodes one window; nothing when it holds a number that JSON cannot.
#[must_use]
pub(crate) fn encode(instance: &Instance, question: Question) -> Option<Encoded> {
    if !instance.input.iter().all(|value| value.is_finite()) {
        return None;
    }
    let (timestamp_format, form) = if question.step % 1000 == 0 {
        ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%SZ")
    } else {
        // Python's %f takes up to six digits
        ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S.%3fZ")
    };
    let count = i64::try_from(instance.input.len()).ok()?;
    let timestamp = (1 - count..=0)
        .map(|place| {
            let at = instance.origin.saturating_add(place.saturating_mul(question.step));
            Some(Timestamp::from_millisecond(at).ok()?.strftime(form).to_string())
        })
        .collect::<Option<Vec<_>>>()?;
    let json = InstanceJson { input: &instance.input, horizon: question.horizon, timestamp, timestamp_format };
    serde_json::to_string(&json).ok().map(Into::into)
}

/// How many instances of these encoded lengths, from the first, fit one request; at least 1 of any.
#[must_use]
pub(crate) fn fitting(lengths: impl ExactSizeIterator<Item = usize>) -> usize {
    let offered = lengths.len();
    let mut room = REQUEST_BYTES;
    let fit = lengths.take(REQUEST_INSTANCES).take_while(|length| {
        let fits = *length < room;
        room = room.saturating_sub(length + 1);
        fits
    });
    fit.count().max(1).min(offered)
}

/// The body of a request with these instances.
#[must_use]
pub(crate) fn request(instances: &[&str]) -> Bytes {
    Bytes::from(format!("{{\"instances\":[{}]}}", instances.join(",")))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerJson {
    predictions: Vec<Prediction>,
    deployed_model_id: Option<String>,
    model_version_id: Option<String>,
    model: Option<String>,
}

#[derive(Deserialize)]
struct Prediction {
    point_forecast: Option<Vec<f64>>,
    mean: Option<Vec<f64>>,
    quantile_forecast: Option<Vec<Vec<f64>>>,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

/// Reads the answer to a request with `asked` instances.
///
/// # Errors
/// When it is not of the shape, or answers for another number of instances.
pub(crate) fn parse(body: &[u8], asked: usize, question: Question) -> Result<Answer, AnswerError> {
    let json: AnswerJson = serde_json::from_slice(body)?;
    if json.predictions.len() != asked {
        return Err(AnswerError::Count { asked, answered: json.predictions.len() });
    }
    let forecasts =
        json.predictions.into_iter().map(|p| forecast(p, question.horizon)).collect::<Result<Vec<_>, _>>()?;
    let said = |id: Option<String>| id.filter(|id| !id.is_empty());
    let model_version = said(json.model_version_id)
        .or(said(json.deployed_model_id))
        .or(said(json.model))
        .map(|id| id.chars().take(VERSION_LENGTH).collect());
    Ok(Answer { forecasts, model_version })
}

fn forecast(prediction: Prediction, horizon: usize) -> Result<Forecast, AnswerError> {
    let mut found = Forecast { mean: prediction.mean.unwrap_or_default(), quantiles: Vec::new() };
    for (name, values) in prediction.others {
        // p10, p50, p90 and whatever else is spelled so; other fields are not ours to read
        let percent = name.strip_prefix('p').and_then(|digits| digits.parse::<u8>().ok());
        if let Some(percent @ 1..=99) = percent {
            found.quantiles.push((f64::from(percent) / 100.0, serde_json::from_value(values)?));
        }
    }
    // the older image: for each step the mean and then nine deciles
    let old_form = prediction.quantile_forecast.filter(|_| found.quantiles.is_empty());
    for step in old_form.iter().flatten() {
        for (decile, value) in step.iter().enumerate().take(10) {
            let decile = u8::try_from(decile).unwrap_or_default();
            let quantile = f64::from(decile) / 10.0;
            match found.quantiles.iter_mut().find(|(known, _)| *known == quantile) {
                Some((_, values)) => values.push(*value),
                None => found.quantiles.push((quantile, vec![*value])),
            }
        }
    }
    if let Some(place) = found.quantiles.iter().position(|(quantile, _)| *quantile == 0.0) {
        let (_, mean) = found.quantiles.swap_remove(place);
        if found.mean.is_empty() {
            found.mean = mean;
        }
    }
    found.quantiles.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    match prediction.point_forecast {
        // with covariates the quantiles are missing; the point forecast is the median then
        Some(points) if found.quantiles.is_empty() => found.quantiles.push((0.5, points)),
        None if found.quantiles.is_empty() && found.mean.is_empty() => return Err(AnswerError::Empty),
        _ => {}
    }
    // a server answers with its own horizon where that is longer
    found.mean.truncate(horizon);
    found.quantiles.iter_mut().for_each(|(_, values)| values.truncate(horizon));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::Labels;

    const QUESTION: Question = Question { step: 15_000, horizon: 2 };

    fn instance(input: &[f64]) -> Instance {
        Instance { labels: Labels::new(&[]), input: input.to_vec(), origin: 1_700_000_040_000 }
    }

    #[test]
    fn an_instance_says_its_points_and_their_times() {
        let encoded = encode(&instance(&[1.0, 2.5]), QUESTION).unwrap();
        let expected = r#"{"input":[1.0,2.5],"horizon":2,"timestamp":["2023-11-14T22:13:45Z","2023-11-14T22:14:00Z"],"timestamp_format":"%Y-%m-%dT%H:%M:%SZ"}"#;
        assert_eq!(&*encoded, expected);
        let fine = encode(&instance(&[1.0]), Question { step: 250, ..QUESTION }).unwrap();
        assert!(fine.contains("\"2023-11-14T22:14:00.000Z\""), "{fine}");
        assert_eq!(encode(&instance(&[f64::NAN]), QUESTION), None);
        assert_eq!(request(&["{}", "{}"]), r#"{"instances":[{},{}]}"#);
    }

    #[test]
    fn requests_stay_below_what_an_endpoint_takes() {
        let long = encode(&instance(&[0.123_456_789_012_345_67; 512]), QUESTION).unwrap();
        let fit = fitting(std::iter::repeat_n(long.len(), 100));
        assert!((20..=64).contains(&fit), "{fit}");
        assert!(request(&vec![&*long; fit]).len() < 1_500_000);
        assert_eq!(fitting([long.len(); 3].into_iter()), 3);
        assert_eq!(fitting([2_000_000].into_iter()), 1);
        assert_eq!(fitting([].into_iter()), 0);
    }

    #[test]
    fn both_forms_of_answer_are_read() {
        let new = r#"{"predictions":[{"point_forecast":[5,6,7],"mean":[5.5,6.5,7.5],"p90":[9,9,9],"p10":[1,1,1],
            "timestamp":["x"]}],"deployedModelId":"42","model":"m","modelVersionId":"3"}"#;
        let answer = parse(new.as_bytes(), 1, QUESTION).unwrap();
        assert_eq!(answer.model_version.as_deref(), Some("3"));
        let expected = Forecast { mean: vec![5.5, 6.5], quantiles: vec![(0.1, vec![1.0, 1.0]), (0.9, vec![9.0, 9.0])] };
        assert_eq!(answer.forecasts, [expected]);

        let old = r#"{"predictions":[{"point_forecast":[5,6],"quantile_forecast":
            [[5.5,1,2,3,4,5,6,7,8,9],[6.5,11,12,13,14,15,16,17,18,19]]}],"deployedModelId":"42"}"#;
        let answer = parse(old.as_bytes(), 1, QUESTION).unwrap();
        assert_eq!(answer.model_version.as_deref(), Some("42"));
        assert_eq!(answer.forecasts[0].mean, [5.5, 6.5]);
        assert_eq!(answer.forecasts[0].quantiles.len(), 9);
        assert_eq!(answer.forecasts[0].quantiles[4], (0.5, vec![5.0, 15.0]));

        let bare = parse(br#"{"predictions":[{"point_forecast":[5,6]}]}"#, 1, QUESTION).unwrap();
        assert_eq!(bare.forecasts[0].quantiles, [(0.5, vec![5.0, 6.0])]);
        assert_eq!(bare.model_version, None);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_an_error() {
        let refused = |body: &str| parse(body.as_bytes(), 2, QUESTION).unwrap_err();
        assert!(matches!(refused(r#"{"predictions":[]}"#), AnswerError::Count { asked: 2, answered: 0 }));
        assert!(matches!(refused(r#"{"error":"boom"}"#), AnswerError::Shape(_)));
        assert!(matches!(refused(r#"{"predictions":[{"mean":["a"]},{}]}"#), AnswerError::Shape(_)));
        assert!(matches!(refused(r#"{"predictions":[{"mean":[1]},{}]}"#), AnswerError::Empty));
        assert!(matches!(refused(r#"{"predictions":[{"mean":[NaN]},{}]}"#), AnswerError::Shape(_)));
    }
}
