//! Push reader for the outermost fields of gRPC messages.
//!
//! Promises: it takes the stream in chunks of any size and buffers one field of at most [`MAX_VALUE`] bytes.

use super::model_info::{MAX_VALUE, ModelInfo, UsageField};
use crate::{
    http::{FRAME_PREFIX, frame_prefix},
    protobuf::{Fields, Malformed, PartialVarint, Value},
};

/// Reads fields of the messages of one method.
#[derive(Debug)]
pub(in crate::gate::proxy) struct GrpcReader {
    tags: &'static [(u64, UsageField)],
    /// Bytes of the message that have not arrived.
    left: usize,
    position: FramePosition,
    pub(super) info: ModelInfo,
}

#[derive(Debug)]
enum FramePosition {
    /// These bytes of a frame's prefix.
    Prefix(Vec<u8>),
    Key(PartialVarint),
    /// In the value of a varint field.
    Number,
    /// In the length of the value of this field.
    Length(u64, PartialVarint),
    /// This many bytes are skipped.
    Skip(usize),
    Text(UsageField, usize, Vec<u8>),
    /// The rest of a message that is compressed or malformed.
    Pass,
}

impl GrpcReader {
    /// The reader for this action's method; `None` if its responses do not name the model.
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
        Some(Self { tags, left: 0, position: FramePosition::Prefix(Vec::new()), info: ModelInfo::default() })
    }

    pub(super) fn read(&mut self, mut data: &[u8]) {
        while let Some((&byte, rest)) = data.split_first() {
            // skipped bytes are passed over at once
            let passed = match &self.position {
                FramePosition::Skip(length) => (*length).min(data.len()).min(self.left),
                FramePosition::Pass => self.left.min(data.len()),
                _ => 0,
            };
            if passed > 0 {
                data = data.get(passed..).unwrap_or_default();
                self.left -= passed;
                match &mut self.position {
                    FramePosition::Skip(length) if *length > passed => *length -= passed,
                    FramePosition::Skip(_) => self.position = FramePosition::Key(PartialVarint::default()),
                    _ => {}
                }
            } else {
                data = rest;
                self.push(byte);
            }
            if self.left == 0 && !matches!(self.position, FramePosition::Prefix(_)) {
                self.position = FramePosition::Prefix(Vec::new());
            }
        }
    }

    fn push(&mut self, byte: u8) {
        if let FramePosition::Prefix(prefix) = &mut self.position {
            prefix.push(byte);
            if let Some((prefix, [])) = prefix.split_first_chunk::<FRAME_PREFIX>() {
                let (flag, length) = frame_prefix(*prefix);
                self.left = length;
                self.position =
                    if flag == 0 { FramePosition::Key(PartialVarint::default()) } else { FramePosition::Pass };
            }
            return;
        }
        self.left = self.left.saturating_sub(1);
        let position = std::mem::replace(&mut self.position, FramePosition::Pass);
        self.position = match position {
            FramePosition::Key(mut key) => match key.push(byte) {
                Ok(None) => FramePosition::Key(key),
                Ok(Some(key)) => after_key(key),
                Err(Malformed) => FramePosition::Pass,
            },
            FramePosition::Number if byte < 0x80 => FramePosition::Key(PartialVarint::default()),
            FramePosition::Number => FramePosition::Number,
            FramePosition::Length(tag, mut length) => match length.push(byte) {
                Ok(None) => FramePosition::Length(tag, length),
                Ok(Some(length)) => self.value(tag, length),
                Err(Malformed) => FramePosition::Pass,
            },
            FramePosition::Text(field, length, mut text) => {
                text.push(byte);
                if text.len() < length {
                    FramePosition::Text(field, length, text)
                } else {
                    if field == UsageField::Usage {
                        self.info.tokens = total(&text).or(self.info.tokens);
                    } else if let Ok(text) = String::from_utf8(text) {
                        self.info.set(field, text);
                    }
                    FramePosition::Key(PartialVarint::default())
                }
            }
            FramePosition::Skip(_) | FramePosition::Pass | FramePosition::Prefix(_) => FramePosition::Pass,
        };
    }

    /// The position after the length of a value.
    fn value(&self, tag: u64, length: u64) -> FramePosition {
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= self.left) else {
            return FramePosition::Pass;
        };
        let field = self.tags.iter().find(|(known, _)| *known == tag).map(|(_, field)| *field);
        match field {
            _ if length == 0 => FramePosition::Key(PartialVarint::default()),
            Some(field) if length <= MAX_VALUE => FramePosition::Text(field, length, Vec::with_capacity(length)),
            _ => FramePosition::Skip(length),
        }
    }
}

/// `total_token_count` (field 3) of a UsageMetadata; `None` if it is absent or the message is malformed.
fn total(usage: &[u8]) -> Option<u64> {
    let mut total = None;
    for field in Fields::new(usage) {
        if let (3, Value::Varint(tokens)) = field.ok()? {
            total = Some(tokens);
        }
    }
    total
}

/// The position after a field's key. Groups are proto2; Google's responses have none.
fn after_key(key: u64) -> FramePosition {
    match key & 7 {
        0 => FramePosition::Number,
        1 => FramePosition::Skip(8),
        2 => FramePosition::Length(key >> 3, PartialVarint::default()),
        5 => FramePosition::Skip(4),
        _ => FramePosition::Pass,
    }
}
