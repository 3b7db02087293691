//! The gate's own keys: with them it signs what it says of its callers.
//!
//! Promises: ES256 alone; keys are made and rotated by the gate, in a directory that several gates may share; a new key
//! is published before it signs, an old one until all that it signed has ended. Signing takes no lock and no I/O.
//! Never: a private key outside its file and this module, nor any part of one in a log.

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

/// How often the directory is looked at: for keys of other gates, and for those that somebody removed.
const TICK: Duration = Duration::from_secs(5);
/// What readiness calls it.
pub(crate) const COMPONENT: &str = "signing keys";

/// Where keys are and when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The directory; it is made where it is missing.
    pub directory: PathBuf,
    /// When keys change.
    pub schedule: Schedule,
}

/// The keys, as of the last look.
pub struct Signing {
    settings: Settings,
    ring: ArcSwap<Ring>,
    changes: watch::Sender<u64>,
}

/// One look's keys.
#[derive(Default)]
struct Ring {
    keys: BTreeMap<KeyName, Arc<SigningKey>>,
    signs: Option<(KeyName, Arc<SigningKey>)>,
    /// The JWKS document.
    jwks: String,
    published: usize,
}

impl Signing {
    /// Reads the keys, and makes the first; what goes wrong shows when [`Signing::run`] tries it again. It blocks, for
    /// as long as a few small files take: whoever changes a setting of the keys must not be without them for a moment.
    #[must_use]
    pub fn open(settings: Settings) -> Self {
        let ring = Ring { jwks: jwks([]), ..Ring::default() };
        let signing = Self { settings, ring: ArcSwap::from_pointee(ring), changes: watch::Sender::new(0) };
        signing.look(clock::now());
        signing
    }

    /// Signs a JWT with these claims, which are a JSON object; nothing where there is no key.
    ///
    /// # Errors
    /// When the library cannot sign.
    pub fn sign(&self, typ: &str, claims: &str) -> Result<Option<String>, KeyError> {
        let ring = self.ring.load();
        ring.signs.as_ref().map(|(_, key)| key.sign(typ, claims)).transpose()
    }

    /// The JWKS (RFC 7517 section 5) with every published key; of the private halves nothing.
    #[must_use]
    pub fn jwks(&self) -> String {
        self.ring.load().jwks.clone()
    }

    /// Changes its value whenever the published keys have changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Which change of the published keys was the last.
    #[must_use]
    pub fn version(&self) -> u64 {
        *self.changes.borrow()
    }

    /// How many keys are published.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.ring.load().published
    }

    /// When the key that signs was made.
    #[must_use]
    pub fn signing_since(&self) -> Option<Timestamp> {
        self.ring.load().signs.as_ref().map(|(name, _)| name.created)
    }

    /// When the newest key was made: the last rotation.
    #[must_use]
    pub fn rotated_at(&self) -> Option<Timestamp> {
        self.ring.load().keys.keys().map(|name| name.created).max()
    }

    /// Reads, makes and removes keys, for as long as it is polled.
    pub async fn run(self: Arc<Self>, telemetry: &Telemetry) {
        loop {
            let this = self.clone();
            // it cannot panic; if it were cut off at a stop, nothing has changed
            let looked = tokio::task::spawn_blocking(move || this.look(clock::now())).await.unwrap_or_default();
            let blocks = self.ring.load().signs.is_none();
            if looked.is_empty() && !blocks {
                telemetry.set_healthy(COMPONENT);
            } else {
                let said: Vec<String> = looked.iter().map(|error| chain(error)).collect();
                tracing::warn!(problems = said.join("; "), "the signing keys are not as they should be");
                telemetry.set_unhealthy(COMPONENT, blocks, said.join("; "));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Looks at the directory once and does what is due; gives what went wrong.
    fn look(&self, now: Timestamp) -> Vec<KeyError> {
        let Settings { directory, schedule } = &self.settings;
        let mut problems = Vec::new();
        let found = open(directory).and_then(|()| key::names(directory));
        problems.extend(writable(directory).err());
        let mut names = match found {
            Ok(names) => names,
            // the keys at hand still sign: what they signed can be verified wherever they were read
            Err(error) => return vec![error],
        };
        if plan(&names, now, *schedule).make {
            match SigningKey::make(directory, now).and_then(|made| {
                tracing::info!(kid = made.kid, "a signing key was made");
                // another gate may have made one in the same moment
                key::names(directory)
            }) {
                Ok(all) => names = all,
                Err(error) => problems.push(error),
            }
        }
        let before = self.ring.load_full();
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
            tracing::info!(kid = name.kid, "a signing key is over");
            problems.extend(key::remove(directory, name).err());
        }
        let pick = |name: &KeyName| keys.get(name).map(|key| (name.clone(), key.clone()));
        let signs = plan.signing.and_then(pick);
        let published: Vec<_> = plan.published.iter().filter_map(|name| keys.get(*name)).map(|k| k.jwk()).collect();
        let ring = Ring { published: published.len(), jwks: jwks(published), signs, keys };
        let changed = ring.jwks != before.jwks;
        self.ring.store(Arc::new(ring));
        if changed {
            self.changes.send_modify(|n| *n += 1);
        }
        problems
    }
}

/// Makes the directory where it is missing, for its owner alone.
fn open(directory: &Path) -> Result<(), KeyError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|e| KeyError::File(directory.to_owned(), e))
}

/// Whether a key could be made here when its time comes.
fn writable(directory: &Path) -> Result<(), KeyError> {
    let probe = directory.join(format!(".writable-{}", std::process::id()));
    let tried = std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe));
    tried.map_err(|e| KeyError::File(directory.to_owned(), e))
}

fn jwks(keys: impl IntoIterator<Item = serde_json::Value>) -> String {
    serde_json::json!({ "keys": keys.into_iter().collect::<Vec<_>>() }).to_string()
}
