//! `wicketgate check`: reports every problem and warning of a configuration.

use std::{path::Path, process::ExitCode};

use super::output::{USAGE_ERROR, print_error, print_line};
use crate::{client::Clients, config};

pub(super) fn check(file: &Path) -> ExitCode {
    match config::load(file, &Clients::default()) {
        Ok(config) => {
            config.warnings.iter().for_each(|warning| print_error(&format!("warning: {warning}")));
            print_line(&format!(
                "{}: valid: {} listeners, {} issuers, {} exporters, {}",
                file.display(),
                config.listeners.len(),
                config.issuers.len(),
                config.exporters.len(),
                if config.vertex.is_some() { "with Vertex" } else { "without Vertex" },
            ));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            print_error(&problems.to_string());
            ExitCode::from(USAGE_ERROR)
        }
    }
}
