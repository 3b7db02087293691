//! Streaming filter for pages in a Prometheus text format. Pure.
//!
//! Promises: nothing that a guardrail hides is in the output, in whatever chunks the page arrives, and the rest passes byte
//! for byte. It must never buffer more of a page than one line. A malformed line ends the page with an error: a scraper
//! discards an incomplete page.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use crate::exposition::line::{Label, Line, Sample};
use crate::gate::policy::{MaskKey, ScrapeGuardrail, plain_name};

/// Longest line, in bytes.
const MAX_LINE: usize = 1 << 20;
/// Most series of one page if labels are dropped: each is remembered. More end the page.
const MAX_SERIES: usize = 200_000;
/// Suffixes of a family's name in the names of its samples (OpenMetrics 1.0, section 5).
const SUFFIXES: [&str; 8] = ["_total", "_created", "_bucket", "_count", "_sum", "_info", "_gcount", "_gsum"];

/// The reason why a page was cut off.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::gate::proxy) enum FilterError {
    #[error("a line of the page is longer than {MAX_LINE} bytes")]
    LineTooLong,
    #[error("a line of the page is not UTF-8")]
    NotUtf8,
    #[error("line {0} of the page is malformed: {1}")]
    Malformed(usize, &'static str),
    #[error(
        "line {0} of the page has the labels of an earlier sample once `drop_labels` is applied; use `mask_labels` instead"
    )]
    DuplicateSeries(usize),
    #[error("the page has more than {MAX_SERIES} series, too many for `drop_labels`")]
    TooManySeries,
}

/// The filter of one page.
pub(super) struct ExpositionFilter {
    duties: Arc<[ScrapeGuardrail]>,
    /// The beginning of a line whose end has not arrived.
    pending: Vec<u8>,
    line: usize,
    /// The family that was declared last, and its type.
    family: Option<(String, String)>,
    /// Hashes of the series that passed, if labels are dropped.
    seen: HashSet<u64>,
    hasher: RandomState,
}

/// What the filter does with a label.
enum LabelAction<'k> {
    Keep,
    Drop,
    Mask(&'k MaskKey),
}

impl ExpositionFilter {
    pub(super) fn new(duties: Arc<[ScrapeGuardrail]>) -> Self {
        let hasher = RandomState::new();
        Self { duties, pending: Vec::new(), line: 0, family: None, seen: HashSet::new(), hasher }
    }

    /// Takes the next chunk. Appends to `out` what the caller may see.
    pub(super) fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), FilterError> {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            if self.pending.len() + piece.len() > MAX_LINE {
                return Err(FilterError::LineTooLong);
            }
            if !piece.ends_with(b"\n") {
                self.pending.extend_from_slice(piece);
            } else if self.pending.is_empty() {
                self.filter_line(piece, out)?;
            } else {
                let mut line = std::mem::take(&mut self.pending);
                line.extend_from_slice(piece);
                self.filter_line(&line, out)?;
            }
        }
        Ok(())
    }

    /// Takes the end of the page.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), FilterError> {
        let line = std::mem::take(&mut self.pending);
        if line.is_empty() { Ok(()) } else { self.filter_line(&line, out) }
    }

    fn filter_line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), FilterError> {
        self.line += 1;
        let text = std::str::from_utf8(line).map_err(|_| FilterError::NotUtf8)?;
        let (text, end) = text.strip_suffix('\n').map_or((text, ""), |text| (text, "\n"));
        match Line::parse(text).map_err(|wrong| FilterError::Malformed(self.line, wrong))? {
            Line::Blank | Line::Eof => out.extend_from_slice(line),
            // a comment could contain anything, even a hidden sample
            Line::Comment => {}
            Line::Meta { keyword, family, text: about } => {
                if self.duties.iter().all(|duty| shows_metadata(duty, &family)) {
                    out.extend_from_slice(line);
                }
                if keyword == "TYPE" {
                    self.family = Some((family.into_owned(), about.to_owned()));
                }
            }
            Line::Sample(sample) => {
                if let Some(filtered) = self.sample(&sample, text)? {
                    out.extend_from_slice(filtered.as_ref());
                    out.extend_from_slice(end.as_bytes());
                }
            }
        }
        Ok(())
    }

    /// The sample as the caller may see it; `None` if it is hidden.
    fn sample<'a>(&mut self, sample: &Sample<'a>, text: &'a str) -> Result<Option<FilteredSample<'a>>, FilterError> {
        let family = self.family.as_ref().and_then(|(family, kind)| family_of(&sample.name, family, kind));
        let visible = self.duties.iter().all(|duty| {
            shows(duty, &sample.name, family)
                && !hides(duty, &sample.name)
                && !family.is_some_and(|(family, _)| hides(duty, family))
                && !hides_series(duty, &sample.labels)
        });
        if !visible {
            return Ok(None);
        }
        if self.duties.iter().any(|duty| !duty.drop_labels.is_empty()) && self.is_duplicate(sample)? {
            return Err(FilterError::DuplicateSeries(self.line));
        }
        let touched =
            |labels: &[Label<'_>]| labels.iter().any(|label| !matches!(self.label_action(label), LabelAction::Keep));
        let exemplar = sample.exemplar.as_ref();
        let drop_exemplar = exemplar.is_some_and(|exemplar| {
            touched(&exemplar.labels) || self.duties.iter().any(|duty| hides_series(duty, &exemplar.labels))
        });
        Ok(Some(match (touched(&sample.labels), drop_exemplar) {
            (false, false) => FilteredSample::Unchanged(text),
            (true, _) => FilteredSample::Changed(self.rewrite(sample, drop_exemplar)),
            (false, true) => {
                let before = exemplar.map_or(0, |exemplar| exemplar.written.len());
                FilteredSample::Unchanged(text.get(..text.len().saturating_sub(before)).unwrap_or_default().trim_end())
            }
        }))
    }

    /// The sample's line without dropped labels and with masked values.
    fn rewrite(&self, sample: &Sample<'_>, drop_exemplar: bool) -> String {
        let mut inside: Vec<String> = Vec::new();
        if sample.inside {
            inside.push(sample.written.to_owned());
        }
        for label in &sample.labels {
            match self.label_action(label) {
                LabelAction::Keep => inside.push(label.written.to_owned()),
                LabelAction::Drop => {}
                LabelAction::Mask(key) => {
                    let mask = key.mask(&plain_name(&label.name), &label.value);
                    inside.push(format!("{}=\"{mask}\"", label.written_name));
                }
            }
        }
        let name = if sample.inside { "" } else { sample.written };
        let braces = if inside.is_empty() { String::new() } else { format!("{{{}}}", inside.join(",")) };
        let exemplar = sample.exemplar.as_ref().filter(|_| !drop_exemplar).map_or("", |exemplar| exemplar.written);
        let value = sample.value.trim_start_matches([' ', '\t']);
        let line = format!("{name}{braces} {value}{exemplar}");
        line.trim_end().to_owned()
    }

    fn label_action(&self, label: &Label<'_>) -> LabelAction<'_> {
        let name = plain_name(&label.name);
        let listed = |names: &[Box<str>]| names.iter().any(|listed| **listed == *name);
        if self.duties.iter().any(|duty| listed(&duty.drop_labels)) {
            return LabelAction::Drop;
        }
        let masked = self.duties.iter().find(|duty| listed(&duty.mask_labels));
        match masked {
            // a label without a value is the same as no label
            _ if label.value.is_empty() => LabelAction::Keep,
            None => LabelAction::Keep,
            Some(duty) => duty.mask.as_ref().map_or(LabelAction::Drop, LabelAction::Mask),
        }
    }

    /// Whether an earlier sample has the same name and labels after dropping.
    fn is_duplicate(&mut self, sample: &Sample<'_>) -> Result<bool, FilterError> {
        let mut labels: Vec<(&str, &str)> = sample
            .labels
            .iter()
            .filter(|label| !label.value.is_empty() && !matches!(self.label_action(label), LabelAction::Drop))
            .map(|label| (&*label.name, &*label.value))
            .collect();
        labels.sort_unstable();
        let identity = self.hasher.hash_one((&*sample.name, labels));
        if self.seen.len() >= MAX_SERIES {
            return Err(FilterError::TooManySeries);
        }
        Ok(!self.seen.insert(identity))
    }
}

/// The line of a sample that passes.
enum FilteredSample<'a> {
    Unchanged(&'a str),
    Changed(String),
}

impl AsRef<[u8]> for FilteredSample<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Unchanged(text) => text.as_bytes(),
            Self::Changed(text) => text.as_bytes(),
        }
    }
}

/// The declared family, and its name without `_total` if it is a counter. `None` if the sample does not belong to it.
fn family_of<'f>(sample: &str, family: &'f str, kind: &str) -> Option<(&'f str, &'f str)> {
    let suffixes: &[&str] = match kind {
        "counter" => &["_total", "_created"],
        "histogram" => &["_bucket", "_count", "_sum", "_created"],
        "summary" => &["_count", "_sum", "_created"],
        "gaugehistogram" => &["_bucket", "_gcount", "_gsum"],
        "info" => &["_info"],
        _ => &[],
    };
    let behind = sample.strip_prefix(family)?;
    let base = if kind == "counter" { family.strip_suffix("_total").unwrap_or(family) } else { family };
    (behind.is_empty() || suffixes.contains(&behind)).then_some((family, base))
}

/// Whether `show` includes the family of this sample. Names compare without escaping: an unknown spelling is hidden.
fn shows(duty: &ScrapeGuardrail, sample: &str, family: Option<(&str, &str)>) -> bool {
    duty.show.as_ref().is_none_or(|list| {
        list.iter().any(|pattern| {
            let of_family = family.is_some_and(|(family, base)| pattern.matches(family) || pattern.matches(base));
            of_family || pattern.matches(sample)
        })
    })
}

/// Whether `hide` includes this sample, or its family by any reading of its name.
fn hides(duty: &ScrapeGuardrail, sample: &str) -> bool {
    let name = plain_name(sample);
    let matches = |name: &str| duty.hide.iter().any(|pattern| pattern.matches(name));
    let base = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
    matches(&name)
        || base.is_some_and(matches)
        // a rule may name a counter's family or its sample
        || name.strip_suffix("_created").is_some_and(|base| matches(&format!("{base}_total")))
}

/// Whether the caller may see the metadata of this family.
fn shows_metadata(duty: &ScrapeGuardrail, family: &str) -> bool {
    let total = format!("{family}_total");
    let counter = Some((family, family.strip_suffix("_total").unwrap_or(family)));
    let listed = shows(duty, family, counter) || shows(duty, &total, None);
    listed && !hides(duty, family) && !hides(duty, &total)
}

fn hides_series(duty: &ScrapeGuardrail, labels: &[Label<'_>]) -> bool {
    duty.hide_series
        .iter()
        .any(|(name, value)| labels.iter().any(|label| *plain_name(&label.name) == **name && *label.value == **value))
}

#[cfg(test)]
mod tests;
