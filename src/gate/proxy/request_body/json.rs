//! Streaming scan of a JSON text: every string, and the number of instances. Pure.
//!
//! Promises: every string is scanned, also keys and the values of duplicate members. A text that is not JSON, or is nested
//! deeper than serde_json's limit (128), is an error. It never builds the document.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::references::NameFinder;

/// Members of a body whose elements are instances.
pub(in crate::gate::proxy) const INSTANCE_MEMBERS: [&str; 2] = ["instances", "inputs"];

/// Passes every string of `bytes` to `names`. Returns the number of instances; `None` if no member has instances.
///
/// # Errors
/// If `bytes` is not one JSON text.
pub(super) fn scan(bytes: &[u8], names: &mut NameFinder) -> Result<Option<u64>, serde_json::Error> {
    let mut counted = None;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    ScannedValue { names, counted: Some(&mut counted), elements: None }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(counted)
}

/// One value at any depth.
struct ScannedValue<'a> {
    names: &'a mut NameFinder,
    /// Receives the number of instances; `None` below the outermost object.
    counted: Option<&'a mut Option<u64>>,
    /// Receives the number of this value's elements.
    elements: Option<&'a mut u64>,
}

impl<'de> DeserializeSeed<'de> for ScannedValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScannedValue<'_> {
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
        while sequence.next_element_seed(ScannedValue { names: self.names, counted: None, elements: None })?.is_some() {
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
            // a value that is not a list counts as one instance; each occurrence of a duplicate member counts
            let mut elements = 1;
            map.next_value_seed(ScannedValue { names: self.names, counted: None, elements: Some(&mut elements) })?;
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
