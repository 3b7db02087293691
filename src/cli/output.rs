//! Standard output and standard error of the commands.

use std::io::Write as _;

/// The exit code for wrong usage or a wrong configuration.
pub(super) const USAGE_ERROR: u8 = 2;

/// Prints a line. A closed pipe is no error: `head` closes it when it has read enough.
pub(super) fn print_line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line on standard error.
pub(super) fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
