//! What ends, what stays, and over a restart too.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn names(created: i64, sid: &str) -> Names {
    let sid = (!sid.is_empty()).then(|| sid.into());
    Names { id: Uuid::now_v7(), issuer: "corp".into(), subject: "ada".into(), sid, created: at(created) }
}

fn counts(memory: &Memory, names: &Names, now: i64) -> bool {
    memory.admit(names, at(now + 3600), at(now)).unwrap().is_ok()
}

#[tokio::test]
async fn what_ends_a_session_ends_what_it_means_and_no_more() {
    let check_of = async |sid: &str, who: fn(&Names) -> Who, ended: bool, what: &str| {
        let memory = Memory::open(None, at(0)).unwrap();
        let names = names(100, sid);
        let stream = memory.admit(&names, at(4000), at(150)).unwrap().unwrap();
        memory.end(who(&names), at(200)).await.unwrap();
        assert_eq!(stream.is_cancelled(), ended, "its stream, by {what}");
        assert_eq!(!counts(&memory, &names, 201), ended, "its cookie, by {what}");
    };
    let check = async |who, ended, what| check_of("s", who, ended, what).await;
    check(|names| Who::Session(names.id), true, "its id").await;
    check(|_| Who::Session(Uuid::now_v7()), false, "another id").await;
    check(|_| Who::Sid("corp".into(), "s".into()), true, "its sid").await;
    check(|_| Who::Sid("corp".into(), "t".into()), false, "another sid").await;
    check(|_| Who::Sid("other".into(), "s".into()), false, "another issuer's sid").await;
    check(|_| Who::Subject("corp".into(), "ada".into()), true, "its subject").await;
    check(|_| Who::Subject("corp".into(), "bob".into()), false, "another subject").await;
    check(|_| Who::Unnamed("corp".into(), "ada".into()), false, "its subject's without a sid").await;
    check_of("", |_| Who::Unnamed("corp".into(), "ada".into()), true, "its subject's, without a sid").await;
    check_of("", |_| Who::Unnamed("other".into(), "ada".into()), false, "another issuer's without a sid").await;
}

#[tokio::test]
async fn a_sid_that_a_refresh_tells_ends_the_stream_from_before() {
    let memory = Memory::open(None, at(0)).unwrap();
    let mut names = names(100, "");
    let stream = memory.admit(&names, at(4000), at(150)).unwrap().unwrap();
    names.sid = Some("s".into());
    assert!(counts(&memory, &names, 160));
    memory.end(Who::Unnamed("corp".into(), "ada".into()), at(200)).await.unwrap();
    assert!(!stream.is_cancelled(), "it has a name now");
    memory.end(Who::Sid("corp".into(), "s".into()), at(210)).await.unwrap();
    assert!(stream.is_cancelled());
}

#[tokio::test]
async fn who_signs_in_again_is_let_in() {
    let memory = Memory::open(None, at(0)).unwrap();
    memory.end(Who::Subject("corp".into(), "ada".into()), at(200)).await.unwrap();
    assert!(!counts(&memory, &names(200, ""), 201), "begun before");
    assert!(counts(&memory, &names(201, ""), 202), "begun after");
}

#[tokio::test]
async fn a_session_that_ended_stays_ended_over_a_restart() {
    let directory = crate::pipeline::testing::Directory::new("ended-sessions");
    std::fs::create_dir_all(&directory.0).unwrap();
    let file = directory.0.join("sessions.ended");
    let (gone, other) = (names(100, "s"), names(100, "t"));
    let memory = Memory::open(Some(&file), at(0)).unwrap();
    memory.end(Who::Session(gone.id), at(200)).await.unwrap();
    drop(memory);
    // as a crash in the middle of a line leaves it
    std::fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"who\"").unwrap();
    let memory = Memory::open(Some(&file), at(300)).unwrap();
    assert!(!counts(&memory, &gone, 301));
    assert!(counts(&memory, &other, 301));
    drop(memory);
    // kept as long as any session can last, and no longer
    drop(Memory::open(Some(&file), at(199 + 720 * 3600)).unwrap());
    assert_ne!(std::fs::read_to_string(&file).unwrap(), "");
    drop(Memory::open(Some(&file), at(200 + 720 * 3600)).unwrap());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
    std::fs::write(&file, "not a line\n").unwrap();
    let memory = Memory::open(Some(&file), at(300)).unwrap();
    assert!(!counts(&memory, &other, 301), "nobody can say whether it ended");
    assert!(counts(&memory, &names(300, ""), 301));
}

#[tokio::test]
async fn a_session_that_ended_stays_ended_where_the_file_is_another() {
    let directory = crate::pipeline::testing::Directory::new("ended-sessions-moved");
    std::fs::create_dir_all(&directory.0).unwrap();
    let (one, two) = (directory.0.join("one.ended"), directory.0.join("two.ended"));
    let (before, known, after) = (names(100, "s"), names(100, "t"), names(100, "u"));
    Memory::open(Some(&two), at(0)).unwrap().end(Who::Session(known.id), at(150)).await.unwrap();
    let memory = Memory::open(Some(&one), at(0)).unwrap();
    let stream = memory.admit(&after, at(4000), at(190)).unwrap().unwrap();
    memory.end(Who::Session(before.id), at(200)).await.unwrap();
    memory.keep_in(Some(&two), at(300));
    assert!(!counts(&memory, &before, 301) && !counts(&memory, &known, 301) && counts(&memory, &after, 301));
    memory.end(Who::Session(after.id), at(310)).await.unwrap();
    assert!(stream.is_cancelled(), "a stream from before");
    drop(memory);
    let memory = Memory::open(Some(&two), at(400)).unwrap();
    for names in [&before, &known, &after] {
        assert!(!counts(&memory, names, 401), "after a restart");
    }
    memory.keep_in(None, at(500));
    assert!(!counts(&memory, &before, 501));
    std::fs::write(&one, "not a line\n").unwrap();
    assert!(counts(&memory, &names(450, ""), 501));
    memory.keep_in(Some(&one), at(600));
    assert!(!counts(&memory, &names(450, ""), 601), "nobody can say whether it ended");
}

#[test]
fn what_is_for_one_use_is_used_once() {
    let memory = Memory::open(None, at(0)).unwrap();
    let use_once = |what, now| memory.use_once(Once::Login, [what; 32], at(100), at(now)).unwrap();
    assert!(!memory.was_used(Once::Login, [1; 32], at(0)));
    assert!(use_once(1, 0));
    assert!(!use_once(1, 50));
    assert!(memory.was_used(Once::Login, [1; 32], at(50)) && !memory.was_used(Once::Login, [1; 32], at(100)));
    assert!(use_once(2, 50));
    assert!(memory.use_once(Once::LogoutToken, [1; 32], at(100), at(50)).unwrap(), "of another kind");
}

#[test]
fn a_flood_of_logins_leaves_room_for_logout_tokens() {
    let memory = Memory::open(None, at(0)).unwrap();
    let digest = |number: usize| blake3::hash(&number.to_le_bytes()).into();
    let logins = (0..=MOST).map(|number| memory.use_once(Once::Login, digest(number), at(100), at(0)));
    assert_eq!(logins.filter(|used| *used.as_ref().unwrap_or(&false)).count(), MOST, "and it is bounded");
    assert!(memory.use_once(Once::LogoutToken, digest(0), at(100), at(0)).unwrap());
    assert!(memory.use_once(Once::Login, digest(MOST), at(200), at(100)).unwrap(), "room again, later");
}
