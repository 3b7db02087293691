//! Remote write 1.0 as it lies in the buffer: protobuf read in place, without copying a label.
//!
//! Promises: no allocation for each label, no trust in any length; a series of any size is read in a few megabytes,
//! though two bytes on the wire may stand for a label or a sample. Unknown fields are skipped, as protobuf wants. It
//! knows the wire only; what makes a series valid is decided in `remote_write`.

use crate::{
    protobuf::{Fields, Malformed, Value},
    series::Sample,
};

/// Labels of one series that are looked at; one more shows that there are too many. Prometheus' kind has a few dozen.
pub(super) const MAX_LABELS: usize = 128;
/// Samples of one series in one request, likewise. Senders put a handful into each.
pub(super) const MAX_SAMPLES: usize = 1 << 16;

/// One `TimeSeries`, in place. `labels` are as sent: any order, any bytes. Both lists end one behind their bound.
#[derive(Debug, Default)]
pub(super) struct Series<'a> {
    pub(super) labels: Vec<(&'a [u8], &'a [u8])>,
    pub(super) samples: Vec<Sample>,
    /// How many samples there are, looked at or not.
    pub(super) sample_count: u64,
    pub(super) exemplars: u64,
    pub(super) histograms: u64,
}

/// Calls `visit` with each series of a `prometheus.WriteRequest`; the same `Series` is filled anew each time.
pub(super) fn for_each_series<'a>(message: &'a [u8], mut visit: impl FnMut(&Series<'a>)) -> Result<(), Malformed> {
    let mut series = Series::default();
    for field in Fields::new(message) {
        let (number, value) = field?;
        // 1 timeseries; 2 is reserved; 3 metadata, which no sink wants yet
        if let (1, Value::Bytes(bytes)) = (number, value) {
            read_series(bytes, &mut series)?;
            visit(&series);
        }
    }
    Ok(())
}

fn read_series<'a>(message: &'a [u8], series: &mut Series<'a>) -> Result<(), Malformed> {
    series.labels.clear();
    series.samples.clear();
    (series.sample_count, series.exemplars, series.histograms) = (0, 0, 0);
    for field in Fields::new(message) {
        let (number, value) = field?;
        match (number, value) {
            (1, Value::Bytes(bytes)) => {
                let label = read_label(bytes)?;
                if series.labels.len() <= MAX_LABELS {
                    series.labels.push(label);
                }
            }
            (2, Value::Bytes(bytes)) => {
                let sample = read_sample(bytes)?;
                series.sample_count += 1;
                if series.samples.len() <= MAX_SAMPLES {
                    series.samples.push(sample);
                }
            }
            (3, Value::Bytes(_)) => series.exemplars += 1,
            (4, Value::Bytes(_)) => series.histograms += 1,
            (1..=4, _) => return Err(Malformed),
            _ => {}
        }
    }
    Ok(())
}

fn read_label(message: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut label: (&[u8], &[u8]) = (&[], &[]);
    for field in Fields::new(message) {
        let (number, value) = field?;
        match (number, value) {
            (1, Value::Bytes(bytes)) => label.0 = bytes,
            (2, Value::Bytes(bytes)) => label.1 = bytes,
            (1 | 2, _) => return Err(Malformed),
            _ => {}
        }
    }
    Ok(label)
}

fn read_sample(message: &[u8]) -> Result<Sample, Malformed> {
    let mut sample = Sample { timestamp: 0, value: 0.0 };
    for field in Fields::new(message) {
        let (number, value) = field?;
        match (number, value) {
            (1, Value::Fixed64(bits)) => sample.value = f64::from_bits(bits),
            // an int64 is the varint of its two's complement
            (2, Value::Varint(bits)) => sample.timestamp = bits.cast_signed(),
            (1 | 2, _) => return Err(Malformed),
            _ => {}
        }
    }
    Ok(sample)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    /// The messages as prost declares them: an independent writer to read from.
    #[derive(Clone, PartialEq, Message)]
    pub(in crate::pipeline::ingest) struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub(in crate::pipeline::ingest) timeseries: Vec<TimeSeries>,
        #[prost(bytes = "vec", repeated, tag = "3")]
        pub(in crate::pipeline::ingest) metadata: Vec<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(in crate::pipeline::ingest) struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub(in crate::pipeline::ingest) labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub(in crate::pipeline::ingest) samples: Vec<Point>,
        #[prost(bytes = "vec", repeated, tag = "3")]
        pub(in crate::pipeline::ingest) exemplars: Vec<Vec<u8>>,
        #[prost(bytes = "vec", repeated, tag = "4")]
        pub(in crate::pipeline::ingest) histograms: Vec<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(in crate::pipeline::ingest) struct Label {
        #[prost(bytes = "vec", tag = "1")]
        pub(in crate::pipeline::ingest) name: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(in crate::pipeline::ingest) value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(in crate::pipeline::ingest) struct Point {
        #[prost(double, tag = "1")]
        pub(in crate::pipeline::ingest) value: f64,
        #[prost(int64, tag = "2")]
        pub(in crate::pipeline::ingest) timestamp: i64,
    }

    fn read(bytes: &[u8]) -> Result<WriteRequest, Malformed> {
        let mut request = WriteRequest::default();
        for_each_series(bytes, |series| {
            let label = |&(name, value): &(&[u8], &[u8])| Label { name: name.to_vec(), value: value.to_vec() };
            let point = |s: &Sample| Point { value: s.value, timestamp: s.timestamp };
            request.timeseries.push(TimeSeries {
                labels: series.labels.iter().map(label).collect(),
                samples: series.samples.iter().map(point).collect(),
                exemplars: vec![vec![]; series.exemplars as usize],
                histograms: vec![vec![]; series.histograms as usize],
            });
        })?;
        Ok(request)
    }

    fn any_request() -> impl Strategy<Value = WriteRequest> {
        let label = (any::<Vec<u8>>(), any::<Vec<u8>>()).prop_map(|(name, value)| Label { name, value });
        let point = (any::<i64>(), any::<f64>()).prop_map(|(timestamp, value)| Point { timestamp, value });
        let series =
            (proptest::collection::vec(label, 0..4), proptest::collection::vec(point, 0..4), 0..3usize, 0..3usize)
                .prop_map(|(labels, samples, exemplars, histograms)| TimeSeries {
                    labels,
                    samples,
                    exemplars: vec![vec![]; exemplars],
                    histograms: vec![vec![]; histograms],
                });
        (proptest::collection::vec(series, 0..4), any::<Vec<Vec<u8>>>())
            .prop_map(|(timeseries, metadata)| WriteRequest { timeseries, metadata })
    }

    proptest! {
        #[test]
        fn it_reads_what_prost_writes(request in any_request()) {
            let read = read(&request.encode_to_vec()).unwrap();
            prop_assert_eq!(read.timeseries, request.timeseries);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in any::<Vec<u8>>()) {
            let _ = read(&bytes);
        }

        #[test]
        fn what_is_cut_short_inside_a_field_is_refused(request in any_request(), at in any::<usize>()) {
            let bytes = request.encode_to_vec();
            prop_assume!(!bytes.is_empty());
            let cut = &bytes[..at % bytes.len()];
            prop_assert_eq!(read(cut).is_ok(), WriteRequest::decode(cut).is_ok());
        }
    }
}
