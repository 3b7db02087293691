//! The page of predictions, line by line.
//!
//! Promises: every line is valid in both text formats and to scrapers without UTF-8 names; each family stands
//! together; the page holds whole series only and at most [`MAX_POINTS`] points, and says how many were left out.

use std::{borrow::Cow, fmt::Write};

use super::{Format, Held, MAX_POINTS, Prediction};
use crate::series::METRIC_NAME;

/// The labels that the gate itself sets; a series' own label of the same name gets [`PREFIX`].
const OURS: [&str; 5] = ["forecast", "metric", "horizon", "quantile", "model_version"];
/// As Prometheus does with labels that clash.
const PREFIX: &str = "exported_";
/// The quantiles shown: the middle, and the band that holds four fifths.
const QUANTILES: [f64; 3] = [0.1, 0.5, 0.9];

pub(super) fn page(held: &Held, format: Format, now: i64) -> String {
    let mut room = MAX_POINTS;
    let mut left_out = 0u64;
    let mut shown: Vec<(String, &Prediction)> = Vec::new();
    for (forecast, series) in held {
        for prediction in series.values().filter(|prediction| prediction.end() >= now) {
            if prediction.points() > room {
                left_out += 1;
                continue;
            }
            room -= prediction.points();
            shown.push((own_labels(forecast, prediction), prediction));
        }
    }
    let mut text = String::with_capacity(1024 + (MAX_POINTS - room) * 160);
    head(&mut text, "wicketgate_forecast", "Forecast value of a series, by horizon and quantile");
    for (labels, prediction) in &shown {
        for (quantile, values) in prediction.quantiles.iter().filter(|(quantile, _)| QUANTILES.contains(quantile)) {
            points(&mut text, "wicketgate_forecast", labels, prediction, values, Some(*quantile));
        }
    }
    head(&mut text, "wicketgate_forecast_mean", "Expected value of a series, by horizon");
    for (labels, prediction) in &shown {
        points(&mut text, "wicketgate_forecast_mean", labels, prediction, &prediction.mean, None);
    }
    head(&mut text, "wicketgate_forecast_timestamp_seconds", "When the last point was that a forecast is made from");
    for (labels, prediction) in &shown {
        let version = &prediction.model_version;
        let _ = write!(text, "wicketgate_forecast_timestamp_seconds{{{labels},model_version=\"");
        escape(&mut text, version);
        let _ = writeln!(text, "\"}} {}", prediction.origin as f64 / 1000.0);
    }
    head(&mut text, "wicketgate_forecast_series_left_out", "Series with a forecast that this page has no room for");
    let _ = writeln!(text, "wicketgate_forecast_series_left_out {left_out}");
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn head(text: &mut String, name: &str, help: &str) {
    // writing to a String cannot fail, here and below
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

fn points(text: &mut String, name: &str, labels: &str, prediction: &Prediction, values: &[f64], quantile: Option<f64>) {
    for (place, value) in (1i64..).zip(values) {
        let horizon = prediction.step.saturating_mul(place) as f64 / 1000.0;
        let _ = write!(text, "{name}{{{labels},horizon=\"{horizon}s\"");
        if let Some(quantile) = quantile {
            let _ = write!(text, ",quantile=\"{quantile}\"");
        }
        text.push_str(",model_version=\"");
        escape(text, &prediction.model_version);
        let _ = writeln!(text, "\"}} {value}");
    }
}

/// `forecast`, `metric`, and the series' own labels.
fn own_labels(forecast: &str, prediction: &Prediction) -> String {
    let mut text = String::from("forecast=\"");
    escape(&mut text, forecast);
    text.push_str("\",metric=\"");
    escape(&mut text, prediction.labels.metric());
    text.push('"');
    let mut taken: Vec<Cow<'_, str>> = OURS.into_iter().map(Cow::from).collect();
    for (name, value) in prediction.labels.iter().filter(|(name, _)| *name != METRIC_NAME) {
        let mut name = legacy(name);
        while taken.contains(&name) {
            name = format!("{PREFIX}{name}").into();
        }
        let _ = write!(text, ",{name}=\"");
        escape(&mut text, value);
        text.push('"');
        taken.push(name);
    }
    text
}

/// A label name as every scraper takes it: `[a-zA-Z_][a-zA-Z0-9_]*`, and no leading `__`, which is Prometheus' own.
fn legacy(name: &str) -> Cow<'_, str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.starts_with("__") {
        return format!("{PREFIX}{}", name.replace(|c| !fits(c), "_")).into();
    }
    if name.chars().all(fits) { name.into() } else { name.replace(|c| !fits(c), "_").into() }
}

fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::series::{LabelRef, Labels};

    fn held(labels: &[LabelRef<'_>], points: usize) -> Held {
        let prediction = Prediction {
            labels: Labels::new(labels),
            origin: 60_500,
            step: 500,
            model_version: "3".into(),
            mean: vec![1.0; points],
            quantiles: vec![(0.1, vec![0.5; points]), (0.2, vec![0.6; points]), (0.5, vec![f64::MAX; points])],
        };
        Held::from([("load".into(), BTreeMap::from([(prediction.labels.clone(), prediction)]))])
    }

    #[test]
    fn a_prediction_is_a_line_for_each_horizon_and_quantile() {
        let held = held(&[("__name__", "node_load1"), ("job", "a\"b\\c\nd")], 2);
        let text = page(&held, Format::OpenMetrics, 0);
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
        let labels = r#"forecast="load",metric="node_load1",job="a\"b\\c\nd""#;
        let max = f64::MAX;
        assert_eq!(
            lines,
            [
                "# TYPE wicketgate_forecast gauge".to_owned(),
                format!("wicketgate_forecast{{{labels},horizon=\"0.5s\",quantile=\"0.1\",model_version=\"3\"}} 0.5"),
                format!("wicketgate_forecast{{{labels},horizon=\"1s\",quantile=\"0.1\",model_version=\"3\"}} 0.5"),
                format!("wicketgate_forecast{{{labels},horizon=\"0.5s\",quantile=\"0.5\",model_version=\"3\"}} {max}"),
                format!("wicketgate_forecast{{{labels},horizon=\"1s\",quantile=\"0.5\",model_version=\"3\"}} {max}"),
                "# TYPE wicketgate_forecast_mean gauge".to_owned(),
                format!("wicketgate_forecast_mean{{{labels},horizon=\"0.5s\",model_version=\"3\"}} 1"),
                format!("wicketgate_forecast_mean{{{labels},horizon=\"1s\",model_version=\"3\"}} 1"),
                "# TYPE wicketgate_forecast_timestamp_seconds gauge".to_owned(),
                format!("wicketgate_forecast_timestamp_seconds{{{labels},model_version=\"3\"}} 60.5"),
                "# TYPE wicketgate_forecast_series_left_out gauge".to_owned(),
                "wicketgate_forecast_series_left_out 0".to_owned(),
                "# EOF".to_owned(),
            ]
        );
        assert!(!page(&held, Format::Text, 0).contains("EOF"));
    }

    #[test]
    fn a_series_labels_never_hide_ours_and_every_scraper_takes_their_names() {
        let labels = [("1st", "a"), ("__name__", "m"), ("__x", "b"), ("a.b", "c"), ("a_b", "d"), ("horizon", "e")];
        let expected = r#"forecast="load",metric="m",exported_1st="a",exported___x="b",a_b="c",exported_a_b="d",exported_horizon="e""#;
        let held = held(&labels, 1);
        let prediction = held.values().next().and_then(|series| series.values().next()).unwrap();
        assert_eq!(own_labels("load", prediction), expected);
    }

    #[test]
    fn the_page_is_bounded_and_says_what_is_missing() {
        let text = page(&held(&[("__name__", "m")], MAX_POINTS), Format::Text, 0);
        assert!(text.len() < 2000 && text.contains("wicketgate_forecast_series_left_out 1"), "{text}");
    }
}
