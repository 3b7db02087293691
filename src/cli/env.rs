//! Environment variables that the commands read.

/// The value of a variable such as `HOME`, `XDG_STATE_HOME` or `DISPLAY`. `None` if it is unset or empty.
#[allow(clippy::disallowed_methods, reason = "these commands have no configuration file; the variables are standards")]
pub(super) fn env_var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
