//! The file of session revocations: one JSON object a line, appended and synced.

use std::{io::Write as _, path::Path};

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, gate::identity::session::subject::RevocationTarget};

/// One line.
#[derive(Serialize, Deserialize)]
pub(super) struct RevocationEntry {
    pub(super) target: RevocationTarget,
    pub(super) at: Timestamp,
    /// When the entry may be removed.
    pub(super) until: Timestamp,
}

impl RevocationEntry {
    pub(super) fn line(&self) -> std::io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Reads the entries that still matter, and rewrites the file with these alone. A file that does not exist has none.
pub(super) fn compact(file: &Path, now: Timestamp) -> std::io::Result<Vec<RevocationEntry>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // a line without an end was not synced, so its revocation was never confirmed
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let entries: Vec<RevocationEntry> = whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let entries: Vec<RevocationEntry> = entries.into_iter().filter(|entry| now < entry.until).collect();
    let next = file.with_extension("next");
    let mut open = std::fs::File::create(&next)?;
    for entry in &entries {
        open.write_all(&entry.line()?)?;
    }
    open.sync_data()?;
    std::fs::rename(next, file)?;
    Ok(entries)
}
