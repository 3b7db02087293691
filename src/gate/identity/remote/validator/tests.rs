//! Admission, caching and abandonment of validations, against an endpoint at which one token is active.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use super::{
    super::admission::{MAX_CONCURRENT, MAX_QUEUED},
    *,
};
use crate::{gate::identity, secret::SecretSource};

const GOOD: &str = "good";
const CACHE: Duration = Duration::from_millis(50);

fn digest(token: &str) -> Digest {
    *blake3::hash(token.as_bytes()).as_bytes()
}

/// A validator with its endpoint at `url`.
fn validator_at(url: String) -> Arc<RemoteValidator> {
    let validator = Validator::Introspection(introspection::Settings {
        url: Some(url),
        client_id: "gate".into(),
        client_secret: SecretSource::Env("PATH".into()),
        audience_optional: false,
        subject_claim: "sub".into(),
    });
    let client = Arc::new(Client::new(None).unwrap());
    RemoteValidator::new(Settings { validator, cache: CACHE }, identity::Settings::test().rules, "corp".into(), client)
}

/// A running validator, its tasks, and the number of received requests.
async fn start() -> (Arc<RemoteValidator>, JoinSet<()>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let validator = validator_at(format!("http://{}/introspect", listener.local_addr().unwrap()));
    let requests = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let count = requests.clone();
    let running = validator.clone();
    tasks.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            while !request.contains("token_type_hint") {
                let mut bytes = [0; 4096];
                let read = socket.read(&mut bytes).await.unwrap();
                request.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
            }
            count.fetch_add(1, Ordering::SeqCst);
            let active = request.contains("token=good&");
            let body = format!(r#"{{"active":{active},"sub":"s","aud":"wicketgate"}}"#);
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    tasks.spawn(async move { running.run(&Telemetry::new()).await });
    (validator, tasks, requests)
}

async fn validate(validator: &RemoteValidator, token: &str) -> RemoteVerdict {
    validator.validate(token, digest(token), clock::now()).await
}

async fn removed(validator: &RemoteValidator) {
    for _ in 0..1000 {
        if validator.tokens.lock().unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("abandoned tokens are still cached");
}

#[tokio::test]
async fn a_token_that_was_active_does_not_queue_behind_unknown_tokens() {
    let (validator, _tasks, requests) = start().await;
    assert!(matches!(validate(&validator, GOOD).await, RemoteVerdict::Active(_, true)));
    removed(&validator).await;
    // unknown tokens hold every permit, and more are queued
    let _permits = validator.admission.concurrent.acquire_many(u32::try_from(MAX_CONCURRENT).unwrap()).await.unwrap();
    let unknown: Vec<_> = (0..MAX_QUEUED).map(|n| validator.subscribe("unknown", digest(&n.to_string()))).collect();
    assert!(unknown.iter().all(Option::is_some));
    assert!(matches!(validate(&validator, GOOD).await, RemoteVerdict::Active(_, true)));
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn unknown_tokens_are_queued_in_bounded_number() {
    let validator = validator_at("http://127.0.0.1:9/introspect".into());
    let mut unknown: Vec<_> = (0..MAX_QUEUED).map(|n| validator.subscribe("unknown", digest(&n.to_string()))).collect();
    assert!(unknown.iter().all(Option::is_some));
    assert!(matches!(validate(&validator, "one-more").await, RemoteVerdict::Unavailable));
    // a request with a queued token shares its position
    assert!(validator.subscribe("unknown", digest("0")).is_some());
    // abandoned tokens free their positions
    unknown.clear();
    let mut tasks = JoinSet::new();
    let running = validator.clone();
    tasks.spawn(async move { running.run(&Telemetry::new()).await });
    removed(&validator).await;
    assert!(validator.subscribe("unknown", digest("one-more")).is_some());
}

#[tokio::test]
async fn an_abandoned_token_is_not_validated() {
    let (validator, _tasks, requests) = start().await;
    let permits = validator.admission.concurrent.acquire_many(u32::try_from(MAX_CONCURRENT).unwrap()).await.unwrap();
    {
        let [first, second] = ["unknown"; 2].map(|token| validate(&validator, token));
        tokio::pin!(first, second);
        assert!(tokio::time::timeout(CACHE, &mut first).await.is_err());
        assert!(tokio::time::timeout(CACHE, &mut second).await.is_err());
    }
    removed(&validator).await;
    drop(permits);
    assert!(matches!(validate(&validator, "another").await, RemoteVerdict::Refused(TokenError::Inactive)));
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}
