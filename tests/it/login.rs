//! Browser logins: a person logs in at the provider, keeps the session while the provider allows it, and logs out.
//!
//! The provider is npm's `oidc-provider`; for a provider that lies there is `malicious_provider.rs`.

use http::Method;
use serde_json::json;

use crate::support::{
    Harness,
    login_harness::{LoginHarness, PROTECTED_PATH, SESSION, jar, refused, with_session},
    person::Person,
    program::run,
};

#[tokio::test]
async fn a_login_returns_to_the_requested_page() {
    let house = LoginHarness::new().await;
    let mut ada = house.person();
    let page = ada.log_in(&format!("{}{PROTECTED_PATH}?a=b", house.url), "ada").await;
    assert_eq!(page.url.as_str(), format!("{}{PROTECTED_PATH}?a=b", house.url), "{page:?}");
    assert!(page.answer.text().contains("app_up 1"), "{page:?}");
    let cookie = ada.cookie(SESSION).unwrap();
    for flag in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"] {
        assert!(cookie.line.contains(flag), "{flag} is missing: {}", cookie.line);
    }
    assert!(!cookie.line.contains("Domain"), "{}", cookie.line);
    let attempts = ada.cookies.keys().filter(|(_, name)| name.starts_with("__Host-wicketgate-login")).count();
    assert_eq!(attempts, 0, "the attempt's cookie is left over");
    let record = house.gate.record(&page.answer.id()).await;
    assert_eq!(record["principal"], "corp:ada", "{record}");
    assert_eq!(house.gate.app.last().header("cookie"), "", "the session went upstream");
}

/// Sends a program's request with this person's session./// Where the provider sends the browser back to, without going there.
async fn callback_url(house: &LoginHarness, person: &mut Person, path: &str) -> String {
    let stop = format!("{}/callback", house.url);
    let form = person.visit_until(&format!("{}{path}", house.url), &stop).await;
    let page = if form.url.as_str().starts_with(&stop) {
        form
    } else {
        person.submit_until(&form, &[("login", "ada")], Some(&stop)).await
    };
    assert!(page.url.as_str().starts_with(&stop), "{page:?}");
    page.url.to_string()
}

#[tokio::test]
async fn a_browser_is_redirected_to_log_in_and_a_program_gets_401() {
    let house = LoginHarness::new().await;
    let navigation = house.gate.get(&format!("{PROTECTED_PATH}?a=b")).header("sec-fetch-mode", "navigate");
    let before = house.gate.app.requests();
    let answer = navigation.send().await;
    assert_eq!(answer.status, 303, "{answer:?}");
    assert_eq!(answer.header("location"), "/login?return=%2Fexporters%2Fapp%2Fmetrics%3Fa%3Db");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(house.gate.record(&answer.id()).await["reason"], "no_token");
    assert_eq!(house.gate.app.requests(), before);
    // an old browser says nothing of how it fetches
    let old = house.gate.get(PROTECTED_PATH).header("accept", "text/html,*/*;q=0.8").send().await;
    assert_eq!(old.status, 303, "{old:?}");
    // a page's script is a program
    let script = house.gate.get(PROTECTED_PATH).header("sec-fetch-mode", "cors").header("accept", "text/html");
    let answer = refused(&house, script, 401, "no_token").await;
    let challenge = answer.header("www-authenticate");
    assert!(challenge.contains("Bearer") && challenge.contains("/.well-known/oauth-protected-resource"), "{challenge}");
    // a token that is not good is for its sender to look at
    let bad = house.gate.get(PROTECTED_PATH).header("sec-fetch-mode", "navigate").bearer("nonsense");
    let page = refused(&house, bad, 401, "token_malformed").await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
}

#[tokio::test]
async fn the_start_page_lists_what_the_person_may_open() {
    let house = LoginHarness::new().await;
    let mut ada = house.logged_in("ada").await;
    let page = house.visit(&mut ada, "/").await;
    let text = page.answer.text();
    assert!(
        text.contains("corp:ada") && text.contains("scrape") && text.contains("/exporters/locked/metrics"),
        "{text}"
    );
    assert!(text.contains("action=\"/logout\""), "{text}");
    let policy = page.answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert!(policy.contains(&format!("form-action 'self' {};", house.provider.issuer)), "{policy}");
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(page.answer.header(name), value, "{name}");
    }
    assert_eq!(house.gate.record(&page.answer.id()).await["action"], "Gate.Home");
    // what an exporter serves stands on the gate's own origin, so a browser runs none of it
    let exporter = ada.click(&page, "/exporters/locked/metrics").await.answer;
    assert_eq!(
        (exporter.status.as_u16(), exporter.header("content-security-policy")),
        (200, "sandbox"),
        "{exporter:?}"
    );
    let mut bob = house.logged_in("bob").await;
    let text = house.visit(&mut bob, "/").await.answer.text();
    assert!(text.contains("corp:bob") && !text.contains("/exporters/"), "{text}");
    // a person refused by policy gets a page with the reason and the person's name
    let denied = house.visit(&mut bob, PROTECTED_PATH).await.answer;
    assert_eq!(
        (denied.status.as_u16(), denied.header("content-type")),
        (403, "text/html; charset=utf-8"),
        "{denied:?}"
    );
    let text = denied.text();
    assert!(text.contains("not_permitted") && text.contains(&denied.id()) && text.contains("corp:bob"), "{text}");
    let missing = house.visit(&mut ada, "/exporters/nobody/metrics").await.answer;
    assert_eq!(missing.status, 404);
    assert!(missing.text().contains("unknown_exporter"), "{missing:?}");
}

#[tokio::test]
async fn a_session_that_the_gate_did_not_seal_is_refused() {
    let house = LoginHarness::new().await;
    let ada = house.logged_in("ada").await;
    let good = ada.cookie(SESSION).unwrap().value.clone();
    let (head, last) = good.split_at(good.len() - 1);
    let other = if last == "A" { "B" } else { "A" };
    let attempt = {
        let mut person = house.person();
        let _ = callback_url(&house, &mut person, "/login").await;
        let (_, cookie) = person.cookies.iter().find(|((_, name), _)| name.contains("login")).unwrap();
        cookie.value.clone()
    };
    for (what, cookie) in [
        ("nothing", String::new()),
        ("not sealed", "1.bm90LXNlYWxlZA".into()),
        ("changed at its end", format!("{head}{other}")),
        ("cut", head.to_owned()),
        ("not numbered", good.trim_start_matches("1.").to_owned()),
        ("of more parts than there are", format!("2.{}", good.trim_start_matches("1."))),
        ("sealed for another purpose", format!("1.{attempt}")),
    ] {
        let call = house.gate.get(PROTECTED_PATH).header("cookie", &format!("{SESSION}={cookie}"));
        let answer = refused(&house, call, 401, "session_invalid").await;
        assert!(answer.header("set-cookie").starts_with(&format!("{SESSION}=;")), "{what}: {answer:?}");
        assert!(answer.header("set-cookie").contains("Max-Age=0"), "{what}: {answer:?}");
    }
    let twice = house.gate.get(PROTECTED_PATH).header("cookie", &format!("{SESSION}={good}; {SESSION}={good}"));
    refused(&house, twice, 401, "session_invalid").await;
    let page =
        house.gate.get(PROTECTED_PATH).header("cookie", &format!("{SESSION}=1.x")).header("sec-fetch-mode", "navigate");
    assert_eq!(page.send().await.status, 303);
    assert_eq!(house.status(&ada).await, 200, "the good one");
    assert!(!house.gate.audit().iter().any(|line| line.to_string().contains(&good)), "a cookie is in the audit log");
    assert!(!house.gate.program.lines().join("\n").contains(&good), "a cookie is in the log");
}

#[tokio::test]
async fn a_session_beside_a_token_is_refused() {
    let house = LoginHarness::new().await;
    let ada = house.logged_in("ada").await;
    refused(&house, with_session(&house, &ada).bearer("a.b.c"), 400, "two_identities").await;
    let broken = house.gate.get(PROTECTED_PATH).header("cookie", &format!("{SESSION}=x")).bearer("a.b.c");
    refused(&house, broken, 400, "two_identities").await;
}

#[tokio::test]
async fn a_cross_site_request_changes_nothing() {
    let house = LoginHarness::new().await;
    let ada = house.logged_in("ada").await;
    let write = || house.gate.post("/api/v1/write").header("cookie", &jar(&ada));
    refused(&house, write(), 403, "cross_site").await;
    for site in ["cross-site", "same-site", "none", "nonsense"] {
        refused(&house, write().header("sec-fetch-site", site), 403, "cross_site").await;
        let with_origin = write().header("sec-fetch-site", site).header("origin", &house.url);
        refused(&house, with_origin, 403, "cross_site").await;
    }
    let twice = write().header("sec-fetch-site", "same-origin").header("sec-fetch-site", "cross-site");
    refused(&house, twice, 403, "cross_site").await;
    refused(&house, write().header("origin", "https://evil.example"), 403, "cross_site").await;
    refused(&house, write().header("origin", "null"), 403, "cross_site").await;
    // from the gate's own pages it is for the routes and for policy to say
    for own in [write().header("sec-fetch-site", "same-origin"), write().header("origin", &house.url)] {
        let answer = own.send().await;
        assert_ne!(answer.json()["reason"], "cross_site", "{answer:?}");
    }
    // to read is what a link does
    let link = with_session(&house, &ada).header("sec-fetch-site", "cross-site").send().await;
    assert_eq!(link.status, 200, "{link:?}");
    // nor does it end a session
    let out = house.gate.post("/logout").header("cookie", &jar(&ada)).header("sec-fetch-site", "cross-site");
    refused(&house, out, 403, "cross_site").await;
    assert_eq!(house.status(&ada).await, 200);
}

#[tokio::test]
async fn a_login_returns_only_to_this_gate() {
    let house = LoginHarness::new().await;
    for target in [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "/%0d%0aset-cookie:a=b",
        "/login",
        "javascript:1",
    ] {
        let mut ada = house.person();
        let encoded: String = url::form_urlencoded::byte_serialize(target.as_bytes()).collect();
        let encoded = encoded.replace("%25", "%");
        let page = ada.log_in(&format!("{}/login?return={encoded}", house.url), "ada").await;
        assert_eq!(page.url.as_str(), format!("{}/", house.url), "{target}");
    }
}

#[tokio::test]
async fn a_callback_is_accepted_once_and_in_its_own_browser() {
    let house = LoginHarness::new().await;
    let mut ada = house.person();
    let callback = callback_url(&house, &mut ada, PROTECTED_PATH).await;
    let path = callback.strip_prefix(&house.url).unwrap().to_owned();
    let attempt = jar(&ada);
    // another browser (login CSRF), and one without a cookie
    refused(&house, house.gate.get(&path), 400, "login_unknown").await;
    let mut eve = house.person();
    let own = callback_url(&house, &mut eve, PROTECTED_PATH).await;
    refused(&house, house.gate.get(&path).header("cookie", &jar(&eve)), 400, "login_unknown").await;
    // one attempt's state with another's cookie
    let eves = own.strip_prefix(&house.url).unwrap();
    refused(&house, house.gate.get(eves).header("cookie", &attempt), 400, "login_unknown").await;
    let bent = path.replace("state=", "state=x");
    refused(&house, house.gate.get(&bent).header("cookie", &attempt), 400, "login_unknown").await;
    let twice = format!("{path}&state=x");
    refused(&house, house.gate.get(&twice).header("cookie", &attempt), 400, "login_malformed").await;
    // a response of another provider, and one without `iss` though the provider announces it (RFC 9207)
    let iss = path.split('&').find(|part| part.contains("iss=")).unwrap();
    let mut bob = house.person();
    let mixed = callback_url(&house, &mut bob, PROTECTED_PATH).await.strip_prefix(&house.url).unwrap().to_owned();
    let mixed = mixed.replace(iss.trim_start_matches("/callback?"), "iss=https%3A%2F%2Fevil.example");
    refused(&house, house.gate.get(&mixed).header("cookie", &jar(&bob)), 403, "login_issuer").await;
    let mut bob = house.person();
    let silent = callback_url(&house, &mut bob, PROTECTED_PATH).await.strip_prefix(&house.url).unwrap().to_owned();
    let silent = silent.replace(iss.trim_start_matches("/callback?"), "a=b");
    refused(&house, house.gate.get(&silent).header("cookie", &jar(&bob)), 403, "login_issuer").await;
    // the good one, once
    let answer = house.gate.get(&path).header("cookie", &attempt).send().await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, PROTECTED_PATH), "{answer:?}");
    assert_eq!(house.gate.record(&answer.id()).await["principal"], "corp:ada");
    refused(&house, house.gate.get(&path).header("cookie", &attempt), 400, "login_replayed").await;
}

#[tokio::test]
async fn two_tabs_log_in_at_once() {
    let house = LoginHarness::new().await;
    let mut ada = house.person();
    let one = callback_url(&house, &mut ada, PROTECTED_PATH).await;
    let two = callback_url(&house, &mut ada, "/exporters/locked/metrics").await;
    let second = ada.visit(&two).await;
    assert!(second.url.path().starts_with("/exporters/locked"), "{second:?}");
    let first = ada.visit(&one).await;
    assert_eq!((first.url.path(), first.answer.status.as_u16()), (PROTECTED_PATH, 200), "{first:?}");
    // and however many were begun, few are kept
    for _ in 0..8 {
        ada.visit_until(&format!("{}/login", house.url), &house.provider.issuer).await;
    }
    let attempts = ada.cookies.keys().filter(|(_, name)| name.starts_with("__Host-wicketgate-login")).count();
    assert_eq!(attempts, 4);
}

#[tokio::test]
async fn error_text_of_a_provider_is_escaped() {
    let house = LoginHarness::new().await;
    let mut ada = house.person();
    let callback = callback_url(&house, &mut ada, PROTECTED_PATH).await;
    let url = url::Url::parse(&callback).unwrap();
    let of = |wanted: &str| url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned());
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("state", &of("state").unwrap()).append_pair("iss", &of("iss").unwrap());
    query.append_pair("error", "access_denied").append_pair("error_description", "<script>alert(1)</script>");
    let target = format!("/callback?{}", query.finish());
    let call = house.gate.get(&target).header("cookie", &jar(&ada)).header("sec-fetch-mode", "navigate");
    let answer = refused(&house, call, 403, "login_refused").await;
    let text = answer.text();
    assert!(text.contains("access_denied") && text.contains("&lt;script&gt;") && !text.contains("<script"), "{text}");
}

#[tokio::test]
async fn without_sessions_there_are_no_login_pages() {
    let gate = Harness::new().await.start().await;
    for (method, path) in [
        (Method::GET, "/login"),
        (Method::GET, "/callback?state=a&code=b"),
        (Method::GET, "/logout"),
        (Method::POST, "/logout"),
        (Method::POST, "/backchannel-logout"),
    ] {
        let answer = gate.call(method, path).send().await;
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (404, &json!("unknown_route")), "{path}");
    }
    let navigation = gate.get(PROTECTED_PATH).header("sec-fetch-mode", "navigate").send().await;
    assert_eq!(navigation.status, 401, "{navigation:?}");
}

#[tokio::test]
async fn check_reports_mistakes_in_the_login_sections() {
    let harness = Harness::new().await;
    let mut config = harness.config();
    let login = "[issuer.login]\nclient_id = \"gate\"\nscopes = [\"profile\"]\nend_session = \"http://idp.example/\"\n";
    config = config.replace("[[exporter]]\nname = \"app\"", &format!("{login}\n[[exporter]]\nname = \"app\""));
    harness.directory.write("short.key", "short");
    config.push_str("\n[sessions]\nkeys = [\"short.key\", \"none.key\"]\nmax_lifetime = \"9000h\"\nrevocations = \"nowhere/ended\"\n");
    harness.directory.write("wicketgate.toml", &config);
    let file = harness.directory.join("wicketgate.toml");
    let output = run(&["check", "--config", file.to_str().unwrap()]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    for told in ["`url` in [gate]", "openid", "https", "at least", "none.key", "thirty days", "no folder"] {
        assert!(said.contains(told), "nothing is said of {told}:\n{said}");
    }
    let config = format!("{}\n[sessions]\nmax_lifetime = \"1h\"\n", harness.config());
    harness.directory.write("wicketgate.toml", config);
    let output = run(&["check", "--config", file.to_str().unwrap()]).await;
    assert!(String::from_utf8(output.stderr).unwrap().contains("no effect"));
}
