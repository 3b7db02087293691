//! `wicketgate check`.

use std::{path::Path, process::ExitCode};

use super::output::{USAGE_ERROR, print_error, print_line};
use crate::{client::Clients, config};

pub(super) fn check(file: &Path) -> ExitCode {
    match config::load(file, &Clients::default()) {
        Ok(config) => {
            config.warnings.iter().for_each(|warning| print_error(&format!("warning: {warning}")));
            print_line(&format!(
                "{}: good: {} listeners, {} issuers, {} exporters, Vertex {}",
                file.display(),
                config.listeners.len(),
                config.issuers.len(),
                config.exporters.len(),
                if config.vertex.is_some() { "fronted" } else { "not fronted" },
            ));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            print_error(&problems.to_string());
            ExitCode::from(USAGE_ERROR)
        }
    }
}
