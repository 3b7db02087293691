//! Remote write 1.0: the requests that Prometheus, vmagent and their like send.
//!
//! Promises: 204 only after everything kept is synced to disk. A request that cannot be read stores nothing; one with
//! some invalid series stores the others and says so with 400. Labels are sorted here rather than refused. 1.0 answers
//! carry no `X-Prometheus-Remote-Write-*-Written` header: the compliance suite takes them for a 2.0 receiver.
//!
//! It must never allocate what a body merely claims, nor hold more bodies than there is room for: who may write could
//! otherwise fill the memory.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{Metrics, Reason, wire};

use crate::{
    clock::{self, Timestamp},
    http::{Body, BoxFuture, LocalService, ReadParams as _, media_type, read_bounded},
    pipeline::{
        shape::keep::KeepList,
        spool::{AppendError, Spool},
    },
    principal::Caller,
    refusal::Refusal,
    series::{Batch, BatchBuilder, LabelRef, METRIC_NAME, WriteRules},
};

/// A sender's own deadline is 30 s (Prometheus, `remote_timeout`): beyond it nobody waits for the answer.
const READ_DEADLINE: Duration = Duration::from_secs(30);
/// Bodies that decode to more than this are read on a thread of their own, so that others on the same core go on.
const INLINE: usize = 1 << 20;
/// A snappy element of three bytes makes at most 64 (`format_description.txt`, copies): no body grows more than this.
const SNAPPY_GROWTH: usize = 22;
/// Decoded bodies held at once, in units of the largest one allowed.
const DECODED_AT_ONCE: usize = 4;
/// Bodies as sent, arriving or held, likewise.
const BODIES_AT_ONCE: usize = 16;
/// Samples further ahead of the clock than this are refused, as Prometheus' own receiver does (`write_handler.go`).
const AHEAD: i64 = 10 * 60 * 1000;

/// How large a request may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Largest body as sent, in bytes.
    pub max_body: usize,
    /// Largest body once decompressed, in bytes.
    pub max_decoded: usize,
}

/// The service behind `POST /api/v1/write`.
#[derive(Debug)]
pub(crate) struct RemoteWrite {
    settings: Settings,
    keep: Arc<KeepList>,
    spool: Spool,
    metrics: Metrics,
    /// KiB of bodies as sent that may arrive or be held at once.
    arriving: Semaphore,
    /// KiB of decoded bodies that may be held at once.
    room: Semaphore,
}

impl LocalService for RemoteWrite {
    fn serve<'a>(&'a self, caller: Caller, request: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, Refusal>> {
        Box::pin(async move {
            let answer = self.write(&caller, request).await;
            if let Err(refusal) = &answer
                && !matches!(refusal.reason, INVALID_SERIES | GUARDRAIL)
            {
                self.metrics.refused.get_or_create(&Reason { reason: refusal.reason }).inc();
            }
            answer
        })
    }
}

const INVALID_SERIES: &str = "invalid_series";
const GUARDRAIL: &str = "guardrail";

impl RemoteWrite {
    /// A service that stores what `keep` wants in `spool`.
    #[must_use]
    pub(crate) fn new(settings: Settings, keep: Arc<KeepList>, spool: Spool, metrics: Metrics) -> Self {
        let arriving = Semaphore::new(kib(settings.max_body) as usize * BODIES_AT_ONCE);
        let room = Semaphore::new(kib(settings.max_decoded) as usize * DECODED_AT_ONCE);
        Self { settings, keep, spool, metrics, arriving, room }
    }

    async fn write(&self, caller: &Caller, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        check_method(request.method())?;
        check_headers(request.headers())?;
        let body = request.into_body();
        // a body of unknown length may be the largest
        let expected = body.size_hint().upper().and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        let expected = expected.min(self.settings.max_body);
        let _arriving = self.arriving.try_acquire_many(kib(expected)).map_err(|_| overloaded())?;
        let body = read_bounded(body, self.settings.max_body, READ_DEADLINE).await?;
        let length = self.decoded_length(&body)?;
        // a permit is given back when the decoded body is gone
        let _room = self.room.try_acquire_many(kib(length)).map_err(|_| overloaded())?;
        let digest = self.digest(body, length, caller).await?;
        if let Some(batch) = digest.batch.clone() {
            self.spool.append(batch).await?;
            self.metrics.batches.inc();
        }
        digest.count(&self.metrics);
        match digest.refusal() {
            Some(refusal) => Err(refusal),
            None => {
                let mut answer = Response::new(Body::Empty);
                *answer.status_mut() = StatusCode::NO_CONTENT;
                Ok(answer)
            }
        }
    }

    /// The length a body claims to have once decompressed, believed only if it can be true.
    fn decoded_length(&self, body: &[u8]) -> Result<usize, Refusal> {
        let limit = self.settings.max_decoded;
        let too_large = || {
            let text = format!("the decompressed body would be larger than {limit} bytes: send smaller requests");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "decoded_too_large", text)
        };
        match snap::raw::decompress_len(body) {
            Ok(length) if length > limit => Err(too_large()),
            Err(snap::Error::TooBig { .. }) => Err(too_large()),
            Ok(length) if length <= body.len().saturating_mul(SNAPPY_GROWTH) && !body.is_empty() => Ok(length),
            _ => Err(broken_snappy()),
        }
    }

    async fn digest(&self, body: Bytes, length: usize, caller: &Caller) -> Result<Digest, Refusal> {
        let now = clock::now();
        let caller = caller.clone();
        if length <= INLINE {
            return digest(&body, length, &self.keep, &caller, now);
        }
        let keep = Arc::clone(&self.keep);
        tokio::task::spawn_blocking(move || digest(&body, length, &keep, &caller, now))
            .await
            .map_err(|e| Refusal::unavailable("overloaded", "the request could not be read now").with_detail(e))?
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match &error {
            AppendError::Full => Self::unavailable("spool_full", "the spool is full: keep the samples, come again"),
            AppendError::Failed(_) => {
                Self::unavailable("spool_failing", "the spool cannot be written: keep the samples, come again")
                    .with_detail(error)
            }
        }
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX >> 4)
}

fn overloaded() -> Refusal {
    Refusal::unavailable("overloaded", "too many large requests at once: keep the samples, come again")
}

fn broken_snappy() -> Refusal {
    Refusal::malformed("broken_snappy", "the body is not one snappy block: send the block format, not the framed one")
}

fn check_method(method: &Method) -> Result<(), Refusal> {
    if method == Method::POST {
        return Ok(());
    }
    Err(Refusal::wrong_method("POST"))
}

/// 415 exactly for what another encoding or message would fix: vmagent falls back to snappy on it.
fn check_headers(headers: &HeaderMap) -> Result<(), Refusal> {
    let unsupported = |reason, text| Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason, text));
    // none means snappy, as Prometheus' own receiver takes it
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"snappy")
    {
        return unsupported("unsupported_encoding", "remote write is compressed with snappy");
    }
    // none means 1.0: the first senders had it so
    let Some(media) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let media = media.to_str().ok().and_then(media_type);
    let Some(media) = media.filter(|media| Some(media.essence()) == media_type("application/x-protobuf")) else {
        return unsupported("unsupported_media_type", "remote write is application/x-protobuf");
    };
    let message = media.params().find(|(name, _)| *name == "proto");
    if message.is_some_and(|(_, message)| message.unquoted_str() != "prometheus.WriteRequest") {
        return unsupported("unsupported_media_type", "only proto=prometheus.WriteRequest (1.0) is understood");
    }
    Ok(())
}

/// What decides which series of a request are stored, and as what.
struct Shape<'a> {
    keep: &'a KeepList,
    /// What policy wants the caller's series to be.
    rules: Option<&'a WriteRules>,
    /// The latest time of a sample, in milliseconds since the Unix epoch.
    latest: i64,
}

/// What one request came to.
#[derive(Debug, Default)]
struct Digest {
    /// What is to be stored; nothing if no series was kept.
    batch: Option<Batch>,
    kept: u64,
    not_kept: u64,
    invalid: u64,
    ahead: u64,
    histograms: u64,
    exemplars: u64,
    /// Of series that a guardrail lets the caller not write.
    refused: u64,
    /// What is wrong with the first series that was not taken: the refusal's word, and the text for the sender.
    problem: Option<(&'static str, String)>,
}

impl Digest {
    fn count(&self, metrics: &Metrics) {
        metrics.accepted.inc_by(self.kept + self.not_kept);
        metrics.drop_samples("not_kept", self.not_kept);
        metrics.drop_samples("invalid_series", self.invalid);
        metrics.drop_samples("too_far_ahead", self.ahead);
        metrics.drop_samples(GUARDRAIL, self.refused);
        metrics.drop_samples("histogram", self.histograms);
        metrics.drop_samples("exemplar", self.exemplars);
    }

    fn refusal(&self) -> Option<Refusal> {
        let (reason, problem) = self.problem.as_ref()?;
        let text = format!(
            "{} samples were refused and {} were taken; the first problem: {problem}",
            self.invalid + self.ahead + self.refused,
            self.kept + self.not_kept
        );
        Some(Refusal::malformed(reason, text))
    }

    fn add<'a>(
        &mut self,
        series: &wire::Series<'a>,
        labels: &mut Vec<LabelRef<'a>>,
        shape: &Shape<'a>,
        builder: &mut BatchBuilder,
    ) {
        self.histograms += series.histograms;
        self.exemplars += series.exemplars;
        let count = series.sample_count;
        if let Err(problem) = check_size(series).and_then(|()| check_labels(&series.labels, labels)) {
            // a series without samples is not worth a refusal, but its sender should hear of it
            self.invalid += count;
            self.problem.get_or_insert_with(|| (INVALID_SERIES, problem.into_owned()));
            return;
        }
        // from here on the series is what policy wants it to be: the keep-list and the spool see that
        if let Err(broken) = shape.rules.map_or(Ok(()), |rules| rules.apply(labels)) {
            self.refused += count;
            self.problem.get_or_insert_with(|| (GUARDRAIL, shorten(&broken.to_string()).into_owned()));
            return;
        }
        if !shape.keep.keeps(labels) {
            self.not_kept += count;
        } else if series.samples.iter().all(|sample| sample.timestamp <= shape.latest) {
            self.kept += count;
            if count > 0 {
                builder.push(labels, &series.samples);
            }
        } else {
            self.ahead += count;
            let text = || format!("`{}` has samples more than 10 minutes ahead of the clock", name_of(labels));
            self.problem.get_or_insert_with(|| (INVALID_SERIES, text()));
        }
    }
}

fn digest(body: &[u8], length: usize, keep: &KeepList, caller: &Caller, now: Timestamp) -> Result<Digest, Refusal> {
    let mut message = vec![0; length];
    match snap::raw::Decoder::new().decompress(body, &mut message) {
        Ok(written) if written == length => {}
        _ => return Err(broken_snappy()),
    }
    let mut builder = BatchBuilder::new(batch_id(now), now.as_millisecond(), &caller.principal);
    let shape =
        Shape { keep, rules: caller.write_rules.as_deref(), latest: now.as_millisecond().saturating_add(AHEAD) };
    let mut digest = Digest::default();
    let mut labels = Vec::with_capacity(16);
    wire::for_each_series(&message, |series| digest.add(series, &mut labels, &shape, &mut builder))
        .map_err(|e| Refusal::malformed("broken_protobuf", e.to_string()))?;
    if builder.samples() > 0 {
        digest.batch = Some(builder.finish());
    }
    Ok(digest)
}

/// A fresh batch id; v7, so that ids sort by time.
pub(super) fn batch_id(now: Timestamp) -> [u8; 16] {
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let nanoseconds = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanoseconds)).into_bytes()
}

fn check_size(series: &wire::Series<'_>) -> Result<(), Cow<'static, str>> {
    if series.labels.len() > wire::MAX_LABELS {
        return Err(format!("a series has more than {} labels", wire::MAX_LABELS).into());
    }
    if series.samples.len() > wire::MAX_SAMPLES {
        return Err(format!("a series has more than {} samples in one request", wire::MAX_SAMPLES).into());
    }
    Ok(())
}

/// Fills `labels` with the sent ones as text, sorted by name, without those whose value is empty.
fn check_labels<'a>(sent: &[(&'a [u8], &'a [u8])], labels: &mut Vec<LabelRef<'a>>) -> Result<(), Cow<'static, str>> {
    labels.clear();
    for &(name, value) in sent {
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            return Err("a label is not UTF-8".into());
        };
        match (name, value) {
            ("", _) => return Err("a label has no name".into()),
            // an empty value is the same as no label (Prometheus data model)
            (_, "") => {}
            label => labels.push(label),
        }
    }
    // most senders sort, as the specification wants; its own compliance sender does not
    if !labels.is_sorted_by(|a, b| a.0 < b.0) {
        labels.sort_unstable_by_key(|label| label.0);
        if let Some((twice, _)) = labels.windows(2).find_map(|pair| match pair {
            [a, b] if a.0 == b.0 => Some(*a),
            _ => None,
        }) {
            return Err(format!("the label `{}` is there twice", shorten(twice)).into());
        }
    }
    if labels.iter().any(|(name, _)| *name == METRIC_NAME) { Ok(()) } else { Err("a series has no `__name__`".into()) }
}

fn name_of<'a>(labels: &[LabelRef<'a>]) -> Cow<'a, str> {
    labels.iter().find(|(name, _)| *name == METRIC_NAME).map_or("".into(), |(_, value)| shorten(value))
}

/// A caller's text as an error may repeat it.
fn shorten(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests;
