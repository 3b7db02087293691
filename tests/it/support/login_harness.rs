//! A gate with browser logins at a real provider, npm's `oidc-provider`; each has a gate, a provider and an exporter of
//! its own.

use http::StatusCode;
use serde_json::json;

use super::{
    Answer, Gate, Harness,
    call::Call,
    eventually,
    peers::{OidcProvider, OidcSettings, free_address},
    person::{Page, Person},
};

/// The name of the session's cookie.
pub(crate) const SESSION: &str = "__Host-wicketgate-session";
/// The page that people go to.
pub(crate) const PROTECTED_PATH: &str = "/exporters/app/metrics";
const SECRET: &str = "the-gate-at-its-provider";

/// A gate that people can log in at, and their provider.
pub(crate) struct LoginHarness {
    pub(crate) gate: Gate,
    pub(crate) provider: OidcProvider,
    /// A second provider, called `partners`.
    pub(crate) other: Option<OidcProvider>,
    /// The gate's URL, without a slash at its end.
    pub(crate) url: String,
}

/// What a house is built with.
pub(crate) struct Plan {
    pub(crate) sessions: String,
    pub(crate) ttl: serde_json::Value,
    /// The URL of the exporter `app`, if not the harness's.
    pub(crate) exporter: Option<String>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { sessions: "[sessions]\nkeys = [\"session.key\"]".into(), ttl: json!({}), exporter: None }
    }
}

impl LoginHarness {
    pub(crate) async fn new() -> Self {
        Self::planned(Plan::default()).await
    }

    pub(crate) async fn planned(plan: Plan) -> Self {
        Self::built(plan, None).await
    }

    pub(crate) async fn with_other(plan: Plan, other: OidcSettings) -> Self {
        Self::built(plan, Some(other)).await
    }

    async fn built(plan: Plan, other: Option<OidcSettings>) -> Self {
        let harness = Harness::new().await.keeping("kept_*");
        let address = free_address();
        let url = format!("https://localhost:{}", address.port());
        let ca = harness.directory.join("ca.pem");
        harness.directory.write("session.key", "k".repeat(48));
        harness.directory.write("client.secret", SECRET);
        let settings = OidcSettings::new().web("gate", SECRET, &url).set("ttl", plan.ttl);
        let provider = settings.person("ada", &["scrape"]).person("bob", &[]).start(Some(&ca)).await;
        let mut issuers = issuer("corp", "Example Corp", &provider.issuer);
        let other = match other {
            Some(other) => {
                let other = other.web("gate", SECRET, &url).person("eve", &["scrape"]).start(Some(&ca)).await;
                issuers.push_str(&issuer("partners", "Partners & friends", &other.issuer));
                Some(other)
            }
            None => None,
        };
        issuers.push_str(&plan.sessions);
        let mut harness = harness
            .section("gate", format!("[gate]\nworkers = 2\ndrain = \"5s\"\nurl = \"{url}\""))
            .section("issuer", issuers);
        let tls = "tls = { certificate = \"certs/gate.pem\", key = \"certs/gate.key\" }";
        harness.replace("listen", format!("[[listen]]\naddress = \"{address}\"\n{tls}"));
        if let Some(url) = plan.exporter {
            harness.replace("exporter", format!("[[exporter]]\nname = \"app\"\nurl = \"{url}\""));
        }
        Self { gate: harness.start().await, provider, other, url }
    }

    pub(crate) fn person(&self) -> Person {
        Person::new(Some(self.gate.pki.client(b"http/1.1")))
    }

    /// Goes to a path of the gate.
    pub(crate) async fn visit(&self, person: &mut Person, path: &str) -> Page {
        person.visit(&format!("{}{path}", self.url)).await
    }

    /// A person that has logged in.
    pub(crate) async fn logged_in(&self, name: &str) -> Person {
        let mut person = self.person();
        let page = person.log_in(&format!("{}/", self.url), name).await;
        assert_eq!(page.answer.status, StatusCode::OK, "{page:?}");
        person
    }

    /// Waits until the configuration was reloaded that many times.
    pub(crate) async fn reloaded(&self, times: usize) {
        eventually("the reload", || async {
            let lines = self.gate.program.lines();
            (lines.iter().filter(|line| line.contains("was reloaded")).count() >= times).then_some(())
        })
        .await;
    }

    /// What a program is answered that brings this person's session.
    pub(crate) async fn status(&self, person: &Person) -> StatusCode {
        self.gate.get(PROTECTED_PATH).header("cookie", &jar(person)).send().await.status
    }
}

fn issuer(name: &str, title: &str, iss: &str) -> String {
    format!(
        "[[issuer]]\nname = \"{name}\"\nissuer = \"{iss}\"\naudiences = [\"wicketgate\"]\n[issuer.login]\n\
         client_id = \"gate\"\nclient_secret = {{ file = \"client.secret\" }}\ntitle = \"{title}\"\n"
    )
}

/// The person's cookies for the gate.
pub(crate) fn jar(person: &Person) -> String {
    let ours = person.cookies.iter().filter(|((_, name), _)| name.starts_with("__Host-wicketgate"));
    ours.map(|((_, name), cookie)| format!("{name}={}", cookie.value)).collect::<Vec<_>>().join("; ")
}

/// A call with this person's session.
pub(crate) fn with_session(house: &LoginHarness, person: &Person) -> Call {
    house.gate.get(PROTECTED_PATH).header("cookie", &jar(person))
}

/// Holds an answer to being this refusal, with its record, and the exporter to having seen nothing.
pub(crate) async fn refused(house: &LoginHarness, call: Call, status: u16, reason: &str) -> Answer {
    let before = house.gate.app.requests();
    let answer = call.send().await;
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    let record = house.gate.record(&answer.id()).await;
    assert_eq!(record["reason"], reason, "{record}");
    assert_eq!(record["decision"], "deny", "{record}");
    if answer.header("content-type") == "application/problem+json" {
        assert_eq!(answer.json()["reason"], reason, "{answer:?}");
    } else {
        assert!(answer.text().contains(reason), "{answer:?}");
    }
    assert_eq!(house.gate.app.requests(), before, "the exporter saw it");
    answer
}
