//! The outermost members of JSON texts, byte by byte.

use super::{LIMIT, ModelInfo, UsageField};

/// A JSON text whose outermost object, or the objects of whose outermost array, are looked at.
#[derive(Debug, Default)]
pub(crate) struct JsonReader {
    /// How many objects and arrays are open.
    depth: usize,
    /// The depth at which members are looked at: 1 in an object, 2 in an array of them; 0 until the text begins.
    level: usize,
    /// Whether an object is what is open at that depth.
    object: bool,
    place: Place,
    /// Where in `usageMetadata` it is, at the depth below.
    usage: Usage,
    string: Option<Text>,
    pub(super) info: ModelInfo,
}

/// Where in a member the reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Key,
    /// Behind the key: what its value says, if that is of interest.
    Value(Option<UsageField>),
}

/// Where in an object of usage the reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Usage {
    #[default]
    Outside,
    Key,
    /// In the value of `totalTokenCount`, with its digits so far.
    Total(Option<u64>),
    Other,
}

/// A string that is open.
#[derive(Debug, Default)]
struct Text {
    /// Its bytes as they stand, where they are of interest.
    kept: Option<Vec<u8>>,
    escaped: bool,
}

impl JsonReader {
    pub(super) fn read(&mut self, data: &[u8]) {
        for &byte in data {
            match self.string.as_mut() {
                Some(string) => {
                    if string.ends_with(byte) {
                        self.end_string();
                    }
                }
                None => self.structure(byte),
            }
        }
    }

    /// Begins another text.
    fn restart(&mut self) {
        *self = Self { info: std::mem::take(&mut self.info), ..Self::default() };
    }

    fn here(&self) -> bool {
        self.object && self.depth == self.level
    }

    fn in_usage(&self) -> bool {
        self.usage != Usage::Outside && self.depth == self.level + 1
    }

    fn structure(&mut self, byte: u8) {
        if self.in_usage() {
            self.count(byte);
        }
        match byte {
            b'"' => {
                let key = self.in_usage() && self.usage == Usage::Key;
                let kept = (key || self.here() && self.place != Place::Value(None)).then(Vec::new);
                self.string = Some(Text { kept, escaped: false });
            }
            b'{' | b'[' => {
                if self.level == 0 {
                    self.level = if byte == b'{' { 1 } else { 2 };
                }
                if byte == b'{' && self.here() && self.place == Place::Value(Some(UsageField::Usage)) {
                    self.usage = Usage::Key;
                }
                self.depth += 1;
                if self.depth == self.level {
                    self.object = byte == b'{';
                    self.place = Place::Key;
                }
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b',' if self.here() => self.place = Place::Key,
            _ => {}
        }
    }

    /// Reads the total, digit by digit.
    fn count(&mut self, byte: u8) {
        let digit = char::from(byte).to_digit(10).map(u64::from);
        self.usage = match (self.usage, byte, digit) {
            (Usage::Total(None), b':' | b' ' | b'\t' | b'\r' | b'\n', _) => Usage::Total(None),
            (Usage::Total(read), _, Some(digit)) => {
                let longer = read.unwrap_or_default().checked_mul(10).and_then(|read| read.checked_add(digit));
                longer.map_or(Usage::Other, |longer| Usage::Total(Some(longer)))
            }
            (Usage::Total(Some(total)), b',' | b'}' | b' ' | b'\t' | b'\r' | b'\n', _) => {
                self.info.tokens = Some(total);
                if byte == b',' { Usage::Key } else { Usage::Other }
            }
            (Usage::Key, _, _) => Usage::Key,
            (_, b',', _) => Usage::Key,
            _ => Usage::Other,
        };
        if byte == b'}' {
            self.usage = Usage::Outside;
        }
    }

    fn end_string(&mut self) {
        let Some(kept) = self.string.take().and_then(|string| string.kept) else { return };
        if self.in_usage() {
            self.usage = if kept == b"totalTokenCount" { Usage::Total(None) } else { Usage::Other };
            return;
        }
        if !self.here() {
            return;
        }
        match self.place {
            Place::Key => self.place = Place::Value(said(&kept)),
            Place::Value(said) => {
                let quoted = [b"\"", &*kept, b"\""].concat();
                if let (Some(said), Ok(text)) = (said, serde_json::from_slice(&quoted)) {
                    self.info.keep(said, text);
                }
                self.place = Place::Value(None);
            }
        }
    }
}

fn said(key: &[u8]) -> Option<UsageField> {
    match key {
        b"model" => Some(UsageField::Model),
        b"deployedModelId" => Some(UsageField::DeployedModel),
        b"modelVersionId" | b"modelVersion" => Some(UsageField::Version),
        b"usageMetadata" => Some(UsageField::Usage),
        _ => None,
    }
}

impl Text {
    /// Whether this byte ends the string.
    fn ends_with(&mut self, byte: u8) -> bool {
        if !self.escaped && byte == b'"' {
            return true;
        }
        self.escaped = !self.escaped && byte == b'\\';
        if let Some(kept) = &mut self.kept {
            kept.push(byte);
            // what is that long is no name
            if kept.len() > LIMIT {
                self.kept = None;
            }
        }
        false
    }
}

/// Server-sent events (HTML section 9.2.6); their data is JSON.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Line,
    pub(super) members: JsonReader,
}

#[derive(Debug, Default)]
enum Line {
    /// So many bytes of `data:` have been seen.
    #[default]
    Start,
    Prefix(usize),
    Data,
    Other,
}

const DATA: &[u8] = b"data:";

impl Events {
    pub(super) fn read(&mut self, data: &[u8]) {
        for &byte in data {
            self.line = match (&self.line, byte) {
                // an empty line ends the event
                (Line::Start, b'\n') => {
                    self.members.restart();
                    Line::Start
                }
                (Line::Start, b'\r') => Line::Start,
                (_, b'\n') => Line::Start,
                (Line::Start, _) if DATA.first() == Some(&byte) => Line::Prefix(1),
                (Line::Prefix(seen), _) if DATA.get(*seen) == Some(&byte) => {
                    if *seen + 1 == DATA.len() {
                        Line::Data
                    } else {
                        Line::Prefix(*seen + 1)
                    }
                }
                (Line::Data, _) => {
                    self.members.read(&[byte]);
                    Line::Data
                }
                _ => Line::Other,
            };
        }
    }
}
