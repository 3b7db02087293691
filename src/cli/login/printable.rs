//! Remote text made safe for a terminal.

/// Longest text, in characters.
const MAX_LENGTH: usize = 2000;

/// `text` without control characters, and bounded.
#[must_use]
pub(in crate::cli) fn printable(text: &str) -> String {
    // invisible formatting characters reorder or hide the text beside them (Unicode bidirectional controls)
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().filter(|c| !hidden(*c)).take(MAX_LENGTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_text_cannot_control_the_terminal() {
        for (text, expected) in [
            ("BCDF-GHJK", "BCDF-GHJK"),
            ("\x1b[2Jgone\r\n", "[2Jgone"),
            ("\u{9b}31m", "31m"),
            ("a\u{202e}b\u{2066}c\u{feff}", "abc"),
            ("zugänglich", "zugänglich"),
        ] {
            assert_eq!(printable(text), expected, "{text:?}");
        }
        assert_eq!(printable(&"x".repeat(10_000)).len(), MAX_LENGTH);
    }
}
