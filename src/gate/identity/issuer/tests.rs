//! The JWKS contract on a paused clock: the task is the real one, and the keys come from a file, which a test can take
//! away, so that no socket waits while time leaps.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::task::JoinSet;

use super::*;
use crate::pipeline::testing::Directory;

const HOUR: Duration = Duration::from_secs(3600);
const ES256: Algorithm = Algorithm::ES256;

/// An issuer whose keys lie in a file, its task, and what it says of itself.
struct Stand {
    directory: Directory,
    issuer: Arc<Issuer>,
    telemetry: Arc<Telemetry>,
    _task: JoinSet<()>,
}

impl Stand {
    async fn start(name: &str, kids: &[&str]) -> Self {
        let directory = Directory::new(name);
        std::fs::create_dir_all(&directory.0).unwrap();
        let file = directory.0.join("jwks.json");
        let settings = Settings { keys: KeySource::File(file), ..Settings::test() };
        let issuer = Arc::new(Issuer::new(settings, Arc::new(Client::new(None).unwrap())));
        let (telemetry, mut task) = (Arc::new(Telemetry::new()), JoinSet::new());
        let (kept, told) = (issuer.clone(), telemetry.clone());
        let stand = Self { directory, issuer, telemetry, _task: JoinSet::new() };
        stand.publish(kids);
        task.spawn(async move { kept.run(&told).await });
        stand.fetched(1).await;
        Self { _task: task, ..stand }
    }

    fn publish(&self, kids: &[&str]) {
        let keys: Vec<_> = kids.iter().map(|kid| jwk(kid)).collect();
        let next = self.directory.0.join("next.json");
        std::fs::write(&next, serde_json::json!({"keys": keys}).to_string()).unwrap();
        // at once, so that nobody reads half a file
        std::fs::rename(next, self.directory.0.join("jwks.json")).unwrap();
    }

    /// Takes the file away: the issuer cannot be reached.
    fn vanish(&self) {
        std::fs::remove_file(self.directory.0.join("jwks.json")).unwrap();
    }

    /// Looks a key up for a token that was made just now.
    async fn key(&self, kid: &str) -> Lookup {
        let now = clock::now();
        self.issuer.key(Some(kid), ES256, Some(now), now).await
    }

    fn fetches(&self) -> u64 {
        let counts = self.issuer.counts();
        counts.fetched.load(Ordering::Relaxed) + counts.failed.load(Ordering::Relaxed)
    }

    fn wanted(&self) -> u64 {
        self.issuer.counts().unknown_key.load(Ordering::Relaxed)
    }

    /// Waits until so many fetches are over.
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

fn is_found(lookup: &Lookup) -> bool {
    matches!(lookup, Lookup::Found(_))
}

#[tokio::test(start_paused = true)]
async fn keys_are_refreshed_and_a_withdrawn_one_stops_counting_with_the_refresh() {
    let stand = Stand::start("refresh", &["a", "b"]).await;
    let Lookup::Found(key) = stand.key("a").await else { panic!("it was published") };
    stand.publish(&["b"]);
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(key.usable() && stand.fetches() == 1, "asked before its time");
    tokio::time::sleep(Duration::from_secs(2)).await;
    stand.fetched(2).await;
    assert!(!key.usable() && key.withdrawn().is_cancelled(), "a withdrawn key still counts");
    // whoever comes with it hears a no, not "later": also while the floor holds
    for _ in 0..2 {
        assert!(matches!(stand.key("a").await, Lookup::Unknown));
    }
    stand.publish(&["a", "b"]);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(is_found(&stand.key("a").await), "a key that came back is not known");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_causes_one_fetch_and_the_next_only_after_the_floor() {
    let stand = Stand::start("floor", &["a"]).await;
    stand.publish(&["a", "b"]);
    assert!(is_found(&stand.key("b").await), "a new key is not looked for");
    assert_eq!((stand.wanted(), stand.fetches()), (1, 2));
    for number in 0..1000 {
        let lookup = stand.key(&format!("no-such-{number}")).await;
        assert!(matches!(lookup, Lookup::Unavailable(Some(left)) if left <= UNKNOWN_KEY_FLOOR));
    }
    assert_eq!((stand.wanted(), stand.fetches()), (1, 2), "unknown keys drive fetches");
    tokio::time::sleep(UNKNOWN_KEY_FLOOR).await;
    assert!(matches!(stand.key("no-such").await, Lookup::Unknown));
    assert_eq!((stand.wanted(), stand.fetches()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn those_who_come_at_once_share_one_fetch() {
    let stand = Arc::new(Stand::start("flight", &["a"]).await);
    stand.publish(&["b"]);
    let mut open = JoinSet::new();
    for _ in 0..100 {
        let stand = stand.clone();
        open.spawn(async move { is_found(&stand.key("b").await) });
    }
    assert!(open.join_all().await.into_iter().all(|found| found), "somebody was refused");
    assert_eq!((stand.wanted(), stand.fetches()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_second_unknown_key_during_a_fetch_does_not_pass_the_floor() {
    let stand = Stand::start("leftover", &["a"]).await;
    // both ask before the task has run: the second must not leave a wish behind that is granted after the first
    let (first, second) = tokio::join!(stand.key("b"), stand.key("c"));
    assert!(matches!((first, second), (Lookup::Unknown, Lookup::Unknown)));
    // and one while the fetch is under way
    tokio::time::sleep(UNKNOWN_KEY_FLOOR).await;
    stand.issuer.want();
    stand.issuer.begin(clock::monotonic());
    assert_eq!(
        stand.issuer.want().0,
        Some(stand.issuer.progress.borrow().begun),
        "it does not join the fetch under way"
    );
    assert!(!stand.issuer.progress.borrow().wanted, "it left a wish behind");
}

#[tokio::test(start_paused = true)]
async fn a_key_is_called_unknown_only_on_proof() {
    let stand = Stand::start("proof", &["a"]).await;
    let issuer = &stand.issuer;
    let now = clock::now();
    let ago = |seconds: i64| now.checked_sub(jiff::SignedDuration::from_secs(seconds)).unwrap();
    // somebody has just caused a fetch, and a rotation follows
    assert!(matches!(stand.key("no-such").await, Lookup::Unknown));
    stand.publish(&["a", "b"]);
    // a token that may be younger than that fetch: come again, and here is when
    let Lookup::Unavailable(Some(wait)) = stand.key("b").await else { panic!("it may be new") };
    assert!(matches!(issuer.key(Some("b"), ES256, None, clock::now()).await, Lookup::Unavailable(Some(_))));
    // within the leeway, the issuer's clock and ours may differ
    assert!(matches!(issuer.key(Some("b"), ES256, Some(ago(59)), clock::now()).await, Lookup::Unavailable(Some(_))));
    // a token that is older than that fetch has been looked for already
    assert!(matches!(issuer.key(Some("b"), ES256, Some(ago(61)), clock::now()).await, Lookup::Unknown));
    tokio::time::sleep(wait).await;
    assert!(is_found(&stand.key("b").await), "it was told to come again in vain");
}

#[tokio::test(start_paused = true)]
async fn a_key_for_another_algorithm_is_no_reason_to_fetch() {
    let stand = Stand::start("unfit", &["a"]).await;
    let now = clock::now();
    assert!(matches!(stand.issuer.key(Some("a"), Algorithm::RS256, None, now).await, Lookup::Unfit));
    assert!(is_found(&stand.issuer.key(None, ES256, None, now).await));
    stand.publish(&["a", "b"]);
    tokio::time::sleep(HOUR).await;
    assert!(matches!(stand.issuer.key(None, ES256, None, now).await, Lookup::Ambiguous));
    assert_eq!(stand.wanted(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_lived_through_within_its_grace_and_not_a_minute_longer() {
    let stand = Stand::start("outage", &["a"]).await;
    let Lookup::Found(key) = stand.key("a").await else { panic!("it was published") };
    stand.vanish();
    tokio::time::sleep(HOUR).await;
    assert!(key.usable() && is_found(&stand.key("a").await), "an outage of an hour closed the gate");
    assert!(stand.issuer.is_failing() && stand.issuer.can_verify());
    let (ready, why) = stand.telemetry.readiness();
    assert!(ready && why.contains("warning: issuer corp") && why.contains(" min more"), "{why}");
    let left = stand.issuer.grace_left().unwrap();
    assert!(left < 23 * HOUR + HOUR / 30 && left > 22 * HOUR, "{left:?}");
    // a key that nobody can ask for is not called unknown
    assert!(matches!(stand.key("b").await, Lookup::Unavailable(_)));

    tokio::time::sleep(23 * HOUR - Duration::from_secs(120)).await;
    assert!(key.usable() && is_found(&stand.key("a").await), "closed before the grace was over");
    tokio::time::sleep(Duration::from_secs(240)).await;
    assert!(!key.usable() && key.withdrawn().is_cancelled(), "remembered tokens outlive the grace");
    assert!(matches!(stand.key("a").await, Lookup::Unavailable(_)) && !stand.issuer.can_verify());
    let (_, why) = stand.telemetry.readiness();
    assert!(why.contains("503"), "{why}");

    stand.publish(&["c"]);
    tokio::time::sleep(2 * RETRY_MOST).await;
    assert!(is_found(&stand.key("c").await), "it does not recover");
    assert_eq!(stand.telemetry.readiness(), (true, "ready\n".into()));
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_away_is_asked_ever_more_seldom() {
    let stand = Stand::start("backoff", &["a"]).await;
    stand.vanish();
    tokio::time::sleep(HOUR).await;
    // every 30 s once the steps of 2, 4, 8 and 16 s are over
    assert!((110..=125).contains(&stand.fetches()), "{}", stand.fetches());
}

#[tokio::test(start_paused = true)]
async fn a_rotating_issuer_costs_no_good_request() {
    let stand = Stand::start("rotation", &["key-0"]).await;
    for generation in 1..=50 {
        // the harshest rotation there is: new key, and the old one gone at once, with no word of warning
        let kid = format!("key-{generation}");
        stand.publish(&[&kid]);
        for _ in 0..100 {
            assert!(is_found(&stand.key(&kid).await), "a good request was refused in generation {generation}");
        }
        tokio::time::sleep(UNKNOWN_KEY_FLOOR + Duration::from_secs(generation)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_could_not_be_asked_for_in_time_is_not_called_unknown() {
    let issuer = Issuer::new(Settings::test(), Arc::new(Client::new(None).unwrap()));
    // nobody fetches: an issuer that is slower than whoever waits for it
    let now = clock::now();
    assert!(matches!(issuer.key(Some("new"), ES256, None, now).await, Lookup::Unavailable(None)));
}
