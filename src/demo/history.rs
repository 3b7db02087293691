//! Remote write 1.0 request with the exporter's last ten minutes, which the first forecast needs.

use prost::Message;

use super::exporter::{METRIC, SERVICES, requests_per_second};
use crate::clock::Timestamp;

/// Seconds of history, one sample each.
pub(crate) const SECONDS: i64 = 600;

/// `prometheus.WriteRequest`, the parts that are needed (prometheus/prompb/remote.proto).
#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    /// Milliseconds since the Unix epoch.
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// The body of a remote write request with the history up to `now`, for the series that a scrape of `instance` by
/// the job `job` goes on with: a protobuf message in snappy's block format.
///
/// # Errors
/// If snappy cannot compress it.
pub(crate) fn remote_write(job: &str, instance: &str, now: Timestamp) -> Result<Vec<u8>, snap::Error> {
    let end = now.as_second();
    let times: Vec<Timestamp> =
        (end - SECONDS + 1..=end).filter_map(|second| Timestamp::from_second(second).ok()).collect();
    let timeseries = SERVICES.map(|service| {
        // sorted by name, as the specification demands
        let labels = [("__name__", METRIC), ("instance", instance), ("job", job), ("service", service)];
        let label = |(name, value): (&str, &str)| Label { name: name.to_owned(), value: value.to_owned() };
        let sample =
            |at: &Timestamp| Sample { value: requests_per_second(service, *at), timestamp: at.as_millisecond() };
        TimeSeries { labels: labels.map(label).to_vec(), samples: times.iter().map(sample).collect() }
    });
    let message = WriteRequest { timeseries: timeseries.to_vec() }.encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_ends_now_and_is_what_the_exporter_said() {
        let now = Timestamp::from_millisecond(1_800_000_000_250).unwrap();
        let body = remote_write("shop", "127.0.0.1:1", now).unwrap();
        let message = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
        let request = WriteRequest::decode(&*message).unwrap();
        assert_eq!(request.timeseries.len(), SERVICES.len());
        let first = &request.timeseries[0];
        assert!(first.labels.is_sorted_by(|a, b| a.name < b.name));
        assert_eq!(first.samples.len(), 600);
        let last = first.samples.last().unwrap();
        assert_eq!(last.timestamp, 1_800_000_000_000);
        assert_eq!(last.value, requests_per_second("checkout", Timestamp::from_second(1_800_000_000).unwrap()));
    }
}
