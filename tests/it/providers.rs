//! The gate between real providers: npm's `oidc-provider` and Debian's `glewlwyd`, each as it is published.
//!
//! What a token is, is the provider's to say here; that it is held to the rules all the same is what this shows.

use http::StatusCode;
use serde_json::Value;

use crate::support::{
    Answer, Gate, Harness, eventually,
    peers::{Client, OidcProvider, OidcSettings},
    person::{Person, post_form},
};

const ROOM: &str = "/exporters/app/metrics";
const SCRAPER: Client = Client { id: "scraper", secret: "scraper-secret-of-this-test", role: "scrape" };
/// Where the login client's codes go; nobody listens there, and the person stops before.
const CALLBACK: &str = "https://gate.test/callback";
const WEB_SECRET: &str = "web-secret-of-this-test-0123456789";
/// RFC 7636 appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

fn settings() -> OidcSettings {
    OidcSettings::new()
        .machine(&SCRAPER)
        .web("web", WEB_SECRET, "https://gate.test")
        .terminal("terminal")
        .person("alice", &["scrape"])
}

/// A gate that takes tokens of this issuer for `wicketgate`, and ID tokens of the client `web`.
async fn gate(issuer: &str) -> Gate {
    let section = format!("[[issuer]]\nname = \"idp\"\nissuer = \"{issuer}\"\naudiences = [\"wicketgate\", \"web\"]");
    Harness::new().await.more("issuer", section).start().await
}

async fn scrape(gate: &Gate, token: &str) -> Answer {
    gate.get(ROOM).bearer(token).send().await
}

async fn let_in(gate: &Gate, token: &str, principal: &str) {
    let answer = scrape(gate, token).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["principal"], principal);
}

async fn refused(gate: &Gate, token: &str, reason: &str) {
    let before = gate.app.seen().len();
    let answer = scrape(gate, token).await;
    assert_eq!((answer.status, &answer.json()["reason"]), (StatusCode::UNAUTHORIZED, &reason.into()), "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["reason"], reason);
    assert_eq!(gate.app.seen().len(), before, "the exporter was asked");
}

/// Tokens of a login with code and PKCE, as the client `web` gets them.
async fn log_in(provider: &OidcProvider, scope: &str) -> Value {
    let mut person = Person::new(None);
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("client_id", "web"), ("response_type", "code"), ("scope", scope), ("redirect_uri", CALLBACK)])
        .extend_pairs([
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("state", "s"),
            ("nonce", "n"),
        ])
        .finish();
    let form = person.visit(&format!("{}/auth?{query}", provider.issuer)).await;
    let wrong = person.submit(&form, &[("login", "mallory")]).await;
    assert!(wrong.answer.text().contains("nobody here is called mallory"), "{wrong:?}");
    let back = person.submit_until(&wrong, &[("login", "alice")], Some(CALLBACK)).await;
    assert_eq!(back.parameter("iss").as_deref(), Some(&*provider.issuer), "{back:?}");
    let code = back.parameter("code").unwrap_or_else(|| panic!("no code: {back:?}"));
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    let login = format!("web:{WEB_SECRET}");
    post_form(&format!("{}/token", provider.issuer), Some(&login), &form).await.json()
}

fn member<'a>(tokens: &'a Value, name: &str) -> &'a str {
    tokens[name].as_str().unwrap_or_else(|| panic!("no `{name}`: {tokens}"))
}

#[tokio::test]
async fn access_tokens_of_oidc_provider_are_taken_until_its_keys_are_withdrawn() {
    let provider = settings().start(None).await;
    let gate = gate(&provider.issuer).await;
    let old = provider.client_token(&SCRAPER, OidcProvider::RESOURCE).await;
    let_in(&gate, &old, "idp:scraper").await;

    provider.rotate(false).await;
    let fresh = provider.client_token(&SCRAPER, OidcProvider::RESOURCE).await;
    let_in(&gate, &fresh, "idp:scraper").await;
    // the refresh that found the new key showed that the old one is gone
    refused(&gate, &old, "token_unknown_key").await;
}

#[tokio::test]
async fn a_key_that_oidc_provider_keeps_through_a_rotation_counts_on() {
    let provider = settings().set("algorithm", "ES256").start(None).await;
    let gate = gate(&provider.issuer).await;
    let old = provider.client_token(&SCRAPER, OidcProvider::RESOURCE).await;
    let_in(&gate, &old, "idp:scraper").await;
    provider.rotate(true).await;
    let_in(&gate, &provider.client_token(&SCRAPER, OidcProvider::RESOURCE).await, "idp:scraper").await;
    let_in(&gate, &old, "idp:scraper").await;
}

#[tokio::test]
async fn an_id_token_of_a_login_at_oidc_provider_is_taken() {
    let provider = settings().start(None).await;
    let gate = gate(&provider.issuer).await;
    let tokens = log_in(&provider, "openid email profile").await;
    let_in(&gate, member(&tokens, "id_token"), "idp:alice").await;

    // a refresh gives another, and the refresh token is used up by it
    let old = member(&tokens, "refresh_token");
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", old)];
    let (endpoint, login) = (format!("{}/token", provider.issuer), format!("web:{WEB_SECRET}"));
    let renewed = post_form(&endpoint, Some(&login), &refresh).await.json();
    let_in(&gate, member(&renewed, "id_token"), "idp:alice").await;
    assert_eq!(post_form(&endpoint, Some(&login), &refresh).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_gate_starts_before_oidc_provider_answers() {
    let provider = settings().start(None).await;
    let token = provider.client_token(&SCRAPER, OidcProvider::RESOURCE).await;
    provider.stop().await;
    let section = format!("[[issuer]]\nname = \"idp\"\nissuer = \"{}\"\naudiences = [\"wicketgate\"]", provider.issuer);
    let gate = Harness::new().await.more("issuer", section).start_unready().await;
    let answer = scrape(&gate, &token).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (503, &"issuer_unavailable".into()), "{answer:?}");
    provider.go_on().await;
    gate.ready().await;
    let_in(&gate, &token, "idp:scraper").await;
}

#[tokio::test]
async fn a_device_grant_at_oidc_provider_ends_in_a_token_that_is_taken() {
    let provider = settings().start(None).await;
    let gate = gate(&provider.issuer).await;
    let ask = [("client_id", "terminal"), ("scope", "openid"), ("resource", OidcProvider::RESOURCE)];
    let device = post_form(&format!("{}/device/auth", provider.issuer), None, &ask).await.json();
    let mut person = Person::new(None);
    let confirm = person.visit(member(&device, "verification_uri_complete")).await;
    let form = person.submit(&confirm, &[]).await;
    // a terminal's client is never waved through (RFC 8252 section 8.6)
    let consent = person.submit(&form, &[("login", "alice")]).await;
    let done = person.submit(&consent, &[]).await;
    assert!(done.answer.text().contains("You can close this page"), "{done:?}");
    let poll = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("client_id", "terminal"),
        ("device_code", member(&device, "device_code")),
        ("resource", OidcProvider::RESOURCE),
    ];
    let tokens = eventually("the device's token", || async {
        let answer = post_form(&format!("{}/token", provider.issuer), None, &poll).await;
        (answer.status == StatusCode::OK).then(|| answer.json())
    })
    .await;
    let_in(&gate, member(&tokens, "access_token"), "idp:alice").await;
}
