//! What may a principal do? Roles from claims, then Cedar on principal, action, resource and context.
//!
//! Promises: denied unless a policy permits; denied when any policy reports an error; a principal that would hold two
//! roles which are kept apart is denied whatever the policies say. A decision is remembered only under everything that
//! it was made from, and only as long as this set of policies lives. Pure: no I/O, and no clock.

mod cedar;
mod question;
mod roles;
mod rule;

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use http::Method;
use quick_cache::{Equivalent, sync::Cache};

use self::roles::Unsettled;
pub use self::{
    cedar::{PolicyFile, PolicyProblem},
    question::{Circumstances, Named, Question, Resource, VertexKind, VertexResource},
    roles::Roles,
    rule::{Claim, Condition, Matcher, Rule, is_role},
};
#[cfg(test)]
use crate::principal::Principal;

/// Decisions remembered at once; the least used make room.
const REMEMBERED: usize = 100_000;
/// Decisions about resources with longer names are made anew each time: whoever has a token chooses the names, and
/// could fill the memory with them. Google's are far shorter.
const REMEMBERED_NAME: usize = 256;

/// Roles and policies, compiled.
pub struct Policy {
    roles: Roles,
    cedar: cedar::Policies,
    remembered: Cache<Asked, Arc<Ruling>>,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Whether it may.
    pub allowed: bool,
    /// The roles that it was decided with.
    pub roles: Arc<[Arc<str>]>,
    /// The policies that decided; none where nothing permitted.
    pub policies: Arc<[Arc<str>]>,
    /// Why not.
    pub denial: Option<Denial>,
}

/// Why something is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No policy permits it.
    NotPermitted,
    /// A `forbid` policy forbids it.
    Forbidden,
    /// The principal would hold roles that are kept apart; names the two rules.
    Separation(String),
    /// The principal holds these roles, of which one may be active at a time, and has not said which.
    RoleNotActivated(Arc<[Arc<str>]>),
    /// The principal does not hold the role that it would activate.
    RoleNotHeld(Arc<str>),
    /// A policy could not be evaluated.
    Error(String),
}

impl Policy {
    /// Compiles roles and policies. `actions` are those that routes can ask about: each must be in the schema.
    ///
    /// # Errors
    /// Every problem with the schema and the policies.
    pub fn new<'a>(
        roles: Roles,
        schema: &PolicyFile,
        policies: &[PolicyFile],
        actions: impl Iterator<Item = &'a str>,
    ) -> Result<Self, Vec<PolicyProblem>> {
        let cedar = cedar::Policies::new(schema, policies, actions)?;
        Ok(Self { roles, cedar, remembered: Cache::new(REMEMBERED) })
    }

    /// The same policies with other roles.
    #[must_use]
    pub fn with_roles(self, roles: Roles) -> Self {
        Self { roles, remembered: Cache::new(REMEMBERED), ..self }
    }

    /// Whether a policy speaks of this role.
    #[must_use]
    pub fn mentions(&self, role: &str) -> bool {
        self.cedar.mentioned.contains(role)
    }

    /// Answers a question, from memory where the same was asked before.
    pub fn rule(&self, question: Question<'_>) -> Arc<Ruling> {
        if let Some(ruling) = self.remembered.get(&question) {
            return ruling;
        }
        let ruling = Arc::new(self.decide(question));
        if !self.cedar.by_circumstance && question.resource.id().len() <= REMEMBERED_NAME {
            self.remembered.insert(Asked::from(question), ruling.clone());
        }
        ruling
    }

    /// Answers a question by evaluating roles and policies.
    #[must_use]
    pub fn decide(&self, question: Question<'_>) -> Ruling {
        match self.roles.of(&question) {
            Ok(roles) => self.cedar.decide(question, roles),
            Err(Unsettled { roles, denial }) => {
                Ruling { allowed: false, roles, policies: Arc::default(), denial: Some(denial) }
            }
        }
    }
}

/// A question as memory keeps it: everything that an answer can depend on. The token's digest stands for the claims.
/// The time, the certificate, the size, and what a body names are not in it: questions that policies could answer by
/// those are not remembered.
struct Asked {
    proof: [u8; 32],
    granted: Arc<[Arc<str>]>,
    active: Option<Box<str>>,
    action: Arc<str>,
    resource: Resource,
    peer: IpAddr,
    method: Method,
    tls: bool,
}

impl From<Question<'_>> for Asked {
    fn from(q: Question<'_>) -> Self {
        let (proof, action, resource) = (q.principal.proof, q.action.clone(), q.resource.clone());
        let Circumstances { peer, method, tls, .. } = q.circumstances;
        let (granted, active) = (q.granted.into(), q.active.map(Into::into));
        Self { proof, granted, active, action, resource, peer, method: method.clone(), tls }
    }
}

impl Hash for Asked {
    fn hash<H: Hasher>(&self, to: &mut H) {
        (&self.proof, &self.action, self.resource.id()).hash(to);
    }
}

impl Hash for Question<'_> {
    fn hash<H: Hasher>(&self, to: &mut H) {
        (&self.principal.proof, self.action, self.resource.id()).hash(to);
    }
}

impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        (&self.proof, &self.granted, &self.active, &self.action, &self.resource, self.peer, &self.method, self.tls)
            == (
                &other.proof,
                &other.granted,
                &other.active,
                &other.action,
                &other.resource,
                other.peer,
                &other.method,
                other.tls,
            )
    }
}

impl Eq for Asked {}

impl Equivalent<Asked> for Question<'_> {
    fn equivalent(&self, asked: &Asked) -> bool {
        let Circumstances { peer, method, tls, .. } = self.circumstances;
        (&self.principal.proof, self.granted, self.active, self.action, self.resource, peer, method, tls)
            == (
                &asked.proof,
                &*asked.granted,
                asked.active.as_deref(),
                &asked.action,
                &asked.resource,
                asked.peer,
                &asked.method,
                asked.tls,
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_long_names_are_not_remembered() {
        let schema =
            "entity Principal; entity Exporter; action scrape appliesTo { principal: Principal, resource: Exporter };";
        let file = |text: &str| PolicyFile { path: "policies".into(), text: text.into() };
        let policy = Policy::new(Roles::default(), &file(schema), &[], std::iter::empty()).unwrap();
        let principal = Principal::test("corp", "{}");
        let check = |length: usize, remembered: usize| {
            let resource = Resource::Exporter("a".repeat(length).into());
            let action: Arc<str> = "scrape".into();
            let peer = IpAddr::from([127, 0, 0, 1]);
            let question = Question {
                principal: &principal,
                granted: &[],
                active: None,
                action: &action,
                resource: &resource,
                circumstances: Circumstances::test(peer),
            };
            assert!(!policy.rule(question).allowed);
            assert_eq!(policy.remembered.len(), remembered, "{length} bytes");
        };
        check(REMEMBERED_NAME, 1);
        check(REMEMBERED_NAME + 1, 1);
    }
}
