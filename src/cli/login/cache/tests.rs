//! The promises of the login cache, on a real file system.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::{
    cli::login::stored::{Settings, StoredSecret, TokenSet},
    clock::Timestamp,
    secret::Secret,
};

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("wicketgate-cache-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn cache(&self) -> PathBuf {
        self.0.join("state/wicketgate")
    }

    fn make(&self) -> LoginCache {
        LoginCache::make(&self.cache()).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn login(token: &str) -> StoredLogin {
    let secret = |text: String| StoredSecret(Secret::new(text));
    StoredLogin {
        settings: Settings {
            issuer: "https://idp.test".into(),
            client_id: "cli".into(),
            scopes: vec!["openid".into()],
            resource: None,
            audience: None,
            ca: None,
        },
        tokens: TokenSet {
            access: secret(token.to_owned()),
            expires_at: Some(Timestamp::from_second(1_800_000_000).unwrap()),
            refresh: Some(secret(format!("{token}-refresh"))),
            id: None,
        },
    }
}

async fn store(cache: &LoginCache, token: &str) {
    cache.lock("default").await.unwrap().reserve().unwrap().fill(&login(token)).unwrap();
}

fn token(cache: &LoginCache) -> Option<String> {
    cache.read("default").unwrap().map(|login| login.tokens.access.0.expose().to_owned())
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn only_its_owner_can_read_a_login() {
    let directory = Directory::new();
    let cache = directory.make();
    assert!(cache.read("default").unwrap().is_none());
    store(&cache, "one").await;
    store(&cache, "two").await;
    assert_eq!(token(&cache).as_deref(), Some("two"));
    let again = LoginCache::existing(&directory.cache()).unwrap().unwrap();
    let read = again.read("default").unwrap().unwrap();
    assert_eq!(read.settings, login("two").settings);
    assert_eq!(read.tokens.expires_at, login("two").tokens.expires_at);
    assert_eq!(read.tokens.refresh.unwrap().0.expose(), "two-refresh");
    assert_eq!(mode(&directory.cache()), 0o700);
    for entry in std::fs::read_dir(directory.cache()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        assert_ne!(path.extension().unwrap(), "new", "the reserved file is still there");
    }
    assert_eq!(cache.names().unwrap(), ["default"]);
    cache.lock("default").await.unwrap().remove().unwrap();
    assert!(cache.read("default").unwrap().is_none());
    assert!(cache.names().unwrap().is_empty());
}

#[tokio::test]
async fn a_file_that_is_open_to_others_is_not_read() {
    let directory = Directory::new();
    let cache = directory.make();
    store(&cache, "one").await;
    let file = directory.cache().join("default.json");
    for open in [0o604, 0o640, 0o620, 0o602, 0o610] {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(open)).unwrap();
        assert!(matches!(cache.read("default"), Err(CacheError::Open(_))), "{open:o}");
    }
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(token(&cache).as_deref(), Some("one"));
    std::fs::set_permissions(directory.cache(), PermissionsExt::from_mode(0o750)).unwrap();
    assert!(matches!(LoginCache::existing(&directory.cache()), Err(CacheError::Open(_))));
    assert!(matches!(LoginCache::make(&directory.cache()), Err(CacheError::Open(_))));
}

#[tokio::test]
async fn no_link_is_followed() {
    let directory = Directory::new();
    let cache = directory.make();
    store(&cache, "one").await;
    let file = directory.cache().join("default.json");
    let elsewhere = directory.0.join("elsewhere");
    std::fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert!(matches!(cache.read("default"), Err(CacheError::FileKind(_))));
    // a new login replaces the link, not its target
    store(&cache, "two").await;
    assert_eq!(token(&cache).as_deref(), Some("two"));
    assert!(std::fs::read_to_string(&elsewhere).unwrap().contains("one"));

    let lock = directory.cache().join("default.lock");
    std::fs::remove_file(&lock).unwrap();
    symlink(&elsewhere, &lock).unwrap();
    assert!(matches!(cache.lock("default").await, Err(CacheError::FileKind(_))));

    let link = directory.0.join("link");
    symlink(directory.cache(), &link).unwrap();
    assert!(matches!(LoginCache::existing(&link), Err(CacheError::FileKind(_))));
    assert!(matches!(LoginCache::make(&link), Err(CacheError::FileKind(_))));
}

#[tokio::test]
async fn a_link_in_place_of_the_next_content_is_not_followed() {
    let directory = Directory::new();
    let cache = directory.make();
    let elsewhere = directory.0.join("elsewhere");
    std::fs::write(&elsewhere, "untouched").unwrap();
    symlink(&elsewhere, directory.cache().join("default.new")).unwrap();
    store(&cache, "one").await;
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "untouched");
    assert_eq!(token(&cache).as_deref(), Some("one"));
}

#[tokio::test]
async fn the_old_login_stays_until_the_next_one_is_complete() {
    let directory = Directory::new();
    let cache = directory.make();
    store(&cache, "one").await;
    let lock = cache.lock("default").await.unwrap();
    let reserved = lock.reserve().unwrap();
    assert_eq!(token(&cache).as_deref(), Some("one"), "the reserved file hides the stored login");
    drop(reserved);
    assert_eq!(token(&cache).as_deref(), Some("one"));
    assert!(!directory.cache().join("default.new").exists());
}

#[tokio::test]
async fn one_process_at_a_time_changes_a_login() {
    let directory = Directory::new();
    let cache = directory.make();
    let other = directory.make();
    let first = cache.lock("default").await.unwrap();
    other.lock("another").await.unwrap();
    let mut second = Box::pin(other.lock("default"));
    let waited = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
    assert!(waited.is_err(), "two hold the lock");
    drop(first);
    second.await.unwrap();
}

#[tokio::test]
async fn an_invalid_file_is_not_repeated_in_the_error() {
    let directory = Directory::new();
    let cache = directory.make();
    store(&cache, "one").await;
    let file = directory.cache().join("default.json");
    let good = std::fs::read_to_string(&file).unwrap();
    for bad in ["", "the-secret", &good.replace("\"format\":1", "\"format\":2"), &good.replace("\"one\"", "7")] {
        std::fs::write(&file, bad).unwrap();
        let error = cache.read("default").unwrap_err();
        assert!(matches!(error, CacheError::Content(_)), "{bad}: {error}");
        assert!(!crate::telemetry::chain(&error).contains("secret"), "{error}");
    }
}

#[test]
fn a_name_cannot_leave_the_directory() {
    for (name, good) in [
        ("default", true),
        ("a-b_c.9", true),
        ("", false),
        (".", false),
        ("..", false),
        (".hidden", false),
        ("a/b", false),
        ("../a", false),
        ("a\0b", false),
        ("a b", false),
        ("é", false),
    ] {
        assert_eq!(is_name(name), good, "{name:?}");
    }
    assert!(is_name(&"x".repeat(64)) && !is_name(&"x".repeat(65)));
}
