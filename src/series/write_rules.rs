//! What a caller's series must be: labels that are set for it, labels and metrics that it may not write. Pure.
//!
//! Promises: a label that is set has the value that is set, whatever was sent, and labels stay sorted by name, so that
//! everything behind this sees the series as it is stored.

use super::{LabelRef, METRIC_NAME, NamePattern};

/// The rules for one caller; all of them hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteRules {
    /// Labels and the values that they have, no name twice.
    pub force: Vec<(Box<str>, Box<str>)>,
    /// Labels that no series may carry, unless with the value that is set.
    pub refuse_labels: Vec<Box<str>>,
    /// Of each list a series' metric must match one.
    pub allow_metrics: Vec<Vec<NamePattern>>,
    /// Metrics that may not be written.
    pub refuse_metrics: Vec<NamePattern>,
}

/// Why a series may not be written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleBroken {
    /// The label.
    #[error("a guardrail lets you write no label `{0}` of your own")]
    Label(Box<str>),
    /// The metric.
    #[error("a guardrail does not let you write the metric `{0}`")]
    Metric(Box<str>),
}

impl WriteRules {
    /// Makes a series what it must be. `labels` are sorted by name, no name twice, and are so afterwards.
    ///
    /// # Errors
    /// When the caller may not write it.
    pub fn apply<'a>(&'a self, labels: &mut Vec<LabelRef<'a>>) -> Result<(), RuleBroken> {
        let metric = labels.iter().find(|(name, _)| *name == METRIC_NAME).map_or("", |(_, value)| value);
        let allowed = self.allow_metrics.iter().all(|list| list.iter().any(|pattern| pattern.matches(metric)));
        if !allowed || self.refuse_metrics.iter().any(|pattern| pattern.matches(metric)) {
            return Err(RuleBroken::Metric(metric.into()));
        }
        for refused in &self.refuse_labels {
            let sent = labels.iter().find(|(name, _)| *name == &**refused);
            let set = self.force.iter().find(|(name, _)| name == refused).map(|(_, value)| &**value);
            if sent.is_some_and(|(_, value)| Some(*value) != set) {
                return Err(RuleBroken::Label(refused.clone()));
            }
        }
        for (name, value) in &self.force {
            match labels.binary_search_by(|(other, _)| (*other).cmp(name)) {
                Ok(at) => {
                    if let Some(label) = labels.get_mut(at) {
                        label.1 = value;
                    }
                }
                Err(at) => labels.insert(at, (name, value)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &WriteRules, sent: &[LabelRef<'_>], expected: Result<&[LabelRef<'_>], RuleBroken>) {
        let mut labels = sent.to_vec();
        let found = rules.apply(&mut labels).map(|()| labels.as_slice());
        assert_eq!(found, expected, "{sent:?}");
    }

    #[test]
    fn a_label_that_is_set_has_that_value_and_its_place_in_the_order() {
        let rules = WriteRules { force: vec![("tenant".into(), "a".into())], ..WriteRules::default() };
        let stored = [("__name__", "up"), ("job", "x"), ("tenant", "a"), ("zone", "z")];
        check(&rules, &[("__name__", "up"), ("job", "x"), ("zone", "z")], Ok(&stored));
        check(&rules, &[("__name__", "up"), ("job", "x"), ("tenant", "b"), ("zone", "z")], Ok(&stored));
        check(&rules, &[("__name__", "up")], Ok(&[("__name__", "up"), ("tenant", "a")]));
    }

    #[test]
    fn what_may_not_be_written_is_refused_by_its_name() {
        let pattern = |text| NamePattern::parse(text).unwrap();
        let rules = WriteRules {
            force: vec![("tenant".into(), "a".into())],
            refuse_labels: vec!["tenant".into(), "cluster".into()],
            allow_metrics: vec![vec![pattern("app_*"), pattern("up")], vec![pattern("app_*")]],
            refuse_metrics: vec![pattern("app_secret")],
        };
        let stored = [("__name__", "app_x"), ("tenant", "a")];
        check(&rules, &[("__name__", "app_x")], Ok(&stored));
        check(&rules, &[("__name__", "app_x"), ("tenant", "a")], Ok(&stored));
        check(&rules, &[("__name__", "app_x"), ("tenant", "b")], Err(RuleBroken::Label("tenant".into())));
        check(&rules, &[("__name__", "app_x"), ("cluster", "")], Err(RuleBroken::Label("cluster".into())));
        check(&rules, &[("__name__", "up")], Err(RuleBroken::Metric("up".into())));
        check(&rules, &[("__name__", "app_secret")], Err(RuleBroken::Metric("app_secret".into())));
        check(&rules, &[], Err(RuleBroken::Metric("".into())));
    }
}
