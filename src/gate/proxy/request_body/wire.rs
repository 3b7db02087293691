//! Scanning of protobuf messages without their definitions: one field by its path, every text, and the count of a
//! repeated field. Pure.
//!
//! Promises: a field that occurs twice with different values, or is not a text, is an error: readers differ in which
//! occurrence they take. Every text is scanned, in messages nested as deep as Google's own parsers go.

use super::references::NameFinder;
use crate::{
    protobuf::{Fields, Malformed, Value},
    refusal::Refusal,
};

/// Deepest nesting that is scanned: Google's parsers for C++ and Java refuse deeper messages.
const DEPTH: usize = 100;
/// Work allowed for each byte of a message: a byte is read once in each message that it is nested in.
const WORK: usize = 64;
/// Work allowed for any message.
const LEAST_WORK: usize = 4 << 20;
/// Work for a byte that is scanned for names; a byte that is skipped costs 1.
const TEXT_WORK: usize = 8;

/// The text in the field at the path `tags`; empty if it is absent, as in proto3.
///
/// # Errors
/// 400 for a malformed message, for a field of another type, and for a field that occurs twice with different values.
pub(super) fn text_at<'m>(message: &'m [u8], tags: &[u32]) -> Result<&'m str, Refusal> {
    let refused = |text: &'static str| Refusal::malformed("rpc_resource", text);
    let mut found = Vec::new();
    collect(message, tags, &mut found).map_err(malformed)?;
    let mut texts = found.into_iter();
    let Some(first) = texts.next() else { return Ok("") };
    let first = first.ok_or_else(|| refused("the message's resource field has another type"))?;
    if texts.any(|other| other != Some(first)) {
        return Err(refused("the message's resource field occurs several times with different values"));
    }
    std::str::from_utf8(first).map_err(|_| refused("the message's resource field is not UTF-8"))
}

/// The number of occurrences of the field `tag`: each is an element of a repeated field.
pub(super) fn count(message: &[u8], tag: u32) -> u64 {
    let mut count = 0;
    for field in Fields::new(message) {
        let Ok((number, _)) = field else { return 0 };
        count += u64::from(number == tag);
    }
    count
}

/// Passes every text of a message to `names`.
///
/// # Errors
/// 400 for a malformed message, and for one whose nesting makes the scan too expensive.
pub(super) fn scan(message: &[u8], names: &mut NameFinder) -> Result<(), Refusal> {
    Fields::new(message).try_for_each(|field| field.map(drop)).map_err(malformed)?;
    let mut work = message.len().saturating_mul(WORK).max(LEAST_WORK);
    if scan_nested(message, names, DEPTH, &mut work) {
        return Ok(());
    }
    Err(Refusal::malformed("rpc_too_nested", "the message is nested too deeply to be scanned"))
}

/// Whether the allowed work was enough.
fn scan_nested(message: &[u8], names: &mut NameFinder, depth: usize, work: &mut usize) -> bool {
    let Some(left) = work.checked_sub(message.len()) else { return false };
    *work = left;
    // bytes that turn out to be malformed were not a message: names that were found in them do no harm
    for (_, value) in Fields::new(message).map_while(Result::ok) {
        let Value::Bytes(payload) = value else { continue };
        if let Ok(text) = std::str::from_utf8(payload) {
            let Some(left) = work.checked_sub(payload.len().saturating_mul(TEXT_WORK)) else { return false };
            *work = left;
            names.text(text);
        }
        // a message of one field has at least two bytes
        if depth > 0 && payload.len() >= 2 && !scan_nested(payload, names, depth - 1, work) {
            return false;
        }
    }
    true
}

/// The payloads of the field at the path `tags`; `None` for an occurrence of another type.
fn collect<'m>(message: &'m [u8], tags: &[u32], found: &mut Vec<Option<&'m [u8]>>) -> Result<(), Malformed> {
    let Some((first, others)) = tags.split_first() else { return Ok(()) };
    for field in Fields::new(message) {
        match field? {
            (number, _) if number != *first => {}
            (_, Value::Bytes(payload)) if !others.is_empty() => collect(payload, others, found)?,
            (_, Value::Bytes(payload)) => found.push(Some(payload)),
            _ => found.push(None),
        }
    }
    Ok(())
}

fn malformed(_: Malformed) -> Refusal {
    Refusal::malformed("rpc_malformed", "the message is not a protobuf message")
}
