//! Protobuf messages without their definitions: one field by its tags, every text, and how often a field stands. Pure.
//!
//! Promises: a field that stands twice with different values, or is no text, is an error: readers differ in which one
//! they take. Every text is looked at, in messages nested as deep as Google's own parsers go.

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::references::NameFinder;
use crate::refusal::Refusal;

/// How deep messages are looked into: what Google's parsers for C++ and Java refuse beyond.
const DEPTH: usize = 100;
/// Bytes that are looked at, for each byte of a message: a byte is read once in each message that it is nested in.
const WORK: usize = 64;
/// … and for any message.
const LEAST_WORK: usize = 4 << 20;
/// What a byte costs that is looked at for names, where one that is passed over costs 1.
const TEXT_WORK: usize = 8;

/// The text in the field that `tags` lead to; empty where it is not there, as proto3 has it.
///
/// # Errors
/// 400 for a message that cannot be read, another type in the field, and a field that stands twice and differs.
pub(super) fn text_at<'m>(message: &'m [u8], tags: &[u32]) -> Result<&'m str, Refusal> {
    let bad = |text: &'static str| Refusal::malformed("rpc_resource", text);
    let mut found = Vec::new();
    collect(message, tags, &mut found).map_err(unreadable)?;
    let mut texts = found.into_iter();
    let Some(first) = texts.next() else { return Ok("") };
    let first = first.ok_or_else(|| bad("the message's resource field is of another type"))?;
    if texts.any(|other| other != Some(first)) {
        return Err(bad("the message's resource field stands in it several times and differs"));
    }
    std::str::from_utf8(first).map_err(|_| bad("the message's resource field is no UTF-8"))
}

/// How often the field `tag` stands in a message: each time is an element of a repeated field.
pub(super) fn count(message: &[u8], tag: u32) -> u64 {
    let mut count = 0;
    let read = walk(message, |found, _| count += u64::from(found == tag));
    read.map_or(0, |()| count)
}

/// Shows every text of a message to `names`.
///
/// # Errors
/// 400 for a message that cannot be read, or that is nested so that looking at it costs more than it may.
pub(super) fn scan(message: &[u8], names: &mut NameFinder) -> Result<(), Refusal> {
    walk(message, |_, _| ()).map_err(unreadable)?;
    let mut work = message.len().saturating_mul(WORK).max(LEAST_WORK);
    if inspect(message, names, DEPTH, &mut work) {
        return Ok(());
    }
    Err(Refusal::malformed("rpc_too_nested", "the message is nested too deeply to be looked at"))
}

/// Whether there was enough work left.
fn inspect(message: &[u8], names: &mut NameFinder, depth: usize, work: &mut usize) -> bool {
    let Some(left) = work.checked_sub(message.len()) else { return false };
    *work = left;
    let mut enough = true;
    // what breaks off in the middle was no message: what was found in it until then does no harm
    let _ = walk(message, |_, payload| {
        let Some(payload) = payload.filter(|_| enough) else { return };
        if let Ok(text) = std::str::from_utf8(payload) {
            let left = work.checked_sub(payload.len().saturating_mul(TEXT_WORK));
            enough = left.is_some();
            if !enough {
                return;
            }
            *work = left.unwrap_or_default();
            names.text(text);
        }
        // a message of one field has two bytes at least
        if depth > 0 && payload.len() >= 2 {
            enough = inspect(payload, names, depth - 1, work);
        }
    });
    enough
}

/// The payloads in the field that `tags` lead to, `None` for those of another type.
fn collect<'m>(message: &'m [u8], tags: &[u32], found: &mut Vec<Option<&'m [u8]>>) -> Result<(), NotProtobuf> {
    let Some((first, others)) = tags.split_first() else { return Ok(()) };
    let mut nested = Ok(());
    walk(message, |tag, payload| {
        if tag != *first || nested.is_err() {
            return;
        }
        match payload {
            Some(payload) if !others.is_empty() => nested = collect(payload, others, found),
            payload => found.push(payload),
        }
    })?;
    nested
}

/// Goes through the fields of a message: tag and, where it is delimited by its length, payload.
fn walk<'m>(mut message: &'m [u8], mut each: impl FnMut(u32, Option<&'m [u8]>)) -> Result<(), NotProtobuf> {
    while message.has_remaining() {
        let (tag, wire) = decode_key(&mut message)?;
        if wire == WireType::LengthDelimited {
            let length = decode_varint(&mut message)?;
            let split = usize::try_from(length).ok().and_then(|length| message.split_at_checked(length));
            let Some((payload, rest)) = split else { return Err(NotProtobuf) };
            message = rest;
            each(tag, Some(payload));
        } else {
            skip_field(wire, tag, &mut message, DecodeContext::default())?;
            each(tag, None);
        }
    }
    Ok(())
}

/// The bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no protobuf message")]
pub(super) struct NotProtobuf;

impl From<prost::DecodeError> for NotProtobuf {
    fn from(_: prost::DecodeError) -> Self {
        Self
    }
}

fn unreadable(_: NotProtobuf) -> Refusal {
    Refusal::malformed("rpc_malformed", "the message is no protobuf message")
}
