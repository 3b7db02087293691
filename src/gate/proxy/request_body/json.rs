//! A JSON text looked through without building it: every string in it, and how many instances it holds. Pure.
//!
//! Promises: each string is seen, keys and repeated members among them; what is no JSON, or nested deeper than
//! serde_json goes (128), is an error.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::references::NameFinder;

/// Members of a body whose elements are instances.
const INSTANCE_MEMBERS: [&str; 2] = ["instances", "inputs"];

/// Shows every string of `bytes` to `names`. Gives the number of instances, where there is such a member.
///
/// # Errors
/// When `bytes` is not one JSON text.
pub(super) fn scan(bytes: &[u8], names: &mut NameFinder) -> Result<Option<u64>, serde_json::Error> {
    let mut counted = None;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Value { names, counted: Some(&mut counted), elements: None }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(counted)
}

/// One value, wherever it stands.
struct Value<'a> {
    names: &'a mut NameFinder,
    /// Where the counts go, in the outermost object only.
    counted: Option<&'a mut Option<u64>>,
    /// Where this value's elements are counted.
    elements: Option<&'a mut u64>,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.names.text(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let mut count: u64 = 0;
        while sequence.next_element_seed(Value { names: self.names, counted: None, elements: None })?.is_some() {
            count += 1;
        }
        if let Some(elements) = self.elements {
            *elements = count;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut counted = self.counted;
        while let Some(key) = map.next_key::<Box<str>>()? {
            self.names.text(&key);
            // what is no list is one instance at least, whatever Google makes of it; a repeated member counts each time
            let mut elements = 1;
            map.next_value_seed(Value { names: self.names, counted: None, elements: Some(&mut elements) })?;
            if let Some(counted) = counted.as_deref_mut()
                && INSTANCE_MEMBERS.contains(&&*key)
            {
                *counted = Some(counted.unwrap_or(0).saturating_add(elements));
            }
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}
