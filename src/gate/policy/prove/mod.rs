//! Proofs about policies: with Cedar's symbolic compiler and the solver cvc5, for every kind of request at once.
//!
//! What is proved holds for **every** principal (any name, any attributes, any roles that `roles.toml` lets one hold at
//! once), **every** resource of the type with any attributes, and **every** context: more than the gate can ever ask,
//! so that a proof holds for all that it does ask, while a counterexample may be a request that no client can send.
//! Roles that are kept apart, statically or dynamically, are never together in what is asked, since `policy::roles`
//! decides no request with two of them. "Allowed" is what the gate makes of a set (`expression.rs`): an error denies.
//!
//! Promises: *proved* is said only where the solver has denied each question, or where the two sides of one are the
//! same or false as they stand. What cannot be compiled, asked or answered is undecided. This part of `policy` alone
//! starts a process, and no request waits for it.

mod analysis;
mod counterexample;
mod environments;
mod expression;
mod prover;
mod solver;
mod statement;

pub(crate) use self::{
    analysis::{Analysis, AnalyzedPolicies, RequestCondition},
    prover::Prover,
    solver::SolverSettings,
    statement::{ProofReport, ProofResult, Property, Statement},
};
