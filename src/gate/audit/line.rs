//! Reading a log back: what was asked, and how it was answered.
//!
//! Promises: one line in memory at a time, and none of more than 1 MiB.

use std::{
    borrow::Cow,
    io::{BufRead, Error, Read as _},
    net::SocketAddr,
    sync::Arc,
};

use serde::Deserialize;
use uuid::Uuid;

use super::{Decision, RecordedContext};
use crate::clock::Timestamp;

/// Far more than the longest line that is written.
const LONGEST: u64 = 1024 * 1024;

/// What a line tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Event {
    /// A request was permitted.
    Permit,
    /// A request is over.
    Request,
    /// Lines were lost.
    Lost,
    /// Something else, of another version.
    #[serde(other)]
    Other,
}

/// What a line about a grant says of it, as far as policy was told.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of `RecordedGrant`")]
pub(crate) struct RecordedGrantRequest {
    pub asker: Arc<str>,
    pub role: Arc<str>,
    pub resource: Arc<str>,
    pub seconds: u64,
}

/// What a line says of a request, as far as policy has to do with it. What a line lacks is not there.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the fields are the record's")]
pub(crate) struct Line<'a> {
    pub event: Event,
    #[serde(rename = "time")]
    pub at: Timestamp,
    pub id: Option<Uuid>,
    pub peer: Option<SocketAddr>,
    #[serde(borrow)]
    pub method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub principal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub issuer: Option<Cow<'a, str>>,
    pub roles: Option<Arc<[Arc<str>]>>,
    #[serde(borrow)]
    pub active_role: Option<Cow<'a, str>>,
    pub held_roles: Option<Arc<[Arc<str>]>>,
    pub action: Option<Arc<str>>,
    #[serde(borrow)]
    pub resource: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub route: Option<Cow<'a, str>>,
    pub decision: Option<Decision>,
    pub policies: Option<Arc<[Arc<str>]>>,
    #[serde(borrow)]
    pub reason: Option<Cow<'a, str>>,
    pub context: Option<RecordedContext>,
    pub grant: Option<RecordedGrantRequest>,
    /// How many lines were lost.
    #[serde(default)]
    pub lines: u64,
}

/// A log, line by line.
pub(crate) struct Lines<R> {
    log: R,
    text: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Reads `log` from its beginning.
    pub(crate) fn new(log: R) -> Self {
        Self { log, text: Vec::new() }
    }

    /// The next line; inside, nothing where it is none of an audit log. `None` at the end.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) fn advance(&mut self) -> Result<Option<Option<Line<'_>>>, Error> {
        self.text.clear();
        self.log.by_ref().take(LONGEST).read_until(b'\n', &mut self.text)?;
        if self.text.is_empty() {
            return Ok(None);
        }
        if self.text.len() as u64 == LONGEST && !self.text.ends_with(b"\n") {
            // the rest of it is no line either
            self.log.skip_until(b'\n')?;
            return Ok(Some(None));
        }
        Ok(Some(serde_json::from_slice(&self.text).ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_one_by_one_and_what_is_none_is_told() {
        let long = "x".repeat(3 << 20);
        let text = format!(
            "{{\"event\":\"request\",\"time\":\"2026-01-02T03:04:05Z\",\"principal\":\"a:\\\"b\"}}\nnonsense\n{long}\n\
             {{\"event\":\"lost\",\"time\":\"2026-01-02T03:04:05Z\",\"lines\":7}}\n\
             {{\"event\":\"novel\",\"time\":\"2026-01-02T03:04:05Z\"}}"
        );
        let mut lines = Lines::new(text.as_bytes());
        let mut told = Vec::new();
        while let Some(line) = lines.advance().unwrap() {
            told.push(line.map(|line| (line.event, line.principal.map(Cow::into_owned), line.lines)));
        }
        let expected = vec![
            Some((Event::Request, Some("a:\"b".to_owned()), 0)),
            None,
            None,
            Some((Event::Lost, None, 7)),
            Some((Event::Other, None, 0)),
        ];
        assert_eq!(told, expected);
    }
}
