//! Logins at a shell: with a real provider; `curl` and `promtool` then use the printed token at a real gate.

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    Gate, Harness, eventually,
    peers::{OidcProvider, OidcSettings, free_address},
    person::{Person, post_form},
    pki::Pki,
    program::Program,
    shell::{Shell, device_to_open, feed, mode, url_to_open},
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";

pub(crate) fn settings() -> OidcSettings {
    OidcSettings::new().terminal("terminal").person("alice", &["scrape"])
}

/// What a login at this provider is told.
pub(crate) fn at(provider: &OidcProvider) -> String {
    format!("--issuer {} --client-id terminal --resource {}", provider.issuer, OidcProvider::RESOURCE)
}

/// A gate that takes this issuer's access tokens, and its ID tokens for the client.
async fn gate(issuer: &str) -> Gate {
    let section =
        format!("[[issuer]]\nname = \"idp\"\nissuer = \"{issuer}\"\naudiences = [\"wicketgate\", \"terminal\"]");
    Harness::new().await.more("issuer", section).start().await
}

/// The principal that the gate reads from this token.
async fn principal(gate: &Gate, token: &str) -> Value {
    let answer = gate.get(PROTECTED_PATH).bearer(token).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    gate.record(&answer.id()).await["principal"].clone()
}

/// Whether the provider still renews by this refresh token.
async fn renews(provider: &OidcProvider, token: &str) -> bool {
    let form = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "terminal")];
    post_form(&format!("{}/token", provider.issuer), None, &form).await.status == StatusCode::OK
}

#[tokio::test]
async fn a_device_login_serves_curl_and_promtool() {
    let provider = settings().start(None).await;
    let gate = gate(&provider.issuer).await;
    let shell = Shell::new();
    // no screen, so no browser: the device is the default
    let mut login = shell.begin(&at(&provider));
    let (url, code) = device_to_open(&mut login).await;
    let mut person = Person::new(None);
    let confirm = person.visit(&url).await;
    assert!(confirm.answer.text().contains(&code), "the page shows another code than `{code}`: {confirm:?}");
    let form = person.submit(&confirm, &[]).await;
    let consent = person.submit(&form, &[("login", "alice")]).await;
    person.submit(&consent, &[]).await;
    assert!(login.ended().await.success(), "{}", login.lines().join("\n"));
    let said = || async { Some(login.lines().join("\n")).filter(|all| all.contains("as `alice`")) };
    let told = eventually("who logged in", said).await;
    for secret in shell.secrets("default") {
        assert!(!told.contains(&secret), "login shows a token");
    }

    let token = shell.run("token").await;
    assert_eq!((token.code, token.err.as_str()), (0, ""), "{token:?}");
    assert_eq!(principal(&gate, &token.out).await, "idp:alice");

    let ca = gate.directory.join("ca.pem").display().to_string();
    let url = format!("https://localhost:{}", gate.address().port());
    let variables = [("CA", ca.as_str()), ("GATE", url.as_str()), ("PROTECTED_PATH", PROTECTED_PATH)];
    let curl = "curl -sS --fail --cacert \"$CA\"";
    for script in [
        format!("{curl} -H \"Authorization: Bearer $(\"$WICKETGATE\" token)\" \"$GATE$PROTECTED_PATH\""),
        // the token stays out of every argument
        format!("\"$WICKETGATE\" token --header | {curl} -H @- \"$GATE$PROTECTED_PATH\""),
    ] {
        let page = shell.sh(&script, &variables).await;
        assert_eq!((page.code, page.out.as_str()), (0, "# TYPE app_up gauge\napp_up 1"), "{script}: {page:?}");
    }

    promtool(&shell, &gate).await;
}

/// The real `promtool` discovers the exporters at the gate, with the token from a file.
async fn promtool(shell: &Shell, gate: &Gate) {
    // without `type` promtool 2.42 sends the bare token; Prometheus itself takes `Bearer` for the default
    for authorization in ["bearer_token_file: token", "authorization: {type: Bearer, credentials_file: token}"] {
        let file = format!(
            "scrape_configs:\n- job_name: gate\n  http_sd_configs:\n  - url: https://localhost:{}/sd\n    \
             tls_config: {{ca_file: {}}}\n    {authorization}\n",
            gate.address().port(),
            gate.directory.join("ca.pem").display()
        );
        shell.directory.write("prometheus.yml", file);
        let before = discoveries(gate);
        let script = "cd \"$XDG_STATE_HOME\" && umask 077 && \"$WICKETGATE\" token > token && \
                      promtool check service-discovery --timeout=5s prometheus.yml gate";
        let found = shell.sh(script, &[]).await;
        let targets: Value = serde_json::from_str(&found.out).unwrap_or_else(|e| panic!("{e}: {found:?}"));
        let metrics_path = |target: &Value| target["discoveredLabels"]["__metrics_path__"].clone();
        let paths: Vec<Value> = targets.as_array().unwrap().iter().map(metrics_path).collect();
        assert!(paths.contains(&PROTECTED_PATH.into()), "{authorization}: {found:?}");
        assert!(discoveries(gate) > before, "no record of promtool's discovery");
    }
}

/// How often `alice` asked for the list of exporters.
fn discoveries(gate: &Gate) -> usize {
    let discovered = |line: &&Value| line["principal"] == "idp:alice" && line["action"] == "Exporter.Discover";
    gate.audit().iter().filter(discovered).count()
}

#[tokio::test]
async fn a_browser_login_returns_by_loopback() {
    let provider = settings().start(None).await;
    let gate = gate(&provider.issuer).await;
    let shell = Shell::new();
    let mut login = shell.begin(&format!("--browser {}", at(&provider)));
    let url = url_to_open(&mut login).await;
    let parameters: Vec<(String, String)> =
        url::Url::parse(&url).unwrap().query_pairs().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
    let parameter = |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    // RFC 7636, RFC 8252 section 7.3, OpenID Connect Core 1.0 section 3.1.2.1
    assert_eq!(parameter("code_challenge_method"), Some("S256"));
    assert!(parameter("nonce").is_some_and(|nonce| nonce.len() >= 16), "{url}");
    let redirect = parameter("redirect_uri").unwrap().to_owned();
    assert!(redirect.starts_with("http://127.0.0.1:") && redirect.ends_with("/callback"), "{redirect}");

    // another process that finds the port changes nothing
    let mut stranger = Person::new(None);
    let guessed = format!("?code=stolen&state=guessed&iss={}", provider.issuer);
    for (target, status) in [(&*guessed, 400), ("/else", 404), ("", 400)] {
        assert_eq!(stranger.visit(&format!("{redirect}{target}")).await.answer.status, status, "{target}");
    }

    let mut person = Person::new(None);
    let consent = person.log_in(&url, "alice").await;
    let page = person.submit(&consent, &[]).await;
    assert!(page.url.as_str().starts_with(&redirect), "{page:?}");
    assert!(page.answer.text().contains("You may close this tab"), "{page:?}");
    assert_eq!(page.answer.header("cache-control"), "no-store");
    assert_eq!(page.answer.header("referrer-policy"), "no-referrer");
    assert!(page.answer.header("content-security-policy").starts_with("default-src 'none'"));
    assert!(login.ended().await.success(), "{}", login.lines().join("\n"));

    let token = shell.run("token").await.out;
    assert_eq!(principal(&gate, &token).await, "idp:alice");
    let id_token = shell.run("token --id-token").await.out;
    assert_ne!(id_token, token);
    assert_eq!(principal(&gate, &id_token).await, "idp:alice");

    // only its owner reads it
    assert_eq!(mode(&shell.directory.join("wicketgate")), 0o700);
    assert_eq!(mode(&shell.file("default")), 0o600);
}

#[tokio::test]
async fn the_issuer_is_discovered_from_the_gate() {
    // RFC 9728 section 3.3 binds the resource to the gate's address, so that has to be known before
    let address = free_address();
    let gate_url = format!("https://localhost:{}", address.port());
    let provider = settings().set("resource", gate_url.clone()).start(None).await;
    let idp = format!("[[issuer]]\nname = \"idp\"\nissuer = \"{}\"\naudiences = [\"wicketgate\"]", provider.issuer);
    let harness = Harness::new().await;
    let corp = harness.issuer.url();
    let listen = format!(
        "[[listen]]\naddress = \"{address}\"\ntls = {{ certificate = \"certs/gate.pem\", key = \"certs/gate.key\" }}"
    );
    let gate_section = format!("[gate]\nworkers = 1\nurl = \"{gate_url}\"");
    let gate = harness.more("issuer", idp).section("listen", listen).section("gate", gate_section).start().await;

    let shell = Shell::new();
    let ca = gate.directory.join("ca.pem");
    let by_gate = format!("--gate {gate_url} --gate-ca {} --client-id terminal", ca.display());
    let several = shell.run(&format!("login {by_gate}")).await;
    assert_eq!(several.code, 2, "{several:?}");
    for issuer in [&corp, &provider.issuer] {
        assert!(several.err.contains(&format!("--issuer {issuer}")), "{several:?}");
    }
    let stranger = shell.run(&format!("login {by_gate} --issuer https://elsewhere.test")).await;
    assert_eq!(stranger.code, 2, "{stranger:?}");
    assert!(stranger.err.contains("does not trust `https://elsewhere.test`"), "{stranger:?}");

    shell.log_in(&format!("{by_gate} --issuer {}", provider.issuer)).await;
    assert_eq!(shell.stored_login("default")["settings"]["resource"], gate_url.as_str());
    assert_eq!(principal(&gate, &shell.run("token").await.out).await, "idp:alice");

    // another address of the same gate is another resource
    let other = gate_url.replace("localhost", "127.0.0.1");
    let other = shell.run(&format!("login --gate {other} --gate-ca {} --client-id terminal", ca.display())).await;
    assert_eq!(other.code, 1, "{other:?}");
    assert!(other.err.contains(&format!("is of `{gate_url}`")), "{other:?}");
}

#[tokio::test]
async fn a_token_is_refreshed_only_near_its_end() {
    let provider = settings().set("ttl", json!({"AccessToken": 50})).start(None).await;
    let shell = Shell::new();
    shell.log_in(&at(&provider)).await;
    let first = shell.secrets("default");
    let used = shell.refresh_token("default");
    let renewed = shell.run("token").await;
    assert_eq!((renewed.code, renewed.err.as_str()), (0, ""), "{renewed:?}");
    assert!(!first.contains(&renewed.out), "the same token again");
    assert_ne!(shell.refresh_token("default"), used, "the refresh token that is used up is still kept");
    assert_eq!(mode(&shell.file("default")), 0o600);

    provider.set(json!({"ttl": {"AccessToken": 300}})).await;
    let long = shell.run("token").await;
    assert_eq!((long.code, long.err.as_str()), (0, ""), "{long:?}");
    provider.stop().await;
    let kept = shell.run("token").await;
    assert_eq!((kept.code, kept.out.as_str()), (0, long.out.as_str()), "a fresh token needs no provider: {kept:?}");
}

#[tokio::test]
async fn parallel_commands_refresh_once() {
    let provider = settings().set("ttl", json!({"AccessToken": 50})).start(None).await;
    let shell = Shell::new();
    shell.log_in(&at(&provider)).await;
    let used = shell.refresh_token("default");
    provider.set(json!({"ttl": {"AccessToken": 300}})).await;
    // a refresh token that is used twice is taken for stolen, and the whole grant ends (RFC 9700 section 4.14.2)
    let script = "for i in 1 2 3 4 5 6 7 8; do \"$WICKETGATE\" token & done; wait";
    let all = shell.sh(script, &[]).await;
    let mut tokens: Vec<&str> = all.out.lines().collect();
    assert_eq!((tokens.len(), all.err.as_str()), (8, ""), "{all:?}");
    tokens.dedup();
    assert_eq!(tokens.len(), 1, "they renewed more than once");
    assert_ne!(shell.refresh_token("default"), used);
    assert!(renews(&provider, &shell.refresh_token("default")).await, "the grant is gone");
}

#[tokio::test]
async fn a_logout_revokes_and_removes() {
    let provider = settings().start(None).await;
    let shell = Shell::new();
    shell.log_in(&at(&provider)).await;
    shell.log_in(&format!("{} --name work", at(&provider))).await;
    let refresh = shell.refresh_token("default");
    let work = shell.refresh_token("work");
    let out = shell.run("logout").await;
    assert_eq!(out.code, 0, "{out:?}");
    assert!(out.out.contains("revoked at its provider, and removed"), "{out:?}");
    assert!(!shell.file("default").exists());
    assert!(!renews(&provider, &refresh).await, "the provider still renews it");
    assert_eq!(shell.run("token").await.code, 1);
    assert_eq!(shell.run("token --name work").await.code, 0, "another login is gone");
    assert_eq!(shell.run("logout").await.code, 1, "there is no such login any more");

    // the provider has the last word on revoking, but not on what is kept here
    provider.stop().await;
    let out = shell.run("logout --all").await;
    assert_eq!(out.code, 1, "{out:?}");
    assert!(out.err.contains("`work` is removed, but was not revoked"), "{out:?}");
    assert!(!out.err.contains(&work), "it shows a token");
    assert!(!shell.file("work").exists());
    assert_eq!(shell.run("logout --all").await.code, 0, "nothing to do is no failure");
}

#[tokio::test]
async fn a_login_is_repeated_as_it_was() {
    let provider = settings().start(None).await;
    let shell = Shell::new();
    shell.log_in(&at(&provider)).await;
    let settings = shell.stored_login("default")["settings"].clone();
    let tokens = shell.secrets("default");
    shell.log_in("").await;
    assert_eq!(shell.stored_login("default")["settings"], settings);
    assert!(shell.secrets("default").iter().all(|secret| !tokens.contains(secret)), "nothing new came of it");
    // with the option, logins lie elsewhere
    let elsewhere = shell.directory.join("elsewhere");
    shell.log_in(&format!("{} --cache {}", at(&provider), elsewhere.display())).await;
    assert_eq!(mode(&elsewhere.join("default.json")), 0o600);
    let token = feed(&mut shell.command(&format!("token --cache {}", elsewhere.display())), "").await;
    assert_eq!(token.code, 0, "{token:?}");
}

#[tokio::test]
async fn a_browser_opens_if_there_is_a_display() {
    let provider = settings().start(None).await;
    let shell = Shell::new();
    let bin = shell.directory.join("bin");
    let opened = shell.directory.join("opened");
    std::fs::create_dir(&bin).unwrap();
    let opener = bin.join("xdg-open");
    std::fs::write(&opener, "#!/bin/sh\nprintf '%s' \"$1\" > \"$XDG_STATE_HOME/opened\"\n").unwrap();
    std::fs::set_permissions(&opener, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let begin = |ssh: bool| {
        let mut command = shell.command(&format!("login {}", at(&provider)));
        command.env("DISPLAY", ":0").env("PATH", &path);
        if ssh {
            command.env("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22");
        }
        Program::start("wicketgate login", &mut command, "build it first")
    };
    let url = url_to_open(&mut begin(false)).await;
    let read = || async { std::fs::read_to_string(&opened).ok().filter(|text| !text.is_empty()) };
    assert_eq!(eventually("the browser to open", read).await, url);
    // over SSH the display belongs to another machine
    device_to_open(&mut begin(true)).await;
}

#[tokio::test]
async fn a_private_provider_certificate_is_trusted_by_its_ca_only() {
    let shell = Shell::new();
    let pki = Pki::write(shell.directory.path());
    let files = |name: &str| shell.directory.join(name).display().to_string();
    let tls = json!({"certificate": files("certs/gate.pem"), "key": files("certs/gate.key")});
    let provider = settings().set("tls", tls).set("ttl", json!({"AccessToken": 50})).start(None).await;
    assert!(provider.issuer.starts_with("https://"), "{}", provider.issuer);
    let stranger = shell.run(&format!("login --device {}", at(&provider))).await;
    assert_eq!(stranger.code, 1, "{stranger:?}");
    assert!(stranger.err.contains("cannot be reached") && stranger.err.contains("certificate"), "{stranger:?}");

    let person = Person::new(Some(pki.client(b"http/1.1")));
    shell.log_in_by(person, &format!("{} --ca ca.pem", at(&provider))).await;
    // the file is found again from elsewhere, for the renewal and for the revocation
    let first = shell.secrets("default");
    let mut token = shell.command("token");
    let renewed = feed(token.current_dir("/"), "").await;
    assert!(renewed.code == 0 && renewed.err.is_empty() && !first.contains(&renewed.out), "{renewed:?}");
    let out = feed(shell.command("logout").current_dir("/"), "").await;
    assert_eq!(out.code, 0, "{out:?}");
}
