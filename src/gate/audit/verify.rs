//! Reading a log back: is every line there, unchanged and in order?

use std::io::{BufRead, Error};

/// What reading a log showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All lines are as they were written.
    Whole {
        /// How many there are.
        lines: u64,
    },
    /// The chain breaks at this line, counted from 1.
    Broken {
        /// The first line that does not follow from the one before it.
        line: u64,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Checks the chain of a whole log, from its first line.
///
/// # Errors
/// When the log cannot be read.
pub(crate) fn verify(mut log: impl BufRead) -> Result<Verdict, Error> {
    let mut before = [0; 32];
    let mut text = Vec::new();
    let mut lines = 0;
    loop {
        text.clear();
        if log.read_until(b'\n', &mut text)? == 0 {
            return Ok(Verdict::Whole { lines });
        }
        lines += 1;
        let broken = |why| Ok(Verdict::Broken { line: lines, why });
        let Some(line) = text.strip_suffix(b"\n") else { return broken("its end is missing") };
        let Some((sealed, hash, seq)) = split(line) else {
            return broken("it does not end in a sequence number and a hash");
        };
        if seq != lines {
            return broken("its sequence number does not follow");
        }
        if hash != link(&before, sealed) {
            return broken("its hash does not follow from its text and the line before it");
        }
        before = hash;
    }
}

/// The last line's number and hash, for going on where the log ends; `None` where it is not a line of a chain.
pub(super) fn last_link(line: &[u8]) -> Option<(u64, [u8; 32])> {
    split(line).map(|(_, hash, seq)| (seq, hash))
}

/// The hash of a line that follows `before`.
pub(super) fn link(before: &[u8; 32], sealed: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(sealed);
    *hasher.finalize().as_bytes()
}

/// A line as (bytes that the hash covers, hash, sequence number).
fn split(line: &[u8]) -> Option<(&[u8], [u8; 32], u64)> {
    const TAIL: usize = ",\"hash\":\"".len() + 64 + "\"}".len();
    let (sealed, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
    let hex = tail.strip_prefix(b",\"hash\":\"")?.strip_suffix(b"\"}")?;
    let hash = *blake3::Hash::from_hex(hex).ok()?.as_bytes();
    let digits = sealed.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (head, seq) = sealed.split_at_checked(sealed.len() - digits)?;
    head.ends_with(b",\"seq\":").then_some(())?;
    Some((sealed, hash, std::str::from_utf8(seq).ok()?.parse().ok()?))
}
