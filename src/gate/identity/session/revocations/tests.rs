//! Which sessions a revocation ends, now and after a restart.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn session(created: i64, sid: &str) -> SessionIdentifiers {
    let sid = (!sid.is_empty()).then(|| sid.into());
    SessionIdentifiers { id: Uuid::now_v7(), issuer: "corp".into(), subject: "ada".into(), sid, created: at(created) }
}

fn is_valid(revocations: &Revocations, session: &SessionIdentifiers, now: i64) -> bool {
    revocations.admit(session, at(now + 3600), at(now)).unwrap().is_ok()
}

#[tokio::test]
async fn a_revocation_ends_the_sessions_that_it_includes_and_no_others() {
    let check_of = async |sid: &str, target: fn(&SessionIdentifiers) -> RevocationTarget, ended: bool, what: &str| {
        let revocations = Revocations::open(None, at(0));
        let session = session(100, sid);
        let stream = revocations.admit(&session, at(4000), at(150)).unwrap().unwrap();
        revocations.revoke(target(&session), at(200)).await.unwrap();
        assert_eq!(stream.is_cancelled(), ended, "its stream, by {what}");
        assert_eq!(!is_valid(&revocations, &session, 201), ended, "its cookie, by {what}");
    };
    let check = async |target, ended, what| check_of("s", target, ended, what).await;
    check(|session| RevocationTarget::Session(session.id), true, "its id").await;
    check(|_| RevocationTarget::Session(Uuid::now_v7()), false, "another id").await;
    check(|_| RevocationTarget::Sid("corp".into(), "s".into()), true, "its sid").await;
    check(|_| RevocationTarget::Sid("corp".into(), "t".into()), false, "another sid").await;
    check(|_| RevocationTarget::Sid("other".into(), "s".into()), false, "another issuer's sid").await;
    check(|_| RevocationTarget::Subject("corp".into(), "ada".into()), true, "its subject").await;
    check(|_| RevocationTarget::Subject("corp".into(), "bob".into()), false, "another subject").await;
    check(|_| RevocationTarget::SubjectWithoutSid("corp".into(), "ada".into()), false, "its subject's without a sid")
        .await;
    check_of(
        "",
        |_| RevocationTarget::SubjectWithoutSid("corp".into(), "ada".into()),
        true,
        "its subject's, without a sid",
    )
    .await;
    check_of(
        "",
        |_| RevocationTarget::SubjectWithoutSid("other".into(), "ada".into()),
        false,
        "another issuer's without a sid",
    )
    .await;
}

#[tokio::test]
async fn a_sid_that_a_refresh_brings_ends_the_stream_from_before() {
    let revocations = Revocations::open(None, at(0));
    let mut session = session(100, "");
    let stream = revocations.admit(&session, at(4000), at(150)).unwrap().unwrap();
    session.sid = Some("s".into());
    assert!(is_valid(&revocations, &session, 160));
    revocations.revoke(RevocationTarget::SubjectWithoutSid("corp".into(), "ada".into()), at(200)).await.unwrap();
    assert!(!stream.is_cancelled(), "it has a sid now");
    revocations.revoke(RevocationTarget::Sid("corp".into(), "s".into()), at(210)).await.unwrap();
    assert!(stream.is_cancelled());
}

#[tokio::test]
async fn a_new_login_after_a_revocation_is_accepted() {
    let revocations = Revocations::open(None, at(0));
    revocations.revoke(RevocationTarget::Subject("corp".into(), "ada".into()), at(200)).await.unwrap();
    assert!(!is_valid(&revocations, &session(200, ""), 201), "begun before");
    assert!(is_valid(&revocations, &session(201, ""), 202), "begun after");
}

#[tokio::test]
async fn a_revocation_survives_a_restart() {
    let directory = crate::pipeline::testing::Directory::new("ended-sessions");
    std::fs::create_dir_all(&directory.0).unwrap();
    let file = directory.0.join("sessions.ended");
    let gone = session(100, "s");
    let other = session(100, "t");
    let revocations = Revocations::open(Some(&file), at(0));
    revocations.revoke(RevocationTarget::Session(gone.id), at(200)).await.unwrap();
    drop(revocations);
    // as a crash in the middle of a line leaves it
    std::fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"target\"").unwrap();
    let revocations = Revocations::open(Some(&file), at(300));
    assert!(!is_valid(&revocations, &gone, 301));
    assert!(is_valid(&revocations, &other, 301));
    drop(revocations);
    // kept as long as any session can last
    drop(Revocations::open(Some(&file), at(199 + 720 * 3600)));
    assert_ne!(std::fs::read_to_string(&file).unwrap(), "");
    drop(Revocations::open(Some(&file), at(200 + 720 * 3600)));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
    std::fs::write(&file, "not a line\n").unwrap();
    let revocations = Revocations::open(Some(&file), at(300));
    assert!(!is_valid(&revocations, &other, 301), "whether it was revoked is unknown");
    assert!(is_valid(&revocations, &session(300, ""), 301));
}

#[tokio::test]
async fn a_revocation_survives_a_change_of_the_file() {
    let directory = crate::pipeline::testing::Directory::new("ended-sessions-moved");
    std::fs::create_dir_all(&directory.0).unwrap();
    let one = directory.0.join("one.ended");
    let two = directory.0.join("two.ended");
    let before = session(100, "s");
    let known = session(100, "t");
    let after = session(100, "u");
    Revocations::open(Some(&two), at(0)).revoke(RevocationTarget::Session(known.id), at(150)).await.unwrap();
    let revocations = Revocations::open(Some(&one), at(0));
    let stream = revocations.admit(&after, at(4000), at(190)).unwrap().unwrap();
    revocations.revoke(RevocationTarget::Session(before.id), at(200)).await.unwrap();
    revocations.set_file(Some(&two), at(300));
    assert!(
        !is_valid(&revocations, &before, 301)
            && !is_valid(&revocations, &known, 301)
            && is_valid(&revocations, &after, 301)
    );
    revocations.revoke(RevocationTarget::Session(after.id), at(310)).await.unwrap();
    assert!(stream.is_cancelled(), "a stream from before");
    drop(revocations);
    let revocations = Revocations::open(Some(&two), at(400));
    for session in [&before, &known, &after] {
        assert!(!is_valid(&revocations, session, 401), "after a restart");
    }
    revocations.set_file(None, at(500));
    assert!(!is_valid(&revocations, &before, 501));
    std::fs::write(&one, "not a line\n").unwrap();
    assert!(is_valid(&revocations, &session(450, ""), 501));
    revocations.set_file(Some(&one), at(600));
    assert!(!is_valid(&revocations, &session(450, ""), 601), "whether it was revoked is unknown");
}

#[test]
fn a_single_use_value_is_used_once() {
    let revocations = Revocations::open(None, at(0));
    let use_once = |what, now| revocations.use_once(SingleUse::LoginState, [what; 32], at(100), at(now)).unwrap();
    assert!(!revocations.was_used(SingleUse::LoginState, [1; 32], at(0)));
    assert!(use_once(1, 0));
    assert!(!use_once(1, 50));
    assert!(
        revocations.was_used(SingleUse::LoginState, [1; 32], at(50))
            && !revocations.was_used(SingleUse::LoginState, [1; 32], at(100))
    );
    assert!(use_once(2, 50));
    assert!(revocations.use_once(SingleUse::LogoutToken, [1; 32], at(100), at(50)).unwrap(), "of another kind");
}

#[test]
fn a_flood_of_logins_leaves_room_for_logout_tokens() {
    let revocations = Revocations::open(None, at(0));
    let digest = |number: usize| blake3::hash(&number.to_le_bytes()).into();
    let logins =
        (0..=CAPACITY).map(|number| revocations.use_once(SingleUse::LoginState, digest(number), at(100), at(0)));
    assert_eq!(logins.filter(|used| *used.as_ref().unwrap_or(&false)).count(), CAPACITY, "and it is bounded");
    assert!(revocations.use_once(SingleUse::LogoutToken, digest(0), at(100), at(0)).unwrap());
    assert!(
        revocations.use_once(SingleUse::LoginState, digest(CAPACITY), at(200), at(100)).unwrap(),
        "room again, later"
    );
}
