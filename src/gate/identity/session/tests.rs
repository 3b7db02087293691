//! The effect of a reload on sessions in use.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::{cookie::SessionCookie, sealed::Session, *};
use crate::{
    client::Client,
    clock::{self, Timestamp},
    gate::identity::{self, Issuer},
    secret::Secret,
};

/// A `[sessions]` section with one provider, `corp`.
fn sessions(state: &Arc<SessionState>, client_id: &str, change: impl FnOnce(&mut identity::Settings)) -> Arc<Sessions> {
    let mut corp = identity::Settings::test();
    change(&mut corp);
    let login = LoginSettings {
        issuer: "corp".into(),
        title: "Corp".into(),
        client_id: client_id.into(),
        client_secret: None,
        scopes: vec!["openid".into()],
        end_session: None,
    };
    let settings = Settings {
        url: "https://gate.test".into(),
        logins: vec![login],
        keys: Vec::new(),
        max_lifetime: Duration::from_secs(3600),
        revocations: None,
    };
    let issuer = Arc::new(Issuer::new(corp, Arc::new(Client::new(None).unwrap())));
    Arc::new(Sessions::new(settings, &[issuer], state.clone()).unwrap())
}

/// Ada's session. Its ID token was verified when it began, so its signature does not matter here.
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
fn a_stream_of_a_session_ends_with_its_provider() {
    let now = clock::now();
    // whether its stream stays open, and whether its cookie is accepted again
    let check = |client_id: &str, change: fn(&mut identity::Settings), stays_open: bool, accepted: bool| {
        let state = Arc::new(SessionState::open(None, now).unwrap());
        let before = sessions(&state, "gate", |_| {});
        let (sealed, active) = before.seal(session(now), now).unwrap();
        let next = sessions(&state, client_id, change);
        before.retire(Some(&next));
        assert_eq!(!active.principal.ended.is_cancelled(), stays_open, "its stream");
        let again = next.open_cookie(&SessionCookie::Sealed(sealed.clone()), now);
        assert_eq!(again.is_ok_and(|(again, _)| !again.principal.ended.is_cancelled()), accepted, "its cookie");
        // a request that was under way
        assert_eq!(before.open_cookie(&SessionCookie::Sealed(sealed), now).is_ok(), stays_open);
    };
    check("gate", |_| {}, true, true);
    check("gate", |corp| corp.grace = Duration::ZERO, true, true);
    check("gate", |corp| corp.rules.leeway = Duration::ZERO, false, true);
    check("another", |_| {}, false, false);
    check("gate", |corp| corp.rules.issuer = "https://another.test".into(), false, false);
    check("gate", |corp| corp.name = "renamed".into(), false, false);
}

#[test]
fn the_streams_of_sessions_end_when_logins_are_no_longer_configured() {
    let now = clock::now();
    let before = sessions(&Arc::new(SessionState::open(None, now).unwrap()), "gate", |_| {});
    let (_, active) = before.seal(session(now), now).unwrap();
    before.retire(None);
    assert!(active.principal.ended.is_cancelled());
}
