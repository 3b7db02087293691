//! The keep-list: which series are worth storing.
//!
//! Promises: a series that matches no rule is not kept, so that an empty list keeps nothing.

use crate::series::{LabelRef, Selector};

/// The rules, any of which keeps a series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeepList(Box<[Selector]>);

impl KeepList {
    /// A list of these rules.
    #[must_use]
    pub(crate) fn new(rules: Vec<Selector>) -> Self {
        Self(rules.into())
    }

    /// Whether a series with these labels is kept.
    #[must_use]
    pub(crate) fn keeps(&self, labels: &[LabelRef<'_>]) -> bool {
        self.0.iter().any(|rule| rule.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_keeps_nothing_and_any_rule_is_enough() {
        let load = [("__name__", "node_load1")];
        assert!(!KeepList::default().keeps(&load));
        let rule = |metric| Selector::new(metric, [("", ""); 0]).unwrap();
        assert!(KeepList::new(vec![rule("up"), rule("node_*")]).keeps(&load));
        assert!(!KeepList::new(vec![rule("up"), rule("disk_*")]).keeps(&load));
    }
}
