//! Real identity providers: npm's `oidc-provider` and Debian's `glewlwyd` as published.
//!
//! The providers decide what their tokens look like; the gate holds them to the same rules.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use serde_json::Value;

use crate::support::{
    Answer, Gate, Harness, eventually,
    glewlwyd::{self, Glewlwyd, Signing},
    peers::{Client, OidcProvider, OidcSettings},
    person::{Page, Person, fetch, post_form},
    upstream::{self, Upstream},
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";
const SCRAPER: Client = Client { id: "scraper", secret: "scraper-secret-of-this-test", role: "scrape" };
/// Redirect URI of the login client; nothing listens there, and the person stops before it.
const CALLBACK: &str = "https://gate.test/callback";
const HOME: &str = "https://gate.test/";
const WEB_SECRET: &str = "web-secret-of-this-test-0123456789";
/// A URL at which nothing listens.
const UNUSED_URL: &str = "http://127.0.0.1:9/";
/// RFC 7636 appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// What a provider says of itself.
struct Discovery(Value);

impl Discovery {
    async fn of(issuer: &str) -> Self {
        let document = fetch(&format!("{issuer}/.well-known/openid-configuration")).await.json();
        assert_eq!(document["issuer"], issuer, "{document}");
        Self(document)
    }

    fn at(&self, endpoint: &str) -> &str {
        member(&self.0, endpoint)
    }

    /// Where a login as this client begins.
    fn login(&self, client: &str, scope: &str) -> String {
        let pairs = [
            ("client_id", client),
            ("response_type", "code"),
            ("scope", scope),
            ("redirect_uri", CALLBACK),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("state", "state-of-this-test"),
            ("nonce", "nonce-of-this-test"),
        ];
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        format!("{}?{query}", self.at("authorization_endpoint"))
    }

    /// The tokens for the code that a login as this client brought back, after what every login must bring back.
    async fn redeem(&self, client: &str, back: &Page) -> Value {
        assert_eq!(back.parameter("state").as_deref(), Some("state-of-this-test"), "{back:?}");
        // RFC 9207 section 2
        assert_eq!(back.parameter("iss").as_deref(), Some(self.at("issuer")), "{back:?}");
        let code = back.parameter("code").unwrap_or_else(|| panic!("no code: {back:?}"));
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
        ];
        self.token(client, &form).await.json()
    }

    /// Asks the token endpoint as this client.
    async fn token(&self, client: &str, form: &[(&str, &str)]) -> Answer {
        post_form(self.at("token_endpoint"), Some(&format!("{client}:{WEB_SECRET}")), form).await
    }

    /// Withdraws a token as the client `web` (RFC 7009 section 2.1).
    async fn revoke(&self, token: &str) {
        let login = format!("web:{WEB_SECRET}");
        let answer = post_form(self.at("revocation_endpoint"), Some(&login), &[("token", token)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }

    /// Asks for new tokens with this refresh token.
    async fn refresh(&self, token: &str) -> Answer {
        self.token("web", &[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    /// Where a logout of this ID token's session begins (RP-Initiated Logout section 2).
    fn logout(&self, id_token: &str) -> String {
        let pairs = [("id_token_hint", id_token), ("post_logout_redirect_uri", HOME), ("state", "out")];
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        format!("{}?{query}", self.at("end_session_endpoint"))
    }

    /// Waits for the tokens of a device grant that a person has agreed to.
    async fn device_tokens(&self, device: &Value, more: &[(&str, &str)]) -> Value {
        let mut poll = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("client_id", "terminal"),
            ("device_code", member(device, "device_code")),
        ];
        poll.extend(more);
        eventually("the device's tokens", || async {
            let answer = post_form(self.at("token_endpoint"), None, &poll).await;
            (answer.status == StatusCode::OK).then(|| answer.json())
        })
        .await
    }
}

/// npm's provider with the persons and clients of these tests.
fn npm() -> OidcSettings {
    OidcSettings::new()
        .machine(&SCRAPER)
        .web("web", WEB_SECRET, "https://gate.test")
        .terminal("terminal")
        .person("alice", &["scrape"])
}

/// Debian's, likewise; it sends logout tokens to `backchannel`.
async fn debian(harness: &Harness, backchannel: &str) -> Glewlwyd {
    let mut provider = Glewlwyd::start(harness.directory.path()).await;
    provider.machine(&SCRAPER).await;
    provider.web("web", WEB_SECRET, "https://gate.test", backchannel).await;
    provider.terminal("terminal").await;
    provider.person("alice", "scrape").await;
    provider
}

/// With tokens of this issuer, called `idp`, for the gate, and ID tokens of the clients `web` and `terminal`.
fn trusting(harness: Harness, issuer: &str) -> Harness {
    trusting_as("idp", harness, issuer)
}

/// The same, with opaque tokens too: the gate asks about them as the client `web`, with these settings besides.
fn asking(harness: Harness, issuer: &str, more: &str) -> Harness {
    harness.directory.write("introspection.secret", WEB_SECRET);
    let secret = "{ file = \"introspection.secret\" }";
    let asked = format!("introspection = {{ client_id = \"web\", client_secret = {secret}, cache = \"1s\"{more} }}");
    trusting(harness, issuer).more("issuer", asked)
}

/// With an issuer of another name.
fn trusting_as(name: &str, harness: Harness, issuer: &str) -> Harness {
    let audiences = format!("[\"wicketgate\", \"{}\", \"web\", \"terminal\"]", glewlwyd::AUDIENCE);
    let section = format!("[[issuer]]\nname = \"{name}\"\nissuer = \"{issuer}\"\naudiences = {audiences}");
    // a client of glewlwyd has no claim of its own but its scope
    let rules = harness.directory.join("policies/roles.toml");
    let rule = format!(
        "\n[[rule]]\nrole = \"scrape\"\nissuers = [\"{name}\"]\nclaim = \"scope\"\nvalue = \"{}\"\n",
        glewlwyd::SCOPE
    );
    let text = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(rules, text + &rule).unwrap();
    harness.more("issuer", section)
}

async fn scrape(gate: &Gate, token: &str) -> Answer {
    gate.get(PROTECTED_PATH).bearer(token).send().await
}

async fn let_in(gate: &Gate, token: &str, subject: &str) {
    let answer = scrape(gate, token).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["principal"], format!("idp:{subject}"));
}

async fn refused(gate: &Gate, token: &str, reason: &str) {
    let before = gate.app.seen().len();
    let answer = scrape(gate, token).await;
    assert_eq!((answer.status, &answer.json()["reason"]), (StatusCode::UNAUTHORIZED, &reason.into()), "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["reason"], reason);
    assert_eq!(gate.app.seen().len(), before, "the exporter was asked");
}

fn member<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_else(|| panic!("no `{name}`: {object}"))
}

/// A receiver of logout tokens.
async fn listener() -> Upstream {
    Upstream::start(|_| upstream::reply(StatusCode::OK, "text/plain", "")).await
}

/// The logout token that it was sent.
async fn logout_token(listener: &Upstream) -> String {
    eventually("the provider's logout token", || async {
        let seen = listener.seen().into_iter().next()?;
        let mut pairs = url::form_urlencoded::parse(&seen.body).into_owned();
        pairs.find_map(|(name, value)| (name == "logout_token").then_some(value))
    })
    .await
}

/// The claims of a token, unverified.
fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap_or_else(|| panic!("not a JWT: {token}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[tokio::test]
async fn access_tokens_of_oidc_provider_are_accepted_until_their_key_is_withdrawn() {
    let provider = npm().start(None).await;
    let gate = trusting(Harness::new().await, &provider.issuer).start().await;
    let old = provider.client_token(&SCRAPER, OidcProvider::RESOURCE).await;
    let_in(&gate, &old, "scraper").await;

    provider.rotate(false).await;
    let_in(&gate, &provider.client_token(&SCRAPER, OidcProvider::RESOURCE).await, "scraper").await;
    // the refresh that found the new key showed that the old one is gone
    refused(&gate, &old, "token_unknown_key").await;
}

#[tokio::test]
async fn a_key_that_oidc_provider_keeps_in_a_rotation_stays_valid() {
    let provider = npm().set("algorithm", "ES256").start(None).await;
    let gate = trusting(Harness::new().await, &provider.issuer).start().await;
    let old = provider.client_token(&SCRAPER, OidcProvider::RESOURCE).await;
    let_in(&gate, &old, "scraper").await;
    provider.rotate(true).await;
    let_in(&gate, &provider.client_token(&SCRAPER, OidcProvider::RESOURCE).await, "scraper").await;
    let_in(&gate, &old, "scraper").await;
}

#[tokio::test]
async fn id_tokens_of_oidc_provider_are_accepted() {
    let provider = npm().start(None).await;
    let discovery = Discovery::of(&provider.issuer).await;
    let gate = trusting(Harness::new().await, &provider.issuer).start().await;
    let mut person = Person::new(None);
    let form = person.visit(&discovery.login("web", "openid email profile")).await;
    let wrong = person.submit(&form, &[("login", "mallory")]).await;
    assert!(wrong.answer.text().contains("nobody here is called mallory"), "{wrong:?}");
    let back = person.submit_until(&wrong, &[("login", "alice")], Some(CALLBACK)).await;
    let tokens = discovery.redeem("web", &back).await;
    let_in(&gate, member(&tokens, "id_token"), "alice").await;

    // a refresh gives another, and the refresh token is used up by it
    let old = member(&tokens, "refresh_token");
    let renewed = discovery.refresh(old).await.json();
    let_in(&gate, member(&renewed, "id_token"), "alice").await;
    assert_eq!(discovery.refresh(old).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn other_tokens_of_oidc_provider_are_refused() {
    let listener = listener().await;
    let mut web = OidcSettings::web_client("web", WEB_SECRET, "https://gate.test");
    web["backchannel_logout_uri"] = listener.url().into();
    let settings = OidcSettings::new().client(web).web("stranger", WEB_SECRET, "https://gate.test");
    let provider = settings.person("alice", &["scrape"]).start(None).await;
    let discovery = Discovery::of(&provider.issuer).await;
    let gate = trusting(Harness::new().await, &provider.issuer).start().await;

    let mut person = Person::new(None);
    let form = person.visit(&discovery.login("web", "openid")).await;
    let back = person.submit_until(&form, &[("login", "alice")], Some(CALLBACK)).await;
    refused(&gate, &back.parameter("code").unwrap(), "token_malformed").await;
    let tokens = discovery.redeem("web", &back).await;
    refused(&gate, member(&tokens, "refresh_token"), "token_malformed").await;
    // without a resource it is for the provider's own userinfo, and opaque
    refused(&gate, member(&tokens, "access_token"), "token_malformed").await;

    // a login at another client of the same provider, which the person need not type anything for
    let elsewhere = person.visit_until(&discovery.login("stranger", "openid"), CALLBACK).await;
    let foreign = discovery.redeem("stranger", &elsewhere).await;
    refused(&gate, member(&foreign, "id_token"), "token_audience").await;

    // signed with the same key, for the same audience and about the same person
    let confirm = person.visit(&discovery.logout(member(&tokens, "id_token"))).await;
    let home = person.submit_until(&confirm, &[("logout", "yes")], Some(HOME)).await;
    assert_eq!(home.parameter("state").as_deref(), Some("out"), "{home:?}");
    refused(&gate, &logout_token(&listener).await, "token_type").await;
}

#[tokio::test]
async fn the_gate_starts_before_oidc_provider_answers() {
    let provider = npm().start(None).await;
    let token = provider.client_token(&SCRAPER, OidcProvider::RESOURCE).await;
    provider.stop().await;
    let gate = trusting(Harness::new().await, &provider.issuer).start_unready().await;
    let answer = scrape(&gate, &token).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (503, &"issuer_unavailable".into()), "{answer:?}");
    provider.go_on().await;
    // a gate with another issuer is ready before: one's trouble is not the other's
    let there = || async { (scrape(&gate, &token).await.status == StatusCode::OK).then_some(()) };
    eventually("the provider's keys", there).await;
    let_in(&gate, &token, "scraper").await;
}

#[tokio::test]
async fn a_device_grant_at_oidc_provider_gives_an_accepted_token() {
    let provider = npm().start(None).await;
    let discovery = Discovery::of(&provider.issuer).await;
    let gate = trusting(Harness::new().await, &provider.issuer).start().await;
    let resource = ("resource", OidcProvider::RESOURCE);
    let ask = [("client_id", "terminal"), ("scope", "openid"), resource];
    let device = post_form(discovery.at("device_authorization_endpoint"), None, &ask).await.json();
    let mut person = Person::new(None);
    let confirm = person.visit(member(&device, "verification_uri_complete")).await;
    let form = person.submit(&confirm, &[]).await;
    // a terminal's client is never waved through (RFC 8252 section 8.6)
    let consent = person.submit(&form, &[("login", "alice")]).await;
    let done = person.submit(&consent, &[]).await;
    assert!(done.answer.text().contains("You can close this page"), "{done:?}");
    let tokens = discovery.device_tokens(&device, &[resource]).await;
    let_in(&gate, member(&tokens, "access_token"), "alice").await;
}

#[tokio::test]
async fn access_tokens_of_glewlwyd_are_accepted_until_their_key_is_withdrawn() {
    let harness = Harness::new().await;
    let mut provider = debian(&harness, UNUSED_URL).await;
    let gate = trusting(harness, &provider.issuer).start().await;
    let old = provider.client_token(&SCRAPER).await;
    let_in(&gate, &old, "scraper").await;

    provider.rotate(Signing::Es256).await;
    let_in(&gate, &provider.client_token(&SCRAPER).await, "scraper").await;
    refused(&gate, &old, "token_unknown_key").await;
}

#[tokio::test]
async fn tokens_of_a_glewlwyd_login_are_accepted_except_the_refresh_token() {
    let harness = Harness::new().await;
    let provider = debian(&harness, UNUSED_URL).await;
    let discovery = Discovery::of(&provider.issuer).await;
    let gate = trusting(harness, &provider.issuer).start().await;
    let mut person = Person::new(None);
    let login = format!("{}&resource={}", discovery.login("web", "openid metrics"), glewlwyd::AUDIENCE);
    let back = provider.log_in(&mut person, &login, "alice", CALLBACK).await;
    let tokens = discovery.redeem("web", &back).await;
    let id_token = member(&tokens, "id_token");
    let subject = claims(id_token)["sub"].as_str().unwrap().to_owned();
    let_in(&gate, id_token, &subject).await;
    let_in(&gate, member(&tokens, "access_token"), &subject).await;

    let old = member(&tokens, "refresh_token");
    refused(&gate, old, "token_malformed").await;
    let renewed = discovery.refresh(old).await.json();
    let_in(&gate, member(&renewed, "access_token"), &subject).await;
    assert_eq!(discovery.refresh(old).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_device_grant_at_glewlwyd_gives_an_accepted_token() {
    let harness = Harness::new().await;
    let provider = debian(&harness, UNUSED_URL).await;
    let discovery = Discovery::of(&provider.issuer).await;
    let gate = trusting(harness, &provider.issuer).start().await;
    let ask = [("client_id", "terminal"), ("scope", "openid metrics"), ("resource", glewlwyd::AUDIENCE)];
    let device = post_form(discovery.at("device_authorization_endpoint"), None, &ask).await.json();
    let mut person = Person::new(None);
    let at = member(&device, "verification_uri_complete");
    let done = provider.log_in(&mut person, at, "alice", "nowhere").await;
    assert_eq!(done.parameter("prompt").as_deref(), Some("deviceComplete"), "{done:?}");
    let tokens = discovery.device_tokens(&device, &[]).await;
    let token = member(&tokens, "access_token");
    let_in(&gate, token, claims(token)["sub"].as_str().unwrap()).await;
}

#[tokio::test]
async fn a_logout_token_of_glewlwyd_is_no_access_token() {
    let harness = Harness::new().await;
    let listener = listener().await;
    let provider = debian(&harness, &listener.url()).await;
    let discovery = Discovery::of(&provider.issuer).await;
    let gate = trusting(harness, &provider.issuer).start().await;
    let mut person = Person::new(None);
    let back = provider.log_in(&mut person, &discovery.login("web", "openid metrics"), "alice", CALLBACK).await;
    let tokens = discovery.redeem("web", &back).await;
    let id_token = member(&tokens, "id_token");
    let_in(&gate, id_token, member(&claims(id_token), "sub")).await;

    let page = person.visit(&discovery.logout(id_token)).await;
    let home = provider.log_out(&mut person, &page).await.expect("it leads nowhere");
    assert!(home.starts_with(HOME), "{home}");
    // it has no `exp` and its `typ` is that of an ID token: Back-Channel Logout as draft 06 has it
    let logout = logout_token(&listener).await;
    assert_eq!(claims(&logout)["sid"], claims(id_token)["sid"]);
    refused(&gate, &logout, "token_type").await;
}

#[tokio::test]
async fn two_providers_do_not_affect_each_other() {
    let harness = Harness::new().await;
    let npm = npm().start(None).await;
    let mut debian = debian(&harness, UNUSED_URL).await;
    let harness = trusting_as("debian", trusting_as("npm", harness, &npm.issuer), &debian.issuer);
    let gate = harness.start().await;
    let principal = |token: String| {
        let gate = &gate;
        async move {
            let answer = scrape(gate, &token).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            gate.record(&answer.id()).await["principal"].clone()
        }
    };
    let of_npm = npm.client_token(&SCRAPER, OidcProvider::RESOURCE).await;
    assert_eq!(principal(of_npm.clone()).await, "npm:scraper");
    assert_eq!(principal(debian.client_token(&SCRAPER).await).await, "debian:scraper");

    let unseen = npm.client_token(&SCRAPER, OidcProvider::RESOURCE).await;
    npm.stop().await;
    debian.rotate(Signing::Es256).await;
    assert_eq!(principal(debian.client_token(&SCRAPER).await).await, "debian:scraper");
    // its last keys serve, for a token seen before and for one that was not
    assert_eq!(principal(of_npm).await, "npm:scraper");
    assert_eq!(principal(unseen).await, "npm:scraper");
}

/// Tokens of a login at npm's provider, with an opaque access token for the gate.
async fn opaque(discovery: &Discovery) -> Value {
    let mut person = Person::new(None);
    let login = format!("{}&resource={}", discovery.login("web", "openid"), OidcProvider::OPAQUE_RESOURCE);
    let form = person.visit(&login).await;
    let back = person.submit_until(&form, &[("login", "alice")], Some(CALLBACK)).await;
    discovery.redeem("web", &back).await
}

#[tokio::test]
async fn an_opaque_token_of_oidc_provider_is_accepted_until_it_is_revoked() {
    let provider = npm().start(None).await;
    let discovery = Discovery::of(&provider.issuer).await;
    let gate = asking(Harness::new().await, &provider.issuer, "").start().await;
    let tokens = opaque(&discovery).await;
    let token = member(&tokens, "access_token");
    assert!(!token.contains('.'), "not opaque: {token}");
    let_in(&gate, token, "alice").await;
    // what the provider also calls active is not for the gate
    refused(&gate, member(&tokens, "refresh_token"), "token_audience").await;

    discovery.revoke(token).await;
    let over = || async { (scrape(&gate, token).await.status == StatusCode::UNAUTHORIZED).then_some(()) };
    eventually("the end of what the gate remembers", over).await;
    refused(&gate, token, "token_inactive").await;
}

#[tokio::test]
async fn a_refresh_token_of_oidc_provider_is_refused_without_an_audience_rule() {
    let provider = npm().start(None).await;
    let discovery = Discovery::of(&provider.issuer).await;
    let gate = asking(Harness::new().await, &provider.issuer, ", audience_optional = true").start().await;
    let tokens = opaque(&discovery).await;
    refused(&gate, member(&tokens, "refresh_token"), "token_audience").await;
    // without a resource an access token has no audience, but it says that it is one
    let mut person = Person::new(None);
    let form = person.visit(&discovery.login("web", "openid")).await;
    let back = person.submit_until(&form, &[("login", "alice")], Some(CALLBACK)).await;
    let_in(&gate, member(&discovery.redeem("web", &back).await, "access_token"), "alice").await;
}

#[tokio::test]
async fn a_refresh_token_of_glewlwyd_is_no_access_token_though_it_is_active() {
    let harness = Harness::new().await;
    let provider = debian(&harness, UNUSED_URL).await;
    let discovery = Discovery::of(&provider.issuer).await;
    let gate = asking(harness, &provider.issuer, "").start().await;
    let mut person = Person::new(None);
    let back = provider.log_in(&mut person, &discovery.login("web", "openid metrics"), "alice", CALLBACK).await;
    let tokens = discovery.redeem("web", &back).await;
    let refresh_token = member(&tokens, "refresh_token");
    let login = format!("web:{WEB_SECRET}");
    let told =
        post_form(discovery.at("introspection_endpoint"), Some(&login), &[("token", refresh_token)]).await.json();
    assert_eq!((&told["active"], &told["aud"]), (&true.into(), &"web".into()), "{told}");
    // asked for an access token, as RFC 7662 section 2.1 lets the gate do, glewlwyd knows of none
    refused(&gate, refresh_token, "token_inactive").await;
}
