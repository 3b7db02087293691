//! Source texts of policies, for explanations and differences. Decisions never use them.

use std::{path::PathBuf, sync::Arc};

use cedar_policy::{Effect, Policy, PolicyId, PolicySet};

use super::policy_file::PolicyFile;

/// One policy as its file has it.
pub struct PolicySource {
    /// Its `@id`, or its file and place in it: the name that records have.
    pub name: Arc<str>,
    /// The file that it is in.
    pub file: PathBuf,
    /// The line that it begins on, from 1.
    pub line: usize,
    /// Its text, annotations included.
    pub text: Box<str>,
    pub(super) policy: Policy,
}

impl PolicySource {
    /// Whether it permits; else it forbids.
    #[must_use]
    pub fn permits(&self) -> bool {
        self.policy.effect() == Effect::Permit
    }
}

/// Every policy of a set, in the order of files and lines. `place` gives a policy's name and file.
pub(super) fn policy_sources<'f>(
    set: &PolicySet,
    place: impl Fn(&PolicyId) -> Option<(Arc<str>, &'f PolicyFile)>,
) -> Vec<PolicySource> {
    let told = |policy: &Policy| {
        let (name, file) = place(policy.id())?;
        // a policy that was read prints the very text that it was read from
        let text = policy.to_string();
        let before = file.text.find(&text).and_then(|at| file.text.get(..at)).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Some(PolicySource { name, file: file.path.clone(), line, text: text.into(), policy: policy.clone() })
    };
    let mut all: Vec<PolicySource> = set.policies().filter_map(told).collect();
    all.sort_by(|a, b| (&a.file, a.line, &a.name).cmp(&(&b.file, b.line, &b.name)));
    all
}
