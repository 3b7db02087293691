//! Finds the names of Vertex resources, buckets and service accounts in texts. Pure.
//!
//! Promises: every name in a form that Google reads is found, at any position of a text. A text that only resembles a name
//! may be found too, so that no spelling evades a policy that forbids. More than 1,000 names are refused. It must never
//! read a byte of a text more than a bounded number of times: callers choose the texts, up to 10 MiB long.

use std::borrow::Cow;

use crate::{
    gate::policy::{BodyNames, VertexResource},
    refusal::Refusal,
};

/// Most different names in one body. Google's own limits for lists in messages are lower.
const MAX_NAMES: usize = 1000;
/// Longest name, in bytes; no Google resource has a longer one.
const NAME_LIMIT: usize = 1024;

/// Collections whose resources have names without project and location: `endpoints/1`, `publishers/google/models/m`.
const SHORT: [&str; 10] = [
    "cachedContents",
    "datasets",
    "endpoints",
    "indexEndpoints",
    "indexes",
    "models",
    "publishers",
    "ragCorpora",
    "reasoningEngines",
    "tunedModels",
];

const ACCOUNTS: &str = ".gserviceaccount.com";
/// Longest part of an account's address before that suffix, in bytes (RFC 5321 section 4.5.3.1).
const ACCOUNT_LIMIT: usize = 320;

/// Prefixes of a bucket's name: URIs, links of the XML API, the JSON API and the console, and the path at which Vertex
/// mounts buckets in the containers of jobs.
const BUCKETS: [&str; 7] = [
    "gs://",
    "storage.googleapis.com/",
    "storage.cloud.google.com/",
    "storage.mtls.cloud.google.com/",
    "/storage/v1/b/",
    "/storage/browser/",
    "/gcs/",
];
/// The suffix of a bucket's name in a host name.
const HOSTED: &str = ".storage.googleapis.com";
/// Longest name of a bucket, in bytes (Cloud Storage, "Bucket names").
const BUCKET_LIMIT: usize = 222;

/// Collects names from texts.
#[derive(Debug, Default)]
pub(super) struct NameFinder {
    named: BodyNames,
    too_many: bool,
}

impl NameFinder {
    /// Finds the names in one text.
    pub(super) fn text(&mut self, text: &str) {
        // the shortest name is `gs://b`; most texts in a prediction are shorter
        if text.len() < 6 || !text.contains(['/', '@']) {
            return;
        }
        self.find(text);
        // percent-encoding does not change the meaning of a link
        if text.contains('%')
            && let Cow::Owned(plain) = percent_encoding::percent_decode_str(text).decode_utf8_lossy()
        {
            self.find(&plain);
        }
    }

    fn find(&mut self, text: &str) {
        for (at, _) in text.match_indices("projects/") {
            if self.too_many {
                return;
            }
            self.resource(text.get(at..).unwrap_or_default());
        }
        let whole = text.trim().trim_start_matches('/');
        if whole.split_once('/').is_some_and(|(first, rest)| SHORT.contains(&first) && !rest.is_empty()) {
            self.add(whole);
        }
        let lower = text.to_ascii_lowercase();
        self.buckets(&lower);
        self.accounts(&lower);
    }

    /// All names that were found.
    ///
    /// # Errors
    /// 400 if there are more than 1,000.
    pub(super) fn found(self) -> Result<BodyNames, Refusal> {
        if self.too_many {
            let text = "the body names more than 1,000 resources, buckets and service accounts";
            return Err(Refusal::malformed("too_many_names", text));
        }
        Ok(self.named)
    }

    /// The name at the start of `text`, which begins with `projects/`.
    fn resource(&mut self, text: &str) {
        let mut segments = text.splitn(4, '/');
        if segments.nth(2) == Some("locations") {
            self.add(text);
        }
    }

    /// Adds the name at the start of `text`: up to a character that no name has, without a custom verb.
    fn add(&mut self, text: &str) {
        let ends = |c: char| c.is_whitespace() || c.is_control() || "\"'`,;?#&<>()[]{}|\\".contains(c);
        let end = text.char_indices().take(NAME_LIMIT + 1).find(|&(_, c)| ends(c)).map(|(at, _)| at);
        if end.is_none() && text.len() > NAME_LIMIT {
            self.too_many = true;
            return;
        }
        let name = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
        let last = name.rfind('/').map_or(0, |at| at + 1);
        let verb = name.get(last..).and_then(|segment| segment.find(':'));
        let name = verb.map_or(name, |at| name.get(..last + at).unwrap_or_default()).trim_end_matches('/');
        if name.len() > NAME_LIMIT {
            self.too_many = true;
        } else if name.contains('/') && self.has_room() {
            self.named.resources.insert(VertexResource::parse(name));
        }
    }

    fn buckets(&mut self, lower: &str) {
        for start in BUCKETS {
            for (at, _) in lower.match_indices(start) {
                let behind = lower.get(at + start.len()..).unwrap_or_default();
                self.bucket(behind.get(..length(behind.bytes(), b"-_.", BUCKET_LIMIT)).unwrap_or_default());
            }
        }
        for (at, _) in lower.match_indices(HOSTED) {
            let before = lower.get(..at).unwrap_or_default();
            let start = at - length(before.bytes().rev(), b"-_.", BUCKET_LIMIT);
            self.bucket(before.get(start..).unwrap_or_default());
        }
    }

    fn bucket(&mut self, name: &str) {
        if !name.is_empty() && self.has_room() {
            self.named.buckets.insert(name.into());
        }
    }

    fn accounts(&mut self, lower: &str) {
        for (at, _) in lower.match_indices(ACCOUNTS) {
            let before = lower.get(..at).unwrap_or_default();
            let start = at - length(before.bytes().rev(), b"-_.@", ACCOUNT_LIMIT);
            let account = before.get(start..).unwrap_or_default();
            if account.contains('@') && self.has_room() {
                self.named.service_accounts.insert(format!("{account}{ACCOUNTS}").into());
            }
        }
    }

    fn has_room(&mut self) -> bool {
        let BodyNames { resources, buckets, service_accounts } = &self.named;
        self.too_many |= resources.len() + buckets.len() + service_accounts.len() >= MAX_NAMES;
        !self.too_many
    }
}

/// The number of leading bytes, at most `most`, that are letters, digits or in `others`.
fn length(bytes: impl Iterator<Item = u8>, others: &[u8], most: usize) -> usize {
    bytes.take(most).take_while(|b| b.is_ascii_alphanumeric() || others.contains(b)).count()
}
