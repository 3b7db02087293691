//! What may a principal do? Roles from claims, then Cedar on principal, action, resource and context.
//!
//! Promises: denied unless a policy permits; denied when any policy reports an error; a principal that would hold two
//! roles which are kept apart is denied whatever the policies say. A decision is remembered only under everything that
//! it was made from, and only as long as this set of policies lives. Pure: no I/O, and no clock.

mod cedar;
mod roles;

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use http::Method;
use quick_cache::{Equivalent, sync::Cache};

pub use self::{
    cedar::{PolicyFile, PolicyProblem},
    roles::{Claim, Roles, Rule},
};
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

/// What is acted upon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// An exporter, by name.
    Exporter(Arc<str>),
    /// A part of the gate itself, by name.
    Service(Arc<str>),
    /// A Vertex resource.
    Vertex {
        /// Its name as in the request's path, without version and verb.
        name: Arc<str>,
        /// The project in it; `None` in the short forms.
        project: Option<Arc<str>>,
        /// The location in it, `global` in the short forms.
        location: Arc<str>,
    },
}

impl Resource {
    /// The resource's id, as policies and audit name it.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        match self {
            Self::Exporter(id) | Self::Service(id) | Self::Vertex { name: id, .. } => id,
        }
    }
}

/// One question: may this principal do this to that, in these circumstances?
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who.
    pub principal: &'a Principal,
    /// The Cedar action's id, such as `PredictionService.Predict`.
    pub action: &'a Arc<str>,
    /// To what.
    pub resource: &'a Resource,
    /// The other end of the connection.
    pub peer: IpAddr,
    /// The HTTP method.
    pub method: &'a Method,
    /// Whether the connection is encrypted.
    pub tls: bool,
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

    /// Answers a question, from memory where the same was asked before.
    pub fn rule(&self, question: Question<'_>) -> Arc<Ruling> {
        if let Some(ruling) = self.remembered.get(&question) {
            return ruling;
        }
        let ruling = Arc::new(self.decide(question));
        if question.resource.id().len() <= REMEMBERED_NAME {
            self.remembered.insert(Asked::from(question), ruling.clone());
        }
        ruling
    }

    /// Answers a question by evaluating roles and policies.
    #[must_use]
    pub fn decide(&self, question: Question<'_>) -> Ruling {
        match self.roles.of(question.principal) {
            Ok(roles) => self.cedar.decide(question, roles),
            Err(conflict) => Ruling {
                allowed: false,
                roles: conflict.roles,
                policies: Arc::default(),
                denial: Some(Denial::Separation(conflict.text)),
            },
        }
    }
}

/// A question as memory keeps it: everything that an answer can depend on. The token's digest stands for the claims.
struct Asked {
    proof: [u8; 32],
    action: Arc<str>,
    resource: Resource,
    peer: IpAddr,
    method: Method,
    tls: bool,
}

impl From<Question<'_>> for Asked {
    fn from(q: Question<'_>) -> Self {
        let (proof, action, resource) = (q.principal.proof, q.action.clone(), q.resource.clone());
        Self { proof, action, resource, peer: q.peer, method: q.method.clone(), tls: q.tls }
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
        (&self.proof, &self.action, &self.resource, self.peer, &self.method, self.tls)
            == (&other.proof, &other.action, &other.resource, other.peer, &other.method, other.tls)
    }
}

impl Eq for Asked {}

impl Equivalent<Asked> for Question<'_> {
    fn equivalent(&self, asked: &Asked) -> bool {
        (&self.principal.proof, self.action, self.resource, self.peer, self.method, self.tls)
            == (&asked.proof, &asked.action, &asked.resource, asked.peer, &asked.method, asked.tls)
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
                action: &action,
                resource: &resource,
                peer,
                method: &Method::GET,
                tls: true,
            };
            assert!(!policy.rule(question).allowed);
            assert_eq!(policy.remembered.len(), remembered, "{length} bytes");
        };
        check(REMEMBERED_NAME, 1);
        check(REMEMBERED_NAME + 1, 1);
    }
}
