//! What the data path speaks about: labels, samples, selectors, and the [`Batch`] that travels from door to sink.
//!
//! Promises: a sample's 64 bits survive every step, stale markers among them; labels are sorted by name; a batch
//! carries the name of the caller who sent it. Nothing here does I/O or reads the clock.

mod batch;
mod write_rules;

use std::{fmt, sync::Arc};

pub(crate) use batch::{Batch, BatchBuilder, BrokenBatch};
pub(crate) use write_rules::WriteRules;

/// The label that holds a series' metric name.
pub(crate) const METRIC_NAME: &str = "__name__";

/// The NaN that says "this series ended here" (Prometheus, `model/value`). Other NaNs are ordinary values.
pub(crate) const STALE_MARKER_BITS: u64 = 0x7ff0_0000_0000_0002;

/// One label as it is found in somebody's buffer.
pub(crate) type LabelRef<'a> = (&'a str, &'a str);

/// One value of one series.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Compare by `to_bits`: the payload of a NaN has a meaning.
    pub value: f64,
}

impl Sample {
    /// The end of a series at `timestamp`.
    #[must_use]
    pub(crate) fn stale(timestamp: i64) -> Self {
        Self { timestamp, value: f64::from_bits(STALE_MARKER_BITS) }
    }

    /// Whether this ends its series rather than being a value of it.
    #[must_use]
    pub(crate) fn is_stale(self) -> bool {
        self.value.to_bits() == STALE_MARKER_BITS
    }
}

/// A series' identity, sorted by label name; a clone costs one reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Labels(Arc<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Labels from pairs that are already sorted by name.
    #[must_use]
    pub(crate) fn new(sorted: &[LabelRef<'_>]) -> Self {
        debug_assert!(sorted.is_sorted_by(|a, b| a.0 <= b.0));
        Self(sorted.iter().map(|&(name, value)| (name.into(), value.into())).collect())
    }

    /// The pairs, sorted by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = LabelRef<'_>> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The metric name, or nothing for a series without one.
    #[must_use]
    pub(crate) fn metric(&self) -> &str {
        self.iter().find(|(name, _)| *name == METRIC_NAME).map_or("", |(_, value)| value)
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A metric's name, or what several names begin with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// This name.
    Exact(Box<str>),
    /// All names that begin with this.
    Prefix(Box<str>),
}

impl NamePattern {
    /// Reads a name, or a prefix with `*` at its end.
    ///
    /// # Errors
    /// When `text` is empty or has a `*` before its end.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        match text.strip_suffix('*') {
            _ if text.is_empty() => Err(SelectorError::Empty),
            None if text.contains('*') => Err(SelectorError::InnerStar(text.to_owned())),
            Some(prefix) if prefix.contains('*') => Err(SelectorError::InnerStar(text.to_owned())),
            Some(prefix) => Ok(Self::Prefix(prefix.into())),
            None => Ok(Self::Exact(text.into())),
        }
    }

    /// Whether this name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *name,
            Self::Prefix(prefix) => name.starts_with(&**prefix),
        }
    }
}

/// Picks series by metric name and by exact labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Selector {
    metric: NamePattern,
    labels: Box<[(Box<str>, Box<str>)]>,
}

/// Why a selector's text is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// No text.
    #[error("an empty metric name selects nothing; write `*` to select every series")]
    Empty,
    /// A `*` before the end.
    #[error("`*` may stand only at the end of `{0}`")]
    InnerStar(String),
}

impl Selector {
    /// A selector for `metric`, a name or a prefix with `*` at its end, and for series that have all of `labels`.
    ///
    /// # Errors
    /// When `metric` is empty or has a `*` before its end.
    pub(crate) fn new(
        metric: &str,
        labels: impl IntoIterator<Item = (impl Into<Box<str>>, impl Into<Box<str>>)>,
    ) -> Result<Self, SelectorError> {
        let labels = labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let metric = NamePattern::parse(metric)?;
        Ok(Self { metric, labels })
    }

    /// Whether a series with these labels is picked. A label with an empty value is the same as one that is absent.
    #[must_use]
    pub(crate) fn matches(&self, labels: &[LabelRef<'_>]) -> bool {
        let value_of = |wanted: &str| labels.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value);
        let metric = value_of(METRIC_NAME);
        self.metric.matches(metric) && self.labels.iter().all(|(name, value)| value_of(name) == &**value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(metric: &str, labels: &[LabelRef<'_>], series: &[LabelRef<'_>], expected: bool) {
        let selector = Selector::new(metric, labels.iter().copied()).unwrap();
        assert_eq!(selector.matches(series), expected, "{metric} {labels:?} on {series:?}");
    }

    #[test]
    fn a_selector_takes_names_prefixes_and_exact_labels() {
        let load = [("__name__", "node_load1"), ("job", "node")];
        check("node_load1", &[], &load, true);
        check("node_load", &[], &load, false);
        check("node_load15", &[], &load, false);
        check("node_*", &[], &load, true);
        check("*", &[], &load, true);
        check("disk_*", &[], &load, false);
        check("node_load1", &[("job", "node")], &load, true);
        check("node_load1", &[("job", "nod")], &load, false);
        check("node_load1", &[("cpu", "0")], &load, false);
        check("node_load1", &[("cpu", "")], &load, true);
        check("*", &[], &[], true);
    }

    #[test]
    fn a_selector_that_could_not_mean_what_it_says_is_refused() {
        let refused = |text: &str| Selector::new(text, [("", ""); 0]).unwrap_err();
        assert_eq!(refused(""), SelectorError::Empty);
        assert_eq!(refused("a*b"), SelectorError::InnerStar("a*b".into()));
        assert_eq!(refused("a**"), SelectorError::InnerStar("a**".into()));
    }
}
