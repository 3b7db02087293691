//! A malicious identity provider: no invalid ID token starts a session, and no invalid logout token ends one.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    Answer, Gate, Harness, eventually,
    issuer::{Issuer, Key, Token},
    peers::free_address,
    upstream,
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A gate whose provider answers what the test wants.
struct Stage {
    gate: Gate,
    answer: Arc<Mutex<Value>>,
}

/// A login that waits for the provider's answer.
struct Attempt {
    cookie: String,
    state: String,
    nonce: String,
}

impl Stage {
    async fn new() -> Self {
        Self::beside(|_| String::new()).await
    }

    /// With more issuers: sections of the configuration, by the URL of the one that there is.
    async fn beside(more: impl FnOnce(&str) -> String) -> Self {
        let harness = Harness::new().await;
        let address = free_address();
        let answer = Arc::new(Mutex::new(json!({})));
        let mut harness = harness;
        harness.issuer.keys.push(Key::rsa_5120("rsa-5120"));
        let at = harness.issuer.url();
        let keys = jwks(&harness.issuer);
        let told = Arc::clone(&answer);
        harness.issuer.server.answer(move |seen| match seen.target.as_str() {
            "/.well-known/openid-configuration" => upstream::json(&json!({
                "issuer": at, "jwks_uri": format!("{at}/jwks"), "token_endpoint": format!("{at}/token"),
                "authorization_endpoint": format!("{at}/auth"),
            })),
            "/jwks" => upstream::json(&keys),
            "/token" => upstream::json(&told.lock().unwrap()),
            _ => upstream::reply(StatusCode::NOT_FOUND, "text/plain", "no such page"),
        });
        let url = format!("https://localhost:{}", address.port());
        let tls = "tls = { certificate = \"certs/gate.pem\", key = \"certs/gate.key\" }";
        let issuers = format!("[issuer.login]\nclient_id = \"gate\"\n{}", more(&harness.issuer.url()));
        let mut harness = harness.more("issuer", issuers);
        harness.replace("gate", format!("[gate]\nworkers = 2\nurl = \"{url}\""));
        harness.replace("listen", format!("[[listen]]\naddress = \"{address}\"\n{tls}"));
        Self { gate: harness.start().await, answer }
    }

    async fn begin(&self) -> Attempt {
        let answer = self.gate.get("/login?provider=corp&return=/exporters/app/metrics").send().await;
        assert_eq!(answer.status, 303, "{answer:?}");
        let url = url::Url::parse(answer.header("location")).unwrap();
        let of = |wanted: &str| url.query_pairs().find(|(name, _)| name == wanted).unwrap().1.into_owned();
        assert_eq!(of("code_challenge_method"), "S256");
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        Attempt { cookie, state: of("state"), nonce: of("nonce") }
    }

    /// Ends the attempt with these tokens.
    async fn end(&self, attempt: &Attempt, tokens: Value) -> Answer {
        *self.answer.lock().unwrap() = tokens;
        let target = format!("/callback?code=c&state={}", attempt.state);
        self.gate.get(&target).header("cookie", &attempt.cookie).send().await
    }

    /// An ID token that is good for this attempt.
    fn good(&self, nonce: &str) -> Token<'_> {
        self.gate.issuer.token("ada", &["scrape"]).header("typ", "JWT").claim("aud", "gate").claim("nonce", nonce)
    }

    /// A session by its cookie; an empty `sid` means that the provider sent none.
    async fn session(&self, sid: &str) -> String {
        let sid = Some(sid).filter(|sid| !sid.is_empty());
        self.session_of(|token| tokens(&token.claim("sid", sid).mint())).await
    }

    /// The same by these tokens, made of a good ID token.
    async fn session_of(&self, tokens: impl FnOnce(Token<'_>) -> Value) -> String {
        let attempt = self.begin().await;
        let answer = self.end(&attempt, tokens(self.good(&attempt.nonce))).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (303, PROTECTED_PATH), "{answer:?}");
        let mut set = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
        let session = set.find(|line| line.starts_with("__Host-wicketgate-session=1.")).unwrap();
        session.split(';').next().unwrap().to_owned()
    }

    /// Changes the configuration and waits until this session is answered so.
    async fn configure(&self, config: &str, session: &str, status: u16) {
        self.gate.directory.write("wicketgate.toml", config);
        self.gate.program.signal("HUP").await;
        let what = format!("the session to be answered with {status}");
        eventually(&what, || async { (self.status(session).await == status).then_some(()) }).await;
    }

    async fn status(&self, session: &str) -> u16 {
        self.gate.get(PROTECTED_PATH).header("cookie", session).send().await.status.as_u16()
    }

    async fn log_out(&self, token: &str) -> Answer {
        let form = format!("logout_token={token}");
        let call = self.gate.post("/backchannel-logout").header("content-type", "application/x-www-form-urlencoded");
        call.body(form).send().await
    }

    /// A logout token that is good.
    fn logout(&self, sid: &str) -> Token<'_> {
        let token = self.gate.issuer.token("ada", &[]).claim("aud", "gate").claim("sid", sid);
        let token = token
            .claim("iat", wicketgate::internals::clock::now().as_second())
            .claim("jti", uuid::Uuid::now_v7().to_string());
        token.claim("events", json!({ EVENT: {} })).header("typ", "logout+jwt")
    }
}

fn jwks(issuer: &Issuer) -> Value {
    json!({"keys": issuer.keys.iter().map(|key| key.jwk.clone()).collect::<Vec<_>>()})
}

fn tokens(id_token: &str) -> Value {
    json!({"access_token": "opaque", "token_type": "Bearer", "expires_in": 300, "id_token": id_token})
}

#[tokio::test]
async fn an_invalid_id_token_starts_no_session() {
    let stage = Stage::new().await;
    let now = wicketgate::internals::clock::now().as_second();
    let stranger = Key::rsa("stranger");
    let impostor = Key::rsa("rsa");
    let secret = stage.gate.issuer.key("rsa").public_pem();
    type Bend<'a> = Box<dyn Fn(Token<'a>) -> String + 'a>;
    let rows: Vec<(&str, Bend<'_>)> = vec![
        ("id_token_nonce", Box::new(|t| t.claim("nonce", "another").mint())),
        ("id_token_nonce", Box::new(|t| t.claim("nonce", Value::Null).mint())),
        ("token_audience", Box::new(|t| t.claim("aud", "wicketgate").mint())),
        ("token_audience", Box::new(|t| t.claim("aud", json!(["other"])).mint())),
        ("id_token_azp", Box::new(|t| t.claim("aud", json!(["gate", "other"])).mint())),
        ("id_token_azp", Box::new(|t| t.claim("azp", "other").mint())),
        ("id_token_at_hash", Box::new(|t| t.claim("at_hash", "AAAAAAAAAAAAAAAAAAAAAA").mint())),
        ("id_token_iat", Box::new(|t| t.claim("iat", Value::Null).mint())),
        ("token_issuer", Box::new(|t| t.claim("iss", "https://elsewhere.example").mint())),
        ("token_expired", Box::new(move |t| t.claim("exp", now - 3600).mint())),
        // a bearer would have the leeway; a session cannot begin at its end
        ("token_expired", Box::new(move |t| t.claim("exp", now - 5).mint())),
        ("token_not_yet_valid", Box::new(move |t| t.claim("nbf", now + 3600).mint())),
        ("token_claims", Box::new(|t| t.claim("sub", Value::Null).mint())),
        ("token_claims", Box::new(|t| t.claim("exp", Value::Null).mint())),
        ("token_type", Box::new(|t| t.header("typ", "at+jwt").mint())),
        ("token_type", Box::new(|t| t.header("typ", "logout+jwt").mint())),
        ("token_algorithm", Box::new(|t| t.mint_unsigned())),
        ("token_algorithm", Box::new(|t| t.mint_hs256(secret.as_bytes()))),
        ("token_unknown_key", Box::new(|t| t.signed_by(&stranger, "RS256").mint())),
        ("token_signature", Box::new(|t| t.signed_by(&impostor, "RS256").mint())),
        ("token_malformed", Box::new(|_| "nonsense".into())),
    ];
    for (reason, bend) in rows {
        let attempt = stage.begin().await;
        let answer = stage.end(&attempt, tokens(&bend(stage.good(&attempt.nonce)))).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (403, &json!(reason)), "{answer:?}");
        let set = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
        let mut set = set;
        assert!(set.all(|line| line.contains("Max-Age=0")), "{reason}: a session begins: {answer:?}");
        let record = stage.gate.record(&answer.id()).await;
        assert_eq!((&record["reason"], &record["decision"]), (&json!(reason), &json!("deny")), "{record}");
        assert_eq!(record["principal"], Value::Null, "{reason}: an unproven name is in the record");
    }
    for (tokens, status, reason) in [
        (json!({"access_token": "opaque", "token_type": "Bearer"}), 403, "login_refused"),
        (json!({"error": "invalid_grant"}), 503, "issuer_unavailable"),
        (json!([]), 503, "issuer_unavailable"),
    ] {
        let attempt = stage.begin().await;
        let answer = stage.end(&attempt, tokens).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (status, &json!(reason)), "{answer:?}");
    }
    assert_eq!(stage.gate.app.requests(), 0);
    let session = stage.session("s").await;
    assert_eq!(stage.status(&session).await, 200, "the good one");
}

#[tokio::test]
async fn a_login_works_with_a_key_that_only_this_programs_key_type_reads() {
    let stage = Stage::new().await;
    let attempt = stage.begin().await;
    let key = stage.gate.issuer.key("rsa-5120");
    let token = stage.good(&attempt.nonce).signed_by(key, "RS256").mint();
    let answer = stage.end(&attempt, tokens(&token)).await;
    assert_eq!(answer.status, 303, "{answer:?}");
    let mut forged = token.into_bytes();
    let last = forged.len() - 10;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let attempt = stage.begin().await;
    let answer = stage.end(&attempt, tokens(&String::from_utf8(forged).unwrap())).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (403, &json!("token_signature")), "{answer:?}");
}

#[tokio::test]
async fn a_login_attempt_is_used_up_by_its_code() {
    let stage = Stage::new().await;
    let attempt = stage.begin().await;
    // unauthenticated requests take no room from logins
    for (query, reason) in [("", "login_malformed"), ("&error=access_denied", "login_refused")] {
        let call = stage.gate.get(&format!("/callback?state={}{query}", attempt.state));
        let answer = call.header("cookie", &attempt.cookie).send().await;
        assert_eq!(answer.json()["reason"], reason, "{answer:?}");
    }
    let token = stage.good(&attempt.nonce).mint();
    assert_eq!(stage.end(&attempt, json!({"error": "server_error"})).await.status, 503);
    let answer = stage.end(&attempt, tokens(&token)).await;
    assert_eq!(answer.status, 303, "{answer:?}");
    let again = stage.end(&attempt, tokens(&token)).await;
    assert_eq!((again.status.as_u16(), &again.json()["reason"]), (400, &json!("login_replayed")), "{again:?}");
}

#[tokio::test]
async fn an_invalid_logout_token_ends_no_session() {
    let stage = Stage::new().await;
    let session = stage.session("s").await;
    let now = wicketgate::internals::clock::now().as_second();
    let stranger = Key::rsa("stranger");
    let impostor = Key::rsa("rsa");
    let good = || stage.logout("s");
    let an_id_token = stage.good("n").claim("sid", "s").mint();
    for (reason, token) in [
        ("logout_nonce", good().claim("nonce", "n").mint()),
        ("logout_events", good().claim("events", Value::Null).mint()),
        ("logout_events", good().claim("events", json!({"other": {}})).mint()),
        ("logout_events", good().claim("events", json!({ EVENT: true })).mint()),
        ("token_claims", good().claim("events", json!([EVENT])).mint()),
        ("logout_iat", good().claim("iat", Value::Null).mint()),
        ("logout_iat", good().claim("iat", now - 3600).mint()),
        ("token_not_yet_valid", good().claim("iat", now + 3600).mint()),
        ("logout_jti", good().claim("jti", Value::Null).mint()),
        ("logout_jti", good().claim("jti", "").mint()),
        ("logout_no_session", good().claim("sid", Value::Null).claim("sub", Value::Null).mint()),
        ("token_audience", good().claim("aud", "wicketgate").mint()),
        ("token_issuer", good().claim("iss", "https://elsewhere.example").mint()),
        ("token_expired", good().claim("exp", now - 3600).mint()),
        ("token_claims", good().claim("exp", Value::Null).mint()),
        ("token_type", good().header("typ", "at+jwt").mint()),
        ("token_algorithm", good().mint_unsigned()),
        ("token_unknown_key", good().signed_by(&stranger, "RS256").mint()),
        ("token_signature", good().signed_by(&impostor, "RS256").mint()),
        ("logout_events", an_id_token),
        ("token_malformed", "nonsense".into()),
    ] {
        let answer = stage.log_out(&token).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (400, &json!(reason)), "{answer:?}");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(stage.gate.record(&answer.id()).await["reason"], reason);
        assert_eq!(stage.status(&session).await, 200, "{reason}: the session has ended");
    }
    for body in ["", "logout_token=a&logout_token=b", "token=a"] {
        let answer = stage.gate.post("/backchannel-logout").body(body).send().await;
        assert_eq!(answer.json()["reason"], "logout_malformed", "{answer:?}");
    }
    // said to be larger than any form: refused before it is sent
    let head = "POST /backchannel-logout HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-length: 70000\r\n\r\n";
    let large = stage.gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    assert_eq!(large.status, 413, "{large:?}");
    // another session's sid ends another session
    assert_eq!(stage.log_out(&stage.logout("t").mint()).await.status, 200);
    assert_eq!(stage.status(&session).await, 200);
    let token = good().mint();
    let answer = stage.log_out(&token).await;
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, "no-store"), "{answer:?}");
    assert_eq!(stage.status(&session).await, 401);
    let again = stage.log_out(&token).await;
    assert_eq!((again.status.as_u16(), &again.json()["reason"]), (400, &json!("logout_replayed")), "{again:?}");
    // by subject: every session that had begun, and none that begins after
    let one = stage.session("u").await;
    let two = stage.session("v").await;
    assert_eq!(stage.log_out(&stage.logout("").claim("sid", Value::Null).mint()).await.status, 200);
    assert_eq!((stage.status(&one).await, stage.status(&two).await), (401, 401));
    let next = stage.session("w").await;
    assert_eq!(stage.status(&next).await, 200);
    // with both, those without a `sid` too: any of them could be the one that is meant
    let unnamed = stage.session("").await;
    assert_eq!(stage.log_out(&stage.logout("x").claim("sub", "bob").mint()).await.status, 200);
    assert_eq!((stage.status(&unnamed).await, stage.status(&next).await), (200, 200), "another person's");
    assert_eq!(stage.log_out(&stage.logout("x").mint()).await.status, 200);
    assert_eq!((stage.status(&unnamed).await, stage.status(&next).await), (401, 200));
}

#[tokio::test]
async fn a_session_too_large_for_cookies_is_refused_with_its_reason() {
    let stage = Stage::new().await;
    let attempt = stage.begin().await;
    let large = stage.good(&attempt.nonce).claim("groups", "g".repeat(4000)).mint();
    let answer = stage.end(&attempt, tokens(&large)).await;
    assert_eq!(answer.status, 303, "{answer:?}");
    let set: Vec<&str> = answer.headers.get_all("set-cookie").iter().map(|v| v.to_str().unwrap()).collect();
    let parts: Vec<&str> =
        set.iter().filter(|line| line.contains("-session")).map(|l| l.split(';').next().unwrap()).collect();
    assert!(parts.len() > 1, "{set:?}");
    assert_eq!(stage.status(&parts.join("; ")).await, 200);
    assert_eq!(stage.status(parts[0]).await, 401, "a part alone");
    let attempt = stage.begin().await;
    let huge = stage.good(&attempt.nonce).claim("groups", "g".repeat(10_000)).mint();
    let answer = stage.end(&attempt, tokens(&huge)).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (403, &json!("session_too_large")), "{answer:?}");
    assert!(answer.json()["detail"].as_str().unwrap().contains("fewer claims"), "{answer:?}");
}

#[tokio::test]
async fn a_hanging_provider_delays_no_other_page() {
    // it takes connections and says nothing
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hanging.local_addr().unwrap();
    let stage = Stage::beside(|corp| {
        format!(
            "[[issuer]]\nname = \"slow\"\nissuer = \"http://{address}\"\naudiences = [\"wicketgate\"]\n\
             jwks_url = \"{corp}/jwks\"\n[issuer.login]\nclient_id = \"gate\"\n"
        )
    })
    .await;
    let session = stage.session("s").await;
    for page in ["/", "/logout"] {
        let answer = stage.gate.get(page).header("cookie", &session).send();
        // a question to a provider may take twice as long
        let answer = tokio::time::timeout(Duration::from_secs(5), answer).await.expect(page);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let signed_out = stage.gate.post("/logout").header("cookie", &session).header("sec-fetch-site", "same-origin");
    let answer = tokio::time::timeout(Duration::from_secs(5), signed_out.send()).await.expect("signing out");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(stage.status(&session).await, 401);
}

#[tokio::test]
async fn a_session_ends_when_its_issuers_settings_change() {
    let stage = Stage::new().await;
    let config = std::fs::read_to_string(stage.gate.directory.join("wicketgate.toml")).unwrap();
    let session = stage.session("s").await;
    let audiences = "audiences = [\"wicketgate\"]";
    for (from, to) in [
        ("client_id = \"gate\"".to_owned(), "client_id = \"another\"".to_owned()),
        (audiences.to_owned(), format!("{audiences}\nrequired_claims = {{ hd = \"example.com\" }}")),
        (audiences.to_owned(), format!("{audiences}\nalgorithms = [\"ES256\"]")),
    ] {
        let changed = config.replace(&from, &to);
        assert_ne!(changed, config);
        stage.configure(&changed, &session, 401).await;
        let answer = stage.gate.get(PROTECTED_PATH).header("cookie", &session).send().await;
        assert_eq!(answer.json()["reason"], "session_ended", "{to}: {answer:?}");
        // the settings are as before: no session has ended
        stage.configure(&config, &session, 200).await;
    }
}

#[tokio::test]
async fn a_provider_receives_nothing_of_its_namesake() {
    let stage = Stage::new().await;
    let other = Issuer::start().await;
    let config = std::fs::read_to_string(stage.gate.directory.join("wicketgate.toml")).unwrap();
    let soon = wicketgate::internals::clock::now().as_second() + 6;
    // it is renewed from the third second on
    let session = stage
        .session_of(|token| {
            let mut tokens = tokens(&token.claim("exp", soon).mint());
            tokens["refresh_token"] = "the-first-providers".into();
            tokens
        })
        .await;
    let client = "client_id = \"gate\"";
    let ends = format!("{client}\nend_session = \"https://elsewhere.example/end\"");
    let changed = config.replace(&stage.gate.issuer.url(), &other.url()).replace(client, &ends);
    stage.configure(&changed, &session, 401).await;
    assert!(other.server.seen().iter().all(|seen| seen.target != "/token"), "it was shown the refresh token");
    let signed_out = stage.gate.post("/logout").header("cookie", &session).header("sec-fetch-site", "same-origin");
    assert_eq!(signed_out.send().await.status, 200, "it is sent there with the ID token");
}
