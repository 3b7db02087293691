//! Guardrails: the obligations of a permit.
//!
//! Promises: every obligation of the permit is applied, or the request is refused; a request to which one cannot be applied
//! is refused. [`Guardrails`] is made from the permit before anything is forwarded. A request that violates an obligation
//! is a denial in the audit log.

mod apply;
mod exposition_filter;
mod json_rules;
mod predict;
mod scrape;

pub(super) use self::{apply::Guardrails, exposition_filter::FilterError, predict::RequestFacts};
