//! Statements to prove and the results of proofs. Pure data.

use std::{sync::Arc, time::Duration};

use super::{
    analysis::{AnalyzedPolicies, RequestCondition},
    counterexample::Counterexample,
};

/// What is to be proved.
pub(crate) enum Property {
    /// No principal may do something of the one group of actions and something of the other.
    Separation([String; 2]),
    /// What meets the condition is never allowed.
    Never(RequestCondition),
    /// What meets it always is.
    Always(RequestCondition),
    /// These policies allow the same as those.
    Equivalent(Arc<AnalyzedPolicies>),
    /// These policies allow nothing that those do not.
    AtMost(Arc<AnalyzedPolicies>),
}

/// A property by the name that it is reported under.
pub(crate) struct Statement {
    /// Its name.
    pub name: String,
    /// What it says.
    pub property: Property,
}

/// What came of a statement.
pub(crate) enum ProofResult {
    /// It holds.
    Proved,
    /// It does not: here is a request.
    Disproved(Box<Counterexample>),
    /// It does not, but why cannot be shown.
    DisprovedWithoutExample(String),
    /// The solver gave no answer.
    Undecided(String),
}

/// A verdict and what it took.
pub(crate) struct ProofReport {
    /// What came of it.
    pub verdict: ProofResult,
    /// The environments it is about; for [`Property::Separation`], the pairs of them.
    pub environments: usize,
    /// What was put to the symbolic compiler and, unless that saw through it, to the solver.
    pub questions: usize,
    /// How long it took.
    pub took: Duration,
}
