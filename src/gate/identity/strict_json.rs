//! Strict JSON object parser for JOSE headers, claims sets and keys: duplicate members are refused.
//!
//! Promises: a duplicate member is refused, because two parsers could disagree on it; so is an object with too many
//! members. Members that are not used are parsed too. Pure: no I/O, no clock.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Most members of a header or a claims set. Each is compared with those before it, before the signature is verified.
pub(in crate::gate::identity) const MAX_MEMBERS: usize = 128;
/// The maximum nesting of objects and lists. Later parsers of the claims stop at 128.
const MAX_DEPTH: usize = 32;

/// A type that is parsed from a JSON object, member by member.
pub(in crate::gate::identity) trait Object<'de>: Default {
    /// The expected type, for error messages.
    const NAME: &'static str;

    /// Takes the value of the member `name` from `map`, or leaves it there and returns `false`.
    ///
    /// # Errors
    /// When the value is of another type.
    fn member<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error>;
}

/// Parses an object from any deserializer, such as a nested object.
///
/// # Errors
/// If it is not an object, a member is a duplicate or of another type, or there are too many.
pub(in crate::gate::identity) fn object<'de, T: Object<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_map(Members(PhantomData))
}

/// Parses a text that is one object and nothing else.
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

const DUPLICATE: &str = "duplicate member";

/// Whether parsing failed because of a duplicate member.
pub(in crate::gate::identity) fn is_duplicate_member(error: &serde_json::Error) -> bool {
    error.to_string().starts_with(DUPLICATE)
}

/// Whether objects and lists are nested deeper than [`MAX_DEPTH`]. Only counts brackets: the parser refuses what is not
/// JSON.
pub(in crate::gate::identity) fn is_too_deep(text: &str) -> bool {
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut escaped = false;
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

/// Parses the members of an object, each name at most once, and at most [`MAX_MEMBERS`].
fn members<'de, A: MapAccess<'de>, T: Object<'de>>(map: &mut A) -> Result<T, A::Error> {
    let mut object = T::default();
    let mut seen: Vec<Text<'de>> = Vec::with_capacity(16);
    while let Some(name) = map.next_key::<Text<'de>>()? {
        if seen.iter().any(|other| other.0 == name.0) {
            return Err(serde::de::Error::custom(DUPLICATE));
        }
        if seen.len() == MAX_MEMBERS {
            return Err(serde::de::Error::custom("there are too many members"));
        }
        if !object.member(&name.0, map)? {
            // parsed, not skipped: a skipped value may contain an invalid escape or an overlong number, at which a later
            // parser of the claims would fail
            map.next_value::<serde_json::Value>()?;
        }
        seen.push(name);
    }
    Ok(object)
}

/// A string, borrowed if it has no escapes.
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
    fn brackets_within_strings_are_not_nesting() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_too_deep(&nested(MAX_DEPTH - 1)) && is_too_deep(&nested(MAX_DEPTH)));
        assert!(!is_too_deep(&format!("{{\"a\":\"{}\\\"{}\"}}", "[".repeat(99), "{".repeat(99))));
    }
}
