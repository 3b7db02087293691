//! Grants: a role on a resource for a time, asked for by one principal and approved by another.
//!
//! Promises:
//! - A change is kept (synced to disk, or acknowledged by NATS) before its answer leaves, and counts at this gate from
//!   then on. A kill at any moment loses nothing that was answered.
//! - What a principal is granted is read without a lock and, where it is nothing, without an allocation.
//! - Nobody approves what they asked for, by the principal's name. The same person with a second name, at another
//!   issuer, is another principal here as everywhere.
//! - What has ended by time, by somebody, or because its store was out of sight for too long counts for nothing, and
//!   what stands on it is told ([`Active::ended`]).
//!
//! Who may ask, approve and revoke is not decided here: `proxy` asks policy first. Separation of duty is policy's too: a
//! granted role is one more role in its question.

mod disk;
mod grant;
mod index;
mod nats;
mod published;
mod scope;

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::StatusCode;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use self::{
    disk::File,
    index::{Entries, Entry},
    nats::Bucket,
    published::{GRANTS_LIMIT, PublishedGrants, store_unavailable, unknown_grant},
};
pub(crate) use self::{
    disk::OpenError,
    grant::{Asker, Grant, State},
    index::{Active, GrantedRoles},
    nats::{Login, Settings as NatsSettings},
    scope::Scope,
};
use crate::{
    clock::{self, Timestamp},
    gate::policy::Resource,
    refusal::Refusal,
    telemetry::Telemetry,
};

/// Requests that wait for an answer at once, in all.
const PENDING: usize = 10_000;
/// The same of one principal.
const PENDING_EACH: usize = 20;
/// How often what is no longer needed is forgotten.
const SWEEP: Duration = Duration::from_secs(3600);
/// The `[grants]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where grants are kept.
    pub place: Place,
    /// The longest that one may last.
    pub max: Duration,
    /// How long a request waits for an answer.
    pub pending: Duration,
    /// How long one that has ended is remembered for the list.
    pub keep: Duration,
}

/// Where grants are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a directory of this gate's own. One process at a time can have it open.
    Directory(PathBuf),
    /// In a NATS key-value bucket, shared with other gates.
    Nats(NatsSettings),
}

/// What a request to `/grants` wishes.
#[derive(Clone, Debug)]
pub enum GrantCommand {
    /// To see grants.
    List {
        /// Only those that wait for an answer.
        pending_only: bool,
    },
    /// To be granted something; nothing where what was sent has not been read.
    Request(Option<Box<Grant>>),
    /// To approve this one, for as many seconds; for as long as was asked where it does not say.
    Approve(Uuid, Option<u64>),
    /// To say no to this one.
    Deny(Uuid),
    /// To end this one.
    Revoke(Uuid),
}

/// All grants, and where they are kept.
pub(crate) struct Grants {
    /// Bounds on what may be asked for.
    pub settings: Settings,
    published: PublishedGrants,
    store: Store,
}

enum Store {
    File(Arc<File>),
    Bucket(Box<Bucket>),
}

impl Grants {
    /// Opens the store. Blocks where it is a directory; a bucket is looked for by [`Grants::keep`], and until it was
    /// found nothing counts.
    ///
    /// # Errors
    /// When the directory cannot be used, or holds what cannot be read.
    pub(crate) fn open(settings: Settings) -> Result<Self, OpenError> {
        let (store, entries, trusted_until) = match &settings.place {
            Place::Directory(directory) => {
                let (file, entries) = File::open(directory)?;
                (Store::File(Arc::new(file)), entries, i64::MAX)
            }
            Place::Nats(nats) => {
                let age = settings.pending.max(settings.max) + settings.keep;
                (Store::Bucket(Box::new(Bucket::new(nats.clone(), age))), Entries::new(), i64::MIN)
            }
        };
        Ok(Self { settings, published: PublishedGrants::new(entries, trusted_until), store })
    }

    /// Forgets what is no longer needed, and follows the bucket where there is one, for as long as it is polled.
    pub(crate) async fn keep(self: &Arc<Self>, telemetry: &Telemetry) {
        self.measure(telemetry);
        let sweep = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                self.sweep().await;
            }
        };
        match &self.store {
            Store::File(_) => sweep.await,
            Store::Bucket(bucket) => {
                tokio::join!(
                    sweep,
                    bucket.follow(&self.published, telemetry),
                    bucket.watch_over(&self.published, telemetry)
                );
            }
        }
    }

    /// What `asker` is granted on this resource now.
    #[must_use]
    pub(crate) fn active_grants(&self, asker: &str, resource: &Resource, now: Timestamp) -> GrantedRoles {
        if self.published.is_trusted(now) {
            self.published.book.load().active_grants(asker, resource, now)
        } else {
            GrantedRoles::default()
        }
    }

    /// Every grant that is remembered, the newest first.
    #[must_use]
    pub(crate) fn newest_first(&self) -> Vec<Arc<Grant>> {
        self.published.book.load().newest_first()
    }

    /// The grant of this id.
    ///
    /// # Errors
    /// 404 where there is none.
    pub(crate) fn find(&self, id: Uuid) -> Result<Arc<Grant>, Refusal> {
        self.published.book.load().entries.get(&id).map(|entry| entry.grant.clone()).ok_or_else(unknown_grant)
    }

    /// Pending and approved grants of `asker` that may cover what `scope` covers, besides the one of this id.
    #[must_use]
    pub(crate) fn beside(&self, id: Uuid, asker: &str, scope: &Scope, now: Timestamp) -> Vec<Arc<Grant>> {
        let book = self.published.book.load();
        let grants = book.entries.values().map(|entry| &entry.grant);
        let beside = grants.filter(|grant| {
            let lives = matches!(grant.state(now), State::Pending | State::Approved);
            grant.id != id && lives && *grant.asker.name == *asker && grant.resource.meets(scope)
        });
        beside.cloned().collect()
    }

    /// Keeps a new request.
    ///
    /// # Errors
    /// 409 where its asker has too many that wait already; 503 where there is no room, or it cannot be kept now.
    pub(crate) async fn ask(self: &Arc<Self>, grant: Grant) -> Result<Arc<Grant>, Refusal> {
        let turn = self.published.turn.clone().lock_owned().await;
        self.has_room_for(&grant.asker.name, clock::now())?;
        match &self.store {
            Store::File(file) => self.write(file, turn, grant).await,
            Store::Bucket(bucket) => bucket.create(&self.published, grant).await,
        }
    }

    /// Takes a grant one step further. `step` may run again, where another gate was faster.
    ///
    /// # Errors
    /// What `step` refuses; 404 where there is no such grant; 503 where it cannot be kept now.
    pub(crate) async fn change(
        self: &Arc<Self>,
        id: Uuid,
        step: impl Fn(&Grant) -> Result<Grant, Refusal>,
    ) -> Result<Arc<Grant>, Refusal> {
        let turn = self.published.turn.clone().lock_owned().await;
        match &self.store {
            Store::File(file) => {
                let next = step(&*self.find(id)?)?;
                self.write(file, turn, next).await
            }
            Store::Bucket(bucket) => bucket.change(&self.published, id, step).await,
        }
    }

    /// Writes and publishes on a thread that goes on when the client leaves: what is on disk must count.
    async fn write(
        self: &Arc<Self>,
        file: &Arc<File>,
        turn: OwnedMutexGuard<()>,
        grant: Grant,
    ) -> Result<Arc<Grant>, Refusal> {
        let this = self.clone();
        let file = file.clone();
        let grant = Arc::new(grant);
        let written = tokio::task::spawn_blocking(move || {
            let surplus = this.surplus();
            let revision = file.put(Some(&grant), &surplus).map_err(|e| store_unavailable().with_detail(e))?;
            this.published.publish(|entries| {
                surplus.iter().for_each(|id| drop(entries.remove(id)));
                entries.insert(grant.id, Entry { grant: grant.clone(), revision });
            });
            drop(turn);
            Ok(grant)
        });
        written.await.unwrap_or_else(|e| Err(store_unavailable().with_detail(e)))
    }

    async fn sweep(self: &Arc<Self>) {
        let turn = self.published.turn.clone().lock_owned().await;
        let surplus = self.surplus();
        if surplus.is_empty() {
            return;
        }
        match &self.store {
            Store::File(file) => {
                let this = self.clone();
                let file = file.clone();
                let swept = tokio::task::spawn_blocking(move || {
                    match file.put(None, &surplus) {
                        Ok(_) => {
                            this.published.publish(|entries| surplus.iter().for_each(|id| drop(entries.remove(id))))
                        }
                        Err(error) => tracing::error!(%error, "old grants cannot be forgotten"),
                    }
                    drop(turn);
                });
                // it does not panic; cut off at a stop, the next start sweeps
                let _ = swept.await;
            }
            // the bucket's own age limit removes them there
            Store::Bucket(_) => {
                self.published.publish(|entries| surplus.iter().for_each(|id| drop(entries.remove(id))))
            }
        }
    }

    fn surplus(&self) -> Vec<Uuid> {
        self.published.book.load().surplus(self.settings.keep, clock::now())
    }

    fn has_room_for(&self, asker: &str, now: Timestamp) -> Result<(), Refusal> {
        let book = self.published.book.load();
        if book.count(Some(asker), now).0 >= PENDING_EACH {
            let text = format!("{PENDING_EACH} of your requests wait for an answer already; withdraw one of them");
            return Err(Refusal::new(StatusCode::CONFLICT, "grants_pending", text));
        }
        let forgettable = book.surplus(self.settings.keep, now).len();
        if book.count(None, now).0 >= PENDING || book.entries.len() - forgettable >= GRANTS_LIMIT {
            return Err(Refusal::unavailable("grants_full", "too many grants are asked for; try again later"));
        }
        Ok(())
    }

    fn measure(self: &Arc<Self>, telemetry: &Telemetry) {
        let pending = Gauge::<i64>::default();
        let approved = Gauge::<i64>::default();
        telemetry.register(|registry| {
            registry.register("grants_pending", "Requests for grants that wait for an answer", pending.clone());
            registry.register("grants_approved", "Grants that count", approved.clone());
        });
        let grants = Arc::downgrade(self);
        telemetry.before_exposition(move || {
            let Some(grants) = grants.upgrade() else { return };
            let now = clock::now();
            let (waiting, counting) = grants.published.book.load().count(None, now);
            let counting = if grants.published.is_trusted(now) { counting } else { 0 };
            pending.set(i64::try_from(waiting).unwrap_or(i64::MAX));
            approved.set(i64::try_from(counting).unwrap_or(i64::MAX));
        });
    }
}
