//! The sections of the data path: `[ingest]`, `[spool]` and `[[forecast]]`.

use std::{path::PathBuf, time::Duration};

use super::{
    reader::Section,
    settings::{DataSettings, ExporterSettings, ForecastSettings, ScrapeSettings, VertexSettings},
};
use crate::{
    pipeline::{ingest::remote_write, spool},
    series::Selector,
};

const MAX_BODY: u64 = 10 << 20;
const MAX_DECODED: u64 = 64 << 20;
const SPOOL_BYTES: u64 = 1 << 30;
const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);
const FORECAST_INTERVAL: Duration = Duration::from_secs(60);

/// Reads the data path; `None` if `[ingest]` is missing.
pub(super) fn data(
    top: &Section<'_>,
    exporters: &[ExporterSettings],
    vertex: Option<&VertexSettings>,
) -> Option<DataSettings> {
    let spool = spool(top);
    let forecasts = forecasts(top, vertex);
    let Some(section) = top.section("ingest") else {
        for key in ["spool", "forecast"] {
            if top.has(key) && !top.has("ingest") {
                top.problem(key, "has no effect without a data path; write `[[ingest.keep]]` sections");
            }
        }
        return None;
    };
    // read by `upstreams::local`
    let _ = section.has("token_binding");
    let max_body = section.size("max_body", MAX_BODY, 1024, 1 << 30);
    let max_decoded = section.size("max_decoded", MAX_DECODED, 1024, 4 << 30);
    let keep: Vec<Selector> = section
        .sections("keep")
        .into_iter()
        .filter_map(|rule| {
            let selector = selector(&rule);
            rule.finish();
            selector
        })
        .collect();
    if keep.is_empty() && !section.has("keep") {
        section.problem("keep", "missing; without `[[ingest.keep]]` no series would be stored");
    }
    let scrapes = section.sections("scrape").into_iter().map(|scrape| self::scrape(scrape, exporters)).collect();
    section.finish();
    Some(DataSettings {
        remote_write: remote_write::Settings { max_body, max_decoded },
        keep,
        scrapes,
        spool,
        forecasts,
    })
}

fn selector(section: &Section<'_>) -> Option<Selector> {
    let metric = section.required("metric", "node_load1");
    let labels = section.string_map("labels");
    if metric.is_empty() { None } else { section.ok_or_problem("metric", Selector::new(&metric, labels)) }
}

fn scrape(section: Section<'_>, exporters: &[ExporterSettings]) -> ScrapeSettings {
    let exporter = section.required("exporter", "node");
    if !exporter.is_empty() && !exporters.iter().any(|known| known.name == exporter) {
        let known: Vec<&str> = exporters.iter().map(|e| e.name.as_str()).collect();
        section.problem("exporter", format!("no exporter is called `{exporter}`; there are: {}", known.join(", ")));
    }
    let path = section.string("path");
    if path.as_deref().is_some_and(|path| !path.starts_with('/')) {
        section.problem("path", "write a path that begins with a slash, such as `/metrics`");
    }
    let interval = section.duration("interval", SCRAPE_INTERVAL);
    section.finish();
    ScrapeSettings { exporter, path, interval }
}

fn spool(top: &Section<'_>) -> spool::Settings {
    let default = |directory: PathBuf| spool::Settings { directory, max_bytes: SPOOL_BYTES };
    let Some(section) = top.section("spool") else { return default(top.resolve("spool")) };
    let directory = section.path("directory").unwrap_or_else(|| section.resolve("spool"));
    let max_bytes = section.number("max_bytes", SPOOL_BYTES, 1 << 20, 1 << 50);
    section.finish();
    spool::Settings { directory, max_bytes }
}

fn forecasts(top: &Section<'_>, vertex: Option<&VertexSettings>) -> Vec<ForecastSettings> {
    let mut forecasts: Vec<ForecastSettings> = Vec::new();
    for section in top.sections("forecast") {
        let name = section.required("name", "load");
        if forecasts.iter().any(|other| other.name == name) {
            section.problem("name", format!("two forecasts are called `{name}`"));
        }
        let selector = selector(&section);
        let endpoint = section.required("endpoint", "projects/example/locations/us-central1/endpoints/1234567890");
        let location = location(&section, &endpoint, vertex);
        let step = section.duration("step", SCRAPE_INTERVAL);
        let context = section.size("context", 512, 2, 16_384);
        let min_context = section.size("min_context", 32.min(context as u64), 2, context as u64);
        let horizon = section.size("horizon", 32, 1, 1024);
        let interval = section.duration("interval", FORECAST_INTERVAL);
        let max_series = section.size("max_series", 1000, 1, 1_000_000);
        if let (Some(selector), Some(location)) = (selector, location) {
            forecasts.push(ForecastSettings {
                name,
                selector,
                endpoint,
                location,
                step,
                context,
                min_context,
                horizon,
                interval,
                max_series,
            });
        }
        section.finish();
    }
    forecasts
}

/// The location in an endpoint's name, which must be one of `[vertex]`.
fn location(section: &Section<'_>, endpoint: &str, vertex: Option<&VertexSettings>) -> Option<String> {
    let segments: Vec<&str> = endpoint.split('/').collect();
    let plain = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@".contains(c));
    let ["projects", project, "locations", location, "endpoints", id] = segments.as_slice() else {
        if !endpoint.is_empty() {
            section.problem("endpoint", "write `projects/PROJECT/locations/LOCATION/endpoints/ID`");
        }
        return None;
    };
    if ![project, location, id].into_iter().all(|s| plain(s)) {
        section.problem("endpoint", "write `projects/PROJECT/locations/LOCATION/endpoints/ID`");
    }
    let Some(vertex) = vertex else {
        section.problem("endpoint", "needs the sections [vertex] and [google]: they have its address and credential");
        return None;
    };
    if !vertex.upstreams.iter().any(|(known, _)| known == location) {
        section.problem("endpoint", format!("`{location}` is not among the `locations` of [vertex]"));
        return None;
    }
    if !vertex.credentials.iter().any(|(group, _)| *group == crate::gate::routes::Group::Infer) {
        section.problem("endpoint", "needs the service account `infer` in `google.service_accounts`");
        return None;
    }
    Some((*location).to_owned())
}
