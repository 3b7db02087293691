//! Push reader for the outermost members of a JSON text.
//!
//! Promises: it takes the text in chunks of any size and buffers one string of at most [`MAX_VALUE`] bytes.

use super::model_info::{MAX_VALUE, ModelInfo, UsageField};

/// Reads the members of the outermost object, or of the objects in an outermost array.
#[derive(Debug, Default)]
pub(in crate::gate::proxy) struct JsonReader {
    /// Number of open objects and arrays.
    depth: usize,
    /// The depth whose members are read: 1 in an object, 2 in an array of objects; 0 until the text begins.
    level: usize,
    /// Whether the value that is open at that depth is an object.
    object: bool,
    position: JsonPosition,
    /// The position in `usageMetadata`, one depth below.
    usage: UsagePosition,
    /// The open string.
    string: Option<OpenString>,
    pub(super) info: ModelInfo,
}

/// The reader's position in a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum JsonPosition {
    #[default]
    Key,
    /// After the key: the field that the value is, if it is read.
    Value(Option<UsageField>),
}

/// The reader's position in a `usageMetadata` object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum UsagePosition {
    #[default]
    Outside,
    Key,
    /// In the value of `totalTokenCount`, with the number read so far.
    Total(Option<u64>),
    Other,
}

/// A string whose end has not arrived.
#[derive(Debug, Default)]
struct OpenString {
    /// Its bytes with their escapes; `None` if they are not read.
    bytes: Option<Vec<u8>>,
    escaped: bool,
}

impl JsonReader {
    pub(super) fn read(&mut self, data: &[u8]) {
        for &byte in data {
            match self.string.as_mut() {
                Some(string) => {
                    if string.push(byte) {
                        self.end_string();
                    }
                }
                None => self.structure(byte),
            }
        }
    }

    /// Starts a new text.
    pub(super) fn restart(&mut self) {
        *self = Self { info: std::mem::take(&mut self.info), ..Self::default() };
    }

    fn at_member(&self) -> bool {
        self.object && self.depth == self.level
    }

    fn in_usage(&self) -> bool {
        self.usage != UsagePosition::Outside && self.depth == self.level + 1
    }

    fn structure(&mut self, byte: u8) {
        if self.in_usage() {
            self.read_total(byte);
        }
        match byte {
            b'"' => {
                let key = self.in_usage() && self.usage == UsagePosition::Key;
                let bytes = (key || self.at_member() && self.position != JsonPosition::Value(None)).then(Vec::new);
                self.string = Some(OpenString { bytes, escaped: false });
            }
            b'{' | b'[' => {
                if self.level == 0 {
                    self.level = if byte == b'{' { 1 } else { 2 };
                }
                if byte == b'{' && self.at_member() && self.position == JsonPosition::Value(Some(UsageField::Usage)) {
                    self.usage = UsagePosition::Key;
                }
                self.depth += 1;
                if self.depth == self.level {
                    self.object = byte == b'{';
                    self.position = JsonPosition::Key;
                }
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b',' if self.at_member() => self.position = JsonPosition::Key,
            _ => {}
        }
    }

    /// Reads `totalTokenCount` digit by digit.
    fn read_total(&mut self, byte: u8) {
        let digit = char::from(byte).to_digit(10).map(u64::from);
        self.usage = match (self.usage, byte, digit) {
            (UsagePosition::Total(None), b':' | b' ' | b'\t' | b'\r' | b'\n', _) => UsagePosition::Total(None),
            (UsagePosition::Total(read), _, Some(digit)) => {
                let longer = read.unwrap_or_default().checked_mul(10).and_then(|read| read.checked_add(digit));
                longer.map_or(UsagePosition::Other, |longer| UsagePosition::Total(Some(longer)))
            }
            (UsagePosition::Total(Some(total)), b',' | b'}' | b' ' | b'\t' | b'\r' | b'\n', _) => {
                self.info.tokens = Some(total);
                if byte == b',' { UsagePosition::Key } else { UsagePosition::Other }
            }
            (UsagePosition::Key, _, _) => UsagePosition::Key,
            (_, b',', _) => UsagePosition::Key,
            _ => UsagePosition::Other,
        };
        if byte == b'}' {
            self.usage = UsagePosition::Outside;
        }
    }

    fn end_string(&mut self) {
        let Some(bytes) = self.string.take().and_then(|string| string.bytes) else { return };
        if self.in_usage() {
            self.usage = if bytes == b"totalTokenCount" { UsagePosition::Total(None) } else { UsagePosition::Other };
            return;
        }
        if !self.at_member() {
            return;
        }
        match self.position {
            JsonPosition::Key => self.position = JsonPosition::Value(usage_field(&bytes)),
            JsonPosition::Value(field) => {
                let quoted = [b"\"", &*bytes, b"\""].concat();
                if let (Some(field), Ok(text)) = (field, serde_json::from_slice(&quoted)) {
                    self.info.set(field, text);
                }
                self.position = JsonPosition::Value(None);
            }
        }
    }
}

fn usage_field(key: &[u8]) -> Option<UsageField> {
    match key {
        b"model" => Some(UsageField::Model),
        b"deployedModelId" => Some(UsageField::DeployedModel),
        b"modelVersionId" | b"modelVersion" => Some(UsageField::Version),
        b"usageMetadata" => Some(UsageField::Usage),
        _ => None,
    }
}

impl OpenString {
    /// Takes the next byte. Returns whether it ends the string.
    fn push(&mut self, byte: u8) -> bool {
        if !self.escaped && byte == b'"' {
            return true;
        }
        self.escaped = !self.escaped && byte == b'\\';
        if let Some(bytes) = &mut self.bytes {
            bytes.push(byte);
            // a longer string is not a name
            if bytes.len() > MAX_VALUE {
                self.bytes = None;
            }
        }
        false
    }
}
