//! Browser logins at the second real provider, Debian's `glewlwyd`; `login.rs` has npm's `oidc-provider`.
//!
//! Glewlwyd differs: `sub` is a number, a refresh returns no ID token, logout has a page of its own, and its logout
//! tokens follow a draft.

use http::StatusCode;

use crate::support::{
    Gate, Harness, eventually,
    glewlwyd::Glewlwyd,
    peers::free_address,
    person::{Page, Person},
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";
const SECRET: &str = "the-gate-at-glewlwyd";
const SESSION: &str = "__Host-wicketgate-session";

/// A gate that people log in to by glewlwyd.
struct LoginHarness {
    gate: Gate,
    provider: Glewlwyd,
    /// The gate's URL, without a slash at its end.
    url: String,
}

impl LoginHarness {
    /// With ID tokens that last so many seconds.
    async fn new(lifetime: u32) -> Self {
        let harness = Harness::new().await;
        let address = free_address();
        let clear = free_address();
        let url = format!("https://localhost:{}", address.port());
        let mut provider = Glewlwyd::start(harness.directory.path()).await;
        provider.set_lifetime(lifetime).await;
        provider.web("gate", SECRET, &url, &format!("http://{clear}/backchannel-logout")).await;
        provider.person("ada", "scrape").await;
        harness.directory.write("client.secret", SECRET);
        let issuer = format!(
            "[[issuer]]\nname = \"debian\"\nissuer = \"{}\"\naudiences = [\"wicketgate\"]\n[issuer.login]\n\
             client_id = \"gate\"\nclient_secret = {{ file = \"client.secret\" }}\nscopes = [\"openid\"]",
            provider.issuer
        );
        let listen = format!(
            "[[listen]]\naddress = \"{address}\"\ntls = {{ certificate = \"certs/gate.pem\", key = \"certs/gate.key\" }}\n\
             [[listen]]\naddress = \"{clear}\"\ntls = false"
        );
        let gate = harness
            .section("gate", format!("[gate]\nworkers = 2\ndrain = \"5s\"\nurl = \"{url}\""))
            .section("listen", listen)
            .section("issuer", issuer)
            .start()
            .await;
        Self { gate, provider, url }
    }

    /// Logs `ada` in on the way to the exporter.
    async fn ada(&self) -> (Person, Page) {
        let mut person = Person::new(Some(self.gate.pki.client(b"http/1.1")));
        let room = format!("{}{PROTECTED_PATH}", self.url);
        let page = self.provider.log_in(&mut person, &room, "ada", "nowhere").await;
        assert_eq!(page.url.as_str(), room, "{page:?}");
        (person, page)
    }

    async fn room(&self, person: &mut Person) -> Page {
        person.visit(&format!("{}{PROTECTED_PATH}", self.url)).await
    }
}

#[tokio::test]
async fn a_login_at_glewlwyd_returns_to_the_requested_page() {
    let house = LoginHarness::new(300).await;
    let (person, page) = house.ada().await;
    assert!(page.answer.text().contains("app_up 1"), "{page:?}");
    assert!(person.cookie(SESSION).is_some());
    let record = house.gate.record(&page.answer.id()).await;
    let principal = record["principal"].as_str().unwrap();
    assert!(principal.starts_with("debian:") && principal != "debian:ada", "{record}");
}

#[tokio::test]
async fn a_logout_at_the_gate_is_a_logout_at_glewlwyd() {
    let house = LoginHarness::new(300).await;
    let (mut person, _) = house.ada().await;
    let confirm = person.visit(&format!("{}/logout", house.url)).await;
    let page = person.submit(&confirm, &[]).await;
    assert!(person.cookie(SESSION).is_none(), "the session's cookie stays");
    let home = house.provider.log_out(&mut person, &page).await.expect("it leads nowhere");
    assert!(home.starts_with(&format!("{}/", house.url)), "{home}");
    let back = house.room(&mut person).await;
    assert!(back.url.path().ends_with("/login.html"), "the session is back: {back:?}");
}

#[tokio::test]
async fn a_logout_token_without_an_end_is_refused() {
    let house = LoginHarness::new(300).await;
    let (mut person, _) = house.ada().await;
    let session = person.cookies.iter().find(|((_, name), _)| name == "GLEWLWYD_SESSION").expect("no session there");
    let url = format!("{}/session/{}", house.provider.issuer, session.1.value);
    let ended = person.json(http::Method::DELETE, &url, None).await;
    assert_eq!(ended.status, StatusCode::OK, "{ended:?}");
    let refused = eventually("glewlwyd's logout token", || async {
        house.gate.audit().into_iter().find(|line| line["event"] == "request" && line["path"] == "/backchannel-logout")
    })
    .await;
    assert_eq!((&refused["status"], &refused["reason"]), (&400.into(), &"token_claims".into()), "{refused}");
}

#[tokio::test]
async fn a_session_ends_if_a_refresh_returns_no_id_token() {
    let house = LoginHarness::new(4).await;
    let (person, _) = house.ada().await;
    // a session that went on with the claims of an old ID token would never come to the login
    let page = eventually("the session to end", || {
        let mut person = person.clone();
        let house = &house;
        async move {
            let page = house.room(&mut person).await;
            (page.url.as_str() != format!("{}{PROTECTED_PATH}", house.url)).then_some(page)
        }
    })
    .await;
    assert!(page.way.iter().any(|url| url.path() == "/login"), "{page:?}");
}
