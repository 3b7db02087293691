//! Policy decisions: roles from claims, then Cedar on principal, action, resource and context.
//!
//! Promises: denied unless a policy permits; denied when any policy reports an error; a principal that would hold two
//! roles which are kept apart is denied whatever the policies say. A decision is remembered only under everything that
//! it was made from, and only as long as this set of policies lives. Pure: no I/O, and no clock.

pub(crate) mod cases;
mod cedar;
mod cedar_request;
mod compile;
mod context_attributes;
mod decision;
mod decision_cache;
mod engine;
mod explain;
mod obligations;
mod policy_file;
pub(crate) mod prove;
mod replay;
mod request;
mod roles;
mod rule;
pub(crate) mod schema_check;
mod shadow;
mod slice;
mod source_text;

pub(crate) use self::{
    decision::{Denial, PolicyDecision},
    explain::{Explanation, Outcome, PolicyReport, RuleReport},
    obligations::{
        Guardrail, MaskKey, Obligation, Pointer, PredictGuardrail, ScrapeGuardrail, Template, WriteGuardrail,
        plain_name,
    },
    policy_file::PolicyFile,
    replay::{
        Change, ChangeCount, DecisionSummary, Difference, DifferenceKind, DifferenceStatus, RecordedRequest, Replay,
        differences,
    },
    request::{BodyNames, GrantResource, VertexResource},
    roles::{HELD_ROLES_CLAIM, Roles},
    rule::{ClaimCondition, ClaimMatcher, ClaimPath, RoleRule, is_role},
};
pub use self::{
    engine::Policy,
    request::{AccessRequest, RequestContext, Resource},
};

#[cfg(test)]
pub(crate) use self::request::VertexKind;

#[cfg(test)]
mod tests;
