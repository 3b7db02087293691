//! What was decided before.
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
    context_attributes::Reads,
    decision::PolicyDecision,
    question::{AccessRequest, RequestContext, Resource},
    slice::Slice,
};

/// Questions remembered at once, and as many decisions that depend on their context; the least used make room.
const REMEMBERED: usize = 100_000;
/// Decisions about resources with longer names are made anew each time: whoever has a token chooses the names, and
/// could fill the memory with them. Google's are far shorter.
pub(super) const REMEMBERED_NAME: usize = 256;
/// What is too rarely the same twice.
const FLEETING: Reads = Reads::TIME.or(Reads::SIZE).or(Reads::NAMES);

/// What is settled of a question before its circumstances are looked at.
#[derive(Clone)]
pub(super) enum Settled {
    /// The answer, whatever the context.
    Ruled(Arc<PolicyDecision>),
    /// The roles and the policies that decide.
    Open { roles: Arc<[Arc<str>]>, slice: Arc<Slice>, case: Option<Case> },
}

/// The number under which a question's decisions are remembered; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Case(u64);

pub(super) struct Memory {
    settled: Cache<Asked, Settled>,
    ruled: Cache<(Case, Told), Arc<PolicyDecision>>,
    cases: AtomicU64,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self { settled: Cache::new(REMEMBERED), ruled: Cache::new(REMEMBERED), cases: AtomicU64::new(0) }
    }

    /// Answers from memory, or by `settle` and `decide`.
    pub(super) fn decide(
        &self,
        question: AccessRequest<'_>,
        settle: impl FnOnce() -> Settled,
        decide: impl FnOnce(&Slice, Arc<[Arc<str>]>) -> PolicyDecision,
    ) -> Arc<PolicyDecision> {
        let settled = self.settled.get(&question).unwrap_or_else(|| self.keep(question, settle()));
        let (roles, slice, case) = match settled {
            Settled::Ruled(ruling) => return ruling,
            Settled::Open { roles, slice, case } => (roles, slice, case),
        };
        let key = case.zip(Told::of(question.context, slice.reads));
        if let Some(ruling) = key.as_ref().and_then(|key| self.ruled.get(key)) {
            return ruling;
        }
        let ruling = Arc::new(decide(&slice, roles));
        if slice.reads == Reads::NOTHING && case.is_some() {
            self.settled.insert(question.into(), Settled::Ruled(ruling.clone()));
        } else if let Some(key) = key {
            self.ruled.insert(key, ruling.clone());
        }
        ruling
    }

    fn keep(&self, question: AccessRequest<'_>, mut settled: Settled) -> Settled {
        if question.resource.id().len() <= REMEMBERED_NAME {
            if let Settled::Open { case, .. } = &mut settled {
                *case = Some(Case(self.cases.fetch_add(1, Ordering::Relaxed)));
            }
            self.settled.insert(question.into(), settled.clone());
        }
        settled
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.settled.len(), self.ruled.len())
    }
}

/// Everything that settles a question. The token's digest stands for the claims.
struct Asked {
    proof: [u8; 32],
    granted: Arc<[Arc<str>]>,
    active: Option<Box<str>>,
    action: Arc<str>,
    resource: Resource,
}

impl From<AccessRequest<'_>> for Asked {
    fn from(q: AccessRequest<'_>) -> Self {
        let (proof, action, resource) = (q.principal.proof, q.action.clone(), q.resource.clone());
        Self { proof, granted: q.granted_roles.into(), active: q.active_role.map(Into::into), action, resource }
    }
}

impl Asked {
    fn parts(&self) -> (&[u8; 32], &[Arc<str>], Option<&str>, &str, &Resource) {
        (&self.proof, &self.granted, self.active.as_deref(), &self.action, &self.resource)
    }
}

/// The same of a question.
fn parts<'q>(q: &AccessRequest<'q>) -> (&'q [u8; 32], &'q [Arc<str>], Option<&'q str>, &'q str, &'q Resource) {
    (&q.principal.proof, q.granted_roles, q.active_role, q.action, q.resource)
}

impl Hash for Asked {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.parts().hash(to);
    }
}

impl Hash for AccessRequest<'_> {
    fn hash<H: Hasher>(&self, to: &mut H) {
        parts(self).hash(to);
    }
}

impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Asked {}

impl Equivalent<Asked> for AccessRequest<'_> {
    fn equivalent(&self, asked: &Asked) -> bool {
        parts(self) == asked.parts()
    }
}

/// Such context as are read; the others are nothing.
#[derive(PartialEq, Eq, Hash)]
struct Told {
    peer: Option<IpAddr>,
    method: Option<Method>,
    tls: Option<bool>,
    /// The certificate's digest, where one was shown.
    certificate: Option<Option<[u8; 32]>>,
}

impl Told {
    /// Nothing where something is read that is too rarely the same twice.
    fn of(context: RequestContext<'_>, reads: Reads) -> Option<Self> {
        let RequestContext { peer, method, tls, certificate, .. } = context;
        let read = |what: Reads| reads.any_of(what);
        (!read(FLEETING)).then(|| Self {
            peer: read(Reads::PEER).then_some(peer),
            method: read(Reads::METHOD).then(|| method.clone()),
            tls: read(Reads::TLS).then_some(tls),
            certificate: read(Reads::CERTIFICATE).then(|| certificate.map(|shown| shown.thumbprint)),
        })
    }
}
