//! Logins at a shell at the second real provider, Debian's `glewlwyd`.
//!
//! Its refresh returns an access token without an ID token, and each of its refresh tokens is valid once.

use http::StatusCode;

use crate::support::{
    Gate, Harness,
    glewlwyd::{AUDIENCE, Glewlwyd, SCOPE},
    person::{Person, post_form},
    program::Program,
    shell::{Shell, device_to_open},
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";

/// A gate that accepts tokens of glewlwyd, and a shell with a device login there.
struct LoginHarness {
    provider: Glewlwyd,
    gate: Gate,
    shell: Shell,
}

impl LoginHarness {
    /// With tokens that last so many seconds.
    async fn new(lifetime: u32) -> Self {
        let harness = Harness::new().await;
        let mut provider = Glewlwyd::start(harness.directory.path()).await;
        provider.set_lifetime(lifetime).await;
        provider.terminal("terminal").await;
        provider.person("ada", "scrape").await;
        let section =
            format!("[[issuer]]\nname = \"debian\"\nissuer = \"{}\"\naudiences = [\"{AUDIENCE}\"]", provider.issuer);
        let gate = harness.more("issuer", section).start().await;

        let shell = Shell::new();
        let arguments = format!("--device --client-id terminal --resource {AUDIENCE} --issuer {}", provider.issuer);
        let mut command = shell.command(&format!("login {arguments}"));
        command.args(["--scope", &format!("openid {SCOPE}")]);
        let mut login = Program::start("wicketgate login", &mut command, "build it first");
        let (url, _) = device_to_open(&mut login).await;
        let done = provider.log_in(&mut Person::new(None), &url, "ada", "nowhere").await;
        assert_eq!(done.parameter("prompt").as_deref(), Some("deviceComplete"), "{done:?}");
        assert!(login.ended().await.success(), "{}", login.lines().join("\n"));
        Self { provider, gate, shell }
    }

    /// What `wicketgate token` prints, after the gate has taken it.
    async fn token(&self) -> String {
        let token = self.shell.run("token").await;
        assert_eq!((token.code, token.err.as_str()), (0, ""), "{token:?}");
        let answer = self.gate.get(PROTECTED_PATH).bearer(&token.out).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let record = self.gate.record(&answer.id()).await;
        assert!(record["principal"].as_str().unwrap().starts_with("debian:"), "{record}");
        token.out
    }

    /// What glewlwyd says to this refresh token.
    async fn renews(&self, token: &str) -> bool {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "terminal")];
        post_form(&format!("{}/token", self.provider.issuer), None, &form).await.status == StatusCode::OK
    }
}

#[tokio::test]
async fn a_login_at_glewlwyd_is_refreshed_until_a_logout() {
    // never more than a minute left, so that each token is asked for anew, with the refresh token of the last
    let house = LoginHarness::new(30).await;
    let one = house.token().await;
    let two = house.token().await;
    let three = house.token().await;
    assert!(one != two && two != three, "a token was printed twice");

    // glewlwyd lets no client without a secret revoke, which RFC 7009 section 2.1 would: so it is said, and forgotten
    // here
    let last = house.shell.refresh_token("default");
    let logout = house.shell.run("logout").await;
    assert_eq!(logout.code, 1, "{logout:?}");
    assert!(logout.err.contains("not revoked") && !logout.err.contains(&last), "{logout:?}");
    assert!(!house.shell.file("default").exists(), "the login is still kept");
    assert!(house.renews(&last).await, "it was revoked, and the program says that it was not");
    assert_eq!(house.shell.run("token").await.code, 1);
}

#[tokio::test]
async fn a_valid_token_of_glewlwyd_is_reused() {
    let house = LoginHarness::new(300).await;
    assert_eq!(house.token().await, house.token().await);
}
