//! Remote write 1.0 as a sender writes it.

use prost::Message;

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

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// A remote write body (snappy'd protobuf) with one series: `labels` include `__name__`; samples are (ms, value).
pub(crate) fn remote_write(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Vec<u8> {
    let labels = labels.iter().map(|&(name, value)| Label { name: name.into(), value: value.into() }).collect();
    let samples = samples.iter().map(|&(timestamp, value)| Sample { value, timestamp }).collect();
    let request = WriteRequest { timeseries: vec![TimeSeries { labels, samples }] };
    snappy(&request.encode_to_vec())
}

/// Snappy's block format.
pub(crate) fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

/// A snappy block whose length prefix (a varint) claims 4 GiB less one byte, with next to nothing behind it.
pub(crate) fn snappy_bomb() -> Vec<u8> {
    vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, b'a']
}
