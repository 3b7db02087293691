//! The JWKS contract on a paused clock: the real refresh task reads the keys from a file, which a test can remove. No
//! socket waits while time is advanced.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::task::JoinSet;

use super::*;
use crate::pipeline::testing::Directory;

const HOUR: Duration = Duration::from_secs(3600);
const ES256: Algorithm = Algorithm::ES256;

/// An issuer with keys in a file, its task and its telemetry.
struct IssuerHarness {
    directory: Directory,
    issuer: Arc<Issuer>,
    telemetry: Arc<Telemetry>,
    _task: JoinSet<()>,
}

impl IssuerHarness {
    async fn start(name: &str, kids: &[&str]) -> Self {
        let directory = Directory::new(name);
        std::fs::create_dir_all(&directory.0).unwrap();
        let file = directory.0.join("jwks.json");
        let settings = Settings { keys: KeySource::File(file), ..Settings::test() };
        let issuer = Arc::new(Issuer::new(settings, Arc::new(Client::new(None).unwrap())));
        let telemetry = Arc::new(Telemetry::new());
        let mut task = JoinSet::new();
        let running = issuer.clone();
        let reported = telemetry.clone();
        let harness = Self { directory, issuer, telemetry, _task: JoinSet::new() };
        harness.publish(kids);
        task.spawn(async move { running.run(&reported).await });
        harness.fetched(1).await;
        Self { _task: task, ..harness }
    }

    fn publish(&self, kids: &[&str]) {
        let keys: Vec<_> = kids.iter().map(|kid| jwk(kid)).collect();
        let next = self.directory.0.join("next.json");
        std::fs::write(&next, serde_json::json!({"keys": keys}).to_string()).unwrap();
        // atomically, so that no reader sees a partial file
        std::fs::rename(next, self.directory.0.join("jwks.json")).unwrap();
    }

    /// Removes the file: the issuer is unreachable.
    fn remove_file(&self) {
        std::fs::remove_file(self.directory.0.join("jwks.json")).unwrap();
    }

    /// Looks a key up for a token that was made just now.
    async fn key(&self, kid: &str) -> KeyLookup {
        let now = clock::now();
        self.issuer.key(Some(kid), ES256, Some(now), now).await
    }

    fn fetches(&self) -> u64 {
        let counts = self.issuer.counts();
        counts.fetched.load(Ordering::Relaxed) + counts.failed.load(Ordering::Relaxed)
    }

    fn unknown_key_fetches(&self) -> u64 {
        self.issuer.counts().unknown_key.load(Ordering::Relaxed)
    }

    /// Waits until this many fetches have finished.
    async fn fetched(&self, count: u64) {
        let mut progress = self.issuer.progress.subscribe();
        progress.wait_for(|progress| progress.finished >= count).await.unwrap();
    }
}

/// A key of its own for each call.
fn jwk(kid: &str) -> serde_json::Value {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    serde_json::json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": text(x), "y": text(y)})
}

fn is_found(lookup: &KeyLookup) -> bool {
    matches!(lookup, KeyLookup::Found(_))
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_no_longer_published_is_withdrawn_by_the_refresh() {
    let harness = IssuerHarness::start("refresh", &["a", "b"]).await;
    let KeyLookup::Found(key) = harness.key("a").await else { panic!("it was published") };
    harness.publish(&["b"]);
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(key.usable() && harness.fetches() == 1, "fetched too early");
    tokio::time::sleep(Duration::from_secs(2)).await;
    harness.fetched(2).await;
    assert!(!key.usable() && key.withdrawn().is_cancelled(), "a withdrawn key is still accepted");
    // its tokens are refused with 401, not 503, also during the minimum interval
    for _ in 0..2 {
        assert!(matches!(harness.key("a").await, KeyLookup::Unknown));
    }
    harness.publish(&["a", "b"]);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(is_found(&harness.key("a").await), "a key that came back is not known");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_causes_one_fetch_and_the_next_only_after_the_interval() {
    let harness = IssuerHarness::start("floor", &["a"]).await;
    harness.publish(&["a", "b"]);
    assert!(is_found(&harness.key("b").await), "a new key causes no fetch");
    assert_eq!((harness.unknown_key_fetches(), harness.fetches()), (1, 2));
    for number in 0..1000 {
        let lookup = harness.key(&format!("no-such-{number}")).await;
        assert!(matches!(lookup, KeyLookup::Unavailable(Some(left)) if left <= UNKNOWN_KEY_INTERVAL));
    }
    assert_eq!((harness.unknown_key_fetches(), harness.fetches()), (1, 2), "every unknown key causes a fetch");
    tokio::time::sleep(UNKNOWN_KEY_INTERVAL).await;
    assert!(matches!(harness.key("no-such").await, KeyLookup::Unknown));
    assert_eq!((harness.unknown_key_fetches(), harness.fetches()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn concurrent_lookups_share_one_fetch() {
    let harness = Arc::new(IssuerHarness::start("flight", &["a"]).await);
    harness.publish(&["b"]);
    let mut open = JoinSet::new();
    for _ in 0..100 {
        let harness = harness.clone();
        open.spawn(async move { is_found(&harness.key("b").await) });
    }
    assert!(open.join_all().await.into_iter().all(|found| found), "a lookup failed");
    assert_eq!((harness.unknown_key_fetches(), harness.fetches()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_second_unknown_key_during_a_fetch_does_not_bypass_the_interval() {
    let harness = IssuerHarness::start("leftover", &["a"]).await;
    // both request a fetch before the task has run: the second must not leave a request behind
    let (first, second) = tokio::join!(harness.key("b"), harness.key("c"));
    assert!(matches!((first, second), (KeyLookup::Unknown, KeyLookup::Unknown)));
    // and one during a fetch
    tokio::time::sleep(UNKNOWN_KEY_INTERVAL).await;
    harness.issuer.request_fetch();
    harness.issuer.begin_fetch(clock::monotonic());
    assert_eq!(
        harness.issuer.request_fetch().0,
        Some(harness.issuer.progress.borrow().begun),
        "it does not join the fetch under way"
    );
    assert!(!harness.issuer.progress.borrow().requested, "it left a request behind");
}

#[tokio::test(start_paused = true)]
async fn a_key_is_reported_as_unknown_only_on_proof() {
    let harness = IssuerHarness::start("proof", &["a"]).await;
    let issuer = &harness.issuer;
    let now = clock::now();
    let ago = |seconds: i64| now.checked_sub(jiff::SignedDuration::from_secs(seconds)).unwrap();
    // an unknown key has just caused a fetch, and a rotation follows
    assert!(matches!(harness.key("no-such").await, KeyLookup::Unknown));
    harness.publish(&["a", "b"]);
    // a token that may be younger than that fetch: 503, with the time of the next fetch
    let KeyLookup::Unavailable(Some(wait)) = harness.key("b").await else { panic!("it may be new") };
    assert!(matches!(issuer.key(Some("b"), ES256, None, clock::now()).await, KeyLookup::Unavailable(Some(_))));
    // within the leeway the clocks may differ
    assert!(matches!(issuer.key(Some("b"), ES256, Some(ago(59)), clock::now()).await, KeyLookup::Unavailable(Some(_))));
    // a token that is older than that fetch: its key was not published
    assert!(matches!(issuer.key(Some("b"), ES256, Some(ago(61)), clock::now()).await, KeyLookup::Unknown));
    tokio::time::sleep(wait).await;
    assert!(is_found(&harness.key("b").await), "the key was not found after the announced time");
}

#[tokio::test(start_paused = true)]
async fn a_key_for_another_algorithm_causes_no_fetch() {
    let harness = IssuerHarness::start("unfit", &["a"]).await;
    let now = clock::now();
    assert!(matches!(harness.issuer.key(Some("a"), Algorithm::RS256, None, now).await, KeyLookup::WrongAlgorithm));
    assert!(is_found(&harness.issuer.key(None, ES256, None, now).await));
    harness.publish(&["a", "b"]);
    tokio::time::sleep(HOUR).await;
    assert!(matches!(harness.issuer.key(None, ES256, None, now).await, KeyLookup::Ambiguous));
    assert_eq!(harness.unknown_key_fetches(), 0);
}

#[tokio::test(start_paused = true)]
async fn keys_stay_valid_during_an_outage_until_the_grace_period_is_over() {
    let harness = IssuerHarness::start("outage", &["a"]).await;
    let KeyLookup::Found(key) = harness.key("a").await else { panic!("it was published") };
    harness.remove_file();
    tokio::time::sleep(HOUR).await;
    assert!(key.usable() && is_found(&harness.key("a").await), "keys were withdrawn after an hour");
    assert!(harness.issuer.is_failing() && harness.issuer.can_verify());
    let (ready, why) = harness.telemetry.readiness();
    assert!(ready && why.contains("warning: issuer corp") && why.contains(" min more"), "{why}");
    let left = harness.issuer.grace_left().unwrap();
    assert!(left < 23 * HOUR + HOUR / 30 && left > 22 * HOUR, "{left:?}");
    // during the outage an unknown key is not reported as unknown
    assert!(matches!(harness.key("b").await, KeyLookup::Unavailable(_)));

    tokio::time::sleep(23 * HOUR - Duration::from_secs(120)).await;
    assert!(key.usable() && is_found(&harness.key("a").await), "keys were withdrawn before the grace period was over");
    tokio::time::sleep(Duration::from_secs(240)).await;
    assert!(!key.usable() && key.withdrawn().is_cancelled(), "keys are accepted after the grace period");
    assert!(matches!(harness.key("a").await, KeyLookup::Unavailable(_)) && !harness.issuer.can_verify());
    let (_, why) = harness.telemetry.readiness();
    assert!(why.contains("503"), "{why}");

    harness.publish(&["c"]);
    tokio::time::sleep(2 * RETRY_MAX).await;
    assert!(is_found(&harness.key("c").await), "it does not recover");
    assert_eq!(harness.telemetry.readiness(), (true, "ready\n".into()));
}

#[tokio::test(start_paused = true)]
async fn failed_fetches_back_off_exponentially() {
    let harness = IssuerHarness::start("backoff", &["a"]).await;
    harness.remove_file();
    tokio::time::sleep(HOUR).await;
    // every 30 s after the steps of 2, 4, 8 and 16 s
    assert!((110..=125).contains(&harness.fetches()), "{}", harness.fetches());
}

#[tokio::test(start_paused = true)]
async fn a_key_rotation_refuses_no_valid_token() {
    let harness = IssuerHarness::start("rotation", &["key-0"]).await;
    for generation in 1..=50 {
        // the hardest rotation: the new key replaces the old one at once
        let kid = format!("key-{generation}");
        harness.publish(&[&kid]);
        for _ in 0..100 {
            assert!(is_found(&harness.key(&kid).await), "a valid token was refused in generation {generation}");
        }
        tokio::time::sleep(UNKNOWN_KEY_INTERVAL + Duration::from_secs(generation)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_not_reported_as_unknown_after_a_fetch_timeout() {
    let issuer = Issuer::new(Settings::test(), Arc::new(Client::new(None).unwrap()));
    // no task runs, as if the issuer were slower than the deadline
    let now = clock::now();
    assert!(matches!(issuer.key(Some("new"), ES256, None, now).await, KeyLookup::Unavailable(None)));
}
