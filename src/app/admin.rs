//! Admin listener: `/metrics`, `/livez` and `/readyz`, without authentication.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::body::Incoming;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{background::Background, serving::Shared};
use crate::{
    clock::{self, Timestamp},
    gate::{
        identity::Issuer,
        listen::{self, ParseFailure},
    },
    http::Body,
    peer::Peer,
};

/// Few need these pages; the gate's connections are not theirs.
const CONNECTIONS: usize = 64;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Admin(Arc<Shared>);

pub(super) async fn serve(socket: std::net::TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listen::serve(listener, Admin(shared), Arc::new(Semaphore::new(CONNECTIONS)), stop).await,
        Err(error) => tracing::error!(%error, "the admin listener cannot be served"),
    }
}

impl listen::Service for Admin {
    type Body = Body;

    fn tls(&self) -> Option<listen::Tls> {
        None
    }

    async fn answer(&self, _: Peer, request: Request<Incoming>) -> Response<Body> {
        let text = |status, kind: &'static str, text: String| {
            let mut response = Response::new(Body::from(text));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        };
        let plain = "text/plain; charset=utf-8";
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => {
                text(StatusCode::OK, OPENMETRICS, self.0.process.telemetry.exposition())
            }
            (&Method::GET | &Method::HEAD, "/livez") => text(StatusCode::OK, plain, "alive\n".into()),
            (&Method::GET | &Method::HEAD, "/readyz") => {
                let (ready, why) = readiness(&self.0);
                text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, plain, why)
            }
            _ => text(StatusCode::NOT_FOUND, plain, "there are /metrics, /livez and /readyz\n".into()),
        }
    }

    fn parse_failed(&self, _: &Peer, _: ParseFailure) {}
}

/// Whether the gate is ready, and why not. An issuer that cannot be reached is a warning as long as another one lets
/// people in: one issuer's trouble is not another's.
fn readiness(shared: &Shared) -> (bool, String) {
    let (ready, why) = shared.process.telemetry.readiness();
    let serving = shared.serving.load();
    let mut issuers = serving.background.issuers().peekable();
    if ready && issuers.peek().is_some() && !issuers.any(Issuer::can_verify) {
        let why = why.trim_start_matches("ready\n");
        return (false, format!("not ready\nerror: issuers: none of them has keys\n{why}"));
    }
    (ready, why)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    issuer: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabels {
    credential: String,
}

type Seconds<L> = Family<L, Gauge<f64, std::sync::atomic::AtomicU64>>;

/// The gauges that are read off at each exposition: ages of keys and credentials, and what issuers count.
#[derive(Clone, Default)]
pub(super) struct Ages {
    issuer_age: Seconds<IssuerLabels>,
    issuer_keys: Family<IssuerLabels, Gauge>,
    issuer_failing: Family<IssuerLabels, Gauge>,
    issuer_grace: Seconds<IssuerLabels>,
    issuer_fetches: Family<FetchLabels, Counter>,
    issuer_unknown_key_fetches: Family<IssuerLabels, Counter>,
    issuer_token_validations: Family<FetchLabels, Counter>,
    credential_age: Seconds<CredentialLabels>,
    credential_expiry: Seconds<CredentialLabels>,
    credential_generation: Family<CredentialLabels, Gauge>,
    caller_credentials: Family<CredentialLabels, Gauge>,
    signing_keys: Gauge,
    signing_key_age: Gauge<f64, std::sync::atomic::AtomicU64>,
    signing_rotated_at: Gauge,
}

impl Ages {
    pub(super) fn register(registry: &mut prometheus_client::registry::Registry) -> Self {
        let ages = Self::default();
        let age = "Time since an issuer's keys were last confirmed";
        registry.register("issuer_keys_age_seconds", age, ages.issuer_age.clone());
        registry.register("issuer_keys", "Keys that an issuer publishes", ages.issuer_keys.clone());
        let failing = "1 while an issuer's keys cannot be refreshed";
        registry.register("issuer_failing", failing, ages.issuer_failing.clone());
        let grace = "How long an issuer's last keys would serve if it could not be reached from now on";
        registry.register("issuer_grace_left_seconds", grace, ages.issuer_grace.clone());
        registry.register("issuer_fetches", "Fetches of an issuer's keys, by result", ages.issuer_fetches.clone());
        let unknown = "Fetches of an issuer's keys that tokens with unknown keys caused";
        registry.register("issuer_unknown_key_fetches", unknown, ages.issuer_unknown_key_fetches.clone());
        let validations = "Validations of single tokens by their issuer (introspection, TokenReview), by result";
        registry.register("issuer_token_validations", validations, ages.issuer_token_validations.clone());
        registry.register(
            "credential_age_seconds",
            "Time since a downstream credential was obtained",
            ages.credential_age.clone(),
        );
        registry.register(
            "credential_expires_in_seconds",
            "Time until a downstream credential expires, where that is known",
            ages.credential_expiry.clone(),
        );
        registry.register(
            "credential_generation",
            "How often a downstream credential has been obtained anew",
            ages.credential_generation.clone(),
        );
        registry.register(
            "caller_credentials",
            "Callers with a downstream credential of their own",
            ages.caller_credentials.clone(),
        );
        registry.register("signing_keys", "Keys of the gate's own that it publishes", ages.signing_keys.clone());
        registry.register(
            "signing_key_age_seconds",
            "Age of the key that the gate signs with",
            ages.signing_key_age.clone(),
        );
        registry.register(
            "signing_last_rotation_timestamp_seconds",
            "When the newest of the gate's keys was made",
            ages.signing_rotated_at.clone(),
        );
        ages
    }

    /// Sets the gauges from the parts of the served configuration.
    pub(super) fn read(&self, parts: &Background) {
        let now = clock::now();
        self.clear();
        for issuer in parts.issuers() {
            self.read_issuer(issuer);
        }
        for (credential, callers) in parts.caller_counts() {
            let labels = CredentialLabels { credential: credential.to_owned() };
            self.caller_credentials.get_or_create(&labels).set(i64::try_from(callers).unwrap_or(i64::MAX));
        }
        if let Some(signing) = parts.signing() {
            self.signing_keys.set(i64::try_from(signing.key_count()).unwrap_or(i64::MAX));
            self.signing_key_age.set(signing.signing_since().map_or(0.0, |at| clock::seconds_between(at, now)));
            self.signing_rotated_at.set(signing.rotated_at().map_or(0, Timestamp::as_second));
        }
        for slot in parts.credential_slots() {
            let labels = CredentialLabels { credential: slot.name().to_string() };
            let Some(credential) = slot.latest() else { continue };
            self.credential_age.get_or_create(&labels).set(clock::seconds_between(credential.obtained_at, now));
            if let Some(end) = credential.expires_at {
                self.credential_expiry.get_or_create(&labels).set(clock::seconds_between(now, end));
            }
            let generation = i64::try_from(credential.generation).unwrap_or(i64::MAX);
            self.credential_generation.get_or_create(&labels).set(generation);
        }
    }

    fn read_issuer(&self, issuer: &Issuer) {
        let labels = IssuerLabels { issuer: issuer.name.to_string() };
        if let (Some(age), Some(left)) = (issuer.age(), issuer.grace_left()) {
            self.issuer_age.get_or_create(&labels).set(age.as_secs_f64());
            self.issuer_grace.get_or_create(&labels).set(left.as_secs_f64());
        }
        self.issuer_keys.get_or_create(&labels).set(i64::try_from(issuer.key_count()).unwrap_or(i64::MAX));
        self.issuer_failing.get_or_create(&labels).set(issuer.is_failing().into());
        let counts = issuer.counts();
        let of = |result| FetchLabels { issuer: labels.issuer.clone(), result };
        for (result, count) in [("success", &counts.fetched), ("failure", &counts.failed)] {
            self.issuer_fetches.get_or_create(&of(result)).inc_by(count.load(Relaxed));
        }
        if let Some(validations) = issuer.validation_counts() {
            let results =
                [("active", &validations.active), ("refused", &validations.refused), ("failure", &validations.failed)];
            for (result, count) in results {
                self.issuer_token_validations.get_or_create(&of(result)).inc_by(count.load(Relaxed));
            }
        }
        self.issuer_unknown_key_fetches.get_or_create(&labels).inc_by(counts.unknown_key.load(Relaxed));
    }

    fn clear(&self) {
        self.issuer_age.clear();
        self.issuer_keys.clear();
        self.issuer_failing.clear();
        self.issuer_grace.clear();
        self.issuer_fetches.clear();
        self.issuer_unknown_key_fetches.clear();
        self.issuer_token_validations.clear();
        self.credential_age.clear();
        self.credential_expiry.clear();
        self.credential_generation.clear();
        self.caller_credentials.clear();
    }
}
