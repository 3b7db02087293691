//! The gate's signing keys, for its assertions and tokens.
//!
//! Promises: ES256 only. The gate generates and rotates the keys, in a directory that several gates may share. A new key is
//! published before it signs, an old one until everything that it signed has expired. Signing takes no lock and no I/O.
//! Never: a private key outside its file and this module, or any part of one in a log.

mod key;
mod plan;

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use self::key::SigningKey;
pub(crate) use self::{
    key::KeyError,
    plan::{KeyName, MAX_LIFETIME, Schedule, plan},
};
use crate::{
    clock::{self, Timestamp},
    telemetry::{Telemetry, chain},
};

/// The interval between two reads of the directory: other gates add keys, and an administrator may remove one.
const READ_INTERVAL: Duration = Duration::from_secs(5);
/// The component name in readiness.
pub(crate) const COMPONENT: &str = "signing keys";

/// The directory of the keys, and their rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The directory; it is created if missing.
    pub directory: PathBuf,
    /// The rotation schedule.
    pub schedule: Schedule,
}

/// The signing keys, as last read from the directory.
pub struct Signing {
    settings: Settings,
    snapshot: ArcSwap<KeySnapshot>,
    changes: watch::Sender<u64>,
}

/// The keys of one read.
#[derive(Default)]
struct KeySnapshot {
    keys: BTreeMap<KeyName, Arc<SigningKey>>,
    signer: Option<(KeyName, Arc<SigningKey>)>,
    /// The JWKS document.
    jwks: String,
    published: usize,
}

impl Signing {
    /// Reads the keys, and generates the first. [`Signing::run`] repeats this and reports errors. It blocks while it reads a
    /// few small files, so that a reload that changes the settings never lacks a key.
    #[must_use]
    pub fn open(settings: Settings) -> Self {
        let snapshot = KeySnapshot { jwks: jwks([]), ..KeySnapshot::default() };
        let signing = Self { settings, snapshot: ArcSwap::from_pointee(snapshot), changes: watch::Sender::new(0) };
        signing.update(clock::now());
        signing
    }

    /// Signs a JWT with these claims, which are a JSON object; `None` if there is no key.
    ///
    /// # Errors
    /// If the cryptography library fails.
    pub fn sign(&self, typ: &str, claims: &str) -> Result<Option<String>, KeyError> {
        let snapshot = self.snapshot.load();
        snapshot.signer.as_ref().map(|(_, key)| key.sign(typ, claims)).transpose()
    }

    /// The JWKS (RFC 7517 section 5) with every published key, without private members.
    #[must_use]
    pub fn jwks(&self) -> String {
        self.snapshot.load().jwks.clone()
    }

    /// The version of the published keys; changes with every change of them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The current version of the published keys.
    #[must_use]
    pub fn version(&self) -> u64 {
        *self.changes.borrow()
    }

    /// The number of published keys.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.snapshot.load().published
    }

    /// The creation time of the current signing key.
    #[must_use]
    pub fn signing_since(&self) -> Option<Timestamp> {
        self.snapshot.load().signer.as_ref().map(|(name, _)| name.created)
    }

    /// The creation time of the newest key: the last rotation.
    #[must_use]
    pub fn rotated_at(&self) -> Option<Timestamp> {
        self.snapshot.load().keys.keys().map(|name| name.created).max()
    }

    /// Reads, generates and removes keys, while it is polled.
    pub async fn run(self: Arc<Self>, telemetry: &Telemetry) {
        loop {
            let this = self.clone();
            // it cannot panic; if it is cancelled at a shutdown, nothing has changed
            let problems = tokio::task::spawn_blocking(move || this.update(clock::now())).await.unwrap_or_default();
            let blocks = self.snapshot.load().signer.is_none();
            if problems.is_empty() && !blocks {
                telemetry.set_healthy(COMPONENT);
            } else {
                let problems: Vec<String> = problems.iter().map(|error| chain(error)).collect();
                tracing::warn!(problems = problems.join("; "), "the signing keys could not be updated");
                telemetry.set_unhealthy(COMPONENT, blocks, problems.join("; "));
            }
            tokio::time::sleep(READ_INTERVAL).await;
        }
    }

    /// Reads the directory, and generates or removes keys as planned. Returns the errors.
    fn update(&self, now: Timestamp) -> Vec<KeyError> {
        let Settings { directory, schedule } = &self.settings;
        let mut problems = Vec::new();
        let found = create_directory(directory).and_then(|()| key::names(directory));
        problems.extend(check_writable(directory).err());
        let mut names = match found {
            Ok(names) => names,
            // the last keys continue to sign: verifiers that have read them can verify their signatures
            Err(error) => return vec![error],
        };
        if plan(&names, now, *schedule).generate {
            match SigningKey::generate(directory, now).and_then(|generated| {
                tracing::info!(kid = generated.kid, "a signing key was generated");
                // another gate may have generated one at the same time
                key::names(directory)
            }) {
                Ok(all) => names = all,
                Err(error) => problems.push(error),
            }
        }
        let before = self.snapshot.load_full();
        let mut keys = BTreeMap::new();
        for name in names {
            match before.keys.get(&name).cloned().map_or_else(|| SigningKey::read(directory, &name).map(Arc::new), Ok) {
                Ok(key) => drop(keys.insert(name, key)),
                Err(error) => problems.push(error),
            }
        }
        let usable: Vec<KeyName> = keys.keys().cloned().collect();
        let plan = plan(&usable, now, *schedule);
        for name in &plan.remove {
            tracing::info!(kid = name.kid, "a signing key has expired");
            problems.extend(key::remove(directory, name).err());
        }
        let pick = |name: &KeyName| keys.get(name).map(|key| (name.clone(), key.clone()));
        let signer = plan.signing.and_then(pick);
        let published: Vec<_> = plan.published.iter().filter_map(|name| keys.get(*name)).map(|k| k.jwk()).collect();
        let snapshot = KeySnapshot { published: published.len(), jwks: jwks(published), signer, keys };
        let changed = snapshot.jwks != before.jwks;
        self.snapshot.store(Arc::new(snapshot));
        if changed {
            self.changes.send_modify(|n| *n += 1);
        }
        problems
    }
}

/// Creates the directory if missing, accessible to its owner only.
fn create_directory(directory: &Path) -> Result<(), KeyError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|e| KeyError::File(directory.to_owned(), e))
}

/// Checks that a key can be written to the directory when it is due.
fn check_writable(directory: &Path) -> Result<(), KeyError> {
    let probe = directory.join(format!(".writable-{}", std::process::id()));
    let tried = std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe));
    tried.map_err(|e| KeyError::File(directory.to_owned(), e))
}

fn jwks(keys: impl IntoIterator<Item = serde_json::Value>) -> String {
    serde_json::json!({ "keys": keys.into_iter().collect::<Vec<_>>() }).to_string()
}
