//! Policy test cases: an access request and its expected decision.
//!
//! Promises: a case is put to the very code that decides requests, roles and all, and fails where the decision, the
//! policies that decide or the reason differ from what is expected. Pure.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use cedar_policy::Schema;
use http::Method;

use super::{
    decision::{Denial, PolicyDecision},
    engine::Policy,
    policy_file::PolicyFile,
    request::{AccessRequest, BodyNames, RequestContext, Resource, VertexKind},
};
use crate::{clock::Timestamp, peer::Certificate, principal::Principal};

/// One case of a table.
pub(crate) struct Case {
    /// Its name.
    pub name: String,
    /// The file it is in.
    pub file: PathBuf,
    /// The line it begins in, from 1.
    pub line: usize,
    /// Who asks.
    pub principal: Principal,
    /// Roles granted for a time.
    pub granted_roles: Vec<Arc<str>>,
    /// The role that is activated.
    pub active_role: Option<String>,
    /// The action's id.
    pub action: Arc<str>,
    /// To what.
    pub resource: Resource,
    /// When.
    pub time: Timestamp,
    /// From where.
    pub peer: IpAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The client's certificate.
    pub certificate: Option<Certificate>,
    /// The HTTP method.
    pub method: Method,
    /// Bytes of the body, where they are known.
    pub size: Option<u64>,
    /// What the body names, where it was looked at.
    pub names: Option<BodyNames>,
    /// What is expected.
    pub expected: Expected,
}

/// What a case expects.
pub(crate) struct Expected {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Exactly the policies that decide, where the case says.
    pub policies: Option<BTreeSet<String>>,
    /// Why not, where the case says.
    pub reason: Option<&'static str>,
}

impl Case {
    /// Puts the case to policy.
    #[must_use]
    pub(crate) fn evaluate(&self, policy: &Policy) -> PolicyDecision {
        policy.evaluate(AccessRequest {
            principal: &self.principal,
            granted_roles: &self.granted_roles,
            active_role: self.active_role.as_deref(),
            action: &self.action,
            resource: &self.resource,
            context: RequestContext {
                now: self.time,
                peer: self.peer,
                tls: self.tls,
                certificate: self.certificate.as_ref(),
                method: &self.method,
                size: self.size,
                names: self.names.as_ref(),
            },
        })
    }
}

impl Expected {
    /// Whether this is what was expected.
    #[must_use]
    pub(crate) fn matches(&self, decision: &PolicyDecision) -> bool {
        let policies: BTreeSet<&str> = decision.policies.iter().map(|policy| &**policy).collect();
        let listed = |expected: &BTreeSet<String>| expected.iter().map(String::as_str).eq(policies.iter().copied());
        self.allowed == decision.allowed
            && self.policies.as_ref().is_none_or(listed)
            && self.reason.is_none_or(|reason| decision.denial.as_ref().is_some_and(|d| d.reason() == reason))
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allowed { "allow" } else { "deny" })?;
        if let Some(reason) = self.reason {
            write!(f, ", {reason}")?;
        }
        self.policies.as_ref().map_or(Ok(()), |policies| write_policies(f, policies.iter().map(String::as_str)))
    }
}

/// A ruling in the words of a table.
pub(crate) struct DecisionText<'a>(pub &'a PolicyDecision);

impl fmt::Display for DecisionText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(decision) = self;
        f.write_str(if decision.allowed { "allow" } else { "deny" })?;
        if let Some(denial) = &decision.denial {
            write!(f, ", {}", denial.reason())?;
        }
        write_policies(f, decision.policies.iter().map(|policy| &**policy))?;
        let roles: Vec<&str> = decision.roles.iter().map(|role| &**role).collect();
        write!(f, "; roles: {}", if roles.is_empty() { "none".into() } else { roles.join(", ") })?;
        match &decision.denial {
            Some(Denial::Separation(_, text) | Denial::Error(text)) => write!(f, "; {text}"),
            _ => Ok(()),
        }
    }
}

fn write_policies<'a>(f: &mut fmt::Formatter<'_>, policies: impl Iterator<Item = &'a str>) -> fmt::Result {
    let policies: Vec<String> = policies.map(|policy| format!("`{policy}`")).collect();
    if policies.is_empty() { f.write_str(", by no policy") } else { write!(f, ", by {}", policies.join(", ")) }
}

/// Which actions there are, and to what they apply.
pub(crate) struct ActionResources(HashSet<(String, String)>);

impl ActionResources {
    /// Reads them off a schema.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(schema: &PolicyFile) -> Result<Self, String> {
        let schema = Schema::from_str(&schema.text).map_err(|e| e.to_string())?;
        let pair = |environment: cedar_policy::RequestEnv| {
            (environment.action().id().unescaped().to_owned(), environment.resource().to_string())
        };
        Ok(Self(schema.request_envs().map(pair).collect()))
    }

    /// Whether policy can be asked this at all: a test of what cannot happen would test nothing.
    ///
    /// # Errors
    /// What to write instead.
    pub(crate) fn check(&self, action: &str, resource: &Resource) -> Result<(), String> {
        let kind = match resource {
            Resource::Exporter(_) => "Exporter",
            Resource::Service(_) => "Service",
            Resource::Grant(_) => "Grant",
            Resource::Vertex(vertex) => match vertex.kind {
                VertexKind::Endpoint => "Endpoint",
                VertexKind::Model { .. } => "Model",
                VertexKind::Dataset => "Dataset",
                VertexKind::Other => "Vertex",
            },
        };
        if self.0.contains(&(action.to_owned(), kind.to_owned())) {
            return Ok(());
        }
        let kinds: BTreeSet<&str> =
            self.0.iter().filter(|(known, _)| known == action).map(|(_, kind)| kind.as_str()).collect();
        if !kinds.is_empty() {
            let kinds = kinds.into_iter().collect::<Vec<_>>().join(", ");
            return Err(format!(
                "`{action}` is never asked about a resource of the type {kind}; it applies to {kinds}"
            ));
        }
        let word = action.rsplit('.').next().unwrap_or(action).to_lowercase();
        let near: BTreeSet<&str> = self
            .0
            .iter()
            .map(|(known, _)| known.as_str())
            .filter(|known| known.to_lowercase().contains(&word))
            .collect();
        let near: Vec<&str> = near.into_iter().take(5).collect();
        let hint =
            if near.is_empty() { "the schema lists all".into() } else { format!("there are {}", near.join(", ")) };
        Err(format!("the schema has no action `{action}` that applies to anything; {hint}"))
    }
}
