//! Whose question is asked, and when, with a judge that knows one token.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use super::*;

const GOOD: &str = "good";
const CACHE: Duration = Duration::from_millis(50);

fn digest(token: &str) -> Digest {
    *blake3::hash(token.as_bytes()).as_bytes()
}

/// A judge at `url`.
fn validator_at(url: String) -> Arc<RemoteValidator> {
    let validator = Validator::Introspection(introspection::Settings {
        url: Some(url),
        client_id: "gate".into(),
        client_secret: SecretSource::Env("PATH".into()),
        audience_optional: false,
        subject_claim: "sub".into(),
    });
    let client = Arc::new(Client::new(None).unwrap());
    RemoteValidator::new(Settings { validator, cache: CACHE }, &issuer::Settings::test(), "corp".into(), client)
}

/// Its task, and the number of questions that came.
async fn start() -> (Arc<RemoteValidator>, JoinSet<()>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let validator = validator_at(format!("http://{}/introspect", listener.local_addr().unwrap()));
    let (asked, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    let (count, served) = (asked.clone(), validator.clone());
    tasks.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut question = String::new();
            while !question.contains("token_type_hint") {
                let mut bytes = [0; 4096];
                let read = socket.read(&mut bytes).await.unwrap();
                question.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
            }
            count.fetch_add(1, Ordering::SeqCst);
            let active = question.contains("token=good&");
            let body = format!(r#"{{"active":{active},"sub":"s","aud":"wicketgate"}}"#);
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    tasks.spawn(async move { served.serve(&Telemetry::new()).await });
    (validator, tasks, asked)
}

async fn ask(validator: &RemoteValidator, token: &str) -> RemoteVerdict {
    validator.ask(token, digest(token), clock::now()).await
}

async fn forgotten(validator: &RemoteValidator) {
    for _ in 0..1000 {
        if validator.tokens.lock().unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("tokens that nobody waits for are still there");
}

#[tokio::test]
async fn a_token_that_was_active_does_not_wait_behind_strangers() {
    let (validator, _tasks, asked) = start().await;
    assert!(matches!(ask(&validator, GOOD).await, RemoteVerdict::Active(_, true)));
    forgotten(&validator).await;
    // strangers have every turn that they can get, and more of them wait
    let _turns = validator.turns.open.acquire_many(u32::try_from(admission::OPEN).unwrap()).await.unwrap();
    let strangers: Vec<_> =
        (0..admission::MAX_WAITING).map(|n| validator.standing("stranger", digest(&n.to_string()))).collect();
    assert!(strangers.iter().all(Option::is_some));
    assert!(matches!(ask(&validator, GOOD).await, RemoteVerdict::Active(_, true)));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn strangers_wait_in_bounded_number() {
    let validator = validator_at("http://127.0.0.1:9/introspect".into());
    let mut strangers: Vec<_> =
        (0..admission::MAX_WAITING).map(|n| validator.standing("stranger", digest(&n.to_string()))).collect();
    assert!(strangers.iter().all(Option::is_some));
    assert!(matches!(ask(&validator, "one-more").await, RemoteVerdict::Unavailable));
    // who comes with the same token waits with the others
    assert!(validator.standing("stranger", digest("0")).is_some());
    // and those that gave up make room
    strangers.clear();
    let mut tasks = JoinSet::new();
    let served = validator.clone();
    tasks.spawn(async move { served.serve(&Telemetry::new()).await });
    forgotten(&validator).await;
    assert!(validator.standing("stranger", digest("one-more")).is_some());
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_is_not_asked() {
    let (validator, _tasks, asked) = start().await;
    let turns = validator.turns.open.acquire_many(u32::try_from(admission::OPEN).unwrap()).await.unwrap();
    {
        let (first, second) = (ask(&validator, "stranger"), ask(&validator, "stranger"));
        tokio::pin!(first, second);
        assert!(tokio::time::timeout(CACHE, &mut first).await.is_err());
        assert!(tokio::time::timeout(CACHE, &mut second).await.is_err());
    }
    forgotten(&validator).await;
    drop(turns);
    assert!(matches!(ask(&validator, "another").await, RemoteVerdict::Refused(TokenError::Inactive)));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
