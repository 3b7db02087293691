//! The decision cache.
//!
//! Promises: a decision is remembered under everything that it can depend on and lives no longer than its policies. Of
//! the circumstances that is what the policies that can apply read; where they read the time, the size or what a body
//! names, it is not remembered at all. Never: an answer to a question that differs in anything that was read.

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::Method;
use quick_cache::{Equivalent, sync::Cache};

use super::{
    context_attributes::ContextAttributes,
    decision::PolicyDecision,
    request::{AccessRequest, RequestContext, Resource},
    slice::Slice,
};

/// Questions remembered at once, and as many decisions that depend on their context; the least used make room.
const CAPACITY: usize = 100_000;
/// Decisions about resources with longer names are not cached: a caller chooses the names, and could fill the cache with
/// them. Google's names are far shorter.
pub(super) const MAX_NAME_BYTES: usize = 256;
/// What is too rarely the same twice.
const UNCACHEABLE: ContextAttributes = ContextAttributes::TIME.or(ContextAttributes::SIZE).or(ContextAttributes::NAMES);

/// What is settled of a question before its circumstances are looked at.
#[derive(Clone)]
pub(super) enum CacheEntry {
    /// The answer, whatever the context.
    Decided(Arc<PolicyDecision>),
    /// The roles and the policies that decide.
    ContextDependent { roles: Arc<[Arc<str>]>, slice: Arc<Slice>, id: Option<EntryId> },
}

/// The number under which a question's decisions are remembered; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct EntryId(u64);

pub(super) struct DecisionCache {
    entries: Cache<RequestKey, CacheEntry>,
    decisions: Cache<(EntryId, ContextKey), Arc<PolicyDecision>>,
    next_id: AtomicU64,
}

impl DecisionCache {
    pub(super) fn new() -> Self {
        Self { entries: Cache::new(CAPACITY), decisions: Cache::new(CAPACITY), next_id: AtomicU64::new(0) }
    }

    /// Answers from memory, or by `settle` and `decide`.
    pub(super) fn decide(
        &self,
        request: AccessRequest<'_>,
        prepare: impl FnOnce() -> CacheEntry,
        decide: impl FnOnce(&Slice, Arc<[Arc<str>]>) -> PolicyDecision,
    ) -> Arc<PolicyDecision> {
        let entry = self.entries.get(&request).unwrap_or_else(|| self.insert(request, prepare()));
        let (roles, slice, id) = match entry {
            CacheEntry::Decided(decision) => return decision,
            CacheEntry::ContextDependent { roles, slice, id } => (roles, slice, id),
        };
        let key = id.zip(ContextKey::of(request.context, slice.reads));
        if let Some(decision) = key.as_ref().and_then(|key| self.decisions.get(key)) {
            return decision;
        }
        let decision = Arc::new(decide(&slice, roles));
        if slice.reads == ContextAttributes::NOTHING && id.is_some() {
            self.entries.insert(request.into(), CacheEntry::Decided(decision.clone()));
        } else if let Some(key) = key {
            self.decisions.insert(key, decision.clone());
        }
        decision
    }

    fn insert(&self, request: AccessRequest<'_>, mut entry: CacheEntry) -> CacheEntry {
        if request.resource.id().len() <= MAX_NAME_BYTES {
            if let CacheEntry::ContextDependent { id, .. } = &mut entry {
                *id = Some(EntryId(self.next_id.fetch_add(1, Ordering::Relaxed)));
            }
            self.entries.insert(request.into(), entry.clone());
        }
        entry
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.entries.len(), self.decisions.len())
    }
}

/// Everything that settles a question. The token's digest stands for the claims.
struct RequestKey {
    proof: [u8; 32],
    granted: Arc<[Arc<str>]>,
    active: Option<Box<str>>,
    action: Arc<str>,
    resource: Resource,
}

impl From<AccessRequest<'_>> for RequestKey {
    fn from(q: AccessRequest<'_>) -> Self {
        let proof = q.principal.proof;
        let action = q.action.clone();
        let resource = q.resource.clone();
        Self { proof, granted: q.granted_roles.into(), active: q.active_role.map(Into::into), action, resource }
    }
}

impl RequestKey {
    fn parts(&self) -> (&[u8; 32], &[Arc<str>], Option<&str>, &str, &Resource) {
        (&self.proof, &self.granted, self.active.as_deref(), &self.action, &self.resource)
    }
}

/// The same of a question.
fn parts<'q>(q: &AccessRequest<'q>) -> (&'q [u8; 32], &'q [Arc<str>], Option<&'q str>, &'q str, &'q Resource) {
    (&q.principal.proof, q.granted_roles, q.active_role, q.action, q.resource)
}

impl Hash for RequestKey {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.parts().hash(to);
    }
}

impl Hash for AccessRequest<'_> {
    fn hash<H: Hasher>(&self, to: &mut H) {
        parts(self).hash(to);
    }
}

impl PartialEq for RequestKey {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for RequestKey {}

impl Equivalent<RequestKey> for AccessRequest<'_> {
    fn equivalent(&self, key: &RequestKey) -> bool {
        parts(self) == key.parts()
    }
}

/// Such context as are read; the others are nothing.
#[derive(PartialEq, Eq, Hash)]
struct ContextKey {
    peer: Option<IpAddr>,
    method: Option<Method>,
    tls: Option<bool>,
    /// The certificate's digest, where one was shown.
    certificate: Option<Option<[u8; 32]>>,
}

impl ContextKey {
    /// Nothing where something is read that is too rarely the same twice.
    fn of(context: RequestContext<'_>, reads: ContextAttributes) -> Option<Self> {
        let RequestContext { peer, method, tls, certificate, .. } = context;
        let read = |what: ContextAttributes| reads.any_of(what);
        (!read(UNCACHEABLE)).then(|| Self {
            peer: read(ContextAttributes::PEER).then_some(peer),
            method: read(ContextAttributes::METHOD).then(|| method.clone()),
            tls: read(ContextAttributes::TLS).then_some(tls),
            certificate: read(ContextAttributes::CERTIFICATE)
                .then(|| certificate.map(|certificate| certificate.thumbprint)),
        })
    }
}
