//! Forecast model of the emulated endpoint: a seasonal forecast with quantiles and the interface of TimesFM.
//!
//! Promises: pure; the same instance gives the same answer. The season has `season` steps if the request contains it;
//! otherwise autocorrelation finds it. STL removes the season, exponential smoothing continues the rest, and the
//! quantiles are that model's prediction intervals. A series too short or too flat for that is continued by its last
//! season or value.
//!
//! Request and answer follow the TimesFM server of Model Garden: `input`, `horizon`, `timestamp`, and in the answer
//! `point_forecast`, `mean`, `p10` … `p90`, `timestamp`.

use augurs::{
    Fit, Forecast, Predict,
    ets::AutoETS,
    mstl::{MSTLModel, stlrs},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Steps to forecast if the instance does not say.
const DEFAULT_HORIZON: usize = 128;
/// The server's TIMESFM_HORIZON.
const MAX_HORIZON: usize = 1024;
/// The model's context; of longer inputs only the end is read.
const MAX_CONTEXT: usize = 2048;
/// Autocorrelation below this is no season.
const MIN_AUTOCORRELATION: f64 = 0.3;
/// Seasons that STL needs to tell a season from a trend.
const MIN_SEASONS: usize = 3;
/// Interval level, its ends in standard deviations of a normal distribution, and the quantiles at its ends.
const LEVELS: [(f64, f64, &str, &str); 4] = [
    (0.8, 1.281_552, "p10", "p90"),
    (0.6, 0.841_621, "p20", "p80"),
    (0.4, 0.524_401, "p30", "p70"),
    (0.2, 0.253_347, "p40", "p60"),
];

/// One instance of a request.
#[derive(Debug, Deserialize)]
pub(crate) struct Instance {
    /// The series so far, oldest first, at a fixed step; at least two points.
    pub input: Vec<f64>,
    /// Steps to forecast.
    pub horizon: Option<usize>,
    /// Steps in a season; found from the data unless given.
    pub season: Option<usize>,
    /// When each point was, echoed, and continued if they are RFC 3339.
    #[serde(default)]
    pub timestamp: Vec<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// One forecast of an answer.
#[derive(Debug, Serialize)]
pub(crate) struct Prediction {
    /// The most likely course; the same as `mean`.
    pub point_forecast: Vec<f64>,
    /// The most likely forecast.
    pub mean: Vec<f64>,
    /// `p10` … `p90` by name, each as long as the horizon.
    #[serde(flatten)]
    pub quantiles: std::collections::BTreeMap<&'static str, Vec<f64>>,
    /// The time of each forecast point; empty if the instance has no timestamps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timestamp: Vec<String>,
}

/// Forecasts every instance. CPU-heavy: callers keep it off the async threads.
///
/// # Errors
/// A problem of the request, in the server's text. As with the real server, bad input is the model's failure.
pub(crate) fn predict(instances: &[Value]) -> Result<Vec<Prediction>, String> {
    instances.iter().map(|instance| forecast(&parse_instance(instance)?)).collect()
}

fn parse_instance(instance: &Value) -> Result<Instance, String> {
    let parsed: Instance = Instance::deserialize(instance).map_err(|error| format!("invalid instance: {error}"))?;
    if let Some(name) = parsed.rest.keys().find(|name| name.contains("covariates")) {
        return Err(format!("{name} are not served by this model"));
    }
    if parsed.input.len() < 2 {
        return Err("input must hold at least 2 points".to_owned());
    }
    if !parsed.timestamp.is_empty() && parsed.timestamp.len() != parsed.input.len() {
        return Err("timestamp must be as long as input".to_owned());
    }
    if !(1..=MAX_HORIZON).contains(&parsed.horizon.unwrap_or(DEFAULT_HORIZON)) {
        return Err(format!("horizon must be between 1 and {MAX_HORIZON}"));
    }
    Ok(parsed)
}

fn forecast(instance: &Instance) -> Result<Prediction, String> {
    let horizon = instance.horizon.unwrap_or(DEFAULT_HORIZON);
    let history = instance.input.get(instance.input.len().saturating_sub(MAX_CONTEXT)..).unwrap_or_default();
    let standardization = Standardization::of(history);
    let standardized: Vec<f64> = history.iter().map(|value| standardization.standardize(*value)).collect();
    let season = instance
        .season
        .or_else(|| detect_season(&standardized))
        .filter(|season| (2..=standardized.len() / 2).contains(season));

    let forecast =
        fit(&standardized, season, horizon).unwrap_or_else(|| seasonal_naive(&standardized, season, horizon));
    let restored = |values: &[f64]| values.iter().map(|value| standardization.restore(*value)).collect::<Vec<f64>>();
    let mean = restored(&forecast.point);
    let mut quantiles = std::collections::BTreeMap::from([("p50", mean.clone())]);
    for ((.., low, high), (lower, upper)) in LEVELS.iter().zip(&forecast.bands) {
        quantiles.insert(low, restored(lower));
        quantiles.insert(high, restored(upper));
    }
    Ok(Prediction {
        point_forecast: mean.clone(),
        mean,
        quantiles,
        timestamp: forecast_timestamps(&instance.timestamp, horizon),
    })
}

/// A forecast in units of the standardization; `bands` are lower and upper ends in the order of [`LEVELS`].
struct SeriesForecast {
    point: Vec<f64>,
    bands: Vec<(Vec<f64>, Vec<f64>)>,
}

/// The seasonal model; `None` if it cannot be fitted or does not give finite numbers.
fn fit(values: &[f64], season: Option<usize>, horizon: usize) -> Option<SeriesForecast> {
    // additive errors only: the others need positive data and simulate their intervals. Damped, because the trend
    // of the last minute does not continue for ever
    let smoothing = AutoETS::new(1, "AZN").ok()?.damped(true).ok()?;
    let forecasts = match season {
        Some(season) if values.len() < MIN_SEASONS * season => return None,
        Some(season) => {
            let model = MSTLModel::new(vec![season], smoothing.into_trend_model()).mstl_params(fixed_season(values));
            at_levels(&model.fit(values).ok()?, horizon)?
        }
        None => at_levels(&smoothing.fit(values).ok()?, horizon)?,
    };
    let finite = |values: &[f64]| values.len() == horizon && values.iter().all(|value| value.is_finite());
    let point = forecasts.first().map(|forecast| forecast.point.clone()).filter(|point| finite(point))?;
    let bands = forecasts
        .into_iter()
        .map(|forecast| forecast.intervals.filter(|ends| finite(&ends.lower) && finite(&ends.upper)))
        .map(|ends| ends.map(|ends| (ends.lower, ends.upper)))
        .collect::<Option<_>>()?;
    Some(SeriesForecast { point, bands })
}

/// A season that does not change: a smoother much longer than the series, so that noise is averaged over all seasons
/// and does not pass for season.
fn fixed_season(values: &[f64]) -> stlrs::MstlParams {
    let mut params = stlrs::MstlParams::new();
    let mut stl = stlrs::params();
    stl.seasonal_degree(0);
    params.stl_params(stl).seasonal_lengths(&[10 * values.len() + 1]);
    params
}

fn at_levels(fitted: &impl Predict, horizon: usize) -> Option<Vec<Forecast>> {
    LEVELS.iter().map(|(level, ..)| fitted.predict(horizon, *level).ok()).collect()
}

/// The last season again, or the last value: the (seasonal) naive method, whose errors are the differences between
/// one season and the next and grow with each season ahead.
fn seasonal_naive(values: &[f64], season: Option<usize>, horizon: usize) -> SeriesForecast {
    let lag = season.unwrap_or(1);
    let last = values.get(values.len().saturating_sub(lag)..).unwrap_or_default();
    let point: Vec<f64> = last.iter().copied().cycle().take(horizon).collect();
    let pairs = values.iter().zip(values.get(lag..).unwrap_or_default());
    let squares: Vec<f64> = pairs.map(|(before, after)| (after - before).powi(2)).collect();
    let deviation = (squares.iter().sum::<f64>() / squares.len().max(1) as f64).sqrt();
    let shifted = |by: f64| -> Vec<f64> {
        let seasons_ahead = |step: usize| (step / lag + 1) as f64;
        point.iter().enumerate().map(|(step, value)| value + by * deviation * seasons_ahead(step).sqrt()).collect()
    };
    let bands = LEVELS.map(|(_, ends, ..)| (shifted(-ends), shifted(ends)));
    SeriesForecast { bands: bands.to_vec(), point }
}

/// The step at which the series resembles itself most, if it does.
///
/// The first peak of the autocorrelation that comes near the highest one: its multiples are peaks as well.
fn detect_season(values: &[f64]) -> Option<usize> {
    let detrended = detrended(values);
    let power: f64 = detrended.iter().map(|value| value * value).sum();
    // one lag more than the longest season, so that the longest can be a peak
    let longest = (detrended.len() / 2 + 1).min(detrended.len() - 1);
    let autocorrelation: Vec<f64> = (0..=longest)
        .map(|lag| {
            let pairs = detrended.iter().zip(detrended.get(lag..).unwrap_or_default());
            // fewer pairs at longer lags: made up for, so that later peaks are not lower
            let share = detrended.len() as f64 / (detrended.len() - lag) as f64;
            pairs.map(|(a, b)| a * b).sum::<f64>() * share / power
        })
        .collect();
    let peaks = autocorrelation.windows(3).enumerate().filter_map(|(before, three)| match three {
        [left, peak, right] if peak > left && peak >= right && *peak > MIN_AUTOCORRELATION => Some((before + 1, *peak)),
        _ => None,
    });
    let peaks: Vec<(usize, f64)> = peaks.collect();
    let highest = peaks.iter().map(|(_, peak)| *peak).fold(f64::NEG_INFINITY, f64::max);
    // noise makes small peaks beside the true one: the best within a tenth of the lag
    let (first, _) = peaks.iter().find(|(_, peak)| *peak >= 0.85 * highest)?;
    let near = peaks.iter().filter(|(lag, _)| *lag <= first + first / 10 + 2);
    near.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(lag, _)| *lag).filter(|lag| *lag >= 2)
}

/// The values less their least-squares line.
fn detrended(values: &[f64]) -> Vec<f64> {
    let count = values.len() as f64;
    let middle = (count - 1.0) / 2.0;
    let mean = values.iter().sum::<f64>() / count;
    let mut along = 0.0;
    let mut square = 0.0;
    for (at, value) in values.iter().enumerate() {
        let from_middle = at as f64 - middle;
        along += from_middle * (value - mean);
        square += from_middle * from_middle;
    }
    let slope = if square > 0.0 { along / square } else { 0.0 };
    values.iter().enumerate().map(|(at, value)| value - mean - slope * (at as f64 - middle)).collect()
}

/// Brings a series to mean 0 and deviation 1: STL computes in 32-bit floats.
struct Standardization {
    mean: f64,
    deviation: f64,
}

impl Standardization {
    fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        Self { mean, deviation: if variance > 0.0 { variance.sqrt() } else { 1.0 } }
    }

    fn standardize(&self, value: f64) -> f64 {
        (value - self.mean) / self.deviation
    }

    fn restore(&self, value: f64) -> f64 {
        value * self.deviation + self.mean
    }
}

/// The timestamps of the forecast: the last step of the input's, repeated. Empty if they are not RFC 3339.
fn forecast_timestamps(timestamps: &[String], horizon: usize) -> Vec<String> {
    let [.., before, last] = timestamps else { return Vec::new() };
    let (Ok(before), Ok(last)) = (before.parse::<jiff::Timestamp>(), last.parse::<jiff::Timestamp>()) else {
        return Vec::new();
    };
    let step = last.duration_since(before);
    let mut at = last;
    (0..horizon)
        .map(|_| {
            at = at.checked_add(step).unwrap_or(jiff::Timestamp::MAX);
            at.to_string()
        })
        .collect()
}

/// The whole answer of the model's container.
#[must_use]
pub(crate) fn answer(predictions: &[Prediction]) -> Value {
    json!({ "predictions": predictions })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(period: f64, at: usize) -> f64 {
        100.0 + 20.0 * (std::f64::consts::TAU * at as f64 / period).sin()
    }

    fn one(instance: &Value) -> Prediction {
        predict(std::slice::from_ref(instance)).unwrap().remove(0)
    }

    #[test]
    fn the_forecast_of_a_sine_is_the_sine() {
        let history: Vec<f64> = (0..512).map(|at| sine(60.0, at)).collect();
        let forecast = one(&json!({ "input": history, "horizon": 120 }));
        for (step, value) in forecast.mean.iter().enumerate() {
            let truth = sine(60.0, 512 + step);
            assert!((value - truth).abs() < 0.5, "step {step}: {value} is not {truth}");
        }
    }

    #[test]
    fn noise_does_not_hide_the_season_and_widens_the_band() {
        let noise = |at: usize| ((at * 7919 + 104_729) % 1009) as f64 / 1009.0 * 6.0 - 3.0;
        let history: Vec<f64> = (0..300).map(|at| sine(60.0, at) + noise(at)).collect();
        let forecast = one(&json!({ "input": history, "horizon": 60 }));
        let off: f64 = forecast.mean.iter().enumerate().map(|(step, v)| (v - sine(60.0, 300 + step)).abs()).sum();
        assert!(off / 60.0 < 3.0, "off by {} on average", off / 60.0);
        let names = ["p10", "p20", "p30", "p40", "p50", "p60", "p70", "p80", "p90"];
        for step in 0..60 {
            let ladder: Vec<f64> = names.iter().map(|name| forecast.quantiles[name][step]).collect();
            assert!(ladder.is_sorted() && ladder[0] < ladder[8], "quantiles of step {step} cross: {ladder:?}");
        }
    }

    #[test]
    fn the_season_is_found() {
        for period in [7, 24, 60] {
            let history: Vec<f64> = (0..period * 6).map(|at| sine(period as f64, at) + 0.3 * at as f64).collect();
            assert_eq!(detect_season(&history), Some(period));
        }
        assert_eq!(detect_season(&vec![4.0; 100]), None);
    }

    #[test]
    fn series_without_season_are_continued() {
        let flat = one(&json!({ "input": [5.0, 5.0, 5.0, 5.0], "horizon": 3 }));
        assert_eq!(flat.mean, [5.0, 5.0, 5.0]);
        let line: Vec<f64> = (0..100).map(f64::from).collect();
        let rising = one(&json!({ "input": line, "horizon": 10 }));
        assert!((rising.mean[9] - 109.0).abs() < 3.0, "{:?}", rising.mean);
    }

    #[test]
    fn timestamps_go_on_at_the_last_step() {
        let forecast = one(&json!({
            "input": [1.0, 2.0], "horizon": 2,
            "timestamp": ["2026-01-01T00:00:00Z", "2026-01-01T00:00:15Z"],
        }));
        assert_eq!(forecast.timestamp, ["2026-01-01T00:00:30Z", "2026-01-01T00:00:45Z"]);
    }

    #[test]
    fn bad_instances_are_named() {
        let problem = |instance: Value| predict(&[instance]).unwrap_err();
        assert!(problem(json!({ "horizon": 3 })).contains("input"));
        assert!(problem(json!({ "input": [1.0] })).contains("at least 2"));
        assert!(problem(json!({ "input": [1.0, 2.0], "horizon": 0 })).contains("horizon"));
        assert!(problem(json!({ "input": [1.0, 2.0], "timestamp": ["2026"] })).contains("timestamp"));
    }
}
