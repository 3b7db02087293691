//! What a reload does to sessions that are in use.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::*;
use crate::{client::Client, clock, gate::identity::issuer, secret::Secret};

/// A `[sessions]` section with one provider, `corp`.
fn sessions(memory: &Arc<Memory>, client_id: &str, bend: impl FnOnce(&mut issuer::Settings)) -> Arc<Sessions> {
    let mut corp = issuer::Settings::test();
    bend(&mut corp);
    let login = LoginSettings {
        issuer: "corp".into(),
        title: "Corp".into(),
        client_id: client_id.into(),
        client_secret: None,
        scopes: vec!["openid".into()],
        end_session: None,
    };
    let (url, longest) = ("https://gate.test".into(), Duration::from_secs(3600));
    let settings = Settings { url, logins: vec![login], keys: Vec::new(), longest, ended: None };
    let issuer = Arc::new(Issuer::new(corp, Arc::new(Client::new(None).unwrap())));
    Arc::new(Sessions::new(settings, &[issuer], memory.clone()).unwrap())
}

/// Ada's session; its ID token was checked when it began, so that nobody looks at the signature.
fn session(now: Timestamp) -> Session {
    let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = part(serde_json::json!({"alg": "ES256"}));
    let claims = part(serde_json::json!({"iss": "https://idp.test", "aud": "gate", "sub": "ada"}));
    Session {
        id: Uuid::now_v7(),
        generation: 0,
        issuer: "corp".into(),
        sid: None,
        id_token: Secret::new(format!("{header}.{claims}.c2lnbmF0dXJl")),
        refresh_token: None,
        created: now,
        issued: now,
        ends: clock::after(now, Duration::from_secs(600)),
    }
}

#[test]
fn what_stands_on_a_session_ends_with_its_provider() {
    let now = clock::now();
    // whether its streams go on, and whether it counts when it comes again
    let check = |client_id: &str, bend: fn(&mut issuer::Settings), goes_on: bool, counts: bool| {
        let memory = Arc::new(Memory::open(None, now).unwrap());
        let before = sessions(&memory, "gate", |_| {});
        let (sealed, opened) = before.seal(session(now), now).unwrap();
        let next = sessions(&memory, client_id, bend);
        before.retire(Some(&next));
        assert_eq!(!opened.principal.ended.is_cancelled(), goes_on, "its stream");
        let again = next.opened(&Found::Sealed(sealed.clone()), now);
        assert_eq!(again.is_ok_and(|(again, _)| !again.principal.ended.is_cancelled()), counts, "its cookie");
        // a request that was under way
        assert_eq!(before.opened(&Found::Sealed(sealed), now).is_ok(), goes_on);
    };
    check("gate", |_| {}, true, true);
    check("gate", |corp| corp.grace = Duration::ZERO, true, true);
    check("gate", |corp| corp.rules.leeway = Duration::ZERO, false, true);
    check("another", |_| {}, false, false);
    check("gate", |corp| corp.rules.issuer = "https://another.test".into(), false, false);
    check("gate", |corp| corp.name = "renamed".into(), false, false);
}

#[test]
fn what_stands_on_sessions_ends_where_nobody_logs_in_any_longer() {
    let now = clock::now();
    let before = sessions(&Arc::new(Memory::open(None, now).unwrap()), "gate", |_| {});
    let (_, opened) = before.seal(session(now), now).unwrap();
    before.retire(None);
    assert!(opened.principal.ended.is_cancelled());
}
