//! Grants in a NATS key-value bucket that several gates share.
//!
//! Promises: the bucket is the truth. Every change is a compare-and-set on its key's revision, so of two gates that
//! change one grant the second sees what the first did. What this gate knows counts only while it is known to be all
//! there is: at each beat JetStream is asked for its last sequence, and only when everything up to there has been seen
//! is the book trusted for another `stale`, counted from the moment of asking. After that no grant counts and nothing
//! can be changed, until the bucket is in sight again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use async_nats::{
    Auth, AuthError, Client, ConnectOptions,
    jetstream::{
        self,
        kv::{self, CreateErrorKind, Operation, UpdateErrorKind},
        stream::State,
    },
};
use futures_util::StreamExt;

use super::{
    grant::Grant,
    index::{Entries, Entry},
    published::{COMPONENT, GRANTS_LIMIT, PublishedGrants, store_unavailable, unknown_grant},
};
use crate::{
    clock::{self, Timestamp},
    refusal::Refusal,
    secret::{Secret, SecretSource},
    telemetry::Telemetry,
};

/// For one question to NATS.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between two tries to reach it, at most.
const RETRY: Duration = Duration::from_secs(1);
/// The longest beat; a `stale` under 20 s beats faster.
const BEAT: Duration = Duration::from_secs(5);
/// Largest value that is read, in bytes; a grant has at most about 3 KiB.
const MAX_VALUE: usize = 16 << 10;
/// How often a change is tried again when another gate was faster.
const TRIES: usize = 5;

/// Where the bucket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `nats://` or `tls://`, host and port.
    pub url: String,
    /// The bucket's name.
    pub bucket: String,
    /// What NATS is shown; nothing where it asks nobody who they are.
    pub login: Option<Login>,
    /// The certificates to trust it by, instead of the system's.
    pub ca: Option<PathBuf>,
    /// How long grants count without a word from it.
    pub stale: Duration,
}

/// What NATS is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// A token.
    Token(SecretSource),
    /// A user and the password.
    Password(String, SecretSource),
}

/// The bucket, as far as it is in sight.
pub(super) struct Bucket {
    settings: Settings,
    /// How long NATS keeps a key that nobody changes.
    max_age: Duration,
    store: ArcSwapOption<kv::Store>,
}

/// Why the bucket is not in sight.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Trouble(String);

impl Trouble {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl Bucket {
    pub(super) fn new(settings: Settings, max_age: Duration) -> Self {
        Self { settings, max_age, store: ArcSwapOption::empty() }
    }

    /// Keeps a new grant.
    pub(super) async fn create(&self, grants: &PublishedGrants, grant: Grant) -> Result<Arc<Grant>, Refusal> {
        let store = self.in_sight(grants)?;
        let created = store.create(grant.id.to_string(), value(&grant)?).await;
        let revision = created.map_err(|error| match error.kind() {
            CreateErrorKind::AlreadyExists => store_unavailable().with_detail("the id is taken"),
            _ => store_unavailable().with_detail(error),
        })?;
        Ok(self.know(grants, grant, revision))
    }

    /// Takes a grant one step further; again from what another gate made of it, where that was faster.
    pub(super) async fn change(
        &self,
        grants: &PublishedGrants,
        id: uuid::Uuid,
        step: impl Fn(&Grant) -> Result<Grant, Refusal>,
    ) -> Result<Arc<Grant>, Refusal> {
        let store = self.in_sight(grants)?;
        let mut known = grants.book.load().entries.get(&id).cloned().ok_or_else(unknown_grant)?;
        for _ in 0..TRIES {
            let next = step(&known.grant)?;
            match store.update(id.to_string(), value(&next)?, known.revision).await {
                Ok(revision) => return Ok(self.know(grants, next, revision)),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(store_unavailable().with_detail(error)),
            }
            let entry = store
                .entry(id.to_string())
                .await
                .map_err(|e| store_unavailable().with_detail(e))?
                .ok_or_else(unknown_grant)?;
            let grant = read(&entry).ok_or_else(unknown_grant)?;
            known = Entry { grant: Arc::new(grant), revision: entry.revision };
        }
        Err(store_unavailable().with_detail("other gates change it all the time"))
    }

    /// What was just kept counts here at once, without waiting for the bucket's own word.
    fn know(&self, grants: &PublishedGrants, grant: Grant, revision: u64) -> Arc<Grant> {
        let grant = Arc::new(grant);
        let entry = Entry { grant: grant.clone(), revision };
        grants.publish(|entries| newer(entries, entry));
        grant
    }

    fn in_sight(&self, grants: &PublishedGrants) -> Result<Arc<kv::Store>, Refusal> {
        let store = self.store.load_full().filter(|_| grants.is_trusted(clock::now()));
        store.ok_or_else(|| store_unavailable().with_detail("the bucket is not in sight"))
    }

    /// Follows the bucket for as long as it is polled.
    pub(super) async fn follow(&self, grants: &PublishedGrants, telemetry: &Telemetry) {
        telemetry.set_unhealthy(COMPONENT, false, "the bucket is being looked for; until it is found no grant counts");
        let mut client = None;
        loop {
            let Err(trouble) = self.watch(&mut client, grants, telemetry).await;
            tracing::warn!(%trouble, "the bucket of grants cannot be followed");
            telemetry.set_unhealthy(COMPONENT, false, format!("the bucket cannot be followed: {trouble}"));
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Stops trusting what is known once nothing was heard for too long, for as long as it is polled. Requests heed the
    /// moment itself; what stands open is told within a beat.
    pub(super) async fn watch_over(&self, grants: &PublishedGrants, telemetry: &Telemetry) {
        let mut trusted = false;
        loop {
            tokio::time::sleep(self.beat()).await;
            let still = grants.is_trusted(clock::now());
            if trusted && !still {
                tracing::error!("the bucket of grants was out of sight for too long: no grant counts");
                telemetry.set_unhealthy(COMPONENT, false, "the bucket was out of sight for too long; no grant counts");
                grants.publish(|_| ());
            } else if still && !trusted {
                telemetry.set_healthy(COMPONENT);
            }
            trusted = still;
        }
    }

    fn beat(&self) -> Duration {
        (self.settings.stale / 4).min(BEAT)
    }

    async fn watch(
        &self,
        client: &mut Option<Client>,
        grants: &PublishedGrants,
        telemetry: &Telemetry,
    ) -> Result<std::convert::Infallible, Trouble> {
        let connected = match client {
            Some(client) => client,
            None => client.insert(self.connect().await?),
        };
        let store = self.bucket(connected.clone()).await?;
        // what this gate changes meanwhile would be older news in the end than what was read before it
        let turn = grants.turn.clone().lock_owned().await;
        let mut asked_at = clock::now();
        let at_first = state(&store).await?;
        let mut watch = store.watch_with_history(">").await.map_err(Trouble::new)?;
        let mut entries = Entries::new();
        let mut seen = at_first.last_sequence;
        // every key's last word; the last of them says that none is left
        let mut left = at_first.messages;
        while left > 0 {
            let next = tokio::time::timeout(DEADLINE, watch.next()).await.map_err(Trouble::new)?;
            let entry = next.ok_or_else(|| Trouble::new("the watch has ended"))?.map_err(Trouble::new)?;
            (left, seen) = (entry.delta, seen.max(entry.revision));
            apply(&mut entries, &entry);
        }
        grants.trust_until(clock::after(asked_at, self.settings.stale));
        grants.publish(|known| *known = entries);
        drop(turn);
        self.store.store(Some(Arc::new(store.clone())));
        telemetry.set_healthy(COMPONENT);
        tracing::info!(bucket = self.settings.bucket, "the bucket of grants is followed");

        let mut beat = tokio::time::interval(self.beat());
        let mut needed = None;
        loop {
            tokio::select! {
                next = watch.next() => {
                    let entry = next.ok_or_else(|| Trouble::new("the watch has ended"))?.map_err(Trouble::new)?;
                    seen = seen.max(entry.revision);
                    grants.publish(|known| apply(known, &entry));
                }
                _ = beat.tick() => {
                    if clock::after(asked_at, self.settings.stale) <= clock::now() && needed.is_some() {
                        return Err(Trouble::new("what the bucket holds does not come"));
                    }
                    let now = clock::now();
                    let at_beat = state(&store).await?;
                    if at_beat.last_sequence < seen || at_beat.messages == 0 && !grants.book.load().entries.is_empty() {
                        return Err(Trouble::new("the bucket was emptied or made anew"));
                    }
                    if needed.is_none() {
                        (needed, asked_at) = (Some(at_beat.last_sequence), now);
                    }
                }
            }
            if needed.is_some_and(|needed| needed <= seen) {
                needed = None;
                self.trust(grants, asked_at);
            }
        }
    }

    /// Everything there was at `asked_at` is known.
    fn trust(&self, grants: &PublishedGrants, asked_at: Timestamp) {
        let before = grants.is_trusted(clock::now());
        grants.trust_until(clock::after(asked_at, self.settings.stale));
        if !before {
            grants.publish(|_| ());
        }
    }

    async fn connect(&self) -> Result<Client, Trouble> {
        let login = self.settings.login.clone();
        // the secret is read again for each connection, so that it can be changed
        let mut options = ConnectOptions::with_auth_callback(move |_| {
            let login = login.clone();
            async move { shown(login.as_ref()).await.map_err(AuthError::new) }
        });
        options = options.name("wicketgate").connection_timeout(DEADLINE).request_timeout(Some(DEADLINE));
        options = options.reconnect_delay_callback(|_| RETRY).retry_on_initial_connect();
        options = options.require_tls(self.settings.url.starts_with("tls://"));
        if let Some(ca) = &self.settings.ca {
            options = options.add_root_certificates(ca.clone());
        }
        options.connect(&self.settings.url).await.map_err(Trouble::new)
    }

    /// The bucket, made where it is missing.
    async fn bucket(&self, client: Client) -> Result<kv::Store, Trouble> {
        let context = jetstream::new(client);
        match context.get_key_value(&self.settings.bucket).await {
            Ok(store) => Ok(store),
            Err(_) => {
                let config = kv::Config {
                    bucket: self.settings.bucket.clone(),
                    description: "grants of wicketgate".into(),
                    history: 1,
                    max_age: self.max_age,
                    ..kv::Config::default()
                };
                context.create_key_value(config).await.map_err(Trouble::new)
            }
        }
    }
}

async fn state(store: &kv::Store) -> Result<State, Trouble> {
    Ok(store.stream.get_info().await.map_err(Trouble::new)?.state)
}

async fn shown(login: Option<&Login>) -> Result<Auth, crate::secret::SourceError> {
    let text = |secret: Secret| Some(secret.expose().to_owned());
    let mut auth = Auth::new();
    match login {
        None => {}
        Some(Login::Token(source)) => auth.token = text(source.read().await?),
        Some(Login::Password(user, source)) => {
            (auth.username, auth.password) = (Some(user.clone()), text(source.read().await?));
        }
    }
    Ok(auth)
}

fn value(grant: &Grant) -> Result<bytes::Bytes, Refusal> {
    serde_json::to_vec(grant).map(Into::into).map_err(|e| store_unavailable().with_detail(e))
}

fn read(entry: &kv::Entry) -> Option<Grant> {
    let grant = Some(&entry.value).filter(|value| value.len() <= MAX_VALUE);
    let grant: Option<Grant> = grant.and_then(|value| serde_json::from_slice(value).ok());
    grant.filter(|grant| entry.operation == Operation::Put && grant.id.to_string() == entry.key)
}

/// What the bucket says of a key. What cannot be read is no grant, whatever it was before.
fn apply(known: &mut Entries, entry: &kv::Entry) {
    let Ok(id) = uuid::Uuid::parse_str(&entry.key) else { return };
    match read(entry) {
        Some(_) if !known.contains_key(&id) && known.len() >= GRANTS_LIMIT => {
            tracing::error!(%id, "the bucket holds more grants than can be remembered; one was passed over");
        }
        Some(grant) => newer(known, Entry { grant: Arc::new(grant), revision: entry.revision }),
        None => {
            if entry.operation == Operation::Put {
                tracing::error!(%id, "the bucket holds a grant that cannot be read");
            }
            if known.get(&id).is_some_and(|old| old.revision < entry.revision) {
                known.remove(&id);
            }
        }
    }
}

/// Takes an entry unless a later one is known.
fn newer(known: &mut Entries, entry: Entry) {
    let id = entry.grant.id;
    if known.get(&id).is_none_or(|old| old.revision < entry.revision) {
        known.insert(id, entry);
    }
}
