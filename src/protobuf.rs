//! Protobuf wire format: the fields of a message, read in place without its definition.
//!
//! Promises: a value is borrowed from the message, and no length is trusted before it fits into what is left of the
//! message. It must never panic, allocate or recurse deeper than prost does, whatever the bytes are.

use prost::encoding::{DecodeContext, WireType, decode_varint, skip_field};

/// The bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a protobuf message")]
pub(crate) struct Malformed;

impl From<prost::DecodeError> for Malformed {
    fn from(_: prost::DecodeError) -> Self {
        Self
    }
}

/// The value of one field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'m> {
    Varint(u64),
    Fixed64(u64),
    /// A string, bytes, a message, or a packed repeated field.
    Bytes(&'m [u8]),
    Fixed32(u32),
    /// A group of proto2, which is read over.
    Group,
}

/// The fields of a message in the order in which they are written: number and value. Ends after the first error.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'m> {
    rest: &'m [u8],
}

impl<'m> Fields<'m> {
    #[must_use]
    pub(crate) fn new(message: &'m [u8]) -> Self {
        Self { rest: message }
    }

    #[inline]
    fn read(&mut self) -> Result<(u32, Value<'m>), Malformed> {
        let key = self.varint()?;
        if key < 8 || key > u64::from(u32::MAX) {
            return Err(Malformed);
        }
        let number = (key >> 3) as u32;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            3 => {
                self.skip_group(number)?;
                Value::Group
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Malformed),
        };
        Ok((number, value))
    }

    /// Out of line: inlined, it slows every field down by a third.
    #[cold]
    #[inline(never)]
    fn skip_group(&mut self, number: u32) -> Result<(), Malformed> {
        skip_field(WireType::StartGroup, number, &mut self.rest, DecodeContext::default())?;
        Ok(())
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        Ok(decode_varint(&mut self.rest)?)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*bytes)
    }
}

impl<'m> Iterator for Fields<'m> {
    type Item = Result<(u32, Value<'m>), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// A varint whose bytes arrive one at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PartialVarint {
    value: u64,
    shift: u32,
}

impl PartialVarint {
    /// Takes the next byte; returns the number after its last byte.
    ///
    /// # Errors
    /// If the number does not fit into 64 bits.
    pub(crate) fn push(&mut self, byte: u8) -> Result<Option<u64>, Malformed> {
        if self.shift > 63 || (self.shift == 63 && byte > 1) {
            return Err(Malformed);
        }
        self.value |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        Ok((byte < 0x80).then_some(self.value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::encoding::encode_varint;

    use super::*;

    fn read(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Malformed> {
        Fields::new(message).collect()
    }

    #[test]
    fn each_wire_type_is_read() {
        let check = |message: &[u8], expected: &[(u32, Value<'_>)]| {
            assert_eq!(read(message).as_deref(), Ok(expected), "{message:x?}");
        };
        check(b"", &[]);
        check(b"\x08\x96\x01", &[(1, Value::Varint(150))]);
        check(b"\x11\x01\0\0\0\0\0\0\x80", &[(2, Value::Fixed64(0x8000_0000_0000_0001))]);
        check(b"\x12\x02hi\x1a\0", &[(2, Value::Bytes(b"hi")), (3, Value::Bytes(b""))]);
        check(b"\x25\x01\0\0\0", &[(4, Value::Fixed32(1))]);
        check(b"\x0b\x10\x01\x0c\x10\x02", &[(1, Value::Group), (2, Value::Varint(2))]);
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        let many = [0x80; 11];
        for message in [
            &b"\x00\x01"[..],
            b"\x08",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x12\x03hi",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x11\0\0\0",
            b"\x0b\x10\x01",
            b"\x0c",
            b"\x0e",
            b"\x0f",
            &many,
        ] {
            assert_eq!(read(message), Err(Malformed), "{message:x?}");
        }
        let deep: Vec<u8> = std::iter::repeat_n(0x0b, 1 << 20).collect();
        assert_eq!(read(&deep), Err(Malformed));
    }

    proptest! {
        #[test]
        fn a_varint_is_the_same_in_one_piece_and_byte_by_byte(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut partial = PartialVarint::default();
            let pushed = bytes.iter().find_map(|&byte| partial.push(byte).transpose());
            let whole = decode_varint(&mut &*bytes).map_err(Malformed::from);
            prop_assert_eq!(pushed.unwrap_or(Err(Malformed)), whole);
        }

        #[test]
        fn a_written_varint_is_read_back(number in any::<u64>()) {
            let mut bytes = vec![0x08];
            encode_varint(number, &mut bytes);
            prop_assert_eq!(read(&bytes), Ok(vec![(1, Value::Varint(number))]));
        }
    }
}
