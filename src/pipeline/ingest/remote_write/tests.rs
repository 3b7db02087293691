use prost::Message;

use super::{
    super::wire::tests::{Label, Point, TimeSeries, WriteRequest},
    *,
};
use crate::{
    pipeline::{spool, testing::Directory},
    series::{STALE_MARKER_BITS, Selector},
};

/// The service over a spool of its own, which goes away with it.
struct Door {
    service: RemoteWrite,
    spool: Spool,
    _directory: Directory,
}

impl Door {
    fn open(name: &str, max_bytes: u64) -> Self {
        let directory = Directory::new(&format!("write-{name}"));
        let settings = spool::Settings { directory: directory.0.clone(), max_bytes };
        let spool = Spool::open(&settings, spool::Metrics::default()).unwrap();
        let keep = KeepList::new(vec![Selector::new("kept*", [("", ""); 0]).unwrap()]);
        let settings = Settings { max_body: 1 << 20, max_decoded: 4 << 20 };
        let service = RemoteWrite::new(settings, Arc::new(keep), spool.clone(), Metrics::default());
        Self { service, spool, _directory: directory }
    }

    async fn send(&self, request: Request<Body>) -> Result<StatusCode, (u16, &'static str)> {
        self.send_by(None, request).await
    }

    async fn send_by(
        &self,
        write_rules: Option<Arc<WriteRules>>,
        request: Request<Body>,
    ) -> Result<StatusCode, (u16, &'static str)> {
        let caller = Caller { principal: "corp:sender".into(), roles: [].into(), write_rules };
        let answer = self.service.serve(caller, request).await;
        answer.map(|answer| answer.status()).map_err(|refusal| (refusal.status.as_u16(), refusal.reason))
    }

    async fn stored(&self) -> Vec<(String, i64, u64)> {
        let mut found = Vec::new();
        for (_, batch) in self.spool.read_after(0, usize::MAX).await.unwrap().0 {
            assert_eq!(batch.caller(), Ok("corp:sender"));
            batch
                .for_each_series(|labels, samples| {
                    let text = labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
                    found.extend(samples.iter().map(|s| (text.join(","), s.timestamp, s.value.to_bits())));
                })
                .unwrap();
        }
        found
    }

    fn dropped(&self, reason: &'static str) -> u64 {
        self.service.metrics.dropped.get_or_create(&Reason { reason }).get()
    }
}

fn series(labels: &[(&str, &str)], samples: &[(i64, u64)]) -> TimeSeries {
    TimeSeries {
        labels: labels.iter().map(|(n, v)| Label { name: n.as_bytes().into(), value: v.as_bytes().into() }).collect(),
        samples: samples.iter().map(|&(timestamp, bits)| Point { timestamp, value: f64::from_bits(bits) }).collect(),
        ..TimeSeries::default()
    }
}

fn request(timeseries: Vec<TimeSeries>) -> Request<Body> {
    let message = WriteRequest { timeseries, metadata: vec![vec![]] }.encode_to_vec();
    raw(snap::raw::Encoder::new().compress_vec(&message).unwrap())
}

fn raw(body: Vec<u8>) -> Request<Body> {
    Request::post("/api/v1/write")
        .header("content-encoding", "snappy")
        .header("content-type", "application/x-protobuf")
        .body(Body::from(Bytes::from(body)))
        .unwrap()
}

#[tokio::test]
async fn kept_samples_are_stored_bit_for_bit_and_the_rest_is_counted() {
    let door = Door::open("kept", 1 << 30);
    let mut histogram = series(&[("__name__", "kept_h")], &[]);
    (histogram.histograms, histogram.exemplars) = (vec![vec![]; 2], vec![vec![]]);
    let sent = vec![
        series(&[("job", "b"), ("__name__", "kept_a"), ("none", "")], &[(1, STALE_MARKER_BITS), (2, 7)]),
        series(&[("__name__", "other")], &[(1, 0), (2, 0), (3, 0)]),
        histogram,
    ];
    assert_eq!(door.send(request(sent)).await, Ok(StatusCode::NO_CONTENT));
    let labels = "__name__=kept_a,job=b".to_owned();
    assert_eq!(door.stored().await, [(labels.clone(), 1, STALE_MARKER_BITS), (labels, 2, 7)]);
    assert_eq!(door.service.metrics.accepted.get(), 5);
    assert_eq!([door.dropped("not_kept"), door.dropped("histogram"), door.dropped("exemplar")], [3, 2, 1]);
}

#[tokio::test]
async fn a_request_with_nothing_to_keep_is_fine_and_stores_nothing() {
    let door = Door::open("nothing", 1 << 30);
    assert_eq!(door.send(request(vec![])).await, Ok(StatusCode::NO_CONTENT));
    assert_eq!(door.send(request(vec![series(&[("__name__", "other")], &[(1, 0)])])).await, Ok(StatusCode::NO_CONTENT));
    assert_eq!(door.spool.depth().batches, 0);
}

#[tokio::test]
async fn one_invalid_series_is_refused_and_the_others_are_stored() {
    let ahead = clock::now().as_millisecond() + AHEAD + 60_000;
    let bad: [TimeSeries; 5] = [
        series(&[("job", "nameless")], &[(1, 0)]),
        series(&[("__name__", "kept"), ("", "x")], &[(1, 0)]),
        series(&[("__name__", "kept"), ("a", "1"), ("a", "2")], &[(1, 0)]),
        series(&[("__name__", "kept_ahead")], &[(ahead, 0)]),
        TimeSeries {
            labels: vec![Label { name: b"__name__".into(), value: b"kept\xff".into() }],
            samples: vec![Point { timestamp: 1, value: 0.0 }],
            ..TimeSeries::default()
        },
    ];
    for (number, bad) in bad.into_iter().enumerate() {
        let door = Door::open(&format!("bad{number}"), 1 << 30);
        let good = series(&[("__name__", "kept_good")], &[(1, 0)]);
        let sent = request(vec![good.clone(), bad.clone(), good]);
        assert_eq!(door.send(sent).await, Err((400, "invalid_series")), "{bad:?}");
        assert_eq!(door.stored().await.len(), 2);
        assert_eq!(door.service.metrics.accepted.get(), 2);
        assert_eq!(door.dropped("invalid_series") + door.dropped("too_far_ahead"), 1);
    }
}

#[tokio::test]
async fn what_policy_sets_is_what_is_stored_and_what_it_refuses_is_not() {
    let door = Door::open("rules", 1 << 30);
    let rules = Arc::new(WriteRules {
        force: vec![("tenant".into(), "a".into())],
        refuse_labels: vec!["tenant".into()],
        refuse_metrics: vec![crate::series::NamePattern::parse("kept_secret").unwrap()],
        ..WriteRules::default()
    });
    let good = series(&[("__name__", "kept_good"), ("zone", "z")], &[(1, 0)]);
    let stored = ("__name__=kept_good,tenant=a,zone=z".to_owned(), 1, 0);
    assert_eq!(door.send_by(Some(rules.clone()), request(vec![good.clone()])).await, Ok(StatusCode::NO_CONTENT));
    assert_eq!(door.stored().await, std::slice::from_ref(&stored));
    for bad in [
        series(&[("__name__", "kept_bad"), ("tenant", "b")], &[(1, 0), (2, 0)]),
        series(&[("__name__", "kept_secret")], &[(1, 0), (2, 0)]),
    ] {
        let before = door.dropped("guardrail");
        let sent = request(vec![bad, good.clone()]);
        assert_eq!(door.send_by(Some(rules.clone()), sent).await, Err((400, "guardrail")));
        assert_eq!(door.dropped("guardrail") - before, 2);
    }
    assert_eq!(door.stored().await, [stored.clone(), stored.clone(), stored]);
    assert_eq!(door.service.metrics.accepted.get(), 3);
}

#[tokio::test]
async fn a_series_beyond_bounds_is_refused_whole_and_every_sample_of_it_is_counted() {
    let names: Vec<String> = (0..wire::MAX_LABELS).map(|n| format!("l{n}")).collect();
    let mut wide: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    wide.push(("__name__", "kept"));
    let long: Vec<(i64, u64)> = (0..wire::MAX_SAMPLES as i64 + 10).map(|n| (n, 0)).collect();
    for (bad, samples) in [(series(&wide, &[(1, 0)]), 1), (series(&[("__name__", "kept")], &long), long.len() as u64)] {
        let door = Door::open("bounds", 1 << 30);
        let sent = request(vec![bad, series(&[("__name__", "kept")], &[(1, 0)])]);
        assert_eq!(door.send(sent).await, Err((400, "invalid_series")));
        assert_eq!(door.stored().await.len(), 1);
        assert_eq!((door.service.metrics.accepted.get(), door.dropped("invalid_series")), (1, samples));
    }
}

#[tokio::test]
async fn bodies_beyond_the_room_for_them_are_told_to_come_again() {
    let door = Door::open("room", 1 << 30);
    let small = || request(vec![series(&[("__name__", "kept")], &[(1, 0)])]);
    let taken = door.service.arriving.try_acquire_many(kib(door.service.settings.max_body) * BODIES_AT_ONCE as u32);
    assert_eq!(door.send(small()).await, Err((503, "overloaded")));
    drop(taken);
    assert_eq!(door.send(small()).await, Ok(StatusCode::NO_CONTENT));
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_stores_nothing() {
    let door = Door::open("broken", 1 << 30);
    let good = snap::raw::Encoder::new().compress_vec(&[0x0a, 0x02, 0x12, 0x00]).unwrap();
    let checks: [(&str, Vec<u8>, (u16, &str)); 7] = [
        ("empty", vec![], (400, "broken_snappy")),
        ("cut short", good[..good.len() - 1].to_vec(), (400, "broken_snappy")),
        ("not snappy", b"hello, world".to_vec(), (400, "broken_snappy")),
        ("claims 4 GiB", vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0], (413, "decoded_too_large")),
        ("claims more than a length can be", vec![0xff, 0xff, 0xff, 0xff, 0xff, 0x0f], (400, "broken_snappy")),
        ("claims 3 MiB in 5 bytes", vec![0x80, 0x80, 0xc0, 0x01, 0], (400, "broken_snappy")),
        ("not protobuf", snap::raw::Encoder::new().compress_vec(b"\x0a\xff").unwrap(), (400, "broken_protobuf")),
    ];
    for (what, body, expected) in checks {
        assert_eq!(door.send(raw(body)).await, Err(expected), "{what}");
    }
    let large = vec![0; (1 << 20) + 1];
    assert_eq!(door.send(raw(large)).await, Err((413, "body_too_large")));
    assert_eq!(door.spool.depth().batches, 0);
    assert_eq!(door.service.metrics.accepted.get(), 0);
}

#[tokio::test]
async fn what_another_encoding_or_message_would_fix_is_415() {
    let door = Door::open("media", 1 << 30);
    let with = |name: &'static str, value: &'static str| {
        let mut request = request(vec![]);
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let v2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
    let v1 = "application/x-protobuf; proto=prometheus.WriteRequest";
    assert_eq!(door.send(with("content-type", v1)).await, Ok(StatusCode::NO_CONTENT));
    for media in [v2, "application/json", "image/png", "application/x-protobuf2"] {
        assert_eq!(door.send(with("content-type", media)).await, Err((415, "unsupported_media_type")), "{media}");
    }
    for encoding in ["gzip", "deflate", "zstd", "identity"] {
        assert_eq!(door.send(with("content-encoding", encoding)).await, Err((415, "unsupported_encoding")));
    }
    for header in ["content-type", "content-encoding"] {
        let mut request = request(vec![]);
        request.headers_mut().remove(header);
        assert_eq!(door.send(request).await, Ok(StatusCode::NO_CONTENT), "without {header}");
    }
    let mut put = request(vec![]);
    *put.method_mut() = Method::PUT;
    assert_eq!(door.send(put).await, Err((405, "method_not_allowed")));
}

#[tokio::test]
async fn a_full_or_failing_spool_is_503_so_that_senders_keep_their_samples() {
    let door = Door::open("full", 100);
    let sent = || request(vec![series(&[("__name__", "kept")], &[(1, 0)])]);
    assert_eq!(door.send(sent()).await, Err((503, "spool_full")));
    door.spool.close().await;
    assert_eq!(door.send(sent()).await, Err((503, "spool_failing")));
    assert_eq!(door.service.metrics.accepted.get(), 0);
}

#[tokio::test]
async fn a_large_body_is_read_too() {
    let door = Door::open("large", 1 << 30);
    let padding = "x".repeat(1000);
    let many = (0..3000).map(|n| series(&[("__name__", "kept"), ("n", &n.to_string()), ("p", &padding)], &[(n, 0)]));
    assert_eq!(door.send(request(many.collect())).await, Ok(StatusCode::NO_CONTENT));
    assert_eq!(door.stored().await.len(), 3000);
}
