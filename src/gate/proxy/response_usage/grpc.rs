//! The outermost fields of gRPC messages, byte by byte.

use super::{LIMIT, ModelInfo, UsageField};

/// Messages of one method whose outermost fields are looked at.
#[derive(Debug)]
pub(crate) struct Fields {
    tags: &'static [(u64, UsageField)],
    /// Bytes of the message that are still to come.
    left: usize,
    place: Place,
    pub(super) info: ModelInfo,
}

#[derive(Debug)]
enum Place {
    /// So many bytes of a frame's prefix.
    Prefix(Vec<u8>),
    Key(Varint),
    /// The value of a field that is a number.
    Number,
    /// The length of a field's value.
    Length(u64, Varint),
    /// So many bytes that are of no interest.
    Skip(usize),
    Text(UsageField, usize, Vec<u8>),
    /// What is left of a message that is compressed, or none that can be read.
    Pass,
}

#[derive(Clone, Copy, Debug, Default)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    /// The whole number, once its last byte is here; an error where there is none.
    fn push(&mut self, byte: u8) -> Result<Option<u64>, ()> {
        if self.shift > 63 {
            return Err(());
        }
        self.value |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        Ok((byte < 0x80).then_some(self.value))
    }
}

impl Fields {
    /// Those of the method that this action is; `None` where its answers do not say who info.
    pub(super) fn of(action: &str) -> Option<Self> {
        let tags: &[_] = match action {
            "PredictionService.Predict" => {
                &[(2, UsageField::DeployedModel), (3, UsageField::Model), (5, UsageField::Version)]
            }
            "PredictionService.Explain" => &[(2, UsageField::DeployedModel)],
            "PredictionService.GenerateContent" | "PredictionService.StreamGenerateContent" => {
                &[(4, UsageField::Usage), (11, UsageField::Version)]
            }
            _ => return None,
        };
        Some(Self { tags, left: 0, place: Place::Prefix(Vec::new()), info: ModelInfo::default() })
    }

    pub(super) fn read(&mut self, mut data: &[u8]) {
        while let Some((&byte, rest)) = data.split_first() {
            // what is of no interest is passed over at once
            let passed = match &self.place {
                Place::Skip(length) => (*length).min(data.len()).min(self.left),
                Place::Pass => self.left.min(data.len()),
                _ => 0,
            };
            if passed > 0 {
                data = data.get(passed..).unwrap_or_default();
                self.left -= passed;
                match &mut self.place {
                    Place::Skip(length) if *length > passed => *length -= passed,
                    Place::Skip(_) => self.place = Place::Key(Varint::default()),
                    _ => {}
                }
            } else {
                data = rest;
                self.push(byte);
            }
            if self.left == 0 && !matches!(self.place, Place::Prefix(_)) {
                self.place = Place::Prefix(Vec::new());
            }
        }
    }

    fn push(&mut self, byte: u8) {
        if let Place::Prefix(prefix) = &mut self.place {
            prefix.push(byte);
            if let &[flag, a, b, c, d] = prefix.as_slice() {
                self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                self.place = if flag == 0 { Place::Key(Varint::default()) } else { Place::Pass };
            }
            return;
        }
        self.left = self.left.saturating_sub(1);
        let place = std::mem::replace(&mut self.place, Place::Pass);
        self.place = match place {
            Place::Key(mut key) => match key.push(byte) {
                Ok(None) => Place::Key(key),
                Ok(Some(key)) => field(key),
                Err(()) => Place::Pass,
            },
            Place::Number if byte < 0x80 => Place::Key(Varint::default()),
            Place::Number => Place::Number,
            Place::Length(tag, mut length) => match length.push(byte) {
                Ok(None) => Place::Length(tag, length),
                Ok(Some(length)) => self.value(tag, length),
                Err(()) => Place::Pass,
            },
            Place::Text(said, length, mut text) => {
                text.push(byte);
                if text.len() < length {
                    Place::Text(said, length, text)
                } else {
                    if said == UsageField::Usage {
                        self.info.tokens = total(&text).or(self.info.tokens);
                    } else if let Ok(text) = String::from_utf8(text) {
                        self.info.keep(said, text);
                    }
                    Place::Key(Varint::default())
                }
            }
            Place::Skip(_) | Place::Pass | Place::Prefix(_) => Place::Pass,
        };
    }

    /// What follows the length of a field's value.
    fn value(&self, tag: u64, length: u64) -> Place {
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= self.left) else {
            return Place::Pass;
        };
        let said = self.tags.iter().find(|(wanted, _)| *wanted == tag).map(|(_, said)| *said);
        match said {
            _ if length == 0 => Place::Key(Varint::default()),
            Some(said) if length <= LIMIT => Place::Text(said, length, Vec::with_capacity(length)),
            _ => Place::Skip(length),
        }
    }
}

/// `total_token_count` of a UsageMetadata.
fn total(usage: &[u8]) -> Option<u64> {
    const TOTAL: u64 = 3 << 3;
    let (mut bytes, mut total) = (usage.iter(), None);
    let number = |bytes: &mut std::slice::Iter<'_, u8>| {
        let mut number = Varint::default();
        loop {
            match number.push(*bytes.next()?) {
                Ok(Some(number)) => return Some(number),
                Ok(None) => {}
                Err(()) => return None,
            }
        }
    };
    while !bytes.as_slice().is_empty() {
        let key = number(&mut bytes)?;
        match key & 7 {
            0 => {
                let value = number(&mut bytes)?;
                total = if key == TOTAL { Some(value) } else { total };
            }
            2 => {
                let length = usize::try_from(number(&mut bytes)?).ok()?;
                bytes = bytes.as_slice().get(length..)?.iter();
            }
            _ => return None,
        }
    }
    total
}

/// What follows a field's key. Groups are of proto2; nothing of Google's answers has them.
fn field(key: u64) -> Place {
    match key & 7 {
        0 => Place::Number,
        1 => Place::Skip(8),
        2 => Place::Length(key >> 3, Varint::default()),
        5 => Place::Skip(4),
        _ => Place::Pass,
    }
}
