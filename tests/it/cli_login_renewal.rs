//! Rotating refresh tokens at a shell: each can be used once, and the login survives any failure at that moment.

use std::sync::mpsc;

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, eventually,
    issuer::Issuer,
    program::Program,
    shell::Shell,
    upstream::{self, Seen},
};

/// A provider that logs every client in at once, with these responses of its token endpoint: to the login,
/// and to a refresh.
fn answers(issuer: &Issuer, login: Value, renewal: impl Fn() -> Value + Send + 'static) {
    let at = issuer.url();
    let document = json!({"issuer": at, "token_endpoint": format!("{at}/token"), "jwks_uri": format!("{at}/jwks"),
        "device_authorization_endpoint": format!("{at}/device")});
    let device = json!({"device_code": "d", "user_code": "AB-CD", "verification_uri": format!("{at}/enter"),
        "expires_in": 60});
    let jwks = json!({"keys": issuer.keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()});
    issuer.server.answer(move |seen| match seen.target.as_str() {
        "/.well-known/openid-configuration" => upstream::json(&document),
        "/device" => upstream::json(&device),
        "/jwks" => upstream::json(&jwks),
        "/token" if is_renewal(seen) => upstream::json(&renewal()),
        "/token" => upstream::json(&login),
        _ => upstream::reply(StatusCode::NOT_FOUND, "text/plain", ""),
    });
}

fn is_renewal(seen: &Seen) -> bool {
    seen.target == "/token" && String::from_utf8_lossy(&seen.body).contains("grant_type=refresh_token")
}

async fn log_in(issuer: &Issuer, shell: &Shell) {
    let said = shell.run(&format!("login --device --issuer {} --client-id terminal", issuer.url())).await;
    assert_eq!(said.code, 0, "{said:?}");
}

fn tokens(number: u32, seconds: u32) -> Value {
    json!({"access_token": format!("access-{number}"), "token_type": "Bearer", "expires_in": seconds,
        "refresh_token": format!("refresh-{number}")})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_in_the_middle_of_a_renewal_does_not_cost_the_login() {
    let issuer = Issuer::start().await;
    let shell = Shell::new();
    let (release, released) = mpsc::channel();
    answers(&issuer, tokens(1, 30), move || {
        tokio::task::block_in_place(|| released.recv_timeout(DEADLINE).expect("the response was never released"));
        tokens(2, 300)
    });
    log_in(&issuer, &shell).await;
    for signal in ["INT", "TERM", "HUP"] {
        let before = issuer.server.seen().iter().filter(|seen| is_renewal(seen)).count();
        let mut token = Program::start("wicketgate token", &mut shell.command("token"), "build it first");
        let asked = || async { issuer.server.seen().iter().filter(|seen| is_renewal(seen)).nth(before).map(drop) };
        eventually("the refresh token to be sent", asked).await;
        token.signal(signal).await;
        release.send(()).unwrap();
        assert!(token.ended().await.success(), "{signal}: {}", token.lines().join("\n"));
        assert_eq!(shell.refresh_token("default"), "refresh-2", "{signal}");
        shell.change("default", |tokens| {
            tokens["expires_at"] = "2020-01-01T00:00:00Z".into();
            tokens["refresh"] = "refresh-1".into();
        });
    }
}

#[tokio::test]
async fn a_rejected_refresh_response_keeps_the_refresh_token() {
    let issuer = Issuer::start().await;
    let shell = Shell::new();
    let id_token = |subject: &str| issuer.token(subject, &[]).header("typ", "JWT").claim("aud", "terminal").mint();
    let with = |mut tokens: Value, id_token: String| {
        tokens["id_token"] = id_token.into();
        tokens
    };
    let first = with(tokens(1, 0), id_token("alice"));
    let other = with(tokens(2, 300), id_token("mallory"));
    answers(&issuer, first.clone(), move || other.clone());
    log_in(&issuer, &shell).await;
    let said = shell.run("token").await;
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    assert!(said.err.contains("it is of another person than the login"), "{said:?}");
    let kept = &shell.stored_login("default")["tokens"];
    assert_eq!((&kept["refresh"], &kept["access"]), (&"refresh-2".into(), &"access-1".into()), "{kept}");

    // alice again; this provider neither rotates nor sends another ID token
    answers(&issuer, first, || json!({"access_token": "access-3", "token_type": "bearer", "expires_in": 300}));
    assert_eq!(shell.run("token").await.out, "access-3");
    let kept = &shell.stored_login("default")["tokens"];
    assert_eq!((&kept["refresh"], &kept["id"]["subject"]), (&"refresh-2".into(), &"alice".into()), "{kept}");
    assert_eq!(shell.run("token --id-token").await.code, 0);
}

#[tokio::test]
async fn a_response_without_a_usable_token_is_refused() {
    let issuer = Issuer::start().await;
    let shell = Shell::new();
    answers(&issuer, tokens(1, 0), || tokens(2, 300));
    log_in(&issuer, &shell).await;
    for (member, value, why) in [
        ("token_type", json!("DPoP"), "its token is not a bearer token"),
        ("token_type", Value::Null, "the provider's response is invalid"),
        ("access_token", json!("two words"), "its token has a byte that no header may have"),
        ("access_token", json!("line\nX-Other: 1"), "its token has a byte that no header may have"),
        ("access_token", json!({"the": "secret-inside"}), "the provider's response is invalid"),
        ("expires_in", json!(0), "a token that has already expired"),
    ] {
        let mut answer = tokens(2, 300);
        answer[member] = value.clone();
        answers(&issuer, tokens(1, 0), move || answer.clone());
        let said = shell.run("token").await;
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{member} {value}: {said:?}");
        assert!(said.err.contains(why), "{member} {value}: {said:?}");
        assert!(!said.err.contains("secret-inside"), "{said:?}");
    }
}
