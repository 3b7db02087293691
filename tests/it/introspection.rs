//! Remote token validation: opaque tokens by introspection (RFC 7662), Kubernetes' by TokenReview.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde_json::{Value, json};
use wicketgate::internals::clock;

use crate::support::{
    Answer, Gate, Harness, eventually,
    peers::{Client, OidcProvider},
    upstream::{self, Seen, Upstream},
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";
/// With what form encoding changes (RFC 6749 section 2.3.1).
const SECRET: &str = "s3cret of/the:gate%";
const OPAQUE: &str = "2YotnFZFEjr1zCsicMWpAA";

/// An authorization server that answers what it is told to.
struct Server {
    upstream: Upstream,
    says: Arc<Mutex<Value>>,
    down: Arc<AtomicBool>,
}

impl Server {
    async fn start() -> Self {
        let says = Arc::new(Mutex::new(active(&json!({}))));
        let down = Arc::new(AtomicBool::new(false));
        let said = says.clone();
        let is_down = down.clone();
        let upstream = Upstream::start(move |_| {
            if is_down.load(Ordering::SeqCst) {
                return upstream::reply(StatusCode::BAD_GATEWAY, "text/plain", "down");
            }
            upstream::json(&said.lock().unwrap())
        })
        .await;
        Self { upstream, says, down }
    }

    fn say(&self, answer: Value) {
        *self.says.lock().unwrap() = answer;
    }

    /// An `[[issuer]]` section that asks it.
    fn section(&self, more: &str) -> String {
        let url = self.upstream.url();
        format!(
            "[[issuer]]\nname = \"opaque\"\nissuer = \"{url}\"\naudiences = [\"wicketgate\"]\njwks = false\n\
             introspection = {{ url = \"{url}/introspect\", client_id = \"the gate\", \
             client_secret = {{ file = \"introspection.secret\" }}{more} }}"
        )
    }
}

/// What a server says of a good token, with changes.
fn active(changes: &Value) -> Value {
    let exp = clock::now().as_second() + 600;
    let mut answer = json!({"active": true, "sub": "tester", "aud": "wicketgate", "exp": exp, "roles": ["scrape"]});
    for (name, value) in changes.as_object().unwrap() {
        answer[name] = value.clone();
    }
    answer
}

async fn gate(server: &Server, more: &str) -> Gate {
    let harness = Harness::new().await;
    harness.directory.write("introspection.secret", SECRET);
    harness.more("issuer", server.section(more)).start().await
}

/// Asks, and holds the gate to a refusal for this reason, in the answer and in the record, with nothing forwarded.
async fn refused(gate: &Gate, token: &str, status: u16, reason: &str) -> Answer {
    let before = (gate.app.requests(), gate.app.connections());
    let answer = gate.get(PROTECTED_PATH).bearer(token).send().await;
    assert_eq!((answer.status.as_u16(), answer.json()["reason"].as_str()), (status, Some(reason)), "{answer:?}");
    let record = gate.record(&answer.id()).await;
    assert_eq!((&record["reason"], &record["decision"]), (&reason.into(), &"deny".into()), "{record}");
    assert!(!record.to_string().contains(token), "the record holds the token: {record}");
    assert_eq!((gate.app.requests(), gate.app.connections()), before, "the upstream saw it");
    answer
}

#[tokio::test]
async fn an_opaque_token_is_introspected_and_the_result_is_shared() {
    let server = Server::start().await;
    let gate = gate(&server, "").await;
    for _ in 0..20 {
        let answer = gate.get(PROTECTED_PATH).bearer(OPAQUE).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let record = gate.record(&answer.id()).await;
        assert_eq!((&record["principal"], &record["issuer"]), (&"opaque:tester".into(), &"opaque".into()), "{record}");
    }
    let asked = server.upstream.seen();
    assert_eq!(asked.len(), 1, "the issuer was asked for each request");
    let Seen { method, target, body, .. } = &asked[0];
    assert_eq!((method.as_str(), target.as_str()), ("POST", "/introspect"));
    assert_eq!(&body[..], format!("token={OPAQUE}&token_type_hint=access_token").as_bytes());
    assert_eq!(asked[0].header("content-type"), "application/x-www-form-urlencoded");
    let basic = asked[0].header("authorization").strip_prefix("Basic ").unwrap().to_owned();
    assert_eq!(STANDARD.decode(basic).unwrap(), b"the+gate:s3cret+of%2Fthe%3Agate%25");
    // the gate's own tokens still work beside it
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&gate.token("scrape")).send().await.status, StatusCode::OK);
}

#[tokio::test]
async fn parallel_requests_with_one_token_share_one_introspection() {
    let server = Server::start().await;
    let gate = gate(&server, "").await;
    let calls = (0..50).map(|_| gate.get(PROTECTED_PATH).bearer(OPAQUE).send());
    let mut open: tokio::task::JoinSet<Answer> = calls.collect();
    while let Some(answer) = open.join_next().await {
        assert_eq!(answer.unwrap().status, StatusCode::OK);
    }
    assert_eq!(server.upstream.requests(), 1);
}

/// Whatever speaks against a token in an answer, and the reason it is refused with.
#[tokio::test]
async fn an_introspection_response_that_contradicts_the_token_refuses_it() {
    let server = Server::start().await;
    let gate = gate(&server, "").await;
    let now = clock::now().as_second();
    let cases = [
        ("token_inactive", json!({"active": false})),
        ("token_issuer", active(&json!({"iss": "https://elsewhere.example"}))),
        ("token_audience", active(&json!({"aud": "somebody-else"}))),
        ("token_audience", active(&json!({"aud": []}))),
        ("token_expired", active(&json!({"exp": now - 61}))),
        ("token_not_yet_valid", active(&json!({"nbf": now + 120}))),
        ("token_type", active(&json!({"token_type": "refresh_token"}))),
        ("token_claims", active(&json!({"sub": ""}))),
        ("token_subject", active(&json!({"sub": "a\u{0}b"}))),
    ];
    for (number, (reason, answer)) in cases.into_iter().enumerate() {
        server.say(answer);
        let token = format!("opaque-{number}");
        refused(&gate, &token, 401, reason).await;
        // a refusal is remembered
        let asked = server.upstream.requests();
        refused(&gate, &token, 401, reason).await;
        assert_eq!(server.upstream.requests(), asked, "{reason}: the issuer was asked again at once");
    }
    // what no issuer can have made is not asked about
    let asked = server.upstream.requests();
    refused(&gate, "no$b64token", 401, "token_malformed").await;
    refused(&gate, &"x".repeat(4 * 1024 + 1), 401, "token_too_long").await;
    assert_eq!(server.upstream.requests(), asked);
}

#[tokio::test]
async fn an_issuer_that_cannot_say_is_503_and_never_yes() {
    let server = Server::start().await;
    let gate = gate(&server, "").await;
    let broken = [json!({}), json!([]), json!({"active": "true"}), json!({"active": true, "sub": 7})];
    for (number, answer) in broken.into_iter().enumerate() {
        server.say(answer);
        refused(&gate, &format!("broken-{number}"), 503, "issuer_unavailable").await;
    }
    server.say(json!({"active": true, "padding": "x".repeat(70 * 1024)}));
    refused(&gate, "too-long-an-answer", 503, "issuer_unavailable").await;

    server.down.store(true, Ordering::SeqCst);
    let answer = refused(&gate, OPAQUE, 503, "issuer_unavailable").await;
    assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
    let told = || async {
        let answer = gate.admin("/readyz").await;
        let told = answer.text().contains("warning: issuer opaque (introspection)");
        // the other issuer's tokens are good, so the gate is ready
        (told && answer.status == StatusCode::OK).then_some(())
    };
    eventually("readiness to tell of it", told).await;
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&gate.token("scrape")).send().await.status, StatusCode::OK);
    assert!(!gate.program.lines().join("\n").contains("s3cret"), "the log holds the gate's secret");

    server.down.store(false, Ordering::SeqCst);
    server.say(active(&json!({})));
    assert_eq!(gate.get(PROTECTED_PATH).bearer(OPAQUE).send().await.status, StatusCode::OK);
    let well = || async { (gate.admin("/readyz").await.text() == "ready\n").then_some(()) };
    eventually("readiness to say that it is over", well).await;
    let of =
        |result: &str| format!("wicketgate_issuer_token_validations_total{{issuer=\"opaque\",result=\"{result}\"}}");
    assert_eq!((gate.metric(&of("failure")).await, gate.metric(&of("active")).await), (6.0, 1.0));
}

#[tokio::test]
async fn a_revoked_token_is_refused_once_its_cached_result_expires() {
    let server = Server::start().await;
    let gate = gate(&server, ", cache = \"1s\"").await;
    assert_eq!(gate.get(PROTECTED_PATH).bearer(OPAQUE).send().await.status, StatusCode::OK);
    server.say(json!({"active": false}));
    eventually("the revocation to be seen", || async {
        let answer = gate.get(PROTECTED_PATH).bearer(OPAQUE).send().await;
        (answer.status == StatusCode::UNAUTHORIZED).then(|| assert_eq!(answer.json()["reason"], "token_inactive"))
    })
    .await;
}

#[tokio::test]
async fn an_open_stream_ends_when_its_token_is_no_longer_active() {
    let server = Server::start().await;
    let gate = gate(&server, ", cache = \"1s\"").await;
    let stream = Stream::start().await;
    let reading = read(&gate, &stream);
    tokio::pin!(reading);
    // the stream is open, and asked about again and again
    tokio::select! {
        _ = &mut reading => panic!("the stream ended though its token is active"),
        () = eventually("the issuer to be asked again", || async { (server.upstream.requests() >= 3).then_some(()) }) => {}
    }
    server.say(json!({"active": false}));
    reading.await;
    let record = || async { gate.audit().into_iter().find(|line| line["reason"] == "proof_withdrawn") };
    let record = eventually("the record of the stream's end", record).await;
    assert_eq!(record["principal"], "opaque:tester", "{record}");
}

#[tokio::test]
async fn an_open_stream_ends_if_its_issuer_is_unreachable_for_too_long() {
    let server = Server::start().await;
    let gate = gate(&server, ", cache = \"1s\"").await;
    let stream = Stream::start().await;
    let reading = read(&gate, &stream);
    tokio::pin!(reading);
    tokio::select! {
        _ = &mut reading => panic!("the stream ended though its token is active"),
        () = eventually("the issuer to be asked again", || async { (server.upstream.requests() >= 2).then_some(()) }) => {}
    }
    server.down.store(true, Ordering::SeqCst);
    reading.await;
}

#[tokio::test]
async fn issuers_introspect_in_configured_order_until_one_knows_the_token() {
    let first = Server::start().await;
    let second = Server::start().await;
    first.say(json!({"active": false}));
    let harness = Harness::new().await;
    harness.directory.write("introspection.secret", SECRET);
    let named = second.section("").replace("name = \"opaque\"", "name = \"second\"");
    let gate = harness.more("issuer", first.section("")).more("issuer", named).start().await;
    let answer = gate.get(PROTECTED_PATH).bearer(OPAQUE).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["principal"], "second:tester");
    assert_eq!((first.upstream.requests(), second.upstream.requests()), (1, 1));

    // if one issuer cannot answer, the token is not known to be invalid
    first.down.store(true, Ordering::SeqCst);
    second.say(json!({"active": false}));
    refused(&gate, "another", 503, "issuer_unavailable").await;
    // but where the other knows it, it is known
    second.say(active(&json!({})));
    assert_eq!(gate.get(PROTECTED_PATH).bearer("a-third").send().await.status, StatusCode::OK);
}

/// An exporter that begins a page and never ends it.
struct Stream {
    url: String,
    _task: tokio::task::JoinSet<()>,
}

impl Stream {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move {
            let mut open = Vec::new();
            loop {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let (mut socket, _) = listener.accept().await.unwrap();
                let _ = socket.read(&mut [0; 4096]).await;
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nup 1\r\n";
                socket.write_all(head).await.unwrap();
                open.push(socket);
            }
        });
        Self { url, _task: task }
    }
}

/// Reads an endless page through the gate to the end that the gate makes.
async fn read(gate: &Gate, stream: &Stream) {
    let config = std::fs::read_to_string(gate.directory.join("wicketgate.toml")).unwrap();
    gate.directory
        .write("wicketgate.toml", format!("{config}\n[[exporter]]\nname = \"endless\"\nurl = \"{}\"\n", stream.url));
    let target = "/exporters/endless/metrics";
    let there = || async {
        let answer = gate.call(http::Method::HEAD, target).send().await;
        (answer.status != StatusCode::NOT_FOUND).then_some(())
    };
    eventually("the endless exporter", there).await;
    let head = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {OPAQUE}\r\n\r\n");
    let answer = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

const MACHINE: Client = Client { id: "machine", secret: "secret-of-the-machine", role: "scrape" };
const GATE: Client = Client { id: "gate", secret: "secret-of-the-gate", role: "none" };

#[tokio::test]
async fn opaque_tokens_of_oidc_provider_use_the_discovered_endpoint() {
    let provider = OidcProvider::start(&[MACHINE, GATE]).await;
    let gate = |secret: &'static str, more: &'static str| {
        let section = format!(
            "[[issuer]]\nname = \"idp\"\nissuer = \"{}\"\naudiences = [\"wicketgate\"]\n\
             introspection = {{ client_id = \"gate\", client_secret = {{ file = \"introspection.secret\" }}{more} }}",
            provider.issuer
        );
        async move {
            let harness = Harness::new().await;
            harness.directory.write("introspection.secret", secret);
            harness.section("issuer", section).start().await
        }
    };
    let token = provider.client_token(&MACHINE, OidcProvider::OPAQUE_RESOURCE).await;
    assert!(!token.contains('.'), "not opaque: {token}");
    let open = gate(GATE.secret, ", subject_claim = \"client_id\"").await;
    let answer = open.get(PROTECTED_PATH).bearer(&token).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(open.record(&answer.id()).await["principal"], "idp:machine");
    // its JWTs are verified with its keys
    let jwt = provider.client_token(&MACHINE, OidcProvider::RESOURCE).await;
    assert_eq!(open.get(PROTECTED_PATH).bearer(&jwt).send().await.status, StatusCode::OK);
    refused(&open, "never-issued", 401, "token_inactive").await;

    // a program has no `sub` there, and the gate makes none up
    let closed = gate(GATE.secret, "").await;
    refused(&closed, &token, 401, "token_claims").await;
    // the gate's own secret is wrong: that is the gate's trouble, not the caller's
    let locked = gate("a-wrong-secret", "").await;
    refused(&locked, &token, 503, "issuer_unavailable").await;
    let told =
        || async { locked.admin("/readyz").await.text().contains("refuses the gate's own credential").then_some(()) };
    eventually("readiness to tell of it", told).await;
}

/// Kubernetes' API server as far as a review goes: it knows one token.
async fn api_server(good: Arc<Mutex<String>>, asked: Arc<AtomicUsize>) -> Upstream {
    Upstream::start(move |seen| {
        asked.fetch_add(1, Ordering::SeqCst);
        if seen.header("authorization") != "Bearer the-gates-own-account" {
            return upstream::reply(StatusCode::UNAUTHORIZED, "application/json", "{}");
        }
        let review: Value = serde_json::from_slice(&seen.body).unwrap();
        let known = review["spec"]["token"] == *good.lock().unwrap();
        assert_eq!((&review["kind"], &review["spec"]["audiences"]), (&"TokenReview".into(), &json!(["wicketgate"])));
        assert_eq!(seen.target, "/apis/authentication.k8s.io/v1/tokenreviews");
        let status = if known {
            json!({"authenticated": true, "audiences": ["wicketgate"], "user": {
                "username": "system:serviceaccount:monitoring:prometheus", "uid": "42", "groups": ["scrape"]}})
        } else {
            json!({"authenticated": false, "error": "[invalid bearer token]"})
        };
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status});
        upstream::reply(StatusCode::CREATED, "application/json", body.to_string())
    })
    .await
}

#[tokio::test]
async fn a_kubernetes_service_account_is_what_token_review_returns() {
    let good = Arc::new(Mutex::new(String::new()));
    let asked = Arc::new(AtomicUsize::new(0));
    let server = api_server(good.clone(), asked.clone()).await;
    let harness = Harness::new().await;
    harness.directory.write("account.token", "the-gates-own-account\n");
    let roles = std::fs::read_to_string(harness.directory.join("policies/roles.toml")).unwrap();
    let rule = "\n[[rule]]\nrole = \"scrape\"\nissuers = [\"cluster\"]\nclaim = \"groups\"\nvalue = \"scrape\"\n";
    harness.directory.write("policies/roles.toml", format!("{roles}{rule}"));
    let section = format!(
        "[[issuer]]\nname = \"cluster\"\nissuer = \"https://kubernetes.default.svc.cluster.local\"\n\
         audiences = [\"wicketgate\"]\n\
         token_review = {{ url = \"{}\", credential = {{ file = \"account.token\" }} }}",
        server.url()
    );
    let gate = harness.more("issuer", section).start().await;
    let of_cluster = |roles: &str| {
        let token = gate.token_builder(roles).claim("iss", "https://kubernetes.default.svc.cluster.local");
        token.header("typ", Value::Null)
    };
    *good.lock().unwrap() = of_cluster("infer").mint();
    let token = good.lock().unwrap().clone();
    for _ in 0..5 {
        let answer = gate.get(PROTECTED_PATH).bearer(&token).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let record = gate.record(&answer.id()).await;
        assert_eq!(record["principal"], "cluster:system:serviceaccount:monitoring:prometheus", "{record}");
        // the review's word counts, not the token's
        assert_eq!(record["roles"], json!(["scrape"]), "{record}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "the API server was asked for each request");
    refused(&gate, &of_cluster("scrape").mint(), 401, "token_inactive").await;
    // another issuer's tokens are nothing to the API server
    let before = asked.load(Ordering::SeqCst);
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&gate.token("scrape")).send().await.status, StatusCode::OK);
    refused(&gate, "opaque-and-unknown", 401, "token_malformed").await;
    assert_eq!(asked.load(Ordering::SeqCst), before);

    gate.directory.write("account.token", "somebody-elses-account");
    drop(server);
    refused(&gate, &of_cluster("scrape").claim("jti", "another").mint(), 503, "issuer_unavailable").await;
}
