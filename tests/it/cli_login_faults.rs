//! Failures of `wicketgate login` and `token`: each is reported, exits with 1 and prints no token.

use std::os::unix::fs::{PermissionsExt, symlink};

use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    cli_login::{at, settings},
    support::{
        eventually,
        issuer::{Issuer, Key, Token},
        peers::OidcProvider,
        person::{Person, post_form},
        program::Program,
        shell::{CommandOutput, Shell, device_to_open, url_to_open},
        upstream,
    },
};

/// A login that ends without one; gives what it said.
async fn fails(login: &mut Program) -> String {
    let code = login.ended().await.code();
    assert_eq!(code, Some(1), "{}", login.lines().join("\n"));
    // the last line is read after the end
    let last = || async { login.lines().last().filter(|line| !line.starts_with("Waiting")).cloned() };
    eventually("why there is no login", last).await
}

/// Nothing on standard output, one line that says why, no secret in it.
fn hands_out_nothing(said: &CommandOutput, why: &str) {
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    assert!(said.err.contains(why), "not `{why}`: {said:?}");
}

#[tokio::test]
async fn without_a_login_the_command_names_what_to_run() {
    let shell = Shell::new();
    hands_out_nothing(&shell.run("token").await, "run `wicketgate login --issuer URL --client-id ID`");
    hands_out_nothing(&shell.run("token --name work").await, "no login is kept as `work`");
    hands_out_nothing(&shell.run("logout").await, "no login is kept");
    assert!(!shell.directory.join("wicketgate").exists(), "asking made a directory");
    for (arguments, why) in [
        ("login", "write `--issuer URL` or `--gate URL`"),
        ("login --issuer https://idp.test", "write `--client-id ID`"),
        ("login --issuer http://idp.test --client-id x", "`http://idp.test` is not an https URL"),
        ("login --gate http://gate.test --client-id x", "`http://gate.test` is not an https URL"),
        ("login --issuer https://idp.test --client-id x --name ../x", "`../x` is not a valid name of a login"),
        ("login --issuer https://idp.test --client-id x --ca nowhere.pem", "cannot read the CA file"),
    ] {
        let said = shell.run(arguments).await;
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{arguments}: {said:?}");
        assert!(said.err.contains(why), "{arguments}: {said:?}");
    }
}

#[tokio::test]
async fn a_login_that_is_refused_at_the_provider_leaves_nothing() {
    let provider = settings().start(None).await;
    let shell = Shell::new();

    let mut login = shell.begin(&format!("--device {}", at(&provider)));
    let (url, _) = device_to_open(&mut login).await;
    let mut person = Person::new(None);
    let confirm = person.visit(&url).await;
    person.submit(&confirm, &[("abort", "yes")]).await;
    assert_eq!(fails(&mut login).await, "the login was refused at the provider");

    let mut login = shell.begin(&format!("--browser {}", at(&provider)));
    let url = url_to_open(&mut login).await;
    let mut person = Person::new(None);
    let form = person.visit(&url).await;
    let page = person.submit(&form, &[("abort", "yes")]).await;
    assert!(page.answer.text().contains("The login was refused"), "{page:?}");
    assert_eq!(fails(&mut login).await, "the login was refused at the provider");
    assert!(!shell.file("default").exists());
}

#[tokio::test]
async fn an_unused_device_code_expires() {
    let provider = settings().set("ttl", json!({"DeviceCode": 2})).start(None).await;
    let shell = Shell::new();
    let mut login = shell.begin(&format!("--device {}", at(&provider)));
    device_to_open(&mut login).await;
    let said = fails(&mut login).await;
    assert!(said.starts_with("the login was not completed within 2s"), "{said}");
    assert!(!shell.file("default").exists());
}

#[tokio::test]
async fn an_interrupted_login_leaves_nothing() {
    let provider = settings().start(None).await;
    let shell = Shell::new();
    for way in ["--device", "--browser"] {
        let mut login = shell.begin(&format!("{way} {}", at(&provider)));
        login.until("that it waits", |lines| lines.iter().any(|line| line.starts_with("Waiting")).then_some(())).await;
        login.signal("INT").await;
        assert_eq!(fails(&mut login).await, "cancelled; nothing was stored", "{way}");
    }
    assert!(!shell.file("default").exists());
}

#[tokio::test]
async fn a_providers_error_is_reported() {
    let provider = settings().start(None).await;
    let shell = Shell::new();
    let at = |client: &str, resource: &str| {
        format!("login --device --issuer {} --client-id {client} --resource {resource}", provider.issuer)
    };
    let stranger = shell.run(&at("stranger", OidcProvider::RESOURCE)).await;
    hands_out_nothing(&stranger, "the provider refused: invalid_client");
    hands_out_nothing(
        &shell.run(&format!("login --issuer {}/else --client-id x", provider.issuer)).await,
        "is not there",
    );
    provider.stop().await;
    hands_out_nothing(&shell.run(&at("terminal", OidcProvider::RESOURCE)).await, "cannot be reached");
}

#[tokio::test]
async fn an_unreachable_provider_affects_expired_tokens_only() {
    let provider = settings().set("ttl", json!({"AccessToken": 50})).start(None).await;
    let shell = Shell::new();
    shell.log_in(&at(&provider)).await;
    let token = shell.secrets("default")[0].clone();
    provider.stop().await;
    // under a minute is left, which is not fresh, but valid
    let still = shell.run("token").await;
    assert_eq!((still.code, &still.out), (0, &token), "{still:?}");
    assert!(still.err.contains("this token expires within a minute"), "{still:?}");

    expire(&shell);
    let over = shell.run("token").await;
    hands_out_nothing(&over, "cannot be reached");
    assert!(shell.secrets("default").iter().all(|secret| !over.err.contains(secret)), "it shows a token");
    provider.go_on().await;
    let renewed = shell.run("token").await;
    assert_eq!(renewed.code, 0, "{renewed:?}");
}

/// Has the kept access token have expired.
fn expire(shell: &Shell) {
    shell.change("default", |tokens| tokens["expires_at"] = "2020-01-01T00:00:00Z".into());
}

#[tokio::test]
async fn a_login_that_ended_at_the_provider_is_reported() {
    let provider = settings().set("ttl", json!({"AccessToken": 50})).start(None).await;
    let shell = Shell::new();
    shell.log_in(&at(&provider)).await;
    let form = [("token", &*shell.refresh_token("default")), ("client_id", "terminal")];
    let revoked = post_form(&format!("{}/token/revocation", provider.issuer), None, &form).await;
    assert_eq!(revoked.status, StatusCode::OK);
    expire(&shell);
    let over = shell.run("token").await;
    hands_out_nothing(&over, "the login `default` is over: the provider refused to renew it (invalid_grant");
    assert!(over.err.contains("run `wicketgate login` again"), "{over:?}");
}

#[tokio::test]
async fn a_cache_file_with_unsafe_permissions_is_not_used() {
    let provider = settings().start(None).await;
    let shell = Shell::new();
    shell.log_in(&at(&provider)).await;
    let file = shell.file("default");
    let refresh = shell.refresh_token("default");
    let chmod = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    chmod(0o644);
    hands_out_nothing(&shell.run("token").await, "is open to other users");
    chmod(0o600);
    assert_eq!(shell.run("token").await.code, 0);

    let elsewhere = shell.directory.join("elsewhere");
    std::fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    hands_out_nothing(&shell.run("token").await, "is a symbolic link");
    // a logout removes what cannot be used, and says that the provider knows nothing of it
    let out = shell.run("logout").await;
    assert_eq!(out.code, 1, "{out:?}");
    assert!(out.err.contains("was not revoked") && !out.err.contains(&refresh), "{out:?}");
    assert!(std::fs::symlink_metadata(&file).is_err(), "the link is still there");
    assert!(elsewhere.exists(), "the link's target was deleted");

    std::fs::set_permissions(shell.directory.join("wicketgate"), PermissionsExt::from_mode(0o755)).unwrap();
    hands_out_nothing(&shell.run("token").await, "is open to other users");
    hands_out_nothing(&shell.run(&format!("login --device {}", at(&provider))).await, "is open to other users");
}

#[tokio::test]
async fn a_full_disk_loses_no_login() {
    let provider = settings().set("ttl", json!({"AccessToken": 50})).start(None).await;
    let shell = Shell::new();
    shell.log_in(&at(&provider)).await;
    let token = shell.secrets("default")[0].clone();
    let refresh = shell.refresh_token("default");
    // no file may grow beyond 16 KiB: what was kept would fit, the room that is made sure of does not
    let full = "trap '' XFSZ; ulimit -f 32; exec \"$WICKETGATE\" token";
    let said = shell.sh(full, &[]).await;
    assert_eq!((said.code, &said.out), (0, &token), "what is still valid is handed out: {said:?}");
    assert!(said.err.contains("cannot be written"), "{said:?}");
    expire(&shell);
    hands_out_nothing(&shell.sh(full, &[]).await, "cannot be written");
    assert_eq!(shell.refresh_token("default"), refresh);
    let renewed = shell.run("token").await;
    assert!(renewed.code == 0 && renewed.err.is_empty() && renewed.out != token, "the grant is spent: {renewed:?}");
}

/// A provider whose ID token for the client `terminal` is bent like this; what the login then ends with.
async fn with_id_token(bend: impl for<'a> Fn(Token<'a>, &str) -> String) -> (i32, String, Shell) {
    let issuer = Issuer::start().await;
    let at = issuer.url();
    let document = json!({
        "issuer": at, "jwks_uri": format!("{at}/jwks"), "token_endpoint": format!("{at}/token"),
        "authorization_endpoint": format!("{at}/auth"),
    });
    let jwks = json!({"keys": issuer.keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()});
    let pages = move |token: String| {
        let document = document.clone();
        let jwks = jwks.clone();
        move |seen: &upstream::Seen| match seen.target.as_str() {
            "/.well-known/openid-configuration" => upstream::json(&document),
            "/jwks" => upstream::json(&jwks),
            "/token" => upstream::json(&json!({
                "access_token": "opaque", "token_type": "Bearer", "expires_in": 300, "id_token": token,
            })),
            _ => upstream::reply(StatusCode::NOT_FOUND, "text/plain", ""),
        }
    };
    issuer.server.answer(pages(String::new()));
    let shell = Shell::new();
    let mut login = shell.begin(&format!("--browser --issuer {} --client-id terminal --scope openid", issuer.url()));
    let url = url::Url::parse(&url_to_open(&mut login).await).unwrap();
    let parameter = |name: &str| url.query_pairs().find(|(known, _)| known == name).unwrap().1.into_owned();
    let good = issuer.token("alice", &[]).header("typ", "JWT").claim("aud", "terminal");
    let token = bend(good.claim("nonce", parameter("nonce")), &issuer.url());
    issuer.server.answer(pages(token));
    let back = format!("{}?code=c&state={}", parameter("redirect_uri"), parameter("state"));
    assert_eq!(Person::new(None).visit(&back).await.answer.status, StatusCode::OK);
    let code = login.ended().await.code().unwrap();
    let told =
        |all: Vec<String>| all.into_iter().find(|line| line.starts_with("logged in") || line.contains("ID token"));
    let last = eventually("what became of the login", || async { told(login.lines()) }).await;
    (code, last, shell)
}

#[tokio::test]
async fn an_id_token_of_another_login_is_refused() {
    let (code, said, shell) = with_id_token(|token, _| token.mint()).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(shell.stored_login("default")["tokens"]["id"]["subject"], "alice");

    type Bend = Box<dyn for<'a> Fn(Token<'a>, &str) -> String>;
    let past = wicketgate::internals::clock::now().as_second() - 3600;
    let stranger: &'static Key = Box::leak(Box::new(Key::rsa("rsa")));
    let cases: Vec<(&str, Bend)> = vec![
        ("its nonce differs", Box::new(|token, _| token.claim("nonce", "another").mint())),
        ("its nonce differs", Box::new(|token, _| token.claim("nonce", Value::Null).mint())),
        ("for another audience", Box::new(|token, _| token.claim("aud", "another").mint())),
        ("made for another client", Box::new(|token, _| token.claim("aud", json!(["terminal", "other"])).mint())),
        ("made for another client", Box::new(|token, _| token.claim("azp", "other").mint())),
        ("issuer", Box::new(|token, at| token.claim("iss", format!("{at}/")).mint())),
        ("has expired", Box::new(move |token, _| token.claim("exp", past).mint())),
        ("lacks a required claim", Box::new(|token, _| token.claim("exp", Value::Null).mint())),
        ("signature", Box::new(|token, _| token.signed_by(stranger, "RS256").mint())),
        ("algorithm", Box::new(|token, _| token.mint_unsigned())),
        ("algorithm", Box::new(|token, _| token.mint_hs256(b"secret"))),
        ("`typ`", Box::new(|token, _| token.header("typ", "at+jwt").mint())),
        ("not a signed JWT", Box::new(|_, _| "opaque".into())),
    ];
    for (why, bend) in cases {
        let (code, said, shell) = with_id_token(bend).await;
        assert_eq!(code, 1, "{why}: {said}");
        assert!(said.starts_with("the provider's ID token is not accepted") && said.contains(why), "{why}: {said}");
        assert!(!shell.file("default").exists(), "{why}: something is kept");
    }
}

#[tokio::test]
async fn a_foreign_discovery_document_is_refused() {
    let issuer = Issuer::start().await;
    let at = issuer.url();
    let shell = Shell::new();
    let good = json!({"issuer": at, "token_endpoint": format!("{at}/token"), "jwks_uri": format!("{at}/jwks"),
        "device_authorization_endpoint": format!("{at}/device")});
    let with = |name: &str, value: &str| {
        let mut document = good.clone();
        document[name] = value.into();
        document
    };
    for (document, why) in [
        (with("issuer", "https://other.test"), "is of the issuer `https://other.test`"),
        (with("token_endpoint", "http://other.test/token"), "names `http://other.test/token`, which is not https"),
        (with("revocation_endpoint", "ftp://other.test"), "which is not https"),
        (with("issuer", "\u{1b}[2J"), "is of the issuer `[2J`"),
        (json!([]), "cannot be read"),
    ] {
        let text = document.to_string();
        issuer.server.answer(move |seen| match seen.target.as_str() {
            "/.well-known/openid-configuration" => upstream::reply(StatusCode::OK, "application/json", text.clone()),
            _ => upstream::reply(StatusCode::NOT_FOUND, "text/plain", ""),
        });
        let asked = issuer.server.requests();
        let said = shell.run(&format!("login --device --issuer {at} --client-id terminal")).await;
        hands_out_nothing(&said, why);
        assert_eq!(issuer.server.requests(), asked + 1, "{document}: it was asked further");
    }

    // RFC 8414 metadata is found, and a clear-text page is not opened
    let text = good.to_string();
    let device =
        json!({"device_code": "d", "user_code": "AB", "verification_uri": "http://other.test", "expires_in": 9});
    issuer.server.answer(move |seen| match seen.target.as_str() {
        "/.well-known/oauth-authorization-server" => upstream::reply(StatusCode::OK, "application/json", text.clone()),
        "/device" => upstream::json(&device),
        _ => upstream::reply(StatusCode::NOT_FOUND, "text/plain", ""),
    });
    let said = shell.run(&format!("login --device --issuer {at} --client-id terminal")).await;
    hands_out_nothing(&said, "leads to `http://other.test");
}

#[tokio::test]
async fn slow_down_lengthens_the_polling_interval() {
    // RFC 8628 section 3.5: five seconds more with each `slow_down`
    let issuer = Issuer::start().await;
    let at = issuer.url();
    let document = json!({"issuer": at, "token_endpoint": format!("{at}/token"),
        "device_authorization_endpoint": format!("{at}/device")});
    let device = json!({"device_code": "d", "user_code": "AB-CD", "verification_uri": format!("{at}/enter"),
        "expires_in": 60, "interval": 1});
    let polls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = polls.clone();
    issuer.server.answer(move |seen| match seen.target.as_str() {
        "/.well-known/openid-configuration" => upstream::json(&document),
        "/device" => upstream::json(&device),
        "/token" => {
            let error = ["authorization_pending", "slow_down"];
            match error.get(count.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                Some(error) => {
                    let body = json!({"error": error}).to_string();
                    upstream::reply(StatusCode::BAD_REQUEST, "application/json", body)
                }
                None => upstream::json(&json!({"access_token": "a-token", "token_type": "bearer"})),
            }
        }
        _ => upstream::reply(StatusCode::NOT_FOUND, "text/plain", ""),
    });
    let shell = Shell::new();
    let begun = wicketgate::internals::clock::monotonic();
    let mut login = shell.begin(&format!("--device --issuer {at} --client-id terminal --scope metrics"));
    let (url, code) = device_to_open(&mut login).await;
    assert_eq!((url, code.as_str()), (format!("{at}/enter"), "AB-CD"), "without a complete address");
    assert!(login.ended().await.success(), "{}", login.lines().join("\n"));
    assert!(begun.elapsed().as_secs() >= 7, "1 s, then 1 + 5 s");
    assert_eq!(polls.load(std::sync::atomic::Ordering::SeqCst), 3);
    // no end is known and there is nothing to renew it with: it is what there is
    assert_eq!(shell.run("token").await.out, "a-token");
    hands_out_nothing(&shell.run("token --id-token").await, "the provider gave no refresh token");
}
