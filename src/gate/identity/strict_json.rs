//! JSON objects whose members have one reading: headers, claims sets, keys.
//!
//! Promises: a member that stands twice is refused, since two readers could disagree on it; so is an object of very many
//! members, and what nobody looks at is read all the same. Pure: no I/O, no clock.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Most members of a header or a claims set. Each is compared with those before it, before any signature is looked at.
pub(in crate::gate::identity) const MAX_MEMBERS: usize = 128;
/// Most objects and lists within each other. What reads claims later stops at 128.
const MAX_DEPTH: usize = 32;

/// What a JSON object is read into, member by member.
pub(in crate::gate::identity) trait Object<'de>: Default {
    /// What is expected where something else stands.
    const NAME: &'static str;

    /// Takes the value of the member `name` from `map`, or leaves it there and says `false`.
    ///
    /// # Errors
    /// When the value is of another type.
    fn member<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error>;
}

/// Reads an object within another one, or wherever a deserializer stands.
///
/// # Errors
/// When it is no object, a member stands twice or is of another type, or there are too many.
pub(in crate::gate::identity) fn object<'de, T: Object<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_map(Members(PhantomData))
}

/// Reads a text that is one object and nothing else.
///
/// # Errors
/// As [`object`].
pub(in crate::gate::identity) fn read<'de, T: Object<'de>>(
    text: &'de (impl AsRef<[u8]> + ?Sized),
) -> Result<T, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text.as_ref());
    let object = object(&mut reader)?;
    reader.end()?;
    Ok(object)
}

const TWICE: &str = "a member stands twice";

/// Whether reading ended because a member stands twice.
pub(in crate::gate::identity) fn is_duplicate_member(error: &serde_json::Error) -> bool {
    error.to_string().starts_with(TWICE)
}

/// Whether objects and lists are nested deeper than any issuer nests them. Looks at brackets alone: what is not JSON is
/// refused by whoever reads it.
pub(in crate::gate::identity) fn is_too_deep(text: &str) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

struct Members<T>(PhantomData<T>);

impl<'de, T: Object<'de>> Visitor<'de> for Members<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::NAME)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        members(&mut map)
    }
}

/// Reads the members of an object, each name at most once, and no more than anybody needs.
fn members<'de, A: MapAccess<'de>, T: Object<'de>>(map: &mut A) -> Result<T, A::Error> {
    let mut object = T::default();
    let mut seen: Vec<Text<'de>> = Vec::with_capacity(16);
    while let Some(name) = map.next_key::<Text<'de>>()? {
        if seen.iter().any(|other| other.0 == name.0) {
            return Err(serde::de::Error::custom(TWICE));
        }
        if seen.len() == MAX_MEMBERS {
            return Err(serde::de::Error::custom("there are too many members"));
        }
        if !object.member(&name.0, map)? {
            // read whole: what is only skipped may hold a broken escape or an endless number, which whoever reads the
            // claims later would stop at
            map.next_value::<serde_json::Value>()?;
        }
        seen.push(name);
    }
    Ok(object)
}

/// A string, borrowed where it has no escapes.
pub(in crate::gate::identity) struct Text<'a>(pub(in crate::gate::identity) Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Borrow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_within_strings_are_no_depth() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_too_deep(&nested(MAX_DEPTH - 1)) && is_too_deep(&nested(MAX_DEPTH)));
        assert!(!is_too_deep(&format!("{{\"a\":\"{}\\\"{}\"}}", "[".repeat(99), "{".repeat(99))));
    }
}
