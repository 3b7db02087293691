//! Push reader for server-sent events (HTML section 9.2.6) whose data is JSON.

use super::json::JsonReader;

/// Reads the JSON text in the data of each event.
#[derive(Debug, Default)]
pub(in crate::gate::proxy) struct EventReader {
    line: SseLine,
    pub(super) members: JsonReader,
}

#[derive(Debug, Default)]
enum SseLine {
    /// At the start of a line.
    #[default]
    Start,
    /// After this many bytes of `data:`.
    Prefix(usize),
    Data,
    Other,
}

const DATA: &[u8] = b"data:";

impl EventReader {
    pub(super) fn read(&mut self, data: &[u8]) {
        for &byte in data {
            self.line = match (&self.line, byte) {
                // an empty line ends the event
                (SseLine::Start, b'\n') => {
                    self.members.restart();
                    SseLine::Start
                }
                (SseLine::Start, b'\r') => SseLine::Start,
                (_, b'\n') => SseLine::Start,
                (SseLine::Start, _) if DATA.first() == Some(&byte) => SseLine::Prefix(1),
                (SseLine::Prefix(seen), _) if DATA.get(*seen) == Some(&byte) => {
                    if *seen + 1 == DATA.len() {
                        SseLine::Data
                    } else {
                        SseLine::Prefix(*seen + 1)
                    }
                }
                (SseLine::Data, _) => {
                    self.members.read(&[byte]);
                    SseLine::Data
                }
                _ => SseLine::Other,
            };
        }
    }
}
