//! What texts name: Vertex resources, buckets and service accounts. Pure.
//!
//! Promises: every name in a form that Google reads is found, wherever in a text it stands; what only looks like one
//! may be found too, for a policy that forbids must not be got round. No more than 1,000 are kept: more is refused.

use crate::{
    policy::{Named, VertexResource},
    refusal::Refusal,
};

/// Different names in one body. Google's own bounds on lists in messages are below it.
const LIMIT: usize = 1000;
/// Longest name that is kept, in bytes; no resource of Google's has a longer one.
const NAME_LIMIT: usize = 1024;

/// Collections that are named without project and location in front: `endpoints/1`, `publishers/google/models/m`.
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

/// Where a bucket's name follows: URIs, the places of the JSON API's and the console's links, and where Vertex mounts
/// buckets in the containers of jobs.
const BUCKETS: [&str; 5] =
    ["gs://", "storage.googleapis.com/", "storage.cloud.google.com/", "storage.mtls.cloud.google.com/", "/gcs/"];

/// Names as they are found.
#[derive(Debug, Default)]
pub(super) struct Names {
    named: Named,
    too_many: bool,
}

impl Names {
    /// Looks at one text.
    pub(super) fn text(&mut self, text: &str) {
        // nothing that names anything is shorter than `gs://b`; most texts in a prediction are
        if text.len() < 6 || !text.contains(['/', '@']) {
            return;
        }
        for (at, _) in text.match_indices("projects/") {
            self.resource(text.get(at..).unwrap_or_default());
        }
        let whole = text.trim().trim_start_matches('/');
        if whole.split_once('/').is_some_and(|(first, rest)| SHORT.contains(&first) && !rest.is_empty()) {
            self.keep(whole);
        }
        self.buckets(text);
        for (at, _) in text.match_indices(ACCOUNTS) {
            let before = text.get(..at).unwrap_or_default();
            let start = before
                .rfind(|c: char| !(c.is_ascii_alphanumeric() || "-_.@".contains(c)))
                .map_or(0, |at| at + before.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8));
            let account = before.get(start..).unwrap_or_default();
            if account.contains('@') && self.has_room() {
                self.named.service_accounts.insert(format!("{account}{ACCOUNTS}").to_ascii_lowercase().into());
            }
        }
    }

    /// What was found.
    ///
    /// # Errors
    /// 400 for more than anything honest names.
    pub(super) fn found(self) -> Result<Named, Refusal> {
        if self.too_many {
            let text = "the body names too many resources, buckets and service accounts; 1,000 are the most";
            return Err(Refusal::malformed("too_many_names", text));
        }
        Ok(self.named)
    }

    /// A name that begins with `projects/`, as far as it goes.
    fn resource(&mut self, text: &str) {
        let mut segments = text.splitn(4, '/');
        let (_, _, third) = (segments.next(), segments.next(), segments.next());
        if third == Some("locations") {
            self.keep(text);
        }
    }

    /// The name that `text` begins with: up to what no name holds, without a custom verb.
    fn keep(&mut self, text: &str) {
        let end = text.find(|c: char| c.is_whitespace() || c.is_control() || "\"'`,;?#&<>()[]{}|\\".contains(c));
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

    fn buckets(&mut self, text: &str) {
        let lower = text.to_ascii_lowercase();
        for start in BUCKETS {
            for (at, _) in lower.match_indices(start) {
                let behind = lower.get(at + start.len()..).unwrap_or_default();
                let end = behind.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
                let bucket = behind.get(..end.unwrap_or(behind.len())).unwrap_or_default();
                if !bucket.is_empty() && self.has_room() {
                    self.named.buckets.insert(bucket.into());
                }
            }
        }
    }

    fn has_room(&mut self) -> bool {
        let Named { resources, buckets, service_accounts } = &self.named;
        self.too_many |= resources.len() + buckets.len() + service_accounts.len() >= LIMIT;
        !self.too_many
    }
}
