//! Decisions of policy and the reasons for denials. Pure data.

use std::sync::Arc;

use super::obligations::Obligation;

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDecision {
    /// Whether it may.
    pub allowed: bool,
    /// The roles that it was decided with.
    pub roles: Arc<[Arc<str>]>,
    /// The policies that decided; none where nothing permitted.
    pub policies: Arc<[Arc<str>]>,
    /// What the policies that permitted it oblige the gate to, all of it.
    pub obligations: Arc<[Arc<Obligation>]>,
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
    /// Separation of duty excludes these two of the principal's roles; the text names the rules that assign them.
    Separation([Arc<str>; 2], String),
    /// The principal holds these roles, of which one may be active at a time, and has not said which.
    RoleNotActivated(Arc<[Arc<str>]>),
    /// The principal does not hold the role that it would activate.
    RoleNotHeld(Arc<str>),
    /// A policy could not be evaluated.
    Error(String),
}

impl Denial {
    /// Every word that [`Denial::reason`] gives.
    pub const REASONS: [&str; 6] =
        ["not_permitted", "forbidden", "separation_of_duty", "role_not_activated", "role_not_held", "policy_error"];

    /// The stable word for it, in refusals and records.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotPermitted => "not_permitted",
            Self::Forbidden => "forbidden",
            Self::Separation(..) => "separation_of_duty",
            Self::RoleNotActivated(_) => "role_not_activated",
            Self::RoleNotHeld(_) => "role_not_held",
            Self::Error(_) => "policy_error",
        }
    }
}
