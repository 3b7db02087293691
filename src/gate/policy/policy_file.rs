//! Files of a policy directory and problems in them. Pure data.

use std::path::PathBuf;

/// A file of policies, or the schema.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// For messages.
    pub path: PathBuf,
    /// What it holds.
    pub text: String,
}

/// One thing that is wrong with schema or policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The file it is in.
    pub file: PathBuf,
    /// The line, from 1; 0 where Cedar does not say.
    pub line: usize,
    /// What is wrong.
    pub text: String,
}
