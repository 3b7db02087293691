//! The gate's pages in a real browser. Screenshots are written to `target/screenshots`.

use serde_json::json;

use crate::support::{
    browser::Browser,
    login_harness::{LoginHarness, PROTECTED_PATH, Plan},
    peers::OidcSettings,
};

fn url(arrived: &serde_json::Value) -> &str {
    arrived["url"].as_str().unwrap()
}

fn says(arrived: &serde_json::Value, text: &str) -> bool {
    arrived["text"].as_str().unwrap().contains(text)
}

#[tokio::test]
async fn a_person_logs_in_browses_and_logs_out() {
    let house = LoginHarness::new().await;
    let mut browser = Browser::start(&house.gate).await;
    let form = browser.visit("a", &format!("{}{PROTECTED_PATH}", house.url)).await;
    assert!(url(&form).starts_with(&house.provider.issuer), "{form}");
    let page = browser.log_in("a", "ada").await;
    assert_eq!(url(&page), format!("{}{PROTECTED_PATH}", house.url));
    assert!(says(&page, "app_up 1"), "{page}");

    let cookies = browser.step(json!({"step": "cookies", "tab": "a"})).await;
    let ours: Vec<_> = cookies.as_array().unwrap().iter().filter(|c| c["domain"] == "localhost").collect();
    assert_eq!(ours.len(), 1, "{cookies}");
    let cookie = ours[0];
    assert_eq!(cookie["name"], "__Host-wicketgate-session", "{cookie}");
    for (flag, value) in
        [("secure", json!(true)), ("httpOnly", json!(true)), ("sameSite", json!("Lax")), ("path", json!("/"))]
    {
        assert_eq!(cookie[flag], value, "{flag}: {cookie}");
    }

    let home = browser.visit("a", &format!("{}/", house.url)).await;
    assert!(says(&home, "corp:ada") && says(&home, "locked"), "{home}");
    assert_eq!(browser.step(json!({"step": "script_cookies", "tab": "a"})).await, "", "a script reads the session");
    browser.screenshot("a", "start").await;
    let script = browser.step(json!({"step": "try_script", "tab": "a"})).await;
    assert_eq!(script, json!({"ran": false, "styled": true}), "what the policy forbids, and what it lets in");
    let complaints = browser.step(json!({"step": "complaints", "tab": "a"})).await;
    let of_policy = complaints.as_array().unwrap().iter().filter_map(|text| text.as_str());
    let of_policy: Vec<&str> = of_policy.filter(|text| text.contains("Content Security Policy")).collect();
    assert_eq!(of_policy.len(), 1, "one for the script: {complaints}");
    assert!(of_policy[0].contains("script"), "the page breaks its own policy: {complaints}");
    let missing = browser.visit("a", &format!("{}/exporters/nobody/metrics", house.url)).await;
    assert!(missing["status"] == 404 && says(&missing, "unknown_exporter"), "{missing}");
    browser.screenshot("a", "nothing-here").await;

    // another site cannot log a person out
    browser.visit("evil", &format!("{}/session/end", house.provider.issuer)).await;
    let forged = json!({"step": "forge", "tab": "evil", "url": format!("{}/logout", house.url)});
    let refused = browser.step(forged).await;
    assert_eq!(refused["status"], 403, "{refused}");
    let still = browser.visit("a", &format!("{}/logout", house.url)).await;
    assert!(says(&still, "Sign out?"), "{still}");
    browser.screenshot("a", "sign-out").await;

    let confirm = browser.press("a", "Sign out").await;
    assert!(url(&confirm).starts_with(&house.provider.issuer), "the page's policy stops it: {confirm}");
    let form = browser.press("a", "Sign out").await;
    assert!(url(&form).starts_with(&house.provider.issuer) && says(&form, "Sign in"), "{form}");
    let out = browser.visit("a", &format!("{}/logout", house.url)).await;
    assert!(says(&out, "You are signed out"), "{out}");
    browser.screenshot("a", "signed-out").await;
}

#[tokio::test]
async fn a_person_chooses_between_providers() {
    let other = OidcSettings::new();
    let house = LoginHarness::with_other(Plan::default(), other).await;
    let mut browser = Browser::start(&house.gate).await;
    let chooser = browser.visit("a", &format!("{}{PROTECTED_PATH}?a=b", house.url)).await;
    assert!(says(&chooser, "Example Corp") && says(&chooser, "Partners & friends"), "{chooser}");
    browser.screenshot("a", "chooser").await;
    let form = browser.press("a", "Partners & friends").await;
    let other = house.other.as_ref().unwrap();
    assert!(url(&form).starts_with(&other.issuer), "{form}");
    let page = browser.log_in("a", "eve").await;
    assert_eq!(url(&page), format!("{}{PROTECTED_PATH}?a=b", house.url), "{page}");
    // one issuer's people are not another's
    let home = browser.visit("a", &format!("{}/", house.url)).await;
    assert!(says(&home, "partners:eve"), "{home}");
}

#[tokio::test]
async fn two_tabs_and_an_expired_session() {
    let sessions = "[sessions]\nkeys = [\"session.key\"]\nmax_lifetime = \"5s\"".into();
    let house = LoginHarness::planned(Plan { sessions, ..Plan::default() }).await;
    let mut browser = Browser::start(&house.gate).await;
    browser.visit("a", &format!("{}{PROTECTED_PATH}", house.url)).await;
    browser.visit("b", &format!("{}/exporters/locked/metrics", house.url)).await;
    let second = browser.log_in("b", "ada").await;
    assert_eq!(url(&second), format!("{}/exporters/locked/metrics", house.url), "{second}");
    let first = browser.log_in("a", "ada").await;
    assert_eq!(url(&first), format!("{}{PROTECTED_PATH}", house.url), "{first}");

    let cookie = async |browser: &mut Browser| {
        let cookies = browser.step(json!({"step": "cookies", "tab": "a"})).await;
        let ours = |c: &&serde_json::Value| c["name"] == "__Host-wicketgate-session";
        cookies.as_array().unwrap().iter().find(ours).map(|c| c["value"].clone())
    };
    let before = cookie(&mut browser).await.unwrap();
    // the session ends; the provider still knows the person, so the page appears without a login form
    let begun = wicketgate::internals::clock::monotonic();
    loop {
        let page = browser.visit("a", &format!("{}{PROTECTED_PATH}", house.url)).await;
        assert_eq!((url(&page), &page["status"]), (&*format!("{}{PROTECTED_PATH}", house.url), &json!(200)), "{page}");
        if cookie(&mut browser).await.as_ref() != Some(&before) {
            break;
        }
        assert!(begun.elapsed() < crate::support::DEADLINE, "the session does not end");
    }
    // a person refused by policy sees the reason
    let house = LoginHarness::new().await;
    let mut browser = Browser::start(&house.gate).await;
    browser.visit("a", &format!("{}{PROTECTED_PATH}", house.url)).await;
    let denied = browser.log_in("a", "bob").await;
    assert!(denied["status"] == 403 && says(&denied, "not_permitted") && says(&denied, "corp:bob"), "{denied}");
    browser.screenshot("a", "denied").await;
}
